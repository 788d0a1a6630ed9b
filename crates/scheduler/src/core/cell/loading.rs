//! After a takeover: jobs that are still being read, while those that were read go on.
//!
//! What a worker has is read before anything else, so that slots and limits are exact from the first moment on. The rest follows,
//! the oldest first. What depends on how many there are, or on all being here, waits until they are.

use std::collections::HashSet;
use std::sync::Arc;

use busbar_protocol::ids::{JobId, PackedJobId};
use busbar_protocol::time::Timestamp;

use super::super::flow::Charge;
use super::super::job::Job;
use super::super::line::{Class, Line, Rank, Seat, Spot};
use super::super::sketch::{Kind, Sketch};
use super::Cell;
use super::placing::market;

/// Live jobs that were read together.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// Those that must be known whole, with their revisions and classes.
    pub whole: Vec<(Job, u64, Arc<Class>)>,
    /// Those of which no more was read than by what they wait: they go to the shelf, and are fetched like all on it when they are
    /// needed.
    pub sketches: Vec<Sketch>,
    /// Of what kind they are.
    pub kinds: Vec<Kind>,
}

/// What must be known until all jobs are read.
#[derive(Clone, Debug, Default)]
pub(super) struct Loading {
    /// How many are still to be read.
    ahead: usize,
    /// Jobs that are in memory or were: a page that was read before they ended must not bring them back.
    known: HashSet<PackedJobId>,
}

impl Loading {
    pub(super) const fn ahead(&self) -> usize {
        self.ahead
    }
}

/// A kind of jobs while a page of them is taken in.
struct Taking {
    /// The one that is being taken in; what all of the kind have in common is in it.
    job: Job,
    charge: Charge,
    line: Arc<Line>,
    /// Those that wait for a worker.
    ready: Vec<Seat>,
    count: u64,
}

impl Cell {
    /// So many jobs are to be read yet.
    pub fn begin_loading(&mut self, ahead: usize) {
        self.roll.expect(ahead);
        let known = self.jobs.keys().map(PackedJobId::from).collect();
        self.loading = Some(Loading { ahead, known });
    }

    /// Whether jobs are still being read.
    #[must_use]
    pub const fn is_loading(&self) -> bool {
        self.loading.is_some()
    }

    /// Whether a job may be live although it is not known here.
    #[must_use]
    pub fn may_be_unread(&self, id: &JobId) -> bool {
        self.is_unknown(&PackedJobId::from(id))
    }

    /// A job is in memory now: only there it can end.
    pub(super) fn came_into_memory(&mut self, id: &JobId) {
        if let Some(loading) = &mut self.loading {
            loading.known.insert(PackedJobId::from(id));
        }
    }

    fn is_unknown(&self, name: &PackedJobId) -> bool {
        self.loading.as_ref().is_some_and(|loading| !loading.known.contains(name)) && self.roll.shelved(name).is_none()
    }

    /// Jobs were read.
    pub fn load(&mut self, page: Page, now: Timestamp) {
        let Some(loading) = &mut self.loading else { return };
        loading.ahead = loading.ahead.saturating_sub(page.whole.len() + page.sketches.len());
        for (job, revision, class) in page.whole {
            if self.may_be_unread(&job.id) {
                self.insert(job, revision, class, now);
            }
        }
        let mut kinds: Vec<Taking> = page.kinds.into_iter().map(|kind| self.begin_taking(kind)).collect();
        for sketch in page.sketches {
            if let Some(kind) = kinds.get_mut(sketch.kind()).filter(|_| self.is_unknown(sketch.name())) {
                self.take_in_sketch(sketch, kind, now);
            }
        }
        kinds.into_iter().for_each(|kind| self.end_taking(&kind));
    }

    fn begin_taking(&mut self, kind: Kind) -> Taking {
        let class = Arc::clone(&kind.class);
        let job = kind.into_job();
        let charge = self.charge_of(&job);
        let class = self.class_of(class, &job, &charge.tenant);
        let line = self.line(Line { class, rank: Rank::from(job.priority), tenant: Arc::clone(&charge.tenant) });
        Taking { job, charge, line, ready: Vec::new(), count: 0 }
    }

    fn take_in_sketch(&mut self, sketch: Sketch, kind: &mut Taking, now: Timestamp) {
        let revision = sketch.revision();
        let name = sketch.draw(&mut kind.job);
        *self.live.entry(kind.job.state.tag()).or_default() += 1;
        kind.count += 1;
        let spot = Spot { line: Arc::clone(&kind.line), seat: self.roll.free_seat(kind.job.created) };
        let seat = spot.seat;
        if self.shelve_as(name, &kind.job, revision, spot, now) {
            kind.ready.push(seat);
        }
    }

    /// What is counted and lined up for all jobs of a kind at once.
    fn end_taking(&mut self, kind: &Taking) {
        self.flow.wait_more(&kind.charge, kind.count);
        if !kind.ready.is_empty() {
            let market = market(&kind.line.class, self.topics.resolve(&kind.job.topic)).to_owned();
            self.queue.add_shelved(&kind.line, &market, &kind.ready);
            self.fresh = true;
        }
    }

    /// A job was read before its turn, because something is to happen with it: it comes into memory.
    pub fn load_one(&mut self, job: Job, revision: u64, class: Arc<Class>, now: Timestamp) {
        if self.may_be_unread(&job.id) {
            self.take_in(Arc::new(job), revision, class, false, now);
        }
    }

    /// All jobs were read.
    pub fn end_loading(&mut self) {
        self.loading = None;
    }

    /// Whether it can be said now if a new job is taken: not, where that depends on how many there are and they are still being
    /// counted.
    #[must_use]
    pub fn can_judge(&self, job: &Job) -> bool {
        if self.loading.is_none() {
            return true;
        }
        let bounds = self.flow.bounds();
        let topic = bounds.topic(&job.topic, self.topics.resolve(&job.topic));
        let counted = bounds.tenant(&job.tenant_id).backlog_max > 0 || topic.flow.backlog_max > 0;
        !counted && job.plan.concurrency_key.is_empty()
    }
}
