//! Submitting one job, or many.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use busbar_api::{BODY_BYTES_MAX, BatchReply, JobState, Problem, Rejection, SubmitReply};
use busbar_protocol::busbar::Admitted;
use busbar_protocol::codes::Code;
use busbar_protocol::ids::{self, JobId};
use busbar_protocol::keys;
use busbar_protocol::limits::INPUT_TTL;
use busbar_protocol::ports::{Bus, Records, TRACEPARENT};
use futures::{StreamExt as _, stream};

use crate::app::{App, Caller, Shared};
use crate::body;
use crate::core::role::Need;
use crate::core::submission::{self, Prepared, Submitter};
use crate::core::trace::Trace;
use crate::error::{Refusal, internal, no_scheduler, of_store};
use crate::metrics::GatewayMetrics;

/// How many jobs of a batch are on their way at once.
const PIPELINE: usize = 1024;

/// `POST /api/v1/jobs`
pub(crate) async fn one<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    Extension(metrics): Extension<GatewayMetrics>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    caller.require(Need::WriteJobs)?;
    let body = body::read(&headers, body, BODY_BYTES_MAX).await?;
    let reply = submit(&app, &caller, &metrics, &body, client_trace(&headers)).await?;
    Ok((StatusCode::ACCEPTED, Json(reply)).into_response())
}

/// `POST /api/v1/jobs/batch`
pub(crate) async fn batch<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    Extension(metrics): Extension<GatewayMetrics>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    caller.require(Need::WriteJobs)?;
    let _place = app.batches.acquire().await.map_err(|_| no_scheduler())?;
    let body = body::read(&headers, body, BODY_BYTES_MAX).await?;
    let batch = submission::parse_batch(&body)?;
    drop(body);
    let trace = client_trace(&headers);
    let (app, caller, metrics) = (&app, &caller, &metrics);
    let mut outcomes = stream::iter(batch.jobs)
        .map(|job| {
            let trace = trace.clone();
            async move { submit(app, caller, metrics, job.get().as_bytes(), trace).await }
        })
        .buffered(PIPELINE)
        .enumerate();
    let mut reply = BatchReply::default();
    while let Some((index, outcome)) = outcomes.next().await {
        match outcome {
            Ok(admitted) => reply.job_ids.push(Some(admitted.job_id)),
            Err(problem) => {
                reply.job_ids.push(None);
                reply.rejected.push(Rejection { index, code: problem.code, detail: problem.detail });
            }
        }
    }
    Ok((StatusCode::ACCEPTED, Json(reply)).into_response())
}

/// From the text of one submission to its acceptance.
async fn submit<B: Bus, R: Records>(
    app: &App<B, R>,
    caller: &Caller,
    metrics: &GatewayMetrics,
    text: &[u8],
    trace: Option<Trace>,
) -> Result<SubmitReply, Problem> {
    let outcome = match prepare(caller, text, trace) {
        Ok(prepared) => store_and_admit(app, prepared).await,
        Err(problem) => Err(problem),
    };
    metrics.submitted(outcome.as_ref().map_or_else(|problem| problem.code.as_str(), |_| "admitted"));
    outcome
}

fn prepare(caller: &Caller, text: &[u8], trace: Option<Trace>) -> Result<Prepared, Problem> {
    let request = submission::parse(text)?;
    let who = Submitter { tenant_id: caller.tenant_id(), principal_id: caller.name() };
    let trace = trace.unwrap_or_else(|| Trace::begin(ids::generate_trace(), &ids::generate_trace()));
    submission::prepare(&request, &who, &JobId::generate(), &trace)
}

async fn store_and_admit<B: Bus, R: Records>(app: &App<B, R>, prepared: Prepared) -> Result<SubmitReply, Problem> {
    let Prepared { job_id, input, item } = prepared;
    app.records.put_payload(&keys::context(&job_id), input, Some(INPUT_TTL)).await.map_err(|error| of_store(&error))?;
    accepted(app.admitter.admit(job_id, item).await?)
}

fn accepted(admitted: Admitted) -> Result<SubmitReply, Problem> {
    let state = JobState::from_protocol(admitted.state()).ok_or_else(|| internal(&"the scheduler admitted a job in no state"))?;
    Ok(SubmitReply { job_id: admitted.job_id, trace_id: admitted.trace_id, state, existing: admitted.existing })
}

/// The client's trace; one that is malformed counts as none, as W3C Trace Context demands.
fn client_trace(headers: &HeaderMap) -> Option<Trace> {
    headers.get(TRACEPARENT).and_then(|value| value.to_str().ok()).and_then(Trace::parse)
}

/// Refuses an identifier that no job can have.
pub(super) fn check_job_id(job_id: &str) -> Result<(), Problem> {
    ids::check(job_id).map_err(|error| Problem::new(Code::JobNotFound, error.to_string()))
}
