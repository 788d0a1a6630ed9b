//! How long ago blobs were stored last, and removing those of which that is long ago.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use busbar_protocol::pointers::Sha256Hex;

use crate::BlobError;
use crate::location::{names, path_of};

/// The file whose lock is the door: shared by those who give a blob its name, alone for whoever looks how old one is and removes it.
const DOOR: &str = "door";

fn door(root: &Path) -> PathBuf {
    root.join(DOOR)
}

/// Makes the door.
pub(crate) fn prepare(root: &Path) -> Result<(), BlobError> {
    let path = door(root);
    if path.exists() {
        return Ok(());
    }
    let made = OpenOptions::new().create(true).append(true).open(&path);
    made.map(drop).map_err(|source| BlobError::disk("make", &path, source))
}

/// Nobody removes a blob while this is held.
pub(crate) fn hold_open(root: &Path) -> Result<File, BlobError> {
    let path = door(root);
    let locked = File::open(&path).and_then(|file| file.lock_shared().map(|()| file));
    locked.map_err(|source| BlobError::disk("lock", &path, source))
}

/// All blobs that have not been stored for so long.
pub(crate) fn older_than(root: &Path, age: Duration) -> Result<Vec<Sha256Hex>, BlobError> {
    let folder = names(root);
    let failed = |source| BlobError::disk("list", &folder, source);
    let mut found = Vec::new();
    for shard in fs::read_dir(&folder).map_err(failed)? {
        let shard = shard.map_err(failed)?;
        for entry in fs::read_dir(shard.path()).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = [shard.file_name(), entry.file_name()].map(|part| part.to_string_lossy().into_owned()).concat();
            let Ok(sha256) = Sha256Hex::parse(&name) else { continue };
            match entry.metadata() {
                Ok(metadata) if is_older(&metadata, age).map_err(failed)? => found.push(sha256),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }
    Ok(found)
}

/// Removes a blob that has not been stored for so long; false if there is none, or it has.
pub(crate) fn delete_older_than(root: &Path, sha256: &Sha256Hex, age: Duration) -> Result<bool, BlobError> {
    let (path, door) = (path_of(root, sha256), door(root));
    // Writing, because some file systems give a lock of one's own to nobody else.
    let locked = OpenOptions::new().append(true).open(&door).and_then(|file| file.lock().map(|()| file));
    let _alone = locked.map_err(|source| BlobError::disk("lock", &door, source))?;
    let removed = fs::metadata(&path)
        .and_then(|metadata| is_older(&metadata, age))
        .and_then(|is_older| if is_older { fs::remove_file(&path).map(|()| true) } else { Ok(false) });
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        removed => removed.map_err(|source| BlobError::disk("remove", &path, source)),
    }
}

/// One from the future is young.
fn is_older(metadata: &Metadata, age: Duration) -> io::Result<bool> {
    Ok(metadata.modified()?.elapsed().is_ok_and(|elapsed| elapsed >= age))
}
