//! Advances the engines' epochs while guests run, and sleeps when none does.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use wasmtime::Engine;

/// How late a limit on time can be noticed. Shorter ticks cost guests more.
const TICK: Duration = Duration::from_millis(5);

pub(crate) struct Ticker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    guests: usize,
    closed: bool,
}

/// A guest runs as long as this exists.
pub(crate) struct Running {
    shared: Arc<Shared>,
}

impl Ticker {
    pub(crate) fn start(engines: Vec<Engine>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let thread = std::thread::Builder::new().name("sandbox-ticker".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || tick(&shared, &engines)
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    pub(crate) fn running(&self) -> Running {
        self.shared.lock().guests += 1;
        self.shared.changed.notify_all();
        Running { shared: Arc::clone(&self.shared) }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // It only ticks: it cannot have panicked in a way that matters here.
            let _ = thread.join();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.lock().guests -= 1;
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tick(shared: &Shared, engines: &[Engine]) {
    let mut state = shared.lock();
    while !state.closed {
        if state.guests == 0 {
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            continue;
        }
        drop(state);
        std::thread::sleep(TICK);
        engines.iter().for_each(Engine::increment_epoch);
        state = shared.lock();
    }
}
