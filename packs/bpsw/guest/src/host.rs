//! What the host offers besides stdio: artifacts, progress and checkpoints. Natively there is no host, and nothing is told or kept.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::failure::INPUT_BYTES_MAX;

/// The largest checkpoint that a host takes, in bytes.
const CHECKPOINT_BYTES_MAX: usize = 64 * 1024;
/// Where the last checkpoint of an earlier attempt is.
const CHECKPOINT_PATH: &str = "/in/checkpoint";

#[cfg(target_arch = "wasm32")]
#[link(wasm_import_module = "busbar")]
#[expect(unsafe_code, reason = "imports can only be declared so; one takes a number, the other reads memory that we name")]
unsafe extern "C" {
    safe fn progress(percent: i32);
    fn checkpoint(start: *const u8, len: usize);
}

/// Tells how far the guest is, in percent, and that it is alive.
pub(crate) fn tell_progress(percent: i32) {
    #[cfg(target_arch = "wasm32")]
    progress(percent);
    #[cfg(not(target_arch = "wasm32"))]
    let _ = percent;
}

/// Hands over what a later attempt can go on from. What is too large is not handed over: the attempt would begin anew.
pub(crate) fn keep_checkpoint(state: &impl Serialize) {
    let Ok(bytes) = serde_json::to_vec(state) else { return };
    if bytes.len() <= CHECKPOINT_BYTES_MAX {
        hand_over(&bytes);
    }
}

#[cfg(target_arch = "wasm32")]
#[expect(unsafe_code, reason = "the host reads the bytes before it returns, and they live until then")]
fn hand_over(bytes: &[u8]) {
    unsafe { checkpoint(bytes.as_ptr(), bytes.len()) }
}

#[cfg(not(target_arch = "wasm32"))]
fn hand_over(_bytes: &[u8]) {}

/// The content of an artifact that the input names. What is longer than any input is cut: nobody reads it.
pub(crate) fn read_artifact(id: &str) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(Path::new("/in").join(id))?.take(INPUT_BYTES_MAX + 1).read_to_end(&mut content)?;
    Ok(content)
}

/// The last checkpoint of an earlier attempt of this job. One that cannot be read is as good as none, and is said to be so.
pub(crate) fn last_checkpoint<T: DeserializeOwned>() -> Option<T> {
    if cfg!(not(target_arch = "wasm32")) {
        return None;
    }
    let bytes = std::fs::read(CHECKPOINT_PATH).ok()?;
    serde_json::from_slice(&bytes).inspect_err(|error| eprintln!("the checkpoint is not used: {error}")).ok()
}
