//! Which packs are loaded.

use std::path::{Path, PathBuf};

use super::error::DevError;
use super::program_dir;

/// The folder that was named, else the configured one, else the one that stands beside the folder of this program: in a
/// source tree `target/packs`, in an installation `packs`.
pub(crate) fn dir(named: Option<&Path>, configured: Option<PathBuf>) -> Result<Option<PathBuf>, DevError> {
    if let Some(path) = named.map(Path::to_path_buf).or(configured) {
        return if path.is_dir() { Ok(Some(path)) } else { Err(DevError::NoPacks { path }) };
    }
    let beside = program_dir()?.parent().map(|parent| parent.join("packs")).filter(|packs| packs.is_dir());
    if beside.is_none() {
        tracing::warn!("no packs are loaded, so that no topic is known; `cargo xtask packs` builds those that ship");
    }
    Ok(beside)
}
