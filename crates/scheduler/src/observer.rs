//! What a term tells of itself: facts become counts, spans and log lines, once they are durable.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use busbar_protocol::busbar::{JobState, admit_answer};
use busbar_protocol::codes::Code;
use busbar_protocol::ids::JobId;
use busbar_protocol::ports::RelayProgress;
use busbar_protocol::time::Timestamp;
use busbar_service::Telemetry;

use crate::admission::Verdict;
use crate::core::cell::Cell;
use crate::core::fact::Fact;
use crate::core::job::{Job, Outcome};
use crate::core::workers::Patience;
use crate::meters::{Board, Meters};
use crate::traces::Traces;

/// What the process lends for telling.
#[derive(Clone, Debug)]
pub(crate) struct Instruments {
    pub(crate) meters: Meters,
    pub(crate) traces: Traces,
}

impl Instruments {
    /// Registers the metrics.
    pub(crate) fn new(telemetry: &Telemetry) -> Self {
        Self { meters: Meters::register(&telemetry.metrics), traces: Traces::new(telemetry.tracer.clone()) }
    }
}

/// Tells of one term, from its beginning until it is dropped.
pub(crate) struct Observer {
    instruments: Instruments,
    board: Board,
    relay: Arc<RelayProgress>,
    /// When the results arrived that were taken in for the next flush, where somebody wants to see it.
    received: BTreeMap<JobId, Instant>,
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.instruments.meters.end();
    }
}

impl Observer {
    pub(crate) fn begin(instruments: Instruments, relay: Arc<RelayProgress>, epoch: u64) -> Self {
        instruments.meters.begin(epoch);
        let board = Board::new(instruments.meters.clone(), Arc::clone(&relay));
        Self { instruments, board, relay, received: BTreeMap::new() }
    }

    pub(crate) const fn instruments(&self) -> &Instruments {
        &self.instruments
    }

    /// A result arrived then.
    pub(crate) fn received(&mut self, job: &JobId, at: Instant) {
        if self.instruments.traces.is_on() {
            self.received.insert(job.clone(), at);
        }
    }

    /// A flush was committed in so much time, with so many entries of the log.
    pub(crate) fn committed(&self, took: Duration, log_entries: usize) {
        self.instruments.meters.committed(took);
        self.relay.written(log_entries);
    }

    /// What became of a submission that arrived then; its job, where it got so far.
    pub(crate) fn answered(&mut self, job: Option<&Job>, verdict: &Verdict, received: Instant) {
        let outcome = match verdict {
            Verdict::Known(admit_answer::Answer::Admitted(_)) => job.and_then(refusal).unwrap_or("admitted"),
            // A problem with a code of nobody's would be our own mistake.
            Verdict::Known(admit_answer::Answer::Rejected(problem)) => {
                Code::parse(&problem.code).unwrap_or(Code::Internal).as_str()
            }
            Verdict::Doubtful(_) => "repeated",
        };
        self.instruments.meters.admission(outcome);
        let Some(job) = job else { return };
        let refused = (!matches!(outcome, "admitted" | "repeated")).then_some(outcome);
        self.instruments.traces.admitted(job, received, refused);
        if refused.is_none() && job.end().is_some() {
            self.ended(job, None, job.created);
        }
    }

    /// When the results arrived that were taken in since the last call.
    pub(crate) fn take_received(&mut self) -> BTreeMap<JobId, Instant> {
        std::mem::take(&mut self.received)
    }

    /// What has become durable. Must be told before jobs that have ended leave the cell.
    pub(crate) fn tell(&mut self, facts: Vec<Fact>, received: &BTreeMap<JobId, Instant>, cell: &Cell, now: Timestamp) {
        for fact in facts {
            match fact {
                Fact::Dispatched { job, since } => {
                    let Some(job) = cell.job(&job) else { continue };
                    let waited = now.since(since);
                    self.board.went(&job.topic, cell);
                    self.instruments.meters.dispatched(self.board.topic(&job.topic), waited);
                    self.instruments.traces.dispatched(job, waited);
                }
                Fact::AttemptOver { job, since, again } => {
                    let Some(job) = cell.job(&job) else { continue };
                    let lost = job.last_end.as_ref().is_some_and(|end| again && end.code == Code::WorkerLost.as_str());
                    self.instruments.meters.attempt_over(now.since(since), again, lost);
                }
                Fact::Ended { job } => {
                    if let Some(job) = cell.job(&job) {
                        self.ended(job, received.get(&job.id).copied(), now);
                    }
                }
            }
        }
    }

    fn ended(&mut self, job: &Job, received: Option<Instant>, now: Timestamp) {
        let Some(end) = job.end() else { return };
        let state = end.outcome.state();
        self.instruments.meters.ended(self.board.topic(&job.topic), state, &end.code, now.since(job.created));
        let Job { id, tenant_id, trace_id, topic, attempt, .. } = job;
        if matches!(state, JobState::Failed | JobState::Timeout) {
            let (code, detail) = (&end.code, &end.message);
            tracing::info!(trace_id, job_id = %id, tenant_id, topic, attempt, code, detail, "a dead letter");
        } else {
            tracing::debug!(trace_id, job_id = %id, tenant_id, topic, attempt, state = state.short_name(), "a job has ended");
        }
        self.instruments.traces.ended(job, received, now);
    }

    /// Brings the gauges up to date, if it is time.
    pub(crate) fn look(&mut self, cell: &Cell, patience: &Patience, now: Timestamp) {
        self.board.look(cell, patience, now);
    }
}

/// The code of a submission from the bare bus that was refused: its record is one of a job that failed before it began.
fn refusal(job: &Job) -> Option<&'static str> {
    let end = job.end().filter(|end| end.outcome == Outcome::Failed)?;
    Some(Code::parse(&end.code).unwrap_or(Code::Internal).as_str())
}
