//! Submitting, waiting, results, batches, and what happens when the scheduler is away.

use std::time::Duration;

use busbar_protocol::busbar::{JobRecord, JobState};
use busbar_protocol::keys;
use busbar_protocol::ports::Records as _;
use serde_json::{Value, json};

use crate::support::{Fixture, Reply, Scheduler, request, until};

async fn submit(fixture: &Fixture) -> String {
    let reply = fixture.ask("POST", "/api/v1/jobs", r#"{"topic":"job.echo","input":{"a": 1}}"#).await;
    assert_eq!(reply.status, 202, "{}", reply.text());
    reply.json()["job_id"].as_str().expect("an id").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_from_submission_to_result() {
    let fixture = Fixture::start().await;
    let scheduler = Scheduler::start(&fixture).await;
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = [("authorization", &*format!("Bearer {}", fixture.key)), ("traceparent", traceparent)];
    let body = br#"{"topic":"job.echo","input":{"a": 1},"labels":{"x":"y"},"priority":"batch"}"#;
    let reply = request(fixture.address, "POST", "/api/v1/jobs", &headers, body).await;
    assert_eq!(reply.status, 202, "{}", reply.text());
    let accepted = reply.json();
    assert_eq!(accepted["state"], "SCHEDULED");
    assert_eq!(accepted["trace_id"], "0af7651916cd43dd8448eb211c80319c");
    let job_id = accepted["job_id"].as_str().expect("an id").to_owned();
    assert_eq!(scheduler.job(&job_id).traceparent, traceparent);

    // The input stands where the worker reads it, byte for byte.
    let input = fixture.store.payloads(vec![keys::context(&job_id)]).await.expect("read");
    assert_eq!(input, [Some(r#"{"a": 1}"#.into())]);

    let path = format!("/api/v1/jobs/{job_id}");
    let view = fixture.get(&path).await.json();
    assert_eq!((&view["state"], &view["result"], &view["priority"]), (&json!("SCHEDULED"), &Value::Null, &json!("batch")));
    fixture.get(&format!("{path}/result")).await.refused(404, "not_found");

    // Whoever waits is told at the end, long before the wait is over.
    let waiting = format!("{path}?wait=60s");
    let (waited, ()) = tokio::join!(fixture.get(&waiting), async {
        scheduler.finish(&job_id, JobState::Succeeded, Some(r#"{"b": 2}"#)).await;
    });
    let view = waited.json();
    assert_eq!((&view["state"], &view["result"]), (&json!("SUCCEEDED"), &json!({"b": 2})));
    assert_eq!((&view["worker_id"], &view["attempts"]), (&json!("w1"), &json!(1)));
    assert_eq!(view["labels"], json!({"x": "y"}));
    let result = fixture.get(&format!("{path}/result")).await;
    assert_eq!((result.status, result.text().as_str()), (200, r#"{"b": 2}"#));
    assert_eq!(result.headers["content-type"], "application/json");
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_named_like_a_part_of_a_path_can_be_looked_at() {
    let fixture = Fixture::start().await;
    let scheduler = Scheduler::start(&fixture).await;
    let job_id = submit(&fixture).await;
    // A client on the bus chose the name.
    let named = JobRecord { job_id: "batch".to_owned(), ..scheduler.job(&job_id) };
    scheduler.write(&[named], None).await;
    let view = fixture.get("/api/v1/jobs/batch").await.json();
    assert_eq!((&view["id"], &view["state"]), (&json!("batch"), &json!("SCHEDULED")));
    assert_eq!(fixture.get("/api/v1/jobs/batch?wait=0").await.status, 200);
    fixture.ask("DELETE", "/api/v1/jobs/batch", "").await.refused(405, "method_not_allowed");
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_ends_with_the_state_as_it_is_and_a_lost_event_costs_little() {
    let fixture = Fixture::start().await;
    let scheduler = Scheduler::start(&fixture).await;
    let job_id = submit(&fixture).await;
    let reply = fixture.get(&format!("/api/v1/jobs/{job_id}?wait=200ms")).await;
    assert_eq!((reply.status, &reply.json()["state"]), (200, &json!("SCHEDULED")));

    // A result of more than 256 KiB stays outside of the view.
    let large = format!("\"{}\"", "x".repeat(300 * 1024));
    scheduler.finish(&job_id, JobState::Succeeded, Some(&large)).await;
    let view = fixture.get(&format!("/api/v1/jobs/{job_id}?wait=60s")).await.json();
    assert_eq!((&view["result"], &view["result_bytes"]), (&Value::Null, &json!(large.len())));
    assert_eq!(fixture.get(&format!("/api/v1/jobs/{job_id}/result")).await.body, large.as_bytes());
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_submits_can_wait_for_the_end() {
    let fixture = Fixture::start().await;
    let scheduler = Scheduler::start(&fixture).await;
    let body = json!({"topic": "job.echo", "input": {"a": 1}}).to_string();
    let submit = |path: &'static str| fixture.ask("POST", path, &body);
    let first = submit("/api/v1/jobs?wait=200ms").await;
    let accepted = first.json();
    assert_eq!((first.status, &accepted["state"]), (202, &json!("SCHEDULED")));
    scheduler.finish(accepted["job_id"].as_str().expect("an id"), JobState::Failed, None).await;

    // Whoever waits is told at the end, long before the wait is over.
    let (waited, job_id) = tokio::join!(submit("/api/v1/jobs?wait=60s"), async {
        let job_id = until("it was admitted", async || scheduler.live().pop()).await;
        scheduler.finish(&job_id, JobState::Succeeded, Some(r#"{"b": 2}"#)).await;
        job_id
    });
    let view = waited.json();
    assert_eq!((waited.status, &view["id"], &view["state"]), (200, &json!(job_id), &json!("SUCCEEDED")));
    assert_eq!(view["result"], json!({"b": 2}));
    submit("/api/v1/jobs?wait=2h").await.refused(422, "field_invalid");
    submit("/api/v1/jobs?wiat=2s").await.refused(422, "field_invalid");
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_of_ten_thousand_keeps_its_order() {
    let fixture = Fixture::start().await;
    let scheduler = Scheduler::start(&fixture).await;
    let jobs: Vec<Value> = (0..10_000)
        .map(|n| match n {
            77 => json!({"topic": "job.unknown.x", "input": n}),
            78 => json!({"topic": "job.echo", "prompt": n}),
            9_999 => json!("no submission"),
            n => json!({"topic": "job.echo", "input": n}),
        })
        .collect();
    let reply = fixture.ask("POST", "/api/v1/jobs/batch", &json!({ "jobs": jobs }).to_string()).await;
    assert_eq!(reply.status, 202, "{}", reply.text());
    let reply = reply.json();
    let ids = reply["job_ids"].as_array().expect("ids");
    let nulls: Vec<usize> = ids.iter().enumerate().filter(|(_, id)| id.is_null()).map(|(n, _)| n).collect();
    assert_eq!((ids.len(), nulls), (10_000, vec![77, 78, 9_999]));
    let rejected: Vec<_> =
        reply["rejected"].as_array().expect("a list").iter().map(|r| (r["index"].clone(), r["code"].clone())).collect();
    let expected = [(77, "unknown_topic"), (78, "field_invalid"), (9_999, "field_invalid")];
    assert_eq!(rejected, expected.map(|(n, code)| (json!(n), json!(code))));
    assert!(reply["rejected"][1]["detail"].as_str().expect("a detail").contains("`input`"));

    let messages = scheduler.messages();
    assert_eq!(messages.iter().map(|(items, _)| items).sum::<usize>(), 9_998);
    assert!(messages.iter().all(|(items, bytes)| *items <= 256 && *bytes <= 512 * 1024), "{messages:?}");
    let id = ids[1234].as_str().expect("an id");
    let input = fixture.store.payloads(vec![keys::context(id)]).await.expect("read");
    assert_eq!(input, [Some("1234".into())]);
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_scheduler_nothing_is_half_done() {
    let fixture = Fixture::start().await;
    let asked = fixture.ask("POST", "/api/v1/jobs", r#"{"topic":"job.echo","input":1}"#).await;
    asked.refused(503, "scheduler_unavailable");
    assert_eq!(asked.headers["retry-after"], "1");
    // Its input was on its way in the message: a mark keeps the message from becoming a job later.
    let marked = fixture.keys("job:revoked:");
    assert_eq!((marked.len(), fixture.keys("ctx:").len()), (1, 0), "{marked:?}");
    let batch = fixture.ask("POST", "/api/v1/jobs/batch", r#"{"jobs":[{"topic":"job.echo","input":1}]}"#).await.json();
    assert_eq!((&batch["job_ids"], &batch["rejected"][0]["code"]), (&json!([null]), &json!("scheduler_unavailable")));
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scheduler_that_comes_late_is_waited_for() {
    let fixture = Fixture::start().await;
    let (job_id, _scheduler) = tokio::join!(submit(&fixture), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        Scheduler::start(&fixture).await
    });
    assert_eq!(fixture.get(&format!("/api/v1/jobs/{job_id}")).await.json()["state"], "SCHEDULED");
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scheduler_that_knows_nothing_of_inputs_that_go_along_finds_them_stored() {
    let fixture = Fixture::start().await;
    let scheduler = Scheduler::start(&fixture).await;
    let accepted = fixture.ask("POST", "/api/v1/jobs", r#"{"topic":"job.old","input":1}"#).await.json();
    let job_id = accepted["job_id"].as_str().expect("an id");
    assert_eq!(scheduler.job(job_id).topic, "job.old");
    let input = fixture.store.payloads(vec![keys::context(job_id)]).await.expect("read");
    assert_eq!(input, [Some("1".into())]);
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_schedulers_is_not_seen() {
    let fixture = Fixture::start().await;
    let scheduler = Scheduler::start(&fixture).await;
    scheduler.be_replaced(30);
    let jobs: Vec<Value> = (0..100).map(|n| json!({"topic": "job.echo", "input": n})).collect();
    let reply = fixture.ask("POST", "/api/v1/jobs/batch", &json!({ "jobs": jobs }).to_string()).await.json();
    assert_eq!(reply["rejected"], json!([]));
    let ids = reply["job_ids"].as_array().expect("ids");
    assert!(ids.iter().all(|id| id.as_str().is_some_and(|id| scheduler.job(id).job_id == id)));
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_admission_whose_answer_was_lost_counts() {
    let fixture = Fixture::start().await;
    let scheduler = Scheduler::start(&fixture).await;
    scheduler.be_mute();
    let job_id = submit(&fixture).await;
    assert_eq!(scheduler.job(&job_id).job_id, job_id);
    let input = fixture.store.payloads(vec![keys::context(&job_id)]).await.expect("read");
    assert!(input[0].is_some(), "the input of an admitted job stays");
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_scheduler_rejects_is_told_as_it_says() {
    let fixture = Fixture::start().await;
    let _scheduler = Scheduler::start(&fixture).await;
    let of = |topic: &str| format!(r#"{{"topic":"{topic}","input":1}}"#);
    let reply: Reply = fixture.ask("POST", "/api/v1/jobs", &of("job.unknown.x")).await;
    assert!(reply.refused(422, "unknown_topic").contains("job.unknown.x"));
    let reply = fixture.ask("POST", "/api/v1/jobs", &of("job.full")).await;
    reply.refused(429, "backlog_full");
    assert_eq!((&*reply.headers["retry-after"], &reply.json()["retry_after_ms"]), ("3", &json!(2500)));
    fixture.end().await;
}
