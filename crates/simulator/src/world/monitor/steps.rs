//! Each change of a job: legal, told, listed, and after no end.

use busbar_protocol::busbar::JobState;
use busbar_protocol::keys;
use busbar_protocol::ports::{Unit, Write};
use busbar_protocol::time::Timestamp;
use busbar_scheduler::core::job::{Job, Outcome};

use super::{Known, Seen, event};
use crate::world::invariants::is_allowed;

impl Seen {
    /// A commit has changed a job.
    pub(super) fn job_changes(&mut self, at: Timestamp, id: &str, job: Job, revision: u64, unit: &Unit) {
        let before = self.jobs.remove(id);
        let known = before.as_ref().map_or(0, |before| before.revision);
        if revision != known + 1 {
            self.breaks(format!("{id} went from revision {known} to {revision}"));
        }
        if before.as_ref().is_some_and(|before| before.job.end().is_some()) {
            self.breaks(format!("{id} was changed after its end"));
        }
        self.passed(id, before.as_ref().map(|before| &before.job), &job, unit);
        self.attempts(at, id, before.as_ref().map(|before| &before.job), &job);
        let listed = listed(unit, id).unwrap_or_else(|| before.as_ref().is_some_and(|before| before.listed));
        if listed != job.end().is_none() {
            self.breaks(format!("{id} is {}, listed as live: {listed}", job.state.tag().short_name()));
        }
        self.death(id, before.is_none(), &job, unit);
        if before.is_none() && self.discarded.contains(&job.redrive_of) {
            self.breaks(format!("{id} is another try of {}, whose dead letter was thrown away", job.redrive_of));
        }
        self.jobs.insert(id.to_owned(), Known { job, revision, listed, at });
    }

    /// What the record says is what the log tells, step by step.
    fn passed(&mut self, id: &str, before: Option<&Job>, job: &Job, unit: &Unit) {
        let (from, to) = (before.map(|before| before.state.tag()), job.state.tag());
        let told = event(unit);
        let mut now = from;
        for state in told.iter().flat_map(|event| &event.states).filter_map(|state| JobState::try_from(*state).ok()) {
            if now.is_some_and(|now| !is_allowed(now, state)) {
                self.breaks(format!(
                    "{id} went from {} to {}",
                    now.map_or("nothing", |now| now.short_name()),
                    state.short_name()
                ));
            }
            now = Some(state);
        }
        if now != Some(to) {
            self.breaks(format!("{id} is {}, and the log does not tell it", to.short_name()));
        }
        if told.is_some_and(|event| event.attempt != job.attempt) {
            self.breaks(format!("{id} is at attempt {}, and the log tells of another", job.attempt));
        }
    }

    /// What should have succeeded and did not leaves a dead letter; nothing else does, and of its parts the whole job speaks.
    fn death(&mut self, id: &str, first: bool, job: &Job, unit: &Unit) {
        let refused = first && job.from_bus;
        let dead =
            job.end().is_some_and(|end| matches!(end.outcome, Outcome::Failed | Outcome::Timeout)) && !refused && !job.is_part();
        let letter = unit.writes.iter().any(|write| matches!(write, Write::Put { key, .. } if *key == keys::dead_letter(id)));
        let indexed = unit.writes.iter().any(|write| match write {
            Write::IndexAdd { index, member, .. } => index == keys::INDEX_DEAD && member == id,
            _ => false,
        });
        if letter != dead || indexed != dead {
            self.breaks(format!("{id} is dead: {dead}, leaves a letter: {letter}, is listed as dead: {indexed}"));
        }
    }
}

/// What a unit does to a job's place in the index of live jobs.
fn listed(unit: &Unit, id: &str) -> Option<bool> {
    unit.writes.iter().rev().find_map(|write| match write {
        Write::IndexAdd { index, member, .. } if index == keys::INDEX_LIVE && member == id => Some(true),
        Write::IndexRemove { index, member } if index == keys::INDEX_LIVE && member == id => Some(false),
        _ => None,
    })
}
