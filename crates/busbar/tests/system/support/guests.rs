//! Guests for the tests, written as text, and a pack that is made of them.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// What a guest here may call, and two functions: `say` writes a piece of memory to a file descriptor, `sleep` sleeps so many
/// milliseconds.
const PREAMBLE: &str = r#"
    (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1)
    (func $say (param $fd i32) (param $start i32) (param $bytes i32)
        (i32.store (i32.const 0) (local.get $start))
        (i32.store (i32.const 4) (local.get $bytes))
        (drop (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))))
    (func $sleep (param $ms i64)
        ;; A subscription to the monotonic clock at 1024, relative; its event goes to 2048.
        (i32.store (i32.const 1040) (i32.const 1))
        (i64.store (i32.const 1048) (i64.mul (local.get $ms) (i64.const 1000000)))
        (drop (call $poll (i32.const 1024) (i32.const 2048) (i32.const 1) (i32.const 4096))))
"#;

/// A guest that runs these instructions; `data` stands in its memory from 100.
pub(crate) fn guest(instructions: &str, data: &str) -> Vec<u8> {
    let text = format!(r#"(module {PREAMBLE} (data (i32.const 100) "{data}") (func (export "_start") {instructions}))"#);
    wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// Puts out `null` at once.
pub(crate) fn empty() -> Vec<u8> {
    guest("(call $say (i32.const 1) (i32.const 100) (i32.const 4))", "null")
}

/// Only computes, for ever.
pub(crate) fn looping() -> Vec<u8> {
    guest("(loop $for_ever (br $for_ever))", "")
}

/// Sleeps, then puts out `null`.
pub(crate) fn sleeping(ms: u64) -> Vec<u8> {
    guest(&format!("(call $sleep (i64.const {ms})) (call $say (i32.const 1) (i32.const 100) (i32.const 4))"), "null")
}

/// Writes a pack `guests` whose topics are `job.guests.<name>`, each with a module of its own and with limits, and returns its
/// folder. Jobs get two attempts. The result of each must be null.
pub(crate) fn guest_pack<'a>(dir: &Path, guests: impl IntoIterator<Item = (&'a str, Vec<u8>, Value)>) -> PathBuf {
    let pack = dir.join("guests");
    fs::create_dir_all(&pack).unwrap();
    let mut manifest = "apiVersion: busbar/v1\nkind: Pack\nmetadata: {id: guests, version: 0.1.0}\n\
                        topics: topics.yaml\npolicy: policy.yaml\nmodules:\n"
        .to_owned();
    let mut topics = "topics:\n".to_owned();
    for (name, wasm, limits) in guests {
        fs::write(pack.join(format!("{name}.wasm")), wasm).unwrap();
        writeln!(manifest, "  - {{name: {name}, file: {name}.wasm}}").unwrap();
        writeln!(
            topics,
            "  - {{topic: job.guests.{name}, pools: [default], module: {name}, output_schema: null.json, limits: {limits}, \
             retries: {{max_attempts: 2, backoff_initial_ms: 10, backoff_max_ms: 10}}}}"
        )
        .unwrap();
    }
    let policy = "version: '1'\nrules:\n  - {id: guests, match: {topics: ['job.guests.*']}, decision: allow, reason: tests}\n";
    for (file, text) in [
        ("pack.yaml", manifest.as_str()),
        ("topics.yaml", &topics),
        ("policy.yaml", policy),
        ("null.json", r#"{"type": "null"}"#),
    ] {
        fs::write(pack.join(file), text).unwrap();
    }
    pack
}
