//! Labels of jobs that choose a worker. Whoever submits sets them, over any interface.

/// Before the name of a label that the worker must carry.
pub const PLACEMENT_PREFIX: &str = "placement.";
/// The only pool that the job may go to, among those of its topic.
pub const PREFERRED_POOL: &str = "preferred_pool";
/// The worker that the job goes to if it fits and has a free slot.
pub const PREFERRED_WORKER_ID: &str = "preferred_worker_id";
/// Workers, with commas between them, that the job must not go to.
pub const EXCLUDED_WORKER_IDS: &str = "excluded_worker_ids";
/// Workers, with commas between them, that the job goes to only while no other one that may have it is there.
pub const AVOIDED_WORKER_IDS: &str = "avoided_worker_ids";
