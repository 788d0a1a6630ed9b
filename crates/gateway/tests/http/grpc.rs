//! The calls over gRPC: what they answer, what they refuse and how, and TLS.

use std::net::SocketAddr;
use std::time::Duration;

use busbar_gateway::{GatewayConfig, Role};
use busbar_protocol::busbar::submit_job_answer::Answer;
use busbar_protocol::busbar::{
    CancelJobRequest, GetJobRequest, Job, JobState, ListJobsRequest, Priority, SubmitJobRequest, SubmitJobsRequest,
    WaitJobRequest, WatchJobsRequest,
};
use busbar_protocol::cap::JobRequest;
use busbar_protocol::cordum_api;
use busbar_protocol::keys;
use busbar_protocol::ports::Records as _;
use busbar_protocol::prost::Message as _;
use busbar_rpc::busbar::dead_letters_client::DeadLettersClient;
use busbar_rpc::busbar::jobs_client::JobsClient;
use busbar_rpc::cordum_api::cordum_api_client::CordumApiClient;
use busbar_rpc::tonic::metadata::MetadataMap;
use busbar_rpc::tonic::service::interceptor::InterceptedService;
use busbar_rpc::tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use busbar_rpc::tonic::{Code, Request, Status};
use busbar_rpc::{CODE_METADATA, KernelClientOptions, RETRY_METADATA, Tls, TlsError, channel};
use serde_json::json;

use crate::support::{Fixture, Scheduler, key};

/// Puts an API key on every call.
#[derive(Clone)]
pub(crate) struct WithKey(Option<String>);

impl busbar_rpc::tonic::service::Interceptor for WithKey {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(key) = &self.0 {
            request.metadata_mut().insert("x-api-key", key.parse().expect("visible characters"));
        }
        Ok(request)
    }
}

pub(crate) type Client = JobsClient<InterceptedService<Channel, WithKey>>;

fn connect(address: SocketAddr) -> Channel {
    channel(&address.to_string(), KernelClientOptions::default()).expect("an address")
}

pub(crate) fn client(fixture: &Fixture) -> Client {
    client_with(fixture, Some(&fixture.key))
}

pub(crate) fn dead_letters(fixture: &Fixture) -> DeadLettersClient<InterceptedService<Channel, WithKey>> {
    DeadLettersClient::with_interceptor(connect(fixture.grpc), WithKey(Some(fixture.key.clone())))
}

pub(crate) fn client_with(fixture: &Fixture, key: Option<&str>) -> Client {
    JobsClient::with_interceptor(connect(fixture.grpc), WithKey(key.map(str::to_owned)))
}

pub(crate) fn echo(input: &str) -> SubmitJobRequest {
    SubmitJobRequest { topic: "job.echo".into(), input_json: input.to_owned().into(), ..SubmitJobRequest::default() }
}

pub(crate) async fn submit(client: &mut Client) -> String {
    client.submit(echo(r#"{"a": 1}"#)).await.expect("accepted").into_inner().job_id
}

fn text(metadata: &MetadataMap, name: &'static str) -> Option<String> {
    metadata.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// Checks status and code, and returns the detail.
pub(crate) fn refused<T: std::fmt::Debug>(outcome: Result<T, Status>, kind: Code, code: &str) -> String {
    let status = outcome.expect_err(code);
    assert_eq!((status.code(), text(status.metadata(), CODE_METADATA).as_deref()), (kind, Some(code)), "{status:?}");
    assert!(!status.details().is_empty(), "{status:?}");
    status.message().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_from_submission_to_result_and_in_the_list() {
    let fixture = Fixture::start().await;
    let scheduler = Scheduler::start(&fixture).await;
    let mut jobs = client(&fixture);
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut request = Request::new(SubmitJobRequest {
        priority: Priority::Batch.into(),
        labels: [("x".to_owned(), "y".to_owned())].into(),
        ..echo(r#"{"a": 1.50}"#)
    });
    request.metadata_mut().insert("traceparent", traceparent.parse().expect("visible"));
    let accepted = jobs.submit(request).await.expect("accepted").into_inner();
    assert_eq!((accepted.state(), accepted.trace_id.as_str()), (JobState::Scheduled, "0af7651916cd43dd8448eb211c80319c"));
    let job_id = accepted.job_id;
    assert_eq!(scheduler.job(&job_id).traceparent, traceparent);
    let input = fixture.store.payloads(vec![keys::context(&job_id)]).await.expect("read");
    assert_eq!(input, [Some(r#"{"a": 1.50}"#.into())]);

    let get = GetJobRequest { job_id: job_id.clone() };
    let job = jobs.get(get.clone()).await.expect("known").into_inner();
    assert_eq!((job.state(), job.priority(), job.result_json.is_empty()), (JobState::Scheduled, Priority::Batch, true));
    // A wait that is over tells the job as it is.
    let short = WaitJobRequest { job_id: job_id.clone(), timeout_ms: 50 };
    assert_eq!(jobs.wait(short).await.expect("known").into_inner().state(), JobState::Scheduled);

    let mut waiting = client(&fixture);
    let wait = WaitJobRequest { job_id: job_id.clone(), timeout_ms: 60_000 };
    let (waited, ()) = tokio::join!(waiting.wait(wait), async {
        scheduler.finish(&job_id, JobState::Succeeded, Some(r#"{"b": 2}"#)).await;
    });
    let job: Job = waited.expect("known").into_inner();
    assert_eq!((job.state(), &job.result_json[..], job.worker_id.as_str()), (JobState::Succeeded, &br#"{"b": 2}"#[..], "w1"));
    assert_eq!(job.labels.get("x").map(String::as_str), Some("y"));
    // The same moment as over HTTP.
    let view = fixture.get(&format!("/api/v1/jobs/{job_id}")).await.json();
    assert_eq!(job.created_at.expect("set").to_string(), view["created_at"].as_str().expect("a time"));

    let live = submit(&mut jobs).await;
    let mut list = ListJobsRequest { page_size: 1, ..ListJobsRequest::default() };
    let mut listed = Vec::new();
    loop {
        let page = jobs.list(list.clone()).await.expect("a page").into_inner();
        listed.extend(page.jobs.into_iter().map(|job| job.id));
        if page.next_page_token.is_empty() {
            break;
        }
        list.page_token = page.next_page_token;
    }
    assert_eq!(listed, [live.clone(), job_id.clone()]);
    let ended = ListJobsRequest { state: JobState::Succeeded.into(), ..ListJobsRequest::default() };
    assert_eq!(jobs.list(ended).await.expect("a page").into_inner().jobs.len(), 1);

    let cancel = CancelJobRequest { job_id: live, reason: "why not".into() };
    assert_eq!(jobs.cancel(cancel).await.expect("done").into_inner().state(), JobState::Cancelled);
    let late = jobs.cancel(CancelJobRequest { job_id, ..CancelJobRequest::default() }).await.expect("told").into_inner();
    assert_eq!((late.state(), late.reason.as_str()), (JobState::Succeeded, "job already terminal"));
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_are_answered_in_order() {
    let fixture = Fixture::start().await;
    let scheduler = Scheduler::start(&fixture).await;
    let mut jobs = client(&fixture);
    let one = |n: usize| match n {
        77 => SubmitJobRequest { topic: "job.unknown.x".into(), ..echo("1") },
        78 => SubmitJobRequest { input_json: "{".into(), ..echo("1") },
        79 => SubmitJobRequest { topic: "job.full".into(), ..echo("1") },
        n => echo(&n.to_string()),
    };
    let request = SubmitJobsRequest { jobs: (0..5_000).map(one).collect() };
    let answers = jobs.submit_many(request).await.expect("answered").into_inner().answers;
    assert_eq!(answers.len(), 5_000);
    let rejected: Vec<_> = answers
        .iter()
        .enumerate()
        .filter_map(|(n, answer)| match answer.answer.as_ref()? {
            Answer::Accepted(_) => None,
            Answer::Rejected(refusal) => Some((n, refusal.code.as_str(), refusal.retry_after_ms)),
        })
        .collect();
    assert_eq!(rejected, [(77, "unknown_topic", 0), (78, "field_invalid", 0), (79, "backlog_full", 2_500)]);
    let Some(Answer::Accepted(last)) = &answers[4_999].answer else { panic!("{:?}", answers[4_999]) };
    let input = fixture.store.payloads(vec![keys::context(&last.job_id)]).await.expect("read");
    assert_eq!(input, [Some("4999".into())]);
    assert_eq!(scheduler.messages().iter().map(|(items, _)| items).sum::<usize>(), 4_999);

    let too_many = SubmitJobsRequest { jobs: vec![SubmitJobRequest::default(); 100_001] };
    refused(jobs.submit_many(too_many).await, Code::InvalidArgument, "batch_too_large");
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_refused_with_its_code() {
    let fixture = Fixture::start().await;
    let _scheduler = Scheduler::start(&fixture).await;
    let mut jobs = client(&fixture);
    let job_id = submit(&mut jobs).await;
    let of = |topic: &str, input: &str| SubmitJobRequest { topic: topic.into(), ..echo(input) };
    for (request, code) in [
        (of("echo", "1"), "topic_invalid"),
        (of("job.echo", ""), "field_invalid"),
        (of("job.unknown.y", "1"), "unknown_topic"),
        (SubmitJobRequest { priority: 9, ..echo("1") }, "field_invalid"),
        (SubmitJobRequest { deadline_ms: Some(0), ..echo("1") }, "field_invalid"),
        (of("job.echo", &format!("\"{}\"", "x".repeat(1024 * 1024))), "payload_too_large"),
        // More than one call other than SubmitMany may carry.
        (of("job.echo", &format!("\"{}\"", "x".repeat(5 * 1024 * 1024))), "payload_too_large"),
    ] {
        refused(jobs.submit(request).await, Code::InvalidArgument, code);
    }
    let full = jobs.submit(of("job.full", "1")).await;
    assert_eq!(full.as_ref().err().and_then(|status| text(status.metadata(), RETRY_METADATA)).as_deref(), Some("2500"));
    refused(full, Code::ResourceExhausted, "backlog_full");

    let unknown = |job_id: &str| GetJobRequest { job_id: job_id.into() };
    for job_id in ["nobody", "", "a b"] {
        refused(jobs.get(unknown(job_id)).await, Code::NotFound, "job_not_found");
    }
    let long = WaitJobRequest { job_id: job_id.clone(), timeout_ms: 60_001 };
    refused(jobs.wait(long).await, Code::InvalidArgument, "field_invalid");
    let list = |state: i32, page_size: u32, page_token: &str| ListJobsRequest {
        state,
        page_size,
        page_token: page_token.into(),
        ..ListJobsRequest::default()
    };
    refused(jobs.list(list(77, 0, "")).await, Code::InvalidArgument, "field_invalid");
    refused(jobs.list(list(0, 201, "")).await, Code::InvalidArgument, "field_invalid");
    refused(jobs.list(list(0, 0, "x")).await, Code::InvalidArgument, "cursor_invalid");

    refused(client_with(&fixture, None).get(unknown(&job_id)).await, Code::Unauthenticated, "unauthenticated");
    refused(client_with(&fixture, Some("bb_nobody")).get(unknown(&job_id)).await, Code::Unauthenticated, "key_unknown");
    let viewer = key(&fixture.store, "acme", Role::Viewer).await;
    let mut viewer = client_with(&fixture, Some(&viewer));
    assert!(viewer.get(unknown(&job_id)).await.is_ok());
    refused(viewer.submit(echo("1")).await, Code::PermissionDenied, "forbidden");
    refused(viewer.submit_many(SubmitJobsRequest::default()).await, Code::PermissionDenied, "forbidden");
    let other = key(&fixture.store, "other", Role::Admin).await;
    refused(client_with(&fixture, Some(&other)).get(unknown(&job_id)).await, Code::NotFound, "job_not_found");
    let watch = WatchJobsRequest { job_id, ..WatchJobsRequest::default() };
    refused(client_with(&fixture, Some(&other)).watch(watch).await, Code::NotFound, "job_not_found");

    // All of it was counted, by call and by code.
    let metrics = fixture.get("/metrics").await.text();
    for counted in [r#"method="GRPC",route="/busbar.v1.Jobs/Submit",status="3""#, r#"refused_total{code="topic_invalid"}"#] {
        assert!(metrics.contains(counted), "{counted}");
    }
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_of_cordum_submit_prompts() {
    let fixture = Fixture::start().await;
    let scheduler = Scheduler::start(&fixture).await;
    let mut cordum = CordumApiClient::with_interceptor(connect(fixture.grpc), WithKey(Some(fixture.key.clone())));
    let request = cordum_api::SubmitJobRequest {
        prompt: "greet".into(),
        topic: "job.echo".into(),
        risk_tags: vec!["r".into()],
        principal_id: "somebody else".into(),
        ..Default::default()
    };
    let accepted = cordum.submit_job(request.clone()).await.expect("accepted").into_inner();
    let job_id = accepted.job_id;
    let input = fixture.store.payloads(vec![keys::context(&job_id)]).await.expect("read");
    let input: serde_json::Value = serde_json::from_slice(input[0].as_ref().expect("stored")).expect("JSON");
    assert_eq!((&input["prompt"], &input["topic"], &input["tenant_id"]), (&json!("greet"), &json!("job.echo"), &json!("acme")));
    let sent = JobRequest::decode(&scheduler.job(&job_id).request[..]).expect("a request");
    assert_eq!((sent.memory_id, sent.principal_id), (format!("mem:{job_id}"), "acme-admin".to_owned()));
    assert_eq!(sent.meta.expect("set").risk_tags, ["r"]);

    let ask = cordum_api::GetJobStatusRequest { job_id: job_id.clone() };
    assert_eq!(cordum.get_job_status(ask.clone()).await.expect("known").into_inner().status, "SCHEDULED");
    scheduler.finish(&job_id, JobState::Succeeded, Some("1")).await;
    let status = cordum.get_job_status(ask).await.expect("known").into_inner();
    assert_eq!((status.status.as_str(), status.result_ptr), ("SUCCEEDED", format!("redis://res:{job_id}:1")));

    let foreign = cordum_api::SubmitJobRequest { org_id: "other".into(), ..request };
    refused(cordum.submit_job(foreign).await, Code::PermissionDenied, "forbidden");
    refused(cordum.submit_job(cordum_api::SubmitJobRequest::default()).await, Code::InvalidArgument, "field_invalid");
    let unknown = cordum_api::GetJobStatusRequest { job_id: "nobody".into() };
    refused(cordum.get_job_status(unknown).await, Code::NotFound, "job_not_found");
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_spoken_with_the_files_of_a_certificate() {
    let dir = tempfile::tempdir().expect("a folder");
    let pair = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let (certificate, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&certificate, pair.cert.pem()).expect("written");
    std::fs::write(&key, pair.signing_key.serialize_pem()).expect("written");
    let tls = Tls::from_files(&certificate, &key).expect("they belong together");
    let fixture = Fixture::start_secured(GatewayConfig::default(), Some(tls)).await;
    let scheduler = Scheduler::start(&fixture).await;

    let trust = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pair.cert.pem())).domain_name("localhost");
    let endpoint = Endpoint::from_shared(format!("https://{}", fixture.grpc)).expect("an address");
    let encrypted = endpoint.tls_config(trust).expect("a configuration").connect_lazy();
    let mut jobs = JobsClient::with_interceptor(encrypted, WithKey(Some(fixture.key.clone())));
    let job_id = submit(&mut jobs).await;
    scheduler.finish(&job_id, JobState::Succeeded, Some("1")).await;
    let wait = WaitJobRequest { job_id, timeout_ms: 60_000 };
    assert_eq!(jobs.wait(wait).await.expect("known").into_inner().state(), JobState::Succeeded);

    // Plain text is not understood, and costs the others nothing.
    let plain = client(&fixture).get(GetJobRequest::default()).await.expect_err("no TLS");
    assert!(plain.metadata().get(CODE_METADATA).is_none(), "{plain:?}");
    submit(&mut jobs).await;

    std::fs::write(&key, "no key").expect("written");
    assert!(matches!(Tls::from_files(&certificate, &key), Err(TlsError::Unusable { .. })));
    assert!(matches!(Tls::from_files(&dir.path().join("none"), &key), Err(TlsError::Unreadable { .. })));
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_of_the_client_ends_a_watch() {
    let fixture = Fixture::start().await;
    let _scheduler = Scheduler::start(&fixture).await;
    let mut request = Request::new(WatchJobsRequest::default());
    request.set_timeout(Duration::from_millis(300));
    let mut replies = client(&fixture).watch(request).await.expect("begun").into_inner();
    assert!(replies.message().await.expect("a message").is_some());
    let ended = replies.message().await.expect_err("nothing else happens");
    assert_eq!(ended.code(), Code::DeadlineExceeded);
    fixture.end().await;
}
