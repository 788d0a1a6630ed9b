//! What is counted about requests.

use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use busbar_service::Metrics;
use busbar_service::telemetry::{Counters, Histogram, Histograms, millis};

use crate::error::RefusedWith;

/// The gateway's metrics.
#[derive(Clone, Debug)]
pub(crate) struct GatewayMetrics {
    requests: Counters,
    duration: Histograms,
    refused: Counters,
    submitted: Counters,
    admit_ms: Histogram,
}

impl GatewayMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        Self {
            requests: metrics.counters("gateway_requests", "Requests answered"),
            duration: metrics.histograms_ms("gateway_request_ms", "Time to answer a request"),
            refused: metrics.counters("gateway_refused", "Requests refused, by code"),
            submitted: metrics.counters("gateway_submissions", "Jobs submitted, by what became of them"),
            admit_ms: metrics.histogram_ms("gateway_admit_ms", "From a submission to the word of the scheduler"),
        }
    }

    /// How long a submission took.
    pub(crate) fn admit_took(&self, took: Duration) {
        self.admit_ms.observe(millis(took));
    }

    /// Counts a submission: `admitted`, or the code of its refusal.
    pub(crate) fn submitted(&self, outcome: &str) {
        self.submitted.get_or_create(&vec![("outcome", outcome.to_owned())]).inc();
    }

    /// Counts a request that was answered, and the code of its refusal if it was one.
    pub(crate) fn answered(&self, method: String, route: String, status: String, begun: Instant, refused: Option<&str>) {
        self.requests.get_or_create(&vec![("method", method), ("route", route.clone()), ("status", status)]).inc();
        self.duration.get_or_create(&vec![("route", route)]).observe(begun.elapsed().as_secs_f64() * 1000.0);
        if let Some(code) = refused {
            self.refused.get_or_create(&vec![("code", code.to_owned())]).inc();
        }
    }
}

/// Counts every request by its route, never by its path: paths have no bound.
pub(crate) async fn observe(State(metrics): State<GatewayMetrics>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let method = request.method().as_str().to_owned();
    let response = next.run(request).await;
    let status = response.status().as_u16().to_string();
    let refused = response.extensions().get::<RefusedWith>().map(|RefusedWith(code)| code.as_str());
    metrics.answered(method, route, status, begun, refused);
    response
}
