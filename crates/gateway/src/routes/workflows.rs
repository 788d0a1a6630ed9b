//! Workflows: saving, looking at and taking them away. The workflow engine owns them; the gateway reads its records.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use busbar_api::{Problem, RawValue, SaveReply, WORKFLOW_BYTES_MAX, WorkflowList, WorkflowView};
use busbar_protocol::busbar::{DefineReply, DefineRequest, RemoveReply, RemoveRequest, WorkflowHead, WorkflowVersion};
use busbar_protocol::ports::{Bus, Records};
use busbar_protocol::prost::Message;
use busbar_protocol::{keys, subjects};
use serde::Deserialize;

use super::{bad_query, id_in};
use crate::app::{App, Caller, Shared};
use crate::body;
use crate::core::page::{self, Part, Place};
use crate::core::role::Need;
use crate::core::run::{check_workflow_id, head_view, no_workflow};
use crate::core::submission::parse_json;
use crate::core::view::{text, time};
use crate::error::{Refusal, internal, of_store, of_wire};
use crate::ops::scan::{self, Scan};

/// How long a change of a workflow waits for an engine.
const PATIENCE: Duration = Duration::from_secs(5);
/// The owner of the workflows of packs.
const PACKS: &str = "";

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// How many items a page has at most.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct GetQuery {
    /// This version instead of the newest.
    #[param(value_type = Option<u64>, minimum = 0, maximum = 4_294_967_295_u64)]
    version: Option<u32>,
}

/// List workflows.
///
/// The tenant's own and those of packs, without their documents; the one that was saved last first.
#[utoipa::path(
    get,
    path = "/api/v1/workflows",
    tag = "workflows",
    operation_id = "listWorkflows",
    params(ListQuery),
    responses((status = 200, description = "One page.", body = WorkflowList)),
    extensions(("x-busbar-codes" = json!(["field_invalid", "cursor_invalid"]))),
)]
pub(crate) async fn list<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<WorkflowList>, Refusal> {
    caller.require(Need::ReadJobs)?;
    let Query(query) = query.map_err(|rejection| bad_query(&rejection))?;
    let (limit, after) = (scan::limit(query.limit)?, scan::after(query.cursor.as_deref())?);
    let own = owned_by(&app, caller.tenant_id(), limit, after.as_ref()).await?;
    let packs = owned_by(&app, PACKS, limit, after.as_ref()).await?;
    let page = page::merge(own, packs, limit);
    Ok(Json(WorkflowList { items: page.items, next_cursor: page.next.map(|place| place.cursor()) }))
}

async fn owned_by<B: Bus, R: Records>(
    app: &App<B, R>,
    owner: &str,
    limit: usize,
    after: Option<&Place>,
) -> Result<Part<WorkflowView>, Problem> {
    let mut scan = Scan::new(keys::index_workflows(owner), after);
    let mut items = Vec::new();
    while items.len() <= limit
        && let Some(places) = scan.next(&app.records).await?
    {
        let names = places.iter().map(|place| keys::workflow(owner, &place.id)).collect();
        let heads = read::<_, WorkflowHead>(&app.records, names).await?;
        items.extend(places.into_iter().zip(heads).filter_map(|(place, head)| Some((place, head_view(&head?)))));
    }
    Ok(scan.part(items))
}

/// Save a workflow.
///
/// The document, at most 256 KiB, is checked whole; `docs/workflows.md` describes it. Needs the role admin, operator or
/// submitter.
#[utoipa::path(
    post,
    path = "/api/v1/workflows",
    tag = "workflows",
    operation_id = "saveWorkflow",
    request_body(content = Object, description = "The document.", example = json!({
        "apiVersion": "busbar/v1", "kind": "Workflow", "id": "twice",
        "steps": {"echo": {"type": "for_each", "items": "[1, 2]", "topic": "job.echo"}}, "output": "${steps.echo.output}"
    })),
    responses(
        (status = 201, description = "A new version came to be.", body = SaveReply),
        (status = 200, description = "The newest version is this very document.", body = SaveReply),
    ),
    extensions(("x-busbar-codes" = json!([
        "body_invalid", "payload_too_large", "workflow_invalid", "field_invalid", "memory_short", "engine_unavailable", "bus_unavailable"
    ]))),
)]
pub(crate) async fn save<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    caller.require(Need::WriteJobs)?;
    let document = body::read(&headers, body, WORKFLOW_BYTES_MAX).await?;
    // What is no JSON at all is told here; what is no workflow, by the engine.
    parse_json::<serde_json::Value>(&document)?;
    let question = DefineRequest {
        document,
        tenant_id: caller.tenant_id().to_owned(),
        requested_by: caller.name().to_owned(),
        ..DefineRequest::default()
    };
    let reply: DefineReply = app.ask(subjects::ENGINE_DEFINE, &question, PATIENCE).await?;
    if let Some(problem) = reply.problem {
        return Err(of_wire(problem).into());
    }
    let status = if reply.created { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(SaveReply { id: reply.workflow_id, version: reply.number })).into_response())
}

/// Look at a workflow, with its document.
#[utoipa::path(
    get,
    path = "/api/v1/workflows/{id}",
    tag = "workflows",
    operation_id = "getWorkflow",
    params(("id" = String, Path, description = "The workflow."), GetQuery),
    responses((status = 200, description = "The newest version, or the one that was asked for.", body = WorkflowView)),
    extensions(("x-busbar-codes" = json!(["workflow_not_found", "not_found", "field_invalid"]))),
)]
pub(crate) async fn get<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
    query: Result<Query<GetQuery>, QueryRejection>,
) -> Result<Json<WorkflowView>, Refusal> {
    caller.require(Need::ReadJobs)?;
    let id = id_in(id)?;
    let Query(query) = query.map_err(|rejection| bad_query(&rejection))?;
    let head = find(&app, caller.tenant_id(), &id).await?;
    let number = query.version.unwrap_or(head.newest);
    let key = keys::workflow_version(&head.tenant_id, &id, number);
    let version = read::<_, WorkflowVersion>(&app.records, vec![key]).await?;
    let version = version.into_iter().next().flatten().ok_or_else(|| no_workflow(&id))?;
    let document = String::from_utf8(version.document.into()).ok().and_then(|text| RawValue::from_string(text).ok());
    let document = document.ok_or_else(|| internal(&format!("version {number} of the workflow {id} is no JSON")))?;
    Ok(Json(WorkflowView {
        version: number,
        created_at: time(version.created_ms),
        created_by: text(&version.created_by),
        document: Some(document),
        ..head_view(&head)
    }))
}

/// A tenant's own workflow, or else that of a pack.
async fn find<B: Bus, R: Records>(app: &App<B, R>, tenant_id: &str, id: &str) -> Result<WorkflowHead, Problem> {
    check_workflow_id(id)?;
    let names = [tenant_id, PACKS].map(|owner| keys::workflow(owner, id)).to_vec();
    let heads = read::<_, WorkflowHead>(&app.records, names).await?;
    heads.into_iter().flatten().next().ok_or_else(|| no_workflow(id))
}

/// Take a workflow away.
///
/// With all its versions, unless runs of it go on. Needs the role admin, operator or submitter.
#[utoipa::path(
    delete,
    path = "/api/v1/workflows/{id}",
    tag = "workflows",
    operation_id = "removeWorkflow",
    params(("id" = String, Path, description = "The workflow.")),
    responses((status = 204, description = "It is gone.")),
    extensions(("x-busbar-codes" = json!([
        "workflow_not_found", "not_found", "workflow_in_use", "engine_unavailable", "bus_unavailable"
    ]))),
)]
pub(crate) async fn remove<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, Refusal> {
    caller.require(Need::WriteJobs)?;
    let id = id_in(id)?;
    check_workflow_id(&id)?;
    let question = RemoveRequest { workflow_id: id, tenant_id: caller.tenant_id().to_owned(), ..RemoveRequest::default() };
    let reply: RemoveReply = app.ask(subjects::ENGINE_REMOVE, &question, PATIENCE).await?;
    reply.problem.map_or(Ok(StatusCode::NO_CONTENT), |problem| Err(of_wire(problem).into()))
}

/// Reads records; what is not there is `None`.
pub(super) async fn read<R: Records, M: Message + Default>(records: &R, names: Vec<String>) -> Result<Vec<Option<M>>, Problem> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let stored = records.read(names).await.map_err(|error| of_store(&error))?;
    stored.into_iter().map(|stored| stored.map(|stored| M::decode(stored.value)).transpose().map_err(|e| internal(&e))).collect()
}
