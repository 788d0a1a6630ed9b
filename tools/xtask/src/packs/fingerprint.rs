//! Knows again sources that were dealt with before: a hash of all files, kept in a stamp file.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use super::PacksError;

/// A hash of the contents and relative names of files. It guards against forgetting to build, not against malice.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint(String);

impl Fingerprint {
    /// Of the given files, and of all files in the given folders.
    pub(crate) fn of(roots: &[&Path]) -> Result<Self, PacksError> {
        let mut hasher = DefaultHasher::new();
        for root in roots {
            for file in files_below(root)? {
                file.strip_prefix(root).unwrap_or(&file).hash(&mut hasher);
                fs::read(&file).map_err(PacksError::file(&file))?.hash(&mut hasher);
            }
        }
        Ok(Self(format!("{:016x}", hasher.finish())))
    }

    /// Whether `stamp` was made for these sources.
    pub(crate) fn is_stamped(&self, stamp: &Path) -> bool {
        fs::read_to_string(stamp).is_ok_and(|text| text == self.0)
    }

    /// Remembers in `stamp` that these sources were dealt with.
    pub(crate) fn stamp(&self, stamp: &Path) -> Result<(), PacksError> {
        if let Some(folder) = stamp.parent() {
            fs::create_dir_all(folder).map_err(PacksError::file(folder))?;
        }
        fs::write(stamp, &self.0).map_err(PacksError::file(stamp))
    }
}

/// All files below `root`, sorted; `root` itself if it is a file. Build folders are left out.
pub(crate) fn files_below(root: &Path) -> Result<Vec<PathBuf>, PacksError> {
    if root.is_file() {
        return Ok(vec![root.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in root.read_dir().map_err(PacksError::file(root))? {
        let path = entry.map_err(PacksError::file(root))?.path();
        if path.file_name().is_some_and(|name| name != "target") {
            files.extend(files_below(&path)?);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_names_and_contents_but_not_build_folders() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("below the folder")).expect("temporary folder");
            fs::write(path, text).expect("temporary folder");
            Fingerprint::of(&[folder.path()]).expect("readable")
        };
        let first = write("a/b.rs", "one");
        assert_eq!(write("target/x", "built"), first);
        let second = write("a/b.rs", "two");
        assert_ne!(second, first);
        assert_ne!(write("a/c.rs", "one"), second);
        let stamp = folder.path().join("target/stamps/s");
        assert!(!first.is_stamped(&stamp));
        first.stamp(&stamp).expect("writable");
        assert!(first.is_stamped(&stamp) && !second.is_stamped(&stamp));
    }
}
