//! Bounds of tenants and topics.

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, header};
use busbar_api::{LimitsChange, LimitsRequest, LimitsView, Problem, TenantLimits, TopicLimits};
use busbar_protocol::codes::Code;
use busbar_protocol::ports::{Bus, Records};

use super::{id_in, optional};
use crate::app::{Caller, Shared};
use crate::body;
use crate::core::role::Need;
use crate::core::{limits, submission};
use crate::error::Refusal;
use crate::ops;

/// The most bytes of all bounds together.
const DOCUMENT_BYTES_MAX: usize = 8 * 1024 * 1024;

type Tagged<T> = ([(HeaderName, String); 1], Json<T>);

fn tagged<T>(revision: u64, body: T) -> Tagged<T> {
    ([(header::ETAG, format!("\"{revision}\""))], Json(body))
}

/// Look at the bounds of tenants and topics.
///
/// `ETag` is the revision. Needs the role admin, operator or viewer.
#[utoipa::path(
    get,
    path = "/api/v1/limits",
    tag = "cell",
    operation_id = "getLimits",
    responses((status = 200, description = "All bounds that are set here.", body = LimitsView)),
)]
pub(crate) async fn get<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
) -> Result<Tagged<LimitsView>, Refusal> {
    caller.require(Need::ReadCell)?;
    let view = ops::limits::get(&app).await?;
    Ok(tagged(view.revision, view))
}

/// Set all bounds of tenants and topics.
///
/// In place of those of the revision that `revision`, or the header `If-Match`, names: where that is not the present one, nothing
/// is changed. Needs the role admin or operator.
#[utoipa::path(
    put,
    path = "/api/v1/limits",
    tag = "cell",
    operation_id = "setLimits",
    params(("If-Match" = Option<String>, Header, description = "The revision that this replaces.")),
    request_body(content = LimitsRequest, example = json!({
        "revision": 0,
        "tenants": [{"tenant_id": "*", "backlog_max": 100_000}, {"tenant_id": "acme", "weight": 3}],
        "topics": [{"topic": "job.mail.>", "starts": {"count": 10}, "key": {"strategy": "queue"}}],
    })),
    responses((status = 200, description = "They are in force.", body = LimitsView)),
    extensions(("x-busbar-codes" = json!([
        "body_invalid", "field_invalid", "topic_invalid", "payload_too_large", "revision_changed"
    ]))),
)]
pub(crate) async fn set<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Tagged<LimitsView>, Refusal> {
    caller.require(Need::Operate)?;
    let request: LimitsRequest = submission::parse_json(&body::read(&headers, body, DOCUMENT_BYTES_MAX).await?)?;
    let revision = match (request.revision, if_match(&headers)?) {
        (Some(one), Some(other)) if one != other => {
            return Err(invalid("revision: it is another one than that of If-Match").into());
        }
        (one, other) => one.or(other),
    };
    let missing = || invalid("revision: give the one that was read, here or in If-Match; 0 where nothing was ever set");
    let view = ops::limits::replace(&app, &request, revision.ok_or_else(missing)?).await?;
    Ok(tagged(view.revision, view))
}

/// Set the bounds of a tenant.
///
/// The whole row; those of others stay. With `If-Match`, only where that is the present revision. Needs the role admin or operator.
#[utoipa::path(
    put,
    path = "/api/v1/limits/tenants/{id}",
    tag = "cell",
    operation_id = "setTenantLimits",
    params(
        ("id" = String, Path, description = "The tenant; `*` stands for each that has no row of its own."),
        ("If-Match" = Option<String>, Header, description = "The revision that this changes."),
    ),
    request_body(content = Option<TenantLimits>, example = json!({"weight": 2, "concurrency_max": 50, "admissions": {"count": 100}})),
    responses((status = 200, description = "They are in force.", body = LimitsChange)),
    extensions(("x-busbar-codes" = json!([
        "not_found", "body_invalid", "field_invalid", "payload_too_large", "revision_changed", "gateway_busy"
    ]))),
)]
pub(crate) async fn set_tenant<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Tagged<LimitsChange>, Refusal> {
    caller.require(Need::Operate)?;
    let (name, expected) = (id_in(id)?, if_match(&headers)?);
    let row: TenantLimits = optional(&headers, body).await?;
    let row = TenantLimits { tenant_id: same("tenant_id", &row.tenant_id, name)?, ..row };
    let revision = ops::limits::change(&app, expected, |document| limits::put_tenant(document, &row)).await?;
    Ok(tagged(revision, LimitsChange { revision }))
}

/// Take the bounds of a tenant away.
///
/// What is not there stays so. Needs the role admin or operator.
#[utoipa::path(
    delete,
    path = "/api/v1/limits/tenants/{id}",
    tag = "cell",
    operation_id = "unsetTenantLimits",
    params(
        ("id" = String, Path, description = "The tenant; `*` stands for each that has no row of its own."),
        ("If-Match" = Option<String>, Header, description = "The revision that this changes."),
    ),
    responses((status = 200, description = "They are gone.", body = LimitsChange)),
    extensions(("x-busbar-codes" = json!(["not_found", "field_invalid", "revision_changed", "gateway_busy"]))),
)]
pub(crate) async fn unset_tenant<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Tagged<LimitsChange>, Refusal> {
    caller.require(Need::Operate)?;
    let (name, expected) = (id_in(id)?, if_match(&headers)?);
    let edit = |document: &mut _| {
        limits::remove_tenant(document, &name);
        Ok(())
    };
    let revision = ops::limits::change(&app, expected, edit).await?;
    Ok(tagged(revision, LimitsChange { revision }))
}

/// Set the bounds of a topic.
///
/// The whole row, which replaces what the topic document says of its flow and keys. With `If-Match`, only where that is the present
/// revision. Needs the role admin or operator.
#[utoipa::path(
    put,
    path = "/api/v1/limits/topics/{pattern}",
    tag = "cell",
    operation_id = "setTopicLimits",
    params(
        ("pattern" = String, Path, description = "The topic, or a pattern."),
        ("If-Match" = Option<String>, Header, description = "The revision that this changes."),
    ),
    request_body(content = Option<TopicLimits>, example = json!({"concurrency_max": 8, "key": {"strategy": "cancel_oldest"}})),
    responses((status = 200, description = "They are in force.", body = LimitsChange)),
    extensions(("x-busbar-codes" = json!([
        "not_found", "body_invalid", "field_invalid", "topic_invalid", "payload_too_large", "revision_changed", "gateway_busy"
    ]))),
)]
pub(crate) async fn set_topic<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    pattern: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Tagged<LimitsChange>, Refusal> {
    caller.require(Need::Operate)?;
    let (name, expected) = (id_in(pattern)?, if_match(&headers)?);
    let row: TopicLimits = optional(&headers, body).await?;
    let row = TopicLimits { topic: same("topic", &row.topic, name)?, ..row };
    let revision = ops::limits::change(&app, expected, |document| limits::put_topic(document, &row)).await?;
    Ok(tagged(revision, LimitsChange { revision }))
}

/// Take the bounds of a topic away.
///
/// Then what the topic document says counts again. Needs the role admin or operator.
#[utoipa::path(
    delete,
    path = "/api/v1/limits/topics/{pattern}",
    tag = "cell",
    operation_id = "unsetTopicLimits",
    params(
        ("pattern" = String, Path, description = "The topic, or a pattern."),
        ("If-Match" = Option<String>, Header, description = "The revision that this changes."),
    ),
    responses((status = 200, description = "They are gone.", body = LimitsChange)),
    extensions(("x-busbar-codes" = json!(["not_found", "field_invalid", "revision_changed", "gateway_busy"]))),
)]
pub(crate) async fn unset_topic<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    pattern: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Tagged<LimitsChange>, Refusal> {
    caller.require(Need::Operate)?;
    let (name, expected) = (id_in(pattern)?, if_match(&headers)?);
    let edit = |document: &mut _| {
        limits::remove_topic(document, &name);
        Ok(())
    };
    let revision = ops::limits::change(&app, expected, edit).await?;
    Ok(tagged(revision, LimitsChange { revision }))
}

/// The revision that `If-Match` names, with or without quotes.
fn if_match(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.trim().trim_matches('"').parse().ok());
    number.map(Some).ok_or_else(|| invalid("If-Match: one revision, as ETag tells it"))
}

/// The name in the path, which a row may repeat.
fn same(member: &str, in_row: &str, in_path: String) -> Result<String, Problem> {
    if in_row.is_empty() || in_row == in_path {
        return Ok(in_path);
    }
    Err(invalid(&format!("{member}: the path names another one")))
}

fn invalid(detail: &str) -> Problem {
    Problem::new(Code::FieldInvalid, detail)
}
