//! What can reach the event loop.

use busbar_protocol::busbar::{RunCancelRequest, RunHoldRequest, WorkflowHead};

use crate::core::run::Run;
use crate::core::transition::JobOutcome;

/// What can reach the event loop.
#[derive(Debug)]
pub(crate) enum Input {
    /// A run that is to begin.
    Start {
        /// The run, as it would be.
        run: Box<Run>,
        /// Where the answer is expected.
        reply: String,
    },
    /// A workflow that is to be taken away.
    Remove {
        /// It as it stands.
        head: WorkflowHead,
        /// The revision of that.
        revision: u64,
        /// Only say whether it would be taken away.
        check_only: bool,
        /// Where the answer is expected.
        reply: String,
    },
    /// A run that is to be cancelled.
    Cancel {
        /// Which, by whom, why.
        request: RunCancelRequest,
        /// Where the answer is expected.
        reply: String,
    },
    /// A run that is to be paused, or to go on.
    Hold {
        /// Which, by whom.
        request: RunHoldRequest,
        /// It is to be paused.
        pause: bool,
        /// Where the answer is expected.
        reply: String,
    },
    /// Somebody asks how we are.
    Status {
        /// Where the answer is expected.
        reply: String,
    },
    /// Jobs, ours among them perhaps, have ended: their records say how.
    Ended(Vec<String>),
    /// Word about jobs was lost: all of ours must be looked at.
    Missed,
    /// What the records of jobs of ours say.
    Found(Vec<Found>),
    /// Jobs whose submission is over, however it went.
    Submitted(Vec<String>),
    /// The scheduler was told which runs are paused, or could not be told.
    Held,
    /// Time to look at jobs of which nothing was heard.
    Look,
    /// Somebody else is active.
    LeaseLost,
}

/// What was found about a job that should be out.
#[derive(Debug)]
pub(crate) struct Found {
    /// The job.
    pub(crate) job_id: String,
    /// What is known.
    pub(crate) what: What,
}

/// What is known of a job.
#[derive(Debug)]
pub(crate) enum What {
    /// It is over.
    Over(JobOutcome),
    /// The scheduler knows nothing of it.
    Unknown,
}
