//! What a process tells of itself: log lines, metrics, and spans of the work that passes through it.
//!
//! - *Log lines* go to stderr. Whoever works on a job or a request opens a `tracing` span with `trace_id`, `job_id` and
//!   `tenant_id`; every line inside carries them.
//! - *Metrics* are registered once by each role, under names that begin with it, and served at `/metrics`.
//! - *Spans* are told when they are over, by the port [`Tracer`], and leave through [`SpanExport`] over OTLP.

use busbar_protocol::ports::Tracer;

mod export;
mod log;
mod metrics;

pub use export::{SpanExport, TraceConfig};
pub use log::{DEFAULT_FILTER, LogConfig, LogFormat, init};
pub use metrics::{Capped, Connections, Counters, Gauges, Histograms, Labels, Metrics, OTHER, millis};
pub use prometheus_client::metrics::counter::Counter;
pub use prometheus_client::metrics::gauge::Gauge;
pub use prometheus_client::metrics::histogram::Histogram;

/// What a role tells with.
#[derive(Clone, Debug, Default)]
pub struct Telemetry {
    /// Where it counts.
    pub metrics: Metrics,
    /// Where its spans go.
    pub tracer: Tracer,
}

/// Which program this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its role: `scheduler`, `worker`.
    pub role: &'static str,
    /// Its version.
    pub version: &'static str,
}

/// Why telemetry cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter cannot be read.
    #[error("the log filter {filter:?} cannot be read: {detail}")]
    Filter {
        /// The filter.
        filter: String,
        /// What is wrong with it.
        detail: String,
    },
    /// Somebody else in this process logs already.
    #[error("log lines already go somewhere else: {detail}")]
    Taken {
        /// What the subscriber said.
        detail: String,
    },
    /// Spans cannot be sent as the configuration says.
    #[error("traces: {detail}")]
    Traces {
        /// What is wrong.
        detail: String,
    },
}
