//! How guests end by themselves.

use std::sync::{Arc, Mutex};

use busbar_sandbox::{FailureKind, GuestEvents, Task};
use bytes::Bytes;

use crate::support::{Bench, code, guest, run, start};

/// Reads up to 1000 bytes of standard input and writes them to standard output.
const ECHO: &str = "
    (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 1000))
    (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (drop (call $say (i32.const 1) (i32.const 1024) (i32.load (i32.const 8))))";

#[test]
fn input_goes_in_and_output_comes_out() {
    let bench = Bench::new();
    let output = bench.run(&start(ECHO), Task::new("  {\"n\": [1, 2]}\n")).expect("a success");
    assert_eq!(output.stdout, "{\"n\": [1, 2]}");
    assert_eq!(output.usage.memory_bytes_peak, 65_536);
    assert!(output.stderr_tail.is_empty());
    assert_eq!(std::fs::read_dir(bench.scratch.path()).expect("readable").count(), 0);
}

#[test]
fn exit_codes_are_told_apart() {
    assert_eq!(code(run(&start("(call $proc_exit (i32.const 0))"), |_| ())), "guest_output_invalid");
    assert_eq!(code(run(&start("(call $proc_exit (i32.const 75))"), |_| ())), "attempt_failed");
    for exit in [1, 3, 134, 255, -1] {
        let failure = run(&start(&format!("(call $proc_exit (i32.const {exit}))")), |_| ()).expect_err("a failure");
        assert_eq!(failure.kind, FailureKind::Exit { code: exit });
        assert!(!failure.kind.is_retryable());
    }
}

#[test]
fn a_failure_repeats_the_log() {
    let wasm = guest(
        r#"(data (i32.const 64) "no such prime\n")
           (func (export "_start")
             (drop (call $say (i32.const 2) (i32.const 64) (i32.const 14)))
             (call $proc_exit (i32.const 3)))"#,
    );
    let failure = run(&wasm, |_| ()).expect_err("a failure");
    assert_eq!(failure.kind, FailureKind::Exit { code: 3 });
    assert_eq!(failure.message, "the guest ended with exit code 3\nno such prime");
    assert_eq!(failure.stderr_tail, "no such prime\n");
}

#[test]
fn output_that_is_no_json_is_refused() {
    let bench = Bench::new();
    for input in ["", "{}{}", "{\"a\":", "prime"] {
        assert_eq!(code(bench.run(&start(ECHO), Task::new(input))), "guest_output_invalid", "{input:?}");
    }
}

#[test]
fn traps_are_told_with_their_reason() {
    for (instructions, reason) in [
        ("unreachable", "unreachable"),
        ("(drop (i32.load (i32.const 65536)))", "out of bounds memory access"),
        ("(drop (i32.div_u (i32.const 1) (i32.const 0)))", "integer divide by zero"),
    ] {
        let failure = run(&start(instructions), |_| ()).expect_err("a failure");
        assert_eq!(failure.kind, FailureKind::Trap);
        assert!(failure.message.contains(reason), "{}", failure.message);
    }
}

#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<String>>>);

impl Heard {
    fn push(&self, text: String) {
        self.0.lock().expect("not poisoned").push(text);
    }
}

impl GuestEvents for Heard {
    fn progress(&mut self, percent: u8) {
        self.push(format!("progress {percent}"));
    }

    fn checkpoint(&mut self, state: Bytes) {
        self.push(format!("checkpoint {state:?}"));
    }

    fn log(&mut self, line: &str) {
        self.push(format!("log {line}"));
    }
}

#[test]
fn events_are_told_in_order() {
    let wasm = guest(
        r#"(data (i32.const 64) "half\nway{}")
           (func (export "_start")
             (call $progress (i32.const 10))
             (drop (call $say (i32.const 2) (i32.const 64) (i32.const 8)))
             (call $checkpoint (i32.const 64) (i32.const 4))
             (call $progress (i32.const 5))
             (call $progress (i32.const 50))
             (drop (call $say (i32.const 1) (i32.const 72) (i32.const 2))))"#,
    );
    let heard = Heard::default();
    let task = Task { events: Box::new(heard.clone()), ..Task::new("{}") };
    Bench::new().run(&wasm, task).expect("a success");
    let heard = heard.0.lock().expect("not poisoned");
    assert_eq!(*heard, ["progress 10", "log half", "checkpoint b\"half\"", "progress 50", "log way"]);
}

#[test]
fn a_checkpoint_must_be_small_and_inside() {
    for call in ["(i32.const 65530) (i32.const 7)", "(i32.const -1) (i32.const -1)"] {
        let failure = run(&start(&format!("(call $checkpoint {call})")), |_| ()).expect_err("a failure");
        assert!(failure.message.contains("outside of memory"), "{}", failure.message);
    }
    let wasm =
        guest(r#"(memory (export "memory") 2) (func (export "_start") (call $checkpoint (i32.const 0) (i32.const 65537)))"#);
    let failure = run(&wasm, |_| ()).expect_err("a failure");
    assert_eq!(failure.kind, FailureKind::Trap);
    assert!(failure.message.contains("65537 bytes"), "{}", failure.message);
}
