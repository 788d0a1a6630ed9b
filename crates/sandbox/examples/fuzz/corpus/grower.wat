;; Grows its memory, its table and its stack before it begins.
(module
  (memory (export "memory") 1)
  (table $t 10 funcref)
  (func $deep (param $n i32) (result i32)
    (if (result i32) (local.get $n)
      (then (i32.add (call $deep (i32.sub (local.get $n) (i32.const 1))) (i32.const 1)))
      (else (i32.const 0))))
  (func $init
    (drop (memory.grow (i32.const 10)))
    (drop (table.grow $t (ref.null func) (i32.const 1000)))
    (drop (call $deep (i32.const 100000))))
  (start $init)
  (func (export "_start")))
