//! Spans over OTLP: a batch that is sent to a collector every second, from a thread of its own.
//!
//! What the collector does not take in time is dropped: no work waits for those who watch it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use busbar_protocol::ports::{Span, SpanKind, SpanSink, SpanValue, Tracer};
use opentelemetry::trace::{SpanContext, SpanId, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanLinks, SpanProcessor as _};
use serde::{Deserialize, Serialize};

use super::{Process, TelemetryError};

/// How long a batch gathers at most.
const BATCH_EVERY: Duration = Duration::from_secs(1);
/// How many spans wait at most; further ones are dropped.
const QUEUE_MAX: usize = 16 * 1024;
/// How many spans go into one message.
const BATCH_MAX: usize = 512;
/// How long the collector may take for a message, and the last messages at the end of the process.
const SEND_WITHIN: Duration = Duration::from_secs(3);

/// Where spans go: a part of a service's configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TraceConfig {
    /// The collector, `http://host:4317` (OTLP over gRPC); none means that no spans are told.
    pub otlp_endpoint: Option<String>,
    /// Which share of the traces that begin with us is told, 0 to 1. Who sends a `traceparent` has decided it himself.
    pub sample_ratio: f64,
}

impl Default for TraceConfig {
    fn default() -> Self {
        Self { otlp_endpoint: None, sample_ratio: 1.0 }
    }
}

impl TraceConfig {
    /// Refuses values that cannot be meant.
    ///
    /// # Errors
    /// [`TelemetryError::Traces`].
    pub fn check(&self) -> Result<(), TelemetryError> {
        let refuse = |detail: String| Err(TelemetryError::Traces { detail });
        if !(0.0..=1.0).contains(&self.sample_ratio) {
            return refuse(format!("the sample ratio {} is not between 0 and 1", self.sample_ratio));
        }
        match &self.otlp_endpoint {
            Some(url) if !url.starts_with("http://") => {
                refuse(format!("{url:?}: http://host:4317 is wanted; for TLS run a collector beside the process"))
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// The ways to the collector of all roles of a process.
#[derive(Debug, Default)]
pub struct SpanExport {
    ways: Vec<Arc<Way>>,
}

impl SpanExport {
    /// The tracer of a role, which is off when there is no collector. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`TelemetryError::Traces`]. That the collector is away is no error.
    pub fn tracer(&mut self, config: &TraceConfig, process: Process) -> Result<Tracer, TelemetryError> {
        config.check()?;
        let Some(endpoint) = &config.otlp_endpoint else { return Ok(Tracer::off()) };
        let way = Arc::new(Way::open(endpoint, process)?);
        self.ways.push(Arc::clone(&way));
        Ok(Tracer::new(way, config.sample_ratio))
    }

    /// Sends what is left. Afterwards nothing is told any more.
    pub async fn finish(self) {
        let ended = tokio::task::spawn_blocking(move || {
            std::thread::scope(|scope| {
                for way in &self.ways {
                    scope.spawn(|| way.processor.shutdown_with_timeout(SEND_WITHIN));
                }
            });
        });
        if ended.await.is_err() {
            tracing::debug!("the last spans were not sent");
        }
    }
}

/// One role's way to the collector.
struct Way {
    processor: BatchSpanProcessor,
    scope: InstrumentationScope,
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Way").finish_non_exhaustive()
    }
}

impl Way {
    fn open(endpoint: &str, process: Process) -> Result<Self, TelemetryError> {
        let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint).with_timeout(SEND_WITHIN).build();
        let exporter = exporter.map_err(|error| TelemetryError::Traces { detail: error.to_string() })?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE_MAX)
            .with_max_export_batch_size(BATCH_MAX)
            .with_scheduled_delay(BATCH_EVERY);
        let mut processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches.build()).build();
        let resource = Resource::builder()
            .with_service_name(format!("busbar-{}", process.role))
            .with_attribute(KeyValue::new("service.version", process.version))
            .with_attribute(KeyValue::new("process.pid", i64::from(std::process::id())));
        processor.set_resource(&resource.build());
        Ok(Self { processor, scope: InstrumentationScope::builder("busbar").with_version(process.version).build() })
    }
}

impl SpanSink for Way {
    fn take(&self, span: Span) {
        self.processor.on_end(data(span, self.scope.clone()));
    }
}

/// A span as the library wants it.
fn data(span: Span, instrumentation_scope: InstrumentationScope) -> SpanData {
    let id = |bytes: Option<[u8; 8]>| bytes.map_or(SpanId::INVALID, SpanId::from_bytes);
    let trace = TraceId::from_bytes(span.context.trace());
    let context = SpanContext::new(trace, id(span.context.span()), TraceFlags::SAMPLED, false, TraceState::default());
    let value = |(name, value): (&'static str, SpanValue)| match value {
        SpanValue::Text(text) => KeyValue::new(name, text),
        SpanValue::Number(number) => KeyValue::new(name, number),
    };
    SpanData {
        span_context: context,
        parent_span_id: id(span.parent.span()),
        parent_span_is_remote: matches!(span.kind, SpanKind::Server | SpanKind::Consumer),
        span_kind: match span.kind {
            SpanKind::Server => opentelemetry::trace::SpanKind::Server,
            SpanKind::Producer => opentelemetry::trace::SpanKind::Producer,
            SpanKind::Consumer => opentelemetry::trace::SpanKind::Consumer,
            SpanKind::Internal => opentelemetry::trace::SpanKind::Internal,
        },
        name: span.name,
        start_time: span.started,
        end_time: span.ended,
        attributes: span.attributes.into_iter().map(value).collect(),
        dropped_attributes_count: 0,
        events: opentelemetry_sdk::trace::SpanEvents::default(),
        links: SpanLinks::default(),
        status: span.failure.map_or(Status::Unset, Status::error),
        instrumentation_scope,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROCESS: Process = Process { role: "test", version: "0" };

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let endpoint = |url: &str| TraceConfig { otlp_endpoint: Some(url.to_owned()), ..TraceConfig::default() };
        assert!(endpoint("http://collector:4317").check().is_ok());
        for bad in [endpoint("https://collector:4317"), endpoint("collector:4317")] {
            assert!(matches!(bad.check(), Err(TelemetryError::Traces { .. })), "{bad:?}");
        }
        for sample_ratio in [-0.1, 1.1, f64::NAN] {
            assert!(TraceConfig { sample_ratio, ..TraceConfig::default() }.check().is_err(), "{sample_ratio}");
        }
    }

    #[tokio::test]
    async fn without_a_collector_it_is_off_and_a_lost_one_holds_up_nobody() {
        let mut export = SpanExport::default();
        assert!(!export.tracer(&TraceConfig::default(), PROCESS).expect("good").is_on());
        // Nobody listens on port 1.
        let config = TraceConfig { otlp_endpoint: Some("http://127.0.0.1:1".into()), ..TraceConfig::default() };
        let tracer = export.tracer(&config, PROCESS).expect("good");
        let root = tracer.begin();
        tracer.tell(Span::over("x", SpanKind::Internal, root, root.child("x"), std::time::SystemTime::now()));
        export.finish().await;
    }
}
