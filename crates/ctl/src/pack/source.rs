//! Where packs come from: a folder, an archive, or an address.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;
use std::time::Duration;

use busbar_rules::pack::{GatherError, Pack, UPLOAD_BYTES_MAX, archive as pack_up, gather as gather_files};
use ureq::Agent;

use crate::failure::Failure;

const DOWNLOAD_WITHIN: Duration = Duration::from_secs(120);

/// The pack in a folder, checked as the gateway will check it.
pub(super) fn gather(dir: &Path) -> Result<Pack, Failure> {
    let read = |file: &str| match fs::read(dir.join(file)) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    gather_files(read).map_err(|error| match error {
        GatherError::Broken(broken) => Failure::Failed(format!("pack_invalid: {}: {broken}", dir.display())),
        GatherError::Unreadable { file, source } => Failure::Failed(format!("{}: {source}", dir.join(file).display())),
    })
}

/// Writes a pack's archive.
pub(super) fn write(file: &Path, pack: &Pack) -> Result<(), Failure> {
    fs::write(file, pack_up(pack.files())).map_err(|error| Failure::Failed(format!("{}: {error}", file.display())))
}

/// The archive that a source stands for.
pub(super) fn archive(source: &str) -> Result<Vec<u8>, Failure> {
    if source.starts_with("http://") || source.starts_with("https://") {
        return download(source);
    }
    let path = Path::new(source);
    if path.is_dir() {
        return gather(path).map(|pack| pack_up(pack.files()));
    }
    let failed = |error: io::Error| Failure::Failed(format!("{source}: {error}"));
    let mut archive = Vec::new();
    // One byte more is enough for the gateway to refuse it.
    fs::File::open(path).map_err(failed)?.take(UPLOAD_BYTES_MAX as u64 + 1).read_to_end(&mut archive).map_err(failed)?;
    Ok(archive)
}

/// Without our key: the address may be anybody's.
fn download(url: &str) -> Result<Vec<u8>, Failure> {
    let unreachable = |error: ureq::Error| Failure::Unreachable { url: url.to_owned(), detail: error.to_string() };
    let agent: Agent = Agent::config_builder().timeout_global(Some(DOWNLOAD_WITHIN)).build().into();
    let mut response = agent.get(url).call().map_err(unreachable)?;
    response.body_mut().with_config().limit(UPLOAD_BYTES_MAX as u64).read_to_vec().map_err(unreachable)
}
