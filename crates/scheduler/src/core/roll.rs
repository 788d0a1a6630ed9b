//! The roll: every live job by its seat. Of a *shelved* job only what is needed to wait stays in memory, about a hundred bytes;
//! the job itself stands in the store, and is fetched when something is to happen to it.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use busbar_protocol::busbar::JobState;
use busbar_protocol::ids::{JobId, PackedJobId};
use busbar_protocol::time::Timestamp;
use hashbrown::HashTable;

use super::dense::DenseMap;
use super::line::{Line, Seat};

/// What stays in memory of a shelved job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shelved {
    name: PackedJobId,
    /// Its line: class, priority, tenant.
    pub line: Arc<Line>,
    /// When time alone will do something with it; 0, if it will not.
    wakes: Timestamp,
    /// The revision that stands in the store: nobody writes a job four billion times.
    revision: u32,
    /// Its state.
    pub state: JobState,
}

impl Shelved {
    /// What stays of a job.
    #[must_use]
    pub fn new(name: PackedJobId, state: JobState, revision: u64, line: Arc<Line>, wakes: Option<Timestamp>) -> Self {
        let revision = u32::try_from(revision).unwrap_or(u32::MAX);
        Self { name, line, wakes: wakes.unwrap_or_default(), revision, state }
    }

    /// When time alone will do something with it.
    #[must_use]
    pub fn wakes(&self) -> Option<Timestamp> {
        (self.wakes > Timestamp::default()).then_some(self.wakes)
    }

    /// The revision that stands in the store.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision.into()
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> JobId {
        JobId::from(&self.name)
    }
}

/// A live job, as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listed {
    /// It is in memory.
    Whole(JobId),
    /// It is in the store.
    Shelved(Shelved),
}

impl Listed {
    /// Its name.
    #[must_use]
    pub fn id(&self) -> JobId {
        match self {
            Self::Whole(id) => id.clone(),
            Self::Shelved(shelved) => shelved.id(),
        }
    }
}

/// All live jobs.
#[derive(Clone, Debug, Default)]
pub struct Roll {
    by_seat: DenseMap<Seat, Listed>,
    /// The seats of those that are shelved, by name.
    shelf: HashTable<Seat>,
    hasher: RandomState,
}

impl Roll {
    /// How many are live.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_seat.len()
    }

    /// Whether nobody is live.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_seat.is_empty()
    }

    /// So many more jobs will go to the shelf: room for them is made once, and not again and again.
    pub fn expect(&mut self, more: usize) {
        let Self { by_seat, shelf, hasher } = self;
        shelf.reserve(more, |seat| hash_of(by_seat, hasher, *seat));
    }

    /// A seat for a job that came then.
    #[must_use]
    pub fn free_seat(&self, came: Timestamp) -> Seat {
        let first = Seat::first_of(came);
        // The end of the millisecond is as good as never reached; the next seat is free then, too.
        let last = self.by_seat.back_from(Some(Seat::first_of(came.after_millis(1)))).next();
        last.filter(|(seat, _)| *seat >= first).map_or(first, |(seat, _)| seat.next())
    }

    /// A job has come into memory.
    pub fn add(&mut self, seat: Seat, id: JobId) {
        self.by_seat.insert(seat, Listed::Whole(id));
    }

    /// A job has ended.
    pub fn leave(&mut self, seat: Seat) {
        self.unshelf(seat);
        self.by_seat.remove(seat);
    }

    /// A job leaves memory, or does not even come into it.
    pub fn shelve(&mut self, seat: Seat, shelved: Shelved) {
        let hash = self.hasher.hash_one(&shelved.name);
        self.by_seat.insert(seat, Listed::Shelved(shelved));
        let Self { by_seat, shelf, hasher } = self;
        shelf.insert_unique(hash, seat, |seat| hash_of(by_seat, hasher, *seat));
    }

    /// A shelved job comes back into memory.
    pub fn unshelve(&mut self, seat: Seat, id: JobId) {
        self.unshelf(seat);
        self.by_seat.insert(seat, Listed::Whole(id));
    }

    /// Who has a seat.
    #[must_use]
    pub fn at(&self, seat: Seat) -> Option<&Listed> {
        self.by_seat.get(seat)
    }

    /// A shelved job.
    #[must_use]
    pub fn shelved(&self, name: &PackedJobId) -> Option<(Seat, &Shelved)> {
        let named = |seat: &Seat| matches!(self.by_seat.get(*seat), Some(Listed::Shelved(shelved)) if shelved.name == *name);
        let seat = *self.shelf.find(self.hasher.hash_one(name), named)?;
        match self.by_seat.get(seat)? {
            Listed::Shelved(shelved) => Some((seat, shelved)),
            Listed::Whole(_) => None,
        }
    }

    /// All that came at a time or before, the newest first.
    pub fn back_from(&self, at: Option<Timestamp>) -> impl Iterator<Item = (Seat, &Listed)> {
        self.by_seat.back_from(at.map(|at| Seat::first_of(at.after_millis(1))))
    }

    fn unshelf(&mut self, seat: Seat) {
        if matches!(self.by_seat.get(seat), Some(Listed::Shelved(_))) {
            let hash = hash_of(&self.by_seat, &self.hasher, seat);
            if let Ok(found) = self.shelf.find_entry(hash, |other| *other == seat) {
                found.remove();
            }
        }
    }
}

fn hash_of(by_seat: &DenseMap<Seat, Listed>, hasher: &RandomState, seat: Seat) -> u64 {
    match by_seat.get(seat) {
        Some(Listed::Shelved(shelved)) => hasher.hash_one(&shelved.name),
        // Nobody else is on the shelf.
        Some(Listed::Whole(_)) | None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::super::line::{Class, Rank};
    use super::*;

    #[test]
    fn who_is_shelved_is_found_by_name_and_comes_back_to_its_seat() {
        let mut roll = Roll::default();
        let line = Arc::new(Line { class: Arc::new(Class::default()), rank: Rank::Batch, tenant: "t".into() });
        let came = Timestamp::from_millis(7);
        let ids: Vec<JobId> = (0..1_000).map(|_| JobId::generate()).collect();
        let mut seat = |id: &JobId| {
            let seat = roll.free_seat(came);
            roll.add(seat, id.clone());
            seat
        };
        let seats: Vec<Seat> = ids.iter().map(&mut seat).collect();
        assert!(seats.is_sorted_by(|a, b| a < b));
        for (id, seat) in ids.iter().zip(&seats) {
            let name = PackedJobId::from(id);
            roll.shelve(
                *seat,
                Shelved { name, line: Arc::clone(&line), wakes: Timestamp::default(), revision: 3, state: JobState::Scheduled },
            );
        }
        for (id, seat) in ids.iter().zip(&seats) {
            assert_eq!(
                roll.shelved(&PackedJobId::from(id)).map(|(seat, shelved)| (seat, shelved.id(), shelved.revision())),
                Some((*seat, id.clone(), 3))
            );
            roll.unshelve(*seat, id.clone());
            assert_eq!(roll.shelved(&PackedJobId::from(id)), None);
            assert_eq!(roll.at(*seat), Some(&Listed::Whole(id.clone())));
        }
        seats.iter().for_each(|seat| roll.leave(*seat));
        assert!(roll.is_empty() && roll.shelf.is_empty());
    }

    #[test]
    fn what_stays_of_a_shelved_job_is_small() {
        assert!(size_of::<Listed>() <= 48, "{}", size_of::<Listed>());
    }
}
