//! What a job is: its state with exactly what exists in it.

use std::time::Duration;

use bytes::Bytes;

use busbar_protocol::busbar::{JobDecision, JobPlan, JobState, Judgement, Vote, WorkerKind};
use busbar_protocol::cap::JobPriority;
use busbar_protocol::codes::Code;
use busbar_protocol::ids::JobId;
use busbar_protocol::keys;
use busbar_protocol::pointers::Pointer;
use busbar_protocol::time::Timestamp;

pub use super::packed::RECORD_VERSION;

/// A job, whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// Its identifier.
    pub id: JobId,
    /// Whose it is.
    pub tenant_id: String,
    /// The trace that it belongs to.
    pub trace_id: String,
    /// W3C trace context of the submission, or empty.
    pub traceparent: String,
    /// The CAP request as it was submitted, with what a decision changed appended.
    pub request: Bytes,
    /// Its topic.
    pub topic: String,
    /// Its priority.
    pub priority: JobPriority,
    /// When it was admitted.
    pub created: Timestamp,
    /// When it last changed.
    pub updated: Timestamp,
    /// Dispatches so far.
    pub attempt: u32,
    /// Dispatches that do not count: they reached nobody, or the worker asked to come later.
    pub unreached: u32,
    /// Workers that died with it in their hands.
    pub crashes: u32,
    /// The job that it belongs to, and with which it is cancelled; or empty.
    pub parent_job_id: String,
    /// Which replica of the job that it belongs to it is, from 1 on; 0 for a job of its own.
    pub replica: u32,
    /// The replica of that job whose result it checks; 0 for a job that checks none.
    pub verifies: u32,
    /// What its replicas said, once it has ended.
    pub votes: Vec<Vote>,
    /// The dead job of which it is another try, or empty.
    pub redrive_of: String,
    /// What its topic said when it was admitted.
    pub plan: JobPlan,
    /// The last decision of the safety kernel.
    pub decision: Option<JobDecision>,
    /// How the attempt before the present one ended.
    pub last_end: Option<AttemptEnd>,
    /// Cancellation was asked for while an attempt was out.
    pub cancel: Option<CancelWish>,
    /// It was submitted on the bare bus.
    pub from_bus: bool,
    /// Where it stands.
    pub state: State,
}

/// Where a job stands.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// Waits for a decision.
    Pending {
        /// Not asked again before.
        not_before: Timestamp,
    },
    /// Waits for a person.
    ApprovalRequired {
        /// Since when.
        since: Timestamp,
    },
    /// Waits for a worker.
    Scheduled {
        /// Since when.
        since: Timestamp,
        /// Not placed before.
        not_before: Timestamp,
    },
    /// Sent to a worker.
    Dispatched {
        /// Who has it.
        hold: Hold,
    },
    /// A worker has shown that it works on it.
    Running {
        /// Who has it.
        hold: Hold,
        /// Since when.
        started: Timestamp,
        /// How far it is, in percent.
        percent: i32,
    },
    /// Its replicas have been made, and are jobs of their own.
    Replicated {
        /// Since when.
        since: Timestamp,
    },
    /// Over.
    Ended(End),
}

/// Who has an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The worker; empty when it was sent to a topic's queue group.
    pub worker_id: String,
    /// What kind of worker.
    pub kind: WorkerKind,
    /// The start of the worker's process to which it was sent.
    pub incarnation: String,
    /// When.
    pub since: Timestamp,
    /// When it last reported progress, as far as this scheduler has heard; not kept in the record, so that whoever takes over waits
    /// for the next report instead of holding the silence of its predecessor against the worker.
    pub heard: Timestamp,
}

/// How an attempt ended that was not the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptEnd {
    /// Its number.
    pub attempt: u32,
    /// Its error code.
    pub code: String,
    /// What is known.
    pub message: String,
    /// It ran out of time.
    pub timed_out: bool,
    /// Who had it.
    pub worker_id: String,
}

/// A cancellation that an attempt still has time to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CancelWish {
    /// Afterwards the job is cancelled whatever the worker does.
    pub by: Timestamp,
    /// Why.
    pub reason: String,
    /// Who asked.
    pub requested_by: String,
    /// The code of the end.
    pub code: Code,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq)]
pub struct End {
    /// Which end.
    pub outcome: Outcome,
    /// When.
    pub at: Timestamp,
    /// Who had the last attempt, or empty.
    pub worker_id: String,
    /// The error code, or empty.
    pub code: String,
    /// What is known of the error.
    pub message: String,
    /// Where the result stands, if there is one.
    pub result: Option<ResultPlace>,
    /// How long the worker says that it took, in milliseconds.
    pub execution_ms: i64,
    /// We decided it ourselves, so that nobody else has told it on the bus.
    pub decided_here: bool,
}

/// Where a result stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResultPlace {
    /// The pointer, in its text form.
    pub pointer: String,
    /// SHA-256 of the bytes, empty where it was not told.
    pub sha256: Bytes,
    /// How many bytes.
    pub size: u64,
    /// SHA-256 of the bytes in the form in which replicas are compared, computed here; of a job that checks a result, of the form
    /// that it gave to that, if it gave one; empty for all other jobs.
    pub compared: Bytes,
    /// What a job that checks a result says of it.
    pub judgement: Judgement,
    /// Where the bytes are until the end is committed; not kept.
    pub source: Source,
}

/// Where the bytes of a result are until its end is committed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// Where the pointer says: the worker has written them there.
    #[default]
    There,
    /// Under this key, from which they are copied.
    Key(String),
    /// Here: they came with the message that told of the result, and are written.
    Message(Bytes),
}

impl ResultPlace {
    /// The place under this attempt's name, where the result is copied to that name.
    #[must_use]
    pub fn of_attempt(self, id: &JobId, attempt: u32) -> Self {
        if !matches!(self.source, Source::Key(_)) {
            return self;
        }
        Self { pointer: Pointer::Redis(keys::attempt_result(id.as_str(), attempt)).to_string(), ..self }
    }
}

/// The five ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It ran and succeeded.
    Succeeded,
    /// It ran, or could not run, and did not succeed.
    Failed,
    /// Somebody cancelled it.
    Cancelled,
    /// The policy denied it.
    Denied,
    /// It ran out of time.
    Timeout,
}

impl Outcome {
    /// The state of the wire.
    #[must_use]
    pub const fn state(self) -> JobState {
        match self {
            Self::Succeeded => JobState::Succeeded,
            Self::Failed => JobState::Failed,
            Self::Cancelled => JobState::Cancelled,
            Self::Denied => JobState::Denied,
            Self::Timeout => JobState::Timeout,
        }
    }

    pub(super) const fn from_state(state: JobState) -> Option<Self> {
        match state {
            JobState::Succeeded => Some(Self::Succeeded),
            JobState::Failed => Some(Self::Failed),
            JobState::Cancelled => Some(Self::Cancelled),
            JobState::Denied => Some(Self::Denied),
            JobState::Timeout => Some(Self::Timeout),
            JobState::Unspecified
            | JobState::Pending
            | JobState::ApprovalRequired
            | JobState::Scheduled
            | JobState::Dispatched
            | JobState::Running => None,
        }
    }
}

impl State {
    /// The state of the wire.
    #[must_use]
    pub const fn tag(&self) -> JobState {
        match self {
            Self::Pending { .. } => JobState::Pending,
            Self::ApprovalRequired { .. } => JobState::ApprovalRequired,
            Self::Scheduled { .. } => JobState::Scheduled,
            // In the words of the wire it is with workers.
            Self::Dispatched { .. } | Self::Replicated { .. } => JobState::Dispatched,
            Self::Running { .. } => JobState::Running,
            Self::Ended(end) => end.outcome.state(),
        }
    }
}

impl Job {
    /// A job of this name in this state, with nothing else in it.
    #[must_use]
    pub fn new(id: JobId, state: State) -> Self {
        Self {
            id,
            tenant_id: String::new(),
            trace_id: String::new(),
            traceparent: String::new(),
            request: Bytes::new(),
            topic: String::new(),
            priority: JobPriority::default(),
            created: Timestamp::default(),
            updated: Timestamp::default(),
            attempt: 0,
            unreached: 0,
            crashes: 0,
            parent_job_id: String::new(),
            replica: 0,
            verifies: 0,
            votes: Vec::new(),
            redrive_of: String::new(),
            plan: JobPlan::default(),
            decision: None,
            last_end: None,
            cancel: None,
            from_bus: false,
            state,
        }
    }

    /// Whether a wish that names an attempt means this job as it is: while that attempt is out. 0 names none, and always means it.
    #[must_use]
    pub fn is_meant(&self, attempt: u32) -> bool {
        attempt == 0 || (self.hold().is_some() && self.attempt == attempt)
    }

    /// Who has the present attempt.
    #[must_use]
    pub const fn hold(&self) -> Option<&Hold> {
        match &self.state {
            State::Dispatched { hold } | State::Running { hold, .. } => Some(hold),
            State::Pending { .. }
            | State::ApprovalRequired { .. }
            | State::Scheduled { .. }
            | State::Replicated { .. }
            | State::Ended(_) => None,
        }
    }

    /// Whether it waits for a decision, a person, its time or a worker.
    #[must_use]
    pub const fn waits(&self) -> bool {
        match self.state {
            State::Pending { .. } | State::ApprovalRequired { .. } | State::Scheduled { .. } => true,
            State::Dispatched { .. } | State::Running { .. } | State::Replicated { .. } | State::Ended(_) => false,
        }
    }

    /// Whether it is a part of what is done for another job: a replica, or what checks one.
    #[must_use]
    pub const fn is_part(&self) -> bool {
        self.replica > 0 || self.verifies > 0
    }

    /// Whether replicas are made of it in place of an attempt.
    #[must_use]
    pub const fn is_replicated(&self) -> bool {
        self.replica == 0 && self.plan.replication.is_some()
    }

    /// How it ended, if it did.
    #[must_use]
    pub const fn end(&self) -> Option<&End> {
        match &self.state {
            State::Ended(end) => Some(end),
            State::Pending { .. }
            | State::ApprovalRequired { .. }
            | State::Scheduled { .. }
            | State::Dispatched { .. }
            | State::Running { .. }
            | State::Replicated { .. } => None,
        }
    }

    /// The next point in time at which something must happen even if nobody tells us anything: the earliest of its limits.
    #[must_use]
    pub fn wakes_at(&self, now: Timestamp) -> Option<Timestamp> {
        let deadline = nonzero(self.plan.deadline_at_ms).map(Timestamp::from_millis).filter(|_| self.cancel.is_none());
        let cancel_by = self.cancel.as_ref().map(|wish| wish.by);
        let ahead = |not_before: Timestamp| (not_before > now).then_some(not_before);
        let (start, limit) = match &self.state {
            State::Pending { not_before } => (ahead(*not_before), None),
            State::ApprovalRequired { .. } | State::Replicated { .. } => (None, None),
            State::Scheduled { since, not_before } => (ahead(*not_before), self.start_limit(*since, *not_before)),
            State::Dispatched { hold } | State::Running { hold, .. } => (self.report_limit(hold), self.close_limit(hold.since)),
            State::Ended(_) => return None,
        };
        earliest([start, limit, deadline, cancel_by])
    }

    /// When waiting for a worker has lasted too long. Waiting that was asked for does not count.
    #[must_use]
    pub fn start_limit(&self, since: Timestamp, not_before: Timestamp) -> Option<Timestamp> {
        nonzero(self.plan.schedule_to_start_ms).map(|millis| since.max(not_before).after_millis(millis))
    }

    /// When one attempt has lasted too long.
    #[must_use]
    pub fn close_limit(&self, since: Timestamp) -> Option<Timestamp> {
        nonzero(self.plan.start_to_close_ms).map(|millis| since.after_millis(millis))
    }

    /// When an attempt that must report has been silent for too long.
    #[must_use]
    pub fn report_limit(&self, hold: &Hold) -> Option<Timestamp> {
        nonzero(self.plan.heartbeat_timeout_ms).map(|millis| hold.heard.after_millis(millis))
    }

    /// How long to wait before the attempt after this one: exponential from the plan's first value to its last, with up to a
    /// fifth taken off so that jobs that failed together do not come back together. The share is drawn from the job's name, so
    /// that the same history gives the same times.
    #[must_use]
    pub fn backoff(&self) -> Duration {
        let doublings = self.attempt.saturating_sub(1).min(20);
        let full = self.plan.backoff_initial_ms.saturating_mul(1 << doublings).min(self.plan.backoff_max_ms);
        let draw = self
            .id
            .as_str()
            .bytes()
            .fold(u64::from(self.attempt), |sum, byte| sum.wrapping_mul(0x0100_0000_01b3).wrapping_add(u64::from(byte)));
        Duration::from_millis(full - full / 5 * (draw % 256) / 255)
    }
}

/// Limits are 0 where there is none.
fn nonzero(millis: u64) -> Option<u64> {
    (millis > 0).then_some(millis)
}

fn earliest<const N: usize>(times: [Option<Timestamp>; N]) -> Option<Timestamp> {
    times.into_iter().flatten().min()
}
