;; Waits for its input and for a clock that is far away.
(module
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (i32.store (i32.const 80) (i32.const 1))
    (i64.store (i32.const 88) (i64.const 9223372036854775807))
    (i32.store8 (i32.const 120) (i32.const 1))
    (drop (call $poll (i32.const 64) (i32.const 256) (i32.const 2) (i32.const 512)))
    (drop (call $poll (i32.const 64) (i32.const 256) (i32.const 1) (i32.const 512)))))
