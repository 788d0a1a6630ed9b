//! What guests see of files: what they were granted, and nothing else.

use std::fs;
use std::path::Path;

use busbar_sandbox::{Artifact, FailureKind, Limits, Task};

use crate::support::{Bench, guest};

/// The first granted directory. `/tmp` comes after `/in` when both exist.
pub(crate) const FIRST: i32 = 3;
pub(crate) const CREATE: i32 = 1;
pub(crate) const READ: u64 = 1 << 1;
pub(crate) const WRITE: u64 = 1 << 6;

const NO_SPACE: u32 = 51;
pub(crate) const NOT_SUPPORTED: u32 = 58;
pub(crate) const NOT_PERMITTED: u32 = 63;

/// Instructions that open `path` (put at address 64 by `with_path`), leaving the errno.
pub(crate) fn open(directory: i32, path: &str, flags: i32, rights: u64) -> String {
    let len = path.len();
    format!(
        "(call $open (i32.const {directory}) (i32.const 1) (i32.const 64) (i32.const {len}) (i32.const {flags})
            (i64.const {rights}) (i64.const 0) (i32.const 0) (i32.const 1024))"
    )
}

/// A guest with `path` at address 64 that writes the errno which the instructions leave, plus 100, as its output.
pub(crate) fn errno_of(path: &str, instructions: &str) -> Vec<u8> {
    guest(&format!(r#"(data (i32.const 64) "{path}") (func (export "_start") (call $number {instructions}))"#))
}

pub(crate) fn errno(bench: &Bench, wasm: &[u8], task: Task) -> u32 {
    let output = bench.run(wasm, task).expect("a success").stdout;
    std::str::from_utf8(&output).expect("text").parse::<u32>().expect("a number") - 100
}

fn with_artifact(path: &Path) -> Task {
    Task { artifacts: vec![Artifact { id: "text".to_owned(), path: path.to_owned() }], ..Task::new("{}") }
}

fn with_tmp(tmp_bytes: u64) -> Task {
    Task { limits: Limits { tmp_bytes, ..Limits::default() }, ..Task::new("{}") }
}

pub(crate) fn file(bench: &Bench, content: &str) -> std::path::PathBuf {
    let path = bench.scratch.path().join("artifact");
    fs::write(&path, content).expect("written");
    path
}

/// Opens, reads up to 1000 bytes, writes them to standard output.
fn cat(path: &str) -> Vec<u8> {
    let open = open(FIRST, path, 0, READ);
    guest(&format!(
        r#"(data (i32.const 64) "{path}")
           (func (export "_start")
             (if {open} (then (call $proc_exit (i32.const 9))))
             (i32.store (i32.const 0) (i32.const 2048)) (i32.store (i32.const 4) (i32.const 1000))
             (if (call $fd_read (i32.load (i32.const 1024)) (i32.const 0) (i32.const 1) (i32.const 8))
               (then (call $proc_exit (i32.const 8))))
             (drop (call $say (i32.const 1) (i32.const 2048) (i32.load (i32.const 8)))))"#
    ))
}

#[test]
fn artifacts_and_the_checkpoint_can_be_read() {
    let bench = Bench::new();
    let task = with_artifact(&file(&bench, "[1]"));
    assert_eq!(bench.run(&cat("text"), task).expect("a success").stdout, "[1]");
    let task = Task { checkpoint: Some("[2]".into()), ..Task::new("{}") };
    assert_eq!(bench.run(&cat("checkpoint"), task).expect("a success").stdout, "[2]");
}

#[test]
fn artifacts_cannot_be_changed() {
    let bench = Bench::new();
    let path = file(&bench, "[1]");
    let write = errno_of("text", &open(FIRST, "text", 0, READ | WRITE));
    assert_eq!(errno(&bench, &write, with_artifact(&path)), NOT_PERMITTED);
    let create = errno_of("new", &open(FIRST, "new", CREATE, WRITE));
    assert_eq!(errno(&bench, &create, with_artifact(&path)), NOT_PERMITTED);
    let unlink = errno_of("text", "(call $unlink (i32.const 3) (i32.const 64) (i32.const 4))");
    assert_eq!(errno(&bench, &unlink, with_artifact(&path)), NOT_PERMITTED);
    assert_eq!(fs::read_to_string(&path).expect("readable"), "[1]");
}

#[test]
fn nothing_outside_can_be_reached() {
    let bench = Bench::new();
    let path = file(&bench, "[1]");
    for outside in ["../artifact", "/etc/passwd", "../../../../../../etc/passwd", "text/../../artifact", ".."] {
        let found = errno(&bench, &errno_of(outside, &open(FIRST, outside, 0, READ)), with_artifact(&path));
        assert!(found != 0, "{outside} was opened");
    }
    assert_eq!(errno(&bench, &errno_of("..", &open(FIRST, "..", 0, READ)), with_artifact(&path)), NOT_PERMITTED);
    let no_directory = errno_of("text", &open(FIRST, "text", 0, READ));
    assert!(errno(&bench, &no_directory, Task::new("{}")) != 0, "nothing was granted");
}

#[test]
fn a_link_in_an_artifact_folder_is_resolved_by_us_or_not_at_all() {
    let bench = Bench::new();
    let path = file(&bench, "[1]");
    let link = bench.scratch.path().join("link");
    std::os::unix::fs::symlink(&path, &link).expect("linked");
    assert_eq!(bench.run(&cat("text"), with_artifact(&link)).expect("a success").stdout, "[1]");
    let symlink =
        errno_of("/etc/passwd", "(call $symlink (i32.const 64) (i32.const 11) (i32.const 3) (i32.const 64) (i32.const 4))");
    assert_eq!(errno(&bench, &symlink, with_tmp(100_000)), NOT_SUPPORTED);
}

#[test]
fn an_artifact_that_is_not_there_is_the_hosts_fault() {
    let bench = Bench::new();
    let failure = bench.run(&cat("text"), with_artifact(Path::new("/nonexistent"))).expect_err("a failure");
    assert_eq!(failure.kind.code().as_str(), "artifact_unavailable");
    assert!(failure.kind.is_retryable());
}

#[test]
fn tmp_exists_only_if_granted_and_is_removed() {
    let bench = Bench::new();
    let create = errno_of("new", &open(FIRST, "new", CREATE, WRITE));
    assert!(errno(&bench, &create, Task::new("{}")) != 0);
    assert_eq!(errno(&bench, &create, with_tmp(100_000)), 0);
    assert_eq!(fs::read_dir(bench.scratch.path()).expect("readable").count(), 0);
}

/// Creates a file, unlinks it, and writes 10,000 bytes again and again until that fails; the output is the errno.
fn fill() -> Vec<u8> {
    let open = open(FIRST, "new", CREATE, WRITE);
    guest(&format!(
        r#"(data (i32.const 64) "new")
           (func (export "_start") (local $errno i32)
             (if {open} (then (call $proc_exit (i32.const 9))))
             (drop (call $unlink (i32.const 3) (i32.const 64) (i32.const 3)))
             (loop $again
               (local.set $errno (call $say (i32.load (i32.const 1024)) (i32.const 4096) (i32.const 10000)))
               (br_if $again (i32.eqz (local.get $errno))))
             (call $number (local.get $errno)))"#
    ))
}

#[test]
fn writing_is_bounded_even_without_a_name() {
    assert_eq!(errno(&Bench::new(), &fill(), with_tmp(1_000_000)), NO_SPACE);
}

#[test]
fn names_and_sizes_are_bounded_too() {
    let bench = Bench::new();
    let open_new = open(FIRST, "new", CREATE, WRITE);
    let again_and_again = guest(&format!(
        r#"(data (i32.const 64) "new")
           (func (export "_start") (local $errno i32)
             (loop $again
               (local.set $errno {open_new})
               (drop (call $fd_close (i32.load (i32.const 1024))))
               (br_if $again (i32.eqz (local.get $errno))))
             (call $number (local.get $errno)))"#
    ));
    assert_eq!(errno(&bench, &again_and_again, with_tmp(100_000)), NO_SPACE);
    let huge = errno_of(
        "new",
        &format!("(block (result i32) (drop {open_new}) (call $set_size (i32.load (i32.const 1024)) (i64.const 100001)))"),
    );
    assert_eq!(errno(&bench, &huge, with_tmp(100_000)), NO_SPACE);
}

#[test]
fn open_files_are_bounded() {
    let bench = Bench::new();
    let path = file(&bench, "[1]");
    let open_text = open(FIRST, "text", 0, READ);
    let wasm = guest(&format!(
        r#"(data (i32.const 64) "text")
           (func (export "_start") (loop $again (br_if $again (i32.eqz {open_text}))) (call $proc_exit (i32.const 5)))"#
    ));
    let failure = bench.run(&wasm, with_artifact(&path)).expect_err("a failure");
    assert_eq!(failure.kind.code().as_str(), "limit_handles");
    assert!(failure.message.contains("more than 256 open files"), "{}", failure.message);
}

/// Makes files `a`, `b`, … until that fails; the exit code is the number that were made.
fn make_many() -> Vec<u8> {
    let open_next = open(FIRST, "a", CREATE, WRITE);
    guest(&format!(
        r#"(data (i32.const 64) "a")
           (func (export "_start") (local $made i32)
             (block $full
               (loop $again
                 (br_if $full {open_next})
                 (drop (call $fd_close (i32.load (i32.const 1024))))
                 (i32.store8 (i32.const 64) (i32.add (i32.load8_u (i32.const 64)) (i32.const 1)))
                 (local.set $made (i32.add (local.get $made) (i32.const 1)))
                 (br $again)))
             (call $proc_exit (local.get $made)))"#
    ))
}

#[test]
fn the_number_of_files_is_bounded_and_the_failure_says_so() {
    let limits = Limits { tmp_bytes: 1 << 20, tmp_files: 7, ..Limits::default() };
    let failure = Bench::new().run(&make_many(), Task { limits, ..Task::new("{}") }).expect_err("a failure");
    assert_eq!(failure.kind, FailureKind::Exit { code: 7 });
    assert!(failure.message.contains("its /tmp was full") && failure.message.contains("7 of 7 files"), "{}", failure.message);
    assert_eq!((failure.usage.tmp_files, failure.usage.tmp_bytes), (7, 7 * 4096));
}

/// Writes the listing of the first directory, as WASI gives it, and the description of `.` to standard error.
fn list() -> Vec<u8> {
    guest(
        r#"(data (i32.const 64) ".")
           (func (export "_start")
             (if (call $readdir (i32.const 3) (i32.const 4096) (i32.const 8192) (i64.const 0) (i32.const 32))
               (then (call $proc_exit (i32.const 9))))
             (drop (call $say (i32.const 2) (i32.const 4096) (i32.load (i32.const 32))))
             (if (call $stat (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 2048))
               (then (call $proc_exit (i32.const 8))))
             (drop (call $say (i32.const 2) (i32.const 2048) (i32.const 64)))
             (call $proc_exit (i32.const 1)))"#,
    )
}

#[test]
fn directories_are_listed_by_name_and_repeatable_runs_see_the_same_everywhere() {
    let listing = |repeatable: bool, ids: &[&str]| {
        let bench = Bench::new();
        let path = file(&bench, "[1]");
        let artifacts = ids.iter().map(|id| Artifact { id: (*id).to_owned(), path: path.clone() }).collect();
        let limits = Limits { repeatable, ..Limits::default() };
        bench.run(&list(), Task { artifacts, limits, ..Task::new("{}") }).expect_err("exit 1").stderr_tail
    };
    let ids = ["m", "z", "a", "q.10", "q.9", "B"];
    let reversed: Vec<&str> = ids.iter().rev().copied().collect();
    assert_eq!(listing(true, &ids), listing(true, &reversed));
    // `__wasi_dirent_t`: cookie, inode, length of the name, type; then the name. An inode holds any bytes, those of names among them.
    let names = |listed: &[u8]| {
        let mut rest = listed;
        let next = |_| {
            let length = u32::from_le_bytes(rest[16..20].try_into().expect("four bytes")) as usize;
            let (entry, others) = rest.split_at(24 + length);
            rest = others;
            String::from_utf8_lossy(&entry[24..]).into_owned()
        };
        (0..ids.len() + 2).map(next).collect::<Vec<_>>()
    };
    for listed in [listing(true, &ids), listing(false, &ids)] {
        assert_eq!(names(&listed), [".", "..", "B", "a", "m", "q.10", "q.9", "z"]);
    }
}
