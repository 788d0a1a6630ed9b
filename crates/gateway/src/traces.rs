//! The way of a request: its span, and the words that every log line inside it carries.

use std::time::SystemTime;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use busbar_protocol::ids;
use busbar_protocol::ports::{Span, SpanKind, TRACEPARENT, Tracer};
use busbar_protocol::trace::TraceContext;
use tracing::Instrument as _;
use tracing::field::Empty;

/// The client sent no trace of its own: ours begins with its request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BegunHere;

/// Follows a request: what is inside finds in its `traceparent` the place below which it tells.
pub(crate) async fn follow(State(tracer): State<Tracer>, mut request: Request, next: Next) -> Response {
    let started = SystemTime::now();
    let client = of_headers(request.headers());
    let parent = client.unwrap_or_else(|| tracer.begin());
    if client.is_none() {
        request.extensions_mut().insert(BegunHere);
    }
    // A client may ask many things within one span of its own.
    let own = if tracer.is_on() { parent.child(&format!("request {}", ids::generate())) } else { parent };
    if let Ok(value) = HeaderValue::from_str(&own.to_string()) {
        request.headers_mut().insert(TRACEPARENT, value);
    }
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let method = request.method().as_str().to_owned();
    let lines = tracing::error_span!("request", trace_id = own.trace_id(), tenant_id = Empty, job_id = Empty);
    let response = next.run(request).instrument(lines).await;
    if tracer.is_on() {
        let status = response.status();
        let span = Span::over(format!("{method} {route}"), SpanKind::Server, parent, own, started)
            .text("http.request.method", &method)
            .text("http.route", &route)
            .number("http.response.status_code", status.as_u16());
        tracer.tell(if status.is_server_error() { span.failed(status.as_str()) } else { span });
    }
    response
}

/// The trace that a request belongs to; one that is malformed counts as none, as W3C Trace Context demands.
pub(crate) fn of_headers(headers: &HeaderMap) -> Option<TraceContext> {
    headers.get(TRACEPARENT).and_then(|value| value.to_str().ok()).and_then(TraceContext::parse)
}

/// Says in every further log line of the request what it is about.
pub(crate) fn note(field: &'static str, value: &str) {
    tracing::Span::current().record(field, value);
}
