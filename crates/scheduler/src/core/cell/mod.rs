//! Everything that the active scheduler knows, in memory: jobs, queue, slots, limits, timers.
//!
//! Every change goes through [`Cell::apply`]: the table decides, the cell keeps its indexes in step and remembers what must be
//! committed and sent. Nothing leaves before it is durable: the shell takes the units, commits them, and only then the commands.
//! When a commit does not go through, the whole cell is thrown away and read again from the store.
//!
//! - here: what the cell keeps, and how a job comes into it;
//! - `following`: how a change of a job is followed everywhere;
//! - `ahead`: new jobs that have a worker before they are durable;
//! - `placing`: who goes next, and what opens gates again;
//! - `hearing`: what workers say and do not say;
//! - `family`: jobs that end with their parents;
//! - `replicating`: jobs whose result several workers must come to; `judging`: what these have come to; `verifying`: results that are
//!   checked before they count;
//! - `holding`: pauses and drains;
//! - `writing`: what must be committed, and what follows once it is durable;
//! - `shelving`: which jobs are in memory, and which only in the store;
//! - `loading`: after a takeover, jobs that are still being read;
//! - `explain`: why a job is where it is.

mod ahead;
mod explain;
mod family;
mod following;
mod hearing;
mod holding;
mod judging;
mod loading;
mod placing;
mod replicating;
mod shelving;
mod verifying;
mod writing;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use busbar_protocol::busbar::{HoldsDocument, JobState};
use busbar_protocol::ids::JobId;
use busbar_protocol::time::Timestamp;
use busbar_rules::topics::TopicTable;

use super::bounds::Bounds;
use super::commit::Retention;
use super::dense::DenseMap;
use super::fact::Fact;
use super::flow::{Charge, Flow, Refusal};
use super::holds::Holds;
use super::inputs::Inputs;
use super::job::{Job, State};
use super::line::{Class, Line, Rank, Seat, Spot};
use super::queue::{Queue, WholeRoom};
use super::roll::Roll;
use super::transition::{Command, Limits};
use super::trust::Bindings;
use super::workers::{Patience, Workers};

use family::Family;
use loading::Loading;
use placing::Alarm;
use replicating::Replication;

pub use loading::Page;
pub use replicating::{Delivered, Owners, Siblings, Standing, UnreadGroup, replica_id, verification_id};
pub use shelving::{Known, Misread};
pub use verifying::Unchecked;

/// How often the silences of workers are looked at.
const LISTEN_EVERY: Duration = Duration::from_millis(200);

/// How often what need not be remembered is forgotten.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// The settings of a cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// What the table needs.
    pub limits: Limits,
    /// What silence means.
    pub patience: Patience,
    /// How long what is over stays.
    pub retention: Retention,
    /// How many jobs that wait are in memory.
    pub whole: WholeRoom,
    /// Announced workers have proved who they are, and what nobody has proved to serve is offered to no queue group.
    pub proven_only: bool,
}

/// What a cell begins with.
#[derive(Clone, Debug, Default)]
pub struct Beginning {
    /// The epoch under which it writes.
    pub epoch: u64,
    /// Tells apart the cells that one process makes under the same epoch.
    pub term: u32,
    /// The topic documents.
    pub topics: TopicTable,
    /// The operator's bounds.
    pub bounds: Bounds,
    /// What is paused and what drains, and the revision of that record; 0 where there is none.
    pub holds: HoldsDocument,
    /// See `holds`.
    pub holds_revision: u64,
    /// How owners of workers stand.
    pub standing: Standing,
    /// The policy snapshot in force.
    pub snapshot: String,
    /// The present.
    pub now: Timestamp,
}

/// A live job in memory, with what the cell keeps beside it.
#[derive(Clone, Debug)]
struct Entry {
    job: Arc<Job>,
    /// What stands in the store, changes under way included.
    revision: u64,
    line: Arc<Line>,
    seat: Seat,
    charge: Charge,
    timer: Option<Timestamp>,
    /// States passed since it was written last.
    passed: Vec<JobState>,
    /// A decision was asked for and has not come.
    asked: bool,
    /// A unit of it is on its way into the store.
    under_way: bool,
    /// It does not stand in the store yet, and may not be taken there.
    unborn: bool,
}

impl Entry {
    /// A job that stands in the store as it is here.
    fn new(job: Arc<Job>, revision: u64, spot: Spot, charge: Charge) -> Self {
        let Spot { line, seat } = spot;
        let passed = Vec::new();
        Self { job, revision, line, seat, charge, timer: None, passed, asked: false, under_way: false, unborn: false }
    }

    /// Its place among those of its key.
    fn of_key(&self) -> (Timestamp, JobId) {
        (self.job.created, self.job.id.clone())
    }

    fn spot(&self) -> Spot {
        Spot { line: Arc::clone(&self.line), seat: self.seat }
    }
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
    /// All live jobs.
    roll: Roll,
    /// Those of them that are in memory.
    jobs: BTreeMap<JobId, Entry>,
    live: BTreeMap<JobState, u64>,
    /// Names of tenants, topics and keys, each once.
    names: BTreeSet<Arc<str>>,
    /// Lines of jobs, each once.
    lines: BTreeSet<Arc<Line>>,
    queue: Queue,
    flow: Flow,
    holds: Holds,
    holds_revision: u64,
    holds_changed: bool,
    workers: Workers,
    /// Workers that get jobs of one tenant alone.
    bindings: Bindings,
    family: Family,
    replication: Replication,
    timers: DenseMap<(Timestamp, Seat), ()>,
    alarms: BTreeSet<(Timestamp, Alarm)>,
    /// Jobs that end in favour of others, with those.
    superseded: Vec<(JobId, JobId)>,
    undecided: BTreeSet<JobId>,
    /// Jobs that need a decision and are shelved.
    undecided_shelved: BTreeSet<Seat>,
    /// Shelved jobs with which something is to happen.
    wanted: BTreeSet<Seat>,
    loading: Option<Loading>,
    queued_out: BTreeMap<Arc<str>, BTreeSet<JobId>>,
    resting: BTreeMap<Arc<str>, Timestamp>,
    dirty: BTreeSet<JobId>,
    orders: Vec<Order>,
    inputs: Inputs,
    facts: Vec<Fact>,
    swept: Timestamp,
    /// When the silences of workers were last looked at.
    listened: Timestamp,
    /// Jobs came, or gates opened, since placement last looked.
    fresh: bool,
}

impl Cell {
    /// An empty cell.
    #[must_use]
    pub fn new(settings: Settings, beginning: Beginning) -> Self {
        let Beginning { epoch, term, topics, bounds, holds, holds_revision, standing, snapshot, now } = beginning;
        let mut cell = Self {
            settings,
            epoch,
            term,
            commits: 0,
            topics,
            snapshot,
            roll: Roll::default(),
            jobs: BTreeMap::new(),
            live: BTreeMap::new(),
            names: BTreeSet::new(),
            lines: BTreeSet::new(),
            queue: Queue::new(settings.whole),
            flow: Flow::new(bounds, now),
            holds: Holds::from_record(holds),
            holds_revision,
            holds_changed: false,
            workers: Workers::default(),
            family: Family::default(),
            replication: Replication::new(standing),
            timers: DenseMap::default(),
            alarms: BTreeSet::new(),
            superseded: Vec::new(),
            undecided: BTreeSet::new(),
            undecided_shelved: BTreeSet::new(),
            wanted: BTreeSet::new(),
            loading: None,
            queued_out: BTreeMap::new(),
            bindings: Bindings::default(),
            resting: BTreeMap::new(),
            dirty: BTreeSet::new(),
            orders: Vec::new(),
            inputs: Inputs::default(),
            facts: Vec::new(),
            swept: now,
            listened: Timestamp::default(),
            fresh: false,
        };
        cell.watch_pauses();
        cell
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

    /// How many jobs are live, those included that are still being read.
    #[must_use]
    pub fn len(&self) -> usize {
        self.roll.len() + self.loading.as_ref().map_or(0, Loading::ahead)
    }

    /// How many new jobs were let in and are on their way into the store.
    #[must_use]
    pub const fn coming(&self) -> usize {
        self.flow.coming()
    }

    /// Whether no job is live.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a job is live, as far as it was read.
    #[must_use]
    pub fn is_live(&self, id: &JobId) -> bool {
        self.jobs.contains_key(id) || self.is_shelved(id)
    }

    /// Live jobs by state.
    #[must_use]
    pub const fn live(&self) -> &BTreeMap<JobState, u64> {
        &self.live
    }

    /// The classes of jobs that could run now and wait for a worker: how many they are, and since when the first one is there.
    pub fn waiting(&self) -> impl Iterator<Item = (&Class, Timestamp, usize)> {
        self.queue.waiting()
    }

    /// A live job that is in memory and stands in the store: every one that a worker has, and the first of those that wait.
    #[must_use]
    pub fn job(&self, id: &JobId) -> Option<&Job> {
        self.jobs.get(id).filter(|entry| !entry.unborn).map(|entry| &*entry.job)
    }

    /// New topic documents are in force.
    pub fn set_topics(&mut self, topics: TopicTable) {
        self.topics = topics;
        self.open_everything();
    }

    /// Other bounds of tenants and topics are in force.
    pub fn set_bounds(&mut self, bounds: Bounds) {
        self.flow.set_bounds(bounds);
        self.open_everything();
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

    /// Whether a new job is taken, by the bounds of its tenant, topic and key; if so, it counts against them, until [`Cell::came`] as
    /// one that is on its way into the store.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn admit(&mut self, job: &Job, now: Timestamp) -> Result<(), Refusal> {
        let charge = self.charge_of(job);
        self.flow.admit(&charge, self.topics.resolve(&job.topic), now)
    }

    /// A new job that was let in is not on its way any more: it was taken, or it was not.
    pub fn came(&mut self, job: &Job) {
        let charge = self.charge_of(job);
        self.flow.came(&charge);
    }

    /// Takes in a job that stands in the store at this revision: into memory, or where many wait before it onto the shelf.
    pub fn insert(&mut self, job: impl Into<Arc<Job>>, revision: u64, class: Arc<Class>, now: Timestamp) {
        self.take_in(job.into(), revision, class, true, now);
    }

    /// The class of a job in this cell: where workers are bound to a tenant, jobs of different tenants go to different ones; and a
    /// replica, or what checks one, goes to somebody who is known.
    fn class_of(&self, class: Arc<Class>, job: &Job, tenant: &Arc<str>) -> Arc<Class> {
        let known_only = job.is_replicated() || job.is_part();
        if self.bindings.is_empty() && !known_only {
            return class;
        }
        let tenant = (!self.bindings.is_empty()).then(|| Arc::clone(tenant));
        Arc::new(Class { tenant, known_only, ..(*class).clone() })
    }

    fn take_in(&mut self, mut job: Arc<Job>, revision: u64, class: Arc<Class>, may_shelve: bool, now: Timestamp) {
        if job.end().is_some() || self.is_live(&job.id) {
            return;
        }
        // Asked first: a job that is shared is copied where it may change.
        if job.hold().is_some()
            && let State::Dispatched { hold } | State::Running { hold, .. } = &mut Arc::make_mut(&mut job).state
        {
            hold.heard = now;
        }
        let (id, charge) = (job.id.clone(), self.charge_of(&job));
        let Spot { line, seat } = self.count_in(&job, &charge, class, now);
        if may_shelve && self.goes_to_shelf(&job, &line, now) {
            return self.shelve(&job, revision, &Spot { line, seat }, now);
        }
        self.came_into_memory(&id);
        self.roll.add(seat, id.clone());
        let entry = Entry::new(job, revision, Spot { line, seat }, charge);
        self.jobs.insert(id.clone(), entry);
        self.join_group(&id, now);
        self.reindex(&id, now);
    }

    /// Counts a job that comes wherever it counts, and says where it stands.
    fn count_in(&mut self, job: &Job, charge: &Charge, class: Arc<Class>, now: Timestamp) -> Spot {
        let id = &job.id;
        let class = self.class_of(class, job, &charge.tenant);
        let line = self.line(Line { class, rank: Rank::from(job.priority), tenant: Arc::clone(&charge.tenant) });
        if let Some(hold) = job.hold() {
            self.flow.hold(charge);
            self.take_slot(charge, (id.clone(), job.attempt), hold, now);
        } else if job.waits() {
            self.flow.wait(charge, true);
        } else {
            self.flow.hold_key(charge);
        }
        if charge.key.is_some() {
            self.flow.live(charge, (job.created, id.clone()), true);
            // That older ones must go follows from which jobs of the key are live, so it is found again after a takeover.
            let superseded = self.flow.superseded(charge, self.topics.resolve(&job.topic));
            self.superseded.extend(superseded.into_iter().map(|older| (older, id.clone())));
        }
        *self.live.entry(job.state.tag()).or_default() += 1;
        self.join_family(job, now);
        Spot { line, seat: self.roll.free_seat(job.created) }
    }

    /// When [`Cell::pass_time`] has something to do at the latest, as far as that is known.
    #[must_use]
    pub fn next_timer(&self) -> Option<Timestamp> {
        let timer = self.timers.first().map(|((at, _), ())| at);
        let alarm = self.alarms.first().map(|(at, _)| *at);
        [timer, alarm, self.credits_due()].into_iter().flatten().min()
    }

    /// Whether the next turn has something to do already: a change to commit, or a job that may find a worker.
    #[must_use]
    pub fn has_changes(&self) -> bool {
        !self.dirty.is_empty()
            || !self.undecided.is_empty()
            || self.wants()
            || self.holds_changed
            || self.fresh
            || self.family.has_work()
            || self.has_replication_work()
            || !self.superseded.is_empty()
            || self.queue.may_go()
    }

    /// Jobs that need a decision, up to `limit`; they are not named again until one came or [`Cell::unasked`] says that none will.
    pub fn take_undecided(&mut self, limit: usize) -> Vec<Arc<Job>> {
        let ids: Vec<JobId> = self.undecided.iter().take(limit).cloned().collect();
        ids.iter()
            .filter_map(|id| {
                self.undecided.remove(id);
                let entry = self.jobs.get_mut(id)?;
                entry.asked = true;
                Some(Arc::clone(&entry.job))
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

    /// What has happened to jobs since the last call.
    pub fn take_facts(&mut self) -> Vec<Fact> {
        std::mem::take(&mut self.facts)
    }

    fn charge_of(&mut self, job: &Job) -> Charge {
        let key = job.plan.concurrency_key.as_str();
        Charge { tenant: self.name(&job.tenant_id), topic: self.name(&job.topic), key: (!key.is_empty()).then(|| self.name(key)) }
    }

    fn name(&mut self, text: &str) -> Arc<str> {
        if let Some(name) = self.names.get(text) {
            return Arc::clone(name);
        }
        let name: Arc<str> = text.into();
        self.names.insert(Arc::clone(&name));
        name
    }

    fn line(&mut self, line: Line) -> Arc<Line> {
        if let Some(line) = self.lines.get(&line) {
            return Arc::clone(line);
        }
        let line = Arc::new(line);
        self.lines.insert(Arc::clone(&line));
        line
    }
}
