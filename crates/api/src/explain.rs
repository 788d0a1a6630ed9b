//! Why a job is where it is.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::job::DecisionView;
use crate::state::JobState;

/// What `GET /api/v1/jobs/{id}/explain` answers. Times are RFC 3339 in UTC with milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExplainView {
    /// The job.
    pub id: String,
    /// Its state.
    pub state: JobState,
    /// One sentence: what it waits for now, or how it ended.
    pub summary: String,
    /// Every gate on the way to a worker, in order; none where the job has ended.
    pub gates: Vec<GateView>,
    /// The moment of which all this is true.
    pub at: String,
    /// How it ended; null while it has not.
    #[serde(default)]
    #[schema(required)]
    pub end: Option<JobEndView>,
}

/// Something that a job has to pass on its way to a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GateView {
    /// `policy`, `approval`, `not_before`, `pause`, `quota`, `rate`, `key`, `rank` or `worker`; later versions may add some.
    pub name: String,
    /// Where the job is with it.
    pub state: GateState,
    /// Why.
    pub detail: String,
    /// How long the job has stood here so far, in milliseconds.
    pub spent_ms: u64,
    /// When it opens by itself; null where that is not known.
    #[schema(required)]
    pub opens_at: Option<String>,
    /// At the gate `worker`: each worker that could matter, and why it does not take the job.
    #[serde(default)]
    #[schema(required)]
    pub workers: Vec<WorkerVerdictView>,
}

/// Where a job is with a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum GateState {
    /// It is behind the job, or does not concern it.
    Passed,
    /// The job stands here.
    Waits,
    /// It is still to come.
    Ahead,
}

impl GateState {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Waits => "waits",
            Self::Ahead => "ahead",
        }
    }
}

/// Why a worker does not take a job, or that it could.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkerVerdictView {
    /// The worker.
    pub worker_id: String,
    /// `free`, `full`, `silent`, `lost`, `draining`, `blocked`, `avoided`, `excluded`, `pool`, `topic`,
    /// `requires`, `label`, `region` or `type`; later versions may add some.
    pub verdict: String,
    /// The same in words.
    pub detail: String,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobEndView {
    /// When.
    pub at: String,
    /// Attempts that were sent to workers.
    pub attempts: u32,
    /// How many it had at most.
    pub max_attempts: u32,
    /// The worker of the last attempt; null where there was none.
    #[schema(required)]
    pub worker_id: Option<String>,
    /// Workers that died with this job in their hands.
    pub crashes: u32,
    /// Why it did not succeed.
    #[schema(required)]
    pub error_code: Option<String>,
    /// The same in words.
    #[schema(required)]
    pub error_message: Option<String>,
    /// What the safety kernel decided; null where it did not.
    #[schema(required)]
    pub decision: Option<DecisionView>,
}
