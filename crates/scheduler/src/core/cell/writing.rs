//! What must be committed, and what follows once it is durable.

use bytes::Bytes;

use busbar_protocol::busbar::JobState;
use busbar_protocol::ids::JobId;
use busbar_protocol::ports::{CommitId, Unit};
use busbar_protocol::time::Timestamp;

use super::super::commit::{self, Birth, Change, Demand};
use super::super::job::Job;
use super::super::transition::Command;
use super::{Cell, Order};

impl Cell {
    /// The unit of a job that is not in the cell yet; once it is committed, [`Cell::insert`] takes the job in.
    pub fn admission(&mut self, job: &Job, passed: &[JobState], birth: &Birth) -> (Unit, Vec<Demand>) {
        let id = self.next_commit();
        let change = Change { job, revision: 0, passed, epoch: self.epoch, id };
        commit::birth(&change, birth, &self.settings.retention)
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
            units.push((id, unit));
        }
        units
    }

    /// A job's last change is durable: if it has ended, it leaves; if it waits behind many others, it leaves memory.
    pub fn committed(&mut self, id: &JobId, now: Timestamp) {
        let Some(entry) = self.jobs.get(id) else { return };
        if entry.job.end().is_none() {
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
        if let Some(loading) = &mut self.loading {
            loading.ended(id.clone());
        }
    }

    /// What must be sent, now that everything is durable. A command whose attempt is over by now is left out.
    pub fn take_orders(&mut self) -> Vec<Order> {
        let mut orders = std::mem::take(&mut self.orders);
        orders.retain(|order| match order.command {
            Command::Dispatch => self.job(&order.job).is_some_and(|job| job.hold().is_some()),
            Command::Stop { .. } => true,
        });
        orders
    }

    pub(super) fn next_commit(&mut self) -> CommitId {
        self.commits += 1;
        CommitId::of_term(self.epoch, self.term, self.commits)
    }
}
