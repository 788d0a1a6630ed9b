//! Modules that are not loaded, and how often those are compiled that are.

use std::convert::Infallible;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

use busbar_protocol::pointers::Sha256Hex;
use busbar_sandbox::{CacheError, Limits, ModuleError, Sandbox, SandboxConfig, SandboxError, Task};
use bytes::Bytes;

use crate::support::{Bench, guest, start};

fn reason(wasm: &[u8]) -> String {
    match Bench::new().load(wasm) {
        Err(error @ ModuleError::Invalid { .. }) => error.to_string(),
        Err(other) => panic!("another error: {other}"),
        Ok(_) => panic!("it was loaded"),
    }
}

#[test]
fn bytes_that_are_not_what_the_digest_names_are_not_compiled() {
    let bench = Bench::new();
    let digest = Sha256Hex::of(b"something else");
    let error = bench.sandbox.load(&digest, || Ok::<_, Infallible>(Bytes::from(start("")))).err().expect("an error");
    assert_eq!(error.code().as_str(), "module_digest_mismatch");
}

#[test]
fn bytes_that_cannot_be_had_are_said_so_and_asked_for_again() {
    let bench = Bench::new();
    let wasm = start("");
    let error = bench.sandbox.load(&Sha256Hex::of(&wasm), || Err("no route")).err().expect("an error");
    assert_eq!(error.code().as_str(), "module_missing");
    assert!(error.to_string().contains("no route"), "{error}");
    assert!(bench.load(&wasm).is_ok());
}

#[test]
fn what_is_no_guest_is_refused_with_the_reason() {
    assert!(reason(b"#!/bin/sh").contains("magic"), "{}", reason(b"#!/bin/sh"));
    assert!(reason(b"").contains("unexpected end"), "{}", reason(b""));
    assert!(reason(b"(module)").contains("magic"), "the text form is not accepted");
    let cut = &start(&"(nop)".repeat(100))[..40];
    assert!(!reason(cut).is_empty());
    assert!(reason(&guest("")).contains("_start"));
    assert!(reason(&guest(r#"(func (export "_start") (param i32))"#)).contains("_start"));
    let no_memory = wat::parse_str(r#"(module (func (export "_start")))"#).expect("valid text");
    assert!(reason(&no_memory).contains("memory"));
}

#[test]
fn imports_that_are_not_offered_are_refused() {
    for (module, name) in
        [("env", "system"), ("wasi_snapshot_preview1", "sock_send"), ("busbar", "shell"), ("wasi_unstable", "fd_write")]
    {
        let text =
            format!(r#"(module (import "{module}" "{name}" (func)) (memory (export "memory") 1) (func (export "_start")))"#);
        let reason = reason(&wat::parse_str(&text).expect("valid text"));
        assert!(reason.contains(&format!("imports {module}.{name}")), "{reason}");
    }
    let wrong_type =
        r#"(module (import "busbar" "progress" (func (param i64))) (memory (export "memory") 1) (func (export "_start")))"#;
    assert!(reason(&wat::parse_str(wrong_type).expect("valid text")).contains("incompatible"));
    let memory = r#"(module (import "env" "memory" (memory 1)) (export "memory" (memory 0)) (func (export "_start")))"#;
    assert!(reason(&wat::parse_str(memory).expect("valid text")).contains("env.memory"));
}

#[test]
fn a_module_above_the_size_bound_is_refused() {
    let scratch = tempfile::tempdir().expect("a temp folder");
    let config = SandboxConfig { module_bytes_max: 20, ..SandboxConfig::new(scratch.path()) };
    let bench = Bench { sandbox: Sandbox::new(config).expect("a sandbox"), scratch };
    assert_eq!(bench.load(&start("")).err().expect("an error").code().as_str(), "module_invalid");
}

#[test]
fn a_module_is_fetched_once_for_all_who_ask() {
    let bench = Bench::new();
    let wasm = start("");
    let fetches = AtomicUsize::new(0);
    let all = Barrier::new(6);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                all.wait();
                let fetch = || {
                    fetches.fetch_add(1, Ordering::Relaxed);
                    Ok::<_, Infallible>(Bytes::copy_from_slice(&wasm))
                };
                assert!(bench.sandbox.load(&Sha256Hex::of(&wasm), fetch).is_ok());
            });
        }
    });
    assert_eq!(fetches.load(Ordering::Relaxed), 1);
}

#[test]
fn folders_that_a_killed_process_left_are_removed() {
    let scratch = tempfile::tempdir().expect("a temp folder");
    std::fs::create_dir_all(scratch.path().join("task-old/tmp")).expect("made");
    std::fs::write(scratch.path().join("other"), "").expect("written");
    let _sandbox = Sandbox::new(SandboxConfig::new(scratch.path())).expect("a sandbox");
    assert!(!scratch.path().join("task-old").exists());
    assert!(scratch.path().join("other").exists());
}

fn with_cache(change: impl FnOnce(&mut SandboxConfig)) -> Bench {
    let scratch = tempfile::tempdir().expect("a temp folder");
    let mut config = SandboxConfig::new(scratch.path());
    change(&mut config);
    Bench { sandbox: Sandbox::new(config).expect("a sandbox"), scratch }
}

/// Whether the module was fetched, that is, was not found compiled.
fn fetched(bench: &Bench, wasm: &[u8]) -> bool {
    let mut fetched = false;
    let fetch = || {
        fetched = true;
        Ok::<_, Infallible>(Bytes::copy_from_slice(wasm))
    };
    let module = bench.sandbox.load(&Sha256Hex::of(wasm), fetch).expect("a valid guest");
    let output = bench.sandbox.run(&module, Task::new("{}")).expect("a success");
    assert_eq!(output.stdout, "7");
    fetched
}

/// Prints 7.
fn seven() -> Vec<u8> {
    start("(i32.store8 (i32.const 64) (i32.const 55)) (drop (call $say (i32.const 1) (i32.const 64) (i32.const 1)))")
}

#[test]
fn the_next_sandbox_finds_what_was_compiled_and_another_folder_does_not_help_it() {
    let (folder, other) = (tempfile::tempdir().expect("a temp folder"), tempfile::tempdir().expect("another"));
    let with = |folder: &tempfile::TempDir| with_cache(|config| config.cache_dir = Some(folder.path().join("compiled")));
    assert!(fetched(&with(&folder), &seven()));
    assert!(!fetched(&with(&folder), &seven()));
    assert!(fetched(&with(&other), &seven()));
    for entry in std::fs::read_dir(folder.path().join("compiled")).expect("readable") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), other.path().join("compiled").join(entry.file_name())).expect("copied");
    }
    assert!(fetched(&with(&other), &seven()), "what was copied is not trusted");
    assert!(!fetched(&with(&other), &seven()), "and was made again");
}

#[test]
fn machine_code_that_was_changed_is_not_run() {
    let folder = tempfile::tempdir().expect("a temp folder");
    let with = || with_cache(|config| config.cache_dir = Some(folder.path().join("compiled")));
    assert!(fetched(&with(), &seven()));
    for entry in std::fs::read_dir(folder.path().join("compiled")).expect("readable") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "code") {
            let mut bytes = std::fs::read(&path).expect("readable");
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x90;
            std::fs::write(&path, bytes).expect("written");
        }
    }
    assert!(fetched(&with(), &seven()));
}

#[test]
fn engines_with_other_settings_do_not_share_machine_code() {
    let folder = tempfile::tempdir().expect("a temp folder");
    let with = |stack_bytes: usize| {
        with_cache(|config| {
            config.cache_dir = Some(folder.path().join("compiled"));
            config.stack_bytes = stack_bytes;
        })
    };
    let bench = with(1 << 20);
    assert!(fetched(&bench, &seven()));
    let metered = bench.load_metered(&seven()).expect("a valid guest");
    let limits = Limits { fuel: 1_000, ..Limits::default() };
    assert!(bench.sandbox.run(&metered, Task { limits, ..Task::new("{}") }).expect("a success").usage.fuel > 0);
    assert!(!fetched(&with(1 << 20), &seven()), "the other build has not replaced it");
}

#[test]
fn a_folder_that_others_may_write_to_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let (folder, scratch) = (tempfile::tempdir().expect("a temp folder"), tempfile::tempdir().expect("another"));
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).expect("set");
    let config = SandboxConfig { cache_dir: Some(folder.path().to_owned()), ..SandboxConfig::new(scratch.path()) };
    assert!(matches!(Sandbox::new(config), Err(SandboxError::Cache { source: CacheError::NotOurs { .. }, .. })));
}

#[test]
fn compiling_is_bounded_in_time_and_size() {
    let no_time = |config: &mut SandboxConfig| config.compile_ms_max = 0;
    let no_room = |config: &mut SandboxConfig| config.code_bytes_max = 100;
    for change in [no_time, no_room] {
        let error = with_cache(change).load(&seven()).err().expect("too costly");
        assert_eq!(error.code().as_str(), "limit_compile", "{error}");
    }
}
