//! What a submission can ask for beyond topic and input, over HTTP and gRPC.

use busbar_protocol::busbar::{GetJobRequest, IdempotencyPolicy, JobOptions, SubmitJobRequest};
use busbar_protocol::cap::JobRequest;
use busbar_protocol::ports::Records as _;
use busbar_protocol::prost::Message as _;
use busbar_rpc::tonic::Code;
use serde_json::{Value, json};

use crate::grpc::{client, echo, refused};
use crate::support::{Fixture, Scheduler};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn options_reach_the_scheduler_from_both_ways_in() {
    let fixture = Fixture::start().await;
    let scheduler = Scheduler::start(&fixture).await;
    let begun = fixture.store.time().await.expect("a time").millis();
    let body = r#"{"topic":"job.echo","input":1,"delay_ms":60000,"concurrency_key":"order 7","schedule_to_start_ms":1,
        "start_to_close_ms":2,"heartbeat_timeout_ms":3,"non_retryable_codes":["bad"],"idempotency_key":"k",
        "idempotency_policy":"allow_after_failure","parent_job_id":"p1"}"#;
    let reply = fixture.ask("POST", "/api/v1/jobs", body).await.json();
    let job_id = reply["job_id"].as_str().expect("an id").to_owned();
    let options = |job_id: &str| scheduler.state.lock().expect("not poisoned").options[job_id].clone();
    let got = options(&job_id);
    // The gateway counts from its own clock, which is not that of Redis to the millisecond.
    assert!((begun + 59_000..begun + 120_000).contains(&got.not_before_ms), "{got:?} from {begun}");
    let expected = JobOptions {
        not_before_ms: got.not_before_ms,
        schedule_to_start_ms: 1,
        start_to_close_ms: 2,
        heartbeat_timeout_ms: 3,
        concurrency_key: "order 7".into(),
        non_retryable_codes: vec!["bad".into()],
        idempotency_policy: IdempotencyPolicy::AllowAfterFailure.into(),
    };
    assert_eq!(got, expected);
    assert_eq!(JobRequest::decode(&scheduler.job(&job_id).request[..]).expect("a request").parent_job_id, "p1");
    let view = fixture.get(&format!("/api/v1/jobs/{job_id}")).await.json();
    assert_eq!((&view["parent_job_id"], &view["concurrency_key"]), (&json!("p1"), &json!("order 7")));
    assert_eq!((&view["redrive_of"], &view["crashes"]), (&Value::Null, &Value::Null));

    let request = SubmitJobRequest {
        not_before: Some(busbar_protocol::time::Timestamp::from_millis(expected.not_before_ms).to_proto()),
        concurrency_key: Some("order 7".into()),
        schedule_to_start_ms: Some(1),
        start_to_close_ms: Some(2),
        heartbeat_timeout_ms: Some(3),
        non_retryable_codes: vec!["bad".into()],
        idempotency_key: Some("k2".into()),
        idempotency_policy: IdempotencyPolicy::AllowAfterFailure.into(),
        parent_job_id: Some("p1".into()),
        ..echo("1")
    };
    let mut jobs = client(&fixture);
    let job_id = jobs.submit(request.clone()).await.expect("accepted").into_inner().job_id;
    assert_eq!(options(&job_id), expected);
    let job = jobs.get(GetJobRequest { job_id }).await.expect("known").into_inner();
    assert_eq!((job.parent_job_id.as_str(), job.concurrency_key.as_str()), ("p1", "order 7"));
    let both = SubmitJobRequest { delay_ms: Some(1), ..request };
    let told = refused(jobs.submit(both).await, Code::InvalidArgument, "field_invalid");
    assert!(told.starts_with("not_before: "), "{told}");
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_full_or_too_fast_says_when_to_ask_again() {
    let fixture = Fixture::start().await;
    let _scheduler = Scheduler::start(&fixture).await;
    let fast = fixture.ask("POST", "/api/v1/jobs", r#"{"topic":"job.fast","input":1}"#).await;
    fast.refused(429, "rate_exceeded");
    assert_eq!(fast.headers["retry-after"], "1", "at least one second, also when the scheduler says nothing");
    let jobs = ["job.full", "job.echo", "job.fast"].map(|topic| json!({"topic": topic, "input": 1}));
    let batch = fixture.ask("POST", "/api/v1/jobs/batch", &json!({ "jobs": jobs }).to_string()).await.json();
    let told: Vec<_> =
        batch["rejected"].as_array().expect("a list").iter().map(|r| (r["index"].clone(), r["retry_after_ms"].clone())).collect();
    assert_eq!(told, [(json!(0), json!(2500)), (json!(2), json!(1000))]);

    let post =
        async |members: &str| fixture.ask("POST", "/api/v1/jobs", &format!(r#"{{"topic":"job.echo","input":1{members}}}"#)).await;
    for (members, named) in [
        (r#","not_before":"2020-01-01T00:00:00Z""#, "not_before: "),
        (r#","delay_ms":2000,"deadline_ms":1000"#, "deadline_ms: "),
        (r#","idempotency_policy":"reject""#, "idempotency_policy: "),
    ] {
        let detail = post(members).await.refused(422, "field_invalid");
        assert!(detail.starts_with(named), "{detail}");
    }
    fixture.end().await;
}
