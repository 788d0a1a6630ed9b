//! Lists of jobs.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use busbar_api::{JobList, JobState, Problem};
use busbar_protocol::codes::Code;
use busbar_protocol::ports::{Bus, Records};
use serde::Deserialize;

use super::bad_query;
use crate::app::{Caller, Shared};
use crate::core::role::Need;
use crate::error::Refusal;
use crate::ops;

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// Jobs in this state only.
    #[param(value_type = Option<JobState>)]
    state: Option<String>,
    /// Jobs of exactly this topic only.
    topic: Option<String>,
    /// How many items a page has at most.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// List jobs.
///
/// The newest first. A page may hold fewer items than asked for and still have a next one; a job that ends meanwhile may be
/// seen twice, but is not missed.
#[utoipa::path(
    get,
    path = "/api/v1/jobs",
    tag = "jobs",
    operation_id = "listJobs",
    params(ListQuery),
    responses((status = 200, description = "One page.", body = JobList)),
    extensions(("x-busbar-codes" = json!(["field_invalid", "cursor_invalid", "scheduler_unavailable", "bus_unavailable"]))),
)]
pub(crate) async fn list<B: Bus, R: Records>(
    State(app): State<Shared<B, R>>,
    caller: Caller,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<JobList>, Refusal> {
    caller.require(Need::ReadJobs)?;
    let Query(query) = query.map_err(|rejection| bad_query(&rejection))?;
    let state = query.state.as_deref().filter(|state| !state.is_empty()).map(str::parse::<JobState>).transpose();
    let state = state.map_err(|error| Problem::new(Code::FieldInvalid, format!("state: {error}")))?;
    let wanted = ops::list::Wanted::new(caller.tenant_id(), state, query.topic.as_deref(), query.limit, query.cursor.as_deref())?;
    Ok(Json(ops::list::list(&app, &wanted).await?))
}
