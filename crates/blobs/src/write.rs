//! Storing: into a temporary file while hashing, then by one rename under the name that the hash gives.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use busbar_protocol::pointers::Sha256Hex;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::location::{names, path_of, unfinished};
use crate::{BlobError, BlobRef, age, blocking};

/// How much is read before the disk is asked once.
const CHUNK_BYTES: usize = 256 * 1024;
/// No write takes as long as this: what is older has been left by somebody who died.
const LEFTOVER_AGE: Duration = Duration::from_secs(3600);

/// Makes the folders, and removes leftovers.
pub(crate) fn prepare(root: &Path) -> Result<(), BlobError> {
    let unfinished = unfinished(root);
    for folder in [unfinished.as_path(), &names(root)] {
        fs::create_dir_all(folder).map_err(|source| BlobError::disk("make", folder, source))?;
    }
    age::prepare(root)?;
    let entries = fs::read_dir(&unfinished).map_err(|source| BlobError::disk("list", &unfinished, source))?;
    for entry in entries.flatten() {
        let age = entry.metadata().and_then(|metadata| metadata.modified()).map(|modified| modified.elapsed());
        let is_leftover = matches!(age, Ok(Ok(age)) if age > LEFTOVER_AGE);
        // Another process may clean at the same time; and a leftover that stays harms nobody.
        if is_leftover && let Err(error) = fs::remove_file(entry.path()) {
            tracing::debug!(path = %entry.path().display(), %error, "a leftover stays");
        }
    }
    Ok(())
}

pub(crate) async fn put(root: Arc<Path>, reader: impl AsyncRead + Send, size_bytes_max: u64) -> Result<BlobRef, BlobError> {
    let mut reader = pin!(reader);
    let mut upload = blocking({
        let root = Arc::clone(&root);
        move || Upload::start(&root)
    })
    .await?;
    let mut chunk = Vec::with_capacity(CHUNK_BYTES);
    loop {
        fill(&mut reader, &mut chunk).await.map_err(BlobError::Source)?;
        if chunk.is_empty() {
            break;
        }
        if upload.size_bytes + chunk.len() as u64 > size_bytes_max {
            return Err(BlobError::TooLarge { size_bytes_max });
        }
        (upload, chunk) = blocking(move || upload.write(chunk)).await?;
    }
    blocking(move || upload.finish(&root)).await
}

async fn fill(reader: &mut (impl AsyncRead + Unpin), chunk: &mut Vec<u8>) -> io::Result<()> {
    while chunk.len() < CHUNK_BYTES {
        let missing = (CHUNK_BYTES - chunk.len()) as u64;
        if reader.take(missing).read_buf(chunk).await? == 0 {
            break;
        }
    }
    Ok(())
}

/// A blob that is being written. Dropped, it removes its file.
struct Upload {
    file: NamedTempFile,
    hash: Sha256,
    size_bytes: u64,
}

impl Upload {
    fn start(root: &Path) -> Result<Self, BlobError> {
        let folder = unfinished(root);
        let file = tempfile::Builder::new()
            .prefix("put-")
            .tempfile_in(&folder)
            .map_err(|source| BlobError::disk("write below", &folder, source))?;
        Ok(Self { file, hash: Sha256::new(), size_bytes: 0 })
    }

    /// Returns the chunk, emptied, to be filled again.
    fn write(mut self, mut chunk: Vec<u8>) -> Result<(Self, Vec<u8>), BlobError> {
        self.hash.update(&chunk);
        self.size_bytes += chunk.len() as u64;
        self.file.write_all(&chunk).map_err(|source| BlobError::disk("write", self.file.path(), source))?;
        chunk.clear();
        Ok((self, chunk))
    }

    /// Content first, then name, then the folder that holds the name: each is on the disk before the next. A blob that is there
    /// already is replaced by the same content, which costs nothing, repairs a damaged one, and makes it as young as any.
    fn finish(self, root: &Path) -> Result<BlobRef, BlobError> {
        let sha256 = Sha256Hex::from_bytes(&self.hash.finalize());
        let path = path_of(root, &sha256);
        let failed = |action| {
            let path = path.clone();
            move |source| BlobError::disk(action, &path, source)
        };
        // Read-only for everybody: other users' workers read it, and nobody changes it.
        let permissions = fs::Permissions::from_mode(0o444);
        self.file.as_file().set_permissions(permissions).map_err(failed("protect"))?;
        self.file.as_file().set_modified(SystemTime::now()).map_err(failed("date"))?;
        self.file.as_file().sync_all().map_err(failed("flush"))?;
        let shard = path.parent().unwrap_or(root);
        let is_new_shard = !shard.exists();
        fs::create_dir_all(shard).map_err(failed("make the folder of"))?;
        let _open = age::hold_open(root)?;
        self.file.persist(&path).map_err(|error| error.error).map_err(failed("store"))?;
        sync_folder(shard).map_err(failed("flush the folder of"))?;
        if is_new_shard {
            sync_folder(&names(root)).map_err(failed("flush the folder of"))?;
        }
        Ok(BlobRef { sha256, size_bytes: self.size_bytes })
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
