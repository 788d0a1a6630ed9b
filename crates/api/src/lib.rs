//! The words of the HTTP interface: requests and replies under `/api/v1`, shared by the gateway and `ctl`.
//!
//! Requests refuse members that they do not know, so that a misspelt option is an error and not silently ignored. Replies may
//! gain members: readers take what they know and pass over the rest.

mod artifact;
mod cell;
mod dead;
mod explain;
mod hold;
mod job;
mod limits;
mod pack;
mod problem;
mod state;
mod stream;
mod trust;
mod workflow;

pub use artifact::ArtifactView;
pub use cell::{BusStatus, SchedulerView, StatusView, StoreStatus, WorkerList, WorkerTotals, WorkerView};
pub use dead::{
    DeadLetterDetail, DeadLetterList, DeadLetterView, RedriveManyReply, RedriveManyRequest, RedriveReply, RedriveRequest,
};
pub use explain::{ExplainView, GateState, GateView, JobEndView, WorkerVerdictView};
pub use hold::{DrainList, DrainRequest, DrainView, PauseList, PauseRequest, PauseScope, PauseView, UnknownScope};
pub use job::{
    AttemptLog, BatchReply, BatchRequest, CancelReply, CancelRequest, DecisionView, IdempotencyPolicy, JobList, JobView,
    Judgement, LogsView, Priority, RawValue, Rejection, SubmitReply, SubmitRequest, VoteView,
};
pub use limits::{
    KeyLimits, KeyStrategy, LIMIT_ROWS_MAX, LimitsChange, LimitsRequest, LimitsView, Rate, TenantLimits, TopicLimits, WEIGHT_MAX,
};
pub use pack::{PACK_MEDIA_TYPE, PackAction, PackChange, PackList, PackOutcome, PackPart, PackReply, PackView};
pub use problem::{PROBLEM_MEDIA_TYPE, Problem};
pub use state::{JobState, UnknownState};
pub use stream::{
    JobChange, RunChange, STREAM_FILTER_VALUES_MAX, SnapshotEnd, StepChange, StreamFilter, StreamFrame, StreamItem,
    StreamRequest, StreamReset, stream_subjects,
};
pub use trust::{EnrolRequest, WorkerKeyList, WorkerKeyView};
pub use workflow::{
    ItemsView, RunCancelReply, RunError, RunHoldReply, RunList, RunState, RunView, SaveReply, StartReply, StepError, StepState,
    StepView, Timeline, TimelineItem, UnknownRunState, WorkflowList, WorkflowView,
};

/// The largest body of a request other than an artifact's, in bytes.
pub const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The largest input of one job, in bytes.
pub const INPUT_BYTES_MAX: usize = busbar_protocol::limits::PAYLOAD_BYTES_MAX;
/// The largest document of a workflow, in bytes.
pub const WORKFLOW_BYTES_MAX: usize = 256 * 1024;
/// The most entries of a timeline's log that one call reads.
pub const TIMELINE_ENTRIES_MAX: u64 = 1000;
/// How many entries of a timeline's log are read when nobody says.
pub const TIMELINE_ENTRIES_DEFAULT: u64 = 200;
/// The largest result that a job's view carries within itself, in bytes.
pub const INLINE_RESULT_BYTES_MAX: u64 = 256 * 1024;
/// The most items that one page of a list holds.
pub const PAGE_ITEMS_MAX: usize = 200;
/// How many items a page of a list holds when nobody says.
pub const PAGE_ITEMS_DEFAULT: usize = 50;
/// The most dead letters that one call tries again.
pub const REDRIVES_MAX: usize = 10_000;
/// How many dead letters one call tries again when nobody says.
pub const REDRIVES_DEFAULT: usize = 1000;
/// The longest span that a request may name, in milliseconds: a year. Longer ones are mistakes in the unit.
pub const SPAN_MS_MAX: u64 = 366 * 24 * 3600 * 1000;
/// The most jobs of one batch.
pub const BATCH_JOBS_MAX: usize = 100_000;
/// How the refusal of a larger batch begins.
pub const BATCH_TOO_LARGE: &str = "jobs: a batch has at most 100,000";
/// The longest `wait`, in milliseconds.
pub const WAIT_MS_MAX: u64 = 60_000;
