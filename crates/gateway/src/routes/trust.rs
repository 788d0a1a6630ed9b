//! Keys that CAP workers prove to have: which there are, which come and go.

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use busbar_api::{EnrolRequest, Problem, WorkerKeyList, WorkerKeyView};
use busbar_protocol::ports::{Bus, Records};

use super::{bad_path, id_in, optional};
use crate::app::{Caller, Shared};
use crate::core::role::Need;
use crate::error::Refusal;
use crate::ops::trust::{self, Named};

/// List enrolled keys.
///
/// The public keys that CAP workers may prove to have in the trust handshake. Needs the role admin, operator or viewer.
#[utoipa::path(
    get,
    path = "/api/v1/worker-keys",
    tag = "cell",
    operation_id = "listWorkerKeys",
    responses((status = 200, description = "All enrolled keys.", body = WorkerKeyList)),
    extensions(("x-busbar-codes" = json!(["scheduler_unavailable", "bus_unavailable", "store_unavailable"]))),
)]
pub(crate) async fn list<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
) -> Result<Json<WorkerKeyList>, Refusal> {
    caller.require(Need::ReadCell)?;
    Ok(Json(WorkerKeyList { items: trust::list(&app, None).await? }))
}

/// List a worker's keys.
///
/// Needs the role admin, operator or viewer.
#[utoipa::path(
    get,
    path = "/api/v1/workers/{id}/keys",
    tag = "cell",
    operation_id = "listKeysOfWorker",
    params(("id" = String, Path, description = "The worker.")),
    responses((status = 200, description = "Its enrolled keys.", body = WorkerKeyList)),
    extensions(("x-busbar-codes" = json!(["not_found", "scheduler_unavailable", "bus_unavailable", "store_unavailable"]))),
)]
pub(crate) async fn list_of<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<WorkerKeyList>, Refusal> {
    caller.require(Need::ReadCell)?;
    Ok(Json(WorkerKeyList { items: trust::list(&app, Some(&id_in(id)?)).await? }))
}

/// Enrol a key.
///
/// A worker that proves to have it in the trust handshake gets a session. A key of the same name is replaced, and its sessions end.
/// Needs the role admin or operator.
#[utoipa::path(
    put,
    path = "/api/v1/workers/{id}/keys/{key_id}",
    tag = "cell",
    operation_id = "enrolWorkerKey",
    params(("id" = String, Path, description = "The worker."), ("key_id" = String, Path, description = "The key's name.")),
    request_body(content = EnrolRequest, example = json!({
        "public_key": "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAECKELxk8TTA7PJ7PvLfS22ueuNFa6\n2NQSC2HUQeSPLWRpBTuxc7dC+h6I0xHs2aFNv2hbirlE/VYOCfjYJkzmYw==\n-----END PUBLIC KEY-----\n", "agent_id": "translator"
    })),
    responses((status = 200, description = "It is enrolled.", body = WorkerKeyView)),
    extensions(("x-busbar-codes" = json!([
        "not_found", "body_invalid", "field_invalid", "payload_too_large", "scheduler_unavailable", "bus_unavailable",
        "store_unavailable"
    ]))),
)]
pub(crate) async fn enrol<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    names: Result<Path<(String, String)>, PathRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<WorkerKeyView>, Refusal> {
    caller.require(Need::Operate)?;
    let (named, request): (_, EnrolRequest) = (named(names)?, optional(&headers, body).await?);
    Ok(Json(trust::enrol(&app, &caller, named, request).await?))
}

/// Revoke a key.
///
/// Its sessions end at once. Answers with the keys that the worker still has. Needs the role admin or operator.
#[utoipa::path(
    delete,
    path = "/api/v1/workers/{id}/keys/{key_id}",
    tag = "cell",
    operation_id = "revokeWorkerKey",
    params(("id" = String, Path, description = "The worker."), ("key_id" = String, Path, description = "The key's name.")),
    responses((status = 200, description = "The worker's other keys.", body = WorkerKeyList)),
    extensions(("x-busbar-codes" = json!(["not_found", "scheduler_unavailable", "bus_unavailable", "store_unavailable"]))),
)]
pub(crate) async fn revoke<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    names: Result<Path<(String, String)>, PathRejection>,
) -> Result<Json<WorkerKeyList>, Refusal> {
    caller.require(Need::Operate)?;
    Ok(Json(WorkerKeyList { items: trust::revoke(&app, named(names)?).await? }))
}

fn named(path: Result<Path<(String, String)>, PathRejection>) -> Result<Named, Problem> {
    path.map(|Path((worker_id, key_id))| Named { worker_id, key_id }).map_err(|rejection| bad_path(&rejection))
}
