//! Where a run stands, with exactly what exists in each state.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use busbar_protocol::busbar::{RunEnd, RunState, StepState};
use busbar_protocol::keys;
use busbar_protocol::time::Timestamp;
use busbar_rules::expr::Value;

use super::workflow::Workflow;

/// The version of the packed forms that this code writes.
pub const RECORD_VERSION: u32 = 1;

/// A run, whole.
#[derive(Clone, Debug)]
pub struct Run {
    /// What does not change.
    pub head: Arc<Head>,
    /// The workflow to which it is pinned.
    pub workflow: Arc<Workflow>,
    /// Its input.
    pub input: Value,
    /// How far it has come.
    pub progress: Progress,
    /// Its steps, by their places in the workflow.
    pub steps: Vec<StepRun>,
    /// The items of `for_each` steps that have been started.
    pub items: BTreeMap<(usize, u32), ItemRun>,
    /// What waits or is out: what time and jobs can change.
    pub active: BTreeSet<Spot>,
    /// Bytes of the values that it keeps.
    pub values_bytes: u64,
    /// When it last changed.
    pub updated: Timestamp,
}

/// What does not change in the life of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Names it: a UUID.
    pub id: String,
    /// Whose it is.
    pub tenant_id: String,
    /// The workflow.
    pub workflow_id: String,
    /// Whose the workflow is; empty for a pack's.
    pub workflow_tenant_id: String,
    /// The version of the workflow.
    pub workflow_version: u32,
    /// The trace that it belongs to.
    pub trace_id: String,
    /// W3C trace context of the start, or empty.
    pub traceparent: String,
    /// Who started it.
    pub requested_by: String,
    /// The key that makes its start happen once, or empty.
    pub idempotency_key: String,
    /// Its labels; its jobs carry them as well.
    pub labels: BTreeMap<String, String>,
    /// When it was started.
    pub created: Timestamp,
    /// Size of its input.
    pub input_bytes: u64,
    /// When it is given up.
    pub deadline: Option<Timestamp>,
}

/// How far a run has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It goes on.
    Running,
    /// It starts nothing more for now.
    Paused,
    /// It is decided how it ends; attempts are still out.
    Ending(End),
    /// It has ended.
    Ended {
        /// How; none for a run that succeeded.
        end: Option<End>,
        /// When.
        at: Timestamp,
        /// Size of its output; 0 where there is none.
        output_bytes: u64,
    },
}

/// Why a run does not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// How it ends.
    pub outcome: EndOutcome,
    /// A stable code.
    pub code: String,
    /// What happened, for people.
    pub message: String,
    /// The step that decided it, or empty.
    pub step_id: String,
}

/// How a run that does not succeed ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndOutcome {
    /// A step did not succeed.
    Failed,
    /// Somebody wanted it.
    Cancelled,
    /// It took too long.
    Timeout,
}

/// Where a step stands.
#[derive(Clone, Debug, PartialEq)]
pub enum StepRun {
    /// It waits for the steps before it.
    Idle,
    /// Its job waits or is out.
    Trying(Try),
    /// A `for_each` step goes over its items.
    Fan(Fan),
    /// It is over.
    Over(Over),
}

/// Where an item of a `for_each` step stands.
#[derive(Clone, Debug, PartialEq)]
pub enum ItemRun {
    /// Its job waits or is out.
    Trying(Try),
    /// It is over.
    Over(Over),
}

/// One attempt to get something done by a job.
#[derive(Clone, Debug, PartialEq)]
pub struct Try {
    /// Jobs so far, this one included.
    pub attempt: u32,
    /// When the first attempt began.
    pub started: Timestamp,
    /// Where it stands.
    pub state: TryState,
}

/// Where an attempt stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TryState {
    /// Its job is submitted at this time.
    Waiting {
        /// When.
        until: Timestamp,
    },
    /// Its job is with the scheduler, or on its way there.
    Out,
}

/// A `for_each` step at work.
#[derive(Clone, Debug, PartialEq)]
pub struct Fan {
    /// What it goes over.
    pub list: Value,
    /// When it began.
    pub started: Timestamp,
    /// How far it has come.
    pub counts: Counts,
    /// The first item that did not succeed: its code and what happened.
    pub failure: Option<(String, String)>,
}

/// How far a `for_each` step has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Items in all.
    pub total: u32,
    /// Items that have been started.
    pub next: u32,
    /// Items that succeeded.
    pub succeeded: u32,
    /// Items that are over and did not succeed.
    pub failed: u32,
}

impl Counts {
    /// Items that wait or are out.
    #[must_use]
    pub const fn active(self) -> u32 {
        self.next.saturating_sub(self.succeeded + self.failed)
    }
}

/// The end of a step or item.
#[derive(Clone, Debug, PartialEq)]
pub struct Over {
    /// How.
    pub outcome: Outcome,
    /// When it began.
    pub started: Timestamp,
    /// When it was over.
    pub at: Timestamp,
    /// Jobs that were submitted for it.
    pub attempt: u32,
    /// A stable code, or empty.
    pub code: String,
    /// What happened, or empty.
    pub message: String,
    /// What it gave; null where it gave nothing.
    pub output: Value,
    /// Size of the output; 0 where there is none.
    pub output_bytes: u64,
    /// By whom it was done, and in which time.
    pub done: Done,
    /// Of a `for_each` step.
    pub counts: Option<Counts>,
}

/// By whom something was done, and in which time: null where no job did it, lists where many did.
#[derive(Clone, Debug, PartialEq)]
pub struct Done {
    /// The worker: its id.
    pub worker: Value,
    /// What the worker says that it took, in milliseconds.
    pub execution_ms: Value,
}

impl Default for Done {
    fn default() -> Self {
        Self { worker: Value::null(), execution_ms: Value::null() }
    }
}

impl Done {
    /// One job was done by this worker in this time.
    #[must_use]
    pub fn by(worker_id: &str, execution_ms: u64) -> Self {
        if worker_id.is_empty() {
            return Self::default();
        }
        Self { worker: Value::text(worker_id), execution_ms: Value::from_json(&execution_ms.into()) }
    }
}

/// How a step or item ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It did what it should.
    Succeeded,
    /// It did not.
    Failed,
    /// The run ended before it.
    Cancelled,
    /// Its last attempt took too long.
    Timeout,
    /// Its condition was false, or what it depends on was skipped.
    Skipped,
}

/// A step, or one item of a `for_each` step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Spot {
    /// The step's place in the workflow.
    pub step: usize,
    /// The item, counted from 0.
    pub item: Option<u32>,
}

impl Outcome {
    /// As the wire names it.
    #[must_use]
    pub const fn state(self) -> StepState {
        match self {
            Self::Succeeded => StepState::Succeeded,
            Self::Failed => StepState::Failed,
            Self::Cancelled => StepState::Cancelled,
            Self::Timeout => StepState::Timeout,
            Self::Skipped => StepState::Skipped,
        }
    }

    pub(super) fn of_state(state: StepState) -> Option<Self> {
        match state {
            StepState::Succeeded => Some(Self::Succeeded),
            StepState::Failed => Some(Self::Failed),
            StepState::Cancelled => Some(Self::Cancelled),
            StepState::Timeout => Some(Self::Timeout),
            StepState::Skipped => Some(Self::Skipped),
            StepState::Unspecified | StepState::Waiting | StepState::Running => None,
        }
    }
}

impl EndOutcome {
    /// As the wire names it.
    #[must_use]
    pub const fn state(self) -> RunState {
        match self {
            Self::Failed => RunState::Failed,
            Self::Cancelled => RunState::Cancelled,
            Self::Timeout => RunState::Timeout,
        }
    }
}

impl End {
    /// The packed form.
    #[must_use]
    pub fn to_record(&self) -> RunEnd {
        RunEnd {
            state: self.outcome.state().into(),
            error_code: self.code.clone(),
            error_message: self.message.clone(),
            step_id: self.step_id.clone(),
        }
    }

    pub(super) fn from_record(record: RunEnd) -> Option<Self> {
        let outcome = match record.state() {
            RunState::Failed => EndOutcome::Failed,
            RunState::Cancelled => EndOutcome::Cancelled,
            RunState::Timeout => EndOutcome::Timeout,
            RunState::Unspecified | RunState::Running | RunState::Paused | RunState::Succeeded => return None,
        };
        Some(Self { outcome, code: record.error_code, message: record.error_message, step_id: record.step_id })
    }
}

impl Progress {
    /// Whether it is still open how the run ends.
    #[must_use]
    pub const fn is_undecided(&self) -> bool {
        match self {
            Self::Running | Self::Paused => true,
            Self::Ending(_) | Self::Ended { .. } => false,
        }
    }

    /// As the wire names it.
    #[must_use]
    pub fn state(&self) -> RunState {
        match self {
            Self::Running | Self::Ending(_) => RunState::Running,
            Self::Paused => RunState::Paused,
            Self::Ended { end: None, .. } => RunState::Succeeded,
            Self::Ended { end: Some(end), .. } => end.outcome.state(),
        }
    }

    /// Why it does not succeed, once that is decided.
    #[must_use]
    pub const fn end(&self) -> Option<&End> {
        match self {
            Self::Running | Self::Paused => None,
            Self::Ending(end) => Some(end),
            Self::Ended { end, .. } => end.as_ref(),
        }
    }
}

impl Run {
    /// A run that begins.
    #[must_use]
    pub fn new(head: Head, workflow: Arc<Workflow>, input: Value) -> Self {
        Self {
            steps: vec![StepRun::Idle; workflow.steps.len()],
            updated: head.created,
            values_bytes: head.input_bytes,
            head: Arc::new(head),
            workflow,
            input,
            progress: Progress::Running,
            items: BTreeMap::new(),
            active: BTreeSet::new(),
        }
    }

    /// Whether it has ended.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self.progress, Progress::Ended { .. })
    }

    /// The attempt at a spot.
    #[must_use]
    pub fn attempt_at(&self, spot: Spot) -> Option<&Try> {
        match spot.item {
            None => match self.steps.get(spot.step)? {
                StepRun::Trying(at) => Some(at),
                StepRun::Idle | StepRun::Fan(_) | StepRun::Over(_) => None,
            },
            Some(item) => match self.items.get(&(spot.step, item))? {
                ItemRun::Trying(at) => Some(at),
                ItemRun::Over(_) => None,
            },
        }
    }

    /// The identifier of the job of an attempt.
    #[must_use]
    pub fn job_id(&self, spot: Spot, attempt: u32) -> String {
        let name = self.name_of(spot);
        format!("{}:{name}@{attempt}", self.head.id)
    }

    /// A spot as people read it: `map` or `map[3]`.
    #[must_use]
    pub fn name_of(&self, spot: Spot) -> SpotName<'_> {
        SpotName { step_id: self.workflow.steps.get(spot.step).map_or("", |step| &step.id), item: spot.item }
    }

    /// The job that is out for a spot.
    #[must_use]
    pub fn job_out(&self, spot: Spot) -> Option<String> {
        let at = self.attempt_at(spot)?;
        matches!(at.state, TryState::Out).then(|| self.job_id(spot, at.attempt))
    }

    /// Jobs that are out, with their spots.
    pub fn jobs_out(&self) -> impl Iterator<Item = (Spot, String)> + '_ {
        self.active.iter().filter_map(|spot| Some((*spot, self.job_out(*spot)?)))
    }

    /// The outputs of a `for_each` step's items, and by whom they were done, once all of them are over.
    #[must_use]
    pub fn collected(&self, step: usize, total: u32) -> (Value, Done) {
        collected(total, |item| self.items.get(&(step, item)))
    }

    /// When time changes something, if it does.
    #[must_use]
    pub fn next_timer(&self) -> Option<Timestamp> {
        let waits = self.active.iter().filter_map(|spot| match self.attempt_at(*spot)?.state {
            TryState::Waiting { until } => Some(until),
            TryState::Out => None,
        });
        let deadline = self.progress.is_undecided().then_some(self.head.deadline).flatten();
        let waits = waits.filter(|_| !matches!(self.progress, Progress::Paused));
        waits.chain(deadline).min()
    }
}

/// The outputs of items, and by whom they were done: null where an item did not succeed.
pub(super) fn collected<'a>(total: u32, item: impl Fn(u32) -> Option<&'a ItemRun>) -> (Value, Done) {
    let nothing = Done::default();
    let all: Vec<(Value, &Done)> = (0..total)
        .map(|index| match item(index) {
            Some(ItemRun::Over(over)) => (over.output.clone(), &over.done),
            Some(ItemRun::Trying(_)) | None => (Value::null(), &nothing),
        })
        .collect();
    let done = Done {
        worker: Value::list(all.iter().map(|(_, done)| done.worker.clone()).collect()),
        execution_ms: Value::list(all.iter().map(|(_, done)| done.execution_ms.clone()).collect()),
    };
    (Value::list(all.into_iter().map(|(output, _)| output).collect()), done)
}

/// A step, or an item of it, as people read it.
#[derive(Clone, Copy, Debug)]
pub struct SpotName<'a> {
    step_id: &'a str,
    item: Option<u32>,
}

impl fmt::Display for SpotName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.item {
            None => f.write_str(self.step_id),
            Some(item) => write!(f, "{}[{item}]", self.step_id),
        }
    }
}

/// Where the output of a spot stands.
#[must_use]
pub fn output_key(run: &Run, spot: Spot) -> String {
    let step_id = run.workflow.steps.get(spot.step).map_or("", |step| &step.id);
    match spot.item {
        None => keys::step_output(&run.head.id, step_id),
        Some(item) => keys::item_output(&run.head.id, step_id, item),
    }
}
