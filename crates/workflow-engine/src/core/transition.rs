//! What may happen to a run, and what follows from it.

use std::collections::BTreeMap;

use busbar_protocol::busbar::{RunEvent, StepChange};
use busbar_protocol::time::Timestamp;
use busbar_rules::expr::Value;
use bytes::Bytes;

use super::draft::Draft;
use super::run::{Done, End, ItemRun, Outcome, Progress, RECORD_VERSION, Run, Spot, StepRun};

/// Bounds that a run must respect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most bytes of values that one run keeps: its input and the outputs of its steps.
    pub values_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { values_bytes_max: 32 << 20 }
    }
}

/// What happens to a run.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Whatever is possible shall happen: at the beginning, and where a pass stopped early.
    Proceed,
    /// A job of it is over.
    JobOver {
        /// Where.
        spot: Spot,
        /// The job.
        job_id: String,
        /// How.
        outcome: JobOutcome,
    },
    /// Time has passed.
    Tick,
    /// Somebody wants it to start nothing more for now.
    PauseAsked,
    /// Somebody wants it to go on.
    ResumeAsked,
    /// Somebody wants it to end.
    CancelAsked {
        /// Why.
        reason: String,
        /// Who.
        requested_by: String,
    },
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq)]
pub enum JobOutcome {
    /// It succeeded.
    Succeeded {
        /// Its result.
        output: Value,
        /// Size of the result.
        bytes: u64,
        /// Where the result stands.
        key: String,
        /// By whom, and in which time.
        done: Done,
    },
    /// It succeeded with a result that is larger than what a run keeps.
    SucceededLarge {
        /// Size of the result.
        bytes: u64,
        /// By whom, and in which time.
        done: Done,
    },
    /// It did not.
    NotSucceeded {
        /// How.
        outcome: Outcome,
        /// A stable code.
        code: String,
        /// What happened.
        message: String,
        /// Whether another job may have more luck.
        retryable: bool,
    },
}

/// Why an event changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// The run has ended.
    #[error("the run has ended")]
    Ended,
    /// It speaks of a job that is not the present one of its step.
    #[error("the job is not the present one of its step")]
    Stale,
    /// It is decided already how the run ends.
    #[error("the run is ending")]
    Ending,
    /// Everything is already as it would be.
    #[error("nothing changes")]
    Unchanged,
}

/// A job that has to be submitted, now that its attempt is durable.
#[derive(Clone, Debug, PartialEq)]
pub struct Submission {
    /// Where it belongs.
    pub spot: Spot,
    /// The job.
    pub job_id: String,
    /// Its topic.
    pub topic: String,
    /// Its input as JSON.
    pub input: Bytes,
    /// Labels that say where it goes.
    pub place: BTreeMap<String, String>,
}

/// A value that must stand in the store before the change that speaks of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Staged {
    /// Where.
    pub key: String,
    /// The JSON.
    pub value: Bytes,
}

/// What follows from an event.
#[derive(Debug, Default)]
pub struct Transition {
    /// How far the run has come then, if that changes.
    pub progress: Option<Progress>,
    /// Steps that change, by place.
    pub steps: BTreeMap<usize, StepRun>,
    /// Items that change.
    pub items: BTreeMap<(usize, u32), ItemRun>,
    /// What the log tells, in order.
    pub changes: Vec<StepChange>,
    /// Values to be written before.
    pub staged: Vec<Staged>,
    /// Results of jobs that become outputs: from, to.
    pub kept: Vec<(String, String)>,
    /// Jobs to be submitted after.
    pub submit: Vec<Submission>,
    /// Jobs to be cancelled after.
    pub cancel: Vec<String>,
    /// Bytes of values that the run keeps from then on, beside those before.
    pub values_bytes: u64,
    /// More was possible than one transition does: the next one goes on.
    pub stopped_early: bool,
}

/// Decides what follows.
///
/// # Errors
/// [`Rejected`] when nothing does.
pub fn decide(run: &Run, event: &Event, limits: &Limits, now: Timestamp) -> Result<Transition, Rejected> {
    if run.is_over() {
        return Err(Rejected::Ended);
    }
    let mut draft = Draft::new(run, *limits, now);
    match event {
        Event::Proceed => {}
        Event::JobOver { spot, job_id, outcome } => draft.job_over(*spot, job_id, outcome)?,
        Event::Tick => draft.tick(),
        Event::PauseAsked => draft.pause()?,
        Event::ResumeAsked => draft.resume()?,
        Event::CancelAsked { reason, requested_by } => draft.cancel(reason, requested_by)?,
    }
    draft.advance();
    if draft.next.progress.is_none() && draft.next.steps.is_empty() && draft.next.items.is_empty() {
        return Err(Rejected::Unchanged);
    }
    Ok(draft.next)
}

/// The submission of an attempt that is out, made again from what the run is.
///
/// # Errors
/// Says why it cannot be made, which it could when the attempt began.
pub fn submission(run: &Run, spot: Spot, attempt: u32) -> Result<Option<Submission>, String> {
    Draft::new(run, Limits::default(), run.updated).submission(spot, attempt).transpose()
}

impl Run {
    /// Makes a transition true.
    pub fn follow(&mut self, transition: &Transition, now: Timestamp) {
        for (place, step) in &transition.steps {
            self.steps[*place] = step.clone();
            self.note_active(Spot { step: *place, item: None }, matches!(step, StepRun::Trying(_)));
        }
        for (key, item) in &transition.items {
            self.items.insert(*key, item.clone());
            self.note_active(Spot { step: key.0, item: Some(key.1) }, matches!(item, ItemRun::Trying(_)));
        }
        if let Some(progress) = &transition.progress {
            self.progress = progress.clone();
        }
        self.values_bytes += transition.values_bytes;
        self.updated = now;
    }

    fn note_active(&mut self, spot: Spot, active: bool) {
        if active {
            self.active.insert(spot);
        } else {
            self.active.remove(&spot);
        }
    }

    /// What the log tells of these changes.
    #[must_use]
    pub fn event(&self, changes: Vec<StepChange>, at: Timestamp) -> RunEvent {
        RunEvent {
            version: RECORD_VERSION,
            run_id: self.head.id.clone(),
            tenant_id: self.head.tenant_id.clone(),
            workflow_id: self.head.workflow_id.clone(),
            trace_id: self.head.trace_id.clone(),
            at_ms: at.millis(),
            state: self.progress.state().into(),
            ending: self.progress.end().map(End::to_record),
            changes,
        }
    }
}
