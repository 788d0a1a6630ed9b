//! What the engine counts, and the span that it tells of each run.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use busbar_protocol::busbar::RunState;
use busbar_protocol::ports::{Span, SpanKind, Tracer, ago};
use busbar_protocol::time::Timestamp;
use busbar_service::Telemetry;
use busbar_service::telemetry::{Capped, Counter, Counters, Gauge, Histogram, OTHER, millis};

use crate::core::request::place_of;
use crate::core::run::Run;

/// How many workflows have series of their own.
const NAMES_MAX: usize = 200;
/// How runs end.
const ENDS: [RunState; 4] = [RunState::Succeeded, RunState::Failed, RunState::Cancelled, RunState::Timeout];

/// The metrics. Clones are the same ones.
#[derive(Clone, Debug)]
pub(crate) struct Meters {
    active: Gauge,
    epoch: Gauge,
    runs: Gauge,
    jobs_out: Gauge,
    runs_started: Counter,
    runs_ended: Counters,
    jobs_submitted: Counter,
    run_ms: Histogram,
    commit_ms: Histogram,
    relay_lag_entries: Gauge,
    relay_lag_ms: Gauge,
    relay_ms: Histogram,
    names: Arc<Mutex<Capped>>,
    tracer: Tracer,
}

impl Meters {
    /// Registers the metrics.
    pub(crate) fn register(telemetry: &Telemetry) -> Self {
        let metrics = &telemetry.metrics;
        let meters = Self {
            active: metrics.gauge("engine_active", "Whether this replica is the active one of its cell: 1 or 0"),
            epoch: metrics.gauge("engine_epoch", "The epoch under which this replica is or was last active"),
            runs: metrics.gauge("engine_runs", "Live runs"),
            jobs_out: metrics.gauge("engine_jobs_out", "Jobs of live runs that are not over"),
            runs_started: metrics.counter("engine_runs_started", "Runs that were started"),
            runs_ended: metrics.counters("engine_runs_ended", "Runs that ended, by workflow and state"),
            jobs_submitted: metrics.counter("engine_jobs_submitted", "Jobs that were submitted for steps, repetitions included"),
            run_ms: metrics.histogram_ms("engine_run_ms", "From the start of a run to its end"),
            commit_ms: metrics.histogram_ms("engine_commit_ms", "Time of one turn's commit"),
            relay_lag_entries: metrics.gauge("engine_relay_lag_entries", "Entries of the log that were not told yet"),
            relay_lag_ms: metrics.gauge("engine_relay_lag_ms", "How far the relay is behind the log"),
            relay_ms: metrics.histogram_ms("engine_relay_ms", "From the writing of a log entry to its telling"),
            names: Arc::new(Mutex::new(Capped::new(NAMES_MAX))),
            tracer: telemetry.tracer.clone(),
        };
        // A series that begins with its first event hides that event from rates.
        for state in ENDS {
            let _ = meters.runs_ended.get_or_create(&labels(OTHER, state));
        }
        meters
    }

    /// A term begins.
    pub(crate) fn begin(&self, epoch: u64) {
        self.active.set(1);
        self.epoch.set(i64::try_from(epoch).unwrap_or(i64::MAX));
    }

    /// A term has ended: what only the active replica knows is known no more.
    pub(crate) fn end(&self) {
        for gauge in [&self.active, &self.runs, &self.jobs_out, &self.relay_lag_entries, &self.relay_lag_ms] {
            gauge.set(0);
        }
    }

    /// A turn was committed.
    pub(crate) fn committed(&self, since: Instant, runs: usize, jobs_out: usize) {
        self.commit_ms.observe(millis(since.elapsed()));
        self.runs.set(i64::try_from(runs).unwrap_or(i64::MAX));
        self.jobs_out.set(i64::try_from(jobs_out).unwrap_or(i64::MAX));
    }

    /// The relay has told an entry that was written so long ago.
    pub(crate) fn relayed(&self, after: Duration) {
        self.relay_ms.observe(millis(after));
    }

    /// How many entries, and how much time, lie between the log and what was told of it.
    pub(crate) fn relay(&self, (entries, behind): (u64, Duration)) {
        self.relay_lag_entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
        self.relay_lag_ms.set(i64::try_from(behind.as_millis()).unwrap_or(i64::MAX));
    }

    /// A run was started.
    pub(crate) fn started(&self) {
        self.runs_started.inc();
    }

    /// Jobs are on their way to the scheduler.
    pub(crate) fn submitted(&self, jobs: usize) {
        self.jobs_submitted.inc_by(jobs as u64);
    }

    /// A run has ended, and that is durable.
    pub(crate) fn ended(&self, run: &Run, now: Timestamp) {
        let took = now.since(run.head.created);
        let state = run.progress.state();
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        self.runs_ended.get_or_create(&labels(names.name(&run.head.workflow_id), state)).inc();
        drop(names);
        self.run_ms.observe(millis(took));
        self.tell(run, took);
    }

    fn tell(&self, run: &Run, took: Duration) {
        let head = &run.head;
        let Some(parent) = self.tracer.place(&head.traceparent, &head.trace_id) else { return };
        let span = Span::over("run", SpanKind::Internal, parent, place_of(head, parent), ago(took))
            .text("busbar.run_id", &head.id)
            .text("busbar.workflow_id", &head.workflow_id)
            .text("busbar.tenant_id", &head.tenant_id);
        self.tracer.tell(match run.progress.end() {
            Some(end) => span.failed(end.code.clone()),
            None => span,
        });
    }
}

fn labels(workflow: &str, state: RunState) -> Vec<(&'static str, String)> {
    let state = state.as_str_name().trim_start_matches("RUN_STATE_");
    vec![("workflow", workflow.to_owned()), ("state", state.to_owned())]
}
