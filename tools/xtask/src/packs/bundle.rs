//! The built pack: the files that are installed, as a folder and as a reproducible `.tgz`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder};
use tar::{EntryType, Header};

use super::PacksError;
use super::fingerprint::files_below;
use super::guest::Guest;
use super::manifest::{self, Manifest};

/// Folders that are installed whole, where a pack has them.
const FOLDERS: [&str; 2] = ["schemas", "workflows"];

/// Contents by path inside the pack. The order of the map is the order in the archive.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Bundle(BTreeMap<PathBuf, Vec<u8>>);

impl Bundle {
    /// Gathers what belongs to the pack in `folder`: documents and modules, no sources.
    pub(crate) fn collect(folder: &Path, manifest: &Manifest, guest: &Guest<'_>) -> Result<Self, PacksError> {
        let mut files = BTreeMap::new();
        let mut add = |name: &Path, from: &Path| -> Result<(), PacksError> {
            files.insert(name.to_owned(), fs::read(from).map_err(PacksError::file(from))?);
            Ok(())
        };
        for name in [Path::new(manifest::FILE), &manifest.topics, &manifest.policy] {
            add(name, &folder.join(name))?;
        }
        let readme = folder.join("README.md");
        if readme.is_file() {
            add(Path::new("README.md"), &readme)?;
        }
        for path in FOLDERS.iter().map(|name| folder.join(name)).filter(|path| path.is_dir()) {
            for file in files_below(&path)? {
                add(file.strip_prefix(folder).unwrap_or(&file), &file)?;
            }
        }
        for module in &manifest.modules {
            add(Path::new(&module.file), &guest.module(&module.file))?;
        }
        Ok(Self(files))
    }

    /// Writes `<output>/<id>/` and `<output>/<id>.tgz`; whatever else was in the folder goes. Says whether anything changed.
    pub(crate) fn write(&self, output: &Path, id: &str) -> Result<bool, PacksError> {
        let folder = output.join(id);
        fs::create_dir_all(&folder).map_err(PacksError::file(&folder))?;
        let mut changed = self.remove_strangers(&folder)?;
        for (name, content) in &self.0 {
            changed |= write_if_different(&folder.join(name), content)?;
        }
        let archive = output.join(format!("{id}.tgz"));
        let content = self.archive().map_err(PacksError::file(&archive))?;
        Ok(write_if_different(&archive, &content)? || changed)
    }

    fn remove_strangers(&self, folder: &Path) -> Result<bool, PacksError> {
        let wanted: BTreeSet<PathBuf> = self.0.keys().map(|name| folder.join(name)).collect();
        let mut removed = false;
        for stranger in files_below(folder)?.iter().filter(|file| !wanted.contains(*file)) {
            fs::remove_file(stranger).map_err(PacksError::file(stranger))?;
            removed = true;
        }
        Ok(removed)
    }

    /// Names sorted; no times, owners or permissions of this machine: equal contents give equal bytes.
    fn archive(&self) -> io::Result<Vec<u8>> {
        let mut archive = tar::Builder::new(GzBuilder::new().mtime(0).write(Vec::new(), Compression::best()));
        for (name, content) in &self.0 {
            let mut header = Header::new_gnu();
            header.set_entry_type(EntryType::Regular);
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_mtime(0);
            archive.append_data(&mut header, name, content.as_slice())?;
        }
        archive.into_inner()?.finish()
    }
}

/// Replaces a file in one step, so that a reader sees the old one or the new one.
fn write_if_different(path: &Path, content: &[u8]) -> Result<bool, PacksError> {
    if fs::read(path).is_ok_and(|old| old == content) {
        return Ok(false);
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(PacksError::file(folder))?;
    }
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    fs::write(&fresh, content).map_err(PacksError::file(&fresh))?;
    fs::rename(&fresh, path).map_err(PacksError::file(path))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn bundle(entries: &[(&str, &str)]) -> Bundle {
        Bundle(entries.iter().map(|(name, text)| (PathBuf::from(name), text.as_bytes().to_vec())).collect())
    }

    #[test]
    fn archives_are_reproducible_and_complete() {
        let entries = [("pack.yaml", "a"), ("schemas/x.json", "{}"), ("m.wasm", "\0asm")];
        let archive = bundle(&entries).archive().expect("in memory");
        let mut reversed = entries;
        reversed.reverse();
        assert_eq!(bundle(&reversed).archive().expect("in memory"), archive);
        let mut reader = tar::Archive::new(flate2::read::GzDecoder::new(archive.as_slice()));
        let mut found = BTreeMap::new();
        for entry in reader.entries().expect("an archive") {
            let mut entry = entry.expect("an entry");
            assert_eq!(entry.header().mtime().expect("a time"), 0);
            let name = entry.path().expect("a name").into_owned();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).expect("content");
            found.insert(name, content);
        }
        assert_eq!(Bundle(found), bundle(&entries));
    }

    #[test]
    fn writing_again_changes_nothing_and_strangers_go() {
        let output = tempfile::tempdir().expect("temporary folder");
        let first = bundle(&[("pack.yaml", "a"), ("schemas/x.json", "{}")]);
        assert!(first.write(output.path(), "p").expect("writable"));
        assert!(!first.write(output.path(), "p").expect("writable"));
        let second = bundle(&[("pack.yaml", "a")]);
        assert!(second.write(output.path(), "p").expect("writable"));
        assert_eq!(files_below(&output.path().join("p")).expect("readable"), [output.path().join("p/pack.yaml")]);
    }
}
