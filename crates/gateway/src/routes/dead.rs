//! Dead letters: looked at, tried again, thrown away.

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use busbar_api::{
    BODY_BYTES_MAX, DeadLetterDetail, DeadLetterList, RedriveManyReply, RedriveManyRequest, RedriveReply, RedriveRequest,
};
use busbar_protocol::ports::{Bus, Records};
use serde::Deserialize;

use super::{bad_query, id_in, optional, optional_up_to};
use crate::app::{Caller, Shared};
use crate::core::dead::{Filter, Meant};
use crate::core::role::Need;
use crate::error::Refusal;
use crate::ops::{dead, redrive, scan};

/// What a list is refused with.
const LIST_CODES: &[&str] = &["field_invalid", "topic_invalid", "cursor_invalid"];
/// What a look at one is refused with.
const SHOW_CODES: &[&str] = &["dead_letter_not_found", "not_found"];
/// What throwing one away is refused with.
const DISCARD_CODES: &[&str] =
    &["dead_letter_not_found", "not_found", "memory_short", "scheduler_unavailable", "bus_unavailable"];
/// What trying one job again is refused with.
const AGAIN_CODES: &[&str] = &[
    "dead_letter_not_found",
    "dead_letter_redriven",
    "not_found",
    "body_invalid",
    "field_invalid",
    "payload_too_large",
    "unknown_topic",
    "input_invalid",
    "payload_missing",
    "job_duplicate",
    "parent_cancelled",
    "key_busy",
    "backlog_full",
    "rate_exceeded",
    "memory_short",
    "scheduler_unavailable",
    "bus_unavailable",
];

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct DeadQuery {
    /// Of this topic only: exact, or with `*` for one token, or ending in `>` for the rest.
    topic: Option<String>,
    /// With exactly this reason code only.
    reason_code: Option<String>,
    /// Dead at this time (RFC 3339) or later.
    since: Option<String>,
    /// Dead before this time (RFC 3339).
    until: Option<String>,
    /// Only those that were tried again, or only those that were not.
    redriven: Option<bool>,
    /// How many items a page has at most.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// List dead letters.
///
/// The newest first. A page may hold fewer items than asked for and still have a next one.
#[utoipa::path(
    get,
    path = "/api/v1/dlq",
    tag = "dead letters",
    operation_id = "listDeadLetters",
    params(DeadQuery),
    responses((status = 200, description = "One page.", body = DeadLetterList)),
    extensions(("x-busbar-codes" = json!(LIST_CODES))),
)]
pub(crate) async fn list<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    query: Result<Query<DeadQuery>, QueryRejection>,
) -> Result<Json<DeadLetterList>, Refusal> {
    caller.require(Need::ReadJobs)?;
    let Query(query) = query.map_err(|rejection| bad_query(&rejection))?;
    let filter = Filter::new(Meant {
        topic: query.topic.as_deref(),
        reason_code: query.reason_code.as_deref(),
        since: query.since.as_deref(),
        until: query.until.as_deref(),
        redriven: query.redriven,
    })?;
    let (limit, after) = (scan::limit(query.limit)?, scan::after(query.cursor.as_deref())?);
    Ok(Json(dead::list(&app, caller.tenant_id(), &filter, limit, after.as_ref()).await?))
}

/// List dead letters, under the path that users of Cordum know.
///
/// The same as `GET /api/v1/dlq`.
#[utoipa::path(
    get,
    path = "/api/v1/dlq/page",
    tag = "dead letters",
    operation_id = "listDeadLettersPage",
    params(DeadQuery),
    responses((status = 200, description = "One page.", body = DeadLetterList)),
    extensions(("x-busbar-codes" = json!(LIST_CODES))),
)]
pub(crate) async fn page<B: Bus, R: Records>(
    app: State<Shared<B, R>>,
    caller: Caller,
    query: Result<Query<DeadQuery>, QueryRejection>,
) -> Result<Json<DeadLetterList>, Refusal> {
    list(app, caller, query).await
}

/// Look at a dead letter.
///
/// The whole letter, with its input where that is small.
#[utoipa::path(
    get,
    path = "/api/v1/dlq/{job_id}",
    tag = "dead letters",
    operation_id = "getDeadLetter",
    params(("job_id" = String, Path, description = "The dead job.")),
    responses((status = 200, description = "The letter.", body = DeadLetterDetail)),
    extensions(("x-busbar-codes" = json!(SHOW_CODES))),
)]
pub(crate) async fn show<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<DeadLetterDetail>, Refusal> {
    caller.require(Need::ReadJobs)?;
    Ok(Json(dead::get(&app, caller.tenant_id(), &id_in(id)?).await?))
}

/// Look at the dead letter of a job.
///
/// The same as `GET /api/v1/dlq/{job_id}`, but for every job: that path cannot name the jobs `page` and `redrive`, which only
/// programs on the bus can call so.
#[utoipa::path(
    get,
    path = "/api/v1/jobs/{id}/dead-letter",
    tag = "dead letters",
    operation_id = "getDeadLetterOfJob",
    params(("id" = String, Path, description = "The dead job.")),
    responses((status = 200, description = "The letter.", body = DeadLetterDetail)),
    extensions(("x-busbar-codes" = json!(SHOW_CODES))),
)]
pub(crate) async fn show_of_job<B: Bus, R: Records>(
    app: State<Shared<B, R>>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<DeadLetterDetail>, Refusal> {
    show(app, caller, id).await
}

/// Try a dead job again.
///
/// As a new job, with everything that the dead one was submitted with: once. Asking again after a lost answer is safe. Needs the
/// role admin, operator or submitter.
#[utoipa::path(
    post,
    path = "/api/v1/dlq/{job_id}/redrive",
    tag = "dead letters",
    operation_id = "redriveDeadLetter",
    params(("job_id" = String, Path, description = "The dead job.")),
    request_body(content = Option<RedriveRequest>, example = json!({"input": {"hello": "again"}})),
    responses((status = 202, description = "The new job is on disk.", body = RedriveReply)),
    extensions(("x-busbar-codes" = json!(AGAIN_CODES))),
)]
pub(crate) async fn again<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<RedriveReply>), Refusal> {
    caller.require(Need::WriteJobs)?;
    let job_id = id_in(id)?;
    let request: RedriveRequest = optional_up_to(BODY_BYTES_MAX, &headers, body).await?;
    Ok((StatusCode::ACCEPTED, Json(redrive::one(&app, &caller, job_id, request).await?)))
}

/// Try a dead job again, under the path that users of Cordum know.
///
/// The same as `POST /api/v1/dlq/{job_id}/redrive`.
#[utoipa::path(
    post,
    path = "/api/v1/dlq/{job_id}/retry",
    tag = "dead letters",
    operation_id = "retryDeadLetter",
    params(("job_id" = String, Path, description = "The dead job.")),
    request_body(content = Option<RedriveRequest>, example = json!({})),
    responses((status = 202, description = "The new job is on disk.", body = RedriveReply)),
    extensions(("x-busbar-codes" = json!(AGAIN_CODES))),
)]
pub(crate) async fn retry<B: Bus, R: Records>(
    app: State<Shared<B, R>>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<RedriveReply>), Refusal> {
    again(app, caller, id, headers, body).await
}

/// Try many dead jobs again.
///
/// Those that fit and were not tried again yet, the oldest first. So many start in a second, whatever becomes of the gateway
/// meanwhile. Goes on with `next_cursor`. Needs the role admin, operator or submitter.
#[utoipa::path(
    post,
    path = "/api/v1/dlq/redrive",
    tag = "dead letters",
    operation_id = "redriveDeadLetters",
    request_body(content = Option<RedriveManyRequest>, example = json!({"topic": "job.echo", "reason_code": "worker_lost"})),
    responses((status = 202, description = "What was not rejected is on disk.", body = RedriveManyReply)),
    extensions(("x-busbar-codes" = json!([
        "body_invalid", "field_invalid", "topic_invalid", "cursor_invalid", "payload_too_large", "memory_short",
        "scheduler_unavailable", "bus_unavailable"
    ]))),
)]
pub(crate) async fn again_many<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<RedriveManyReply>), Refusal> {
    caller.require(Need::WriteJobs)?;
    let request: RedriveManyRequest = optional(&headers, body).await?;
    let many = redrive::Many::new(&request)?;
    Ok((StatusCode::ACCEPTED, Json(redrive::many(&app, &caller, many).await?)))
}

/// Throw a dead letter away.
///
/// With its input. Needs the role admin, operator or submitter.
#[utoipa::path(
    delete,
    path = "/api/v1/dlq/{job_id}",
    tag = "dead letters",
    operation_id = "discardDeadLetter",
    params(("job_id" = String, Path, description = "The dead job.")),
    responses((status = 204, description = "It is gone.")),
    extensions(("x-busbar-codes" = json!(DISCARD_CODES))),
)]
pub(crate) async fn discard<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, Refusal> {
    caller.require(Need::WriteJobs)?;
    dead::discard(&app, &caller, id_in(id)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Throw the dead letter of a job away.
///
/// The same as `DELETE /api/v1/dlq/{job_id}`, but for every job. Needs the role admin, operator or submitter.
#[utoipa::path(
    delete,
    path = "/api/v1/jobs/{id}/dead-letter",
    tag = "dead letters",
    operation_id = "discardDeadLetterOfJob",
    params(("id" = String, Path, description = "The dead job.")),
    responses((status = 204, description = "It is gone.")),
    extensions(("x-busbar-codes" = json!(DISCARD_CODES))),
)]
pub(crate) async fn discard_of_job<B: Bus, R: Records>(
    app: State<Shared<B, R>>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, Refusal> {
    discard(app, caller, id).await
}
