//! Reading, with the hash as a witness.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use busbar_protocol::pointers::Sha256Hex;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, ReadBuf};

use crate::BlobError;

const CHUNK_BYTES: usize = 256 * 1024;

/// The file of a blob and its size.
pub(crate) fn open(path: &Path, sha256: Sha256Hex) -> Result<(File, u64), BlobError> {
    let disk = |source| BlobError::disk("open", path, source);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(BlobError::Missing { sha256 }),
        Err(error) => return Err(disk(error)),
    };
    let size_bytes = file.metadata().map_err(disk)?.len();
    Ok((file, size_bytes))
}

/// The whole content, if it is the blob's.
pub(crate) fn whole(file: File, size_bytes: u64, path: &Path, sha256: &Sha256Hex) -> Result<Bytes, BlobError> {
    let mut bytes = Vec::with_capacity(usize::try_from(size_bytes).unwrap_or_default());
    // A file that grows while it is read is damaged anyhow: one byte more is enough to see it.
    file.take(size_bytes + 1).read_to_end(&mut bytes).map_err(|source| BlobError::disk("read", path, source))?;
    if Sha256Hex::of(&bytes) != *sha256 {
        return Err(BlobError::Corrupt { sha256: sha256.clone() });
    }
    Ok(bytes.into())
}

/// Reads the file to its end and compares.
pub(crate) fn verify(mut file: File, path: &Path, sha256: &Sha256Hex) -> Result<(), BlobError> {
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let read = file.read(&mut chunk).map_err(|source| BlobError::disk("read", path, source))?;
        if read == 0 {
            break;
        }
        hash.update(&chunk[..read]);
    }
    if Sha256Hex::from_bytes(&hash.finalize()) != *sha256 {
        return Err(BlobError::Corrupt { sha256: sha256.clone() });
    }
    Ok(())
}

/// A blob, read piece by piece. The end comes only after the hash was right; otherwise an error of kind `InvalidData` does.
#[derive(Debug)]
pub struct BlobReader {
    file: tokio::fs::File,
    sha256: Sha256Hex,
    size_bytes: u64,
    hash: Sha256,
}

impl BlobReader {
    pub(crate) fn new(file: tokio::fs::File, sha256: Sha256Hex, size_bytes: u64) -> Self {
        Self { file, sha256, size_bytes, hash: Sha256::new() }
    }

    /// The size of the file when it was opened, in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
}

impl AsyncRead for BlobReader {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let had_room = buffer.remaining() > 0;
        ready!(Pin::new(&mut self.file).poll_read(context, buffer))?;
        let read = &buffer.filled()[before..];
        if !read.is_empty() {
            self.hash.update(read);
        } else if had_room && Sha256Hex::from_bytes(&self.hash.clone().finalize()) != self.sha256 {
            let damaged = BlobError::Corrupt { sha256: self.sha256.clone() };
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, damaged)));
        }
        Poll::Ready(Ok(()))
    }
}
