//! What is counted about requests.

use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use busbar_service::Metrics;
use busbar_service::telemetry::{Counters, Histograms};

use crate::error::RefusedWith;

/// The gateway's metrics.
#[derive(Clone, Debug)]
pub(crate) struct GatewayMetrics {
    requests: Counters,
    duration: Histograms,
    refused: Counters,
    submitted: Counters,
}

impl GatewayMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        Self {
            requests: metrics.counters("gateway_requests", "Requests answered"),
            duration: metrics.histograms_ms("gateway_request_ms", "Time to answer a request"),
            refused: metrics.counters("gateway_refused", "Requests refused, by code"),
            submitted: metrics.counters("gateway_submissions", "Jobs submitted, by what became of them"),
        }
    }

    /// Counts a submission: `admitted`, or the code of its refusal.
    pub(crate) fn submitted(&self, outcome: &str) {
        self.submitted.get_or_create(&vec![("outcome", outcome.to_owned())]).inc();
    }
}

/// Counts every request by its route, never by its path: paths have no bound.
pub(crate) async fn observe(State(metrics): State<GatewayMetrics>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let method = request.method().as_str().to_owned();
    let response = next.run(request).await;
    let status = response.status().as_u16().to_string();
    metrics.requests.get_or_create(&vec![("method", method), ("route", route.clone()), ("status", status)]).inc();
    metrics.duration.get_or_create(&vec![("route", route)]).observe(begun.elapsed().as_secs_f64() * 1000.0);
    if let Some(RefusedWith(code)) = response.extensions().get::<RefusedWith>() {
        metrics.refused.get_or_create(&vec![("code", code.clone())]).inc();
    }
    response
}
