//! Submitting one job, or many.

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use busbar_api::{BODY_BYTES_MAX, BatchReply, BatchRequest, JobView, Problem, RawValue, Rejection, SubmitReply, SubmitRequest};
use busbar_protocol::ports::{Bus, Records};
use futures::StreamExt as _;

use super::jobs::{WaitQuery, patience};
use crate::app::{Caller, Shared};
use crate::body;
use crate::core::role::Need;
use crate::core::submission;
use crate::error::Refusal;
use crate::metrics::GatewayMetrics;
use crate::ops::submit::{Read, Submit, place_for_batch};
use crate::traces::{self, BegunHere};

/// Submit a job.
///
/// Answered after the commit: from then on the job is not lost. A job that the policy denies is accepted too, with state
/// `DENIED`. A `traceparent` header is taken over. With `wait`, a job that ends in time is shown as it ended (200); any other is accepted
/// as without (202), and can be looked at. Needs the role admin, operator or submitter.
#[utoipa::path(
    post,
    path = "/api/v1/jobs",
    tag = "jobs",
    operation_id = "submitJob",
    params(WaitQuery),
    request_body(content = SubmitRequest, examples(
        ("echo" = (summary = "The smallest job", value = json!({"topic": "job.echo", "input": {"hello": "world"}}))),
        ("all" = (summary = "Every member", value = json!({
            "topic": "job.echo", "input": {"n": 1}, "priority": "batch", "labels": {"team": "a"}, "requires": [],
            "idempotency_key": "order-4711", "idempotency_policy": "return_existing", "deadline_ms": 60_000, "max_attempts": 2,
            "delay_ms": 1000, "concurrency_key": "order-4711", "schedule_to_start_ms": 30_000, "start_to_close_ms": 20_000,
            "heartbeat_timeout_ms": 5_000, "non_retryable_codes": ["card_declined"], "parent_job_id": "order-job-4711"
        }))),
    )),
    responses(
        (status = 200, description = "The job has ended.", body = JobView),
        (status = 202, description = "The job is on disk.", body = SubmitReply),
    ),
    extensions(("x-busbar-codes" = json!([
        "body_invalid", "field_invalid", "topic_invalid", "unknown_topic", "input_invalid", "payload_too_large",
        "batch_too_large", "payload_missing", "job_duplicate", "idempotency_key_used", "parent_cancelled", "key_busy", "backlog_full",
        "rate_exceeded", "memory_short", "scheduler_unavailable",
        "bus_unavailable"
    ]))),
)]
pub(crate) async fn one<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    Extension(metrics): Extension<GatewayMetrics>,
    caller: Caller,
    query: Result<Query<WaitQuery>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    caller.require(Need::WriteJobs)?;
    let patience = patience(query)?;
    if !patience.is_zero() {
        caller.require(Need::ReadJobs)?;
    }
    let body = body::read(&headers, body, BODY_BYTES_MAX).await?;
    let submit = Submit { app: &app, caller: &caller, metrics: &metrics, trace: traces::of_headers(&headers) };
    let (reply, ended) = if patience.is_zero() {
        (submit.one(read(&body)).await?, None)
    } else {
        submit.one_to_its_end(read(&body), patience).await?
    };
    traces::note("job_id", &reply.job_id);
    Ok(match ended {
        Some(view) => Json(view).into_response(),
        None => (StatusCode::ACCEPTED, Json(reply)).into_response(),
    })
}

/// Submit many jobs.
///
/// A bad entry spoils only itself: the status is 202 also when all were rejected. At most 100,000 entries and 64 MiB. Needs
/// the role admin, operator or submitter.
#[utoipa::path(
    post,
    path = "/api/v1/jobs/batch",
    tag = "jobs",
    operation_id = "submitJobs",
    request_body(content = BatchRequest, example = json!({"jobs": [
        {"topic": "job.echo", "input": 1}, {"topic": "job.echo", "input": 2, "labels": {"team": "a"}}
    ]})),
    responses((status = 202, description = "What was not rejected is on disk.", body = BatchReply)),
    extensions(("x-busbar-codes" = json!([
        "body_invalid", "field_invalid", "payload_too_large", "batch_too_large", "scheduler_unavailable"
    ]))),
)]
pub(crate) async fn batch<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    Extension(metrics): Extension<GatewayMetrics>,
    caller: Caller,
    begun_here: Option<Extension<BegunHere>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    caller.require(Need::WriteJobs)?;
    let _place = place_for_batch(&app.batches).await?;
    let body = body::read(&headers, body, BODY_BYTES_MAX).await?;
    let batch = submission::parse_batch(&body)?;
    drop(body);
    // Jobs that have nothing in common but their way have traces of their own.
    let trace = traces::of_headers(&headers).filter(|_| begun_here.is_none());
    let submit = Submit { app: &app, caller: &caller, metrics: &metrics, trace };
    let mut outcomes = submit.many(batch.jobs, |job: Box<RawValue>| read(job.get().as_bytes())).enumerate();
    let mut reply = BatchReply::default();
    while let Some((index, outcome)) = outcomes.next().await {
        match outcome {
            Ok(admitted) => reply.job_ids.push(Some(admitted.job_id)),
            Err(problem) => {
                reply.job_ids.push(None);
                reply.rejected.push(rejection(index, problem));
            }
        }
    }
    Ok((StatusCode::ACCEPTED, Json(reply)).into_response())
}

/// How an item of many is told that was rejected.
pub(crate) fn rejection(index: usize, problem: Problem) -> Rejection {
    Rejection { index, code: problem.code, detail: problem.detail, retry_after_ms: problem.retry_after_ms }
}

fn read(text: &[u8]) -> Read {
    Ok((submission::parse(text)?, submission::Familiar::default()))
}
