//! One job: looking at it, waiting for it, ending it, its logs and its result.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use busbar_api::{AttemptLog, CancelReply, CancelRequest, JobState, JobView, LogsView, Problem};
use busbar_protocol::busbar::{self, CancelItem, JobRecord, cancel_answer};
use busbar_protocol::codes::Code;
use busbar_protocol::ports::{Bus, Records, StoreError};
use busbar_protocol::prost::Message as _;
use busbar_protocol::{keys, subjects};
use serde::Deserialize;
use tokio::time::Instant;

use super::results;
use super::submit::check_job_id;
use super::{bad_path, bad_query};
use crate::app::{App, Caller, Shared};
use crate::body;
use crate::core::role::Need;
use crate::core::{submission, view, wait};
use crate::error::{Refusal, internal, of_store, of_wire};

/// How long the cancellation of a job waits for a scheduler.
const PATIENCE: Duration = Duration::from_secs(5);
/// A lost event costs a waiter no more than this.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// A store that is away comes back soon: a call that waits anyway looks again after this.
const STORE_PAUSE: Duration = Duration::from_millis(200);
const CANCEL_BODY_BYTES_MAX: usize = 16 * 1024;
const REASON_CHARACTERS_MAX: usize = 500;
/// Logs of so many attempts are shown, the last ones.
const LOGGED_ATTEMPTS_MAX: u32 = 10;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GetQuery {
    wait: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogsQuery {
    attempt: Option<u32>,
}

/// `GET /api/v1/jobs/{id}[?wait=30s]`
pub(crate) async fn get<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
    query: Result<Query<GetQuery>, QueryRejection>,
) -> Result<Json<JobView>, Refusal> {
    caller.require(Need::ReadJobs)?;
    let Path(job_id) = id.map_err(|rejection| bad_path(&rejection))?;
    let Query(query) = query.map_err(|rejection| bad_query(&rejection))?;
    let waited = query.wait.as_deref().map_or(Ok(Duration::ZERO), wait::parse)?;
    let record = wait_for_end(&app, caller.tenant_id(), &job_id, Instant::now() + waited).await?;
    let mut view = view::view(&record).ok_or_else(|| internal(&format!("the record of {job_id} is in no known state")))?;
    view.result = results::inline(&app, &record).await?;
    Ok(Json(view))
}

/// `POST /api/v1/jobs/{id}/cancel`
pub(crate) async fn cancel<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<CancelReply>, Refusal> {
    caller.require(Need::WriteJobs)?;
    let Path(job_id) = id.map_err(|rejection| bad_path(&rejection))?;
    check_job_id(&job_id)?;
    let body = body::read(&headers, body, CANCEL_BODY_BYTES_MAX).await?;
    let request: CancelRequest =
        if body.trim_ascii().is_empty() { CancelRequest::default() } else { submission::parse_json(&body)? };
    let item = CancelItem {
        job_id: job_id.clone(),
        tenant_id: caller.tenant_id().to_owned(),
        reason: request
            .reason
            .unwrap_or_else(|| "cancelled via the API".to_owned())
            .chars()
            .take(REASON_CHARACTERS_MAX)
            .collect(),
        requested_by: caller.name().to_owned(),
    };
    let question = busbar::CancelRequest { items: vec![item] };
    let reply: busbar::CancelReply = app.ask(subjects::SCHEDULER_CANCEL, &question, PATIENCE).await?;
    match cancelled(job_id.clone(), reply) {
        // The scheduler knows live jobs only.
        Err(problem) if problem.code == Code::JobNotFound.as_str() => {
            let record = read_job(&app, caller.tenant_id(), &job_id).await?;
            let state = view::ended(&record).and_then(|end| JobState::from_protocol(end.state())).ok_or(problem)?;
            Ok(Json(too_late(job_id, state)))
        }
        reply => Ok(Json(reply?)),
    }
}

fn too_late(id: String, state: JobState) -> CancelReply {
    CancelReply { id, state, reason: Some("job already terminal".to_owned()) }
}

fn cancelled(job_id: String, reply: busbar::CancelReply) -> Result<CancelReply, Problem> {
    if let Some(problem) = reply.problem {
        return Err(of_wire(problem));
    }
    let state = match reply.answers.into_iter().next().and_then(|answer| answer.answer) {
        Some(cancel_answer::Answer::State(state)) => busbar::JobState::try_from(state).ok().and_then(JobState::from_protocol),
        Some(cancel_answer::Answer::Rejected(problem)) => return Err(of_wire(problem)),
        None => None,
    };
    let state = state.ok_or_else(|| internal(&"the scheduler's reply to a cancellation names no state"))?;
    if state.is_terminal() && state != JobState::Cancelled {
        return Ok(too_late(job_id, state));
    }
    Ok(CancelReply { id: job_id, state, reason: None })
}

/// `GET /api/v1/jobs/{id}/logs`
pub(crate) async fn logs<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
    query: Result<Query<LogsQuery>, QueryRejection>,
) -> Result<Json<LogsView>, Refusal> {
    caller.require(Need::ReadJobs)?;
    let Path(job_id) = id.map_err(|rejection| bad_path(&rejection))?;
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

/// `GET /api/v1/jobs/{id}/result`
pub(crate) async fn result<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, Refusal> {
    caller.require(Need::ReadJobs)?;
    let Path(job_id) = id.map_err(|rejection| bad_path(&rejection))?;
    let record = read_job(&app, caller.tenant_id(), &job_id).await?;
    Ok(results::whole(&app, &record).await?)
}

/// The record of a job as soon as it has ended, or as it is at `until`.
async fn wait_for_end<B: Bus, R: Records>(
    app: &App<B, R>,
    tenant_id: &str,
    job_id: &str,
    until: Instant,
) -> Result<JobRecord, Problem> {
    check_job_id(job_id)?;
    let mut waiter = app.watch.register(job_id);
    loop {
        let read = read_job(app, tenant_id, job_id).await;
        let over = Instant::now() >= until || app.shutdown.is_triggered();
        let pause = match &read {
            Ok(record) if over || view::ended(record).is_some() => return read,
            Ok(_) => LOOK_AGAIN,
            Err(problem) if !over && problem.code == Code::StoreUnavailable.as_str() => STORE_PAUSE,
            Err(_) => return read,
        };
        tokio::select! {
            () = waiter.woken() => {}
            () = tokio::time::sleep_until(until.min(Instant::now() + pause)) => {}
            () = app.shutdown.triggered() => {}
        }
    }
}

/// The record of a job of this tenant. Others' jobs do not exist for it.
async fn read_job<B: Bus, R: Records>(app: &App<B, R>, tenant_id: &str, job_id: &str) -> Result<JobRecord, Problem> {
    check_job_id(job_id)?;
    let stored = app.records.read(vec![keys::job(job_id)]).await.map_err(|error: StoreError| of_store(&error))?;
    let record = stored.into_iter().next().flatten().map(|stored| JobRecord::decode(stored.value));
    let record = record.transpose().map_err(|error| internal(&error))?;
    record.filter(|record| record.tenant_id == tenant_id).ok_or_else(|| {
        Problem::new(
            Code::JobNotFound,
            format!("no job {job_id} is known: it never was, belongs to another tenant or has expired"),
        )
    })
}
