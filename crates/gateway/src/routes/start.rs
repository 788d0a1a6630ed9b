//! Starting a run: its input is stored, then the workflow engine is asked.
//!
//! ```text
//!  POST …/runs ─► form ─► wf:in:<run> (lives 10 minutes) ─► busbar.engine.start ─► 202
//! ```
//!
//! Asking again is safe, because the run's id is ours. Where no engine answers, the store settles it, so that nothing is half done:
//! unless the run's record is there by now, its input is taken away, and without its input it can not start any more.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use busbar_api::{INPUT_BYTES_MAX, Problem, RunState, StartReply};
use busbar_protocol::busbar::{self, RunRecord, StartRequest, Started, start_reply};
use busbar_protocol::codes::Code;
use busbar_protocol::limits::INPUT_TTL;
use busbar_protocol::ports::{Answer, Bus, BusError, CommitClass, Headers, Records, TRACEPARENT};
use busbar_protocol::prost::Message as _;
use busbar_protocol::trace::TraceContext;
use busbar_protocol::{ids, keys, subjects};
use bytes::Bytes;
use serde::Deserialize;
use tokio::time::Instant;

use super::workflows::read;
use super::{bad_query, id_in};
use crate::admit::take_back;
use crate::app::{App, Caller, Shared};
use crate::body;
use crate::core::role::Need;
use crate::core::run::{check_workflow_id, labels};
use crate::core::submission::{check_idempotency_key, check_labels, parse_json};
use crate::error::{Refusal, internal, no_engine, of_bus, of_store, of_wire};
use crate::traces;

const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// How long an engine may be silent.
const PATIENCE: Duration = Duration::from_secs(5);
/// When the question is asked again: the engine that got it may be gone.
const TRY: Duration = Duration::from_millis(2500);
const PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct StartQuery {
    /// This version instead of the newest.
    #[param(value_type = Option<u64>, minimum = 1, maximum = 4_294_967_295_u64)]
    version: Option<u32>,
    /// Labels for the run and its jobs.
    #[param(example = "team=a,note=b")]
    labels: Option<String>,
}

/// Start a run.
///
/// The body is the run's input: any JSON of at most 1 MiB; no body means null. A `traceparent` header is taken over. Needs the
/// role admin, operator or submitter.
#[utoipa::path(
    post,
    path = "/api/v1/workflows/{id}/runs",
    tag = "runs",
    operation_id = "startRun",
    params(
        ("id" = String, Path, description = "The workflow."),
        StartQuery,
        ("Idempotency-Key" = Option<String>, Header, max_length = 256,
            description = "Two starts of a tenant with the same key are one run."),
    ),
    request_body(content = Value, description = "The input.", example = json!({"files": [1, 2]})),
    responses((status = 202, description = "The run is on disk.", body = StartReply)),
    extensions(("x-busbar-codes" = json!([
        "workflow_not_found", "not_found", "body_invalid", "field_invalid", "input_invalid", "payload_too_large",
        "payload_missing", "workflow_invalid", "run_duplicate", "run_too_large", "runs_full", "memory_short",
        "engine_unavailable", "bus_unavailable"
    ]))),
)]
pub(crate) async fn start<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
    query: Result<Query<StartQuery>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    caller.require(Need::WriteJobs)?;
    let workflow_id = id_in(id)?;
    let Query(query) = query.map_err(|rejection| bad_query(&rejection))?;
    check_workflow_id(&workflow_id)?;
    let input = input(&body::read(&headers, body, INPUT_BYTES_MAX).await?)?;
    let question = question(&caller, workflow_id, &query, &headers, &input)?;
    let key = keys::run_input(&question.run_id);
    app.records.put_payload(&key, input, Some(INPUT_TTL)).await?;
    let started = ask(&app, &question).await?;
    Ok((StatusCode::ACCEPTED, Json(reply(started)?)).into_response())
}

/// The input as it was written; no body means null.
fn input(body: &Bytes) -> Result<Bytes, Problem> {
    let text = body.trim_ascii();
    if text.is_empty() {
        return Ok(Bytes::from_static(b"null"));
    }
    // Read as a whole, so that what is nested too deep for the engine's reader is refused here.
    parse_json::<serde_json::Value>(text)?;
    Ok(body.slice_ref(text))
}

fn question(
    caller: &Caller,
    workflow_id: String,
    query: &StartQuery,
    headers: &HeaderMap,
    input: &Bytes,
) -> Result<StartRequest, Problem> {
    if query.version == Some(0) {
        return Err(Problem::new(Code::FieldInvalid, "version: versions are counted from 1"));
    }
    let labels = labels(query.labels.as_deref().unwrap_or_default())?;
    check_labels(&labels)?;
    let trace = traces::of_headers(headers).unwrap_or_else(|| TraceContext::begin(true));
    Ok(StartRequest {
        run_id: ids::generate(),
        tenant_id: caller.tenant_id().to_owned(),
        workflow_id,
        workflow_version: query.version.unwrap_or(0),
        idempotency_key: idempotency_key(headers)?.unwrap_or_default(),
        trace_id: trace.trace_id(),
        traceparent: trace.to_string(),
        labels: labels.into_iter().collect(),
        input_bytes: input.len() as u64,
        requested_by: caller.name().to_owned(),
    })
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let key = value.to_str().map_err(|_| Problem::new(Code::FieldInvalid, "Idempotency-Key: visible ASCII characters only"))?;
    check_idempotency_key(key)?;
    Ok(Some(key.to_owned()))
}

async fn ask<B: Bus, R: Records>(app: &App<B, R>, question: &StartRequest) -> Result<Started, Problem> {
    let headers = Headers::from([(TRACEPARENT.to_owned(), question.traceparent.clone())]);
    let payload: Bytes = question.encode_to_vec().into();
    let until = Instant::now() + PATIENCE;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return settle(app, question).await;
        }
        let asked = app.bus.request(subjects::ENGINE_START, headers.clone(), payload.clone(), left.min(TRY)).await;
        match asked.map(|message| busbar::StartReply::decode(message.payload)) {
            Ok(Ok(reply)) => match reply.answer {
                Some(start_reply::Answer::Started(started)) => return Ok(started),
                // An engine that is being replaced: nothing was started, its successor will.
                Some(start_reply::Answer::Rejected(problem)) if problem.code == Code::EngineUnavailable.as_str() => {
                    tokio::time::sleep(PAUSE).await;
                }
                Some(start_reply::Answer::Rejected(problem)) => return Err(of_wire(problem)),
                None => return Err(internal(&"the engine's reply to a start says nothing")),
            },
            Ok(Err(error)) => return Err(internal(&error)),
            Err(BusError::TimedOut { .. }) => {}
            Err(BusError::NoResponders { .. } | BusError::Unavailable { .. }) => tokio::time::sleep(PAUSE).await,
            Err(error @ BusError::TooLarge { .. }) => return Err(of_bus(&error)),
        }
    }
}

/// Finds out what became of a run that nobody answered for, and makes sure that otherwise it never comes to be.
async fn settle<B: Bus, R: Records>(app: &App<B, R>, question: &StartRequest) -> Result<Started, Problem> {
    let run = keys::run(&question.run_id);
    let unit = take_back(run.clone(), keys::run_input(&question.run_id));
    let answers = app.records.commit(CommitClass::Advance, vec![unit]).await.map_err(|error| of_store(&error))?;
    match answers.first() {
        Some(Answer::GuardFailed { .. } | Answer::Conflict { .. }) => {}
        Some(Answer::Applied { .. } | Answer::Already) | None => return Err(no_engine()),
    }
    let record = read::<_, RunRecord>(&app.records, vec![run]).await?.into_iter().next().flatten().ok_or_else(no_engine)?;
    Ok(Started {
        state: record.state,
        run_id: record.run_id,
        workflow_id: record.workflow_id,
        workflow_version: record.workflow_version,
        existing: false,
    })
}

fn reply(started: Started) -> Result<StartReply, Problem> {
    let state = RunState::from_protocol(started.state()).ok_or_else(|| internal(&"the engine started a run in no state"))?;
    Ok(StartReply {
        run_id: started.run_id,
        state,
        workflow_id: started.workflow_id,
        version: started.workflow_version,
        existing: started.existing,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_json_is_an_input_and_kept_as_it_was_written() {
        let read = |text: &str| input(&Bytes::copy_from_slice(text.as_bytes())).map_err(|problem| problem.code);
        assert_eq!(read(" {\"a\":  1.50}\n"), Ok("{\"a\":  1.50}".into()));
        assert_eq!(read(" \n"), Ok("null".into()));
        assert_eq!(read("{"), Err("body_invalid".into()));
        assert_eq!(read(&"[".repeat(1000)), Err("body_invalid".into()));
    }
}
