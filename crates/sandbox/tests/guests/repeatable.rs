//! Clock and randomness: the same for the same seed, and only then.

use busbar_sandbox::{Limits, Task};
use bytes::Bytes;

use crate::support::{Bench, start};

/// Writes `[clock,random]`, each as a number of three digits taken from the lowest bits.
const LOOK: &str = r#"
    (drop (call $clock (i32.const 0) (i64.const 0) (i32.const 64)))
    (drop (call $random (i32.const 80) (i32.const 32)))
    (call $number (i32.rem_u (i32.xor (i32.load (i32.const 80)) (i32.load (i32.const 64))) (i32.const 900)))"#;

fn look(bench: &Bench, wasm: &[u8], seed: Option<[u8; 32]>) -> Bytes {
    bench.run(wasm, Task { seed, ..Task::new("{}") }).expect("a success").stdout
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let wasm = start(LOOK);
    let (one, other) = (Bench::new(), Bench::new());
    assert_eq!(look(&one, &wasm, Some([7; 32])), look(&other, &wasm, Some([7; 32])));
    let results: std::collections::BTreeSet<Bytes> = (0..8).map(|seed| look(&one, &wasm, Some([seed; 32]))).collect();
    assert!(results.len() > 2, "seeds differ: {results:?}");
}

#[test]
fn without_a_seed_runs_differ() {
    let (bench, wasm) = (Bench::new(), start(LOOK));
    let results: std::collections::BTreeSet<Bytes> = (0..8).map(|_| look(&bench, &wasm, None)).collect();
    assert!(results.len() > 2, "{results:?}");
}

#[test]
fn limits_alone_make_a_run_repeatable_for_its_input() {
    let wasm = start(LOOK);
    let look = |input: &'static str| {
        let limits = Limits { repeatable: true, ..Limits::default() };
        Bench::new().run(&wasm, Task { limits, ..Task::new(input) }).expect("a success").stdout
    };
    assert_eq!(look("{}"), look("{}"));
    let results: std::collections::BTreeSet<Bytes> = ["1", "2", "3", "4", "5", "6"].into_iter().map(look).collect();
    assert!(results.len() > 2, "another input, another seed: {results:?}");
}

#[test]
fn nan_has_one_form() {
    // Zero by zero is a NaN whose sign and payload differ between processors; the canonical one has neither.
    let wasm = start(
        "(f64.store (i32.const 64) (f64.div (f64.const 0) (f64.const 0)))
         (call $number (i64.eq (i64.load (i32.const 64)) (i64.const 0x7ff8000000000000)))",
    );
    assert_eq!(Bench::new().run(&wasm, Task::new("{}")).expect("a success").stdout, "101");
}
