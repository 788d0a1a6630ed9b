//! Everything that can happen to the active scheduler, as one closed list: the event loop handles nothing else.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use busbar_protocol::busbar::{
    CancelItem, DrainRequest, ExplainRequest, JobRecord, ListRequest, PauseRequest, Problem, WorkerBeat,
};
use busbar_protocol::cap::{Handshake, Heartbeat};
use busbar_protocol::ids::JobId;
use busbar_protocol::ports::{Connection, Delivery};
use busbar_protocol::time::Timestamp;

use crate::admission::Verdict;
use crate::core::bounds::Bounds;
use crate::core::cell::{Owners, Page, Siblings};
use crate::core::job::Job;
use crate::core::transition::{self, Report};
use crate::core::trust::{Bindings, Doubt};
use crate::intake::Prepared;
use crate::library::Library;
use crate::receipts::Receipt;

/// One thing that happened.
pub(crate) enum Input {
    /// Submissions are ready to be committed.
    Admit(Admit),
    /// A worker reported how an attempt ended.
    Reported(Reported),
    /// A worker told of progress.
    Progress { job: JobId, attempt: Option<u32>, worker_id: String, percent: i32, objection: Option<Objection> },
    /// A native worker's beat.
    Beat(WorkerBeat),
    /// An announced worker's heartbeat.
    Heartbeat(Heartbeat, Option<Objection>),
    /// A worker announced itself at this time.
    Handshake(Handshake, Timestamp, Option<Objection>),
    /// These workers speak CAP-PRODUCTION, and others do not; and these speak on somebody's account.
    Bindings(Bindings, Owners),
    /// These workers have no enrolled key any more, and must have one.
    Distrusted(Vec<String>),
    /// A queue group had nobody for this attempt.
    NobodyThere { job: JobId, attempt: u32 },
    /// Nobody listened where this message of several attempts was sent.
    NobodyTook { batch: u64 },
    /// Somebody wants jobs cancelled, and perhaps an answer.
    Cancel { items: Vec<CancelItem>, reply: Option<String> },
    /// Somebody wants to see live jobs.
    List { request: ListRequest, reply: String },
    /// Somebody wants to see the workers.
    Workers { reply: String },
    /// Somebody pauses, resumes, or wants to see what is paused.
    Pause { request: PauseRequest, reply: String },
    /// Somebody lets workers drain, takes that back, or wants to see which do.
    Drain { request: DrainRequest, reply: String },
    /// Somebody wants to know why a job is where it is.
    Explain { request: ExplainRequest, reply: String },
    /// The kernel decided; jobs without a verdict are asked about again.
    Verdicts(Vec<(JobId, Option<transition::Verdict>)>),
    /// Jobs were read from the store; afterwards, what needed them.
    Fetched { jobs: Vec<Fetched>, then: Option<Box<Input>> },
    /// A page of live jobs was read for somebody who wants to see them.
    Listed { jobs: Vec<JobRecord>, reply: String },
    /// A page of live jobs was read after the takeover; another one may come when this is taken in.
    Loaded { page: Page, place: OwnedSemaphorePermit },
    /// All live jobs were read.
    AllLoaded,
    /// Live jobs cannot be read.
    Unreadable,
    /// Jobs that live ones belong to and that need them no longer: they were cancelled, or their replicas have spoken.
    EndedParents(Vec<String>),
    /// The replicas of a job were read, and what checks their results.
    Replicas { parent: JobId, found: Siblings },
    /// No result of this job can be checked; that of this replica was the first.
    CheckRefused { parent: JobId, replica: u32, why: String },
    /// Topic documents changed.
    Topics(Arc<Library>),
    /// The operator's bounds changed.
    Bounds(Bounds),
    /// The kernel decides under this snapshot.
    Snapshot(String),
    /// The connection to the bus changed.
    Connection(Connection),
    /// A round trip with the bus is over, which began behind the sending of this number: it came back, or nobody knows.
    CameBack { number: u64, arrived: bool },
    /// Somebody else holds the lease.
    LeaseLost,
}

/// A job and what stands in the store of it, if there is anything.
pub(crate) type Fetched = (JobId, Option<(Job, u64)>);

/// A job of a page that somebody wants to see.
pub(crate) enum Shown {
    /// It is in memory.
    Whole(Box<JobRecord>),
    /// It must be read.
    Shelved(JobId),
}

/// Submissions that are ready.
pub(crate) struct Admit {
    /// One outcome per submission, in order.
    pub outcomes: Vec<Result<Prepared, Problem>>,
    /// Who wants to know.
    pub origin: Origin,
    /// When they arrived.
    pub received: Instant,
}

/// Where submissions came from.
pub(crate) enum Origin {
    /// A request whose reply is the acknowledgement.
    Asked { reply: String },
    /// A task that found out more about a submission, and waits.
    Task { done: oneshot::Sender<Vec<Verdict>> },
    /// The work queue; one delivery per submission. What was refused has a record of its own in place of a problem.
    Queue { deliveries: Vec<Delivery> },
}

/// What speaks against a packet, unless it is a native worker's, or about what one holds: whether it is, the event loop knows.
pub(crate) struct Objection {
    /// Where the packet came.
    pub subject: &'static str,
    /// What is missing.
    pub doubt: Doubt,
    /// The packet.
    pub bytes: Bytes,
}

/// A report, with what is owed for it once it is dealt with.
pub(crate) struct Reported {
    /// The job that it speaks of.
    pub job: JobId,
    /// What it says.
    pub report: Report,
    /// What is owed for it.
    pub receipt: Receipt,
    /// What speaks against it.
    pub objection: Option<Objection>,
    /// Its payload was read and found to be in order.
    pub checked: bool,
    /// What came with it is not the output that it speaks of, so that whoever sent it may have written none.
    pub suspect: bool,
    /// When it arrived.
    pub received: Instant,
}
