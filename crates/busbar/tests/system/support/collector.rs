//! A small collector of traces: takes spans over OTLP as any collector does, and keeps them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use busbar_rpc::tonic::service::Routes;
use busbar_rpc::tonic::{self, Request, Response, Status};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// A span as it came.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) service: String,
    pub(crate) name: String,
    pub(crate) trace: String,
    pub(crate) id: String,
    /// Empty at the root.
    pub(crate) parent: String,
    /// Nanoseconds since 1970.
    pub(crate) started: u64,
    pub(crate) ended: u64,
    pub(crate) attributes: BTreeMap<String, String>,
    pub(crate) error: Option<String>,
}

/// What has come so far. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Collector {
    spans: Arc<Mutex<Vec<Span>>>,
}

impl Collector {
    /// Listens until the sender is dropped.
    pub(crate) async fn serve(&self, address: SocketAddr) -> std::io::Result<(SocketAddr, oneshot::Sender<()>)> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let routes = Routes::new(TraceServiceServer::new(self.clone()));
        tokio::spawn(busbar_rpc::serve(
            listener,
            routes,
            busbar_rpc::ServeOptions::default(),
            async move { drop(stopped.await) },
        ));
        Ok((address, stop))
    }

    /// Every span that satisfies this, by the time of its beginning.
    pub(crate) fn find(&self, wanted: impl Fn(&Span) -> bool) -> Vec<Span> {
        let all = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found: Vec<Span> = all.iter().filter(|span| wanted(span)).cloned().collect();
        found.sort_by_key(|span| (span.started, span.ended));
        found
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(&self, request: Request<ExportTraceServiceRequest>) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut kept = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        for of_resource in request.into_inner().resource_spans {
            let about = attributes(of_resource.resource.map(|resource| resource.attributes).unwrap_or_default());
            let service = about.get("service.name").cloned().unwrap_or_default();
            let spans = of_resource.scope_spans.into_iter().flat_map(|of_scope| of_scope.spans);
            kept.extend(spans.map(|span| Span {
                service: service.clone(),
                name: span.name,
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                started: span.start_time_unix_nano,
                ended: span.end_time_unix_nano,
                attributes: attributes(span.attributes),
                error: span.status.filter(|status| status.code == 2).map(|status| status.message),
            }));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn attributes(pairs: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: Option<AnyValue>| match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    pairs.into_iter().map(|pair| (pair.key, text(pair.value))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What a tree shows of a span beside its name and times.
const TOLD: &[&str] = &[
    "busbar.attempt",
    "busbar.cpu_ms",
    "busbar.decision",
    "busbar.memory_bytes",
    "busbar.outcome",
    "busbar.state",
    "busbar.topic",
    "busbar.worker_id",
    "http.response.status_code",
];

/// Spans as a tree, with their times in milliseconds from the first beginning.
pub(crate) fn tree(spans: &[Span]) -> String {
    let zero = spans.iter().map(|span| span.started).min().unwrap_or_default();
    let mut text = String::new();
    let roots = spans.iter().filter(|span| !spans.iter().any(|other| other.id == span.parent));
    roots.for_each(|root| branch(spans, root, 0, zero, &mut text));
    text
}

fn branch(spans: &[Span], span: &Span, depth: usize, zero: u64, text: &mut String) {
    let ms = |nanos: u64| nanos.saturating_sub(zero) as f64 / 1e6;
    let label = format!("{}{}", "  ".repeat(depth), span.name);
    let error = span.error.as_ref().map(|error| format!("  !{error}")).unwrap_or_default();
    let _ = write!(text, "{label:<32} {:<22} {:>9.3} .. {:>9.3} ms{error}", span.service, ms(span.started), ms(span.ended));
    for (name, value) in span.attributes.iter().filter(|(name, _)| TOLD.contains(&name.as_str())) {
        let _ = write!(text, "  {}={value}", name.trim_start_matches("busbar."));
    }
    text.push('\n');
    for child in spans.iter().filter(|other| other.parent == span.id) {
        branch(spans, child, depth + 1, zero, text);
    }
}
