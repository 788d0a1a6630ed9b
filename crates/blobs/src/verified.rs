//! Remembers which files have been verified, so that a large artifact is not hashed for each of a thousand tasks.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use busbar_protocol::pointers::Sha256Hex;

use crate::{BlobError, read};

const REMEMBERED_MAX: usize = 10_000;

#[derive(Debug, Default)]
pub(crate) struct Verified {
    files: Mutex<HashMap<Sha256Hex, Identity>>,
}

/// What changes when a file is replaced or written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    inode: u64,
    size_bytes: u64,
    modified: (i64, i64),
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        Self { inode: metadata.ino(), size_bytes: metadata.size(), modified: (metadata.mtime(), metadata.mtime_nsec()) }
    }
}

impl Verified {
    pub(crate) fn check(&self, file: File, path: &Path, sha256: &Sha256Hex) -> Result<(), BlobError> {
        let metadata = file.metadata().map_err(|source| BlobError::disk("look at", path, source))?;
        let identity = Identity::of(&metadata);
        if self.lock().get(sha256) == Some(&identity) {
            return Ok(());
        }
        read::verify(file, path, sha256)?;
        let mut files = self.lock();
        if files.len() >= REMEMBERED_MAX {
            // Rare, and the price is only that files are read again.
            files.clear();
        }
        files.insert(sha256.clone(), identity);
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Sha256Hex, Identity>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
