//! Runs of workflows: looking at them, waiting for them, ending them.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use busbar_api::{
    INLINE_RESULT_BYTES_MAX, Problem, RawValue, RunCancelReply, RunHoldReply, RunList, RunState, RunView,
    TIMELINE_ENTRIES_DEFAULT, TIMELINE_ENTRIES_MAX, Timeline,
};
use busbar_protocol::busbar::{
    self, RunCancelRequest, RunEvent, RunEventEntry, RunHoldRequest, RunRecord, StepRecord, WorkflowVersion, run_cancel_reply,
};
use busbar_protocol::codes::Code;
use busbar_protocol::ports::{Bus, LogEntry, Records};
use busbar_protocol::prost::Message as _;
use busbar_protocol::{keys, subjects};
use bytes::Bytes;
use serde::Deserialize;

use super::workflows::read;
use super::{bad_query, id_in};
use crate::app::{App, Caller, Shared};
use crate::core::page::{self, Part, Place};
use crate::core::role::Need;
use crate::core::run::{check_run_id, check_workflow_id, has_ended, no_run, run_view, step_kinds, step_view, timeline};
use crate::core::wait;
use crate::error::{Refusal, internal, of_wire};
use crate::ops::results::payload;
use crate::ops::scan::{self, Scan};
use crate::ops::waiting::Waiting;

/// How long the cancellation of a run waits for an engine.
const PATIENCE: Duration = Duration::from_secs(5);
/// Before the first entry of a log.
const LOG_START: &str = "0";

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct GetQuery {
    /// How long to wait for the run's end: `30s`, `500ms` or whole seconds, at most 60 s. Afterwards the run is shown as it is.
    #[param(pattern = "^(0*([0-9]|[1-5][0-9]|60)s?|0*([0-9]{1,4}|[1-5][0-9]{4}|60000)ms)$", example = "30s")]
    wait: Option<String>,
}

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// How many items a page has at most.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Runs in this state only.
    #[param(value_type = Option<RunState>)]
    state: Option<String>,
    /// Runs of this workflow only.
    workflow_id: Option<String>,
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct TimelineQuery {
    /// How many changes of the run are read at most.
    #[param(minimum = 1, maximum = 1000, default = 200)]
    limit: Option<u64>,
    /// `next_cursor` of the answer before.
    #[param(pattern = "^[0-9]+-[0-9]+$")]
    after: Option<String>,
}

/// List runs.
///
/// The newest first, without steps and outputs. A page may hold fewer items than asked for and still have a next one.
#[utoipa::path(
    get,
    path = "/api/v1/workflow-runs",
    tag = "runs",
    operation_id = "listRuns",
    params(ListQuery),
    responses((status = 200, description = "One page.", body = RunList)),
    extensions(("x-busbar-codes" = json!(["field_invalid", "cursor_invalid", "workflow_not_found"]))),
)]
pub(crate) async fn list<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<RunList>, Refusal> {
    caller.require(Need::ReadJobs)?;
    let Query(query) = query.map_err(|rejection| bad_query(&rejection))?;
    Ok(Json(page(&app, caller.tenant_id(), &query).await?))
}

/// List the runs of a workflow.
///
/// The newest first, without steps and outputs. A page may hold fewer items than asked for and still have a next one.
#[utoipa::path(
    get,
    path = "/api/v1/workflows/{id}/runs",
    tag = "runs",
    operation_id = "listRunsOfWorkflow",
    params(
        ("id" = String, Path, description = "The workflow."),
        ("limit" = Option<usize>, Query, minimum = 1, maximum = 200, description = "How many items a page has at most."),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before."),
        ("state" = Option<RunState>, Query, description = "Runs in this state only."),
    ),
    responses((status = 200, description = "One page.", body = RunList)),
    extensions(("x-busbar-codes" = json!(["field_invalid", "cursor_invalid", "workflow_not_found", "not_found"]))),
)]
pub(crate) async fn list_of<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<RunList>, Refusal> {
    caller.require(Need::ReadJobs)?;
    let workflow_id = id_in(id)?;
    check_workflow_id(&workflow_id)?;
    let Query(query) = query.map_err(|rejection| bad_query(&rejection))?;
    if query.workflow_id.is_some() {
        return Err(Problem::new(Code::FieldInvalid, "workflow_id: the path names the workflow already").into());
    }
    Ok(Json(page(&app, caller.tenant_id(), &ListQuery { workflow_id: Some(workflow_id), ..query }).await?))
}

async fn page<B: Bus, R: Records>(app: &App<B, R>, tenant_id: &str, query: &ListQuery) -> Result<RunList, Problem> {
    let given = |text: &'_ Option<String>| text.clone().filter(|text| !text.is_empty());
    let invalid = |error| Problem::new(Code::FieldInvalid, format!("state: {error}"));
    let state: Option<RunState> = given(&query.state).map(|state| state.parse()).transpose().map_err(invalid)?;
    let (limit, after) = (scan::limit(query.limit)?, scan::after(query.cursor.as_deref())?);
    let index = match given(&query.workflow_id) {
        Some(workflow_id) => {
            check_workflow_id(&workflow_id)?;
            keys::index_runs_of(tenant_id, &workflow_id)
        }
        None => keys::index_runs(tenant_id),
    };
    let mut scan = Scan::new(index, after.as_ref());
    let mut items = Vec::new();
    while items.len() <= limit
        && let Some(places) = scan.next(&app.records).await?
    {
        let views = views(app, tenant_id, places).await?;
        items.extend(views.into_iter().filter(|(_, view)| state.is_none_or(|state| state == view.state)));
    }
    let none = Part { items: Vec::new(), read_to: None };
    let page = page::merge(none, scan.part(items), limit);
    Ok(RunList { items: page.items, next_cursor: page.next.map(|place| place.cursor()) })
}

/// Runs whose records have expired are passed over: the index forgets them a little later.
async fn views<B: Bus, R: Records>(
    app: &App<B, R>,
    tenant_id: &str,
    places: Vec<Place>,
) -> Result<Vec<(Place, RunView)>, Problem> {
    let names = places.iter().map(|place| keys::run(&place.id)).collect();
    let records = read::<_, RunRecord>(&app.records, names).await?;
    let views = places.into_iter().zip(records).filter_map(|(place, record)| {
        let record = record.filter(|record| record.tenant_id == tenant_id)?;
        Some((place, run_view(&record)?))
    });
    Ok(views.collect())
}

/// Look at a run, or wait for its end.
#[utoipa::path(
    get,
    path = "/api/v1/workflow-runs/{id}",
    tag = "runs",
    operation_id = "getRun",
    params(("id" = String, Path, description = "The run."), GetQuery),
    responses((status = 200, description = "The run as it is now, with its steps.", body = RunView)),
    extensions(("x-busbar-codes" = json!(["run_not_found", "not_found", "field_invalid"]))),
)]
pub(crate) async fn get<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
    query: Result<Query<GetQuery>, QueryRejection>,
) -> Result<Json<RunView>, Refusal> {
    caller.require(Need::ReadJobs)?;
    let run_id = id_in(id)?;
    let Query(query) = query.map_err(|rejection| bad_query(&rejection))?;
    let patience = query.wait.as_deref().map_or(Ok(Duration::ZERO), wait::parse)?;
    let record = wait_for_end(&app, caller.tenant_id(), &run_id, patience).await?;
    Ok(Json(whole_view(&app, &record).await?))
}

async fn wait_for_end<B: Bus, R: Records>(
    app: &App<B, R>,
    tenant_id: &str,
    run_id: &str,
    patience: Duration,
) -> Result<RunRecord, Problem> {
    check_run_id(run_id)?;
    let mut waiting = Waiting::new(app.runs.register(run_id), patience, &app.shutdown);
    loop {
        let seen = read_run(app, tenant_id, run_id).await;
        if !waiting.again(&seen, has_ended).await {
            return seen;
        }
    }
}

/// The record of a run of this tenant. Others' runs do not exist for it.
async fn read_run<B: Bus, R: Records>(app: &App<B, R>, tenant_id: &str, run_id: &str) -> Result<RunRecord, Problem> {
    check_run_id(run_id)?;
    let record = read::<_, RunRecord>(&app.records, vec![keys::run(run_id)]).await?.into_iter().next().flatten();
    record.filter(|record| record.tenant_id == tenant_id).ok_or_else(|| no_run(run_id))
}

/// The view with steps and, where it is small, output.
async fn whole_view<B: Bus, R: Records>(app: &App<B, R>, record: &RunRecord) -> Result<RunView, Problem> {
    let unknown = || internal(&format!("the record of the run {} is in no known state", record.run_id));
    let mut view = run_view(record).ok_or_else(unknown)?;
    let names = record.steps.iter().map(|step| keys::step(&record.run_id, step)).collect();
    let steps = read::<_, StepRecord>(&app.records, names).await?;
    let kinds = kinds(app, record).await?;
    view.steps = record.steps.iter().zip(steps).map(|(id, step)| step_view(id, kinds.get(id), step.as_ref())).collect();
    if (1..=INLINE_RESULT_BYTES_MAX).contains(&record.output_bytes) {
        let output = payload(app, keys::run_output(&record.run_id)).await?;
        view.output = output.and_then(|b| String::from_utf8(b.into()).ok()).and_then(|text| RawValue::from_string(text).ok());
    }
    Ok(view)
}

async fn kinds<B: Bus, R: Records>(app: &App<B, R>, record: &RunRecord) -> Result<BTreeMap<String, String>, Problem> {
    let key = keys::workflow_version(&record.workflow_tenant_id, &record.workflow_id, record.workflow_version);
    let version = read::<_, WorkflowVersion>(&app.records, vec![key]).await?.into_iter().next().flatten();
    Ok(version.map(|version| step_kinds(&version.document)).unwrap_or_default())
}

/// Read what happened to a run.
#[utoipa::path(
    get,
    path = "/api/v1/workflow-runs/{id}/timeline",
    tag = "runs",
    operation_id = "getRunTimeline",
    params(("id" = String, Path, description = "The run."), TimelineQuery),
    responses((status = 200, description = "What happened, oldest first.", body = Timeline)),
    extensions(("x-busbar-codes" = json!(["run_not_found", "not_found", "field_invalid", "cursor_invalid"]))),
)]
pub(crate) async fn get_timeline<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
    query: Result<Query<TimelineQuery>, QueryRejection>,
) -> Result<Json<Timeline>, Refusal> {
    caller.require(Need::ReadJobs)?;
    let run_id = id_in(id)?;
    let Query(query) = query.map_err(|rejection| bad_query(&rejection))?;
    let limit = query.limit.unwrap_or(TIMELINE_ENTRIES_DEFAULT);
    if !(1..=TIMELINE_ENTRIES_MAX).contains(&limit) {
        return Err(Problem::new(Code::FieldInvalid, format!("limit: 1 to {TIMELINE_ENTRIES_MAX}, not {limit}")).into());
    }
    let after = query.after.filter(|after| !after.is_empty());
    if after.as_deref().is_some_and(|after| !is_cursor(after)) {
        return Err(Problem::new(Code::CursorInvalid, "after: this is none that a timeline gave out").into());
    }
    read_run(&app, caller.tenant_id(), &run_id).await?;
    let from = after.as_deref().unwrap_or(LOG_START);
    let entries = app.records.log_after(&keys::run_timeline(&run_id), from, limit).await?;
    let mut told = timeline(&events(entries)?, after.is_none());
    told.next_cursor = told.next_cursor.or(after);
    Ok(Json(told))
}

/// Two numbers with a dash between them, as Redis counts the entries of a stream.
fn is_cursor(text: &str) -> bool {
    text.split_once('-').is_some_and(|(time, place)| time.parse::<u64>().is_ok() && place.parse::<u64>().is_ok())
}

fn events(entries: Vec<LogEntry>) -> Result<Vec<RunEventEntry>, Problem> {
    let read = |entry: LogEntry| {
        let event = RunEvent::decode(entry.value).map_err(|error| internal(&error))?;
        Ok(RunEventEntry { cursor: entry.cursor, event: Some(event) })
    };
    entries.into_iter().map(read).collect()
}

/// Cancel a run.
///
/// Answered after the commit. `RUNNING` in the answer means that jobs are still out: they are cancelled, then the run ends.
/// Needs the role admin, operator or submitter.
#[utoipa::path(
    post,
    path = "/api/v1/workflow-runs/{id}/cancel",
    tag = "runs",
    operation_id = "cancelRun",
    params(("id" = String, Path, description = "The run.")),
    responses((status = 200, description = "The state after the call.", body = RunCancelReply)),
    extensions(("x-busbar-codes" = json!([
        "run_not_found", "not_found", "run_terminal", "engine_unavailable", "bus_unavailable"
    ]))),
)]
pub(crate) async fn cancel<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<RunCancelReply>, Refusal> {
    caller.require(Need::WriteJobs)?;
    let run_id = id_in(id)?;
    check_run_id(&run_id)?;
    let question = RunCancelRequest {
        run_id: run_id.clone(),
        tenant_id: caller.tenant_id().to_owned(),
        reason: "cancelled via the API".to_owned(),
        requested_by: caller.name().to_owned(),
    };
    let reply: busbar::RunCancelReply = app.ask(subjects::ENGINE_CANCEL, &question, PATIENCE).await?;
    Ok(Json(RunCancelReply { run_id, state: state_after(reply)? }))
}

/// The state that the engine says a run is in after what was asked of it.
fn state_after(reply: busbar::RunCancelReply) -> Result<RunState, Problem> {
    let state = match reply.answer {
        Some(run_cancel_reply::Answer::State(state)) => busbar::RunState::try_from(state).ok().and_then(RunState::from_protocol),
        Some(run_cancel_reply::Answer::Rejected(problem)) => return Err(of_wire(problem)),
        None => None,
    };
    state.ok_or_else(|| internal(&"the engine's reply names no state"))
}

/// Pause a run.
///
/// Answered when the scheduler holds its jobs: from then on none of them begins, until the run is resumed. Jobs that workers have go on to their ends, and
/// their results are taken. Its time limit goes on. Pausing it again changes nothing. Needs the role admin, operator or submitter.
#[utoipa::path(
    post,
    path = "/api/v1/workflow-runs/{id}/pause",
    tag = "runs",
    operation_id = "pauseRun",
    params(("id" = String, Path, description = "The run.")),
    responses((status = 200, description = "The state after the call.", body = RunHoldReply)),
    extensions(("x-busbar-codes" = json!([
        "run_not_found", "not_found", "run_terminal", "engine_unavailable", "bus_unavailable"
    ]))),
)]
pub(crate) async fn pause<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<RunHoldReply>, Refusal> {
    hold(&app, &caller, id_in(id)?, subjects::ENGINE_PAUSE).await
}

/// Resume a paused run.
///
/// Answered after the commit. A run that is not paused stays as it is. Needs the role admin, operator or submitter.
#[utoipa::path(
    post,
    path = "/api/v1/workflow-runs/{id}/resume",
    tag = "runs",
    operation_id = "resumeRun",
    params(("id" = String, Path, description = "The run.")),
    responses((status = 200, description = "The state after the call.", body = RunHoldReply)),
    extensions(("x-busbar-codes" = json!([
        "run_not_found", "not_found", "run_terminal", "engine_unavailable", "bus_unavailable"
    ]))),
)]
pub(crate) async fn resume<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<RunHoldReply>, Refusal> {
    hold(&app, &caller, id_in(id)?, subjects::ENGINE_RESUME).await
}

async fn hold<B: Bus, R: Records>(
    app: &Shared<B, R>,
    caller: &Caller,
    run_id: String,
    subject: &str,
) -> Result<Json<RunHoldReply>, Refusal> {
    caller.require(Need::WriteJobs)?;
    check_run_id(&run_id)?;
    let question = RunHoldRequest {
        run_id: run_id.clone(),
        tenant_id: caller.tenant_id().to_owned(),
        requested_by: caller.name().to_owned(),
    };
    let reply: busbar::RunCancelReply = app.ask(subject, &question, PATIENCE).await?;
    Ok(Json(RunHoldReply { run_id, state: state_after(reply)? }))
}

/// Get the input of a run, as it was given.
#[utoipa::path(
    get,
    path = "/api/v1/workflow-runs/{id}/input",
    tag = "runs",
    operation_id = "getRunInput",
    params(("id" = String, Path, description = "The run.")),
    responses((status = 200, description = "The input.", body = Value)),
    extensions(("x-busbar-codes" = json!(["run_not_found", "not_found", "payload_missing"]))),
)]
pub(crate) async fn input<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, Refusal> {
    caller.require(Need::ReadJobs)?;
    let run_id = id_in(id)?;
    read_run(&app, caller.tenant_id(), &run_id).await?;
    Ok(json(payload(&app, keys::run_input(&run_id)).await?, "the input")?)
}

/// Get the output of a run, whole.
#[utoipa::path(
    get,
    path = "/api/v1/workflow-runs/{id}/output",
    tag = "runs",
    operation_id = "getRunOutput",
    params(("id" = String, Path, description = "The run.")),
    responses((status = 200, description = "The output.", body = Value)),
    extensions(("x-busbar-codes" = json!(["run_not_found", "not_found", "payload_missing"]))),
)]
pub(crate) async fn output<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, Refusal> {
    caller.require(Need::ReadJobs)?;
    let run_id = id_in(id)?;
    let record = read_run(&app, caller.tenant_id(), &run_id).await?;
    if record.output_bytes == 0 {
        let state = RunState::from_protocol(record.state()).map_or("UNKNOWN", RunState::as_str);
        return Err(Problem::new(Code::NotFound, format!("the run is {state} and has no output")).into());
    }
    Ok(json(payload(&app, keys::run_output(&run_id)).await?, "the output")?)
}

fn json(bytes: Option<Bytes>, what: &str) -> Result<Response, Problem> {
    let bytes = bytes.ok_or_else(|| Problem::new(Code::PayloadMissing, format!("{what} has expired")))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], bytes).into_response())
}
