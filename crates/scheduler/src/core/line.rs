//! Where a job waits: its line, and its seat among all jobs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use busbar_protocol::cap::JobPriority;
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
    /// The workers that it must not go to.
    pub excluded: BTreeSet<String>,
    /// The workers that it goes to only while nobody else who may have it is there.
    pub avoided: BTreeSet<String>,
    /// Its tenant, where there are workers that are bound to one.
    pub tenant: Option<Arc<str>>,
    /// It goes to a worker that is known by name, never to a queue group.
    pub known_only: bool,
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

/// Jobs of one class, one priority and one tenant: the first that came is the first that goes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line {
    /// The class.
    pub class: Arc<Class>,
    /// The priority.
    pub rank: Rank,
    /// The tenant.
    pub tenant: Arc<str>,
}

/// A job's place among all that are live: when it came, to the millisecond, and its number among those that came in that
/// millisecond. Eight bytes, of which a million jobs need several each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seat(u64);

impl Seat {
    /// Enough for four million jobs in one millisecond, and for times up to the year 2109.
    const NUMBER_BITS: u32 = 22;

    /// The first seat of a millisecond.
    #[must_use]
    pub fn first_of(came: Timestamp) -> Self {
        Self(came.millis().min(u64::MAX >> Self::NUMBER_BITS) << Self::NUMBER_BITS)
    }

    /// The next one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// When whoever has it came.
    #[must_use]
    pub const fn came(self) -> Timestamp {
        Timestamp::from_millis(self.0 >> Self::NUMBER_BITS)
    }
}

/// Where a job waits.
#[derive(Clone, Debug)]
pub struct Spot {
    /// Its line.
    pub line: Arc<Line>,
    /// Its seat.
    pub seat: Seat,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_are_ordered_by_time_and_then_by_number() {
        let [early, late] = [1_700_000_000_000, 1_700_000_000_001].map(|millis| Seat::first_of(Timestamp::from_millis(millis)));
        assert!(early < early.next() && early.next().next() < late);
        assert_eq!((early.next().came(), late.came()), (early.came(), Timestamp::from_millis(1_700_000_000_001)));
    }
}
