//! Guests that take too much, each ended with the limit's own name, and neighbours that do not notice.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use busbar_sandbox::{Failure, Limits, Sandbox, SandboxConfig, Task};
use tokio_util::sync::CancellationToken;

use crate::support::{Bench, code, guest, run, start};

const LOOP: &str = "(loop $again (br $again))";

/// Subscribes to a relative clock of a thousand seconds at address 64, and waits for it.
const SLEEP: &str = "
    (i32.store (i32.const 80) (i32.const 1))
    (i64.store (i32.const 88) (i64.const 1000000000000))
    (drop (call $poll (i32.const 64) (i32.const 256) (i32.const 1) (i32.const 512)))";

fn failure(wasm: &[u8], limit: impl FnOnce(&mut Limits)) -> Failure {
    run(wasm, limit).expect_err("a failure")
}

#[test]
fn a_loop_is_ended_by_the_processor_limit() {
    let failure = failure(&start(LOOP), |limits| limits.cpu_ms = 30);
    assert_eq!(failure.kind.code().as_str(), "limit_cpu");
    assert!(failure.message.contains("30 ms"), "{}", failure.message);
    assert!(failure.usage.cpu > Duration::from_millis(30));
}

#[test]
fn a_loop_is_ended_by_the_wall_limit() {
    let failure = failure(&start(LOOP), |limits| limits.wall_ms = 30);
    assert_eq!(failure.kind.code().as_str(), "limit_wall");
}

#[test]
fn a_loop_before_start_is_ended_too() {
    let wasm = guest(&format!(r#"(func $init {LOOP}) (start $init) (func (export "_start"))"#));
    assert_eq!(failure(&wasm, |limits| limits.cpu_ms = 30).kind.code().as_str(), "limit_cpu");
}

#[test]
fn a_loop_of_calls_into_the_host_is_ended() {
    let wasm = start("(loop $again (drop (call $clock (i32.const 1) (i64.const 0) (i32.const 64))) (br $again))");
    assert_eq!(failure(&wasm, |limits| limits.cpu_ms = 30).kind.code().as_str(), "limit_cpu");
}

#[test]
fn a_sleeper_is_ended_by_the_wall_limit_and_uses_no_processor() {
    let failure = failure(&start(SLEEP), |limits| limits.wall_ms = 30);
    assert_eq!(failure.kind.code().as_str(), "limit_wall");
    assert!(failure.usage.wall >= Duration::from_millis(30));
    assert!(failure.usage.cpu < failure.usage.wall);
}

#[test]
fn growing_memory_is_ended() {
    let wasm = start("(loop $again (drop (memory.grow (i32.const 1))) (br $again))");
    let failure = failure(&wasm, |limits| limits.memory_bytes = 10 * 65_536);
    assert_eq!(failure.kind.code().as_str(), "limit_memory");
    assert_eq!(failure.usage.memory_bytes_peak, 10 * 65_536);
}

#[test]
fn memory_that_is_too_large_from_the_start_is_refused() {
    let wasm = guest(r#"(memory (export "memory") 32) (func (export "_start"))"#);
    assert_eq!(failure(&wasm, |limits| limits.memory_bytes = 65_536).kind.code().as_str(), "limit_memory");
}

#[test]
fn growing_tables_is_ended() {
    let wasm = guest(
        r#"(table $t 1 funcref)
           (func (export "_start") (drop (table.grow $t (ref.null func) (i32.const 1000000000))))"#,
    );
    let failure = failure(&wasm, |_| ());
    assert_eq!(failure.kind.code().as_str(), "limit_memory");
    assert!(failure.message.contains("table elements"), "{}", failure.message);
}

#[test]
fn a_flood_of_output_is_ended() {
    let wasm = start("(loop $again (drop (call $say (i32.const 1) (i32.const 0) (i32.const 65536))) (br $again))");
    let failure = failure(&wasm, |limits| limits.output_bytes = 1_000_000);
    assert_eq!(failure.kind.code().as_str(), "limit_output");
    assert!(failure.message.contains("1000000 bytes"), "{}", failure.message);
}

#[test]
fn a_flood_of_log_costs_processor_time_and_nothing_else() {
    let wasm = start("(loop $again (drop (call $say (i32.const 2) (i32.const 0) (i32.const 65536))) (br $again))");
    let failure = failure(&wasm, |limits| limits.cpu_ms = 50);
    assert_eq!(failure.kind.code().as_str(), "limit_cpu");
    assert!(failure.stderr_tail.len() <= 64 * 1024);
    assert!(failure.message.len() < 32 * 1024);
}

#[test]
fn huge_randomness_is_refused() {
    let wasm = guest(
        r#"(memory (export "memory") 64)
           (func (export "_start") (drop (call $random (i32.const 0) (i32.const 4000000))))"#,
    );
    let failure = failure(&wasm, |_| ());
    assert_eq!(failure.kind.code().as_str(), "guest_trap");
    assert!(failure.message.contains("exceeds limit"), "{}", failure.message);
}

#[test]
fn ceilings_lower_the_limits_of_a_task() {
    let scratch = tempfile::tempdir().expect("a temp folder");
    let ceilings = Limits { cpu_ms: 30, ..Limits::CEILING };
    let config = SandboxConfig { ceilings, ..SandboxConfig::new(scratch.path()) };
    let bench = Bench { sandbox: Sandbox::new(config).expect("a sandbox"), scratch };
    let failure = bench.run(&start(LOOP), Task::new("{}")).expect_err("a failure");
    assert_eq!(failure.kind.code().as_str(), "limit_cpu");
}

#[test]
fn cancelling_ends_those_who_compute_and_those_who_wait() {
    let bench = Bench::new();
    for wasm in [start(LOOP), start(SLEEP)] {
        let cancel = CancellationToken::new();
        let task = Task { cancel: cancel.clone(), ..Task::new("{}") };
        let started = Barrier::new(2);
        let result = std::thread::scope(|scope| {
            let run = scope.spawn(|| {
                started.wait();
                bench.run(&wasm, task)
            });
            started.wait();
            cancel.cancel();
            run.join().expect("no panic")
        });
        assert_eq!(code(result), "cancelled");
    }
}

#[test]
fn neighbours_are_unharmed() {
    let bench = Bench::new();
    let bad = [
        start(LOOP),
        start("unreachable"),
        start("(loop $again (drop (memory.grow (i32.const 1))) (br $again))"),
        start("(loop $again (drop (call $say (i32.const 1) (i32.const 0) (i32.const 65536))) (br $again))"),
        start(SLEEP),
    ];
    let good = start("(i32.store8 (i32.const 64) (i32.const 49)) (drop (call $say (i32.const 1) (i32.const 64) (i32.const 1)))");
    let until = Instant::now() + Duration::from_millis(200);
    std::thread::scope(|scope| {
        for wasm in &bad {
            scope.spawn(|| {
                while Instant::now() < until {
                    let limits = Limits { cpu_ms: 20, wall_ms: 60, memory_bytes: 1 << 20, ..Limits::default() };
                    assert!(bench.run(wasm, Task { limits, ..Task::new("{}") }).is_err());
                }
            });
        }
        scope.spawn(|| {
            while Instant::now() < until {
                assert_eq!(bench.run(&good, Task::new("{}")).expect("a success").stdout, "1");
            }
        });
    });
}
