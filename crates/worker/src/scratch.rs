//! The scratch folder of this worker, which no other may use at the same time.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use crate::failure::Fatal;

/// Below the folder of the blobs: on their file system, granting an artifact costs a link instead of a copy.
const BESIDE_BLOBS: &str = "scratch";
const LOCK: &str = "lock";
const TASKS: &str = "tasks";
/// No worker's folder begins like this.
const COMPILED: &str = ".compiled-";

/// The folder, locked as long as this lives. A killed worker's lock is gone with its process.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
    _lock: File,
}

impl Scratch {
    /// Takes the folder that was asked for, or one beside the blobs.
    pub(crate) fn open(wanted: Option<&Path>, blobs: &Path, worker_id: &str) -> Result<Self, Fatal> {
        let above = wanted.map_or_else(|| blobs.join(BESIDE_BLOBS), Path::to_owned);
        let path = above.join(folder_name(worker_id));
        let failed = |source| Fatal::Scratch { path: path.clone(), source };
        fs::create_dir_all(&above).map_err(failed)?;
        make_private(&path).map_err(failed)?;
        let lock = File::create(path.join(LOCK)).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(Fatal::InUse { path }),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    /// The folder itself.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the sandbox makes the folders of its tasks.
    pub(crate) fn tasks(&self) -> PathBuf {
        self.path.join(TASKS)
    }

    /// Where the sandbox keeps compiled modules for the next process, and for other workers of the same user.
    pub(crate) fn compiled(&self) -> PathBuf {
        let user = rustix::process::geteuid().as_raw();
        self.path.with_file_name(format!("{COMPILED}{user}"))
    }
}

/// Makes a folder that nobody else looks into: tenants' artifacts are linked here.
pub(crate) fn make_private(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made,
    }
}

/// A worker's id as the name of a folder: what could mean something to the file system is written as digits.
fn folder_name(worker_id: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    worker_id.chars().map(|c| if plain(c) { c.to_string() } else { format!("%{:02x}", u32::from(c)) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_workers_of_one_id_do_not_share_a_folder() {
        let temp = tempfile::tempdir().expect("a temp folder");
        let blobs = temp.path().join("blobs");
        let first = Scratch::open(None, &blobs, "w/1").expect("free");
        assert_eq!(first.tasks(), blobs.join("scratch/w%2f1/tasks"));
        assert!(matches!(Scratch::open(None, &blobs, "w/1"), Err(Fatal::InUse { .. })));
        let other = Scratch::open(Some(&blobs), &blobs, "w2").expect("another id");
        assert_eq!(first.compiled().parent(), Some(blobs.join("scratch").as_path()), "shared by workers of one user");
        assert_eq!(other.tasks(), blobs.join("w2/tasks"));
        drop(first);
        drop(Scratch::open(None, &blobs, "w/1").expect("free again"));
    }
}
