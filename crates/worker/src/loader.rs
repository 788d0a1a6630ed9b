//! Modules for attempts: from memory at once, else fetched and compiled apart from everybody who waits.
//!
//! ```text
//!  an attempt ─► in memory? ─► its module
//!                    │ no
//!                    └─► its turn among those who want the same one ─► one of few places ─► a thread: fetch, verify, compile, keep
//! ```
//!
//! Neither can be interrupted, so nobody is made to wait for their ends: whoever gives up leaves, and holds neither a slot nor a guest's thread. What was begun
//! goes on to its end, within bounds of its own, and the next attempt finds it made.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use busbar_sandbox::{Module, ModuleError, Sandbox};
use busbar_sdk::Sha256Hex;
use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, OwnedMutexGuard, Semaphore};

use crate::threads::Panicked;

/// How many modules are fetched or wait for a compiler at once. The sandbox compiles fewer: the others fetch meanwhile.
const LOADS_MAX: usize = 4;
/// A disk that does not answer for so long is given up. As large as a module may be, it comes sooner.
const FETCH_MAX: Duration = Duration::from_secs(60);

/// Whose machine code is wanted: which module, and whether its instructions are counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Wanted {
    pub(crate) digest: Sha256Hex,
    pub(crate) metered: bool,
}

/// Why there is no module.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error(transparent)]
    Module(#[from] ModuleError),
    #[error(transparent)]
    Panicked(#[from] Panicked),
}

/// The module was not there in time.
#[derive(Debug, thiserror::Error)]
#[error("it did not come within {} s", FETCH_MAX.as_secs())]
struct TooSlow;

/// Why a module could not be fetched.
type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Who may load a module, one at a time for each.
type Turn = Arc<Mutex<()>>;

/// Loads modules. Share it.
pub(crate) struct Loader {
    sandbox: Arc<Sandbox>,
    /// The modules that somebody wants right now. No lock is held while anybody waits.
    turns: std::sync::Mutex<HashMap<Wanted, Turn>>,
    places: Arc<Semaphore>,
}

impl Loader {
    pub(crate) fn new(sandbox: Arc<Sandbox>) -> Self {
        Self { sandbox, turns: std::sync::Mutex::default(), places: Arc::new(Semaphore::new(LOADS_MAX)) }
    }

    /// The module: the one that is kept, or the one whose bytes `fetch` gives. Dropping this leaves the queue, or what was begun to its end.
    pub(crate) async fn load<E>(
        &self,
        wanted: Wanted,
        fetch: impl Future<Output = Result<Bytes, E>> + Send + 'static,
    ) -> Result<Module, LoadError>
    where
        E: Into<Cause> + Send + 'static,
    {
        if let Some(module) = self.kept(&wanted) {
            return Ok(module);
        }
        let turn = self.turn(&wanted).lock_owned().await;
        // Whoever was before us has made it, unless that failed.
        if let Some(module) = self.kept(&wanted) {
            return Ok(module);
        }
        self.make(wanted, turn, fetch).await
    }

    fn kept(&self, wanted: &Wanted) -> Option<Module> {
        if wanted.metered { self.sandbox.loaded_metered(&wanted.digest) } else { self.sandbox.loaded(&wanted.digest) }
    }

    /// The turn of a module; those that nobody waits for any more are forgotten.
    fn turn(&self, wanted: &Wanted) -> Turn {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry(wanted.clone()).or_default())
    }

    /// Turn and place belong to the work, not to whoever waits for it.
    async fn make<E>(
        &self,
        wanted: Wanted,
        turn: OwnedMutexGuard<()>,
        fetch: impl Future<Output = Result<Bytes, E>> + Send + 'static,
    ) -> Result<Module, LoadError>
    where
        E: Into<Cause> + Send + 'static,
    {
        let place = Arc::clone(&self.places).acquire_owned().await.expect("the places are never closed");
        let (sandbox, runtime, lines) = (Arc::clone(&self.sandbox), Handle::current(), tracing::Span::current());
        let work = move || {
            let _held = (turn, place);
            let fetch = || -> Result<Bytes, Cause> {
                match runtime.block_on(async { tokio::time::timeout(FETCH_MAX, fetch).await }) {
                    Ok(fetched) => fetched.map_err(Into::into),
                    Err(_) => Err(TooSlow.into()),
                }
            };
            let load = || match wanted.metered {
                true => sandbox.load_metered(&wanted.digest, fetch),
                false => sandbox.load(&wanted.digest, fetch),
            };
            lines.in_scope(load)
        };
        Ok(tokio::task::spawn_blocking(work).await.map_err(|_| Panicked)??)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use busbar_sandbox::SandboxConfig;
    use tokio::sync::oneshot;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn wasm(data: &str) -> Bytes {
        let text = format!(r#"(module (memory (export "memory") 1) (data (i32.const 0) "{data}") (func (export "_start")))"#);
        wat::parse_str(&text).expect("valid text").into()
    }

    fn wanted(wasm: &Bytes) -> Wanted {
        Wanted { digest: Sha256Hex::of(wasm), metered: false }
    }

    fn loader() -> (Loader, tempfile::TempDir) {
        let scratch = tempfile::tempdir().expect("a temp folder");
        let sandbox = Sandbox::new(SandboxConfig::new(scratch.path())).expect("a sandbox");
        (Loader::new(Arc::new(sandbox)), scratch)
    }

    async fn there(bytes: Bytes) -> Result<Bytes, Infallible> {
        Ok(bytes)
    }

    /// A fetch that ends when it is told to, and one that tells that it has begun.
    fn held(bytes: Bytes) -> (oneshot::Sender<()>, oneshot::Receiver<()>, impl Future<Output = Result<Bytes, Infallible>>) {
        let ((go, gone), (begin, begun)) = (oneshot::channel(), oneshot::channel());
        let fetch = async move {
            let _ = begin.send(());
            let _ = gone.await;
            Ok(bytes)
        };
        (go, begun, fetch)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn whoever_gives_up_leaves_at_once_and_what_was_begun_is_kept() {
        let (loader, _scratch) = loader();
        let (slow, quick) = (wasm("slow"), wasm("quick"));
        let (go, begun, fetch) = held(slow.clone());
        tokio::select! {
            _ = loader.load(wanted(&slow), fetch) => panic!("it cannot be there yet"),
            begun = begun => begun.expect("the fetch has begun"),
        }
        // Others are not held up; who wants the same one waits for it, and may leave as well.
        loader.load(wanted(&quick), there(quick.clone())).await.expect("a guest");
        let second = loader.load(wanted(&slow), there(slow.clone()));
        assert!(tokio::time::timeout(Duration::from_millis(20), second).await.is_err());
        go.send(()).expect("the fetch is still waited for");
        let never = async { Err::<Bytes, _>("it was fetched already") };
        let third = tokio::time::timeout(PATIENCE, loader.load(wanted(&slow), never)).await.expect("in time");
        assert_eq!(third.expect("a guest").digest(), &Sha256Hex::of(&slow));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn with_all_places_taken_one_waits_for_a_place_and_not_for_ever() {
        let (loader, _scratch) = loader();
        let mut going = Vec::new();
        for number in 0..LOADS_MAX {
            let slow = wasm(&format!("slow {number}"));
            let (go, begun, fetch) = held(slow.clone());
            tokio::select! {
                _ = loader.load(wanted(&slow), fetch) => panic!("it cannot be there yet"),
                begun = begun => begun.expect("the fetch has begun"),
            }
            going.push(go);
        }
        let last = wasm("last");
        let waiting = loader.load(wanted(&last), there(last.clone()));
        assert!(tokio::time::timeout(Duration::from_millis(20), waiting).await.is_err());
        drop(going);
        let waiting = tokio::time::timeout(PATIENCE, loader.load(wanted(&last), there(last.clone())));
        waiting.await.expect("in time").expect("a guest");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_failure_is_told_and_the_next_one_tries_again() {
        let (loader, _scratch) = loader();
        let guest = wasm("a guest");
        let failed = loader.load(wanted(&guest), async { Err::<Bytes, _>("no route") }).await.err().expect("a failure");
        assert!(matches!(failed, LoadError::Module(ModuleError::Missing { .. })), "{failed}");
        loader.load(wanted(&guest), there(guest.clone())).await.expect("a guest");
        assert!(loader.turn(&wanted(&wasm("another"))).try_lock().is_ok());
        assert_eq!(loader.turns.lock().expect("whole").len(), 1, "turns that are over are forgotten");
    }
}
