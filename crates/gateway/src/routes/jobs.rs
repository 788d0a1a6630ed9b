//! One job: looking at it, waiting for it, ending it, its logs and its result.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use busbar_api::{AttemptLog, CancelReply, CancelRequest, ExplainView, JobView, LogsView, Problem};
use busbar_protocol::keys;
use busbar_protocol::ports::{Bus, Records};
use serde::Deserialize;

use super::{bad_query, id_in, optional, results};
use crate::app::{Caller, Shared};
use crate::core::role::Need;
use crate::core::wait;
use crate::error::Refusal;
use crate::openapi::Octets;
use crate::ops::{self, jobs::read_job};

/// Logs of so many attempts are shown, the last ones.
const LOGGED_ATTEMPTS_MAX: u32 = 10;

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct WaitQuery {
    /// How long to wait for the job's end: `30s`, `500ms` or whole seconds, at most 60 s.
    #[param(pattern = "^(0*([0-9]|[1-5][0-9]|60)s?|0*([0-9]{1,4}|[1-5][0-9]{4}|60000)ms)$", example = "30s")]
    wait: Option<String>,
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct LogsQuery {
    /// This attempt only, instead of the last ten.
    #[param(value_type = Option<u64>, minimum = 0, maximum = 4_294_967_295_u64)]
    attempt: Option<u32>,
}

/// Look at a job, or wait for its end.
#[utoipa::path(
    get,
    path = "/api/v1/jobs/{id}",
    tag = "jobs",
    operation_id = "getJob",
    params(("id" = String, Path, description = "The job."), WaitQuery),
    responses((status = 200, description = "The job as it is now, ended or not.", body = JobView)),
    extensions(("x-busbar-codes" = json!(["job_not_found", "not_found", "field_invalid"]))),
)]
pub(crate) async fn get<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
    query: Result<Query<WaitQuery>, QueryRejection>,
) -> Result<Json<JobView>, Refusal> {
    caller.require(Need::ReadJobs)?;
    let job_id = id_in(id)?;
    Ok(Json(ops::jobs::get(&app, caller.tenant_id(), &job_id, patience(query)?).await?))
}

/// How long a call waits for a job's end.
pub(super) fn patience(query: Result<Query<WaitQuery>, QueryRejection>) -> Result<Duration, Problem> {
    let Query(query) = query.map_err(|rejection| bad_query(&rejection))?;
    query.wait.as_deref().map_or(Ok(Duration::ZERO), wait::parse)
}

/// Programs on the bus choose the ids of their jobs: one may be named `batch`, as the path is where many are submitted.
pub(crate) async fn get_of_that_name<B: Bus, R: Records>(
    app: State<Shared<B, R>>,
    caller: Caller,
    query: Result<Query<WaitQuery>, QueryRejection>,
) -> Result<Json<JobView>, Refusal> {
    get(app, caller, Ok(Path("batch".to_owned())), query).await
}

/// Explain where a job is.
///
/// What it waits for, gate by gate, and why each worker does not take it; of a job that has ended, how. Only live jobs have
/// gates.
#[utoipa::path(
    get,
    path = "/api/v1/jobs/{id}/explain",
    tag = "jobs",
    operation_id = "explainJob",
    params(("id" = String, Path, description = "The job.")),
    responses((status = 200, description = "Why it is where it is.", body = ExplainView)),
    extensions(("x-busbar-codes" = json!(["job_not_found", "not_found", "scheduler_unavailable", "bus_unavailable"]))),
)]
pub(crate) async fn explain<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<ExplainView>, Refusal> {
    caller.require(Need::ReadJobs)?;
    let job_id = id_in(id)?;
    Ok(Json(ops::explain::explain(&app, caller.tenant_id(), &job_id).await?))
}

/// Cancel a job.
///
/// Answered after the commit. A live state in the answer means that a worker holds the job and was told: the first result
/// within 10 s wins, then the job is cancelled. Needs the role admin, operator or submitter.
#[utoipa::path(
    post,
    path = "/api/v1/jobs/{id}/cancel",
    tag = "jobs",
    operation_id = "cancelJob",
    params(("id" = String, Path, description = "The job.")),
    request_body(content = Option<CancelRequest>, example = json!({"reason": "not needed any more"})),
    responses((status = 200, description = "The state after the call.", body = CancelReply)),
    extensions(("x-busbar-codes" = json!([
        "job_not_found", "not_found", "body_invalid", "field_invalid", "payload_too_large", "scheduler_unavailable",
        "bus_unavailable"
    ]))),
)]
pub(crate) async fn cancel<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<CancelReply>, Refusal> {
    caller.require(Need::WriteJobs)?;
    let job_id = id_in(id)?;
    let request: CancelRequest = optional(&headers, body).await?;
    Ok(Json(ops::jobs::cancel(&app, &caller, job_id, request.reason).await?))
}

/// Read what a job's attempts wrote.
///
/// The last ten attempts that wrote something, also while they run.
#[utoipa::path(
    get,
    path = "/api/v1/jobs/{id}/logs",
    tag = "jobs",
    operation_id = "getJobLogs",
    params(("id" = String, Path, description = "The job."), LogsQuery),
    responses((status = 200, description = "The lines of each attempt.", body = LogsView)),
    extensions(("x-busbar-codes" = json!(["job_not_found", "not_found", "field_invalid"]))),
)]
pub(crate) async fn logs<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
    query: Result<Query<LogsQuery>, QueryRejection>,
) -> Result<Json<LogsView>, Refusal> {
    caller.require(Need::ReadJobs)?;
    let job_id = id_in(id)?;
    let Query(query) = query.map_err(|rejection| bad_query(&rejection))?;
    let record = read_job(&app, caller.tenant_id(), &job_id).await?;
    let first = record.attempt.saturating_sub(LOGGED_ATTEMPTS_MAX - 1).max(1);
    let wanted: Vec<u32> = query.attempt.map_or_else(|| (first..=record.attempt).collect(), |attempt| vec![attempt]);
    let names = wanted.iter().map(|attempt| keys::attempt_log(&job_id, *attempt)).collect();
    let texts = if wanted.is_empty() { Vec::new() } else { app.records.payloads(names).await? };
    let attempts = wanted.into_iter().zip(texts).filter_map(|(attempt, text)| {
        let lines = String::from_utf8_lossy(&text?).lines().map(str::to_owned).collect();
        Some(AttemptLog { attempt, lines })
    });
    Ok(Json(LogsView { attempts: attempts.collect(), id: job_id }))
}

/// Get the bytes of a job's result.
#[utoipa::path(
    get,
    path = "/api/v1/jobs/{id}/result",
    tag = "jobs",
    operation_id = "getJobResult",
    params(("id" = String, Path, description = "The job.")),
    responses((status = 200, description = "The result, whole.", content(
        (Value = "application/json"),
        (inline(Octets) = "application/octet-stream"),
    ))),
    extensions(("x-busbar-codes" = json!(["job_not_found", "not_found", "payload_missing"]))),
)]
pub(crate) async fn result<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, Refusal> {
    caller.require(Need::ReadJobs)?;
    let job_id = id_in(id)?;
    let record = read_job(&app, caller.tenant_id(), &job_id).await?;
    Ok(results::whole(&app, &record).await?)
}
