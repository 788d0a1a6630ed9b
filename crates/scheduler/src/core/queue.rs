//! Who waits for a worker, in which order.
//!
//! Jobs that any worker could serve alike form a *class*: same topic, same requirements, same placement labels. Placement looks
//! at the heads of classes only, so that a million equal jobs cost one decision.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use busbar_protocol::cap::JobPriority;
use busbar_protocol::ids::JobId;
use busbar_protocol::time::Timestamp;

/// What placement needs to know of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Class {
    /// Its topic.
    pub topic: String,
    /// Capabilities that the worker must have.
    pub requires: BTreeSet<String>,
    /// Labels that the worker must carry.
    pub labels: BTreeMap<String, String>,
    /// The only pool that it may go to, if it named one.
    pub pool: Option<String>,
    /// The worker that it would rather go to.
    pub worker: Option<String>,
}

/// Which priority goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// Before all others.
    Critical,
    /// The default.
    Interactive,
    /// When nothing else waits.
    Batch,
}

impl From<JobPriority> for Rank {
    fn from(priority: JobPriority) -> Self {
        match priority {
            JobPriority::Critical => Self::Critical,
            JobPriority::Interactive | JobPriority::Unspecified => Self::Interactive,
            JobPriority::Batch => Self::Batch,
        }
    }
}

/// A job in its class: first come, first served.
pub type Waiting = (Timestamp, JobId);

/// All jobs that could run now.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    ranks: BTreeMap<Rank, BTreeMap<Arc<Class>, BTreeSet<Waiting>>>,
    len: usize,
}

impl Queue {
    /// Adds a job. Adding it twice changes nothing.
    pub fn add(&mut self, rank: Rank, class: &Arc<Class>, waiting: Waiting) {
        let classes = self.ranks.entry(rank).or_default();
        if classes.entry(Arc::clone(class)).or_default().insert(waiting) {
            self.len += 1;
        }
    }

    /// Takes a job out, if it is there.
    pub fn remove(&mut self, rank: Rank, class: &Class, waiting: &Waiting) {
        let Some(classes) = self.ranks.get_mut(&rank) else { return };
        let Some(jobs) = classes.get_mut(class) else { return };
        if jobs.remove(waiting) {
            self.len -= 1;
        }
        if jobs.is_empty() {
            classes.remove(class);
        }
    }

    /// The classes that have jobs, by rank.
    pub fn ranks(&self) -> impl Iterator<Item = (Rank, &BTreeMap<Arc<Class>, BTreeSet<Waiting>>)> {
        self.ranks.iter().map(|(rank, classes)| (*rank, classes))
    }

    /// How many jobs wait.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether nobody waits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}
