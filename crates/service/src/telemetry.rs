//! Log lines and metrics.

use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};
use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

/// What is logged when nothing else is said.
pub const DEFAULT_FILTER: &str = "info";

/// Libraries that say much that is of no use to an operator. What the filter says of them by name wins.
const QUIET: &[&str] = &[
    "async_nats=warn",
    "cranelift_codegen=warn",
    "fred=warn",
    "h2=warn",
    "hyper=warn",
    "hyper_util=warn",
    "tonic=warn",
    "tower=warn",
    "wasmtime=warn",
    "wasmtime_internal_cranelift=warn",
];

/// Upper bounds of the buckets of a histogram of milliseconds.
const MILLISECOND_BUCKETS: [f64; 16] =
    [0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 10e3, 30e3, 60e3];

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What is logged, and how: a part of a service's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// `text` or `json`.
    pub format: LogFormat,
    /// A filter such as `info,busbar_scheduler=debug`.
    pub filter: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::default(), filter: DEFAULT_FILTER.to_owned() }
    }
}

/// Why logging cannot begin.
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
}

/// Begins to log to stderr. The first call in a process counts; later ones change nothing.
///
/// # Errors
/// [`TelemetryError`].
pub fn init(config: &LogConfig) -> Result<(), TelemetryError> {
    static DONE: OnceLock<()> = OnceLock::new();
    let filter = filter(&config.filter)?;
    if DONE.set(()).is_err() {
        return Ok(());
    }
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let begun = match config.format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    begun.map_err(|error| TelemetryError::Taken { detail: error.to_string() })
}

fn filter(text: &str) -> Result<EnvFilter, TelemetryError> {
    // Later directives for the same target win, so ours come first.
    let all = QUIET.iter().copied().chain([text]).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(",");
    EnvFilter::try_new(all).map_err(|error| TelemetryError::Filter { filter: text.to_owned(), detail: error.to_string() })
}

/// Label names and values of one time series.
pub type Labels = Vec<(&'static str, String)>;

/// Counters that differ in their labels.
pub type Counters = Family<Labels, Counter>;

/// Gauges that differ in their labels.
pub type Gauges = Family<Labels, Gauge>;

/// Histograms that differ in their labels.
pub type Histograms = Family<Labels, Histogram, fn() -> Histogram>;

/// The metrics of one process. All clones speak of the same ones. Names get the prefix `busbar_`; registering a name twice
/// gives two series of one name, so each service registers once, at its start.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { registry: Arc::new(Mutex::new(Registry::with_prefix("busbar"))) }
    }
}

impl Metrics {
    /// No metrics yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A number that only rises. Its name gets the suffix `_total`.
    #[must_use]
    pub fn counter(&self, name: &str, help: &str) -> Counter {
        self.register(name, help, Counter::default())
    }

    /// Counters with labels: `counters.get_or_create(&vec![("code", code)]).inc()`.
    #[must_use]
    pub fn counters(&self, name: &str, help: &str) -> Counters {
        self.register(name, help, Counters::default())
    }

    /// A number that rises and falls.
    #[must_use]
    pub fn gauge(&self, name: &str, help: &str) -> Gauge {
        self.register(name, help, Gauge::default())
    }

    /// Gauges with labels.
    #[must_use]
    pub fn gauges(&self, name: &str, help: &str) -> Gauges {
        self.register(name, help, Gauges::default())
    }

    /// How often which duration was seen, in milliseconds; the name should end in `_ms`.
    #[must_use]
    pub fn histogram_ms(&self, name: &str, help: &str) -> Histogram {
        self.register(name, help, milliseconds())
    }

    /// Histograms of milliseconds with labels.
    #[must_use]
    pub fn histograms_ms(&self, name: &str, help: &str) -> Histograms {
        self.register(name, help, Histograms::new_with_constructor(milliseconds))
    }

    /// All metrics in the OpenMetrics text format, which Prometheus reads.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        encode(&mut text, &registry).expect("writing to a string cannot fail");
        text
    }

    fn register<M: Metric + Clone>(&self, name: &str, help: &str, metric: M) -> M {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        registry.register(name, help.trim_end_matches('.'), metric.clone());
        metric
    }
}

fn milliseconds() -> Histogram {
    Histogram::new(MILLISECOND_BUCKETS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_rendered_with_their_labels() {
        let metrics = Metrics::new();
        metrics.counter("jobs_admitted", "Jobs admitted.").inc_by(3);
        metrics.counters("jobs_rejected", "Jobs rejected.").get_or_create(&vec![("code", "no_pool".into())]).inc();
        metrics.gauge("workers", "Workers online.").set(2);
        metrics.histogram_ms("decide_ms", "Time to decide.").observe(3.0);
        let text = metrics.render();
        for line in [
            "# HELP busbar_jobs_admitted Jobs admitted.\n",
            "busbar_jobs_admitted_total 3\n",
            "busbar_jobs_rejected_total{code=\"no_pool\"} 1\n",
            "busbar_workers 2\n",
            "busbar_decide_ms_bucket{le=\"2.0\"} 0\n",
            "busbar_decide_ms_bucket{le=\"5.0\"} 1\n",
            "# EOF\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_an_error() {
        assert!(filter("info,busbar_scheduler=debug").is_ok());
        assert!(matches!(filter("busbar=nonsense"), Err(TelemetryError::Filter { .. })));
    }
}
