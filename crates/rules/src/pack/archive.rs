//! Archives: a pack as one `.tgz`. Whatever comes is foreign: nothing is written anywhere, and every size is bounded before it
//! is believed.

use std::cell::Cell;
use std::io::{self, Read};

use flate2::bufread::GzDecoder;
use flate2::{Compression, GzBuilder};
use tar::{Archive, Entry, EntryType, Header};

use super::names::check_file;
use super::{Broken, Files};

/// The largest archive, in bytes.
pub const UPLOAD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The largest archive once it is decompressed, in bytes: files, padding and headers.
const UNPACKED_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// The largest file, in bytes.
const FILE_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// The most entries.
const ENTRIES_MAX: usize = 2048;
/// How many times its size an archive may decompress to; real ones stay far below.
const RATIO_MAX: u64 = 200;
/// So much may come out of even the smallest archive: empty space between files packs very well.
const RATIO_FREE_BYTES: u64 = 4 * 1024 * 1024;

/// Packs files. Names are sorted; there are no times, owners or permissions of this machine: equal files give equal bytes.
#[must_use]
pub fn pack(files: &Files) -> Vec<u8> {
    let write = || -> io::Result<Vec<u8>> {
        let mut archive = tar::Builder::new(GzBuilder::new().mtime(0).write(Vec::new(), Compression::best()));
        for (name, content) in files {
            let mut header = Header::new_gnu();
            header.set_entry_type(EntryType::Regular);
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_mtime(0);
            archive.append_data(&mut header, name, content.as_slice())?;
        }
        archive.into_inner()?.finish()
    };
    write().expect("memory takes what is written, and checked names fit into headers")
}

/// Takes the files out of an archive.
///
/// # Errors
/// [`Broken`] names the entry and the rule that it breaks: only plain files and folders, names that stay inside, each once,
/// within all bounds, and nothing damaged, missing or left over.
pub fn unpack(archive: &[u8]) -> Result<Files, Broken> {
    if archive.len() > UPLOAD_BYTES_MAX {
        return Err(of_archive(format!("it has more than {UPLOAD_BYTES_MAX} bytes")));
    }
    let exceeded = Cell::new(false);
    let bound = UNPACKED_BYTES_MAX.min((archive.len() as u64 * RATIO_MAX).max(RATIO_FREE_BYTES));
    let mut gzip = GzDecoder::new(archive);
    let mut reader = Bounded { inner: &mut gzip, left: bound, exceeded: &exceeded };
    let read = files(&mut reader).and_then(|files| end(&mut reader).map(|()| files));
    let files = read.map_err(|unread| match unread {
        Unread::Broken(broken) => broken,
        Unread::Io(_) if exceeded.get() => of_archive(format!(
            "it decompresses to more than {bound} bytes; at most {UNPACKED_BYTES_MAX}, and {RATIO_MAX} times its own size, are taken"
        )),
        Unread::Io(error) => of_archive(format!("it is damaged, or no gzip-compressed tar: {error}")),
    })?;
    if !gzip.into_inner().is_empty() {
        return Err(of_archive("something follows its end"));
    }
    Ok(files)
}

fn of_archive(rule: impl Into<String>) -> Broken {
    Broken::new("the archive", rule)
}

/// Why reading ended.
enum Unread {
    Broken(Broken),
    Io(io::Error),
}

impl From<Broken> for Unread {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

impl From<io::Error> for Unread {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Ends with an error where more comes out than is taken.
struct Bounded<'a, R> {
    inner: R,
    left: u64,
    exceeded: &'a Cell<bool>,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        match self.left.checked_sub(read as u64) {
            Some(left) => {
                self.left = left;
                Ok(read)
            }
            None => {
                self.exceeded.set(true);
                Err(io::Error::from(io::ErrorKind::FileTooLarge))
            }
        }
    }
}

fn files(reader: &mut impl Read) -> Result<Files, Unread> {
    let mut files = Files::new();
    let mut archive = Archive::new(reader);
    for (count, entry) in archive.entries()?.enumerate() {
        if count >= ENTRIES_MAX {
            return Err(of_archive(format!("it has more than {ENTRIES_MAX} entries")).into());
        }
        let mut entry = entry?;
        let name = name(&entry)?;
        match entry.header().entry_type() {
            EntryType::Directory => check_folder(&name)?,
            EntryType::Regular => {
                let content = content(&name, &mut entry)?;
                if files.insert(name.clone(), content).is_some() {
                    return Err(Broken::new(name, "the name is there twice").into());
                }
            }
            other => return Err(Broken::new(name, format!("{}; only plain files are taken", kind(other))).into()),
        }
    }
    Ok(files)
}

/// Some tools put `./` before every name.
fn name<R: Read>(entry: &Entry<'_, R>) -> Result<String, Broken> {
    let bytes = entry.path_bytes();
    let shown = || bytes.escape_ascii().to_string().chars().take(80).collect::<String>();
    let name = std::str::from_utf8(&bytes).map_err(|_| Broken::new(shown(), "the name of a file is UTF-8"))?;
    Ok(name.strip_prefix("./").unwrap_or(name).to_owned())
}

/// Folders bring nothing, but a strange one says that the archive was not made for us.
fn check_folder(name: &str) -> Result<(), Broken> {
    let name = name.trim_end_matches('/');
    if matches!(name, "" | ".") { Ok(()) } else { checked(name) }
}

fn checked(name: &str) -> Result<(), Broken> {
    check_file(name).map_err(|rule| Broken::new(name.escape_debug().take(80).collect::<String>(), rule))
}

fn content<R: Read>(name: &str, entry: &mut Entry<'_, R>) -> Result<Vec<u8>, Unread> {
    checked(name)?;
    if entry.size() > FILE_BYTES_MAX {
        return Err(Broken::new(name, format!("a file has at most {FILE_BYTES_MAX} bytes")).into());
    }
    let mut content = Vec::new();
    let size = entry.size();
    entry.take(FILE_BYTES_MAX).read_to_end(&mut content)?;
    if content.len() as u64 != size {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(content)
}

fn kind(entry: EntryType) -> &'static str {
    match entry {
        EntryType::Link => "a hard link",
        EntryType::Symlink => "a symbolic link",
        EntryType::Char | EntryType::Block => "a device",
        EntryType::Fifo => "a pipe",
        _ => "an entry of a special kind",
    }
}

/// The archive ends with zeros; reading to the end also makes the decompressor compare its checksum.
fn end(reader: &mut impl Read) -> Result<(), Unread> {
    let mut chunk = [0; 8192];
    loop {
        match reader.read(&mut chunk)? {
            0 => return Ok(()),
            read if chunk[..read].iter().all(|byte| *byte == 0) => {}
            _ => return Err(of_archive("something follows the last file").into()),
        }
    }
}

#[cfg(test)]
mod tests;
