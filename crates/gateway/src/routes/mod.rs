//! The routes, each kind of thing in a file of its own.

pub(crate) mod artifacts;
pub(crate) mod cell;
pub(crate) mod dead;
pub(crate) mod jobs;
pub(crate) mod limits;
pub(crate) mod list;
pub(crate) mod packs;
pub(crate) mod pauses;
mod results;
pub(crate) mod runs;
pub(crate) mod start;
pub(crate) mod stream;
pub(crate) mod submit;
pub(crate) mod trust;
pub(crate) mod workers;
pub(crate) mod workflows;

use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::http::HeaderMap;
use axum::middleware;
use axum::routing::{get, post, put};
use busbar_api::Problem;
use busbar_protocol::codes::Code;
use busbar_protocol::ports::{Bus, Records};
use busbar_service::{Metrics, Readiness, health};
use serde::de::DeserializeOwned;

use crate::app::Shared;
use crate::body;
use crate::core::submission;
use crate::error::Refusal;
use crate::metrics::{GatewayMetrics, observe};
use crate::openapi;
use crate::traces;

/// Everything that the gateway answers.
pub(crate) fn router<B: Bus, R: Records>(
    app: Shared<B, R>,
    counted: GatewayMetrics,
    readiness: Readiness,
    metrics: Metrics,
) -> Router {
    let tracer = app.tracer.clone();
    Router::new()
        .route("/api/v1/jobs", get(list::list::<B, R>).post(submit::one::<B, R>))
        .route("/api/v1/jobs/batch", post(submit::batch::<B, R>).get(jobs::get_of_that_name::<B, R>))
        .route("/api/v1/jobs/{id}", get(jobs::get::<B, R>))
        .route("/api/v1/jobs/{id}/cancel", post(jobs::cancel::<B, R>))
        .route("/api/v1/jobs/{id}/dead-letter", get(dead::show_of_job::<B, R>).delete(dead::discard_of_job::<B, R>))
        .route("/api/v1/jobs/{id}/explain", get(jobs::explain::<B, R>))
        .route("/api/v1/jobs/{id}/logs", get(jobs::logs::<B, R>))
        .route("/api/v1/jobs/{id}/result", get(jobs::result::<B, R>))
        .route("/api/v1/artifacts", post(artifacts::upload::<B, R>))
        .route("/api/v1/artifacts/{id}", get(artifacts::download::<B, R>))
        .route("/api/v1/packs", get(packs::list::<B, R>).post(packs::install::<B, R>))
        .route("/api/v1/packs/{id}", get(packs::show::<B, R>).delete(packs::uninstall::<B, R>))
        .route("/api/v1/workflows", get(workflows::list::<B, R>).post(workflows::save::<B, R>))
        .route("/api/v1/workflows/{id}", get(workflows::get::<B, R>).delete(workflows::remove::<B, R>))
        .route("/api/v1/workflows/{id}/runs", get(runs::list_of::<B, R>).post(start::start::<B, R>))
        .route("/api/v1/workflow-runs", get(runs::list::<B, R>))
        .route("/api/v1/workflow-runs/{id}", get(runs::get::<B, R>))
        .route("/api/v1/workflow-runs/{id}/timeline", get(runs::get_timeline::<B, R>))
        .route("/api/v1/workflow-runs/{id}/cancel", post(runs::cancel::<B, R>))
        .route("/api/v1/workflow-runs/{id}/pause", post(runs::pause::<B, R>))
        .route("/api/v1/workflow-runs/{id}/resume", post(runs::resume::<B, R>))
        .route("/api/v1/workflow-runs/{id}/input", get(runs::input::<B, R>))
        .route("/api/v1/workflow-runs/{id}/output", get(runs::output::<B, R>))
        .route("/api/v1/dlq", get(dead::list::<B, R>))
        .route("/api/v1/dlq/page", get(dead::page::<B, R>))
        .route("/api/v1/dlq/redrive", post(dead::again_many::<B, R>))
        .route("/api/v1/dlq/{job_id}", get(dead::show::<B, R>).delete(dead::discard::<B, R>))
        .route("/api/v1/dlq/{job_id}/redrive", post(dead::again::<B, R>))
        .route("/api/v1/dlq/{job_id}/retry", post(dead::retry::<B, R>))
        .route("/api/v1/limits", get(limits::get::<B, R>).put(limits::set::<B, R>))
        .route("/api/v1/limits/tenants/{id}", put(limits::set_tenant::<B, R>).delete(limits::unset_tenant::<B, R>))
        .route("/api/v1/limits/topics/{pattern}", put(limits::set_topic::<B, R>).delete(limits::unset_topic::<B, R>))
        .route("/api/v1/pauses", get(pauses::list::<B, R>))
        .route("/api/v1/pauses/{scope}/{name}", put(pauses::set::<B, R>).delete(pauses::lift::<B, R>))
        .route("/api/v1/workers", get(workers::list::<B, R>))
        .route("/api/v1/workers/{id}/block", put(workers::block::<B, R>).delete(workers::unblock::<B, R>))
        .route("/api/v1/workers/{id}/keys", get(trust::list_of::<B, R>))
        .route("/api/v1/workers/{id}/keys/{key_id}", put(trust::enrol::<B, R>).delete(trust::revoke::<B, R>))
        .route("/api/v1/worker-keys", get(trust::list::<B, R>))
        .route("/api/v1/workers/{id}/drain", post(workers::drain::<B, R>).delete(workers::undrain::<B, R>))
        .route("/api/v1/status", get(cell::status::<B, R>))
        .route("/api/v1/stream", get(stream::stream::<B, R>))
        .route("/api/v1/stream/sse", get(stream::sse::<B, R>))
        .layer(axum::Extension(counted.clone()))
        .layer(middleware::from_fn_with_state(tracer, traces::follow))
        .with_state(app)
        .merge(openapi::router())
        .merge(health::router(readiness, metrics))
        .fallback(|| async { Refusal(Problem::new(Code::NotFound, "there is nothing at this path")) })
        .method_not_allowed_fallback(|| async { Refusal(Problem::new(Code::MethodNotAllowed, "this path has other methods")) })
        .layer(middleware::from_fn_with_state(counted, observe))
}

/// A query that cannot be read.
fn bad_query(rejection: &QueryRejection) -> Problem {
    Problem::new(Code::FieldInvalid, rejection.body_text())
}

/// A path whose identifier cannot be read.
fn bad_path(rejection: &PathRejection) -> Problem {
    Problem::new(Code::NotFound, rejection.body_text())
}

/// The identifier, or the name, that a path ends with or leads through.
fn id_in(path: Result<Path<String>, PathRejection>) -> Result<String, Problem> {
    path.map(|Path(id)| id).map_err(|rejection| bad_path(&rejection))
}

/// How large a body may be that only says how something shall be done.
const WISH_BYTES_MAX: usize = 16 * 1024;

/// A small body that may be missing.
async fn optional<T: DeserializeOwned + Default>(headers: &HeaderMap, body: Body) -> Result<T, Problem> {
    optional_up_to(WISH_BYTES_MAX, headers, body).await
}

/// A body of at most so many bytes that may be missing.
async fn optional_up_to<T: DeserializeOwned + Default>(max: usize, headers: &HeaderMap, body: Body) -> Result<T, Problem> {
    let body = body::read(headers, body, max).await?;
    let request: Option<T> = if body.trim_ascii().is_empty() { None } else { submission::parse_json(&body)? };
    Ok(request.unwrap_or_default())
}
