//! Packs: installed, looked at, and taken away.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use busbar_api::{PackList, PackOutcome, PackPart, PackReply, PackView, Problem};
use busbar_protocol::busbar;
use busbar_protocol::codes::Code;
use busbar_protocol::ports::{Bus, Records};
use busbar_rules::pack::{UPLOAD_BYTES_MAX, is_pack_id};
use serde::Deserialize;

use super::{bad_query, id_in};
use crate::app::{Caller, Shared};
use crate::body;
use crate::core::pack::{Installed, kind};
use crate::core::role::Need;
use crate::core::view::time;
use crate::error::Refusal;
use crate::openapi::Octets;
use crate::packs::{Install, Upload};

/// How long an upload may take: it holds one of few places.
const UPLOAD_WITHIN: Duration = Duration::from_secs(120);

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct InstallQuery {
    /// Only the plan: nothing is changed.
    #[serde(default)]
    dry_run: bool,
    /// Another release of the pack may be replaced.
    #[serde(default)]
    upgrade: bool,
}

/// List packs.
///
/// Needs the role admin, operator or viewer.
#[utoipa::path(
    get,
    path = "/api/v1/packs",
    tag = "packs",
    operation_id = "listPacks",
    responses((status = 200, description = "All packs, by id.", body = PackList)),
)]
pub(crate) async fn list<B: Bus, R: Records>(State(app): State<Shared<B, R>>, caller: Caller) -> Result<Json<PackList>, Refusal> {
    caller.require(Need::ReadCell)?;
    Ok(Json(PackList { items: app.packs.list().await?.into_iter().map(view).collect() }))
}

/// Look at a pack and what it owns.
///
/// Needs the role admin, operator or viewer.
#[utoipa::path(
    get,
    path = "/api/v1/packs/{id}",
    tag = "packs",
    operation_id = "getPack",
    params(("id" = String, Path, description = "The pack.")),
    responses((status = 200, description = "The pack.", body = PackView)),
    extensions(("x-busbar-codes" = json!(["pack_not_found", "not_found"]))),
)]
pub(crate) async fn show<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<PackView>, Refusal> {
    caller.require(Need::ReadCell)?;
    Ok(Json(view(app.packs.get(&pack_id(id)?).await?)))
}

/// Install a pack.
///
/// The body is the archive, a `.tgz` of at most 64 MiB. It is applied whole or not at all. The answer comes when the active
/// scheduler has it in force, or after 5 s without word of that. Needs the role admin or operator.
#[utoipa::path(
    post,
    path = "/api/v1/packs",
    tag = "packs",
    operation_id = "installPack",
    params(InstallQuery),
    request_body(content = inline(Octets), content_type = "application/gzip", description = "The archive."),
    responses(
        (status = 201, description = "It is installed.", body = PackReply),
        (status = 200, description = "It was there already, was upgraded, or would be changed in this way.", body = PackReply),
    ),
    extensions(("x-busbar-codes" = json!([
        "body_invalid", "field_invalid", "payload_too_large", "pack_invalid", "pack_conflict", "pack_in_use", "pack_busy",
        "bundle_invalid", "workflow_invalid", "workflow_in_use", "memory_short", "kernel_unavailable", "engine_unavailable",
        "scheduler_unavailable", "bus_unavailable"
    ]))),
)]
pub(crate) async fn install<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    query: Result<Query<InstallQuery>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    caller.require(Need::ManagePacks)?;
    let Query(InstallQuery { dry_run, upgrade }) = query.map_err(|rejection| bad_query(&rejection))?;
    let place = app.packs.place().await?;
    let archive = tokio::time::timeout(UPLOAD_WITHIN, body::read(&headers, body, UPLOAD_BYTES_MAX)).await;
    let too_slow = || Problem::new(Code::BodyInvalid, format!("the archive did not come within {UPLOAD_WITHIN:?}"));
    let upload = Upload::open(archive.map_err(|_| too_slow())??, place).await?;
    let reply = app.packs.install(upload, Install { dry_run, upgrade }, caller.name().to_owned()).await?;
    let status = if reply.outcome == PackOutcome::Installed { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(reply)).into_response())
}

/// Uninstall a pack.
///
/// With everything that it brought, unless jobs of its topics or runs of its workflows go on. The answer comes when the active
/// scheduler works without its topics, or after 5 s without word of that. Needs the role admin or operator.
#[utoipa::path(
    delete,
    path = "/api/v1/packs/{id}",
    tag = "packs",
    operation_id = "uninstallPack",
    params(("id" = String, Path, description = "The pack.")),
    responses((status = 200, description = "It is gone.", body = PackReply)),
    extensions(("x-busbar-codes" = json!([
        "pack_not_found", "not_found", "pack_in_use", "pack_busy", "workflow_in_use", "memory_short", "kernel_unavailable",
        "engine_unavailable", "scheduler_unavailable", "bus_unavailable"
    ]))),
)]
pub(crate) async fn uninstall<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<PackReply>, Refusal> {
    caller.require(Need::ManagePacks)?;
    Ok(Json(app.packs.uninstall(pack_id(id)?).await?))
}

fn pack_id(id: Result<Path<String>, PathRejection>) -> Result<String, Problem> {
    let id = id_in(id)?;
    if is_pack_id(&id) {
        return Ok(id);
    }
    Err(Problem::new(Code::PackNotFound, "no pack has such an identifier: lower-case letters, digits and `-`"))
}

fn view(pack: Installed) -> PackView {
    let state = pack.state().to_owned();
    let release = pack.release;
    PackView {
        id: pack.pack_id,
        version: release.pack_version,
        title: release.title,
        description: release.description,
        state,
        digest: release.digest,
        installed_at: time(release.installed_ms),
        installed_by: release.installed_by,
        owns: release.parts.into_iter().map(part).collect(),
    }
}

fn part(part: busbar::PackPart) -> PackPart {
    PackPart { kind: kind(part.kind()).to_owned(), name: part.name, sha256: part.sha256 }
}
