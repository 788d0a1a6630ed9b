//! From URLs to folders and from digests to files.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use busbar_protocol::pointers::Sha256Hex;

use crate::BlobError;

const FILE: &str = "file://";

/// The URL of a store in this folder, which should be absolute.
#[must_use]
pub fn url_of(folder: &Path) -> String {
    let mut url = FILE.to_owned();
    for byte in folder.as_os_str().as_encoded_bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"/-._~:@!$&'()*+,;=".contains(byte);
        if plain {
            url.push(char::from(*byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(url, "%{byte:02X}");
        }
    }
    url
}

pub(crate) fn folder_of(url: &str) -> Result<PathBuf, BlobError> {
    let invalid = |reason| BlobError::UrlInvalid { url: url.to_owned(), reason };
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err(invalid("expected file:///dir"));
    };
    if scheme != "file" {
        return Err(BlobError::SchemeUnsupported { scheme: scheme.to_owned() });
    }
    let path = rest.strip_prefix("localhost").unwrap_or(rest);
    if !path.starts_with('/') {
        return Err(invalid("the path must be absolute and on this machine: file:///dir"));
    }
    let decoded =
        decode(path).ok_or_else(|| invalid("a % must be followed by two hexadecimal digits, and the path must be text"))?;
    if decoded.contains('\0') {
        return Err(invalid("a path has no zero byte"));
    }
    Ok(PathBuf::from(decoded))
}

fn decode(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next()?, rest.next()?];
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
    }
    String::from_utf8(bytes).ok()
}

/// Where unfinished blobs lie: beside the finished ones, so that a rename moves no bytes.
pub(crate) fn unfinished(root: &Path) -> PathBuf {
    root.join("tmp")
}

/// The first two digits are a folder of their own: 256 folders keep each small.
pub(crate) fn path_of(root: &Path, sha256: &Sha256Hex) -> PathBuf {
    let (shard, name) = sha256.as_str().split_at(2);
    names(root).join(shard).join(name)
}

/// Where the folders of finished blobs are.
pub(crate) fn names(root: &Path) -> PathBuf {
    root.join("sha256")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_folders_are_read_back() {
        for folder in ["/var/lib/busbar", "/a b/100%/ü#?", "/x:y@z"] {
            let url = url_of(Path::new(folder));
            assert_eq!(folder_of(&url).expect("our own form"), Path::new(folder), "{url}");
        }
        assert_eq!(url_of(Path::new("/a b")), "file:///a%20b");
        assert_eq!(folder_of("file://localhost/dir").expect("this machine"), Path::new("/dir"));
    }

    #[test]
    fn other_urls_are_refused_with_the_reason() {
        for url in ["", "/dir", "file://dir", "file://host/dir", "file:///a%2", "file:///a%zz", "file:///a%00"] {
            assert!(matches!(folder_of(url), Err(BlobError::UrlInvalid { .. })), "{url}");
        }
        let Err(BlobError::SchemeUnsupported { scheme }) = folder_of("s3://bucket/prefix") else { panic!("unsupported") };
        assert_eq!(scheme, "s3");
    }

    #[test]
    fn a_blob_lies_under_its_digest() {
        let path = path_of(Path::new("/r"), &Sha256Hex::of(b"abc"));
        assert_eq!(path, Path::new("/r/sha256/ba/7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"));
    }
}
