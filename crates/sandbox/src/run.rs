//! One run: prepare, let the guest go until it ends or is ended, say how it went, throw everything away.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use wasmtime::{Store, Trap, UpdateDeadline};
use wasmtime_wasi::p2::pipe::MemoryInputPipe;
use wasmtime_wasi::{FsPerms, I32Exit, WasiCtxBuilder, WasiView};

use crate::budget::Budget;
use crate::failure::Stop;
use crate::folder::{TaskFolder, Wanted};
use crate::host::{GuestState, Signals, TmpQuota};
use crate::repeatable::{CoarseClock, CountingClock, SeededRandom};
use crate::stdio::{SharedEvents, Stderr, Stdout, Stream, lock};
use crate::{Failure, FailureKind, Limits, Module, Output, Sandbox, Task, Usage};

/// Handles that a guest may hold, open files among them: they are the host's too, and shared with its neighbours.
const HANDLES_MAX: usize = 256;
const RANDOM_BYTES_MAX: u64 = 1024 * 1024;
/// One call into the host copies at most this much, and never more than the guest could hold itself.
const HOST_CALL_BYTES_MAX: u64 = 128 * 1024 * 1024;
const EXIT_RETRYABLE: i32 = 75;

/// What stays when the store is gone.
struct Streams {
    stdout: Arc<Mutex<Stdout>>,
    stderr: Arc<Mutex<Stderr>>,
    events: SharedEvents,
}

/// How a guest ended.
#[derive(Debug)]
enum End {
    Exited(i32),
    Stopped(Stop),
    Trapped(String),
    /// Not the guest's doing.
    NotRun(FailureKind, String),
}

impl Sandbox {
    /// Runs a guest to its end. Blocks the thread for as long as that takes, which is at most `wall_ms` and a few milliseconds; the
    /// thread must not be one of an asynchronous runtime.
    ///
    /// # Errors
    /// [`Failure`], with its kind, a message for people, and the log.
    pub fn run(&self, module: &Module, task: Task) -> Result<Output, Failure> {
        let Task { input, limits, artifacts, checkpoint, seed, events, cancel } = task;
        let limits = limits.tightened(self.config.ceilings);
        let streams = Streams::new(events, &limits);
        let budget = Budget::start(limits, cancel.clone());
        let wanted = Wanted { artifacts: &artifacts, checkpoint: checkpoint.as_deref(), tmp: limits.tmp_bytes > 0 };
        let (end, usage) = match TaskFolder::prepare(&self.config.scratch_dir, &wanted) {
            Ok(folder) => {
                let given = Given { input, seed, folder, limits, cancel };
                self.run_prepared(module, given, budget, &streams)
            }
            Err(error) => (End::NotRun(error.kind(), error.to_string()), budget.usage()),
        };
        streams.conclude(end, &limits, usage)
    }

    /// The order of the last lines matters: the store holds open files, the runtime may still be reading one, and only then
    /// the folder goes.
    fn run_prepared(&self, module: &Module, given: Given, budget: Budget, streams: &Streams) -> (End, Usage) {
        let (wasi, runtime) = match (given.wasi(streams), runtime()) {
            (Ok(wasi), Ok(runtime)) => (wasi, runtime),
            (Err(error), _) => return (host(format!("{error:#}")), budget.usage()),
            (_, Err(error)) => return (host(error.to_string()), budget.usage()),
        };
        let signals = Signals::new(Arc::clone(&streams.events));
        let state = GuestState { wasi, budget, tmp: TmpQuota::new(given.limits.tmp_bytes), signals };
        let mut store = self.store(state, &given.limits);
        let running = self.ticker.running();
        let end = runtime.block_on(go(module, &mut store, &given));
        drop(running);
        let usage = store.data().budget.usage();
        drop(store);
        drop(runtime);
        drop(given);
        (end, usage)
    }

    fn store(&self, state: GuestState, limits: &Limits) -> Store<GuestState> {
        let mut store = Store::new(&self.engine, state);
        store.limiter(|state| &mut state.budget);
        let fuel = limits.memory_bytes.min(HOST_CALL_BYTES_MAX);
        store.set_hostcall_fuel(usize::try_from(fuel).unwrap_or(usize::MAX));
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|context| match context.data().budget.check() {
            Ok(()) => Ok(UpdateDeadline::Continue(1)),
            Err(stop) => Err(wasmtime::Error::new(stop)),
        });
        store
    }
}

/// What the guest is given.
struct Given {
    input: Bytes,
    seed: Option<[u8; 32]>,
    folder: Option<TaskFolder>,
    limits: Limits,
    cancel: CancellationToken,
}

impl Given {
    fn wasi(&self, streams: &Streams) -> wasmtime::Result<wasmtime_wasi::p1::WasiP1Ctx> {
        let mut builder = WasiCtxBuilder::new();
        builder
            .stdin(MemoryInputPipe::new(self.input.clone()))
            .stdout(Stream(Arc::clone(&streams.stdout)))
            .stderr(Stream(Arc::clone(&streams.stderr)))
            .max_random_size(RANDOM_BYTES_MAX)
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false);
        match self.seed {
            Some(seed) => {
                let clock = CountingClock::default();
                builder.wall_clock(clock.clone()).monotonic_clock(clock).secure_random(SeededRandom::new(seed));
            }
            None => {
                let clock = CoarseClock::new();
                builder.wall_clock(clock).monotonic_clock(clock);
            }
        }
        if let Some(folder) = self.folder.as_ref().and_then(TaskFolder::in_dir) {
            builder.preopened_dir(folder, "/in", FsPerms::ReadOnly)?;
        }
        if let Some(folder) = self.folder.as_ref().and_then(TaskFolder::tmp_dir) {
            builder.preopened_dir(folder, "/tmp", FsPerms::ReadWrite)?;
        }
        let mut wasi = builder.build_p1();
        wasi.ctx().table.set_max_capacity(HANDLES_MAX);
        Ok(wasi)
    }
}

/// A runtime without any thread of its own: it exists so that a sleeping guest can be woken.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_time().max_blocking_threads(1).build()
}

/// Runs the guest. While it computes, the epoch stops it; while it waits in a call to the host, this does.
async fn go(module: &Module, store: &mut Store<GuestState>, given: &Given) -> End {
    if given.cancel.is_cancelled() {
        return End::Stopped(Stop::Cancelled);
    }
    let deadline = Instant::now() + given.limits.wall();
    tokio::select! {
        biased;
        end = start(module, store) => end,
        () = given.cancel.cancelled() => End::Stopped(Stop::Cancelled),
        () = tokio::time::sleep_until(deadline.into()) => End::Stopped(Stop::Wall),
    }
}

async fn start(module: &Module, store: &mut Store<GuestState>) -> End {
    let instance = match module.instance.instantiate_async(&mut *store).await {
        Ok(instance) => instance,
        Err(error) => return end_of(&error, host),
    };
    let start = match instance.get_typed_func::<(), ()>(&mut *store, "_start") {
        Ok(start) => start,
        Err(error) => return End::Trapped(error.to_string()),
    };
    match start.call_async(store, ()).await {
        Ok(()) => End::Exited(0),
        Err(error) => end_of(&error, End::Trapped),
    }
}

fn host(reason: String) -> End {
    End::NotRun(FailureKind::Host, reason)
}

fn end_of(error: &wasmtime::Error, otherwise: fn(String) -> End) -> End {
    if let Some(stop) = error.downcast_ref::<Stop>() {
        return End::Stopped(*stop);
    }
    if let Some(I32Exit(code)) = error.downcast_ref::<I32Exit>() {
        return End::Exited(*code);
    }
    if let Some(trap) = error.downcast_ref::<Trap>() {
        return End::Trapped(trap.to_string());
    }
    // The outermost text is a backtrace of the guest; the cause is what a person wants.
    otherwise(error.root_cause().to_string())
}

impl Streams {
    fn new(events: Box<dyn crate::GuestEvents>, limits: &Limits) -> Self {
        let events: SharedEvents = Arc::new(Mutex::new(events));
        Self {
            stdout: Arc::new(Mutex::new(Stdout::new(limits.output_bytes))),
            stderr: Arc::new(Mutex::new(Stderr::new(Arc::clone(&events)))),
            events,
        }
    }

    fn conclude(self, end: End, limits: &Limits, usage: Usage) -> Result<Output, Failure> {
        let stderr_tail = lock(&self.stderr).finish();
        let (kind, description) = match end {
            End::Exited(0) => match json_value(lock(&self.stdout).finish()) {
                Ok(stdout) => return Ok(Output { stdout, stderr_tail, usage }),
                Err(error) => (FailureKind::OutputInvalid, format!("standard output is not one JSON value: {error}")),
            },
            End::Exited(EXIT_RETRYABLE) => {
                (FailureKind::Retryable, format!("the guest asks for another attempt (exit code {EXIT_RETRYABLE})"))
            }
            End::Exited(code) => (FailureKind::Exit { code }, format!("the guest ended with exit code {code}")),
            End::Stopped(stop) => (stop.kind(), stop.describe(limits)),
            End::Trapped(reason) => (FailureKind::Trap, format!("the guest trapped: {reason}")),
            End::NotRun(kind, reason) => (kind, format!("the run could not be prepared: {reason}")),
        };
        Err(Failure::new(kind, description, stderr_tail, usage))
    }
}

/// The bytes without white space around them, if they are one JSON value that everyone after us can read (nesting included).
fn json_value(bytes: Vec<u8>) -> Result<Bytes, serde_json::Error> {
    serde_json::from_slice::<Value>(&bytes)?;
    let bytes = Bytes::from(bytes);
    let value = bytes.slice_ref(bytes.trim_ascii());
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_one_json_value() {
        assert_eq!(json_value(b" {\"a\": 1}\n".to_vec()).expect("one value"), "{\"a\": 1}");
        for bytes in [&b""[..], b"{}{}", b"1 2", b"text", b"\xff", b"{\"a\":", "[".repeat(200).as_bytes()] {
            assert!(json_value(bytes.to_vec()).is_err(), "{bytes:?}");
        }
    }
}
