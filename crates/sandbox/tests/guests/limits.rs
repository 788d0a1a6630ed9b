//! Guests that take too much, each ended with the limit's own name, and neighbours that do not notice.

use std::sync::{Barrier, mpsc};
use std::time::{Duration, Instant};

use busbar_sandbox::{Failure, GuestEvents, ImportGroup, Imports, Limits, Sandbox, SandboxConfig, Task};
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
    assert_eq!(failure.kind.code().as_str(), "limit_tables");
    assert!(failure.message.contains("1000000001 of 100000 table elements"), "{}", failure.message);
    let lower = failure_of_tables(&guest(r#"(table 6 funcref) (table 5 funcref) (func (export "_start"))"#), 10);
    assert_eq!(lower, "limit_tables", "tables count together, from the start");
}

fn failure_of_tables(wasm: &[u8], table_elements: u64) -> &'static str {
    code(run(wasm, |limits| limits.table_elements = table_elements))
}

#[test]
fn endless_recursion_is_ended_by_the_stack() {
    let wasm = guest(r#"(func $deep (call $deep) (call $deep)) (func (export "_start") (call $deep))"#);
    let failure = failure(&wasm, |_| ());
    assert_eq!(failure.kind.code().as_str(), "limit_stack");
    assert!(failure.message.contains("1048576 bytes"), "{}", failure.message);
}

#[test]
fn the_host_says_how_large_the_stack_is() {
    let scratch = tempfile::tempdir().expect("a temp folder");
    let config = SandboxConfig { stack_bytes: 64 * 1024, ..SandboxConfig::new(scratch.path()) };
    let bench = Bench { sandbox: Sandbox::new(config).expect("a sandbox"), scratch };
    // Ten thousand calls fit into a megabyte and not into a sixteenth of it.
    let wasm = guest(
        r#"(func $deep (param $left i32) (result i32)
             (if (result i32) (local.get $left)
               (then (i32.add (i32.const 1) (call $deep (i32.sub (local.get $left) (i32.const 1))))) (else (i32.const 0))))
           (func (export "_start") (drop (call $deep (i32.const 10000))))"#,
    );
    assert_eq!(code(run(&wasm, |_| ())), "guest_output_invalid", "it ended by itself");
    assert_eq!(code(bench.run(&wasm, Task::new("{}"))), "limit_stack");
}

#[test]
fn fuel_ends_a_guest_at_the_same_instruction_every_time() {
    let wasm = guest(
        r#"(global $count (mut i32) (i32.const 0))
           (func (export "_start")
             (loop $again
               (global.set $count (i32.add (global.get $count) (i32.const 1)))
               (i32.store (i32.const 64) (global.get $count))
               (drop (call $say (i32.const 2) (i32.const 64) (i32.const 4)))
               (br $again)))"#,
    );
    let once = || {
        let bench = Bench::new();
        let limits = Limits { fuel: 12_345, ..Limits::default() };
        let module = bench.load_metered(&wasm).expect("a valid guest");
        bench.sandbox.run(&module, Task { limits, ..Task::new("{}") }).expect_err("a failure")
    };
    let (first, second) = (once(), once());
    assert_eq!(first.kind.code().as_str(), "limit_fuel");
    assert!(first.message.contains("12345 of 12345 instructions"), "{}", first.message);
    assert_eq!((first.usage.fuel, first.stderr_tail.len() % 4), (second.usage.fuel, 0));
    assert_eq!(first.stderr_tail, second.stderr_tail);
}

#[test]
fn fuel_is_counted_only_where_it_was_asked_for() {
    let (bench, wasm) = (Bench::new(), start("(nop)"));
    let limits = Limits { fuel: 1_000, ..Limits::default() };
    let plain = bench.run(&wasm, Task { limits, ..Task::new("{}") });
    assert_eq!(code(plain), "internal", "a module without counting must not run as if it counted");
    let metered = bench.load_metered(&wasm).expect("a valid guest");
    let failure = bench.sandbox.run(&metered, Task::new("{}")).expect_err("no output");
    assert_eq!(failure.kind.code().as_str(), "guest_output_invalid");
    assert!(failure.usage.fuel > 0 && failure.usage.fuel < 100, "{:?}", failure.usage);
}

#[test]
fn a_flood_of_output_is_ended() {
    let wasm = start("(loop $again (drop (call $say (i32.const 1) (i32.const 0) (i32.const 65536))) (br $again))");
    let failure = failure(&wasm, |limits| limits.output_bytes = 1_000_000);
    assert_eq!(failure.kind.code().as_str(), "limit_output");
    let wrote = failure.usage.output_bytes;
    assert!(wrote > 1_000_000 && wrote <= 1_000_000 + 65_536, "{wrote}");
    assert!(failure.message.contains(&format!("{wrote} of 1000000 bytes")), "{:?}", failure.message);
    assert!(failure.message.contains(&format!("[cut: the first 512 of {wrote} bytes]")), "{:?}", failure.message);
    assert!(failure.stdout.ends_with(format!("\n[cut: the first 1000000 of {wrote} bytes]").as_bytes()));
}

#[test]
fn a_flood_of_text_is_cut_and_the_guest_goes_on() {
    // It says a hundred times 64 KiB, and exits; or it exits with 3 if one of them is refused.
    let wasm = guest(
        r#"(memory (export "memory") 2) (data (i32.const 1000) "text \22\c3\a4\22\0a")
           (func (export "_start") (local $left i32)
             (local.set $left (i32.const 100))
             (loop $again
               (if (call $say (i32.const 1) (i32.const 1000) (i32.const 65536)) (then (call $proc_exit (i32.const 3))))
               (local.set $left (i32.sub (local.get $left) (i32.const 1)))
               (br_if $again (local.get $left))))"#,
    );
    let text = |output_bytes| {
        let output = run(&wasm, |limits| *limits = Limits { text: true, output_bytes, ..*limits }).expect("it is not ended");
        assert_eq!(output.usage.output_bytes, 6_553_600, "what was left out is counted");
        serde_json::from_slice::<String>(&output.stdout).expect("one JSON string")
    };
    assert_eq!(text(9), "text \"ä\"\n[cut: the first 9 of 6553600 bytes]");
    assert_eq!(text(7), "text \"\u{fffd}\n[cut: the first 7 of 6553600 bytes]", "a character was cut");
    let cut = text(Limits::default().output_bytes);
    assert!(cut.ends_with("\n[cut: the first 1048576 of 6553600 bytes]"), "{:?}", &cut[cut.len() - 100..]);
    assert!(!text(6_553_600).contains("[cut"), "all of it has room");
}

#[test]
fn a_guest_whose_output_is_text_still_ends_as_it_says() {
    let failure = failure(
        &start("(drop (call $say (i32.const 1) (i32.const 16) (i32.const 99))) (call $proc_exit (i32.const 3))"),
        |limits| {
            *limits = Limits { text: true, output_bytes: 5, ..*limits };
        },
    );
    assert_eq!(
        (failure.kind.code().as_str(), &failure.stdout[..]),
        ("guest_exit", &b"\0\0\0\0\0\n[cut: the first 5 of 99 bytes]"[..])
    );
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
fn randomness_is_bounded_in_all() {
    let wasm = guest(
        r#"(memory (export "memory") 64)
           (func (export "_start")
             (loop $again (drop (call $random (i32.const 0) (i32.const 4000000))) (br $again)))"#,
    );
    let failure = failure(&wasm, |limits| limits.random_bytes = 10_000_000);
    assert_eq!(failure.kind.code().as_str(), "limit_random");
    assert!(failure.message.contains("12000000 of 10000000 random bytes"), "{}", failure.message);
    assert_eq!(failure.usage.random_bytes, 8_000_000);
}

#[test]
fn imports_that_the_limits_do_not_name_are_denied() {
    let clock = start("(drop (call $clock (i32.const 1) (i64.const 0) (i32.const 64)))");
    let failure = failure(&clock, |limits| limits.imports = Imports::NONE.with(ImportGroup::Files));
    assert_eq!(failure.kind.code().as_str(), "import_denied");
    assert!(failure.message.contains("groups clocks; its limits allow it files"), "{}", failure.message);
    assert_eq!(code(run(&clock, |limits| limits.imports = Imports::NONE.with(ImportGroup::Clocks))), "guest_output_invalid");
    let bare = start("(drop (call $say (i32.const 1) (i32.const 0) (i32.const 0)))");
    assert_eq!(code(run(&bare, |limits| limits.imports = Imports::NONE)), "guest_output_invalid", "the streams are for all");
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

/// Tells that a guest runs.
struct Runs(mpsc::Sender<()>);

impl GuestEvents for Runs {
    fn progress(&mut self, _: u8) {
        self.0.send(()).expect("the test listens");
    }
}

#[test]
fn one_guest_too_many_is_refused_and_the_others_go_on() {
    let scratch = tempfile::tempdir().expect("a temp folder");
    let config = SandboxConfig { runs_max: 1, ..SandboxConfig::new(scratch.path()) };
    let bench = Bench { sandbox: Sandbox::new(config).expect("a sandbox"), scratch };
    let (tell, told) = mpsc::channel();
    let cancel = CancellationToken::new();
    let first = Task { cancel: cancel.clone(), events: Box::new(Runs(tell)), ..Task::new("{}") };
    let sleeps = start(&format!("(call $progress (i32.const 1)) {SLEEP}"));
    let (first, second) = std::thread::scope(|scope| {
        let run = scope.spawn(|| bench.run(&sleeps, first));
        told.recv().expect("the first one runs");
        let second = bench.run(&sleeps, Task::new("{}")).expect_err("there is room for one");
        cancel.cancel();
        (run.join().expect("no panic"), second)
    });
    assert!(second.kind.code().as_str() == "internal" && second.kind.is_retryable(), "{}", second.message);
    assert_eq!(code(first), "cancelled");
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
