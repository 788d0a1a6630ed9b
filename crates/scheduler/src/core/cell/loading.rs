//! After a takeover: jobs that are still being read, while those that were read go on.
//!
//! What a worker has is read before anything else, so that slots and limits are exact from the first moment on. The rest follows,
//! the oldest first. What depends on how many there are, or on all being here, waits until they are.

use std::collections::BTreeSet;
use std::sync::Arc;

use busbar_protocol::ids::JobId;
use busbar_protocol::time::Timestamp;

use super::super::job::Job;
use super::super::line::Class;
use super::super::sketch::Sketch;
use super::Cell;

/// What was read of a job.
#[derive(Clone, Debug)]
pub enum Read {
    /// All of it.
    Whole(Box<Job>),
    /// By what it waits: it goes to the shelf.
    Sketch(Sketch),
}

/// A job as it was read, with its revision and its class.
pub type Loaded = (Read, u64, Arc<Class>);

/// What must be known until all jobs are read.
#[derive(Clone, Debug, Default)]
pub(super) struct Loading {
    /// How many are still to be read.
    ahead: usize,
    /// Jobs that have ended in the meantime: a page that was read before must not bring them back.
    ended: BTreeSet<JobId>,
}

impl Loading {
    pub(super) const fn ahead(&self) -> usize {
        self.ahead
    }

    pub(super) fn ended(&mut self, id: JobId) {
        self.ended.insert(id);
    }
}

impl Cell {
    /// So many jobs are to be read yet.
    pub fn begin_loading(&mut self, ahead: usize) {
        self.roll.expect(ahead);
        self.loading = Some(Loading { ahead, ended: BTreeSet::new() });
    }

    /// Whether jobs are still being read.
    #[must_use]
    pub const fn is_loading(&self) -> bool {
        self.loading.is_some()
    }

    /// Whether a job may be live although it is not known here.
    #[must_use]
    pub fn may_be_unread(&self, id: &JobId) -> bool {
        self.loading.as_ref().is_some_and(|loading| !loading.ended.contains(id)) && !self.is_live(id)
    }

    /// Jobs were read.
    pub fn load(&mut self, jobs: Vec<Loaded>, now: Timestamp) {
        let Some(loading) = &mut self.loading else { return };
        loading.ahead = loading.ahead.saturating_sub(jobs.len());
        for (read, revision, class) in jobs {
            match read {
                Read::Whole(job) if self.may_be_unread(&job.id) => self.insert(*job, revision, class, now),
                Read::Sketch(sketch) if self.may_be_unread(sketch.id()) => self.insert_sketch(sketch, revision, class, now),
                Read::Whole(_) | Read::Sketch(_) => {}
            }
        }
    }

    /// Takes in a job that waits, of which no more was read than that: it is fetched like all on the shelf when it is needed.
    fn insert_sketch(&mut self, sketch: Sketch, revision: u64, class: Arc<Class>, now: Timestamp) {
        let job = sketch.into_job();
        let charge = self.charge_of(&job);
        let spot = self.count_in(&job, &charge, class, now);
        self.shelve(&job, revision, spot, now);
    }

    /// A job was read before its turn, because something is to happen with it: it comes into memory.
    pub fn load_one(&mut self, job: Job, revision: u64, class: Arc<Class>, now: Timestamp) {
        if self.may_be_unread(&job.id) {
            self.take_in(job, revision, class, false, now);
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
