//! What it costs to begin: compiling, loading what is compiled, a whole run of a guest that does nearly nothing.

use std::time::Instant;

use busbar_sandbox::{Sandbox, SandboxConfig, Task};
use serde_json::Value;

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
const ECHOES: u32 = 2_000;

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
    Ok(vec![
        row("bpsw.wasm: verified and compiled", "ms", &compiles),
        row("sandboxed echo, whole runs one after another", "/s", &echoes),
        row("sandboxed echo, one whole run", "µs", &each),
    ])
}
