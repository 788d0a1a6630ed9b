//! Jobs whose result several workers must come to: their replicas, and what those have said.
//!
//! ```text
//!  <job>     SCHEDULED ──its turn──▶ DISPATCHED ─────────────────────────── a quorum agrees ──▶ SUCCEEDED
//!                                     │ as many as are needed                    ▲ each end, once it is durable
//!  <job>.r1                           ├──▶ SCHEDULED ─▶ DISPATCHED ─▶ SUCCEEDED ─┤
//!  <job>.r2                           └──▶ SCHEDULED ─▶ DISPATCHED ─▶ SUCCEEDED ─┘
//! ```
//!
//! A replica is a job like any other, but that it goes to nobody on whose account another one of its group has spoken or works.
//! What a group has come to is never kept: it follows from the records of its replicas, whose names are known.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use busbar_protocol::busbar::{JobPlan, JobState, QuorumCredits, Vote};
use busbar_protocol::cap::JobRequest;
use busbar_protocol::codes::Code;
use busbar_protocol::envelope;
use busbar_protocol::ids::JobId;
use busbar_protocol::keys;
use busbar_protocol::pointers::Pointer;
use busbar_protocol::ports::Unit;
use busbar_protocol::prost::Message as _;
use busbar_protocol::time::Timestamp;
use busbar_rules::replication::Terms;

use super::super::commit::{self, Birth};
use super::super::job::{End, Job, Outcome, ResultPlace, Source, State};
use super::super::line::{Class, Line};
use super::super::quorum::compare;
use super::super::quorum::credit::{Credit, Outcome as Shown};
use super::super::quorum::credits::Credits;
use super::super::quorum::draw::Secret;
use super::super::quorum::vote::{self, Verdict, Voice, Word};
use super::super::transition::{Event, Settled};
use super::Cell;
use super::placing::Alarm;

/// How many jobs have their replicas out at most: where only few owners are there, every job could have one replica that is done and
/// one that nobody may have, and all of these are in memory.
const OUT_MAX: usize = 4_096;

/// On whose account workers speak, where that was said when their keys were enrolled; all others speak for themselves.
pub type Owners = BTreeMap<String, String>;

/// Which replicas there are, and what they have said.
#[derive(Clone, Debug, Default)]
pub(super) struct Replication {
    groups: BTreeMap<JobId, Group>,
    /// Jobs of whose replicas something was heard since they were judged last.
    heard: BTreeSet<JobId>,
    /// Replicas that must be written.
    births: Vec<Delivered>,
    /// Jobs whose replicas must be read from the store.
    unread: BTreeSet<JobId>,
    owners: Owners,
    credits: Credits,
    credits_revision: u64,
    secret: Secret,
    /// What jobs have shown of owners, until their ends are durable.
    shown: BTreeMap<JobId, Vec<(String, Shown)>>,
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
struct Group {
    /// What placement must know of the job.
    class: Arc<Class>,
    replicas: BTreeMap<u32, Replica>,
    /// All of them are known here.
    is_whole: bool,
}

/// What is known of a replica.
#[derive(Clone, Debug, Default)]
struct Replica {
    /// Who has it, or had it when it ended; empty where nobody does.
    worker_id: String,
    /// How it ended, once that is durable.
    end: Option<End>,
}

/// A replica that is on its way into the store: once its unit is committed, [`Cell::insert`] takes it in.
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
    fn word(&self) -> Word {
        let Some(end) = &self.end else { return Word::Awaited };
        match end.outcome {
            Outcome::Succeeded => Word::Said(compare::digest_of(end.result.as_ref())),
            // An end that we decided ourselves says nothing about the job.
            Outcome::Failed if !end.decided_here => Word::Failed { code: end.code.clone() },
            Outcome::Failed | Outcome::Cancelled | Outcome::Denied | Outcome::Timeout => Word::Lost,
        }
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

    /// Jobs whose replicas must be read before anything can be said of them, with the most that each may have.
    pub fn take_unread_groups(&mut self) -> Vec<(JobId, u32)> {
        let unread = std::mem::take(&mut self.replication.unread);
        let most = |job: &Job| job.plan.replication.map_or(0, |replication| replication.replicas_max);
        unread.into_iter().filter_map(|id| self.job(&id).map(most).map(|most| (id, most))).collect()
    }

    /// The replicas of a job were read: these are in the store, live or not.
    pub fn replicas_read(&mut self, parent: &JobId, replicas: Vec<(u32, Option<Job>)>, now: Timestamp) {
        let Some(group) = self.replication.groups.get_mut(parent) else { return };
        for (number, job) in replicas {
            // A stranger that has the name of a replica takes its place, and says nothing.
            let replica = job.filter(|job| job.replica == number && job.parent_job_id == parent.as_str());
            let read = replica.as_ref().map_or_else(stranger, seen);
            // What is live and in memory is newer there.
            let known = group.replicas.entry(number).or_default();
            if known.end.is_none() && (read.end.is_some() || known.worker_id.is_empty()) {
                *known = read;
            }
        }
        group.is_whole = true;
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
        let Replication { heard, births, unread, .. } = &self.replication;
        !heard.is_empty() || !births.is_empty() || !unread.is_empty()
    }

    /// A job has come into the cell: it may have replicas, or be one.
    pub(super) fn join_group(&mut self, id: &JobId, now: Timestamp) {
        let Some(entry) = self.jobs.get(id) else { return };
        let (state, is_replica, class) = (&entry.job.state, entry.job.replica > 0, Arc::clone(&entry.line.class));
        if let State::Replicated { .. } = state {
            self.open_group(id, class, false);
            self.replication.unread.insert(id.clone());
            let siblings: Vec<Job> = self.children_of(id).filter(|child| child.replica > 0).cloned().collect();
            siblings.iter().for_each(|sibling| self.see_replica(sibling));
        } else if is_replica {
            let job = entry.job.clone();
            self.see_replica(&job);
            self.sort_replica(id, now);
        }
    }

    fn open_group(&mut self, id: &JobId, class: Arc<Class>, is_whole: bool) {
        self.replication.groups.insert(id.clone(), Group { class, replicas: BTreeMap::new(), is_whole });
    }

    /// It is a job's turn, and a worker has room for a replica.
    pub(super) fn replicate(&mut self, id: &JobId, now: Timestamp) -> bool {
        if self.apply(id, &Event::Replicated, now).is_err() {
            return false;
        }
        // Nobody is sent the job itself.
        self.inputs.take(id);
        let Some(entry) = self.jobs.get(id) else { return false };
        let class = Arc::clone(&entry.line.class);
        self.open_group(id, class, true);
        self.replication.heard.insert(id.clone());
        true
    }

    /// A job has changed: if it is a replica that went to somebody, the others of its group go elsewhere; if it had replicas and is
    /// over, so are they.
    pub(super) fn follow_replication(&mut self, id: &JobId, before: &Job, now: Timestamp) {
        let Some(entry) = self.jobs.get(id) else { return };
        let job = &entry.job;
        if let Some(parent) = parent_of(job) {
            if job.end().is_none() && job.hold().is_some() != before.hold().is_some() {
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

    /// A replica's end is durable.
    pub(super) fn replica_ended(&mut self, job: &Job) {
        if let Some(parent) = parent_of(job) {
            self.see_replica(job);
            self.replication.heard.insert(parent);
        }
    }

    fn see_replica(&mut self, job: &Job) {
        if let Some(group) = parent_of(job).and_then(|parent| self.replication.groups.get_mut(&parent)) {
            let known = group.replicas.entry(job.replica).or_default();
            if known.end.is_none() {
                *known = seen(job);
            }
        }
    }

    /// Whether a replica can line up: where the others of its group are is known.
    pub(super) fn knows_siblings(&self, job: &Job) -> bool {
        job.replica == 0 || self.group_of(job).is_some_and(|group| group.is_whole)
    }

    fn group_of(&self, replica: &Job) -> Option<&Group> {
        self.replication.groups.get(&parent_of(replica)?)
    }

    /// Whether a replica must not go to a worker: another one of its group is, or was, with somebody of the same owner.
    pub(super) fn is_taken(&self, job: &Job, worker_id: &str) -> bool {
        let owner = self.owner_of(worker_id);
        let is_theirs = |sibling: &Replica| self.owner_of(&sibling.worker_id) == owner;
        job.replica > 0 && (self.is_barred(job, owner) || self.siblings_of(job).any(is_theirs))
    }

    /// Whether an owner was found wrong too often to work on a job's topic.
    fn is_barred(&self, job: &Job, owner: &str) -> bool {
        let has_trust = job.plan.replication.is_some_and(|replication| replication.trust.is_some());
        has_trust && self.replication.credits.of(&job.topic, owner).is_barred()
    }

    /// The other replicas of a group that somebody has, or has spoken of.
    fn siblings_of(&self, job: &Job) -> impl Iterator<Item = &Replica> {
        let number = job.replica;
        let others = self.group_of(job).into_iter().flat_map(|group| &group.replicas).filter(move |(other, _)| **other != number);
        others.map(|(_, replica)| replica).filter(|replica| !replica.worker_id.is_empty() && replica.word() != Word::Lost)
    }

    /// On whose account a worker speaks: its own, where nothing else is known.
    fn owner_of<'a>(&'a self, worker_id: &'a str) -> &'a str {
        self.replication.owners.get(worker_id).map_or(worker_id, String::as_str)
    }

    /// The replicas of a job that wait are sorted anew, by where the others are by now.
    fn sort_anew(&mut self, parent: &JobId, now: Timestamp) {
        let Some(group) = self.replication.groups.get(parent) else { return };
        let ids: Vec<JobId> = group.replicas.keys().filter_map(|number| replica_id(parent, *number)).collect();
        for id in ids {
            let waits = self.job(&id).is_some_and(|job| matches!(job.state, State::Scheduled { .. }));
            if waits {
                self.sort_replica(&id, now);
            }
        }
    }

    /// Puts a replica into the class of those that may go where it may go.
    pub(super) fn sort_replica(&mut self, id: &JobId, now: Timestamp) {
        let Some(entry) = self.jobs.get(id) else { return };
        let Some(group) = self.group_of(&entry.job) else { return };
        let owners: BTreeSet<&str> = self.siblings_of(&entry.job).map(|sibling| self.owner_of(&sibling.worker_id)).collect();
        let is_taken = |worker: &&String| {
            let owner = self.owner_of(worker);
            owners.contains(owner) || self.is_barred(&entry.job, owner)
        };
        let taken = self.workers.iter().map(|(worker, _)| worker).filter(is_taken);
        let excluded: BTreeSet<String> = group.class.excluded.iter().chain(taken).cloned().collect();
        let class = Class { excluded, ..(*group.class).clone() };
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

    /// Judges all jobs of whose replicas something was heard.
    pub(super) fn judge_replicas(&mut self, now: Timestamp) {
        for id in std::mem::take(&mut self.replication.heard) {
            let Some(group) = self.replication.groups.get(&id).filter(|group| group.is_whole) else { continue };
            let Some(job) = self.job(&id) else { continue };
            let Some(replication) = &job.plan.replication else { continue };
            let voices = self.voices(group);
            if let Some(denied) = denial(group) {
                let settled = settled(voices, Outcome::Denied, (denied.code.clone(), denied.message.clone()), &[]);
                let _ = self.apply(&id, &Event::Settled(settled), now);
                continue;
            }
            let terms = Terms::from(replication);
            let credit = |owner: &str| -> Credit { self.replication.credits.of(&job.topic, owner) };
            let audited = terms.trust.as_ref().is_some_and(|trust| self.replication.secret.audits(&id, trust.audit_share));
            let verdict = vote::judge(&terms, &voices, &credit, audited);
            let shown = vote::outcomes(&terms, &voices, &credit, &verdict);
            match verdict {
                Verdict::Wait => {}
                Verdict::Ask { more } => self.make_replicas(&id, more, now),
                verdict => {
                    let settled = self.settle(&id, verdict, voices);
                    self.replication.shown.extend((!shown.is_empty()).then(|| (id.clone(), shown)));
                    let _ = self.apply(&id, &Event::Settled(settled), now);
                }
            }
        }
    }

    fn voices(&self, group: &Group) -> Vec<Voice> {
        let voice = |(number, replica): (&u32, &Replica)| Voice {
            replica: *number,
            worker_id: replica.worker_id.clone(),
            owner: self.owner_of(&replica.worker_id).to_owned(),
            word: replica.word(),
        };
        group.replicas.iter().map(voice).collect()
    }

    fn make_replicas(&mut self, parent: &JobId, more: u32, now: Timestamp) {
        let Some(job) = self.job(parent).cloned() else { return };
        let most = job.plan.replication.map_or(0, |replication| replication.replicas_max);
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

    /// How a job ends whose replicas have come to something.
    fn settle(&self, id: &JobId, verdict: Verdict, voices: Vec<Voice>) -> Settled {
        let end_of = |number| {
            let group = self.replication.groups.get(id);
            group.and_then(|group| group.replicas.get(&number)).and_then(|replica| replica.end.clone())
        };
        match verdict {
            Verdict::Accept { replica, .. } => {
                let end = end_of(replica);
                let result = end.as_ref().and_then(|end| end.result.clone()).map(|place| self.own(id, place));
                let agreed = end.as_ref().map(|end| compare::digest_of(end.result.as_ref()));
                let agreed = agreed.as_ref().map_or(&[][..], |digest| &digest[..]);
                let settled = settled(voices, Outcome::Succeeded, Default::default(), agreed);
                let (worker_id, execution_ms) = end.map(|end| (end.worker_id, end.execution_ms)).unwrap_or_default();
                Settled { result, worker_id, execution_ms, ..settled }
            }
            Verdict::Fail { replica, code } => {
                let message = end_of(replica).map(|end| end.message).unwrap_or_default();
                settled(voices, Outcome::Failed, (code, message), &[])
            }
            Verdict::Split | Verdict::Wait | Verdict::Ask { .. } => {
                let why = (Code::QuorumNotReached.to_string(), split(&voices));
                settled(voices, Outcome::Failed, why, &[])
            }
        }
    }

    /// A replica's result under the name of the job itself.
    fn own(&self, id: &JobId, place: ResultPlace) -> ResultPlace {
        let attempt = self.job(id).map_or(0, |job| job.attempt);
        let place = ResultPlace { compared: bytes::Bytes::new(), ..place };
        match Pointer::parse(&place.pointer) {
            Ok(Pointer::Redis(key)) => ResultPlace { source: Source::Key(key), ..place }.of_attempt(id, attempt),
            Ok(Pointer::Blob(_)) | Err(_) => place,
        }
    }

    /// What the replicas of a job have said so far, in words; none where it has no replicas.
    pub(super) fn tell_replicas(&self, id: &JobId) -> Option<String> {
        let group = self.replication.groups.get(id)?;
        let told = |(number, replica): (&u32, &Replica)| {
            let at = if replica.worker_id.is_empty() { "nobody yet".to_owned() } else { replica.worker_id.clone() };
            let word = match replica.word() {
                Word::Awaited => "awaited".to_owned(),
                Word::Said(digest) => format!("said {}", busbar_protocol::hex::encode(&digest[..4])),
                Word::Failed { code } => format!("failed: {code}"),
                Word::Lost => "ended without a word".to_owned(),
            };
            format!("r{number} with {at}: {word}")
        };
        Some(group.replicas.iter().map(told).collect::<Vec<_>>().join("; "))
    }
}

/// The job of which this one is a replica, if it is one.
fn parent_of(job: &Job) -> Option<JobId> {
    if job.replica == 0 { None } else { JobId::parse(job.parent_job_id.clone()).ok() }
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
    Replica { worker_id: worker_id.unwrap_or_default(), end }
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
    Replica { worker_id: String::new(), end: Some(end) }
}

/// The end of a replica that the policy has denied: what holds for it holds for the job.
fn denial(group: &Group) -> Option<&End> {
    group.replicas.values().filter_map(|replica| replica.end.as_ref()).find(|end| end.outcome == Outcome::Denied)
}

/// An end with what each replica said of it.
fn settled(voices: Vec<Voice>, outcome: Outcome, (code, message): (String, String), agreed: &[u8]) -> Settled {
    let vote = |voice: Voice| {
        let (compared, error_code) = match voice.word {
            Word::Said(digest) => (digest.to_vec(), String::new()),
            Word::Failed { code } => (Vec::new(), code),
            Word::Awaited | Word::Lost => (Vec::new(), String::new()),
        };
        let said = !compared.is_empty() && compared == agreed;
        let failed = outcome == Outcome::Failed && !error_code.is_empty() && error_code == code;
        Vote {
            replica: voice.replica,
            worker_id: voice.worker_id,
            owner: voice.owner,
            compared_sha256: compared.into(),
            error_code,
            agrees: said || failed,
        }
    };
    let votes = voices.into_iter().map(vote).collect();
    Settled { votes, outcome, code, message, result: None, worker_id: String::new(), execution_ms: 0 }
}

/// Why no quorum was reached.
fn split(voices: &[Voice]) -> String {
    let count = |is: fn(&Word) -> bool| voices.iter().filter(|voice| is(&voice.word)).count();
    let results: BTreeSet<[u8; 32]> =
        voices.iter().filter_map(|voice| if let Word::Said(digest) = &voice.word { Some(*digest) } else { None }).collect();
    let [said, failed, lost] =
        [count(|w| matches!(w, Word::Said(_))), count(|w| matches!(w, Word::Failed { .. })), count(|w| matches!(w, Word::Lost))];
    let different = results.len();
    format!("{said} replicas gave {different} different results, {failed} failed, {lost} gave no answer; too few agree")
}
