//! New jobs that go to a worker with their first commit: they are in memory, and hold their slot, before they stand in the store.
//!
//! Nobody is told of them before that, and they leave without a trace if the store does not take them.

use std::sync::Arc;

use busbar_protocol::busbar::JobState;
use busbar_protocol::ids::JobId;
use busbar_protocol::ports::Unit;
use busbar_protocol::time::Timestamp;

use super::super::commit::{self, Birth, Change, Demand};
use super::super::job::{Job, State};
use super::super::line::Class;
use super::Cell;

impl Cell {
    /// How many attempts workers could take now that they are not given yet.
    #[must_use]
    pub fn free_slots(&self, now: Timestamp) -> usize {
        let free = |capacity: u32, taken: usize| usize::try_from(capacity).unwrap_or(usize::MAX).saturating_sub(taken);
        let taking = self.workers.iter().filter(|(_, worker)| !worker.lost && worker.is_fresh(now));
        taking.fold(0, |sum, (_, worker)| sum.saturating_add(free(worker.capacity, worker.out.len())))
    }

    /// Takes a new job into memory before it stands in the store, if all that it waits for is a worker and nobody else changes with it;
    /// whether it did. It does not count as one that is on its way any more. The next call of [`Cell::place`] gives it a worker when it is
    /// its turn, and [`Cell::birth_ahead`] must follow.
    pub fn insert_ahead(&mut self, job: &Arc<Job>, class: Arc<Class>, now: Timestamp) -> bool {
        let is_ready = matches!(job.state, State::Scheduled { not_before, .. } if not_before <= now);
        let is_alone = job.plan.concurrency_key.is_empty() && job.parent_job_id.is_empty() && !job.is_replicated();
        if !is_ready || !is_alone || self.is_loading() || self.is_live(&job.id) {
            return false;
        }
        self.take_in(Arc::clone(job), 0, class, false, now);
        if let Some(entry) = self.jobs.get_mut(&job.id) {
            entry.unborn = true;
            self.flow.came(&entry.charge);
        }
        true
    }

    /// The unit of a job that was taken in ahead, with its first attempt in it; [`Cell::born`] or [`Cell::withdraw`] must follow. None if
    /// there was no worker for it: then it is not in the cell any more, and on its way as others are.
    pub fn birth_ahead(&mut self, id: &JobId, passed: &[JobState], birth: &Birth, now: Timestamp) -> Option<(Unit, Vec<Demand>)> {
        let commit_id = self.next_commit();
        let entry = self.jobs.get_mut(id).filter(|entry| entry.unborn)?;
        if entry.job.hold().is_none() {
            self.flow.comes(&entry.charge);
            self.withdraw(id, now);
            return None;
        }
        self.dirty.remove(id);
        let passed = [passed, &std::mem::take(&mut entry.passed)].concat();
        (entry.revision, entry.under_way) = (1, true);
        let change = Change { job: &entry.job, revision: 0, passed: &passed, epoch: self.epoch, id: commit_id };
        Some(commit::birth(&change, birth, &self.settings.retention))
    }

    /// A job that was taken in ahead is durable, with the attempt that it had then.
    pub fn born(&mut self, id: &JobId) {
        if let Some(entry) = self.jobs.get_mut(id) {
            (entry.unborn, entry.under_way) = (false, false);
        }
    }

    /// A job that was taken in ahead was not taken by the store, or found no worker: it was never here.
    pub fn withdraw(&mut self, id: &JobId, now: Timestamp) {
        if self.jobs.get(id).is_none_or(|entry| !entry.unborn) {
            return;
        }
        self.leave_line(id, now);
        let Some(entry) = self.jobs.remove(id) else { return };
        let job = &entry.job;
        match job.hold() {
            // It was never sent, so that the slot is free at once.
            Some(hold) if !hold.worker_id.is_empty() => self.workers.free(&hold.worker_id, &(id.clone(), job.attempt)),
            Some(_) => self.leave_slot(job, &entry.charge, ""),
            None if job.waits() => self.flow.wait(&entry.charge, false),
            None => {}
        }
        if let Some(timer) = entry.timer {
            self.timers.remove((timer, entry.seat));
        }
        self.count_down(job.state.tag());
        self.undecided.remove(id);
        self.dirty.remove(id);
        self.orders.retain(|order| order.job != *id);
        self.roll.leave(entry.seat);
    }
}
