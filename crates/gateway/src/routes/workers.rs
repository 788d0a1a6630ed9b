//! Workers: which there are, and what they get.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use busbar_api::{
    DrainList, DrainRequest, DrainView, PauseList, PauseRequest, PauseScope, PauseView, Problem, WorkerList, WorkerView,
};
use busbar_protocol::ports::{Bus, Records};
use serde::de::DeserializeOwned;

use super::{cell, id_in, optional};
use crate::app::{Caller, Shared};
use crate::core::role::Need;
use crate::core::view;
use crate::error::Refusal;
use crate::ops::holds;

const PATIENCE: Duration = Duration::from_secs(5);

/// List workers.
///
/// Every worker that the scheduler knows, by id. Needs the role admin, operator or viewer.
#[utoipa::path(
    get,
    path = "/api/v1/workers",
    tag = "cell",
    operation_id = "listWorkers",
    responses((status = 200, description = "All workers.", body = WorkerList)),
    extensions(("x-busbar-codes" = json!(["scheduler_unavailable", "bus_unavailable"]))),
)]
pub(crate) async fn list<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
) -> Result<Json<WorkerList>, Refusal> {
    caller.require(Need::ReadCell)?;
    let mut items: Vec<WorkerView> = cell::ask(&app, PATIENCE).await?.workers.into_iter().map(view::worker).collect();
    items.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(Json(WorkerList { items }))
}

/// Drain a worker.
///
/// It finishes what it holds and gets nothing new, also after a restart, until the drain is lifted. Needs the role admin or
/// operator.
#[utoipa::path(
    post,
    path = "/api/v1/workers/{id}/drain",
    tag = "cell",
    operation_id = "drainWorker",
    params(("id" = String, Path, description = "The worker.")),
    request_body(content = Option<DrainRequest>, example = json!({"reason": "its machine is replaced"})),
    responses((status = 200, description = "It drains.", body = DrainView)),
    extensions(("x-busbar-codes" = json!([
        "not_found", "body_invalid", "field_invalid", "payload_too_large", "memory_short", "scheduler_unavailable",
        "bus_unavailable"
    ]))),
)]
pub(crate) async fn drain<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<DrainView>, Refusal> {
    let (worker_id, request): (_, DrainRequest) = wish(&caller, id, &headers, body).await?;
    Ok(Json(holds::drain(&app, &caller, &worker_id, &request).await?))
}

/// Lift a worker's drain.
///
/// Answers with what still drains. Needs the role admin or operator.
#[utoipa::path(
    delete,
    path = "/api/v1/workers/{id}/drain",
    tag = "cell",
    operation_id = "undrainWorker",
    params(("id" = String, Path, description = "The worker.")),
    responses((status = 200, description = "What still drains.", body = DrainList)),
    extensions(("x-busbar-codes" = json!([
        "not_found", "field_invalid", "memory_short", "scheduler_unavailable", "bus_unavailable"
    ]))),
)]
pub(crate) async fn undrain<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<DrainList>, Refusal> {
    caller.require(Need::Operate)?;
    Ok(Json(DrainList { items: holds::undrain(&app, &id_in(id)?).await? }))
}

/// Block a worker.
///
/// It gets nothing until the block is lifted, or until a time: the same as a pause of the scope `worker`. Needs the role admin
/// or operator.
#[utoipa::path(
    put,
    path = "/api/v1/workers/{id}/block",
    tag = "cell",
    operation_id = "blockWorker",
    params(("id" = String, Path, description = "The worker.")),
    request_body(content = Option<PauseRequest>, example = json!({"reason": "its results are wrong"})),
    responses((status = 200, description = "It is blocked.", body = PauseView)),
    extensions(("x-busbar-codes" = json!([
        "not_found", "body_invalid", "field_invalid", "payload_too_large", "memory_short", "scheduler_unavailable",
        "bus_unavailable"
    ]))),
)]
pub(crate) async fn block<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<PauseView>, Refusal> {
    let (worker_id, request): (_, PauseRequest) = wish(&caller, id, &headers, body).await?;
    Ok(Json(holds::pause(&app, &caller, PauseScope::Worker, &worker_id, &request).await?))
}

/// Unblock a worker.
///
/// Answers with what is still paused. Needs the role admin or operator.
#[utoipa::path(
    delete,
    path = "/api/v1/workers/{id}/block",
    tag = "cell",
    operation_id = "unblockWorker",
    params(("id" = String, Path, description = "The worker.")),
    responses((status = 200, description = "What is still paused.", body = PauseList)),
    extensions(("x-busbar-codes" = json!([
        "not_found", "field_invalid", "memory_short", "scheduler_unavailable", "bus_unavailable"
    ]))),
)]
pub(crate) async fn unblock<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<PauseList>, Refusal> {
    caller.require(Need::Operate)?;
    Ok(Json(PauseList { items: holds::resume(&app, PauseScope::Worker, &id_in(id)?).await? }))
}

/// Which worker an operator means, and what is wished for it.
async fn wish<T: DeserializeOwned + Default>(
    caller: &Caller,
    id: Result<Path<String>, PathRejection>,
    headers: &HeaderMap,
    body: Body,
) -> Result<(String, T), Problem> {
    caller.require(Need::Operate)?;
    Ok((id_in(id)?, optional(headers, body).await?))
}
