//! Advances the engines' epochs while guests run, and sleeps when none does.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use wasmtime::Engine;

/// How late a limit on time can be noticed. Shorter ticks cost guests more.
const TICK: Duration = Duration::from_millis(5);
/// For so many ticks it waits for the next guest before it sleeps: waking it costs a short run more than the rest of its start.
const TICKS_BEFORE_SLEEP: u32 = 40;

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
    /// Nothing ticks until somebody wakes it.
    sleeps: bool,
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
        let mut state = self.shared.lock();
        state.guests += 1;
        if state.sleeps {
            self.shared.changed.notify_all();
        }
        drop(state);
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
    let mut idle = 0;
    while !state.closed {
        idle = if state.guests == 0 { idle + 1 } else { 0 };
        if idle > TICKS_BEFORE_SLEEP {
            state.sleeps = true;
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.sleeps = false;
            continue;
        }
        drop(state);
        std::thread::sleep(TICK);
        engines.iter().for_each(Engine::increment_epoch);
        state = shared.lock();
    }
}
