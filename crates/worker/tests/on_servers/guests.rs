//! Small guests for the tests, written as text.

/// What a guest here may call, and three functions: `say` writes a piece of memory to a file descriptor, `sleep` sleeps so many
/// milliseconds, `exit` ends.
const PREAMBLE: &str = r#"
    (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (import "busbar" "progress" (func $progress (param i32)))
    (import "busbar" "checkpoint" (func $checkpoint (param i32 i32)))
    (memory (export "memory") 1)
    (func $say (param $fd i32) (param $start i32) (param $len i32)
        (i32.store (i32.const 0) (local.get $start))
        (i32.store (i32.const 4) (local.get $len))
        (drop (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))))
    (func $sleep (param $ms i64)
        ;; A subscription to the monotonic clock, relative, at 1024; its event goes to 2048.
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

/// Says that it runs, and then only computes.
pub(crate) fn looping() -> Vec<u8> {
    guest("(call $progress (i32.const 1)) (loop $for_ever (br $for_ever))", "")
}

/// Says that it runs, sleeps, and puts out `null`.
pub(crate) fn sleeping(ms: u64) -> Vec<u8> {
    let nap = format!("(call $progress (i32.const 1)) (call $sleep (i64.const {ms}))");
    guest(&format!("{nap} (call $say (i32.const 1) (i32.const 100) (i32.const 4))"), "null")
}

/// Puts out its last checkpoint; without one, hands over `"half"` and asks to be run again.
pub(crate) fn continuing() -> Vec<u8> {
    let text = format!(
        r#"(module
            (import "wasi_snapshot_preview1" "path_open"
                (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
            {PREAMBLE}
            (data (i32.const 100) "\22half\22")
            (data (i32.const 200) "checkpoint")
            (func (export "_start")
                ;; The first granted folder has descriptor 3; 2 is the right to read.
                (if (call $open (i32.const 3) (i32.const 0) (i32.const 200) (i32.const 10) (i32.const 0)
                        (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 300))
                    (then (call $checkpoint (i32.const 100) (i32.const 6)) (call $exit (i32.const 75))))
                (i32.store (i32.const 16) (i32.const 400))
                (i32.store (i32.const 20) (i32.const 100))
                (drop (call $read (i32.load (i32.const 300)) (i32.const 16) (i32.const 1) (i32.const 24)))
                (call $say (i32.const 1) (i32.const 400) (i32.load (i32.const 24)))))"#
    );
    wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}
