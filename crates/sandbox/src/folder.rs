//! The private folder of one task: `in` with its files, `tmp` if granted; removed when the task ends.
//!
//! A guest gets these directories and nothing above them: WASI resolves each path component beneath the granted directory
//! and refuses links that lead out. Files are hard links or copies, so that no symbolic link of ours points anywhere.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use thiserror::Error;

use crate::{Artifact, FailureKind};

const CHECKPOINT_NAME: &str = "checkpoint";
const ID_BYTES_MAX: usize = 128;
const ARTIFACTS_MAX: usize = 1_000;

pub(crate) struct TaskFolder {
    root: TempDir,
    has_in: bool,
    has_tmp: bool,
}

/// What the task needs on disk.
pub(crate) struct Wanted<'a> {
    pub(crate) artifacts: &'a [Artifact],
    pub(crate) checkpoint: Option<&'a [u8]>,
    pub(crate) tmp: bool,
}

#[derive(Debug, Error)]
pub(crate) enum FolderError {
    #[error("{id:?} cannot name a file below /in")]
    IdInvalid { id: String },
    #[error("the artifact {id} is given twice")]
    IdTwice { id: String },
    #[error("{count} artifacts are more than {ARTIFACTS_MAX}")]
    TooMany { count: usize },
    #[error("the artifact {id} is not a regular file")]
    NotAFile { id: String },
    #[error("the artifact {id} cannot be granted: {source}")]
    Artifact { id: String, source: io::Error },
    #[error("the task's folder cannot be made: {source}")]
    Folder {
        #[from]
        source: io::Error,
    },
}

impl FolderError {
    pub(crate) fn kind(&self) -> FailureKind {
        match self {
            Self::IdInvalid { .. }
            | Self::IdTwice { .. }
            | Self::TooMany { .. }
            | Self::NotAFile { .. }
            | Self::Artifact { .. } => FailureKind::Artifact,
            Self::Folder { .. } => FailureKind::Host,
        }
    }
}

impl TaskFolder {
    /// Makes the folder, or nothing if the task needs none: most do not, and a folder costs more than a small guest.
    pub(crate) fn prepare(scratch: &Path, wanted: &Wanted<'_>) -> Result<Option<Self>, FolderError> {
        let has_in = !wanted.artifacts.is_empty() || wanted.checkpoint.is_some();
        if !has_in && !wanted.tmp {
            return Ok(None);
        }
        if wanted.artifacts.len() > ARTIFACTS_MAX {
            return Err(FolderError::TooMany { count: wanted.artifacts.len() });
        }
        let root = tempfile::Builder::new().prefix("task-").tempdir_in(scratch)?;
        let folder = Self { root, has_in, has_tmp: wanted.tmp };
        folder.fill(wanted)?;
        Ok(Some(folder))
    }

    pub(crate) fn in_dir(&self) -> Option<PathBuf> {
        self.has_in.then(|| self.root.path().join("in"))
    }

    pub(crate) fn tmp_dir(&self) -> Option<PathBuf> {
        self.has_tmp.then(|| self.root.path().join("tmp"))
    }

    fn fill(&self, wanted: &Wanted<'_>) -> Result<(), FolderError> {
        if let Some(tmp) = self.tmp_dir() {
            fs::create_dir(tmp)?;
        }
        let Some(folder) = self.in_dir() else { return Ok(()) };
        fs::create_dir(&folder)?;
        for artifact in wanted.artifacts {
            grant(artifact, &folder)?;
        }
        if let Some(checkpoint) = wanted.checkpoint {
            fs::write(folder.join(CHECKPOINT_NAME), checkpoint)?;
        }
        Ok(())
    }
}

fn grant(artifact: &Artifact, folder: &Path) -> Result<(), FolderError> {
    let id = &artifact.id;
    if !is_file_name(id) {
        return Err(FolderError::IdInvalid { id: id.clone() });
    }
    let failed = |source| FolderError::Artifact { id: id.clone(), source };
    // A symbolic link is resolved here, on our side: linking to it would give the guest a link that it may not follow.
    let source = fs::canonicalize(&artifact.path).map_err(failed)?;
    if !fs::metadata(&source).map_err(failed)?.is_file() {
        return Err(FolderError::NotAFile { id: id.clone() });
    }
    let target = folder.join(id);
    match fs::hard_link(&source, &target) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(FolderError::IdTwice { id: id.clone() }),
        // Another file system, or a link that the system forbids.
        Err(_) => fs::copy(&source, &target).map(drop).map_err(failed),
    }
}

/// The ids of the bus, which by luck and by rule never are `.`, `..`, or contain a slash.
fn is_file_name(id: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b":._@-[]".contains(&byte);
    id.len() <= ID_BYTES_MAX
        && id != CHECKPOINT_NAME
        && id.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
        && id.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepare(scratch: &Path, ids: &[&str], path: &Path) -> Result<Option<TaskFolder>, FolderError> {
        let artifacts: Vec<_> = ids.iter().map(|id| Artifact { id: (*id).to_owned(), path: path.to_owned() }).collect();
        TaskFolder::prepare(scratch, &Wanted { artifacts: &artifacts, checkpoint: None, tmp: false })
    }

    #[test]
    fn ids_that_are_no_file_names_are_refused() {
        let scratch = tempfile::tempdir().expect("a temp folder");
        let file = scratch.path().join("file");
        fs::write(&file, "text").expect("written");
        for id in ["", ".", "..", "a/b", "../a", "checkpoint", "a b", &"a".repeat(129)] {
            assert!(matches!(prepare(scratch.path(), &[id], &file), Err(FolderError::IdInvalid { .. })), "{id:?}");
        }
        assert!(matches!(prepare(scratch.path(), &["a", "a"], &file), Err(FolderError::IdTwice { .. })));
        assert!(matches!(prepare(scratch.path(), &["a"], scratch.path()), Err(FolderError::NotAFile { .. })));
        assert!(matches!(prepare(scratch.path(), &["a"], &scratch.path().join("no")), Err(FolderError::Artifact { .. })));
    }

    #[test]
    fn nothing_is_left_after_success_or_failure() {
        let scratch = tempfile::tempdir().expect("a temp folder");
        let elsewhere = tempfile::NamedTempFile::new().expect("a temp file");
        let folder = prepare(scratch.path(), &["a"], elsewhere.path()).expect("prepared").expect("needed");
        assert!(folder.in_dir().expect("granted").join("a").exists());
        drop(folder);
        assert!(prepare(scratch.path(), &["a", ".."], elsewhere.path()).is_err());
        assert_eq!(fs::read_dir(scratch.path()).expect("readable").count(), 0);
        assert!(elsewhere.path().exists(), "only our link is removed");
    }
}
