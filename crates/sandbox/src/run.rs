//! One run: prepare, let the guest go until it ends or is ended, say how it went, throw everything away.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;
use wasmtime::{Store, Trap, UpdateDeadline};
use wasmtime_wasi::p2::pipe::MemoryInputPipe;
use wasmtime_wasi::{FsPerms, I32Exit, ResourceTableError, WasiCtxBuilder, WasiView};

use crate::budget::Budget;
use crate::failure::{Said, Stop, cut};
use crate::folder::{TaskFolder, Wanted};
use crate::host::{GuestState, RANDOM_PIECE_BYTES, Signals, TmpQuota};
use crate::modules::Build;
use crate::repeatable::{CoarseClock, CountingClock, SeededRandom};
use crate::stdio::{Excess, SharedEvents, Stderr, Stdout, Stream, lock};
use crate::{Failure, FailureKind, Imports, Limits, Module, Output, Sandbox, Task, Usage};

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
    StackFull,
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
        let seed = seed.or_else(|| limits.repeatable.then(|| seed_of(module, &input)));
        let streams = Streams::new(events, &limits);
        let budget = Budget::start(limits, cancel.clone());
        let refused = refusal(module, &limits);
        let wanted = Wanted { artifacts: &artifacts, checkpoint: checkpoint.as_deref(), tmp: limits.tmp_bytes > 0 };
        let ran = match (refused, TaskFolder::prepare(&self.config.scratch_dir, &wanted)) {
            (Some(end), _) => Ran::not(end, &budget),
            (None, Ok(folder)) => {
                let given = Given { input, seed, folder, limits, cancel };
                self.run_prepared(module, given, budget, &streams)
            }
            (None, Err(error)) => Ran::not(End::NotRun(error.kind(), error.to_string()), &budget),
        };
        streams.conclude(ran, &limits)
    }

    /// The order of the last lines matters: the store holds open files, the runtime may still be reading one, and only then
    /// the folder goes.
    fn run_prepared(&self, module: &Module, given: Given, budget: Budget, streams: &Streams) -> Ran {
        let (wasi, runtime) = match (given.wasi(streams), runtime()) {
            (Ok(wasi), Ok(runtime)) => (wasi, runtime),
            (Err(error), _) => return Ran::not(host(format!("{error:#}")), &budget),
            (_, Err(error)) => return Ran::not(host(error.to_string()), &budget),
        };
        let limits = &given.limits;
        let signals = Signals::new(Arc::clone(&streams.events));
        let tmp = TmpQuota::new(limits.tmp_bytes, limits.tmp_files);
        let state = GuestState { wasi, budget, tmp, signals, repeatable: given.seed.is_some() };
        let mut store = store(module, state, limits);
        if module.build == Build::Metered
            && let Err(error) = store.set_fuel(fuel_given(limits))
        {
            return Ran::not(host(format!("{error:#}")), &store.data().budget);
        }
        let running = self.ticker.running();
        let end = runtime.block_on(go(module, &mut store, &given));
        drop(running);
        let ran = self.looked_over(module, end, &store, limits);
        drop(store);
        drop(runtime);
        drop(given);
        ran
    }

    /// What can be said of a run once it is over, and only as long as its store is there.
    fn looked_over(&self, module: &Module, end: End, store: &Store<GuestState>, limits: &Limits) -> Ran {
        let state = store.data();
        let (tmp_bytes, tmp_files) = state.tmp.used();
        let fuel = match module.build {
            Build::Plain => 0,
            Build::Metered => fuel_given(limits).saturating_sub(store.get_fuel().unwrap_or_default()),
        };
        let end = match end {
            End::StackFull => End::Stopped(Stop::Stack { bytes_max: self.config.stack_bytes }),
            other => other,
        };
        Ran { end, usage: Usage { tmp_bytes, tmp_files, fuel, ..state.budget.usage() }, complaint: state.tmp.complaint() }
    }
}

/// A guest that has ended, or never began.
struct Ran {
    end: End,
    usage: Usage,
    /// What the guest was refused without being stopped.
    complaint: Option<String>,
}

impl Ran {
    fn not(end: End, budget: &Budget) -> Self {
        Self { end, usage: budget.usage(), complaint: None }
    }
}

/// The same for all replicas of a job, and for every attempt of it.
fn seed_of(module: &Module, input: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new_with_prefix(module.digest().as_str());
    hash.update(input);
    hash.finalize().into()
}

/// Why this module is not run under these limits at all.
fn refusal(module: &Module, limits: &Limits) -> Option<End> {
    let denied = module.needs.without(limits.imports);
    if !denied.is_empty() {
        let reason =
            format!("the guest imports functions of the groups {denied}; its limits allow it {}", Listed(limits.imports));
        return Some(End::NotRun(FailureKind::ImportDenied, reason));
    }
    (limits.fuel > 0 && module.build == Build::Plain)
        .then(|| host("fuel is limited, but the module was compiled without counting it".to_owned()))
}

/// Groups of imports, or a word for none.
struct Listed(Imports);

impl fmt::Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { f.write_str("none") } else { self.0.fmt(f) }
    }
}

/// How much fuel a run begins with, where it is counted.
fn fuel_given(limits: &Limits) -> u64 {
    if limits.fuel == 0 { u64::MAX } else { limits.fuel }
}

fn store(module: &Module, state: GuestState, limits: &Limits) -> Store<GuestState> {
    let mut store = Store::new(module.instance.module().engine(), state);
    store.limiter(|state| &mut state.budget);
    let bytes = limits.memory_bytes.min(HOST_CALL_BYTES_MAX);
    store.set_hostcall_fuel(usize::try_from(bytes).unwrap_or(usize::MAX));
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|context| match context.data().budget.check() {
        Ok(()) => Ok(UpdateDeadline::Continue(1)),
        Err(stop) => Err(wasmtime::Error::new(stop)),
    });
    store
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
            .max_random_size(u64::from(RANDOM_PIECE_BYTES))
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
        wasi.ctx().table.set_max_capacity(usize::try_from(self.limits.open_handles).unwrap_or(usize::MAX));
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
    let begun = Instant::now();
    let deadline = begun + given.limits.wall();
    tokio::select! {
        biased;
        end = start(module, store) => end,
        () = given.cancel.cancelled() => End::Stopped(Stop::Cancelled),
        () = tokio::time::sleep_until(deadline.into()) => End::Stopped(Stop::Wall { used: begun.elapsed() }),
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
    match error.downcast_ref::<Trap>() {
        Some(Trap::StackOverflow) => return End::StackFull,
        Some(Trap::OutOfFuel) => return End::Stopped(Stop::Fuel),
        Some(trap) => return End::Trapped(trap.to_string()),
        None => {}
    }
    if let Some(ResourceTableError::Full) = error.root_cause().downcast_ref::<ResourceTableError>() {
        return End::Stopped(Stop::Handles);
    }
    // The outermost text is a backtrace of the guest; the cause is what a person wants.
    otherwise(error.root_cause().to_string())
}

impl Streams {
    fn new(events: Box<dyn crate::GuestEvents>, limits: &Limits) -> Self {
        let events: SharedEvents = Arc::new(Mutex::new(events));
        let excess = if limits.text { Excess::IsLeftOut } else { Excess::Ends };
        Self {
            stdout: Arc::new(Mutex::new(Stdout::new(limits.output_bytes, excess))),
            stderr: Arc::new(Mutex::new(Stderr::new(Arc::clone(&events)))),
            events,
        }
    }

    fn conclude(self, ran: Ran, limits: &Limits) -> Result<Output, Failure> {
        let Ran { end, usage, complaint } = ran;
        let stderr_tail = lock(&self.stderr).finish();
        let mut collected = lock(&self.stdout);
        let usage = Usage { output_bytes: collected.written(), ..usage };
        let stdout = Bytes::from(collected.finish());
        let (kind, mut description) = match end {
            End::Exited(0) if limits.text => {
                return Ok(Output { stdout: json_text(&cut(&stdout, usage.output_bytes, usize::MAX)), stderr_tail, usage });
            }
            End::Exited(0) => match json_value(&stdout) {
                Ok(stdout) => return Ok(Output { stdout, stderr_tail, usage }),
                Err(error) => (FailureKind::OutputInvalid, format!("standard output is not one JSON value: {error}")),
            },
            End::Exited(EXIT_RETRYABLE) => {
                (FailureKind::Retryable, format!("the guest asks for another attempt (exit code {EXIT_RETRYABLE})"))
            }
            End::Exited(code) => (FailureKind::Exit { code }, format!("the guest ended with exit code {code}")),
            End::Stopped(stop) => (stop.kind(), stop.describe(limits)),
            End::StackFull => (FailureKind::LimitStack, "the guest's calls filled all of its stack".to_owned()),
            End::Trapped(reason) => (FailureKind::Trap, format!("the guest trapped: {reason}")),
            End::NotRun(kind, reason) => (kind, format!("the run could not be prepared: {reason}")),
        };
        description.push_str(complaint.as_deref().unwrap_or_default());
        Err(Failure::new(kind, description, Said { stdout, stderr_tail }, usage))
    }
}

/// The bytes without white space around them, if they are one JSON value that everyone after us can read (nesting included).
fn json_value(bytes: &Bytes) -> Result<Bytes, serde_json::Error> {
    serde_json::from_slice::<Value>(bytes)?;
    Ok(bytes.slice_ref(bytes.trim_ascii()))
}

/// One JSON string of a text. What is not UTF-8 in it, as half a character where it was cut, stands as U+FFFD.
fn json_text(bytes: &Bytes) -> Bytes {
    Value::from(String::from_utf8_lossy(bytes)).to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_one_json_string() {
        assert_eq!(json_text(&Bytes::from_static(b"two \"lines\"\n\xc3")), "\"two \\\"lines\\\"\\n\u{fffd}\"");
        assert_eq!(json_text(&Bytes::new()), "\"\"");
    }

    #[test]
    fn output_is_one_json_value() {
        assert_eq!(json_value(&Bytes::from_static(b" {\"a\": 1}\n")).expect("one value"), "{\"a\": 1}");
        for bytes in [&b""[..], b"{}{}", b"1 2", b"text", b"\xff", b"{\"a\":", "[".repeat(200).as_bytes()] {
            assert!(json_value(&Bytes::copy_from_slice(bytes)).is_err(), "{bytes:?}");
        }
    }
}
