//! Runs over HTTP: starting, waiting, timelines, lists, ends, and what happens when the engine is away.

use busbar_gateway::Role;
use busbar_protocol::busbar::{Items, RunState, StepRecord, StepState};
use busbar_protocol::keys;
use busbar_protocol::ports::Records as _;
use serde_json::{Value, json};

use crate::engine::Engine;
use crate::support::{Fixture, Reply, key, request};

const WORKFLOW: &str = r#"{"id":"words","steps":{"split":{"type":"transform"},"map":{"type":"for_each"}}}"#;

async fn ready() -> (Fixture, Engine) {
    let fixture = Fixture::start().await;
    let engine = Engine::start(&fixture).await;
    assert_eq!(fixture.ask("POST", "/api/v1/workflows", WORKFLOW).await.status, 201);
    (fixture, engine)
}

async fn start(fixture: &Fixture) -> String {
    let reply = fixture.ask("POST", "/api/v1/workflows/words/runs", "{}").await;
    assert_eq!(reply.status, 202, "{}", reply.text());
    reply.json()["run_id"].as_str().expect("an id").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_from_start_to_output() {
    let (fixture, engine) = ready().await;
    let headers = [
        ("x-api-key", &*fixture.key),
        ("idempotency-key", "k1"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ];
    let path = "/api/v1/workflows/words/runs?version=1&labels=team=a,note=b";
    let reply = request(fixture.address, "POST", path, &headers, br#" {"files": [1,  2]} "#).await;
    assert_eq!(reply.status, 202, "{}", reply.text());
    let started = reply.json();
    assert_eq!(
        (&started["state"], &started["workflow_id"], &started["version"]),
        (&json!("RUNNING"), &json!("words"), &json!(1))
    );
    let run_id = started["run_id"].as_str().expect("an id").to_owned();
    let asked = engine.starts().remove(0);
    assert_eq!((asked.idempotency_key.as_str(), asked.trace_id.as_str()), ("k1", "0af7651916cd43dd8448eb211c80319c"));
    assert_eq!((asked.input_bytes, asked.labels.len(), asked.requested_by.as_str()), (18, 2, "acme-admin"));

    // The input is kept byte for byte.
    let path = format!("/api/v1/workflow-runs/{run_id}");
    assert_eq!(fixture.get(&format!("{path}/input")).await.text(), r#"{"files": [1,  2]}"#);
    fixture.get(&format!("{path}/output")).await.refused(404, "not_found");

    let map = StepRecord {
        step_id: "map".into(),
        state: StepState::Running.into(),
        attempt: 1,
        job_id: "j1".into(),
        started_ms: 1_700_000_000_500,
        items: Some(Items { total: 5, next: 3, succeeded: 1, failed: 0 }),
        ..StepRecord::default()
    };
    engine.step(&run_id, map).await;
    let view = fixture.get(&path).await.json();
    assert_eq!((&view["state"], &view["ended_at"], &view["error"]), (&json!("RUNNING"), &Value::Null, &Value::Null));
    assert_eq!(view["labels"], json!({"note": "b", "team": "a"}));
    let (split, map) = (&view["steps"][0], &view["steps"][1]);
    assert_eq!((&split["id"], &split["type"], &split["state"]), (&json!("split"), &json!("transform"), &json!("PENDING")));
    assert_eq!((&map["type"], &map["state"], &map["job_id"]), (&json!("for_each"), &json!("RUNNING"), &json!("j1")));
    assert_eq!(map["items"], json!({"total": 5, "succeeded": 1, "failed": 0, "running": 2}));
    assert_eq!(map["started_at"], "2023-11-14T22:13:20.500Z");

    // Whoever waits is told at the end, long before the wait is over.
    let waiting = format!("{path}?wait=60s");
    let (waited, ()) = tokio::join!(fixture.get(&waiting), engine.finish(&run_id, RunState::Succeeded, Some(r#"{"words": 3}"#)));
    let view = waited.json();
    assert_eq!((&view["state"], &view["output"], &view["output_bytes"]), (&json!("SUCCEEDED"), &json!({"words": 3}), &json!(12)));
    assert!(view["ended_at"].is_string());
    let output = fixture.get(&format!("{path}/output")).await;
    assert_eq!((output.text().as_str(), &*output.headers["content-type"]), (r#"{"words": 3}"#, "application/json"));

    let told = fixture.get(&format!("{path}/timeline")).await.json();
    let short = |told: &Value| -> Vec<Value> {
        let items = told["items"].as_array().expect("items");
        items.iter().map(|item| json!([item["state"], item["step"], item["step_state"]])).collect()
    };
    let ended = json!(["SUCCEEDED", null, null]);
    assert_eq!(short(&told), [json!(["RUNNING", null, null]), json!([null, "map", "RUNNING"]), ended.clone()]);
    let page = fixture.get(&format!("{path}/timeline?limit=2")).await.json();
    let after = page["next_cursor"].as_str().expect("a cursor");
    let rest = fixture.get(&format!("{path}/timeline?after={after}")).await.json();
    assert_eq!((short(&page).len(), short(&rest)), (2, vec![ended]));
    let end = rest["next_cursor"].as_str().expect("a cursor");
    let nothing = fixture.get(&format!("{path}/timeline?after={end}")).await.json();
    assert_eq!((&nothing["items"], &nothing["next_cursor"]), (&json!([]), &json!(end)));
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_end_on_request_and_once() {
    let (fixture, engine) = ready().await;
    let run_id = start(&fixture).await;
    fixture.ask("DELETE", "/api/v1/workflows/words", "").await.refused(409, "workflow_in_use");
    let cancel = async |id: &str| fixture.ask("POST", &format!("/api/v1/workflow-runs/{id}/cancel"), "").await;
    let hold = async |verb: &str| fixture.ask("POST", &format!("/api/v1/workflow-runs/{run_id}/{verb}"), "").await;
    assert_eq!(hold("pause").await.json(), json!({"run_id": run_id, "state": "PAUSED"}));
    assert_eq!(hold("resume").await.json(), json!({"run_id": run_id, "state": "RUNNING"}));
    assert_eq!(cancel(&run_id).await.json(), json!({"run_id": run_id, "state": "CANCELLED"}));
    hold("pause").await.refused(409, "run_terminal");
    cancel(&run_id).await.refused(409, "run_terminal");
    cancel("none").await.refused(404, "run_not_found");

    let run_id = start(&fixture).await;
    engine.finish(&run_id, RunState::Failed, None).await;
    let view = fixture.get(&format!("/api/v1/workflow-runs/{run_id}")).await.json();
    assert_eq!(view["error"], json!({"code": "step_failed", "message": "it failed", "step": "map"}));
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_run_from_the_newest_down() {
    let (fixture, engine) = ready().await;
    let other = WORKFLOW.replace("words", "others");
    assert_eq!(fixture.ask("POST", "/api/v1/workflows", &other).await.status, 201);
    let mut runs = Vec::new();
    for n in 0..7 {
        runs.push(start(&fixture).await);
        if n % 3 == 0 {
            engine.finish(&runs[n], RunState::Failed, None).await;
        }
    }
    assert_eq!(fixture.ask("POST", "/api/v1/workflows/others/runs", "").await.status, 202);
    runs.reverse();
    let ids = |reply: &Reply| -> Vec<String> {
        let reply = reply.json();
        let items = reply["items"].as_array().expect("items");
        items.iter().map(|item| item["run_id"].as_str().expect("an id").to_owned()).collect()
    };
    assert_eq!(ids(&fixture.get("/api/v1/workflow-runs").await).len(), 8);
    assert_eq!(ids(&fixture.get("/api/v1/workflow-runs?workflow_id=words").await), runs);
    let (mut paged, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = fixture.get(&format!("/api/v1/workflows/words/runs?limit=3&cursor={cursor}")).await;
        paged.extend(ids(&page));
        match page.json()["next_cursor"].as_str() {
            Some(next) => next.clone_into(&mut cursor),
            None => break,
        }
    }
    assert_eq!(paged, runs);
    let failed = ids(&fixture.get("/api/v1/workflow-runs?state=failed&limit=2").await);
    assert_eq!(failed, [runs[0].clone(), runs[3].clone()]);
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_mistake_is_a_problem() {
    let (fixture, _engine) = ready().await;
    let post = async |query: &str, body: &str| fixture.ask("POST", &format!("/api/v1/workflows/words/runs{query}"), body).await;
    post("", "{").await.refused(400, "body_invalid");
    post("", &format!("\"{}\"", "x".repeat(1024 * 1024))).await.refused(413, "payload_too_large");
    post("?version=0", "1").await.refused(422, "field_invalid");
    post("?labels=team", "1").await.refused(422, "field_invalid");
    post("?labels=approval_by=me", "1").await.refused(422, "field_invalid");
    post("?dry=1", "1").await.refused(422, "field_invalid");
    let headers = [("x-api-key", &*fixture.key), ("idempotency-key", &*"x".repeat(257))];
    request(fixture.address, "POST", "/api/v1/workflows/words/runs", &headers, b"1").await.refused(422, "field_invalid");
    fixture.ask("POST", "/api/v1/workflows/none/runs", "1").await.refused(404, "workflow_not_found");
    fixture.ask("POST", "/api/v1/workflows/a:b/runs", "1").await.refused(404, "workflow_not_found");

    let run_id = start(&fixture).await;
    let path = format!("/api/v1/workflow-runs/{run_id}");
    fixture.get(&format!("{path}?wait=2h")).await.refused(422, "field_invalid");
    fixture.get(&format!("{path}/timeline?after=x")).await.refused(400, "cursor_invalid");
    fixture.get(&format!("{path}/timeline?limit=0")).await.refused(422, "field_invalid");
    fixture.get("/api/v1/workflow-runs/none").await.refused(404, "run_not_found");
    fixture.get("/api/v1/workflow-runs/timeline:x").await.refused(404, "run_not_found");
    fixture.get("/api/v1/workflow-runs?state=PENDING").await.refused(422, "field_invalid");
    fixture.get("/api/v1/workflow-runs?limit=201").await.refused(422, "field_invalid");
    fixture.get("/api/v1/workflows/words/runs?workflow_id=x").await.refused(422, "field_invalid");

    let (viewer, other) = (key(&fixture.store, "acme", Role::Viewer).await, key(&fixture.store, "other", Role::Admin).await);
    let ask =
        async |method: &str, path: &str, key: &str| request(fixture.address, method, path, &[("x-api-key", key)], b"").await;
    assert_eq!(ask("GET", &path, &viewer).await.status, 200);
    ask("POST", "/api/v1/workflows/words/runs", &viewer).await.refused(403, "forbidden");
    ask("POST", &format!("{path}/cancel"), &viewer).await.refused(403, "forbidden");
    for part in ["", "/input", "/output", "/timeline"] {
        ask("GET", &format!("{path}{part}"), &other).await.refused(404, "run_not_found");
    }
    ask("POST", &format!("{path}/cancel"), &other).await.refused(404, "run_not_found");
    assert_eq!(ask("GET", "/api/v1/workflow-runs", &other).await.json()["items"], json!([]));
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_engines_is_not_seen() {
    let (fixture, engine) = ready().await;
    engine.be_replaced(3);
    start(&fixture).await;
    // Asked four times, for the same run.
    let starts = engine.starts();
    assert_eq!(starts.len(), 4);
    assert!(starts.iter().all(|start| start.run_id == starts[0].run_id));
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_engine_nothing_is_half_done() {
    let (fixture, engine) = ready().await;
    engine.be_mute();
    // What it committed counts, although it never says so.
    let run_id = start(&fixture).await;
    assert_eq!(fixture.get(&format!("/api/v1/workflow-runs/{run_id}")).await.json()["state"], "RUNNING");
    // What it did not commit will never be.
    let reply = fixture.ask("POST", "/api/v1/workflows/none/runs", "1").await;
    reply.refused(503, "engine_unavailable");
    assert_eq!(reply.headers["retry-after"], "1");
    let refused = engine.starts().pop().expect("asked").run_id;
    let inputs = fixture.store.payloads(vec![keys::run_input(&refused)]).await.expect("read");
    assert_eq!(inputs, [None], "the input of a run that was not started is taken away");
    fixture.end().await;
}
