//! Bad input over HTTP: each mistake gets its own clear answer, nothing hangs, and nothing else is harmed.

use busbar_api::JobState;
use serde_json::json;

use crate::support::{Client, Dev, SLEEP, Sleeper};

#[test]
fn every_mistake_has_its_answer() {
    let dev = Dev::start();
    let _sleeper = Sleeper::start(&dev, "sleeper-1", 2, &dev.temp().join("executions"));
    let client = dev.client();
    wrong_keys(&client);
    wrong_submissions(&client);
    wrong_bodies(&client);
    wrong_queries(&client);
    // And after all that it works as before.
    assert_eq!(client.wait(&client.submit(SLEEP, &json!({"ms": 1}))).state, JobState::Succeeded);
    assert_eq!(client.list("").len(), 1, "a refused submission has left a job");
}

fn wrong_keys(client: &Client) {
    let submission = json!({"topic": SLEEP, "input": {"ms": 1}});
    let nobody = client.with_key(None);
    nobody.get("/api/v1/jobs").problem(401, "unauthenticated");
    nobody.post("/api/v1/jobs", &submission).problem(401, "unauthenticated");
    let stranger = client.with_key(Some("bb_0123456789abcdef0123456789abcdef"));
    stranger.get("/api/v1/status").problem(401, "key_unknown");
    stranger.post("/api/v1/jobs", &submission).problem(401, "key_unknown");
}

fn wrong_submissions(client: &Client) {
    let submit = |body| client.post("/api/v1/jobs", &body);
    submit(json!({"topic": "job.test.nothing", "input": {}})).problem(422, "unknown_topic");
    submit(json!({"topic": "sys.job.submit", "input": {}})).problem(422, "topic_invalid");
    submit(json!({"topic": "job.*", "input": {}})).problem(422, "topic_invalid");
    let detail = submit(json!({"topic": SLEEP, "prompt": "hello"})).problem(422, "field_invalid");
    assert!(detail.contains("`input`"), "{detail}");
    let detail = submit(json!({"topic": SLEEP})).problem(422, "field_invalid");
    assert!(detail.contains("input"), "{detail}");
    let detail = submit(json!({"topic": SLEEP, "input": {"ms": 1}, "prioritty": "batch"})).problem(422, "field_invalid");
    assert!(detail.contains("prioritty"), "{detail}");
    submit(json!({"topic": SLEEP, "input": {"ms": 1}, "priority": "high"})).problem(422, "field_invalid");
    submit(json!({"topic": SLEEP, "input": {"ms": 1}, "max_attempts": 0})).problem(422, "field_invalid");
    let detail = submit(json!({"topic": SLEEP, "input": {"ms": "long"}})).problem(422, "input_invalid");
    assert!(detail.contains("/ms"), "{detail}");
    submit(json!({"topic": SLEEP, "input": {"ms": 1, "more": true}})).problem(422, "input_invalid");
    submit(json!({"topic": SLEEP, "input": "x".repeat(1024 * 1024)})).problem(413, "payload_too_large");
}

fn wrong_bodies(client: &Client) {
    let batch = "/api/v1/jobs/batch";
    for body in ["", "{", "nonsense", "\u{0}", "{\"topi"] {
        client.post_raw("/api/v1/jobs", body.as_bytes()).problem(400, "body_invalid");
        client.post_raw(batch, body.as_bytes()).problem(400, "body_invalid");
    }
    client.post_raw("/api/v1/jobs", &[0xff, 0xfe, 0x00]).problem(400, "body_invalid");
    let deep = format!(r#"{{"topic":"{SLEEP}","input":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    client.post_raw("/api/v1/jobs", deep.as_bytes()).problem(422, "input_invalid");
    client.post_raw("/api/v1/jobs", "[".repeat(100_000).as_bytes()).problem(422, "field_invalid");
    client.post(batch, &json!({})).problem(422, "field_invalid");
    client.post_raw(batch, &vec![b' '; (64 << 20) + 1]).problem(413, "payload_too_large");
}

fn wrong_queries(client: &Client) {
    let no_job = "01890000-0000-7000-8000-000000000000";
    client.get(&format!("/api/v1/jobs/{no_job}")).problem(404, "job_not_found");
    client.get(&format!("/api/v1/jobs/{no_job}/logs")).problem(404, "job_not_found");
    client.post_raw(&format!("/api/v1/jobs/{no_job}/cancel"), b"").problem(404, "job_not_found");
    client.get("/api/v1/jobs/-strange-").problem(404, "job_not_found");
    client.get(&format!("/api/v1/jobs/{no_job}?wait=forever")).problem(422, "field_invalid");
    client.get(&format!("/api/v1/jobs/{no_job}?wait=61s")).problem(422, "field_invalid");
    client.get("/api/v1/jobs?cursor=stolen").problem(400, "cursor_invalid");
    client.get("/api/v1/jobs?state=HAPPY").problem(422, "field_invalid");
    client.get("/api/v1/nothing").problem(404, "not_found");
    client.post("/api/v1/workers", &json!({})).problem(405, "method_not_allowed");
}
