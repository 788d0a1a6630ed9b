//! What must be committed, and what follows once it is durable.

use std::sync::Arc;

use bytes::Bytes;

use busbar_protocol::busbar::{JobState, WorkerKind};
use busbar_protocol::ids::JobId;
use busbar_protocol::ports::{CommitId, Unit};
use busbar_protocol::time::Timestamp;

use super::super::commit::{self, Birth, Change, Demand};
use super::super::job::Job;
use super::super::line::Class;
use super::super::transition::Command;
use super::super::workers::AttemptKey;
use super::{Cell, Order};

impl Cell {
    /// The unit of a job that is not in the cell yet; once it is committed, [`Cell::insert_new`] takes the job in.
    pub fn admission(&mut self, job: &Job, passed: &[JobState], birth: &Birth) -> (Unit, Vec<Demand>) {
        let id = self.next_commit();
        let change = Change { job, revision: 0, passed, epoch: self.epoch, id };
        commit::birth(&change, birth, &self.settings.retention)
    }

    /// Takes in a job whose first unit is durable.
    pub fn insert_new(&mut self, job: impl Into<Arc<Job>>, class: Arc<Class>, now: Timestamp) {
        let job = job.into();
        // What it is a part of may have ended while it was on its way into the store.
        let orphaned = (job.is_part() && self.group_of(&job).is_none()).then(|| job.parent_job_id.clone());
        self.insert(job, 1, class, now);
        orphaned.iter().for_each(|parent| self.parent_has_ended(parent));
    }

    /// Keeps the input of a job that was just taken in, if it is in memory: its first dispatch takes it along.
    pub fn keep_input(&mut self, id: &JobId, input: Bytes) {
        if self.jobs.contains_key(id) {
            self.inputs.keep(id, input);
        }
    }

    /// The input of a job, if it is kept; once.
    pub fn take_input(&mut self, id: &JobId) -> Option<Bytes> {
        self.inputs.take(id)
    }

    /// The units of everything that changed since the last call.
    pub fn take_units(&mut self) -> Vec<(JobId, Unit)> {
        let dirty = std::mem::take(&mut self.dirty);
        let mut units = Vec::with_capacity(dirty.len());
        for id in dirty {
            let commit_id = self.next_commit();
            let Some(entry) = self.jobs.get_mut(&id) else { continue };
            let passed = std::mem::take(&mut entry.passed);
            let change = Change { job: &entry.job, revision: entry.revision, passed: &passed, epoch: self.epoch, id: commit_id };
            let unit = commit::unit(&change, &self.settings.retention);
            entry.revision += 1;
            entry.under_way = true;
            units.push((id, unit));
        }
        units
    }

    /// How many jobs have changed since their units were taken.
    #[must_use]
    pub fn changes(&self) -> usize {
        self.dirty.len()
    }

    /// Whether a job has changed again while its unit is under way: that cannot be committed before the unit is durable.
    #[must_use]
    pub fn has_changed_again(&self) -> bool {
        self.dirty.iter().any(|id| self.jobs.get(id).is_some_and(|entry| entry.under_way))
    }

    /// What a job's unit said is durable: if it has ended, it leaves; if it waits behind many others, it leaves memory. What has
    /// changed again meanwhile stays until that is durable, too.
    pub fn committed(&mut self, id: &JobId, now: Timestamp) {
        if let Some(entry) = self.jobs.get_mut(id) {
            entry.under_way = false;
        }
        let Some(entry) = self.jobs.get(id).filter(|_| !self.dirty.contains(id)) else { return };
        if entry.job.end().is_none() {
            // It may have waited for this before it goes again.
            if entry.job.attempt > 0 && entry.job.state.tag() == JobState::Scheduled {
                self.reindex(id, now);
            }
            return self.shelve_if_too_much(id);
        }
        let state = entry.job.state.tag();
        self.count_down(state);
        self.inputs.take(id);
        if let Some(entry) = self.jobs.remove(id) {
            self.roll.leave(entry.seat);
            self.flow.live(&entry.charge, entry.of_key(), false);
            self.leave_family(&entry.job);
            self.part_ended(&entry.job);
            self.learn(&entry.job, now);
        }
    }

    /// What must be sent once all that was taken from here up to now is durable.
    pub fn take_orders(&mut self) -> Vec<Order> {
        std::mem::take(&mut self.orders)
    }

    /// Sends an attempt again whose first sending is in doubt, if it is still the present one and with a worker that cannot show it.
    pub fn send_again(&mut self, (id, attempt): &AttemptKey) {
        let Some(job) = self.job(id).filter(|job| job.attempt == *attempt) else { return };
        let Some(hold) = job.hold().filter(|hold| hold.kind != WorkerKind::Native) else { return };
        let order =
            Order { job: id.clone(), command: Command::Dispatch { attempt: *attempt }, worker_id: hold.worker_id.clone() };
        self.orders.push(order);
    }

    /// Whoever sent an attempt died about then, perhaps before it had left. Native workers show whether it came, and announced ones tell
    /// whether they execute anything; to a queue group it is sent again, since word that nobody was there would have reached nobody.
    pub fn doubt(&mut self, key: &AttemptKey) {
        let Some(hold) = self.job(&key.0).and_then(Job::hold) else { return };
        match hold.kind {
            WorkerKind::Announced => {
                let worker_id = hold.worker_id.clone();
                self.workers.doubt(&worker_id, key);
            }
            WorkerKind::Silent => self.send_again(key),
            WorkerKind::Native | WorkerKind::Unspecified => {}
        }
    }

    /// Whether something is still to be sent: an attempt that is over by now, even if that is not durable yet, goes to nobody.
    #[must_use]
    pub fn is_due(&self, order: &Order) -> bool {
        match order.command {
            Command::Dispatch { attempt } => {
                self.job(&order.job).is_some_and(|job| job.attempt == attempt && job.hold().is_some())
            }
            Command::Stop { .. } => true,
        }
    }

    pub(super) fn next_commit(&mut self) -> CommitId {
        self.commits += 1;
        CommitId::of_term(self.epoch, self.term, self.commits)
    }
}
