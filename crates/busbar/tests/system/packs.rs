//! The shipped packs as they are built, under `dev` with a worker of its own.

use busbar_api::JobState;
use serde_json::{Value, json};

use crate::support::{Client, Dev, DevOptions, shipped_pack};

const ODDS: &str = "job.bpsw.main_odds";
const MAP: &str = "job.wordcount.map";
const MILLION: u64 = 1_000_000;

#[test]
fn the_shipped_packs_do_their_work() {
    let packs = ["smoke", "bpsw", "wordcount"].map(shipped_pack).to_vec();
    let dev = Dev::start_with(DevOptions { workers: 1, packs, ..DevOptions::default() });
    let client = dev.client();
    everything_is_echoed(&client);
    primes_are_counted(&client);
    words_are_counted(&client);
    input_that_no_schema_accepts_is_refused(&client);
    an_artifact_must_be_there(&client);
    claims_are_checked_where_it_is_trusted(&client);
}

fn everything_is_echoed(client: &Client) {
    let inputs = [json!(null), json!([]), json!({"text": "ü\u{0}\"", "number": 12.5}), json!("x".repeat(500_000))];
    let ids = client.submit_all(inputs.iter().map(|input| ("job.echo", input.clone())));
    for (id, input) in ids.iter().zip(&inputs) {
        assert_eq!(client.result(id), *input);
    }
    // What is too large to be shown with the job has its size there.
    let large = client.wait(&ids[3]);
    assert_eq!((large.result_bytes, large.result.is_none()), (Some(500_002), true));
}

fn range(from: u64, to: u64, mode: &str) -> Value {
    json!({"task_type": "main_odds", "from": from.to_string(), "to": to.to_string(), "mode": mode})
}

fn primes_are_counted(client: &Client) {
    // All odd numbers of [3, 10^6] in ten chunks, and ranges elsewhere.
    let chunks = (0..10).map(|chunk| range((chunk * 100_000).max(3), chunk * 100_000 + 99_999, "census"));
    let elsewhere = [10_u64.pow(12), 10_u64.pow(18), 1 << 63].map(|from| range(from, from + MILLION, "hunt"));
    let ids = client.submit_all(chunks.chain(elsewhere).map(|input| (ODDS, input)));
    let results: Vec<Value> = ids.iter().map(|id| client.result(id)).collect();
    let (chunks, elsewhere) = results.split_at(10);
    let sum = |member: &str| chunks.iter().map(|result| result[member].as_u64().unwrap()).sum::<u64>();
    assert_eq!(["primes", "checked", "spsp2", "slpsp"].map(sum), [78_497, 499_999, 46, 58]);
    let primes: Vec<_> = elsewhere.iter().map(|result| result["primes"].as_u64().unwrap()).collect();
    assert_eq!(primes, [36_249, 24_280, 22_920]);
    assert!(results.iter().all(|result| result["counterexamples"] == json!([])), "a sensation, or a mistake");
}

fn words_are_counted(client: &Client) {
    let text = "The fox doesn't see the żółć.\nNaïve? Yes: the fox.\n".repeat(1_000);
    let made: Value = client.post_raw("/api/v1/artifacts?name=foxes.txt", text.as_bytes()).of(201);
    let artifact = &made["artifact_id"];

    // Seven parts, cut wherever it happens to be.
    let step = text.len() / 7 + 1;
    let parts = (0..text.len()).step_by(step).map(|start| {
        let end = (start + step).min(text.len());
        (MAP, json!({"artifact": artifact, "start": start, "end": end}))
    });
    let ids = client.submit_all(parts);
    assert_eq!(ids.len(), 7);
    let counted: Vec<Value> = ids.iter().map(|id| client.result(id)).collect();
    let sum = client.result(&client.submit("job.wordcount.reduce", &json!({"parts": counted, "top": 1})));
    let counts = json!({"the": 3_000, "fox": 2_000, "doesn't": 1_000, "see": 1_000, "żółć": 1_000, "naïve": 1_000, "yes": 1_000});
    assert_eq!((&sum["counts"], &sum["words"]), (&counts, &json!(10_000)));
    assert_eq!(sum["top"], json!([{"word": "the", "count": 3_000}]));

    let small = client.result(&client.submit(MAP, &json!({"text": "a b A"})));
    assert_eq!(small, json!({"counts": {"a": 2, "b": 1}, "distinct": 2, "words": 3}));
}

fn input_that_no_schema_accepts_is_refused(client: &Client) {
    let refused = |topic: &str, input: Value| {
        client.post("/api/v1/jobs", &json!({"topic": topic, "input": input})).problem(422, "input_invalid")
    };
    let detail = refused(ODDS, json!({"task_type": "main_odds", "from": "3", "to": "1e6", "mode": "hunt"}));
    assert!(detail.contains("/to"), "{detail}");
    refused(ODDS, json!({"task_type": "large_numbers", "from": "3", "to": "9", "mode": "hunt"}));
    refused(ODDS, json!("3 to 9"));
    refused(MAP, json!({"text": "one", "artifact": "the-other"}));
    refused(MAP, json!({"artifact": "../../secret"}));
    refused("job.wordcount.reduce", json!({"parts": [], "shard": 1}));
    client.post("/api/v1/jobs", &json!({"topic": "job.bpsw.all", "input": {}})).problem(422, "unknown_topic");
}

/// Its schema accepts the input; only the worker can see that it is nothing.
fn an_artifact_must_be_there(client: &Client) {
    let job = client.wait(&client.submit(MAP, &json!({"artifact": "nothing"})));
    assert_eq!((job.state, job.error_code.as_deref()), (JobState::Failed, Some("artifact_not_found")));
    assert_eq!(job.attempts, 1, "it will not appear by trying again");
}

/// One worker was asked for: `dev` starts another one for the pool that certificates are checked in.
fn claims_are_checked_where_it_is_trusted(client: &Client) {
    let claim = json!({"n": "2047", "certificate": {"kind": "factors", "factors": ["23", "89"]}});
    let input = json!({"task_type": "verify", "claims": [claim]});
    let job = json!({"topic": "job.bpsw.verify", "input": input, "labels": {"preferred_pool": "trusted"}});
    let reply: Value = client.post("/api/v1/jobs", &job).of(202);
    let done = client.wait(reply["job_id"].as_str().unwrap());
    let by = client.workers().items.into_iter().find(|worker| done.worker_id.as_deref() == Some(&worker.id)).expect("a worker");
    assert_eq!((done.state, by.pool.as_str()), (JobState::Succeeded, "trusted"));
}
