//! The API key of `dev`: made once, kept in the folder, so that a restart does not lock anybody out.

use std::fs;
use std::io;
use std::path::Path;

use busbar_gateway::{KEY_CHARS_MIN, NewKey, Role, create_key, install_key};
use busbar_store::Store;

use super::error::DevError;
use super::folder::write_secret;

const FILE: &str = "api_key";

/// The key of this folder, known to the store.
pub(crate) async fn ensure(dir: &Path, store: &Store) -> Result<String, DevError> {
    let path = dir.join(FILE);
    let new = NewKey { name: "dev".into(), tenant_id: "default".into(), roles: vec![Role::Admin] };
    if let Some(key) = kept(&path)? {
        // The store may be another one than last time.
        install_key(store, &key, &new).await.map_err(DevError::Key)?;
        return Ok(key);
    }
    let key = create_key(store, &new).await.map_err(DevError::Key)?;
    write_secret(&path, key.as_bytes())?;
    Ok(key)
}

fn kept(path: &Path) -> Result<Option<String>, DevError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned()).filter(|key| key.len() >= KEY_CHARS_MIN)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(DevError::file("read", path)(error)),
    }
}
