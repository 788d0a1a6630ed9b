//! Pauses, drains, blocks, and why a job is where it is.

use busbar_gateway::Role;
use busbar_protocol::busbar::{ExplainJobRequest, JobGateState, JobState};
use busbar_rpc::tonic::Code;
use serde_json::{Value, json};

use crate::grpc::{client, refused};
use crate::support::{Fixture, Scheduler, key, request};

fn names(list: &Value) -> Vec<(String, String)> {
    let text = |item: &Value, member: &str| item[member].as_str().expect("a text").to_owned();
    list["items"].as_array().expect("items").iter().map(|item| (text(item, "scope"), text(item, "name"))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_workers_are_enrolled_shown_and_revoked() {
    let fixture = Fixture::start().await;
    let _scheduler = Scheduler::start(&fixture).await;
    let path = "/api/v1/workers/w1/keys/k1";
    let key = fixture.ask("PUT", path, r#"{"public_key":"PEM","production":true}"#).await.json();
    assert_eq!((&key["worker_id"], &key["key_id"], &key["agent_id"]), (&json!("w1"), &json!("k1"), &json!("w1")));
    assert_eq!((&key["tenant_id"], &key["production"]), (&json!("acme"), &json!(true)));
    for list in ["/api/v1/worker-keys", "/api/v1/workers/w1/keys"] {
        assert_eq!(fixture.ask("GET", list, "").await.json(), json!({"items": [key]}), "{list}");
    }
    assert_eq!(fixture.ask("GET", "/api/v1/workers/w2/keys", "").await.json(), json!({"items": []}));
    assert_eq!(fixture.ask("DELETE", path, "").await.json(), json!({"items": []}));
    fixture.ask("DELETE", path, "").await.refused(404, "not_found");
    fixture.ask("PUT", path, r#"{"publick_key":"PEM"}"#).await.refused(422, "field_invalid");
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_paused_stays_so_until_it_is_lifted() {
    let fixture = Fixture::start().await;
    let _scheduler = Scheduler::start(&fixture).await;
    let set = async |path: &str, body: &str| fixture.ask("PUT", &format!("/api/v1/pauses/{path}"), body).await;
    let paused = set("topic/job.a.%3E", r#"{"reason":"the API is down","for_ms":60000}"#).await.json();
    assert_eq!(
        (&paused["scope"], &paused["name"], &paused["reason"], &paused["set_by"]),
        (&json!("topic"), &json!("job.a.>"), &json!("the API is down"), &json!("acme-admin"))
    );
    assert!(paused["until"].as_str() > paused["since"].as_str(), "{paused}");
    assert_eq!(set("pool/default", "").await.json()["until"], Value::Null);
    assert_eq!(set("key/acme%20job.a%20order%2F4711", "{}").await.json()["name"], "acme job.a order/4711");
    let list = fixture.get("/api/v1/pauses").await.json();
    let expected = [("pool", "default"), ("topic", "job.a.>"), ("key", "acme job.a order/4711")];
    assert_eq!(names(&list), expected.map(|(scope, name)| (scope.to_owned(), name.to_owned())));

    for (path, body, code) in [
        ("topic/jobs", "", "topic_invalid"),
        ("cell/x", "", "field_invalid"),
        ("key/acme", "", "field_invalid"),
        ("pool/p", r#"{"until":"2020-01-01T00:00:00Z"}"#, "field_invalid"),
        ("pool/p", r#"{"until":"2020-01-01T00:00:00Z","for_ms":1}"#, "field_invalid"),
        ("pool/p", r#"{"unti":1}"#, "field_invalid"),
    ] {
        set(path, body).await.refused(422, code);
    }
    for _ in 0..2 {
        let left = fixture.ask("DELETE", "/api/v1/pauses/topic/job.a.%3E", "").await.json();
        assert_eq!(names(&left).len(), 2, "{left}");
    }
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_drain_and_are_blocked() {
    let fixture = Fixture::start().await;
    let _scheduler = Scheduler::start(&fixture).await;
    let worker = async || fixture.get("/api/v1/workers").await.json()["items"][0].clone();
    let present = worker().await;
    assert_eq!((&present["reason"], &present["prefetch"], &present["type"]), (&Value::Null, &json!(2), &json!("gpu")));
    let drain = fixture.ask("POST", "/api/v1/workers/w1/drain", r#"{"reason":" new machine "}"#).await.json();
    assert_eq!(
        (&drain["worker_id"], &drain["reason"], &drain["set_by"]),
        (&json!("w1"), &json!("new machine"), &json!("acme-admin"))
    );
    let present = worker().await;
    assert_eq!((&present["status"], &present["reason"]), (&json!("draining"), &json!("new machine")));
    assert_eq!(fixture.ask("DELETE", "/api/v1/workers/w1/drain", "").await.json(), json!({"items": []}));
    assert_eq!(worker().await["status"], "online");

    let block = fixture.ask("PUT", "/api/v1/workers/w%2F1/block", "").await.json();
    assert_eq!((&block["scope"], &block["name"]), (&json!("worker"), &json!("w/1")));
    assert_eq!(names(&fixture.get("/api/v1/pauses").await.json()), [("worker".to_owned(), "w/1".to_owned())]);
    assert_eq!(fixture.ask("DELETE", "/api/v1/workers/w%2F1/block", "").await.json(), json!({"items": []}));
    fixture.ask("POST", "/api/v1/workers/w%0A1/drain", "").await.refused(422, "field_invalid");
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_operators_hold_things_back() {
    let fixture = Fixture::start().await;
    let _scheduler = Scheduler::start(&fixture).await;
    let changes = [
        ("PUT", "/api/v1/pauses/pool/p"),
        ("DELETE", "/api/v1/pauses/pool/p"),
        ("POST", "/api/v1/workers/w1/drain"),
        ("DELETE", "/api/v1/workers/w1/drain"),
        ("PUT", "/api/v1/workers/w1/block"),
        ("DELETE", "/api/v1/workers/w1/block"),
    ];
    for (role, may_look) in [(Role::Viewer, true), (Role::Submitter, false)] {
        let key = key(&fixture.store, "acme", role).await;
        let headers = [("x-api-key", &*key)];
        for (method, path) in changes {
            request(fixture.address, method, path, &headers, b"").await.refused(403, "forbidden");
        }
        let looked = request(fixture.address, "GET", "/api/v1/pauses", &headers, b"").await;
        assert_eq!(looked.status, if may_look { 200 } else { 403 });
    }
    let operator = key(&fixture.store, "other", Role::Operator).await;
    for (method, path) in changes {
        assert_eq!(request(fixture.address, method, path, &[("x-api-key", &operator)], b"").await.status, 200, "{method} {path}");
    }
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_explained_live_and_ended() {
    let fixture = Fixture::start().await;
    let scheduler = Scheduler::start(&fixture).await;
    let reply = fixture.ask("POST", "/api/v1/jobs", r#"{"topic":"job.echo","input":1,"max_attempts":2}"#).await.json();
    let job_id = reply["job_id"].as_str().expect("an id");
    let path = format!("/api/v1/jobs/{job_id}/explain");
    let live = fixture.get(&path).await.json();
    assert_eq!((&live["state"], &live["summary"]), (&json!("SCHEDULED"), &json!("It waits for a free worker.")));
    let gate = &live["gates"][1];
    assert_eq!((&gate["name"], &gate["state"], &gate["spent_ms"]), (&json!("worker"), &json!("waits"), &json!(3000)));
    assert_eq!(gate["workers"], json!([{"worker_id": "w1", "verdict": "full", "detail": "8 of 8"}]));
    let mut jobs = client(&fixture);
    let over_grpc = jobs.explain(ExplainJobRequest { job_id: job_id.to_owned() }).await.expect("explained").into_inner();
    assert_eq!((over_grpc.gates[1].state(), over_grpc.gates[1].workers.len()), (JobGateState::Waits, 1));

    scheduler.finish(job_id, JobState::Failed, None).await;
    let ended = fixture.get(&path).await.json();
    assert_eq!((&ended["state"], &ended["gates"]), (&json!("FAILED"), &json!([])));
    assert_eq!(ended["summary"], "It failed in attempt 1 of 2: handler_failed");
    assert_eq!((&ended["end"]["attempts"], &ended["end"]["error_code"]), (&json!(1), &json!("handler_failed")));
    let over_grpc = jobs.explain(ExplainJobRequest { job_id: job_id.to_owned() }).await.expect("explained").into_inner();
    assert_eq!(over_grpc.end.map(|end| end.error_code).as_deref(), Some("handler_failed"));

    fixture.get("/api/v1/jobs/nobody/explain").await.refused(404, "job_not_found");
    refused(jobs.explain(ExplainJobRequest { job_id: "a b".into() }).await, Code::NotFound, "job_not_found");
    let other = key(&fixture.store, "other", Role::Admin).await;
    request(fixture.address, "GET", &path, &[("x-api-key", &other)], b"").await.refused(404, "job_not_found");
    fixture.end().await;
}
