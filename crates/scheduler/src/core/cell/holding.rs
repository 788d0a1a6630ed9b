//! Pauses and drains: set by operators, or by workers that were told to slow down.

use std::collections::BTreeSet;
use std::time::Duration;

use busbar_protocol::busbar::{Drain, Pause, PauseName, PauseScope};
use busbar_protocol::ids::JobId;
use busbar_protocol::keys;
use busbar_protocol::pause_hint::{HintScope, PauseHint};
use busbar_protocol::ports::Unit;
use busbar_protocol::time::Timestamp;

use super::super::commit;
use super::super::flow::Charge;
use super::super::holds::{HoldError, Holds, key_text};
use super::Cell;
use super::placing::Alarm;

/// The shortest pause that a worker can ask for: without it, a job could go to and fro as fast as the bus carries it.
const PAUSE_MIN: Duration = Duration::from_millis(100);

impl Cell {
    /// What is paused and what drains.
    #[must_use]
    pub const fn holds(&self) -> &Holds {
        &self.holds
    }

    /// Sets pauses; all of them, or none.
    ///
    /// # Errors
    /// [`HoldError`] of the first that is refused.
    pub fn pause(&mut self, pauses: Vec<Pause>, now: Timestamp) -> Result<(), HoldError> {
        let mut holds = self.holds.clone();
        for pause in pauses {
            holds.pause(Pause { since_ms: now.millis(), ..pause })?;
        }
        self.change_holds(holds, now);
        Ok(())
    }

    /// Lifts pauses.
    pub fn lift(&mut self, names: &[PauseName], now: Timestamp) {
        let mut holds = self.holds.clone();
        let mut any = false;
        for name in names {
            any |= holds.lift(name);
        }
        if any {
            self.change_holds(holds, now);
            self.reconsider();
        }
    }

    /// Lets workers drain; all of them, or none.
    ///
    /// # Errors
    /// [`HoldError`] of the first that is refused.
    pub fn drain(&mut self, drains: Vec<Drain>, now: Timestamp) -> Result<(), HoldError> {
        let mut holds = self.holds.clone();
        for drain in drains {
            holds.drain(Drain { since_ms: now.millis(), ..drain })?;
        }
        self.change_holds(holds, now);
        Ok(())
    }

    /// Lets workers take jobs again.
    pub fn undrain(&mut self, worker_ids: &[String], now: Timestamp) {
        let mut holds = self.holds.clone();
        let mut any = false;
        for id in worker_ids {
            any |= holds.undrain(id);
        }
        if any {
            self.change_holds(holds, now);
            self.reconsider();
        }
    }

    /// The unit that keeps the holds, if they changed since the last call.
    pub fn take_holds_unit(&mut self) -> Option<Unit> {
        if !std::mem::take(&mut self.holds_changed) {
            return None;
        }
        let id = self.next_commit();
        let unit = commit::document(keys::HOLDS, &self.holds.to_record(), self.holds_revision, self.epoch, id);
        self.holds_revision += 1;
        Some(unit)
    }

    /// A worker's answer said that what a job needs takes nothing more for a while.
    pub(super) fn slow_down(&mut self, charge: &Charge, worker_id: &str, message: &str, now: Timestamp) {
        let hint = PauseHint::read(message).map_or(PauseHint::DEFAULT, |(hint, _)| hint);
        let pool = || self.workers.get(worker_id).map(|worker| worker.pool.clone()).unwrap_or_default();
        let (scope, name) = match (hint.scope(), charge.key_name()) {
            (HintScope::Topic, _) => (PauseScope::Topic, charge.topic.to_string()),
            (HintScope::Tenant, _) => (PauseScope::Tenant, charge.tenant.to_string()),
            (HintScope::Key, Some(name)) => (PauseScope::Key, key_text(&name)),
            (HintScope::Key, None) => (PauseScope::Topic, charge.topic.to_string()),
            (HintScope::Pool, _) => (PauseScope::Pool, pool()),
            (HintScope::Worker, _) => (PauseScope::Worker, worker_id.to_owned()),
        };
        let what = PauseName { scope: scope.into(), name };
        let until_ms = now.after(hint.lasts().max(PAUSE_MIN)).millis();
        if self.holds.find(&what).is_some_and(|pause| pause.until_ms == 0 || pause.until_ms >= until_ms) {
            return;
        }
        let set_by = format!("worker:{worker_id}");
        let pause = Pause { what: Some(what), since_ms: now.millis(), until_ms, reason: message.to_owned(), set_by };
        // Where there is no place for one more pause, the job is tried again as soon as any other.
        if self.holds.pause(pause).is_ok() {
            self.holds_changed = true;
            self.watch_pauses();
        }
    }

    /// Pauses may be over.
    pub(super) fn pauses_end(&mut self, now: Timestamp) {
        let runs = self.holds.runs();
        if self.holds.expire(now) {
            self.follow_runs(&runs, now);
            self.reconsider();
        }
        self.watch_pauses();
    }

    /// After a takeover: somebody must look when the pauses that were read are over.
    pub(super) fn watch_pauses(&mut self) {
        self.alarms.extend(self.holds.next_end().map(|at| (at, Alarm::Pause)));
    }

    fn change_holds(&mut self, holds: Holds, now: Timestamp) {
        let runs = self.holds.runs();
        self.holds = holds;
        self.follow_runs(&runs, now);
        self.holds_changed = true;
        self.watch_pauses();
        // Whoever avoided workers for the sake of one that is held now may go to them.
        self.queue.room_came();
    }

    /// Jobs of runs that are paused now leave their lines, and those of runs that were until now line up where they were. Those on the shelf follow when they
    /// come from there.
    fn follow_runs(&mut self, paused_before: &BTreeSet<String>, now: Timestamp) {
        for run_id in self.holds.runs().symmetric_difference(paused_before) {
            let prefix = format!("{run_id}:");
            // What is no beginning of a job's name is no run's.
            let Ok(first) = JobId::parse(prefix.clone()) else { continue };
            let jobs = self.jobs.range(first..).map(|(id, _)| id).take_while(|id| id.as_str().starts_with(&prefix));
            for id in jobs.cloned().collect::<Vec<_>>() {
                self.reindex(&id, now);
            }
        }
    }

    fn reconsider(&mut self) {
        self.open_everything();
        self.queue.room_came();
    }
}
