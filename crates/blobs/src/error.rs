//! What can go wrong with blobs.

use std::io;
use std::path::{Path, PathBuf};

use busbar_protocol::pointers::Sha256Hex;
use thiserror::Error;

/// A blob, or the store, could not be had.
#[derive(Debug, Error)]
pub enum BlobError {
    /// `BLOBS_URL` is malformed.
    #[error("{url:?} is not a URL of a blob store: {reason}")]
    UrlInvalid {
        /// The URL.
        url: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// `BLOBS_URL` names a kind of store that there is no code for.
    #[error("blob stores of the kind {scheme}:// are not supported: use file:///dir")]
    SchemeUnsupported {
        /// What stands before `://`.
        scheme: String,
    },
    /// There is no such blob.
    #[error("there is no blob sha256:{sha256}")]
    Missing {
        /// Which one.
        sha256: Sha256Hex,
    },
    /// The file is there, but its content is not what its name says.
    #[error("the blob sha256:{sha256} is damaged")]
    Corrupt {
        /// Which one.
        sha256: Sha256Hex,
    },
    /// More bytes than the caller allows.
    #[error("the blob is larger than {size_bytes_max} bytes")]
    TooLarge {
        /// What the caller allows.
        size_bytes_max: u64,
    },
    /// What was to be stored could not be read to its end.
    #[error("the content could not be read")]
    Source(#[source] io::Error),
    /// The disk refused.
    #[error("cannot {action} {}", path.display())]
    Disk {
        /// What we wanted to do.
        action: &'static str,
        /// With which file or folder.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The runtime is shutting down and runs nothing any more.
    #[error("the process is stopping")]
    Stopping,
}

impl BlobError {
    pub(crate) fn disk(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Disk { action, path: path.to_owned(), source }
    }
}
