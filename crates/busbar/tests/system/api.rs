//! What the HTTP interface promises when everything is right.

use busbar_api::{JobState, JobView, LogsView, SubmitReply};
use serde_json::{Value, json};

use crate::support::{Dev, Executions, SLEEP, Sleeper, until};

#[test]
fn jobs_from_submission_to_result() {
    let dev = Dev::start();
    let file = dev.temp().join("executions");
    let sleeper = Sleeper::start(&dev, "sleeper-1", 4, &file);
    let client = dev.client();

    let answer = client
        .post("/api/v1/jobs", &json!({"topic": SLEEP, "input": {"ms": 5}, "labels": {"team": "a"}, "priority": "critical"}));
    let reply: SubmitReply = answer.of(202);
    assert!(is_uuid_v7(&reply.job_id), "{}", reply.job_id);
    assert_eq!(reply.trace_id.len(), 32, "{}", reply.trace_id);
    assert!(!reply.existing);

    let answer = client.get(&format!("/api/v1/jobs/{}?wait=30s", reply.job_id));
    let members: Value = answer.of(200);
    for member in [
        "id",
        "state",
        "topic",
        "attempts",
        "worker_id",
        "created_at",
        "updated_at",
        "result_ptr",
        "result",
        "error_code",
        "error_message",
    ] {
        assert!(members.get(member).is_some(), "{member} is missing in {members}");
    }
    let view = client.wait(&reply.job_id);
    assert_eq!((view.state, view.attempts, view.worker_id.as_deref()), (JobState::Succeeded, 1, Some("sleeper-1")));
    assert_eq!(view.result.expect("a small result").get(), r#"{"slept":5}"#);
    assert_eq!(view.result_ptr, Some(format!("redis://res:{}:1", reply.job_id)));
    assert_eq!(view.result_bytes, Some(11), "as many as its text has");
    assert_eq!((view.error_code, view.error_message), (None, None));
    assert_eq!(view.labels.get("team").map(String::as_str), Some("a"));
    for time in [&view.created_at, &view.updated_at] {
        assert!(is_rfc3339_millis(time), "{time}");
    }
    assert_eq!(client.get(&format!("/api/v1/jobs/{}/result", reply.job_id)).body, r#"{"slept":5}"#);
    let logs: LogsView = client.get(&format!("/api/v1/jobs/{}/logs", reply.job_id)).of(200);
    assert_eq!(logs.id, reply.job_id);

    the_same_key_is_the_same_job(&dev);
    a_batch_keeps_its_order(&dev);
    the_list_has_pages(&dev);
    the_cell_is_shown(&dev);
    assert_eq!(Executions::read(&file).open, 0);
    drop(sleeper);
    ends_that_are_no_success(&dev);
    artifacts_come_back(&dev);
}

fn the_same_key_is_the_same_job(dev: &Dev) {
    let client = dev.client();
    let submission = json!({"topic": SLEEP, "input": {"ms": 1}, "idempotency_key": "order-7"});
    let first: SubmitReply = client.post("/api/v1/jobs", &submission).of(202);
    let second: SubmitReply = client.post("/api/v1/jobs", &submission).of(202);
    assert_eq!(first.job_id, second.job_id);
    assert!(!first.existing && second.existing);
    client.wait(&first.job_id);
    let third: SubmitReply = client.post("/api/v1/jobs", &submission).of(202);
    assert_eq!((third.job_id, third.state), (first.job_id, JobState::Succeeded));
}

fn a_batch_keeps_its_order(dev: &Dev) {
    let client = dev.client();
    let mut jobs = vec![json!({"topic": SLEEP, "input": {"ms": 0}}); 600];
    jobs[1] = json!({"topic": "job.test.nothing", "input": {}});
    jobs[300] = json!({"topic": SLEEP, "input": {"ms": -1}});
    jobs[599] = json!({"topic": SLEEP});
    let reply: busbar_api::BatchReply = client.post("/api/v1/jobs/batch", &json!({ "jobs": jobs })).of(202);
    assert_eq!(reply.job_ids.len(), 600);
    let rejected: Vec<_> = reply.rejected.iter().map(|rejection| (rejection.index, rejection.code.as_str())).collect();
    assert_eq!(rejected, [(1, "unknown_topic"), (300, "input_invalid"), (599, "field_invalid")]);
    for (index, id) in reply.job_ids.iter().enumerate() {
        assert_eq!(id.is_none(), [1, 300, 599].contains(&index), "{index}");
    }
    for id in reply.job_ids.iter().flatten() {
        assert_eq!(client.wait(id).state, JobState::Succeeded);
    }
}

fn the_list_has_pages(dev: &Dev) {
    let client = dev.client();
    // 597 of the batch and two before it.
    let all = client.list("&state=SUCCEEDED&topic=job.test.sleep");
    assert_eq!(all.len(), 599);
    assert!(all.windows(2).all(|pair| pair[0].created_at >= pair[1].created_at), "not the newest first");
    assert!(client.list("&state=FAILED").is_empty());
    assert!(client.list("&topic=job.test.unserved").is_empty());
    let page: Value = client.get("/api/v1/jobs?limit=10").of(200);
    assert_eq!(page["items"].as_array().map(Vec::len), Some(10));
    assert!(page["next_cursor"].is_string(), "{page}");
    assert_eq!(page["items"][0]["id"], json!(all[0].id));
}

fn the_cell_is_shown(dev: &Dev) {
    let client = dev.client();
    let workers = client.workers();
    let worker = workers.items.iter().find(|worker| worker.id == "sleeper-1").expect("our worker");
    assert_eq!((worker.kind.as_str(), worker.pool.as_str(), worker.capacity), ("native", "default", 4));
    let status = client.status();
    assert!(status.bus.connected && status.store.ok, "{status:?}");
    assert!(status.scheduler.expect("it answers").epoch > 0);
    let open = client.with_key(None);
    assert_eq!(open.get("/healthz").status, 200);
    assert_eq!(open.get("/readyz").status, 200);
    let metrics = open.get("/metrics");
    assert!(metrics.status == 200 && metrics.body.contains("busbar_"), "{metrics:?}");
}

/// No worker is there any more.
fn ends_that_are_no_success(dev: &Dev) {
    let client = dev.client();
    let denied = client.wait(&client.submit("job.test.forbidden", &json!({})));
    assert_eq!((denied.state, denied.error_code.as_deref()), (JobState::Denied, Some("safety_denied")));

    let waiting = client.submit("job.test.unserved", &json!({}));
    let answer: Value = client.post(&format!("/api/v1/jobs/{waiting}/cancel"), &json!({"reason": "not needed"})).of(200);
    // Whether it was out, looking for a worker, in this very moment is of no interest.
    assert!(
        answer["id"] == json!(waiting) && ["CANCELLED", "DISPATCHED"].contains(&answer["state"].as_str().unwrap()),
        "{answer}"
    );
    assert_eq!(client.wait(&waiting).state, JobState::Cancelled);

    let late: SubmitReply =
        client.post("/api/v1/jobs", &json!({"topic": "job.test.unserved", "input": {}, "deadline_ms": 50})).of(202);
    let late = client.wait(&late.job_id);
    assert_eq!((late.state, late.error_code.as_deref()), (JobState::Timeout, Some("deadline_exceeded")));

    // One that has ended is not cancelled.
    let ended = client.list("&state=SUCCEEDED").remove(0).id;
    let answer: Value = client.post_raw(&format!("/api/v1/jobs/{ended}/cancel"), b"").of(200);
    assert_eq!((&answer["state"], &answer["reason"]), (&json!("SUCCEEDED"), &json!("job already terminal")));
}

fn artifacts_come_back(dev: &Dev) {
    let client = dev.client();
    let text = "all human beings are born free\n".repeat(10_000);
    let made: Value = client.post_raw("/api/v1/artifacts?name=article-1.txt", text.as_bytes()).of(201);
    assert_eq!(made["size_bytes"], json!(text.len()));
    assert_eq!(made["sha256"].as_str().map(str::len), Some(64), "{made}");
    let id = made["artifact_id"].as_str().expect("an id");
    assert_eq!(client.get(&format!("/api/v1/artifacts/{id}")).body, text);
    client.get("/api/v1/artifacts/nothing").problem(404, "artifact_not_found");
}

/// A running job is told to stop, and its worker does.
#[test]
fn a_running_job_is_cancelled() {
    let dev = Dev::start();
    let file = dev.temp().join("executions");
    let _sleeper = Sleeper::start(&dev, "sleeper-1", 1, &file);
    let client = dev.client();
    let job = client.submit(SLEEP, &json!({"ms": 10_000}));
    until("it is executed", || (Executions::read(&file).open == 1).then_some(()));
    let answer: Value = client.post_raw(&format!("/api/v1/jobs/{job}/cancel"), b"").of(200);
    assert_eq!(answer["id"], json!(job));
    let view: JobView = client.wait(&job);
    assert_eq!((view.state, view.error_code.as_deref()), (JobState::Cancelled, Some("cancelled")));
    // The slot is free again.
    assert_eq!(client.wait(&client.submit(SLEEP, &json!({"ms": 1}))).state, JobState::Succeeded);
}

fn is_uuid_v7(id: &str) -> bool {
    id.len() == 36 && id.as_bytes()[14] == b'7' && id.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit())
}

/// `2026-11-21T09:30:00.125Z`
fn is_rfc3339_millis(time: &str) -> bool {
    let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    shape == "0000-00-00T00:00:00.000Z"
}
