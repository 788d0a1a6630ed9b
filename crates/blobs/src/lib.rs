//! Content-addressed files: what is too big for a record is stored once, under its SHA-256.
//!
//! ```text
//!  put(reader) ──> tmp/put-x ──hash, bound──> fsync ──> rename ──> sha256/ab/cdef…       nothing is there, or all of it
//!  get, read, verified_path <────────────────hash checked───────── sha256/ab/cdef…       never bytes that are not the blob
//!  older_than ─> who collects ─> delete_older_than ──────────────> sha256/ab/cdef…       gone, unless it was stored again meanwhile
//! ```
//!
//! A cell has one store, named by `BLOBS_URL`. Today that is a folder (`file:///dir`), on this machine or mounted by all who use it;
//! any other scheme is refused when opened. The store is a handle: clone it. Everything that touches the disk runs on the blocking
//! threads of tokio.
//!
//! **Absent on purpose:** names and who uses what (records name blobs, never the other way), and rewriting: a blob is immutable, so
//! that storing it again can only repair it, and make it young.

mod age;
mod error;
mod location;
mod read;
mod verified;
mod write;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use busbar_protocol::pointers::Sha256Hex;
use bytes::Bytes;
use tokio::io::AsyncRead;

pub use error::BlobError;
pub use location::url_of;
pub use read::BlobReader;
use verified::Verified;

/// What a stored blob is called, and how large it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobRef {
    /// The SHA-256 of its content.
    pub sha256: Sha256Hex,
    /// Its size in bytes.
    pub size_bytes: u64,
}

/// A store of blobs.
#[derive(Clone, Debug)]
pub struct Blobs {
    root: Arc<Path>,
    verified: Arc<Verified>,
}

impl Blobs {
    /// Opens the store that the URL names, makes its folders if they are absent, and removes what interrupted writes left there more
    /// than an hour ago. Touches the disk; meant for the start of a process.
    ///
    /// # Errors
    /// [`BlobError::UrlInvalid`], [`BlobError::SchemeUnsupported`], or [`BlobError::Disk`].
    pub fn open(url: &str) -> Result<Self, BlobError> {
        let root = location::folder_of(url)?;
        write::prepare(&root)?;
        Ok(Self { root: root.into(), verified: Arc::new(Verified::default()) })
    }

    /// Stores everything that the reader yields, and returns what it is called once it is on the disk for good. If it is dropped,
    /// fails, or is killed before that, nothing is stored.
    ///
    /// # Errors
    /// [`BlobError::TooLarge`] above `size_bytes_max`, [`BlobError::Source`] when the reader fails, [`BlobError::Disk`] when the disk does.
    pub async fn put(&self, reader: impl AsyncRead + Send, size_bytes_max: u64) -> Result<BlobRef, BlobError> {
        write::put(Arc::clone(&self.root), reader, size_bytes_max).await
    }

    /// Stores these bytes, as [`put`](Self::put) does.
    ///
    /// # Errors
    /// [`BlobError::Disk`].
    pub async fn put_bytes(&self, bytes: Bytes) -> Result<BlobRef, BlobError> {
        let size_bytes = bytes.len() as u64;
        self.put(io::Cursor::new(bytes), size_bytes).await
    }

    /// A stream of the blob's bytes. At its end the hash is compared: if the file is not the blob any more, the last read is an
    /// error of kind [`InvalidData`](io::ErrorKind::InvalidData) instead of the end.
    ///
    /// # Errors
    /// [`BlobError::Missing`] or [`BlobError::Disk`].
    pub async fn get(&self, sha256: &Sha256Hex) -> Result<BlobReader, BlobError> {
        let (file, size_bytes) = self.open_file(sha256).await?;
        Ok(BlobReader::new(tokio::fs::File::from_std(file), sha256.clone(), size_bytes))
    }

    /// The whole blob, verified before anything is returned.
    ///
    /// # Errors
    /// [`BlobError::Missing`], [`BlobError::TooLarge`] above `size_bytes_max`, [`BlobError::Corrupt`], [`BlobError::Disk`].
    pub async fn read(&self, sha256: &Sha256Hex, size_bytes_max: u64) -> Result<Bytes, BlobError> {
        let (file, size_bytes) = self.open_file(sha256).await?;
        if size_bytes > size_bytes_max {
            return Err(BlobError::TooLarge { size_bytes_max });
        }
        let (path, sha256) = (self.path(sha256), sha256.clone());
        blocking(move || read::whole(file, size_bytes, &path, &sha256)).await
    }

    /// Where the blob lies on this machine, once its content has been verified. A file that has not changed since is not read again.
    ///
    /// # Errors
    /// [`BlobError::Missing`], [`BlobError::Corrupt`], [`BlobError::Disk`].
    pub async fn verified_path(&self, sha256: &Sha256Hex) -> Result<PathBuf, BlobError> {
        let (file, _) = self.open_file(sha256).await?;
        let (path, sha256, verified) = (self.path(sha256), sha256.clone(), Arc::clone(&self.verified));
        blocking(move || verified.check(file, &path, &sha256).map(|()| path)).await
    }

    /// The blob's size in bytes, or none if there is no such blob. Does not read it.
    ///
    /// # Errors
    /// [`BlobError::Disk`].
    pub async fn size_bytes(&self, sha256: &Sha256Hex) -> Result<Option<u64>, BlobError> {
        let path = self.path(sha256);
        blocking(move || match std::fs::metadata(&path) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(BlobError::disk("look at", &path, source)),
        })
        .await
    }

    /// Removes the blob; false if there was none. Who is reading it reads on.
    ///
    /// # Errors
    /// [`BlobError::Disk`].
    pub async fn delete(&self, sha256: &Sha256Hex) -> Result<bool, BlobError> {
        let path = self.path(sha256);
        blocking(move || match std::fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(BlobError::disk("remove", &path, source)),
        })
        .await
    }

    /// The blobs that nobody has stored for so long, in no order. What is stored meanwhile may be among them or not.
    ///
    /// # Errors
    /// [`BlobError::Disk`].
    pub async fn older_than(&self, age: Duration) -> Result<Vec<Sha256Hex>, BlobError> {
        let root = Arc::clone(&self.root);
        blocking(move || age::older_than(&root, age)).await
    }

    /// Removes the blob if nobody has stored it for so long; false if it stays, or is not there. A blob that is being stored at the same time is there
    /// afterwards, whoever comes first.
    ///
    /// # Errors
    /// [`BlobError::Disk`].
    pub async fn delete_older_than(&self, sha256: &Sha256Hex, age: Duration) -> Result<bool, BlobError> {
        let (root, sha256) = (Arc::clone(&self.root), sha256.clone());
        blocking(move || age::delete_older_than(&root, &sha256, age)).await
    }

    /// The folder of the store, for those who put files beside it so that linking to a blob costs no copy. What lies below
    /// `sha256` and `tmp` belongs to the store, and `door` does.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.root
    }

    fn path(&self, sha256: &Sha256Hex) -> PathBuf {
        location::path_of(&self.root, sha256)
    }

    async fn open_file(&self, sha256: &Sha256Hex) -> Result<(std::fs::File, u64), BlobError> {
        let (path, sha256) = (self.path(sha256), sha256.clone());
        blocking(move || read::open(&path, sha256)).await
    }
}

/// Runs on a thread that may wait for the disk. A panic there goes on here.
async fn blocking<T: Send + 'static>(body: impl FnOnce() -> Result<T, BlobError> + Send + 'static) -> Result<T, BlobError> {
    match tokio::task::spawn_blocking(body).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(BlobError::Stopping),
        },
    }
}
