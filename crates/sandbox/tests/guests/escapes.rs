//! Guests that try to get out: by paths, links, `/proc`, the environment, sockets, clocks, and descriptors that are not theirs. Each
//! tries with a read-only and a writable directory in hand, which is more than most have.

use std::fs;
use std::path::Path;

use busbar_sandbox::{Artifact, Limits, Sandbox, SandboxConfig, Task};

use crate::files::{CREATE, FIRST, READ, WRITE, errno, errno_of, file, open};
use crate::support::{Bench, code, guest, run, start};

/// `/tmp`, which comes after `/in`.
const SECOND: i32 = 4;
/// `__WASI_OFLAGS_DIRECTORY`, `__WASI_OFLAGS_TRUNC`.
const DIRECTORY: i32 = 2;
const TRUNCATE: i32 = 8;
/// What no guest may ever print.
const SECRET: &str = "the neighbour's secret";

/// A sandbox with an artifact, and beside its tasks a file that must stay what it is.
struct Cell {
    bench: Bench,
    artifact: std::path::PathBuf,
}

impl Cell {
    fn new() -> Self {
        let bench = Bench::new();
        let artifact = file(&bench, "[1]");
        fs::write(bench.scratch.path().join("secret"), SECRET).expect("written");
        Self { bench, artifact }
    }

    fn task(&self) -> Task {
        let artifacts = vec![Artifact { id: "text".to_owned(), path: self.artifact.clone() }];
        Task { artifacts, limits: Limits { tmp_bytes: 1 << 20, ..Limits::default() }, ..Task::new("{}") }
    }

    fn errno(&self, path: &str, instructions: &str) -> u32 {
        errno(&self.bench, &errno_of(path, instructions), self.task())
    }

    /// What a test ends with: nothing was changed, nothing was left.
    fn is_unharmed(&self) {
        let root = self.bench.scratch.path();
        assert_eq!(fs::read_to_string(root.join("secret")).expect("readable"), SECRET);
        assert_eq!(fs::read_to_string(&self.artifact).expect("readable"), "[1]");
        let mut names: Vec<_> = fs::read_dir(root).expect("readable").map(|entry| entry.expect("an entry").file_name()).collect();
        names.sort();
        assert_eq!(names, ["artifact", "secret"]);
    }
}

#[test]
fn no_path_leads_out() {
    let cell = Cell::new();
    let paths = [
        "..",
        "../",
        "../..",
        "./..",
        "../secret",
        "../../secret",
        "./../../secret",
        ".//..//..//secret",
        "text/../../../secret",
        "no/../../../secret",
        "../in/../../secret",
        "/",
        "//",
        "/in/text",
        "/tmp",
        "/etc/passwd",
        "//etc/passwd",
        "/proc/self/environ",
        "/proc/self/root/etc/passwd",
        "/proc/1/environ",
        "/dev/mem",
        "/sys/kernel",
        "../../../../../../../../../../../../etc/passwd",
        "../../../../../../../../../../../../proc/self/environ",
        "..\\00",
        "text\\00/../../secret",
        "..\\2f..\\2fsecret",
    ];
    for path in paths {
        for directory in [FIRST, SECOND] {
            for (flags, rights) in [(0, READ), (DIRECTORY, READ), (CREATE, READ | WRITE)] {
                // The length in the text form counts escapes as three letters: what follows in memory are zeros.
                let errno = cell.errno(path, &open(directory, path, flags, rights));
                assert!(errno != 0, "{path:?} was opened from {directory} with flags {flags}");
            }
        }
    }
    let long = "a/../".repeat(1_000) + "../secret";
    assert!(cell.errno(&long, &open(SECOND, &long, 0, READ)) != 0);
    cell.is_unharmed();
}

#[test]
fn nothing_is_moved_made_or_described_outside() {
    let cell = Cell::new();
    let tries = [
        ("../x", "(call $mkdir (i32.const 4) (i32.const 64) (i32.const 4))"),
        ("/x/y", "(call $mkdir (i32.const 4) (i32.const 64) (i32.const 4))"),
        ("x", "(call $mkdir (i32.const 3) (i32.const 64) (i32.const 1))"),
        ("../../secret", "(call $unlink (i32.const 4) (i32.const 64) (i32.const 12))"),
        ("../../secret", "(call $rename (i32.const 4) (i32.const 64) (i32.const 12) (i32.const 4) (i32.const 70) (i32.const 6))"),
        ("text", "(call $rename (i32.const 3) (i32.const 64) (i32.const 4) (i32.const 4) (i32.const 64) (i32.const 4))"),
        (
            "text",
            "(call $link (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 4) (i32.const 4) (i32.const 64) (i32.const 4))",
        ),
        (
            "../../secret",
            "(call $link (i32.const 4) (i32.const 1) (i32.const 64) (i32.const 12) (i32.const 4) (i32.const 70) (i32.const 6))",
        ),
        ("../../secret", "(call $symlink (i32.const 64) (i32.const 12) (i32.const 4) (i32.const 70) (i32.const 6))"),
        (
            "/proc/self/exe",
            "(call $readlink (i32.const 4) (i32.const 64) (i32.const 14) (i32.const 256) (i32.const 256) (i32.const 32))",
        ),
        ("../../secret", "(call $stat (i32.const 4) (i32.const 1) (i32.const 64) (i32.const 12) (i32.const 256))"),
        (
            "text",
            "(call $set_times (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 4) (i64.const 0) (i64.const 0) (i32.const 5))",
        ),
    ];
    for (path, instructions) in tries {
        assert!(cell.errno(path, instructions) != 0, "{instructions} with {path:?}");
    }
    for flags in [TRUNCATE, CREATE | TRUNCATE] {
        assert!(cell.errno("text", &open(FIRST, "text", flags, WRITE)) != 0, "an artifact was cut with {flags}");
    }
    cell.is_unharmed();
}

#[test]
fn what_was_opened_to_be_read_cannot_be_written() {
    let cell = Cell::new();
    let opened = open(FIRST, "text", 0, READ);
    let then = |call: &str| format!("(block (result i32) (drop {opened}) (i32.store (i32.const 4) (i32.const 1)) {call})");
    for call in [
        "(call $fd_write (i32.load (i32.const 1024)) (i32.const 0) (i32.const 1) (i32.const 8))",
        "(call $fd_pwrite (i32.load (i32.const 1024)) (i32.const 0) (i32.const 1) (i64.const 0) (i32.const 8))",
        "(call $set_size (i32.load (i32.const 1024)) (i64.const 0))",
    ] {
        assert!(cell.errno("text", &then(call)) != 0, "{call}");
    }
    cell.is_unharmed();
}

#[test]
fn descriptors_that_were_not_granted_do_not_exist() {
    let cell = Cell::new();
    for descriptor in [-1, 0, 1, 2, 5, 6, 100, 1_000_000, i32::MAX] {
        assert!(cell.errno("text", &open(descriptor, "text", 0, READ)) != 0, "opened from {descriptor}");
        let granted = format!("(call $prestat (i32.const {descriptor}) (i32.const 256))");
        assert!(cell.errno("text", &granted) != 0, "{descriptor} is a granted directory");
    }
    for (from, to) in [(3, 1), (4, 0), (1, 3), (4, 3)] {
        assert!(cell.errno("text", &format!("(call $renumber (i32.const {from}) (i32.const {to}))")) != 0);
    }
    cell.is_unharmed();
}

#[test]
fn a_link_that_the_host_left_in_the_way_is_not_followed_out() {
    // Were a link to appear in the folder of a task, by whatever fault of ours, it would still lead nowhere.
    let cell = Cell::new();
    let outside = cell.bench.scratch.path().join("secret");
    let link = cell.bench.scratch.path().join("artifact-link");
    std::os::unix::fs::symlink(&outside, &link).expect("linked");
    let artifacts = vec![Artifact { id: "text".to_owned(), path: link.clone() }];
    let opened = errno(&cell.bench, &errno_of("text", &open(FIRST, "text", 0, READ)), Task { artifacts, ..Task::new("{}") });
    assert_eq!(opened, 0, "what was granted is the file itself");
    fs::remove_file(link).expect("removed");
    let artifacts = vec![Artifact { id: "text".to_owned(), path: Path::new("/proc/self/cwd").to_owned() }];
    let result = cell.bench.run(&errno_of("text", &open(FIRST, "text", 0, READ)), Task { artifacts, ..Task::new("{}") });
    assert_eq!(code(result), "artifact_unavailable", "a folder is no artifact");
    cell.is_unharmed();
}

#[test]
fn there_is_no_environment_and_there_are_no_arguments() {
    let cell = Cell::new();
    assert!(std::env::vars_os().next().is_some(), "the host has an environment");
    for call in ["$environ", "$args"] {
        let count = format!(
            "(block (result i32) (drop (call {call} (i32.const 256) (i32.const 260)))
                (i32.add (i32.load (i32.const 256)) (i32.load (i32.const 260))))"
        );
        assert_eq!(cell.errno("text", &count), 0, "{call}");
    }
}

#[test]
fn there_are_no_sockets() {
    for name in ["sock_accept", "sock_recv", "sock_send", "sock_shutdown", "sock_open", "sock_connect"] {
        let text = format!(
            r#"(module (import "wasi_snapshot_preview1" "{name}" (func)) (memory (export "memory") 1) (func (export "_start")))"#
        );
        let error = Bench::new().load(&wat::parse_str(&text).expect("valid text")).err().expect("refused");
        assert_eq!(error.code().as_str(), "module_invalid", "{name}: {error}");
    }
}

#[test]
fn clocks_are_coarse_and_those_of_the_processor_are_not_offered() {
    let cell = Cell::new();
    for clock in [0, 1] {
        // Whole milliseconds, and a resolution that says so.
        let fine = format!(
            "(block (result i32) (drop (call $clock (i32.const {clock}) (i64.const 0) (i32.const 256)))
                (drop (call $clock_res (i32.const {clock}) (i32.const 264)))
                (i32.or (i64.ne (i64.rem_u (i64.load (i32.const 256)) (i64.const 1000000)) (i64.const 0))
                        (i64.lt_u (i64.load (i32.const 264)) (i64.const 1000000))))"
        );
        assert_eq!(cell.errno("text", &fine), 0, "clock {clock}");
    }
    for clock in [2, 3, 4, -1] {
        let read = format!("(call $clock (i32.const {clock}) (i64.const 0) (i32.const 256))");
        let result = cell.bench.run(&errno_of("text", &read), cell.task());
        let refused = match &result {
            Ok(output) => output.stdout != "100",
            Err(failure) => failure.kind.code().as_str() == "guest_trap",
        };
        assert!(refused, "clock {clock} answered");
    }
}

#[test]
fn addresses_outside_of_memory_end_the_guest_or_are_refused() {
    for call in [
        "(call $random (i32.const 65530) (i32.const 100))",
        "(call $clock (i32.const 0) (i64.const 0) (i32.const -4))",
        "(call $fd_write (i32.const 1) (i32.const -8) (i32.const 1) (i32.const 0))",
        "(call $fd_read (i32.const 0) (i32.const 65528) (i32.const 1000) (i32.const 0))",
        "(call $readdir (i32.const 3) (i32.const 65530) (i32.const 100000) (i64.const 0) (i32.const 0))",
        "(call $stat (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 4) (i32.const 65530))",
        "(call $open (i32.const 3) (i32.const 0) (i32.const -1) (i32.const -1) (i32.const 0) (i64.const 2) (i64.const 0)
            (i32.const 0) (i32.const 0))",
    ] {
        let cell = Cell::new();
        let result = cell.bench.run(&errno_of("text", call), cell.task());
        assert!(result.is_err() || result.is_ok_and(|output| output.stdout != "100"), "{call}");
        cell.is_unharmed();
    }
}

#[test]
fn a_checkpoint_and_a_message_from_nowhere_are_traps() {
    assert_eq!(code(run(&start("(call $checkpoint (i32.const 65536) (i32.const 1))"), |_| ())), "guest_trap");
    let calls_itself = guest(
        r#"(table 1 funcref) (elem (i32.const 0) $start)
           (func $start (export "_start") (call_indirect (i32.const 7)))"#,
    );
    assert_eq!(code(run(&calls_itself, |_| ())), "guest_trap");
}

/// Room for guests is used again: what one wrote must not be there for the next, neither what is wiped in place nor what goes back to
/// the system.
#[test]
fn nobody_finds_what_another_guest_left_in_memory() {
    let scratch = tempfile::tempdir().expect("a temp folder");
    let config = SandboxConfig { runs_max: 1, ..SandboxConfig::new(scratch.path()) };
    let bench = Bench { sandbox: Sandbox::new(config).expect("a sandbox"), scratch };
    let wasm = start(
        "(local $at i32)
         (drop (memory.grow (i32.const 63)))
         (loop $again
           (if (i64.ne (i64.load (local.get $at)) (i64.const 0)) (then unreachable))
           (i64.store (local.get $at) (i64.const -1))
           (local.set $at (i32.add (local.get $at) (i32.const 8)))
           (br_if $again (i32.lt_u (local.get $at) (i32.const 4194304))))
         (i32.store8 (i32.const 64) (i32.const 49))
         (drop (call $say (i32.const 1) (i32.const 64) (i32.const 1)))",
    );
    for _ in 0..3 {
        assert_eq!(bench.run(&wasm, Task::new("{}")).expect("memory that is empty").stdout, "1");
    }
}
