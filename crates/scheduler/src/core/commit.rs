//! Turns a change of a job into the unit that makes it durable: record, indexes, payloads, log and dead letter together.

use std::time::Duration;

use bytes::Bytes;

use busbar_protocol::busbar::{DeadLetter, IdempotencyRecord, JobEvent, JobState, job_record};
use busbar_protocol::keys;
use busbar_protocol::limits::INPUT_TTL;
use busbar_protocol::pointers::Pointer;
use busbar_protocol::ports::{CommitId, Guard, Unit, Write};
use busbar_protocol::prost::Message;

use super::job::{End, Job, Outcome, RECORD_VERSION, Source, State};

/// How long what is over stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Finished jobs.
    pub jobs: Duration,
    /// Results whose topic says nothing else.
    pub results: Duration,
    /// Dead letters.
    pub dead_letters: Duration,
    /// Jobs that were refused on the bare bus.
    pub refused: Duration,
    /// Entries of the log.
    pub log_entries: u64,
}

impl Default for Retention {
    fn default() -> Self {
        let day = Duration::from_secs(24 * 60 * 60);
        Self { jobs: 7 * day, results: day, dead_letters: 30 * day, refused: day, log_entries: 1_000_000 }
    }
}

/// One commit in so many takes what is forgotten out of the index of finished jobs.
const TRIMMED_EVERY: u8 = 16;

/// A job on its way into the store.
#[derive(Clone, Debug, PartialEq)]
pub struct Change<'a> {
    /// The job as it will be.
    pub job: &'a Job,
    /// The revision that stands in the store; 0 where nothing does.
    pub revision: u64,
    /// Every state that it passed since it was written last, the present one included; empty where only the record changed.
    pub passed: &'a [JobState],
    /// The epoch under which we write.
    pub epoch: u64,
    /// The commit's id.
    pub id: CommitId,
}

/// What is special about the first commit of a job.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Birth {
    /// A job that never was admitted: it is told once and forgotten soon.
    pub refused: bool,
    /// The job to which its idempotency key pointed has ended without success: the key's record stands at this revision, and
    /// passes to the new job.
    pub key_revision: Option<u64>,
    /// The dead letter that it tries again.
    pub letter: Option<Letter>,
    /// The key from which its input is copied: it is a replica, and has the input of the job that it belongs to.
    pub input_from: Option<String>,
    /// Its input, which came with the submission and is written with the job.
    pub input: Option<Bytes>,
    /// Whoever submitted it may have taken it back.
    pub revocable: bool,
}

/// A dead letter as it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Letter {
    /// Its revision.
    pub revision: u64,
    /// It.
    pub letter: DeadLetter,
}

/// What the unit of a new job demands of the store, guard by guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// We are the active scheduler.
    Owner,
    /// No job has its name.
    JobAbsent,
    /// Its idempotency key stands for no other job.
    KeyFree,
    /// Its input is there.
    InputThere,
    /// Its submitter has not taken it back.
    NotRevoked,
    /// The dead letter is as it was read.
    LetterAsRead,
}

/// The unit of a change of a job that stands in the store.
#[must_use]
pub fn unit(change: &Change<'_>, retention: &Retention) -> Unit {
    let key = keys::job(change.job.id.as_str());
    let guards = vec![owner(change.epoch), Guard::Revision { key, revision: change.revision }];
    Unit { id: change.id, guards, writes: writes(change, &Birth::default(), Vec::new(), retention) }
}

/// The unit of a new job, with the meaning of each of its guards.
#[must_use]
pub fn birth(change: &Change<'_>, birth: &Birth, retention: &Retention) -> (Unit, Vec<Demand>) {
    let key = keys::job(change.job.id.as_str());
    let mut guards = vec![owner(change.epoch), Guard::Absent { key }];
    let mut demands = vec![Demand::Owner, Demand::JobAbsent];
    let mut own = Vec::new();
    if !birth.refused {
        let mut demand = |guard, meaning| {
            guards.push(guard);
            demands.push(meaning);
        };
        admit(change.job, birth, &mut demand, &mut own, retention);
    }
    (Unit { id: change.id, guards, writes: writes(change, birth, own, retention) }, demands)
}

/// The unit that puts an input in its place for a job that is not there yet: under a live job it would make the input expire.
#[must_use]
pub fn put_input(job_id: &str, input: Bytes, id: CommitId) -> Unit {
    let put = Write::PutPayload { key: keys::context(job_id), value: input, expire: Some(INPUT_TTL) };
    Unit { id, guards: vec![Guard::Absent { key: keys::job(job_id) }], writes: vec![put] }
}

pub(crate) fn owner(epoch: u64) -> Guard {
    Guard::Epoch { lock: keys::LOCK_SCHEDULER.to_owned(), epoch }
}

/// The record first, since a repeated unit is recognised by it; then what is special; the log entry last.
fn writes(change: &Change<'_>, birth: &Birth, special: Vec<Write>, retention: &Retention) -> Vec<Write> {
    let job = change.job;
    let expire = job.end().map(|_| if birth.refused { retention.refused } else { retention.jobs });
    let put =
        Write::Put { key: keys::job(job.id.as_str()), revision: change.revision + 1, value: record(job, retention), expire };
    let mut writes = vec![put];
    writes.extend(special);
    match job.end() {
        Some(end) => finish(job, end, change, birth, &mut writes, retention),
        None if moves(change) => writes.push(listed(job)),
        None => {}
    }
    if !change.passed.is_empty() {
        let value = event(job, change.passed).encode_to_vec().into();
        writes.push(Write::Append { log: keys::LOG_JOBS.to_owned(), value, keep: retention.log_entries });
    }
    writes
}

/// The packed form, with the time until which a result in blobs is kept: one in Redis expires by itself. That of a part may become the result
/// of a job that is still live, however long that takes, and stays as long as the record.
fn record(job: &Job, retention: &Retention) -> Bytes {
    let mut record = job.to_record();
    if let Some(job_record::State::Ended(ended)) = &mut record.state
        && !job.is_part()
        && matches!(Pointer::parse(&ended.result_ptr), Ok(Pointer::Blob(_)))
    {
        ended.result_until_ms = ended.at_ms.saturating_add(millis(results(job, retention)));
    }
    record.encode_to_vec().into()
}

/// How long a job's result is kept.
fn results(job: &Job, retention: &Retention) -> Duration {
    if job.plan.result_ttl_ms > 0 { Duration::from_millis(job.plan.result_ttl_ms) } else { retention.results }
}

/// What only the first commit of a job does: its key is taken, its input is written or stays, it is listed as live.
fn admit(job: &Job, birth: &Birth, demand: &mut impl FnMut(Guard, Demand), writes: &mut Vec<Write>, retention: &Retention) {
    if !job.plan.idempotency_key.is_empty() {
        let key = keys::idempotency(&job.tenant_id, &job.plan.idempotency_key);
        let free = match birth.key_revision {
            None => Guard::Absent { key: key.clone() },
            Some(revision) => Guard::Revision { key: key.clone(), revision },
        };
        demand(free, Demand::KeyFree);
        let value = IdempotencyRecord { version: 1, job_id: job.id.to_string(), trace_id: job.trace_id.clone() };
        let (revision, value) = (birth.key_revision.unwrap_or(0) + 1, value.encode_to_vec().into());
        writes.push(Write::Put { key, revision, value, expire: Some(retention.jobs) });
    }
    let input = keys::context(job.id.as_str());
    // A submission that arrives after its submitter gave up must not become a job: what stands for it then is gone, or is there.
    if birth.revocable {
        demand(Guard::Absent { key: keys::revoked(job.id.as_str()) }, Demand::NotRevoked);
    }
    if let Some(from) = &birth.input_from {
        writes.push(Write::Copy { from: from.clone(), to: input.clone(), expire: None });
    } else if birth.input.is_none() && job.plan.input_bytes > 0 && !job.from_bus {
        demand(Guard::Exists { key: input.clone() }, Demand::InputThere);
    }
    if let Some(letter) = &birth.letter {
        let key = keys::dead_letter(&letter.letter.job_id);
        demand(Guard::Revision { key: key.clone(), revision: letter.revision }, Demand::LetterAsRead);
        let redriven = DeadLetter { redriven_as: job.id.to_string(), redriven_ms: job.created.millis(), ..letter.letter.clone() };
        let (revision, value) = (letter.revision + 1, redriven.encode_to_vec().into());
        writes.push(Write::Put { key, revision, value, expire: Some(retention.dead_letters) });
    }
    match &birth.input {
        Some(bytes) => writes.push(Write::PutPayload { key: input, value: bytes.clone(), expire: None }),
        None if job.end().is_none() => writes.push(Write::Persist { key: input }),
        None => {}
    }
    if job.end().is_none() {
        writes.push(listed(job));
    }
}

/// Whether an attempt went out, or came back, since the job was written last.
fn moves(change: &Change<'_>) -> bool {
    let tried = change.job.attempt > 0 || change.job.unreached > 0;
    change.revision > 0 && tried && !change.passed.is_empty()
}

/// The place of a job in the index of those that are live: what is out comes before everything that waits.
fn listed(job: &Job) -> Write {
    let score = if job.waits() { score(job) } else { -score(job) };
    Write::IndexAdd { index: keys::INDEX_LIVE.to_owned(), member: job.id.to_string(), score }
}

/// What only the last commit of a job does.
fn finish(job: &Job, end: &End, change: &Change<'_>, birth: &Birth, writes: &mut Vec<Write>, retention: &Retention) {
    let member = job.id.to_string();
    if change.revision > 0 {
        writes.push(Write::IndexRemove { index: keys::INDEX_LIVE.to_owned(), member: member.clone() });
    }
    if birth.refused {
        return;
    }
    let finished = keys::index_finished(&job.tenant_id);
    if change.id.0[15].is_multiple_of(TRIMMED_EVERY) {
        let oldest = end.at.millis().saturating_sub(millis(retention.jobs));
        writes.push(Write::IndexTrim { index: finished.clone(), below: i64::try_from(oldest).unwrap_or(i64::MAX) });
    }
    writes.push(Write::IndexAdd { index: finished, member: member.clone(), score: score(job) });
    let results = results(job, retention);
    // A dead letter can be tried again as long as it is kept, so its input stays as long.
    let input = if leaves_letter(job, end) { results.max(retention.dead_letters) } else { results };
    writes.push(Write::Expire { key: keys::context(&member), after: input });
    if let Some(result) = &end.result
        && let Ok(Pointer::Redis(key)) = Pointer::parse(&result.pointer)
    {
        match &result.source {
            Source::There => writes.push(Write::Expire { key, after: results }),
            Source::Key(from) => {
                writes.push(Write::Copy { from: from.clone(), to: key, expire: Some(results) });
                writes.push(Write::Expire { key: from.clone(), after: results });
            }
            Source::Message(bytes) => writes.push(Write::PutPayload { key, value: bytes.clone(), expire: Some(results) }),
        }
    }
    if leaves_letter(job, end) {
        let letter = dead_letter(job, end).encode_to_vec().into();
        let key = keys::dead_letter(&member);
        writes.push(Write::Put { key, revision: 1, value: letter, expire: Some(retention.dead_letters) });
        let score = i64::try_from(end.at.millis()).unwrap_or(i64::MAX);
        let oldest = end.at.millis().saturating_sub(millis(retention.dead_letters));
        let below = i64::try_from(oldest).unwrap_or(i64::MAX);
        for index in [keys::INDEX_DEAD.to_owned(), keys::index_dead(&job.tenant_id)] {
            writes.push(Write::IndexAdd { index: index.clone(), member: member.clone(), score });
            writes.push(Write::IndexTrim { index, below });
        }
    }
}

/// The unit that throws a dead letter away.
#[must_use]
pub fn discard(letter: &DeadLetter, revision: u64, epoch: u64, id: CommitId) -> Unit {
    let (key, member) = (keys::dead_letter(&letter.job_id), letter.job_id.clone());
    let guards = vec![owner(epoch), Guard::Revision { key: key.clone(), revision }];
    let indexes = [keys::INDEX_DEAD.to_owned(), keys::index_dead(&letter.tenant_id)];
    let removals = indexes.map(|index| Write::IndexRemove { index, member: member.clone() });
    Unit { id, guards, writes: [Write::Delete { key }].into_iter().chain(removals).collect() }
}

/// The unit that keeps a document of ours, of which this revision was read; 0 where there was none.
#[must_use]
pub fn document(key: &str, record: &impl Message, revision: u64, epoch: u64, id: CommitId) -> Unit {
    let key = key.to_owned();
    let as_read = match revision {
        0 => Guard::Absent { key: key.clone() },
        revision => Guard::Revision { key: key.clone(), revision },
    };
    let put = Write::Put { key, revision: revision + 1, value: record.encode_to_vec().into(), expire: None };
    Unit { id, guards: vec![owner(epoch), as_read], writes: vec![put] }
}

/// Whether an end leaves a dead letter: the job should have succeeded and did not. Of parts of a job, that is the whole job's affair.
#[must_use]
pub const fn leaves_letter(job: &Job, end: &End) -> bool {
    !job.is_part() && matches!(end.outcome, Outcome::Failed | Outcome::Timeout)
}

fn dead_letter(job: &Job, end: &End) -> DeadLetter {
    DeadLetter {
        version: RECORD_VERSION,
        job_id: job.id.to_string(),
        tenant_id: job.tenant_id.clone(),
        topic: job.topic.clone(),
        reason_code: end.code.clone(),
        reason: end.message.clone(),
        state: end.outcome.state().into(),
        attempts: job.attempt,
        created_ms: end.at.millis(),
        request: job.request.clone(),
        plan: Some(job.plan.clone()),
        redriven_as: String::new(),
        redriven_ms: 0,
        crashes: job.crashes,
        trace_id: job.trace_id.clone(),
        redrive_of: job.redrive_of.clone(),
    }
}

/// The log entry of a change.
fn event(job: &Job, passed: &[JobState]) -> JobEvent {
    let end = job.end();
    let last = job.last_end.as_ref().filter(|_| matches!(job.state, State::Scheduled { .. }));
    let code = end.map(|e| &e.code).or(last.map(|l| &l.code));
    let message = end.map(|e| &e.message).or(last.map(|l| &l.message));
    JobEvent {
        version: RECORD_VERSION,
        job_id: job.id.to_string(),
        tenant_id: job.tenant_id.clone(),
        topic: job.topic.clone(),
        trace_id: job.trace_id.clone(),
        states: passed.iter().map(|state| i32::from(*state)).collect(),
        at_ms: job.updated.millis(),
        attempt: job.attempt,
        worker_id: worker(job),
        error_code: code.cloned().unwrap_or_default(),
        error_message: message.cloned().unwrap_or_default(),
        result_ptr: end.and_then(|e| e.result.as_ref()).map(|r| r.pointer.clone()).unwrap_or_default(),
        execution_ms: end.map(|e| e.execution_ms).unwrap_or_default(),
        decided_here: end.is_some_and(|e| e.decided_here),
        dead_letter: end.is_some_and(|end| leaves_letter(job, end)),
    }
}

fn worker(job: &Job) -> String {
    match (job.hold(), job.end()) {
        (Some(hold), _) => hold.worker_id.clone(),
        (None, Some(end)) => end.worker_id.clone(),
        (None, None) => String::new(),
    }
}

fn score(job: &Job) -> i64 {
    i64::try_from(job.created.millis()).unwrap_or(i64::MAX)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
