//! The office of the active scheduler: under which epoch it is held, and since when that is known.

use std::sync::atomic::{AtomicU64, Ordering};

use busbar_protocol::time::Timestamp;

/// What a replica was given when it became active.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Office {
    /// The lease's epoch.
    pub epoch: u64,
    /// Which of this process's terms it is.
    pub term: u32,
    /// When the lease was asked for.
    pub since: Timestamp,
}

/// When the lease was last known to be ours: the time before the question whose answer said so.
#[derive(Debug)]
pub(crate) struct Proof(AtomicU64);

impl Proof {
    /// It was ours at this time.
    pub(crate) fn new(at: Timestamp) -> Self {
        Self(AtomicU64::new(at.millis()))
    }

    /// When that was.
    pub(crate) fn at(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::Acquire))
    }

    /// It was ours at this time.
    pub(crate) fn renew(&self, at: Timestamp) {
        self.0.fetch_max(at.millis(), Ordering::AcqRel);
    }
}
