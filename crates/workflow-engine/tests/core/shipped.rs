//! The workflows of the shipped packs compile, and do what their packs say.

use std::path::Path;

use busbar_protocol::busbar::RunState;
use busbar_workflow_engine::core::transition::Event;
use serde_json::{Value as Json, json};

use crate::play::Play;

fn shipped(file: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packs").join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let document: Json = serde_saphyr::from_str(&text).expect("YAML");
    document.to_string().into_bytes()
}

#[test]
fn a_search_is_split_and_added_up() {
    let mut play =
        Play::ready(&shipped("bpsw/workflows/search.yaml"), &json!({"from": "3", "to": "20", "mode": "census", "chunk": 10}));
    play.apply(&Event::Proceed).expect("it begins");
    assert_eq!(play.submitted["split@1"], json!({"task_type": "split", "from": "3", "to": "20", "chunk": 10}));
    play.succeed("split@1", &json!({"task_type": "split", "ranges": [{"from": "3", "to": "12"}, {"from": "13", "to": "20"}]}));
    assert_eq!(play.submitted["search[1]@1"], json!({"task_type": "main_odds", "from": "13", "to": "20", "mode": "census"}));
    let part = |checked: u64, primes: u64| json!({"checked": checked, "primes": primes, "spsp2": 1, "slpsp": 0, "counterexamples": [], "digest": "d"});
    play.succeed("search[1]@1", &part(4, 3));
    play.succeed("search[0]@1", &part(5, 4));
    assert_eq!(play.state(), RunState::Succeeded);
    let found = &play.staged["wf:out"];
    assert_eq!((&found["checked"], &found["primes"], &found["spsp2"]), (&json!(9), &json!(7), &json!(2)));
    assert_eq!((&found["parts"], &found["counterexamples"], &found["digests"]), (&json!(2), &json!([]), &json!(["d", "d"])));
    assert_eq!(found["refused"], json!([]));
}

#[test]
fn a_finding_is_passed_on_only_where_opinion_and_certificate_hold() {
    let mut play = Play::ready(&shipped("bpsw/workflows/search.yaml"), &json!({"from": "3", "to": "20"}));
    play.apply(&Event::Proceed).expect("it begins");
    play.succeed("split@1", &json!({"task_type": "split", "ranges": [{"from": "3", "to": "12"}, {"from": "13", "to": "20"}]}));
    let claim = |n: &str| json!({"n": n, "certificate": {"kind": "strong_base", "base": 3}});
    let part = |claims: &[Json]| json!({"checked": 5, "primes": 4, "counterexamples": claims, "digest": "d"});
    play.succeed("search[0]@1", &part(&[claim("5"), claim("7")]));
    play.succeed("search[1]@1", &part(&[claim("13")]));
    assert_eq!(play.submitted["opinions[1]@1"], json!({"task_type": "judge", "numbers": ["7"]}));
    assert_eq!(play.submitted["proofs[2]@1"], json!({"task_type": "verify", "claims": [claim("13")]}));
    let opinion = |verdict: &str| json!({"judgements": [{"verdict": verdict}]});
    let holds = |n: &str| json!({"confirmed": [claim(n)], "refused": []});
    let fails =
        |n: &str| json!({"confirmed": [], "refused": [{"n": n, "reason": "the certificate does not prove it composite"}]});
    for (index, verdict) in ["counterexample", "counterexample", "composite"].into_iter().enumerate() {
        play.succeed(&format!("opinions[{index}]@1"), &opinion(verdict));
    }
    for (index, proof) in [holds("5"), fails("7"), holds("13")].iter().enumerate() {
        assert_eq!(play.state(), RunState::Running);
        play.succeed(&format!("proofs[{index}]@1"), proof);
    }
    assert_eq!(play.state(), RunState::Succeeded);
    let found = &play.staged["wf:out"];
    assert_eq!(found["counterexamples"], json!([claim("5")]));
    assert_eq!(found["refused"], json!([claim("7"), claim("13")]));
}

#[test]
fn words_are_added_up_in_groups_that_fit() {
    let parts: Vec<Json> = (0..5).map(|n| json!({"artifact": "a", "start": n, "end": n + 1})).collect();
    let mut play = Play::ready(&shipped("wordcount/workflows/count.yaml"), &json!({"parts": parts, "top": 3}));
    play.apply(&Event::Proceed).expect("it begins");
    assert_eq!(play.submitted["map[4]@1"], parts[4]);
    let counts = |word: &str| json!({"counts": {word: 1}, "words": 1});
    for part in 0..5 {
        play.succeed(&format!("map[{part}]@1"), &counts(&"x".repeat(400_000)));
    }
    assert_eq!(play.out(), ["reduce[0]@1", "reduce[1]@1", "reduce[2]@1"], "two of 400,000 bytes fit, three do not");
    assert_eq!(play.submitted["reduce[2]@1"]["parts"].as_array().map(Vec::len), Some(1));
    for group in 0..3 {
        play.succeed(&format!("reduce[{group}]@1"), &counts("y"));
    }
    assert_eq!(play.submitted["total@1"], json!({"parts": [counts("y"), counts("y"), counts("y")], "top": 3}));
    play.succeed("total@1", &json!({"counts": {"y": 3}, "words": 3, "top": []}));
    assert_eq!((play.state(), &play.staged["wf:out"]["words"]), (RunState::Succeeded, &json!(3)));
}
