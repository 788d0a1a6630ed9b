;; Opens what lies above each of its directories, in every spelling.
(module
  (import "wasi_snapshot_preview1" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "../../canary")
  (func (export "_start") (local $length i32)
    (local.set $length (i32.const 12))
    (loop $again
      (drop (call $open (i32.const 3) (i32.const 1) (i32.const 64) (local.get $length) (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 32)))
      (drop (call $open (i32.const 4) (i32.const 1) (i32.const 64) (local.get $length) (i32.const 1) (i64.const 66) (i64.const 0) (i32.const 0) (i32.const 32)))
      (local.set $length (i32.sub (local.get $length) (i32.const 1)))
      (br_if $again (local.get $length)))))
