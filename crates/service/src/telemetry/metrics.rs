//! Metrics: counters, gauges and histograms of one process, as Prometheus reads them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

/// Upper bounds of the buckets of a histogram of milliseconds.
const MILLISECOND_BUCKETS: [f64; 16] =
    [0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 10e3, 30e3, 60e3];

/// Upper bounds of the buckets of a histogram of bytes: from 64 KiB to 4 GiB.
const BYTE_BUCKETS: [f64; 9] =
    [65_536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0, 67_108_864.0, 268_435_456.0, 1_073_741_824.0, 4_294_967_296.0];

/// What stands for every name beyond the bound of [`Capped`].
pub const OTHER: &str = "other";

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

    /// How often which size was seen, in bytes; the name should end in `_bytes`.
    #[must_use]
    pub fn histogram_bytes(&self, name: &str, help: &str) -> Histogram {
        self.register(name, help, Histogram::new(BYTE_BUCKETS))
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

/// A duration as histograms of milliseconds take it.
#[must_use]
pub fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Names from outside as the values of a label: the first that come have series of their own, all others share one.
#[derive(Clone, Debug)]
pub struct Capped {
    known: BTreeSet<String>,
    max: usize,
}

impl Capped {
    /// At most so many names beside [`OTHER`].
    #[must_use]
    pub const fn new(max: usize) -> Self {
        Self { known: BTreeSet::new(), max }
    }

    /// What stands in the label for this name.
    pub fn name<'a>(&mut self, name: &'a str) -> &'a str {
        if self.known.contains(name) {
            return name;
        }
        if self.known.len() >= self.max {
            return OTHER;
        }
        self.known.insert(name.to_owned());
        name
    }
}

/// What every role says of its connections: `<role>_bus_connected`, `<role>_bus_reconnects`, `<role>_store_up` and
/// `<role>_store_ms`.
#[derive(Clone, Debug)]
pub struct Connections {
    bus_connected: Gauge,
    bus_reconnects: Counter,
    store_up: Gauge,
    store_ms: Histogram,
}

impl Connections {
    /// Registers them for a role, which is the beginning of their names.
    #[must_use]
    pub fn register(metrics: &Metrics, role: &str) -> Self {
        Self {
            bus_connected: metrics.gauge(&format!("{role}_bus_connected"), "Whether the bus is connected: 1 or 0"),
            bus_reconnects: metrics.counter(&format!("{role}_bus_reconnects"), "How often the bus was connected again"),
            store_up: metrics.gauge(&format!("{role}_store_up"), "Whether the store answers: 1 or 0"),
            store_ms: metrics.histogram_ms(&format!("{role}_store_ms"), "Time of one round trip with the store"),
        }
    }

    /// How the bus is; `generation` counts its connections, beginning with 1.
    pub fn bus(&self, connected: bool, generation: u64) {
        self.bus_connected.set(i64::from(connected));
        let told = self.bus_reconnects.get();
        self.bus_reconnects.inc_by(generation.saturating_sub(1).saturating_sub(told));
    }

    /// How long the store took to answer; `None` when it did not.
    pub fn store(&self, took: Option<Duration>) {
        self.store_up.set(i64::from(took.is_some()));
        if let Some(took) = took {
            self.store_ms.observe(millis(took));
        }
    }
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
    fn names_from_outside_have_a_bound() {
        let mut topics = Capped::new(2);
        assert_eq!(["a", "b", "c", "a", "d"].map(|name| topics.name(name)), ["a", "b", OTHER, "a", OTHER]);
    }

    #[test]
    fn reconnects_are_counted_once_each() {
        let metrics = Metrics::new();
        let connections = Connections::register(&metrics, "role");
        for generation in [1, 1, 3, 3] {
            connections.bus(true, generation);
        }
        connections.store(None);
        let text = metrics.render();
        for line in ["busbar_role_bus_connected 1\n", "busbar_role_bus_reconnects_total 2\n", "busbar_role_store_up 0\n"] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
