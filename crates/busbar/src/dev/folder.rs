//! The data folder: who holds it, and what stands in it for others to read.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::endpoints::Endpoints;
use super::error::DevError;

const LOCK: &str = "lock";
const ENDPOINTS: &str = "endpoints.json";

/// A data folder that is ours for as long as this lives.
#[derive(Debug)]
pub(crate) struct DataFolder {
    dir: PathBuf,
    /// Held, not used: the kernel releases the lock with the last handle. Children do not inherit it.
    _lock: File,
}

impl DataFolder {
    /// Creates and locks the folder. What a killed predecessor told about itself goes, because it is no longer true.
    pub(crate) fn open(dir: Option<&Path>) -> Result<Self, DevError> {
        let dir = match dir {
            Some(dir) => dir.to_owned(),
            None => default_dir(|name| std::env::var_os(name).map(PathBuf::from))?,
        };
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(DevError::file("create", &dir))?;
        let dir = fs::canonicalize(&dir).map_err(DevError::file("resolve", &dir))?;
        let folder = Self { _lock: lock(&dir)?, dir };
        folder.withdraw();
        Ok(folder)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Tells others where everything is.
    pub(crate) fn publish(&self, endpoints: &Endpoints) -> Result<(), DevError> {
        let text = serde_json::to_string_pretty(endpoints).expect("plain texts and numbers") + "\n";
        write_secret(&self.dir.join(ENDPOINTS), text.as_bytes())
    }

    /// Takes back what was told.
    pub(crate) fn withdraw(&self) {
        let path = self.dir.join(ENDPOINTS);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, path = %path.display(), "cannot be removed");
            }
            _ => {}
        }
    }
}

/// Writes a file that only its owner can read, by rename, so that a reader never sees half of it.
pub(crate) fn write_secret(path: &Path, content: &[u8]) -> Result<(), DevError> {
    let draft = path.with_extension("new");
    let written = (|| {
        // An old draft could have other rights.
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&draft, path)
    })();
    written.map_err(DevError::file("write", path))
}

fn default_dir(get: impl Fn(&str) -> Option<PathBuf>) -> Result<PathBuf, DevError> {
    // Relative values do not count, as the XDG specification says.
    let get = |name: &str| get(name).filter(|path| path.is_absolute());
    let state = get("XDG_STATE_HOME").or_else(|| Some(get("HOME")?.join(".local/state")));
    Ok(state.ok_or(DevError::NoHome)?.join("busbar/dev"))
}

fn lock(dir: &Path) -> Result<File, DevError> {
    let path = dir.join(LOCK);
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let mut file = open.map_err(DevError::file("open", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(DevError::InUse { dir: dir.to_owned(), pid: holder(&mut file) }),
        Err(TryLockError::Error(source)) => return Err(DevError::file("lock", path)(source)),
    }
    // Only for the message that the next one gets.
    let noted = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
    noted.map_err(DevError::file("write", path))?;
    Ok(file)
}

fn holder(file: &mut File) -> Option<String> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    Some(text).filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_folder_has_one_holder_who_is_named() {
        let temp = tempfile::tempdir().expect("tempdir");
        let held = DataFolder::open(Some(temp.path())).expect("free");
        let refused = DataFolder::open(Some(temp.path())).expect_err("in use");
        assert!(refused.to_string().contains(&format!("process {}", std::process::id())), "{refused}");
        drop(held);
        DataFolder::open(Some(temp.path())).expect("free again");
    }

    #[test]
    fn what_is_told_is_for_the_owner_only_and_goes() {
        let temp = tempfile::tempdir().expect("tempdir");
        let dir = temp.path().join("a/b");
        let folder = DataFolder::open(Some(&dir)).expect("created");
        let path = dir.join(ENDPOINTS);
        folder.publish(&Endpoints::default()).expect("written");
        folder.publish(&Endpoints::default()).expect("written over");
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // A killed predecessor leaves it; the next start takes it away.
        drop(folder);
        assert!(path.exists());
        let _folder = DataFolder::open(Some(&dir)).expect("free");
        assert!(!path.exists());
    }

    #[test]
    fn the_default_folder_follows_the_environment() {
        let of = |state: Option<&str>, home: Option<&str>| {
            default_dir(|name| if name == "HOME" { home } else { state }.map(PathBuf::from)).ok()
        };
        assert_eq!(of(Some("/s"), Some("/h")), Some("/s/busbar/dev".into()));
        assert_eq!(of(None, Some("/h")), Some("/h/.local/state/busbar/dev".into()));
        assert_eq!(of(Some("relative"), Some("/h")), Some("/h/.local/state/busbar/dev".into()));
        assert_eq!(of(None, None), None);
    }
}
