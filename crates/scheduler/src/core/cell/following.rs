//! How a change of a job is followed everywhere: in slots, counters and timers, in the lines, and in what must be written and sent.

use std::sync::Arc;
use std::time::Duration;

use busbar_protocol::busbar::JobState;
use busbar_protocol::ids::JobId;
use busbar_protocol::time::Timestamp;

use super::super::fact;
use super::super::flow::Charge;
use super::super::job::{Hold, Job, State};
use super::super::transition::{self, Event, Rejected, Transition};
use super::super::workers::AttemptKey;
use super::{Cell, Order};

/// A worker's first sign of work is written with the next change, or after this time.
const RUNNING_WRITTEN_AFTER: Duration = Duration::from_secs(1);

impl Cell {
    /// Applies an event to a live job.
    ///
    /// # Errors
    /// [`Rejected`] says why it does nothing.
    pub fn apply(&mut self, id: &JobId, event: &Event, now: Timestamp) -> Result<(), Rejected> {
        let entry = self.jobs.get_mut(id).ok_or(Rejected::Terminal)?;
        if matches!(event, Event::Decided(_)) {
            entry.asked = false;
        }
        let Transition { next, commands } = transition::decide(&entry.job, event, &self.settings.limits, now)?;
        let before = std::mem::replace(&mut entry.job, Arc::new(next));
        self.follow(id, &before, now);
        let entry = &self.jobs[id];
        if matches!(event, Event::Decided(_)) && before.request != entry.job.request {
            // The kernel wants the worker to see another payload.
            self.inputs.take(id);
        }
        let holder = entry.job.hold().or(before.hold()).map(|hold| hold.worker_id.clone()).unwrap_or_default();
        self.orders.extend(commands.into_iter().map(|command| Order { job: id.clone(), command, worker_id: holder.clone() }));
        self.follow_cancellation(id, &before, now);
        self.follow_replication(id, &before, now);
        self.reindex(id, now);
        Ok(())
    }

    /// Brings slots, counters and what must be written in step with a job that has just changed.
    fn follow(&mut self, id: &JobId, before: &Job, now: Timestamp) {
        let entry = self.jobs.get_mut(id).expect("the caller has just changed it");
        self.facts.extend(fact::of_step(before, &entry.job));
        let (old, new) = (before.state.tag(), entry.job.state.tag());
        if old != new {
            entry.passed.push(new);
        }
        let first_sign = old == JobState::Dispatched && new == JobState::Running;
        let progress = old == JobState::Running && new == JobState::Running && before.cancel == entry.job.cancel;
        if !first_sign && !progress {
            self.dirty.insert(id.clone());
        }
        let hold = entry.job.hold().cloned();
        let attempt = (id.clone(), entry.job.attempt);
        let charge = entry.charge.clone();
        let (waited, waits) = (before.waits(), entry.job.waits());
        if old != new {
            self.count_down(old);
            *self.live.entry(new).or_default() += 1;
        }
        if waited != waits {
            self.flow.wait(&charge, waits);
        }
        match (before.hold(), hold) {
            (Some(hold), None) => self.leave_slot(before, &charge, &hold.worker_id),
            (None, Some(hold)) => self.take_slot(&charge, attempt, &hold, now),
            (Some(_), Some(_)) | (None, None) => {}
        }
    }

    /// The attempt is out; that it counts is seen to by whoever let it start.
    pub(super) fn take_slot(&mut self, charge: &Charge, attempt: AttemptKey, hold: &Hold, now: Timestamp) {
        if hold.worker_id.is_empty() {
            self.queued_out.entry(Arc::clone(&charge.topic)).or_default().insert(attempt.0);
        } else {
            self.workers.take(hold, attempt, charge.clone(), now);
        }
    }

    /// The attempt is over for its job. A worker may still be busy with it, and then says when it is not; of a queue group nobody
    /// says anything.
    pub(super) fn leave_slot(&mut self, job: &Job, charge: &Charge, worker_id: &str) {
        if !worker_id.is_empty() {
            self.workers.abandon(worker_id, &(job.id.clone(), job.attempt));
            return;
        }
        if let Some(out) = self.queued_out.get_mut(&charge.topic)
            && out.remove(&job.id)
        {
            if out.is_empty() {
                self.queued_out.remove(&charge.topic);
            }
            self.give_back(charge);
            self.queue.room_came();
        }
    }

    pub(super) fn count_down(&mut self, state: JobState) {
        if let Some(count) = self.live.get_mut(&state) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.live.remove(&state);
            }
        }
    }

    /// Puts a job where its state says: queue, list of the undecided, timers.
    pub(super) fn reindex(&mut self, id: &JobId, now: Timestamp) {
        let Some(entry) = self.jobs.get(id) else { return };
        let job = &entry.job;
        let judged = is_judged(job, &self.snapshot);
        let may_go = judged && self.knows_siblings(job) && self.holds.run_of(id).is_none();
        let (ready, undecided) = match job.state {
            // A dispatch that was decided and is over before it left is written first: attempts rise one by one.
            State::Scheduled { not_before, .. } => {
                let written = !entry.passed.contains(&JobState::Dispatched);
                (may_go && written && not_before <= now.max(job.updated), !judged && !entry.asked)
            }
            State::Pending { not_before } => (false, not_before <= now && !entry.asked),
            State::ApprovalRequired { .. }
            | State::Dispatched { .. }
            | State::Running { .. }
            | State::Replicated { .. }
            | State::Ended(_) => (false, false),
        };
        if undecided {
            self.undecided.insert(id.clone());
        } else {
            self.undecided.remove(id);
        }
        let unwritten = (!entry.passed.is_empty() && job.state.tag() == JobState::Running && !self.dirty.contains(id))
            .then(|| job.updated.after(RUNNING_WRITTEN_AFTER));
        let wakes = [job.wakes_at(now), unwritten].into_iter().flatten().min();
        let Some(entry) = self.jobs.get_mut(id) else { return };
        if wakes != entry.timer {
            if let Some(old) = std::mem::replace(&mut entry.timer, wakes) {
                self.timers.remove((old, entry.seat));
            }
            if let Some(at) = wakes {
                self.timers.insert((at, entry.seat), ());
            }
        }
        if ready { self.line_up(id) } else { self.leave_line(id, now) }
    }

    /// Writes a first sign of work that nothing else has written in the meantime.
    pub(super) fn write_running(&mut self, id: &JobId, now: Timestamp) {
        let Some(entry) = self.jobs.get(id) else { return };
        let due = now >= entry.job.updated.after(RUNNING_WRITTEN_AFTER);
        if due && !entry.passed.is_empty() && entry.job.state.tag() == JobState::Running {
            self.dirty.insert(id.clone());
        }
    }

    pub(super) fn is_judged(&self, job: &Job) -> bool {
        is_judged(job, &self.snapshot)
    }
}

/// Whether the last decision on a job was made under the policy in force.
fn is_judged(job: &Job, snapshot: &str) -> bool {
    job.decision.as_ref().is_some_and(|decision| decision.snapshot == snapshot)
}
