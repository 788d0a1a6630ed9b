//! A sandbox in a folder of its own, and text to build guests from.

use std::convert::Infallible;

use busbar_protocol::pointers::Sha256Hex;
use busbar_sandbox::{Failure, Limits, Module, ModuleError, Output, Sandbox, SandboxConfig, Task};
use bytes::Bytes;
use tempfile::TempDir;

/// Imports that most guests use. Each appears only if it is named, since what is imported must be offered.
const IMPORTS: &[(&str, &str)] = &[
    ("$fd_write", r#"(import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))"#),
    ("$fd_read", r#"(import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))"#),
    ("$fd_close", r#"(import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))"#),
    ("$set_size", r#"(import "wasi_snapshot_preview1" "fd_filestat_set_size" (func $set_size (param i32 i64) (result i32)))"#),
    (
        "$open",
        r#"(import "wasi_snapshot_preview1" "path_open"
            (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))"#,
    ),
    ("$unlink", r#"(import "wasi_snapshot_preview1" "path_unlink_file" (func $unlink (param i32 i32 i32) (result i32)))"#),
    ("$symlink", r#"(import "wasi_snapshot_preview1" "path_symlink" (func $symlink (param i32 i32 i32 i32 i32) (result i32)))"#),
    ("$proc_exit", r#"(import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))"#),
    ("$poll", r#"(import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))"#),
    ("$readdir", r#"(import "wasi_snapshot_preview1" "fd_readdir" (func $readdir (param i32 i32 i32 i64 i32) (result i32)))"#),
    ("$stat", r#"(import "wasi_snapshot_preview1" "path_filestat_get" (func $stat (param i32 i32 i32 i32 i32) (result i32)))"#),
    ("$random", r#"(import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))"#),
    ("$clock", r#"(import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))"#),
    ("$fd_pwrite", r#"(import "wasi_snapshot_preview1" "fd_pwrite" (func $fd_pwrite (param i32 i32 i32 i64 i32) (result i32)))"#),
    ("$renumber", r#"(import "wasi_snapshot_preview1" "fd_renumber" (func $renumber (param i32 i32) (result i32)))"#),
    ("$prestat", r#"(import "wasi_snapshot_preview1" "fd_prestat_get" (func $prestat (param i32 i32) (result i32)))"#),
    ("$mkdir", r#"(import "wasi_snapshot_preview1" "path_create_directory" (func $mkdir (param i32 i32 i32) (result i32)))"#),
    ("$rename", r#"(import "wasi_snapshot_preview1" "path_rename" (func $rename (param i32 i32 i32 i32 i32 i32) (result i32)))"#),
    ("$link", r#"(import "wasi_snapshot_preview1" "path_link" (func $link (param i32 i32 i32 i32 i32 i32 i32) (result i32)))"#),
    (
        "$readlink",
        r#"(import "wasi_snapshot_preview1" "path_readlink" (func $readlink (param i32 i32 i32 i32 i32 i32) (result i32)))"#,
    ),
    (
        "$set_times",
        r#"(import "wasi_snapshot_preview1" "path_filestat_set_times"
            (func $set_times (param i32 i32 i32 i32 i64 i64 i32) (result i32)))"#,
    ),
    ("$environ", r#"(import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ (param i32 i32) (result i32)))"#),
    ("$args", r#"(import "wasi_snapshot_preview1" "args_sizes_get" (func $args (param i32 i32) (result i32)))"#),
    ("$clock_res", r#"(import "wasi_snapshot_preview1" "clock_res_get" (func $clock_res (param i32 i32) (result i32)))"#),
    ("$progress", r#"(import "busbar" "progress" (func $progress (param i32)))"#),
    ("$checkpoint", r#"(import "busbar" "checkpoint" (func $checkpoint (param i32 i32)))"#),
];

/// Functions that guests may call: `$say fd start len` writes; `$errno n` exits with n unless it is zero; `$number n` writes a
/// number below 1000 to standard output.
const HELPERS: &[(&str, &str)] = &[
    (
        "$say",
        "(func $say (param $fd i32) (param $start i32) (param $len i32) (result i32)
            (i32.store (i32.const 0) (local.get $start))
            (i32.store (i32.const 4) (local.get $len))
            (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8)))",
    ),
    (
        "$number",
        "(func $number (param $n i32)
            (i32.store8 (i32.const 16) (i32.add (i32.const 49) (i32.div_u (local.get $n) (i32.const 100))))
            (i32.store8 (i32.const 17) (i32.add (i32.const 48)
                (i32.rem_u (i32.div_u (local.get $n) (i32.const 10)) (i32.const 10))))
            (i32.store8 (i32.const 18) (i32.add (i32.const 48) (i32.rem_u (local.get $n) (i32.const 10))))
            (drop (call $say (i32.const 1) (i32.const 16) (i32.const 3))))",
    ),
];

pub(crate) fn guest(parts: &str) -> Vec<u8> {
    let helpers: String = HELPERS.iter().filter(|(name, _)| parts.contains(name)).map(|(_, text)| *text).collect();
    let used = format!("{parts}{helpers}");
    // A helper may call a helper.
    let helpers: String = HELPERS.iter().filter(|(name, _)| used.contains(name)).map(|(_, text)| *text).collect();
    let used = format!("{parts}{helpers}");
    let imports: String =
        IMPORTS.iter().filter(|(name, _)| used.contains(&format!("call {name} "))).map(|(_, text)| *text).collect();
    let memory = if parts.contains("(memory (export") { "" } else { r#"(memory (export "memory") 1)"# };
    let text = format!("(module {imports} {memory} {helpers} {parts})");
    wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// A guest that runs these instructions.
pub(crate) fn start(instructions: &str) -> Vec<u8> {
    guest(&format!(r#"(func (export "_start") {instructions})"#))
}

pub(crate) struct Bench {
    pub(crate) sandbox: Sandbox,
    pub(crate) scratch: TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let scratch = tempfile::tempdir().expect("a temp folder");
        let sandbox = Sandbox::new(SandboxConfig::new(scratch.path())).expect("a sandbox");
        Self { sandbox, scratch }
    }

    pub(crate) fn load(&self, wasm: &[u8]) -> Result<Module, ModuleError> {
        self.sandbox.load(&Sha256Hex::of(wasm), || Ok::<_, Infallible>(Bytes::copy_from_slice(wasm)))
    }

    pub(crate) fn load_metered(&self, wasm: &[u8]) -> Result<Module, ModuleError> {
        self.sandbox.load_metered(&Sha256Hex::of(wasm), || Ok::<_, Infallible>(Bytes::copy_from_slice(wasm)))
    }

    pub(crate) fn run(&self, wasm: &[u8], task: Task) -> Result<Output, Failure> {
        let module = self.load(wasm).expect("a valid guest");
        self.sandbox.run(&module, task)
    }
}

/// Runs one guest in a sandbox of its own, with generous limits changed by the caller.
pub(crate) fn run(wasm: &[u8], limit: impl FnOnce(&mut Limits)) -> Result<Output, Failure> {
    let mut task = Task::new("{}");
    limit(&mut task.limits);
    Bench::new().run(wasm, task)
}

pub(crate) fn code(result: Result<Output, Failure>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(failure) => failure.kind.code().as_str(),
    }
}
