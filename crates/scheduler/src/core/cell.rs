//! Everything that the active scheduler knows, in memory: jobs, queue, slots, timers.
//!
//! Every change goes through [`Cell::apply`]: the table decides, the cell keeps its indexes in step and remembers what must be
//! committed and sent. Nothing leaves before it is durable: the shell takes the units, commits them, and only then the commands.
//! When a commit does not go through, the whole cell is thrown away and read again from the store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use busbar_protocol::busbar::{JobState, TopicDocument};
use busbar_protocol::codes::Code;
use busbar_protocol::ids::JobId;
use busbar_protocol::ports::{CommitId, Unit};
use busbar_protocol::time::Timestamp;
use busbar_rules::topics::TopicTable;

use super::commit::{self, Change, Retention};
use super::fact::{self, Fact};
use super::job::{Hold, Job, State};
use super::place::{self, Placement, Problem};
use super::queue::{Class, Queue, Rank};
use super::transition::{self, Command, Event, Limits, Rejected, Transition};
use super::workers::{AttemptKey, Heard, Patience, Silence, Workers};

/// A worker's first sign of work is written with the next change, or after this time.
const RUNNING_WRITTEN_AFTER: Duration = Duration::from_secs(1);

/// How long a topic rests whose queue group had nobody.
const REST: Duration = Duration::from_secs(2);

/// The settings of a cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// What the table needs.
    pub limits: Limits,
    /// What silence means.
    pub patience: Patience,
    /// How long what is over stays.
    pub retention: Retention,
}

/// A live job with what the cell keeps beside it.
#[derive(Clone, Debug)]
struct Entry {
    job: Job,
    /// What stands in the store, changes under way included.
    revision: u64,
    class: Arc<Class>,
    timer: Option<Timestamp>,
    /// States passed since it was written last.
    passed: Vec<JobState>,
    /// A decision was asked for and has not come.
    asked: bool,
}

/// What must be sent once it is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The job.
    pub job: JobId,
    /// What to send.
    pub command: Command,
    /// To whom: the worker of the attempt, or empty for the topic's queue group.
    pub worker_id: String,
}

/// The cell.
#[derive(Clone, Debug)]
pub struct Cell {
    settings: Settings,
    epoch: u64,
    term: u32,
    commits: u64,
    topics: TopicTable,
    snapshot: String,
    jobs: BTreeMap<JobId, Entry>,
    by_age: BTreeSet<(Timestamp, JobId)>,
    live: BTreeMap<JobState, u64>,
    queue: Queue,
    workers: Workers,
    timers: BTreeSet<(Timestamp, JobId)>,
    undecided: BTreeSet<JobId>,
    queued_out: BTreeMap<String, BTreeSet<JobId>>,
    resting: BTreeMap<String, Timestamp>,
    dirty: BTreeSet<JobId>,
    orders: Vec<Order>,
    facts: Vec<Fact>,
    /// Jobs or slots came since placement last looked.
    fresh: bool,
}

impl Cell {
    /// An empty cell under an epoch. `term` tells apart the cells that one process makes under the same epoch.
    #[must_use]
    pub fn new(settings: Settings, epoch: u64, term: u32, topics: TopicTable, snapshot: String) -> Self {
        Self {
            settings,
            epoch,
            term,
            commits: 0,
            topics,
            snapshot,
            jobs: BTreeMap::new(),
            by_age: BTreeSet::new(),
            live: BTreeMap::new(),
            queue: Queue::default(),
            workers: Workers::default(),
            timers: BTreeSet::new(),
            undecided: BTreeSet::new(),
            queued_out: BTreeMap::new(),
            resting: BTreeMap::new(),
            dirty: BTreeSet::new(),
            orders: Vec::new(),
            facts: Vec::new(),
            fresh: false,
        }
    }

    /// The epoch under which it writes.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The topic documents.
    #[must_use]
    pub const fn topics(&self) -> &TopicTable {
        &self.topics
    }

    /// The policy snapshot under which jobs are dispatched.
    #[must_use]
    pub fn snapshot(&self) -> &str {
        &self.snapshot
    }

    /// The workers.
    #[must_use]
    pub const fn workers(&self) -> &Workers {
        &self.workers
    }

    /// Takes over what was known of the workers, without their slots: those follow from the jobs.
    pub fn adopt_workers(&mut self, mut workers: Workers) {
        workers.clear_slots();
        self.workers = workers;
    }

    /// How many jobs are live.
    #[must_use]
    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Whether no job is live.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Live jobs by state.
    #[must_use]
    pub const fn live(&self) -> &BTreeMap<JobState, u64> {
        &self.live
    }

    /// The classes of jobs that could run now and wait for a worker: how many they are, and since when the first one is there.
    pub fn waiting(&self) -> impl Iterator<Item = (&Class, Timestamp, usize)> {
        let classes = self.queue.ranks().flat_map(|(_, classes)| classes);
        classes.filter_map(|(class, jobs)| Some((class.as_ref(), jobs.first()?.0, jobs.len())))
    }

    /// A live job.
    #[must_use]
    pub fn job(&self, id: &JobId) -> Option<&Job> {
        self.jobs.get(id).map(|entry| &entry.job)
    }

    /// Live jobs older than a point, newest first.
    pub fn newest_before(&self, before: Option<&(Timestamp, JobId)>) -> impl Iterator<Item = &Job> {
        let range = match before {
            Some(point) => self.by_age.range(..point.clone()),
            None => self.by_age.range(..),
        };
        range.rev().filter_map(|(_, id)| self.job(id))
    }

    /// New topic documents are in force.
    pub fn set_topics(&mut self, topics: TopicTable) {
        self.topics = topics;
    }

    /// A new policy snapshot is in force: what was decided under another is decided again before it is dispatched.
    pub fn set_snapshot(&mut self, snapshot: String, now: Timestamp) {
        if self.snapshot == snapshot {
            return;
        }
        self.snapshot = snapshot;
        let scheduled: Vec<JobId> =
            self.jobs.iter().filter(|(_, e)| matches!(e.job.state, State::Scheduled { .. })).map(|(id, _)| id.clone()).collect();
        for id in scheduled {
            self.reindex(&id, now);
        }
    }

    /// The unit of a job that is not in the cell yet; once it is committed, [`Cell::insert`] takes the job in.
    pub fn admission(&mut self, job: &Job, passed: &[JobState], refused: bool) -> Unit {
        let id = self.next_commit();
        let change = Change { job, revision: 0, passed, epoch: self.epoch, id, refused };
        commit::unit(&change, &self.settings.retention)
    }

    /// Takes in a job that stands in the store at this revision.
    pub fn insert(&mut self, job: Job, revision: u64, class: Arc<Class>, now: Timestamp) {
        if job.end().is_some() || self.jobs.contains_key(&job.id) {
            return;
        }
        let id = job.id.clone();
        if let Some(hold) = job.hold() {
            self.take_slot(&job.topic, (id.clone(), job.attempt), hold, now);
        }
        self.by_age.insert((job.created, id.clone()));
        *self.live.entry(job.state.tag()).or_default() += 1;
        self.jobs.insert(id.clone(), Entry { job, revision, class, timer: None, passed: Vec::new(), asked: false });
        self.reindex(&id, now);
    }

    /// Sends an attempt again whose first sending is in doubt: our predecessor died about when it went out to a queue group, and
    /// word that nobody was there would have reached nobody.
    pub fn send_again(&mut self, id: &JobId) {
        if self.job(id).and_then(Job::hold).is_some_and(|hold| hold.worker_id.is_empty()) {
            self.orders.push(Order { job: id.clone(), command: Command::Dispatch, worker_id: String::new() });
        }
    }

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
        let before = std::mem::replace(&mut entry.job, next);
        self.follow(id, &before, now);
        let entry = &self.jobs[id];
        let holder = entry.job.hold().or(before.hold()).map(|hold| hold.worker_id.clone()).unwrap_or_default();
        self.orders.extend(commands.into_iter().map(|command| Order { job: id.clone(), command, worker_id: holder.clone() }));
        self.reindex(id, now);
        Ok(())
    }

    /// A worker has said that its attempt is over, whatever its job thinks of it.
    pub fn free_slot(&mut self, worker_id: &str, key: &AttemptKey) {
        self.workers.free(worker_id, key);
    }

    /// A native worker's beat.
    pub fn beat(&mut self, beat: &busbar_protocol::busbar::WorkerBeat, now: Timestamp) {
        let heard = self.workers.beat(beat, now);
        self.hear(&beat.worker_id, heard, now);
    }

    /// An announced worker's heartbeat.
    pub fn heartbeat(&mut self, beat: &busbar_protocol::cap::Heartbeat, now: Timestamp) {
        self.workers.heartbeat(beat, now);
    }

    /// A worker's announcement.
    pub fn handshake(&mut self, shake: &busbar_protocol::cap::Handshake, sent: Timestamp, now: Timestamp) {
        let heard = self.workers.handshake(shake, sent, now);
        self.hear(&shake.component_id, heard, now);
    }

    /// A queue group had nobody: the attempt did not happen, and the topic rests a little.
    pub fn nobody_there(&mut self, id: &JobId, attempt: u32, now: Timestamp) {
        let Some(job) = self.job(id) else { return };
        self.resting.insert(job.topic.clone(), now.after(REST));
        let message = "nobody listens on the topic".to_owned();
        let event = Event::AttemptOver { attempt, code: Code::WorkerUnreachable, message, unreached: true };
        let _ = self.apply(id, &event, now);
    }

    /// Lets time pass: timers of jobs, silence of workers. `heard_since` is when the bus could last be heard.
    pub fn pass_time(&mut self, heard_since: Timestamp, now: Timestamp) {
        while let Some((at, id)) = self.timers.first().cloned().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, id.clone()));
            if let Some(entry) = self.jobs.get_mut(&id) {
                entry.timer = None;
            }
            if self.apply(&id, &Event::Tick, now).is_err() {
                self.write_running(&id, now);
                self.reindex(&id, now);
            }
        }
        self.resting.retain(|_, until| *until > now);
        let silence = self.workers.silence(&self.settings.patience, heard_since, now);
        self.notice(silence, now);
    }

    /// When [`Cell::pass_time`] has something to do for a job at the latest.
    #[must_use]
    pub fn next_timer(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Whether the next turn has something to do already: a change to commit, or a job that may find a worker.
    #[must_use]
    pub fn has_changes(&self) -> bool {
        !self.dirty.is_empty() || !self.undecided.is_empty() || self.fresh
    }

    /// Places what can be placed, up to `limit` jobs.
    pub fn place(&mut self, limit: usize, now: Timestamp) -> usize {
        self.fresh = false;
        if self.queue.is_empty() {
            return 0;
        }
        let topics = &self.topics;
        let resolve = |topic: &str| -> Option<&TopicDocument> { topics.resolve(topic) };
        let problem = Problem {
            queue: &self.queue,
            workers: &self.workers,
            topic: &resolve,
            queued_out: &self.queued_out,
            resting: &self.resting,
            now,
            limit,
        };
        let plan = place::plan(&problem);
        let count = plan.len();
        self.fresh = count >= limit;
        for Placement { job, worker_id, kind, incarnation } in plan {
            let _ = self.apply(&job, &Event::Placed { worker_id, kind, incarnation }, now);
        }
        count
    }

    /// Jobs that need a decision, up to `limit`; they are not named again until one came or [`Cell::unasked`] says that none will.
    pub fn take_undecided(&mut self, limit: usize) -> Vec<Job> {
        let ids: Vec<JobId> = self.undecided.iter().take(limit).cloned().collect();
        ids.iter()
            .filter_map(|id| {
                self.undecided.remove(id);
                let entry = self.jobs.get_mut(id)?;
                entry.asked = true;
                Some(entry.job.clone())
            })
            .collect()
    }

    /// No decision came; ask again.
    pub fn unasked(&mut self, id: &JobId, now: Timestamp) {
        if let Some(entry) = self.jobs.get_mut(id) {
            entry.asked = false;
        }
        self.reindex(id, now);
    }

    /// The units of everything that changed since the last call.
    pub fn take_units(&mut self) -> Vec<(JobId, Unit)> {
        let dirty = std::mem::take(&mut self.dirty);
        let mut units = Vec::with_capacity(dirty.len());
        for id in dirty {
            let commit_id = self.next_commit();
            let Some(entry) = self.jobs.get_mut(&id) else { continue };
            let passed = std::mem::take(&mut entry.passed);
            let change = Change {
                job: &entry.job,
                revision: entry.revision,
                passed: &passed,
                epoch: self.epoch,
                id: commit_id,
                refused: false,
            };
            let unit = commit::unit(&change, &self.settings.retention);
            entry.revision += 1;
            units.push((id, unit));
        }
        units
    }

    /// A job's last change is durable: if it has ended, it leaves.
    pub fn committed(&mut self, id: &JobId) {
        let Some(entry) = self.jobs.get(id).filter(|entry| entry.job.end().is_some()) else { return };
        let (created, state) = (entry.job.created, entry.job.state.tag());
        self.by_age.remove(&(created, id.clone()));
        self.count_down(state);
        self.jobs.remove(id);
    }

    /// What has happened to jobs since the last call.
    pub fn take_facts(&mut self) -> Vec<Fact> {
        std::mem::take(&mut self.facts)
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

    fn next_commit(&mut self) -> CommitId {
        self.commits += 1;
        CommitId::of_term(self.epoch, self.term, self.commits)
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
        if old != new {
            self.count_down(old);
            *self.live.entry(new).or_default() += 1;
        }
        match (before.hold(), hold) {
            (Some(hold), None) => self.leave_slot(before, &hold.worker_id),
            (None, Some(hold)) => self.take_slot(&before.topic, attempt, &hold, now),
            (Some(_), Some(_)) | (None, None) => {}
        }
    }

    fn take_slot(&mut self, topic: &str, attempt: AttemptKey, hold: &Hold, now: Timestamp) {
        if hold.worker_id.is_empty() {
            self.queued_out.entry(topic.to_owned()).or_default().insert(attempt.0);
        } else {
            self.workers.take(hold, attempt, now);
        }
    }

    fn leave_slot(&mut self, job: &Job, worker_id: &str) {
        if worker_id.is_empty() {
            if let Some(out) = self.queued_out.get_mut(&job.topic) {
                out.remove(&job.id);
            }
        } else {
            self.workers.abandon(worker_id, &(job.id.clone(), job.attempt));
        }
    }

    fn count_down(&mut self, state: JobState) {
        if let Some(count) = self.live.get_mut(&state) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.live.remove(&state);
            }
        }
    }

    /// Puts a job where its state says: queue, list of the undecided, timers.
    fn reindex(&mut self, id: &JobId, now: Timestamp) {
        let Some(entry) = self.jobs.get_mut(id) else { return };
        let job = &entry.job;
        let rank = Rank::from(job.priority);
        let waiting = (job.created, id.clone());
        let judged = job.decision.as_ref().is_some_and(|d| d.snapshot == self.snapshot);
        let (ready, undecided) = match job.state {
            State::Scheduled { not_before, .. } => (judged && not_before <= now.max(job.updated), !judged && !entry.asked),
            State::Pending { not_before } => (false, not_before <= now && !entry.asked),
            State::ApprovalRequired { .. } | State::Dispatched { .. } | State::Running { .. } | State::Ended(_) => (false, false),
        };
        if ready {
            self.queue.add(rank, &entry.class, waiting);
            self.fresh = true;
        } else {
            self.queue.remove(rank, &entry.class, &waiting);
        }
        if undecided {
            self.undecided.insert(id.clone());
        } else {
            self.undecided.remove(id);
        }
        let unwritten = (!entry.passed.is_empty() && job.state.tag() == JobState::Running && !self.dirty.contains(id))
            .then(|| job.updated.after(RUNNING_WRITTEN_AFTER));
        let wakes = [job.wakes_at(now), unwritten].into_iter().flatten().min();
        if wakes != entry.timer {
            if let Some(old) = std::mem::replace(&mut entry.timer, wakes) {
                self.timers.remove(&(old, id.clone()));
            }
            if let Some(at) = wakes {
                self.timers.insert((at, id.clone()));
            }
        }
    }

    /// Writes a first sign of work that nothing else has written in the meantime.
    fn write_running(&mut self, id: &JobId, now: Timestamp) {
        let Some(entry) = self.jobs.get(id) else { return };
        let due = now >= entry.job.updated.after(RUNNING_WRITTEN_AFTER);
        if due && !entry.passed.is_empty() && entry.job.state.tag() == JobState::Running {
            self.dirty.insert(id.clone());
        }
    }

    fn hear(&mut self, worker_id: &str, heard: Heard, now: Timestamp) {
        for (id, attempt) in heard.lost {
            let message = format!("worker {worker_id} restarted or left");
            let _ = self.apply(&id, &Event::AttemptOver { attempt, code: Code::WorkerLost, message, unreached: false }, now);
        }
        for (id, attempt) in heard.evidence {
            let _ = self.apply(&id, &Event::Evidence { attempt, percent: None }, now);
        }
        for (id, attempt) in heard.unwanted {
            let command = Command::Stop {
                attempt,
                reason: "the attempt is over".to_owned(),
                requested_by: busbar_protocol::subjects::SCHEDULER_SENDER.to_owned(),
            };
            self.orders.push(Order { job: id, command, worker_id: worker_id.to_owned() });
        }
    }

    fn notice(&mut self, silence: Silence, now: Timestamp) {
        for ((id, attempt), worker_id) in silence.lost {
            let message = format!("worker {worker_id} was not heard any more");
            let _ = self.apply(&id, &Event::AttemptOver { attempt, code: Code::WorkerLost, message, unreached: false }, now);
        }
        for ((id, attempt), worker_id) in silence.unreachable {
            let message = format!("worker {worker_id} never took the attempt");
            let event = Event::AttemptOver { attempt, code: Code::WorkerUnreachable, message, unreached: false };
            let _ = self.apply(&id, &event, now);
        }
        for ((id, _), worker_id) in silence.resend {
            self.orders.push(Order { job: id, command: Command::Dispatch, worker_id });
        }
    }
}
