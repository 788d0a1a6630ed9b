;; Makes files until there is no room, writes to each, and keeps all of them open.
(module
  (import "wasi_snapshot_preview1" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_filestat_set_size" (func $size (param i32 i64) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 64) "aa")
  (data (i32.const 16) "\00\04\00\00\ff\ff\00\00")
  (func (export "_start") (local $times i32)
    (local.set $times (i32.const 600))
    (loop $again
      (i32.store8 (i32.const 64) (i32.add (i32.const 97) (i32.rem_u (local.get $times) (i32.const 26))))
      (i32.store8 (i32.const 65) (i32.add (i32.const 97) (i32.div_u (local.get $times) (i32.const 26))))
      (drop (call $open (i32.const 4) (i32.const 0) (i32.const 64) (i32.const 2) (i32.const 1) (i64.const 4194402) (i64.const 0) (i32.const 0) (i32.const 32)))
      (drop (call $write (i32.load (i32.const 32)) (i32.const 16) (i32.const 1) (i32.const 8)))
      (drop (call $size (i32.load (i32.const 32)) (i64.const 1000000)))
      (local.set $times (i32.sub (local.get $times) (i32.const 1)))
      (br_if $again (local.get $times)))))
