//! What it costs to begin and to end: compiling, loading what is compiled, a whole run of a guest that does nearly nothing, and how soon
//! a cancelled one is gone.

use std::sync::mpsc;
use std::time::Instant;

use busbar_protocol::pointers::Sha256Hex;
use busbar_sandbox::{GuestEvents, Module, Sandbox, SandboxConfig, Task};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::{Outcome, load, row};

/// Copies up to 64 bytes of its input to its output.
const ECHO: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (func (export "_start")
        (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 64))
        (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 4)))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;
/// Prints 7 and nothing else, from memory that was there from the start.
const SEVEN: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "\10\00\00\00\01\00\00\00") (data (i32.const 16) "7")
    (func (export "_start") (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;
/// Says that it runs, then computes until it is ended.
const BUSY: &str = r#"(module (import "busbar" "progress" (func $progress (param i32))) (memory (export "memory") 1)
    (func (export "_start") (call $progress (i32.const 1)) (loop $again (br $again))))"#;
/// Says that it runs, then waits for a clock of a thousand seconds.
const WAITING: &str = r#"(module (import "busbar" "progress" (func $progress (param i32)))
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (func (export "_start") (call $progress (i32.const 1))
        (i32.store (i32.const 80) (i32.const 1)) (i64.store (i32.const 88) (i64.const 1000000000000))
        (drop (call $poll (i32.const 64) (i32.const 256) (i32.const 1) (i32.const 512)))))"#;
const ECHOES: u32 = 2_000;
const CANCELS: u32 = 20;

/// Each figure as often as `runs` says.
pub(crate) fn measure(sandbox: &Sandbox, wasm: &[u8], runs: usize) -> Outcome<Vec<Value>> {
    let echo = load(sandbox, &wat::parse_str(ECHO)?)?;
    let (mut compiles, mut echoes) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let scratch = tempfile::tempdir()?;
        let fresh = Sandbox::new(SandboxConfig::new(scratch.path()))?;
        let began = Instant::now();
        load(&fresh, wasm)?;
        compiles.push(began.elapsed().as_secs_f64() * 1e3);
        let began = Instant::now();
        for _ in 0..ECHOES {
            // The guest prints as many bytes as it was told to read: exactly one JSON value of 64 bytes.
            sandbox.run(&echo, Task::new(format!("{:64}", 7)))?;
        }
        echoes.push(f64::from(ECHOES) / began.elapsed().as_secs_f64());
    }
    let each: Vec<f64> = echoes.iter().map(|rate| 1e6 / rate).collect();
    let mut rows = vec![
        row("bpsw.wasm: verified and compiled", "ms", &compiles),
        row("sandboxed echo, whole runs one after another", "/s", &echoes),
        row("sandboxed echo, one whole run", "µs", &each),
        row("warm start: a guest that prints one byte, begin to end", "µs", &warm(sandbox, runs)?),
        row("cold start from the compiled cache, the same guest", "ms", &cold(&wat::parse_str(SEVEN)?, runs, true)?),
        row("bpsw.wasm: loaded from the compiled cache", "ms", &cold(wasm, runs, false)?),
    ];
    for (what, guest) in [("computes", BUSY), ("waits", WAITING)] {
        let late = cancelled(sandbox, &load(sandbox, &wat::parse_str(guest)?)?, runs)?;
        rows.push(row(&format!("cancelled until a guest that {what} is gone, the slowest of {CANCELS}"), "ms", &late));
    }
    Ok(rows)
}

fn warm(sandbox: &Sandbox, runs: usize) -> Outcome<Vec<f64>> {
    let seven = load(sandbox, &wat::parse_str(SEVEN)?)?;
    let mut figures = Vec::new();
    for _ in 0..runs {
        let began = Instant::now();
        for _ in 0..ECHOES {
            sandbox.run(&seven, Task::new("0"))?;
        }
        figures.push(began.elapsed().as_secs_f64() * 1e6 / f64::from(ECHOES));
    }
    Ok(figures)
}

/// A sandbox that was just set up finds on disk what another has compiled, and runs it if that is to count too.
fn cold(wasm: &[u8], runs: usize, run: bool) -> Outcome<Vec<f64>> {
    let (scratch, cache) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let fresh = || {
        let cache_dir = Some(cache.path().join("compiled"));
        Sandbox::new(SandboxConfig { cache_dir, ..SandboxConfig::new(scratch.path()) })
    };
    load(&fresh()?, wasm)?;
    let mut figures = Vec::new();
    for _ in 0..runs {
        let sandbox = fresh()?;
        let began = Instant::now();
        let module = sandbox.load(&Sha256Hex::of(wasm), || Err("it is in the cache"))?;
        if run {
            sandbox.run(&module, Task::new("0"))?;
        }
        figures.push(began.elapsed().as_secs_f64() * 1e3);
    }
    Ok(figures)
}

/// Milliseconds from the cancellation of a guest that runs until its thread is free again.
fn cancelled(sandbox: &Sandbox, module: &Module, runs: usize) -> Outcome<Vec<f64>> {
    let mut figures = Vec::new();
    for _ in 0..runs {
        let mut slowest: f64 = 0.0;
        for _ in 0..CANCELS {
            let (cancel, (tell, told)) = (CancellationToken::new(), mpsc::channel());
            let task = Task { cancel: cancel.clone(), events: Box::new(Runs(tell)), ..Task::new("0") };
            let late = std::thread::scope(|scope| -> Outcome<f64> {
                let guest = scope.spawn(|| sandbox.run(module, task).is_err());
                told.recv()?;
                let began = Instant::now();
                cancel.cancel();
                let ended = guest.join().map_err(|_| "the guest's thread panicked")?;
                if ended { Ok(began.elapsed().as_secs_f64() * 1e3) } else { Err("the guest ended by itself".into()) }
            })?;
            slowest = slowest.max(late);
        }
        figures.push(slowest);
    }
    Ok(figures)
}

/// Tells that the guest runs.
struct Runs(mpsc::Sender<()>);

impl GuestEvents for Runs {
    fn progress(&mut self, _: u8) {
        // Nobody may listen any more.
        let _ = self.0.send(());
    }
}
