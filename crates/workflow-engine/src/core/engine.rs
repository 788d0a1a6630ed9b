//! Everything that the active engine knows: live runs, their jobs and timers, and what is to be written and done next.

use std::collections::{BTreeMap, BTreeSet};

use busbar_protocol::keys;
use busbar_protocol::ports::{CommitId, Unit};
use busbar_protocol::time::Timestamp;

use super::commit::{self, Change, Changed, Retention};
use super::run::{Progress, Run, Spot, TryState};
use super::transition::{self, Event, Limits, Rejected, Staged, Submission};

/// What the core needs to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Bounds of each run.
    pub limits: Limits,
    /// How long what is over stays.
    pub retention: Retention,
}

/// What must be done, now that it is durable.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    /// Submit a job of this run.
    Submit {
        /// The run.
        run_id: String,
        /// The job.
        submission: Submission,
    },
    /// Cancel a job of this run.
    Cancel {
        /// The run.
        run_id: String,
        /// The job.
        job_id: String,
    },
}

/// The memory of the active engine.
#[derive(Debug)]
pub struct Engine {
    settings: Settings,
    epoch: u64,
    term: u32,
    commits: u64,
    runs: BTreeMap<String, Entry>,
    /// Jobs that are out, by their ids.
    jobs: BTreeMap<String, (String, Spot)>,
    timers: BTreeSet<(Timestamp, String)>,
    dirty: BTreeSet<String>,
    /// Runs of which the last pass did not do all that was possible.
    stopped_early: BTreeSet<String>,
    orders: Vec<Order>,
    staged: Vec<Staged>,
    live_of: BTreeMap<(String, String), u64>,
}

#[derive(Debug)]
struct Entry {
    run: Run,
    revision: u64,
    changed: Changed,
    timer: Option<Timestamp>,
}

impl Engine {
    /// An engine that knows nothing yet.
    #[must_use]
    pub fn new(settings: Settings, epoch: u64, term: u32) -> Self {
        Self {
            settings,
            epoch,
            term,
            commits: 0,
            runs: BTreeMap::new(),
            jobs: BTreeMap::new(),
            timers: BTreeSet::new(),
            dirty: BTreeSet::new(),
            stopped_early: BTreeSet::new(),
            orders: Vec::new(),
            staged: Vec::new(),
            live_of: BTreeMap::new(),
        }
    }

    /// Under which epoch it writes.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// How many runs are live.
    #[must_use]
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// Whether no run is live.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// A live run.
    #[must_use]
    pub fn run(&self, run_id: &str) -> Option<&Run> {
        self.runs.get(run_id).map(|entry| &entry.run)
    }

    /// How many runs of a workflow are live. The tenant is the workflow's.
    #[must_use]
    pub fn live_of(&self, tenant_id: &str, workflow_id: &str) -> u64 {
        self.live_of.get(&(tenant_id.to_owned(), workflow_id.to_owned())).copied().unwrap_or(0)
    }

    /// Which step of which run waits for a job.
    #[must_use]
    pub fn spot_of(&self, job_id: &str) -> Option<&(String, Spot)> {
        self.jobs.get(job_id)
    }

    /// All jobs that are out.
    pub fn jobs_out(&self) -> impl Iterator<Item = &String> {
        self.jobs.keys()
    }

    /// Jobs of runs that are ending: they are to be cancelled, and that was said before.
    pub fn jobs_to_cancel(&self) -> impl Iterator<Item = Order> + '_ {
        let ending = self.runs.values().filter(|entry| matches!(entry.run.progress, Progress::Ending(_)));
        ending.flat_map(|entry| {
            let run_id = &entry.run.head.id;
            entry.run.jobs_out().map(|(_, job_id)| Order::Cancel { run_id: run_id.clone(), job_id })
        })
    }

    /// The runs that are paused.
    #[must_use]
    pub fn paused(&self) -> BTreeSet<String> {
        let paused = self.runs.iter().filter(|(_, entry)| entry.run.progress == Progress::Paused);
        paused.map(|(run_id, _)| run_id.clone()).collect()
    }

    /// Takes in a run that begins: it is written with the next units. One that is there already stays as it is.
    pub fn begin(&mut self, run: Run, now: Timestamp) {
        let run_id = run.head.id.clone();
        if self.runs.contains_key(&run_id) {
            return;
        }
        self.take_in(run, 0);
        // A run without anything to do has at least its end as a change.
        let _ = self.apply(&run_id, &Event::Proceed, now);
    }

    /// Takes in a run as it stands in the store, and what was to be done for it.
    pub fn adopt(&mut self, run: Run, revision: u64, now: Timestamp) {
        let run_id = run.head.id.clone();
        let jobs: Vec<(Spot, String)> = run.jobs_out().collect();
        self.jobs.extend(jobs.into_iter().map(|(spot, job_id)| (job_id, (run_id.clone(), spot))));
        self.take_in(run, revision);
        self.set_timer(&run_id);
        let _ = self.apply(&run_id, &Event::Proceed, now);
    }

    fn take_in(&mut self, run: Run, revision: u64) {
        let of = (run.head.workflow_tenant_id.clone(), run.head.workflow_id.clone());
        *self.live_of.entry(of).or_default() += 1;
        self.runs.insert(run.head.id.clone(), Entry { run, revision, changed: Changed::default(), timer: None });
    }

    /// Applies an event to a live run.
    ///
    /// # Errors
    /// [`Rejected`] says why it changes nothing.
    pub fn apply(&mut self, run_id: &str, event: &Event, now: Timestamp) -> Result<(), Rejected> {
        let entry = self.runs.get_mut(run_id).ok_or(Rejected::Ended)?;
        let transition = transition::decide(&entry.run, event, &self.settings.limits, now)?;
        let steps = transition.steps.keys().map(|step| Spot { step: *step, item: None });
        let spots: Vec<Spot> =
            steps.chain(transition.items.keys().map(|(step, item)| Spot { step: *step, item: Some(*item) })).collect();
        for job_id in spots.iter().filter_map(|spot| entry.run.job_out(*spot)) {
            self.jobs.remove(&job_id);
        }
        entry.run.follow(&transition, now);
        for (spot, job_id) in spots.iter().filter_map(|spot| Some((*spot, entry.run.job_out(*spot)?))) {
            self.jobs.insert(job_id, (run_id.to_owned(), spot));
        }
        if transition.stopped_early {
            self.stopped_early.insert(run_id.to_owned());
        }
        let changed = &mut entry.changed;
        changed.spots.extend(spots);
        changed.kept.extend(transition.kept);
        changed.events.push(entry.run.event(transition.changes, now));
        for Staged { key, value } in transition.staged {
            self.commits += 1;
            let name = keys::staged(CommitId::of_term(self.epoch, self.term, self.commits));
            changed.staged.push((name.clone(), key));
            self.staged.push(Staged { key: name, value });
        }
        let submit = transition.submit.into_iter().map(|submission| Order::Submit { run_id: run_id.to_owned(), submission });
        self.orders.extend(submit);
        let cancel = transition.cancel.into_iter().map(|job_id| Order::Cancel { run_id: run_id.to_owned(), job_id });
        self.orders.extend(cancel);
        self.dirty.insert(run_id.to_owned());
        self.set_timer(run_id);
        Ok(())
    }

    /// Lets time pass, and goes on where a pass stopped early.
    pub fn pass_time(&mut self, now: Timestamp) {
        for run_id in std::mem::take(&mut self.stopped_early) {
            let _ = self.apply(&run_id, &Event::Proceed, now);
        }
        while let Some((at, run_id)) = self.timers.first().cloned().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, run_id.clone()));
            if let Some(entry) = self.runs.get_mut(&run_id) {
                entry.timer = None;
            }
            let _ = self.apply(&run_id, &Event::Tick, now);
        }
    }

    /// When [`Engine::pass_time`] has something to do.
    #[must_use]
    pub fn next_timer(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Whether the next turn has something to do already.
    #[must_use]
    pub fn has_changes(&self) -> bool {
        !self.dirty.is_empty() || !self.stopped_early.is_empty()
    }

    /// Values that must stand in the store before the units, under names that nobody else writes to: whatever becomes of us,
    /// only a unit that is applied touches what a run keeps.
    pub fn take_staged(&mut self) -> Vec<Staged> {
        std::mem::take(&mut self.staged)
    }

    /// The units of everything that has changed, each with its run and whether that is a new one.
    pub fn take_units(&mut self) -> Vec<(String, bool, Unit)> {
        let dirty = std::mem::take(&mut self.dirty);
        let mut units = Vec::with_capacity(dirty.len());
        for run_id in dirty {
            let id = self.next_commit();
            let Some(entry) = self.runs.get_mut(&run_id) else { continue };
            let changed = std::mem::take(&mut entry.changed);
            let change = Change { run: &entry.run, changed: &changed, revision: entry.revision, epoch: self.epoch, id };
            let unit = commit::unit(&change, &self.settings.retention);
            let new = entry.revision == 0;
            entry.revision += 1;
            units.push((run_id, new, unit));
        }
        units
    }

    /// A run's last change is durable: if it has ended, it leaves.
    pub fn committed(&mut self, run_id: &str) {
        if self.runs.get(run_id).is_some_and(|entry| entry.run.is_over()) {
            self.forget(run_id);
        }
    }

    /// A run never came to be.
    pub fn forget(&mut self, run_id: &str) {
        let Some(entry) = self.runs.remove(run_id) else { return };
        for (_, job_id) in entry.run.jobs_out() {
            self.jobs.remove(&job_id);
        }
        if let Some(at) = entry.timer {
            self.timers.remove(&(at, run_id.to_owned()));
        }
        let of = (entry.run.head.workflow_tenant_id.clone(), entry.run.head.workflow_id.clone());
        if let Some(live) = self.live_of.get_mut(&of) {
            *live = live.saturating_sub(1);
            if *live == 0 {
                self.live_of.remove(&of);
            }
        }
    }

    /// What must be done, now that everything is durable. What is no longer wanted is left out.
    pub fn take_orders(&mut self) -> Vec<Order> {
        let mut orders = std::mem::take(&mut self.orders);
        orders.retain(|order| match order {
            Order::Submit { submission, .. } => self.jobs.contains_key(&submission.job_id),
            Order::Cancel { .. } => true,
        });
        orders
    }

    /// The submission of a job that should be out and of which the scheduler knows nothing.
    #[must_use]
    pub fn submission_of(&self, job_id: &str) -> Option<(String, Result<Submission, String>)> {
        let (run_id, spot) = self.jobs.get(job_id)?;
        let run = self.run(run_id)?;
        let attempt = run.attempt_at(*spot).filter(|at| matches!(at.state, TryState::Out))?.attempt;
        match transition::submission(run, *spot, attempt) {
            Ok(submission) => Some((run_id.clone(), Ok(submission?))),
            Err(message) => Some((run_id.clone(), Err(message))),
        }
    }

    /// The id of a commit of our own that is no run's.
    pub fn next_commit(&mut self) -> CommitId {
        self.commits += 1;
        CommitId::of_term(self.epoch, self.term, self.commits)
    }

    fn set_timer(&mut self, run_id: &str) {
        let Some(entry) = self.runs.get_mut(run_id) else { return };
        let timer = entry.run.next_timer();
        if timer == entry.timer {
            return;
        }
        if let Some(at) = entry.timer {
            self.timers.remove(&(at, run_id.to_owned()));
        }
        if let Some(at) = timer {
            self.timers.insert((at, run_id.to_owned()));
        }
        entry.timer = timer;
    }
}
