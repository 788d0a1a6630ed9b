//! The guests of the shipped packs, as they are built, under the real sandbox.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::rig::{Job, Rig};

/// A guest of a shipped pack.
pub(crate) fn shipped(file: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/packs").join(file);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; build it with `cargo xtask packs`", path.display()))
}

fn range(module: &str, from: u64, to: u64, mode: &str) -> Job {
    let input = json!({ "task_type": "main_odds", "from": from.to_string(), "to": to.to_string(), "mode": mode });
    Job { topic: "job.bpsw.main_odds", ..Job::guest(format!("{mode}-{from}"), module, input) }
}

#[tokio::test(flavor = "multi_thread")]
async fn primes_are_counted_as_others_have_counted_them() {
    let mut rig = Rig::start().await;
    let _worker = rig.worker().await;
    let bpsw = rig.module(shipped("bpsw/bpsw.wasm")).await;
    let million = 1_000_000;
    let hunt = |from: u64| range(&bpsw, from, from + million, "hunt");
    let jobs = [
        range(&bpsw, 3, million, "hunt"),
        hunt(10_u64.pow(12)),
        hunt(10_u64.pow(15)),
        hunt(10_u64.pow(18)),
        hunt(1 << 63),
        range(&bpsw, 3, million, "census"),
    ];
    let mut found = Vec::new();
    for result in rig.run(&jobs).await {
        found.push(rig.output_of(&result).await);
    }
    let primes: Vec<u64> = found.iter().map(|output| output["primes"].as_u64().unwrap()).collect();
    assert_eq!(primes, [78_497, 36_249, 28_845, 24_280, 22_920, 78_497]);
    let census = &found[5];
    assert_eq!((&census["spsp2"], &census["slpsp"], &census["counterexamples"]), (&json!(46), &json!(58), &json!([])));
    assert!(rig.progress("census-3").await <= 100, "it was told while it ran");
}

/// The same list that the guest's own tests hold the native build to.
#[tokio::test(flavor = "multi_thread")]
async fn bpsw_answers_in_the_sandbox_as_it_does_natively() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packs/bpsw/guest/answers.json");
    let answers: Vec<Value> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut rig = Rig::start().await;
    let _worker = rig.worker().await;
    let bpsw = rig.module(shipped("bpsw/bpsw.wasm")).await;
    let job = |(index, answer): (usize, &Value)| {
        let input = answer["input"].clone();
        Job { topic: "job.bpsw.main_odds", ..Job::guest(format!("answer-{index}"), &bpsw, input) }
    };
    let jobs: Vec<Job> = answers.iter().enumerate().map(job).collect();
    let results = rig.run(&jobs).await;
    assert_eq!(results.len(), answers.len());
    for (result, expected) in results.iter().zip(&answers) {
        assert_eq!(rig.output_of(result).await["digest"], expected["digest"], "{}", expected["input"]);
    }
}

/// The same list that the guest's own tests hold the native build to, byte for byte.
#[tokio::test(flavor = "multi_thread")]
async fn wordcount_answers_in_the_sandbox_as_it_does_natively() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packs/wordcount/guest/answers.json");
    let answers: Vec<Value> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut rig = Rig::start().await;
    let _worker = rig.worker().await;
    let wordcount = rig.module(shipped("wordcount/wordcount.wasm")).await;
    for (index, answer) in answers.iter().enumerate() {
        let job =
            Job { topic: "job.wordcount.map", ..Job::guest(format!("answer-{index}"), &wordcount, answer["input"].clone()) };
        rig.dispatch(&job).await;
        let result = rig.result(&job.id).await;
        let bytes = rig.bytes_of(&result).await;
        assert_eq!(Some(str::from_utf8(&bytes).unwrap()), answer["output"].as_str(), "{}", answer["input"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_counted_in_parts_has_the_same_words_as_counted_at_once() {
    let mut rig = Rig::start().await;
    let _worker = rig.worker().await;
    let wordcount = rig.module(shipped("wordcount/wordcount.wasm")).await;
    let text = text();
    rig.artifact("text", text.clone()).await;
    let map = |id: String, input: Value| Job { topic: "job.wordcount.map", ..Job::guest(id, &wordcount, input) };
    let whole = rig.output(&map("whole".to_owned(), json!({ "artifact": "text", "end": null }))).await;
    assert_eq!(whole["words"], json!(9 * 2_000));
    assert_eq!((&whole["counts"]["żółć"], &whole["counts"]["don't"]), (&json!(2_000), &json!(2_000)));

    // Cuts that fall anywhere, also inside words and characters.
    let step = text.len() / 7 + 1;
    let parts = (0..text.len()).step_by(step).map(|start| {
        let end = (start + step).min(text.len());
        map(format!("part-{start}"), json!({ "artifact": "text", "start": start, "end": end }))
    });
    let parts: Vec<Job> = parts.collect();
    let mut counted = Vec::new();
    for result in rig.run(&parts).await {
        counted.push(rig.output_of(&result).await);
    }
    assert_eq!(counted.len(), 7);
    let reduce = Job { topic: "job.wordcount.reduce", ..map("sum".to_owned(), json!({ "parts": counted, "top": 2 })) };
    let sum = rig.output(&reduce).await;
    assert_eq!((&sum["counts"], &sum["words"]), (&whole["counts"], &whole["words"]));
    assert_eq!(sum["top"], json!([{ "word": "the", "count": 4_000 }, { "word": "and", "count": 2_000 }]));
}

/// Two thousand lines of nine words, a good part of them not ASCII, with as many dots as the number of the line has digits.
fn text() -> String {
    (0..2_000).fold(String::new(), |mut text, line| {
        let dots = ".".repeat(line.to_string().len());
        writeln!(text, "The fox and the żółć of “naïve” don't end{dots}").unwrap();
        text
    })
}
