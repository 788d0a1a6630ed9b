//! Modules that are not loaded, and how often those are compiled that are.

use std::convert::Infallible;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

use busbar_protocol::pointers::Sha256Hex;
use busbar_sandbox::{ModuleError, Sandbox, SandboxConfig};
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
