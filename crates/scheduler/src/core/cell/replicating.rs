//! Jobs whose result several workers must come to: their replicas, and what those have said.
//!
//! ```text
//!  <job>     SCHEDULED ──its turn──▶ DISPATCHED ─────────────────────────── a quorum agrees ──▶ SUCCEEDED
//!                                     │ as many as are needed                    ▲ each end, once it is durable
//!  <job>.r1                           ├──▶ SCHEDULED ─▶ DISPATCHED ─▶ SUCCEEDED ─┤
//!  <job>.r2                           └──▶ SCHEDULED ─▶ DISPATCHED ─▶ SUCCEEDED ─┘
//! ```
//!
//! A replica is a job like any other, but that it goes to nobody on whose account another one of its group has spoken or works. Where
//! the topic has a verifier, a result counts only when that has said what it is worth: `verifying`.
//! What a group has come to is never kept: it follows from the records of its replicas, whose names are known.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use busbar_protocol::busbar::{JobPlan, JobState, QuorumCredits};
use busbar_protocol::cap::JobRequest;
use busbar_protocol::envelope;
use busbar_protocol::ids::JobId;
use busbar_protocol::keys;
use busbar_protocol::pointers::Pointer;
use busbar_protocol::ports::Unit;
use busbar_protocol::prost::Message as _;
use busbar_protocol::time::Timestamp;

use super::super::commit::{self, Birth};
use super::super::job::{End, Job, Outcome, State};
use super::super::line::{Class, Line};
use super::super::quorum::compare;
use super::super::quorum::credit::Outcome as Shown;
use super::super::quorum::credits::Credits;
use super::super::quorum::draw::Secret;
use super::super::quorum::vote::Word;
use super::super::transition::Event;
use super::Cell;
use super::placing::Alarm;
use super::verifying::Check;

/// How many jobs have their replicas out at most: where only few owners are there, every job could have one replica that is done and
/// one that nobody may have, and all of these are in memory.
const OUT_MAX: usize = 4_096;

/// On whose account workers speak, where that was said when their keys were enrolled; all others speak for themselves.
pub type Owners = BTreeMap<String, String>;

/// Which replicas there are, and what they have said.
#[derive(Clone, Debug, Default)]
pub(super) struct Replication {
    pub(super) groups: BTreeMap<JobId, Group>,
    /// Jobs of whose replicas something was heard since they were judged last.
    pub(super) heard: BTreeSet<JobId>,
    /// Replicas that must be written.
    births: Vec<Delivered>,
    /// Results that must be checked: of which job, and of which of its replicas.
    pub(super) unchecked: Vec<(JobId, u32)>,
    /// Jobs whose replicas must be read from the store.
    unread: BTreeSet<JobId>,
    owners: Owners,
    pub(super) credits: Credits,
    credits_revision: u64,
    pub(super) secret: Secret,
    /// What jobs have shown of owners, until their ends are durable.
    pub(super) shown: BTreeMap<JobId, Vec<(String, Shown)>>,
}

/// What is known from the store when a cell begins.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// The credit of owners.
    pub credits: QuorumCredits,
    /// The revision of that record; 0 where there is none.
    pub revision: u64,
    /// What makes draws unforeseeable.
    pub secret: Secret,
}

/// The replicas of one job.
#[derive(Clone, Debug)]
pub(super) struct Group {
    /// What placement must know of the job.
    class: Arc<Class>,
    pub(super) replicas: BTreeMap<u32, Replica>,
    /// All of them are known here.
    pub(super) is_whole: bool,
    /// What they say counts when it was checked.
    pub(super) is_checked: bool,
}

/// What is known of a replica.
#[derive(Clone, Debug, Default)]
pub(super) struct Replica {
    /// Who has it, or had it when it ended; empty where nobody does.
    pub(super) worker_id: String,
    /// How it ended, once that is durable.
    pub(super) end: Option<End>,
    pub(super) check: Check,
}

/// A replica that is on its way into the store: once its unit is committed, [`Cell::insert_new`] takes it in.
#[derive(Clone, Debug)]
pub struct Delivered {
    /// It.
    pub job: Job,
    /// Its class.
    pub class: Arc<Class>,
    /// Its unit.
    pub unit: Unit,
}

impl Replica {
    fn word(&self, is_checked: bool) -> Word {
        let Some(end) = &self.end else { return Word::Awaited };
        match end.outcome {
            Outcome::Succeeded if is_checked => self.check.word(compare::digest_of(end.result.as_ref())),
            Outcome::Succeeded => Word::Said(compare::digest_of(end.result.as_ref())),
            // An end that we decided ourselves says nothing about the job.
            Outcome::Failed if !end.decided_here => Word::Failed { code: end.code.clone() },
            Outcome::Failed | Outcome::Cancelled | Outcome::Denied | Outcome::Timeout => Word::Lost,
        }
    }

    /// It was read, or has changed; what ended stays so.
    fn update(&mut self, seen: Self) {
        if self.end.is_none() {
            *self = Self { check: std::mem::take(&mut self.check), ..seen };
        }
    }
}

impl Group {
    pub(super) fn words(&self) -> impl Iterator<Item = (u32, &Replica, Word)> {
        self.replicas.iter().map(|(number, replica)| (*number, replica, replica.word(self.is_checked)))
    }
}

impl Replication {
    pub(super) fn new(standing: Standing) -> Self {
        let Standing { credits, revision, secret } = standing;
        Self { credits: Credits::from_record(credits), credits_revision: revision, secret, ..Self::default() }
    }

    /// How many more jobs may have their replicas out.
    pub(super) fn room(&self) -> usize {
        OUT_MAX.saturating_sub(self.groups.len())
    }
}

impl Cell {
    /// On whose account workers speak.
    pub fn set_owners(&mut self, owners: Owners) {
        self.replication.owners = owners;
    }

    /// Jobs whose replicas must be read before anything can be said of them.
    pub fn take_unread_groups(&mut self) -> Vec<UnreadGroup> {
        let unread = std::mem::take(&mut self.replication.unread);
        let group = |parent: JobId| {
            let replicas_max = replicas_max(self.job(&parent)?);
            let is_checked = self.replication.groups.get(&parent).is_some_and(|group| group.is_checked);
            Some(UnreadGroup { parent, replicas_max, is_checked })
        };
        unread.into_iter().filter_map(group).collect()
    }

    /// The replicas of a job were read, and what checks their results: these are in the store, live or not.
    pub fn replicas_read(&mut self, parent: &JobId, read: Siblings, now: Timestamp) {
        let Some(group) = self.replication.groups.get_mut(parent) else { return };
        for (number, job) in read.replicas {
            // A stranger that has the name of a replica takes its place, and says nothing.
            let replica = job.filter(|job| job.replica == number && job.parent_job_id == parent.as_str());
            let read = replica.as_ref().map_or_else(stranger, seen);
            // What is live and in memory is newer there.
            let known = group.replicas.entry(number).or_default();
            if read.end.is_some() || known.worker_id.is_empty() {
                known.update(read);
            }
        }
        group.is_whole = true;
        for (number, job) in read.checks {
            match job.filter(|job| job.verifies == number && job.parent_job_id == parent.as_str()) {
                Some(job) => self.see_check(&job),
                None => self.see_stranger(parent, number),
            }
        }
        self.replication.heard.insert(parent.clone());
        self.sort_anew(parent, now);
    }

    /// The replicas that are to be written.
    pub fn take_births(&mut self) -> Vec<Delivered> {
        std::mem::take(&mut self.replication.births)
    }

    /// The unit that keeps the credit of owners, if it is time for it.
    pub fn take_credits_unit(&mut self, now: Timestamp) -> Option<Unit> {
        self.replication.credits.due().filter(|due| *due <= now)?;
        self.replication.credits.written();
        let id = self.next_commit();
        let Replication { credits, credits_revision, .. } = &mut self.replication;
        let unit = commit::document(keys::QUORUM_CREDITS, &credits.to_record(), *credits_revision, self.epoch, id);
        *credits_revision += 1;
        Some(unit)
    }

    /// When the credit of owners must be written.
    pub(super) const fn credits_due(&self) -> Option<Timestamp> {
        self.replication.credits.due()
    }

    /// A job's end is durable: what it has shown of owners counts.
    pub(super) fn learn(&mut self, job: &Job, now: Timestamp) {
        if let Some(shown) = self.replication.shown.remove(&job.id) {
            self.replication.credits.learn(&job.topic, &shown, now);
        }
    }

    /// Whether something was heard that has not been judged, or is to be read or written.
    pub(super) fn has_replication_work(&self) -> bool {
        let Replication { heard, births, unread, unchecked, .. } = &self.replication;
        !heard.is_empty() || !births.is_empty() || !unread.is_empty() || !unchecked.is_empty()
    }

    /// A job has come into the cell: it may have replicas, or be one, or check one.
    pub(super) fn join_group(&mut self, id: &JobId, now: Timestamp) {
        let Some(entry) = self.jobs.get(id) else { return };
        if let State::Replicated { .. } = entry.job.state {
            self.open_group(id, false);
            self.replication.unread.insert(id.clone());
            let parts: Vec<Job> = self.children_of(id).filter(|child| child.is_part()).cloned().collect();
            parts.iter().for_each(|part| self.see_part(part));
        } else if entry.job.is_part() {
            let job = entry.job.clone();
            self.see_part(&job);
            self.sort_part(id, now);
        }
    }

    fn open_group(&mut self, id: &JobId, is_whole: bool) {
        let Some(entry) = self.jobs.get(id) else { return };
        let is_checked = entry.job.plan.replication.as_ref().is_some_and(|replication| !replication.verifier.is_empty());
        let group = Group { class: Arc::clone(&entry.line.class), replicas: BTreeMap::new(), is_whole, is_checked };
        self.replication.groups.insert(id.clone(), group);
    }

    /// It is a job's turn, and a worker has room for a replica.
    pub(super) fn replicate(&mut self, id: &JobId, now: Timestamp) -> bool {
        if self.apply(id, &Event::Replicated, now).is_err() {
            return false;
        }
        // Nobody is sent the job itself.
        self.inputs.take(id);
        self.open_group(id, true);
        self.replication.heard.insert(id.clone());
        true
    }

    /// A job has changed: if it is a replica that went to somebody, the others of its group go elsewhere; if it had replicas and is
    /// over, so are they.
    pub(super) fn follow_replication(&mut self, id: &JobId, before: &Job, now: Timestamp) {
        let Some(entry) = self.jobs.get(id) else { return };
        let job = &entry.job;
        if let Some(parent) = parent_of(job) {
            if job.replica > 0 && job.end().is_none() && job.hold().is_some() != before.hold().is_some() {
                let replica = job.clone();
                self.see_replica(&replica);
                self.replication.heard.insert(parent.clone());
                self.sort_anew(&parent, now);
            }
        } else if matches!(before.state, State::Replicated { .. }) && job.end().is_some() {
            let charge = entry.charge.clone();
            self.flow.release_key(&charge);
            self.alarms.extend(charge.key_name().map(|name| (Timestamp::default(), Alarm::Key(name))));
            self.replication.groups.remove(id);
            self.queue.room_came();
            self.parent_has_ended(id.as_str());
        }
    }

    /// The end of a replica, or of what checks one, is durable.
    pub(super) fn part_ended(&mut self, job: &Job) {
        if let Some(parent) = parent_of(job) {
            self.see_part(job);
            self.replication.heard.insert(parent);
        }
    }

    fn see_part(&mut self, job: &Job) {
        if job.verifies > 0 { self.see_check(job) } else { self.see_replica(job) }
    }

    fn see_replica(&mut self, job: &Job) {
        if let Some(group) = parent_of(job).and_then(|parent| self.replication.groups.get_mut(&parent)) {
            group.replicas.entry(job.replica).or_default().update(seen(job));
        }
    }

    /// Whether a job can line up: where the others of its group are is known, if it is in one.
    pub(super) fn knows_siblings(&self, job: &Job) -> bool {
        !job.is_part() || self.group_of(job).is_some_and(|group| group.is_whole)
    }

    pub(super) fn group_of(&self, part: &Job) -> Option<&Group> {
        self.replication.groups.get(&parent_of(part)?)
    }

    /// Whether a job must not go to a worker: another one of its group is, or was, with somebody of the same owner, or it checks what
    /// such a one has said.
    pub(super) fn is_taken(&self, job: &Job, worker_id: &str) -> bool {
        let owner = self.owner_of(worker_id);
        let is_theirs = |sibling: &Replica| self.owner_of(&sibling.worker_id) == owner;
        job.is_part() && (self.is_barred(job, owner) || self.siblings_of(job).any(is_theirs))
    }

    /// Whether an owner was found wrong too often to work on a job's topic.
    fn is_barred(&self, job: &Job, owner: &str) -> bool {
        let has_trust = job.plan.replication.as_ref().is_some_and(|replication| replication.trust.is_some());
        has_trust && self.replication.credits.of(&job.topic, owner).is_barred()
    }

    /// The replicas to whose owners a job must not go: of a replica, the others of its group that somebody has, or has spoken of; of what
    /// checks a result, the one that has said it.
    fn siblings_of(&self, job: &Job) -> impl Iterator<Item = &Replica> {
        let (replica, verifies) = (job.replica, job.verifies);
        let is_other = move |number: u32| if verifies > 0 { number == verifies } else { number != replica };
        let others =
            self.group_of(job).into_iter().flat_map(|group| &group.replicas).filter(move |(number, _)| is_other(**number));
        // Whoever has spoken has spoken, whatever a check has made of it.
        others.map(|(_, replica)| replica).filter(|replica| !replica.worker_id.is_empty() && replica.word(false) != Word::Lost)
    }

    /// On whose account a worker speaks: its own, where nothing else is known.
    pub(super) fn owner_of<'a>(&'a self, worker_id: &'a str) -> &'a str {
        self.replication.owners.get(worker_id).map_or(worker_id, String::as_str)
    }

    /// The parts of a job that wait are sorted anew, by where the others are by now.
    fn sort_anew(&mut self, parent: &JobId, now: Timestamp) {
        let waits = |part: &&Job| part.is_part() && matches!(part.state, State::Scheduled { .. });
        let waiting: Vec<JobId> = self.children_of(parent).filter(waits).map(|part| part.id.clone()).collect();
        waiting.iter().for_each(|id| self.sort_part(id, now));
    }

    /// Puts a replica, or what checks one, into the class of those that may go where it may go.
    pub(super) fn sort_part(&mut self, id: &JobId, now: Timestamp) {
        let Some(entry) = self.jobs.get(id) else { return };
        let Some(group) = self.group_of(&entry.job) else { return };
        let owners: BTreeSet<&str> = self.siblings_of(&entry.job).map(|sibling| self.owner_of(&sibling.worker_id)).collect();
        let is_taken = |worker: &&String| {
            let owner = self.owner_of(worker);
            owners.contains(owner) || self.is_barred(&entry.job, owner)
        };
        let taken = self.workers.iter().map(|(worker, _)| worker).filter(is_taken);
        // Whom a replica's siblings keep away may change; whose result is checked does not.
        let base = if entry.job.verifies > 0 { &entry.line.class } else { &group.class };
        let excluded: BTreeSet<String> = base.excluded.iter().chain(taken).cloned().collect();
        let class = Class { excluded, ..(**base).clone() };
        if *entry.line.class != class {
            let line = Line { class: Arc::new(class), rank: entry.line.rank, tenant: Arc::clone(&entry.line.tenant) };
            self.leave_line(id, now);
            let line = self.line(line);
            if let Some(entry) = self.jobs.get_mut(id) {
                entry.line = line;
            }
        }
        self.reindex(id, now);
    }

    pub(super) fn make_replicas(&mut self, parent: &JobId, more: u32, now: Timestamp) {
        let Some(job) = self.job(parent).cloned() else { return };
        let most = replicas_max(&job);
        for _ in 0..more {
            let Some(group) = self.replication.groups.get_mut(parent) else { return };
            // Whoever gets a replica must not see in its name whether there are others.
            let place = u32::try_from(group.replicas.len()).unwrap_or(u32::MAX);
            let number = 1 + self.replication.secret.replica(parent, place, most);
            let Some(id) = replica_id(parent, number) else { continue };
            group.replicas.insert(number, Replica::default());
            let class = Arc::clone(&group.class);
            let (job, input_from) = replica(&job, id, number, now);
            let passed = [JobState::Pending, JobState::Scheduled];
            let (unit, _) = self.admission(&job, &passed, &Birth { input_from, ..Birth::default() });
            self.replication.births.push(Delivered { job, class, unit });
        }
    }
}

/// The job of which this one is a replica, or checks one, if it does.
pub(super) fn parent_of(job: &Job) -> Option<JobId> {
    if job.is_part() { JobId::parse(job.parent_job_id.clone()).ok() } else { None }
}

/// How many replicas a job may have.
fn replicas_max(job: &Job) -> u32 {
    job.plan.replication.as_ref().map_or(0, |replication| replication.replicas_max)
}

/// A job whose replicas must be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadGroup {
    /// It.
    pub parent: JobId,
    /// How many replicas it may have.
    pub replicas_max: u32,
    /// Their results are checked.
    pub is_checked: bool,
}

/// What stands in the store under the names that belong to a job with replicas: jobs by the number of the replica, none where it is no
/// job that can be read.
#[derive(Clone, Debug, Default)]
pub struct Siblings {
    /// Under the names of replicas.
    pub replicas: Vec<(u32, Option<Job>)>,
    /// Under the names of what checks their results.
    pub checks: Vec<(u32, Option<Job>)>,
}

/// The name of what checks the result of a replica.
#[must_use]
pub fn verification_id(parent: &JobId, replica: u32) -> Option<JobId> {
    JobId::parse(format!("{parent}.v{replica}")).ok()
}

/// The name of a replica.
#[must_use]
pub fn replica_id(parent: &JobId, number: u32) -> Option<JobId> {
    JobId::parse(format!("{parent}.r{number}")).ok()
}

/// A replica as it begins, and the key from which its input is copied.
fn replica(parent: &Job, id: JobId, number: u32, now: Timestamp) -> (Job, Option<String>) {
    let request = JobRequest::decode(parent.request.clone()).unwrap_or_default();
    let input = match Pointer::parse(&request.context_ptr) {
        Ok(Pointer::Redis(key)) => Some(key),
        Ok(Pointer::Blob(_)) | Err(_) => None,
    };
    let context_ptr = input.as_ref().map_or_else(String::new, |_| Pointer::Redis(keys::context(id.as_str())).to_string());
    let patch = JobRequest { job_id: id.to_string(), parent_job_id: parent.id.to_string(), context_ptr, ..JobRequest::default() };
    let job = Job {
        request: envelope::patch_request(&parent.request, &patch),
        updated: now,
        attempt: 0,
        parent_job_id: parent.id.to_string(),
        replica: number,
        plan: JobPlan {
            // What holds for the job as a whole holds for it alone.
            idempotency_key: String::new(),
            concurrency_key: String::new(),
            not_before_ms: 0,
            ..parent.plan.clone()
        },
        redrive_of: String::new(),
        last_end: None,
        from_bus: false,
        state: State::Scheduled { since: now, not_before: now },
        ..Job { id, ..parent.clone() }
    };
    (job, input)
}

/// What is known of a replica that was read or has changed.
fn seen(job: &Job) -> Replica {
    let end = job.end().cloned();
    let worker_id = job.hold().map(|hold| hold.worker_id.clone()).or_else(|| end.as_ref().map(|end| end.worker_id.clone()));
    Replica { worker_id: worker_id.unwrap_or_default(), end, check: Check::Unasked }
}

/// What is known of a job that is no replica and has the name of one.
fn stranger() -> Replica {
    let end = End {
        outcome: Outcome::Cancelled,
        at: Timestamp::default(),
        worker_id: String::new(),
        code: String::new(),
        message: String::new(),
        result: None,
        execution_ms: 0,
        decided_here: true,
    };
    Replica { end: Some(end), ..Replica::default() }
}
