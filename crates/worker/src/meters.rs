//! What the worker counts, and its health server.

use std::future::Future;
use std::time::{Duration, Instant};

use busbar_sandbox::Usage;
use busbar_sdk::{Code, Failure, Worker};
use busbar_service::telemetry::{Connections, Counter, Counters, Gauge, Histogram, millis};
use busbar_service::{HealthServer, Metrics, Readiness, Shutdown};
use bytes::Bytes;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::failure::Fatal;

/// How often the connections are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How an attempt can end.
const OUTCOMES: [&str; 4] = ["succeeded", "failed", "retryable", "cancelled"];
/// The limits that can end a guest.
const LIMITS: [Code; 9] = [
    Code::LimitMemory,
    Code::LimitCpu,
    Code::LimitWall,
    Code::LimitOutput,
    Code::LimitTables,
    Code::LimitStack,
    Code::LimitHandles,
    Code::LimitRandom,
    Code::LimitFuel,
];

/// The metrics. Clones are the same ones.
#[derive(Clone, Debug)]
pub(crate) struct Meters {
    running: Gauge,
    attempts: Counters,
    attempt_ms: Histogram,
    guests: Counter,
    guest_cpu_ms: Histogram,
    guest_wall_ms: Histogram,
    guest_memory_bytes: Histogram,
    guest_kills: Counters,
}

impl Meters {
    pub(crate) fn register(metrics: &Metrics, slots: usize) -> Self {
        metrics.gauge("worker_slots", "Attempts that run at once at most").set(i64::try_from(slots).unwrap_or(i64::MAX));
        let meters = Self {
            running: metrics.gauge("worker_attempts_running", "Attempts that run now"),
            attempts: metrics.counters("worker_attempts", "Attempts that ended, by outcome"),
            attempt_ms: metrics.histogram_ms("worker_attempt_ms", "How long the handler of an attempt ran"),
            guests: metrics.counter("worker_guests", "Guests that ran"),
            guest_cpu_ms: metrics.histogram_ms("worker_guest_cpu_ms", "Processor time of a guest"),
            guest_wall_ms: metrics.histogram_ms("worker_guest_wall_ms", "Time of a guest from start to end"),
            guest_memory_bytes: metrics.histogram_bytes("worker_guest_memory_bytes", "The largest memory of a guest"),
            guest_kills: metrics.counters("worker_guest_kills", "Guests that were ended by a limit"),
        };
        for outcome in OUTCOMES {
            let _ = meters.attempts.get_or_create(&vec![("outcome", outcome.to_owned())]);
        }
        for limit in LIMITS {
            let _ = meters.guest_kills.get_or_create(&vec![("limit", limit.as_str().to_owned())]);
        }
        meters
    }

    /// Counts an attempt around its work.
    pub(crate) async fn attempt(self, work: impl Future<Output = Result<Bytes, Failure>>) -> Result<Bytes, Failure> {
        let _running = Running::begin(&self.running);
        let begun = Instant::now();
        let result = work.await;
        self.attempt_ms.observe(millis(begun.elapsed()));
        let outcome = match &result {
            Ok(_) => "succeeded",
            Err(failure) if failure.code == Code::Cancelled.as_str() => "cancelled",
            Err(failure) if failure.retryable => "retryable",
            Err(_) => "failed",
        };
        self.attempts.get_or_create(&vec![("outcome", outcome.to_owned())]).inc();
        result
    }

    /// Counts a guest; `code` says how it failed, if it did.
    pub(crate) fn guest(&self, usage: &Usage, code: Option<Code>) {
        self.guests.inc();
        self.guest_cpu_ms.observe(millis(usage.cpu));
        self.guest_wall_ms.observe(millis(usage.wall));
        // A memory has far fewer bytes than a float counts exactly.
        self.guest_memory_bytes.observe(usage.memory_bytes_peak as f64);
        if let Some(limit) = code.filter(|code| LIMITS.contains(code)) {
            self.guest_kills.get_or_create(&vec![("limit", limit.as_str().to_owned())]).inc();
        }
    }
}

/// One more runs, until this is dropped: a cancelled attempt is dropped where it stands.
struct Running(Gauge);

impl Running {
    fn begin(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Answers `/healthz`, `/readyz` and `/metrics` until it is dropped.
pub(crate) struct Health {
    readiness: Readiness,
    looking: CancellationToken,
    _ends: (DropGuard, EndServer),
}

struct EndServer(Shutdown);

impl Drop for EndServer {
    fn drop(&mut self) {
        self.0.trigger();
    }
}

impl Health {
    /// Listens; the worker is not ready before it is connected.
    pub(crate) async fn start(address: std::net::SocketAddr, metrics: Metrics) -> Result<Self, Fatal> {
        let server = HealthServer::bind(address).await.map_err(|source| Fatal::Listen { address, source })?;
        tracing::info!(address = %server.address(), "healthz, readyz and metrics");
        let (readiness, shutdown) = (Readiness::new(), Shutdown::new());
        readiness.set("connected", false);
        tokio::spawn(server.run(readiness.clone(), metrics, shutdown.clone()));
        let looking = CancellationToken::new();
        let ends = (looking.clone().drop_guard(), EndServer(shutdown));
        Ok(Self { readiness, looking, _ends: ends })
    }

    /// Looks at the connections of the worker from now on.
    pub(crate) fn look(&self, worker: &Worker, metrics: &Metrics) {
        let (readiness, looking) = (self.readiness.clone(), self.looking.clone());
        let (connection, store) = (worker.connection(), worker.records());
        let told = Connections::register(metrics, "worker");
        tokio::spawn(async move {
            while !looking.is_cancelled() {
                let now = *connection.borrow();
                told.bus(now.connected, now.generation);
                let asked = Instant::now();
                let answered = matches!(tokio::time::timeout(LOOK_EVERY, store.ping()).await, Ok(Ok(())));
                told.store(answered.then(|| asked.elapsed()));
                readiness.set("bus", now.connected);
                readiness.set("store", answered);
                readiness.set("connected", true);
                tokio::select! {
                    () = looking.cancelled() => {}
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_end_is_counted_and_nothing_keeps_running() {
        let metrics = Metrics::new();
        let meters = Meters::register(&metrics, 3);
        let ends = [
            Ok(Bytes::from_static(b"1")),
            Err(Failure::of(Code::GuestTrap, "x")),
            Err(Failure::retry("later")),
            Err(Failure::cancelled()),
        ];
        for end in ends {
            let _ = meters.clone().attempt(std::future::ready(end)).await;
        }
        drop(meters.clone().attempt(std::future::pending()));
        meters.guest(&Usage { memory_bytes_peak: 65_536, ..Usage::default() }, Some(Code::LimitCpu));
        let text = metrics.render();
        for outcome in OUTCOMES {
            assert!(text.contains(&format!("busbar_worker_attempts_total{{outcome=\"{outcome}\"}} 1\n")), "{outcome} in {text}");
        }
        for line in ["busbar_worker_attempts_running 0\n", "busbar_worker_guest_kills_total{limit=\"limit_cpu\"} 1\n"] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
