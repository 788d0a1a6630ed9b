//! What must be read before something can be done or said: jobs that are shelved, and after a takeover those that were not read
//! yet.

use busbar_protocol::ids::JobId;
use busbar_protocol::ports::{Bus, Clock, Judge, Records, UNITS_MAX};
use busbar_protocol::time::Timestamp;

use super::{Left, Term};
use crate::Ports;
use crate::core::cell::Misread;
use crate::input::{Fetched, Input};
use crate::{intake, takeover, tasks};

impl<B: Bus, R: Records, C: Clock, J: Judge> Term<'_, B, R, C, J> {
    /// Deals with what has arrived, or sees to it that what it needs is read first.
    pub(super) fn handle(&mut self, input: Input, now: Timestamp) -> Result<(), Left> {
        if self.must_wait(&input) {
            self.parked.push(input);
            return Ok(());
        }
        let needed = needed(&input, |id| self.cell.is_shelved(id) || self.cell.may_be_unread(id));
        if needed.is_empty() {
            return self.deal_with(input, now);
        }
        self.fetch(needed, Some(Box::new(input)));
        Ok(())
    }

    /// Whether nothing can be said before all jobs are read.
    fn must_wait(&self, input: &Input) -> bool {
        match input {
            Input::List { .. } => self.cell.is_loading(),
            Input::Admit(admit) => admit.outcomes.iter().flatten().any(|prepared| !self.cell.can_judge(&prepared.job)),
            _ => false,
        }
    }

    /// Jobs were read that were not in memory; what needed them goes on.
    pub(super) fn fetched(&mut self, jobs: Vec<Fetched>, then: Option<Box<Input>>, now: Timestamp) -> Result<(), Left> {
        let mut again = Vec::new();
        for (id, found) in jobs {
            let fetched = match found {
                Some((job, revision)) if self.cell.may_be_unread(&id) => {
                    let class = intake::class_of(&job);
                    self.cell.load_one(job, revision, class, now);
                    Ok(())
                }
                found => self.cell.fetched(&id, found, now),
            };
            match fetched {
                Ok(()) => {}
                Err(Misread::Early) => again.push(id),
                Err(Misread::Foreign) => return Err(Left::Reload),
            }
        }
        match then {
            Some(input) if again.is_empty() => return self.deal_with(*input, now),
            None if again.is_empty() => {}
            then => drop(self.tasks.spawn(tasks::fetch_again(self.ports.clone(), again, then, self.inputs.clone()))),
        }
        Ok(())
    }

    /// All jobs are in the cell: what waited for that goes on.
    pub(super) fn all_loaded(&mut self, now: Timestamp) -> Result<(), Left> {
        self.cell.end_loading();
        let Ports { records, clock, .. } = self.ports.clone();
        self.tasks.spawn(takeover::ended_parents(records, clock, self.cell.absent_parents(), self.inputs.clone()));
        std::mem::take(&mut self.parked).into_iter().try_for_each(|input| self.handle(input, now))
    }

    /// Has those shelved jobs read with which something is to happen.
    pub(super) fn fetch_wanted(&mut self) {
        let wanted = self.cell.take_wanted();
        for ids in wanted.chunks(UNITS_MAX) {
            self.fetch(ids.to_vec(), None);
        }
    }

    /// Has the replicas read of jobs whose replicas are not all known.
    pub(super) fn fetch_replicas(&mut self) {
        for group in self.cell.take_unread_groups() {
            let Ports { records, clock, .. } = self.ports.clone();
            self.tasks.spawn(takeover::replicas(records, clock, group, self.inputs.clone()));
        }
    }

    fn fetch(&mut self, ids: Vec<JobId>, then: Option<Box<Input>>) {
        self.tasks.spawn(tasks::fetch(self.ports.clone(), ids, then, self.inputs.clone()));
    }
}

/// The jobs that an input speaks of and that must be read first.
fn needed(input: &Input, must_be_read: impl Fn(&JobId) -> bool) -> Vec<JobId> {
    let read_first = |id: &str| JobId::parse(id).ok().filter(&must_be_read);
    match input {
        Input::Cancel { items, .. } => items.iter().filter_map(|item| read_first(&item.job_id)).collect(),
        Input::Explain { request, .. } => read_first(&request.job_id).into_iter().collect(),
        _ => Vec::new(),
    }
}
