//! The workflows of the shipped packs compile, and do what their packs say.

use std::path::Path;

use busbar_protocol::busbar::RunState;
use busbar_workflow_engine::core::run::Done;
use busbar_workflow_engine::core::transition::{Event, JobOutcome};
use serde_json::{Value as Json, json};

use crate::play::{Play, RUN};

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
    play.succeed_on("search[0]@1", &part(&[claim("5"), claim("7")]), "w-1", 9);
    play.succeed_on("search[1]@1", &part(&[claim("13")]), "w-2", 9);
    assert_eq!(json!(play.places["opinions[1]@1"]), json!({"avoided_worker_ids": "w-1"}));
    assert_eq!(json!(play.places["proofs[2]@1"]), json!({"avoided_worker_ids": "w-2", "preferred_pool": "trusted"}));
    assert_eq!(play.submitted["opinions[1]@1"], json!({"task_type": "judge", "numbers": ["7"]}));
    assert_eq!(play.submitted["proofs[2]@1"], json!({"task_type": "verify", "claims": [claim("13")]}));
    let opinion = |verdict: &str| json!({"judgements": [{"verdict": verdict}]});
    let holds = |n: &str| json!({"confirmed": [claim(n)], "refused": []});
    let fails =
        |n: &str| json!({"confirmed": [], "refused": [{"n": n, "reason": "the certificate does not prove it composite"}]});
    for (index, verdict) in ["counterexample", "counterexample", "composite"].into_iter().enumerate() {
        play.succeed_on(&format!("opinions[{index}]@1"), &opinion(verdict), "w-2", 1);
    }
    for (index, proof) in [holds("5"), fails("7"), holds("13")].iter().enumerate() {
        assert_eq!(play.state(), RunState::Running);
        play.succeed(&format!("proofs[{index}]@1"), proof);
    }
    assert_eq!(play.state(), RunState::Succeeded);
    let found = &play.staged["wf:out"];
    assert_eq!(found["counterexamples"], json!([claim("5")]));
    assert_eq!(found["refused"], json!([claim("7"), claim("13")]));
    assert_eq!((&found["opinions"], &found["opinions_elsewhere"]), (&json!(3), &json!(2)));
}

#[test]
fn parts_are_such_that_each_takes_about_so_long() {
    let input = json!({"kind": "large_numbers", "from": "3", "to": "99999999", "seconds": 10, "probe": 1000, "verify_pool": "default",
        "options": {"sieve_to": 50}});
    let mut play = Play::ready(&shipped("bpsw/workflows/search.yaml"), &input);
    play.apply(&Event::Proceed).expect("it begins");
    let sample = json!({"task_type": "split", "from": "3", "to": "99999999", "chunk": 1000, "parts_max": 1});
    assert_eq!((play.out(), &play.submitted["sample@1"]), (vec!["sample@1".to_owned()], &sample));
    play.succeed("sample@1", &json!({"ranges": [{"from": "3", "to": "1002"}]}));
    let probe = json!({"task_type": "large_numbers", "from": "3", "to": "1002", "mode": "hunt", "sieve_to": 50});
    assert_eq!(play.submitted["probe@1"], probe);
    // 500 odd numbers, of 1,000, in 250 ms.
    play.succeed_on("probe@1", &json!({"checked": 500, "primes": 1, "counterexamples": [], "digest": "d"}), "w", 250);
    assert_eq!(play.submitted["split@1"]["chunk"], json!(40_000));
    play.succeed("split@1", &json!({"ranges": [{"from": "3", "to": "40002"}]}));
    play.succeed_on(
        "search[0]@1",
        &json!({"checked": 1, "primes": 1, "counterexamples": [{"n": "9", "certificate": {}}], "digest": "d"}),
        "w",
        1,
    );
    let place = json!({"avoided_worker_ids": "w", "preferred_pool": "default"});
    assert_eq!(json!(play.places["proofs[0]@1"]), place);
}

#[test]
fn families_are_searched_by_their_own_topics() {
    let input = json!({"kind": "chernick", "from": "2", "to": "9", "chunk": 8, "options": {"factors": 4}});
    let mut play = Play::ready(&shipped("bpsw/workflows/search.yaml"), &input);
    play.apply(&Event::Proceed).expect("it begins");
    play.succeed("split@1", &json!({"ranges": [{"from": "2", "to": "9"}]}));
    assert_eq!(play.submitted["search[0]@1"], json!({"task_type": "chernick", "from": "2", "to": "9", "factors": 4}));
    assert_eq!(play.topics["search[0]@1"], "job.bpsw.chernick");
    let part = json!({"checked": 8, "counters": {"tuples": 1}, "counterexamples": [], "digest": "d"});
    play.succeed("search[0]@1", &part);
    assert_eq!(play.state(), RunState::Succeeded, "{:?}", play.run.progress);
    let found = &play.staged["wf:out"];
    assert_eq!((&found["checked"], &found["counters"], &found["primes"]), (&json!(8), &json!([{"tuples": 1}]), &json!(0)));
}

#[test]
fn the_construction_has_two_phases() {
    let search = |phase: Json, part: Json| {
        let input = json!({"kind": "pomerance_modular", "from": "0", "to": "1", "chunk": 8, "options": phase});
        let mut play = Play::ready(&shipped("bpsw/workflows/search.yaml"), &input);
        play.apply(&Event::Proceed).expect("it begins");
        play.succeed("split@1", &json!({"ranges": [{"from": "0", "to": "1"}]}));
        let sent = play.submitted["search[0]@1"].clone();
        play.succeed("search[0]@1", &part);
        assert_eq!(play.state(), RunState::Succeeded, "{:?}", play.run.progress);
        (sent, play.staged["wf:out"].clone())
    };
    let whole = json!({"checked": 2, "counterexamples": [], "digest": "d", "m_primes": [13], "n_primes": [3], "primes": ["83"]});
    let with = |more: Json| {
        let mut part = whole.clone();
        more.as_object().expect("members").iter().for_each(|(name, value)| part[name] = value.clone());
        part
    };
    let (sent, found) = search(json!({"phase": "primes"}), with(json!({"phase": "primes", "counters": {"primes_found": 1}})));
    assert_eq!(sent, json!({"task_type": "pomerance_modular", "phase": "primes", "from": "0", "to": "1"}));
    let expected = (&json!(["83"]), &json!([13]), &json!([3]), &json!(null));
    assert_eq!((&found["suiting_primes"], &found["m_primes"], &found["n_primes"], &found["modulus"]), expected);

    let options = json!({"phase": "products", "m_primes": [13], "n_primes": [3], "primes": ["83"]});
    let (sent, found) = search(
        options.clone(),
        with(json!({"phase": "products", "modulus": "39", "calibration": false, "counters": {"products": 0}})),
    );
    assert_eq!((&sent["primes"], &sent["phase"]), (&options["primes"], &options["phase"]));
    let expected = (&json!([]), &json!("39"), &json!(false));
    assert_eq!((&found["suiting_primes"], &found["modulus"], &found["calibration"]), expected);
}

#[test]
fn words_are_added_up_in_shards_that_fit() {
    let parts: Vec<Json> = (0..3).map(|n| json!({"artifact": "a", "start": n, "end": n + 1})).collect();
    let input = json!({"parts": parts, "top": 3, "stop_words": ["the"], "sums": [{"artifact": "old", "bytes": 40_000_000}]});
    let mut play = Play::ready(&shipped("wordcount/workflows/count.yaml"), &input);
    play.apply(&Event::Proceed).expect("it begins");
    let map = json!({"artifact": "a", "start": 2, "end": 3, "stop_words": ["the"], "min_length": 0});
    assert_eq!(play.submitted["map[2]@1"], map);
    for part in 0..3 {
        play.end(&format!("map[{part}]@1"), JobOutcome::SucceededLarge { bytes: 10_000_000, done: Done::default() })
            .expect("taken");
    }
    assert_eq!(play.state(), RunState::Running, "{:?}", play.run.progress);
    assert_eq!(play.out(), ["reduce[0]@1", "reduce[1]@1"], "70 million bytes are more than 48 MiB");
    let at = |job: &str| format!("{RUN}:{job}@1");
    let artifacts = json!([at("map[0]"), at("map[1]"), at("map[2]"), "old"]);
    assert_eq!(play.submitted["reduce[1]@1"], json!({"artifacts": artifacts, "shard": 1, "shards": 2, "top": 3}));
    play.end("reduce[0]@1", JobOutcome::SucceededLarge { bytes: 2_000_000, done: Done::default() }).expect("taken");
    play.succeed("reduce[1]@1", &json!({"words": 1, "distinct": 1, "top": [], "counts": {}}));
    let total = json!({"artifacts": [at("reduce[0]"), at("reduce[1]")], "outline": true, "top": 3});
    assert_eq!(play.submitted["total@1"], total);
    play.succeed("total@1", &json!({"words": 3, "distinct": 1, "top": [{"word": "y", "count": 3}]}));
    assert_eq!(play.state(), RunState::Succeeded);
    let found = &play.staged["wf:out"];
    assert_eq!((&found["words"], &found["distinct"], &found["top"][0]["word"]), (&json!(3), &json!(1), &json!("y")));
    assert_eq!(found["sums"][0], json!({"artifact": at("reduce[0]"), "bytes": 2_000_000}));
}

#[test]
fn a_small_text_needs_one_shard_and_no_options() {
    let mut play = Play::ready(&shipped("wordcount/workflows/count.yaml"), &json!({"parts": [{"artifact": "a"}]}));
    play.apply(&Event::Proceed).expect("it begins");
    let map = json!({"artifact": "a", "start": 0, "end": null, "stop_words": [], "min_length": 0});
    assert_eq!(play.submitted["map[0]@1"], map);
    play.succeed("map[0]@1", &json!({"words": 0, "distinct": 0, "counts": {}}));
    assert_eq!(play.out(), ["reduce[0]@1"]);
    assert_eq!(play.submitted["reduce[0]@1"]["top"], json!(10));
}
