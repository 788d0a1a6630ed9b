//! Cancelling, logs, workers, status, health and metrics.

use std::time::Duration;

use busbar_protocol::busbar::JobState;
use busbar_protocol::keys;
use busbar_protocol::ports::Records as _;
use serde_json::json;

use crate::support::{Fixture, Scheduler, request, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_cancelled_once_and_its_logs_are_shown() {
    let fixture = Fixture::start().await;
    let scheduler = Scheduler::start(&fixture).await;
    let submit = async || {
        let reply = fixture.ask("POST", "/api/v1/jobs", r#"{"topic":"job.echo","input":1}"#).await.json();
        reply["job_id"].as_str().expect("an id").to_owned()
    };
    let job_id = submit().await;
    let reply = fixture.ask("POST", &format!("/api/v1/jobs/{job_id}/cancel"), r#"{"reason":"enough"}"#).await;
    assert_eq!(reply.json(), json!({"id": job_id, "state": "CANCELLED"}));
    assert_eq!(fixture.get(&format!("/api/v1/jobs/{job_id}")).await.json()["state"], "CANCELLED");

    for body in ["", "null"] {
        let reply = fixture.ask("POST", &format!("/api/v1/jobs/{}/cancel", submit().await), body).await;
        assert_eq!((reply.status, &reply.json()["state"]), (200, &json!("CANCELLED")), "{body:?}");
    }

    let job_id = submit().await;
    assert_eq!(fixture.get(&format!("/api/v1/jobs/{job_id}/logs")).await.json(), json!({"id": job_id, "attempts": []}));
    let log = keys::attempt_log(&job_id, 1);
    fixture.store.append_payload(&log, "one\ntwo\n".into(), 1 << 20, Duration::from_secs(60)).await.expect("appended");
    scheduler.finish(&job_id, JobState::Failed, None).await;
    let expected = json!({"id": job_id, "attempts": [{"attempt": 1, "lines": ["one", "two"]}]});
    assert_eq!(fixture.get(&format!("/api/v1/jobs/{job_id}/logs")).await.json(), expected);
    assert_eq!(fixture.get(&format!("/api/v1/jobs/{job_id}")).await.json()["error_code"], "handler_failed");
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cell_is_shown_also_when_nobody_answers() {
    let fixture = Fixture::start().await;
    let status = fixture.get("/api/v1/status").await.json();
    assert_eq!(
        (&status["scheduler"], &status["bus"]["connected"], &status["store"]["ok"]),
        (&json!(null), &json!(true), &json!(true))
    );
    let _scheduler = Scheduler::start(&fixture).await;
    let status = fixture.get("/api/v1/status").await.json();
    assert_eq!(
        (&status["scheduler"]["epoch"], &status["workers"]),
        (&json!(2), &json!({"count": 1, "capacity": 8, "in_flight": 3}))
    );
    let workers = fixture.get("/api/v1/workers").await.json();
    assert_eq!((&workers["items"][0]["id"], &workers["items"][0]["kind"]), (&json!("w1"), &json!("native")));
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_and_metrics_need_no_key() {
    let fixture = Fixture::start().await;
    let get = async |path: &str| request(fixture.address, "GET", path, &[], b"").await;
    assert_eq!(get("/healthz").await.status, 200);
    until("ready", async || (get("/readyz").await.status == 200).then_some(())).await;
    fixture.get("/api/v1/jobs/none").await.refused(404, "job_not_found");
    let metrics = get("/metrics").await.text();
    for line in [
        r#"busbar_gateway_requests_total{method="GET",route="/api/v1/jobs/{id}",status="404"} 1"#,
        r#"busbar_gateway_refused_total{code="job_not_found"} 1"#,
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    fixture.end().await;
}
