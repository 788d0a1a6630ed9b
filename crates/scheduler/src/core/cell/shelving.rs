//! Which jobs are in memory, and which only in the store.
//!
//! In memory is every job with which something can happen at any moment: what a worker has, what is being decided, the first jobs
//! of each line. The others are shelved as soon as their last change is durable, and keep their place in every order; the cell
//! says whom it wants back, the shell reads them. What belongs to others and is named by them, children and jobs with a
//! concurrency key, stays.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use busbar_protocol::busbar::JobState;
use busbar_protocol::ids::{JobId, PackedJobId};
use busbar_protocol::ports::UNITS_MAX;
use busbar_protocol::time::Timestamp;

use super::super::flow::Charge;
use super::super::job::{Job, State};
use super::super::line::{Line, Spot};
use super::super::roll::{Listed, Shelved};
use super::super::sketch::can_be_shelved;
use super::placing::market;
use super::{Cell, Entry};

/// Who waits for longer than this before anything happens with it need not be in memory meanwhile.
const SOON: Duration = Duration::from_secs(10);
/// So many times the jobs that may wait whole are in memory at most, for whatever reason.
const CROWDED: usize = 4;

/// What was read of a shelved job is not what was written last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misread {
    /// It was read before that, and must be read again: the job was in memory in the meantime.
    Early,
    /// We did not write it: somebody else is active.
    Foreign,
}

/// A live job, as far as it is known without reading it.
#[derive(Clone, Debug)]
pub enum Known<'a> {
    /// All of it.
    Whole(&'a Job),
    /// What stays of a shelved job.
    Shelved {
        /// Its name.
        id: JobId,
        /// Its line.
        line: &'a Line,
        /// Its state.
        state: JobState,
    },
}

impl Known<'_> {
    /// Its name.
    #[must_use]
    pub const fn id(&self) -> &JobId {
        match self {
            Self::Whole(job) => &job.id,
            Self::Shelved { id, .. } => id,
        }
    }

    /// Whose it is.
    #[must_use]
    pub fn tenant_id(&self) -> &str {
        match self {
            Self::Whole(job) => &job.tenant_id,
            Self::Shelved { line, .. } => &line.tenant,
        }
    }

    /// Its topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        match self {
            Self::Whole(job) => &job.topic,
            Self::Shelved { line, .. } => &line.class.topic,
        }
    }

    /// Its state.
    #[must_use]
    pub const fn state(&self) -> JobState {
        match self {
            Self::Whole(job) => job.state.tag(),
            Self::Shelved { state, .. } => *state,
        }
    }
}

impl Cell {
    /// Whether a job is live and must be read before anything can be said of it or done with it.
    #[must_use]
    pub fn is_shelved(&self, id: &JobId) -> bool {
        self.roll.shelved(&PackedJobId::from(id)).is_some()
    }

    /// Live jobs older than a point, newest first. What came in the same millisecond is ordered by name.
    pub fn newest_before(&self, before: Option<&(Timestamp, JobId)>) -> impl Iterator<Item = Known<'_>> {
        let mut seats = self.roll.back_from(before.map(|(at, _)| *at)).peekable();
        let mut together: BTreeMap<JobId, &Listed> = BTreeMap::new();
        std::iter::from_fn(move || {
            while together.is_empty() {
                let came = seats.peek()?.0.came();
                while let Some((_, listed)) = seats.next_if(|(seat, _)| seat.came() == came) {
                    together.insert(listed.id(), listed);
                }
                if let Some((_, id)) = before.filter(|(at, _)| *at == came) {
                    together.split_off(id);
                }
            }
            together.pop_last()
        })
        .filter_map(|(id, listed)| match listed {
            Listed::Whole(id) => self.job(id).map(Known::Whole),
            Listed::Shelved(shelved) => Some(Known::Shelved { id, line: &shelved.line, state: shelved.state }),
        })
    }

    /// Shelved jobs that must be read, with which something is to happen. None is named twice before it came.
    pub fn take_wanted(&mut self) -> Vec<JobId> {
        self.wanted.extend(self.queue.take_wanted());
        if self.undecided.is_empty() {
            let next = std::iter::from_fn(|| self.undecided_shelved.pop_first()).take(UNITS_MAX);
            self.wanted.extend(next);
        }
        let wanted = std::mem::take(&mut self.wanted);
        let shelved = |seat| match self.roll.at(seat)? {
            Listed::Shelved(shelved) => Some(shelved.id()),
            Listed::Whole(_) => None,
        };
        wanted.into_iter().filter_map(shelved).collect()
    }

    pub(super) fn wants(&self) -> bool {
        !self.wanted.is_empty() || self.queue.wants() || (self.undecided.is_empty() && !self.undecided_shelved.is_empty())
    }

    /// A shelved job was read. What is in memory already stays as it is there.
    ///
    /// # Errors
    /// [`Misread`], when it is not what we wrote last; the job stays on the shelf.
    pub fn fetched(&mut self, id: &JobId, found: Option<(Job, u64)>, now: Timestamp) -> Result<(), Misread> {
        let Some((seat, shelved)) = self.roll.shelved(&PackedJobId::from(id)) else { return Ok(()) };
        let (line, wakes, written) = (Arc::clone(&shelved.line), shelved.wakes(), shelved.revision());
        let (job, revision) = found.filter(|(job, _)| job.end().is_none()).ok_or(Misread::Foreign)?;
        match revision.cmp(&written) {
            Ordering::Less => return Err(Misread::Early),
            Ordering::Greater => return Err(Misread::Foreign),
            Ordering::Equal => {}
        }
        self.came_into_memory(id);
        self.roll.unshelve(seat, id.clone());
        if let Some(at) = wakes {
            self.timers.remove((at, seat));
        }
        self.undecided_shelved.remove(&seat);
        self.queue.unshelve(&Spot { line: Arc::clone(&line), seat });
        let charge = Charge { tenant: Arc::clone(&line.tenant), topic: self.name(&job.topic), key: None };
        let entry = Entry::new(Arc::new(job), revision, Spot { line, seat }, charge);
        self.jobs.insert(id.clone(), entry);
        self.reindex(id, now);
        Ok(())
    }

    /// Takes a job out of memory, if it can and should be.
    pub(super) fn shelve_if_too_much(&mut self, id: &JobId) {
        let Some(entry) = self.jobs.get(id).filter(|entry| is_at_rest(entry) && !self.dirty.contains(id)) else { return };
        let spot = entry.spot();
        let too_much = if self.queue.has(&spot) {
            self.queue.is_crowded(&spot.line)
        } else {
            self.is_crowded() || (is_far(entry.timer, &entry.job) && !self.undecided.contains(id))
        };
        // A job of a paused run stands in no line in which it would be found again.
        if !too_much || !can_be_shelved(&entry.job) || self.holds.run_of(id).is_some() {
            return;
        }
        let Some(entry) = self.jobs.remove(id) else { return };
        self.inputs.take(id);
        self.queue.shelve(&spot);
        if self.undecided.remove(id) {
            self.undecided_shelved.insert(spot.seat);
        }
        let (name, state) = (PackedJobId::from(id), entry.job.state.tag());
        self.roll.shelve(spot.seat, Shelved::new(name, state, entry.revision, spot.line, entry.timer));
    }

    /// Whether a job that comes need not come into memory.
    pub(super) fn goes_to_shelf(&self, job: &Job, line: &Line, now: Timestamp) -> bool {
        can_be_shelved(job)
            && match waits_for(job, now) {
                WaitsFor::Worker => self.queue.is_crowded(line),
                WaitsFor::Decision => self.is_crowded(),
                WaitsFor::Time => self.is_crowded() || is_far(job.wakes_at(now), job),
            }
    }

    /// Puts a job on the shelf that has not been in memory.
    pub(super) fn shelve(&mut self, job: &Job, revision: u64, spot: &Spot, now: Timestamp) {
        let name = PackedJobId::from(&job.id);
        if self.shelve_as(name, job, revision, spot.clone(), now) {
            let market = market(&spot.line.class, self.topics.resolve(&job.topic)).to_owned();
            self.queue.add_shelved(&spot.line, &market, &[spot.seat]);
            self.fresh = true;
        }
    }

    /// The same without its line, in which it still has to be put if this says so: it waits for a worker.
    pub(super) fn shelve_as(&mut self, name: PackedJobId, job: &Job, revision: u64, spot: Spot, now: Timestamp) -> bool {
        let waits_for = waits_for(job, now);
        if matches!(waits_for, WaitsFor::Decision) {
            self.undecided_shelved.insert(spot.seat);
        }
        let wakes = job.wakes_at(now);
        if let Some(at) = wakes {
            self.timers.insert((at, spot.seat), ());
        }
        self.roll.shelve(spot.seat, Shelved::new(name, job.state.tag(), revision, spot.line, wakes));
        matches!(waits_for, WaitsFor::Worker)
    }

    /// Whether there are so many jobs in memory that no more should be than must.
    fn is_crowded(&self) -> bool {
        self.jobs.len() > CROWDED * self.settings.whole.cell
    }
}

/// What a job waits for that no worker has.
enum WaitsFor {
    Worker,
    Decision,
    Time,
}

/// Whether the last decision still holds is seen when the job is fetched.
fn waits_for(job: &Job, now: Timestamp) -> WaitsFor {
    match job.state {
        State::Scheduled { not_before, .. } if not_before <= now.max(job.updated) => WaitsFor::Worker,
        State::Pending { not_before } if not_before <= now => WaitsFor::Decision,
        _ => WaitsFor::Time,
    }
}

/// Whether nothing will happen with it by itself for a while.
fn is_far(wakes: Option<Timestamp>, job: &Job) -> bool {
    wakes.is_none_or(|at| at.since(job.updated) > SOON)
}

/// Whether all of it is written, and nobody was asked about it.
const fn is_at_rest(entry: &Entry) -> bool {
    entry.passed.is_empty() && !entry.asked
}
