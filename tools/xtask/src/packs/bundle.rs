//! The built pack: the files that are installed, as a folder and as a reproducible `.tgz`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use busbar_rules::pack::{Pack, archive};

use super::PacksError;
use super::fingerprint::files_below;

/// Writes `<output>/<id>/` and `<output>/<id>.tgz`; whatever else was in the folder goes. Says whether anything changed.
pub(super) fn write(pack: &Pack, output: &Path) -> Result<bool, PacksError> {
    let folder = output.join(pack.id());
    fs::create_dir_all(&folder).map_err(PacksError::file(&folder))?;
    let mut changed = remove_strangers(pack, &folder)?;
    for (name, content) in pack.files() {
        changed |= write_if_different(&folder.join(name), content)?;
    }
    let file = output.join(format!("{}.tgz", pack.id()));
    Ok(write_if_different(&file, &archive(pack.files()))? || changed)
}

fn remove_strangers(pack: &Pack, folder: &Path) -> Result<bool, PacksError> {
    let wanted: BTreeSet<PathBuf> = pack.files().keys().map(|name| folder.join(name)).collect();
    let mut removed = false;
    for stranger in files_below(folder)?.iter().filter(|file| !wanted.contains(*file)) {
        fs::remove_file(stranger).map_err(PacksError::file(stranger))?;
        removed = true;
    }
    Ok(removed)
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
    use busbar_rules::pack::{Files, unpack};

    use super::*;

    fn pack(topic: &str) -> Pack {
        let manifest = "apiVersion: busbar/v1\nkind: Pack\nmetadata: {id: p, version: '1'}\ntopics: t/topics.yaml\n";
        let topics = format!("topics: [{{topic: {topic}, pools: [x]}}]");
        let files = [("pack.yaml", manifest.to_owned()), ("t/topics.yaml", topics)];
        Pack::open(files.into_iter().map(|(name, text)| (name.to_owned(), text.into_bytes())).collect::<Files>()).expect("good")
    }

    #[test]
    fn the_folder_and_the_archive_hold_the_pack_and_nothing_else() {
        let output = tempfile::tempdir().expect("temporary folder");
        assert!(write(&pack("job.p.a"), output.path()).expect("writable"));
        assert!(!write(&pack("job.p.a"), output.path()).expect("writable"), "nothing to do");
        let stranger = output.path().join("p/old.wasm");
        fs::write(&stranger, "left over").expect("writable");
        assert!(write(&pack("job.p.a"), output.path()).expect("writable"));
        assert!(!stranger.exists());

        assert!(write(&pack("job.p.b"), output.path()).expect("writable"));
        let files = unpack(&fs::read(output.path().join("p.tgz")).expect("written")).expect("good");
        assert_eq!(Pack::open(files), Ok(pack("job.p.b")));
        let topics = fs::read_to_string(output.path().join("p/t/topics.yaml")).expect("written");
        assert!(topics.contains("job.p.b"), "{topics}");
    }
}
