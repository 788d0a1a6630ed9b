;; Lists its directories with buffers of every small size, and prints what it finds.
(module
  (import "wasi_snapshot_preview1" "fd_readdir" (func $list (param i32 i32 i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "\00\04\00\00\40\00\00\00")
  (func (export "_start") (local $length i32)
    (local.set $length (i32.const 200))
    (loop $again
      (drop (call $list (i32.const 3) (i32.const 1024) (local.get $length) (i64.extend_i32_u (i32.rem_u (local.get $length) (i32.const 5))) (i32.const 32)))
      (drop (call $list (i32.const 4) (i32.const 1024) (local.get $length) (i64.const -1) (i32.const 32)))
      (drop (call $write (i32.const 2) (i32.const 16) (i32.const 1) (i32.const 8)))
      (local.set $length (i32.sub (local.get $length) (i32.const 1)))
      (br_if $again (local.get $length)))))
