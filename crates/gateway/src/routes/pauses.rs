//! Pauses: what is held back, and until when.

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use busbar_api::{PauseList, PauseRequest, PauseScope, PauseView, Problem};
use busbar_protocol::codes::Code;
use busbar_protocol::ports::{Bus, Records};

use super::{bad_path, optional};
use crate::app::{Caller, Shared};
use crate::core::role::Need;
use crate::error::Refusal;
use crate::ops::holds;

/// List pauses.
///
/// Everything that is paused, by scope and name. Needs the role admin, operator or viewer.
#[utoipa::path(
    get,
    path = "/api/v1/pauses",
    tag = "cell",
    operation_id = "listPauses",
    responses((status = 200, description = "All pauses.", body = PauseList)),
    extensions(("x-busbar-codes" = json!(["scheduler_unavailable", "bus_unavailable"]))),
)]
pub(crate) async fn list<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
) -> Result<Json<PauseList>, Refusal> {
    caller.require(Need::ReadCell)?;
    Ok(Json(PauseList { items: holds::pauses(&app).await? }))
}

/// Pause a pool, topic, tenant, key or worker.
///
/// Until it is lifted, or until a time. A pause that is there is replaced. What workers hold already goes on. Needs the role
/// admin or operator.
#[utoipa::path(
    put,
    path = "/api/v1/pauses/{scope}/{name}",
    tag = "cell",
    operation_id = "setPause",
    params(
        ("scope" = PauseScope, Path, description = "What kind of thing."),
        ("name" = String, Path, description = "Its name; of a key `<tenant> <topic> <key>`, percent-encoded."),
    ),
    request_body(content = Option<PauseRequest>, example = json!({"reason": "the API is down", "for_ms": 600_000})),
    responses((status = 200, description = "It is paused.", body = PauseView)),
    extensions(("x-busbar-codes" = json!([
        "not_found", "body_invalid", "field_invalid", "topic_invalid", "payload_too_large", "memory_short",
        "scheduler_unavailable", "bus_unavailable"
    ]))),
)]
pub(crate) async fn set<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    path: Result<Path<(String, String)>, PathRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<PauseView>, Refusal> {
    caller.require(Need::Operate)?;
    let (scope, name) = what(path)?;
    let request: PauseRequest = optional(&headers, body).await?;
    Ok(Json(holds::pause(&app, &caller, scope, &name, &request).await?))
}

/// Lift a pause.
///
/// Answers with what is still paused. Lifting what is not paused changes nothing. Needs the role admin or operator.
#[utoipa::path(
    delete,
    path = "/api/v1/pauses/{scope}/{name}",
    tag = "cell",
    operation_id = "liftPause",
    params(
        ("scope" = PauseScope, Path, description = "What kind of thing."),
        ("name" = String, Path, description = "Its name; of a key `<tenant> <topic> <key>`, percent-encoded."),
    ),
    responses((status = 200, description = "What is still paused.", body = PauseList)),
    extensions(("x-busbar-codes" = json!([
        "not_found", "field_invalid", "topic_invalid", "memory_short", "scheduler_unavailable", "bus_unavailable"
    ]))),
)]
pub(crate) async fn lift<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<Json<PauseList>, Refusal> {
    caller.require(Need::Operate)?;
    let (scope, name) = what(path)?;
    Ok(Json(PauseList { items: holds::resume(&app, scope, &name).await? }))
}

fn what(path: Result<Path<(String, String)>, PathRejection>) -> Result<(PauseScope, String), Problem> {
    let Path((scope, name)) = path.map_err(|rejection| bad_path(&rejection))?;
    let scope = scope.parse().map_err(|error| Problem::new(Code::FieldInvalid, format!("scope: {error}")))?;
    Ok((scope, name))
}
