//! Turns a change of a job into the unit that makes it durable: record, indexes, payloads, log and dead letter together.

use std::time::Duration;

use busbar_protocol::busbar::{DeadLetter, IdempotencyRecord, JobEvent, JobState};
use busbar_protocol::keys;
use busbar_protocol::pointers::Pointer;
use busbar_protocol::ports::{CommitId, Guard, Unit, Write};
use busbar_protocol::prost::Message as _;

use super::job::{End, Job, Outcome, RECORD_VERSION, State};

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
    /// A job that never was admitted: it is told once and forgotten soon.
    pub refused: bool,
}

/// The place of the guard against a job that exists in the unit of a new job.
pub const GUARD_JOB_ABSENT: usize = 1;
/// The place of the guard against a used idempotency key in the unit of a new job that has one. The guard that its input is
/// there comes last.
pub const GUARD_KEY_UNUSED: usize = 2;

/// Builds the unit.
#[must_use]
pub fn unit(change: &Change<'_>, retention: &Retention) -> Unit {
    let job = change.job;
    let record_key = keys::job(job.id.as_str());
    let mut guards = vec![Guard::Epoch { lock: keys::LOCK_SCHEDULER.to_owned(), epoch: change.epoch }];
    if change.revision == 0 {
        guards.push(Guard::Absent { key: record_key.clone() });
    } else {
        guards.push(Guard::Revision { key: record_key.clone(), revision: change.revision });
    }
    let expire = job.end().map(|_| if change.refused { retention.refused } else { retention.jobs });
    let mut writes = vec![Write::Put { key: record_key, revision: change.revision + 1, value: job.encode(), expire }];
    if change.revision == 0 && !change.refused {
        admit(job, &mut guards, &mut writes, retention);
    }
    if let Some(end) = job.end() {
        finish(job, end, change, &mut writes, retention);
    }
    if !change.passed.is_empty() {
        let value = event(job, change.passed).encode_to_vec().into();
        writes.push(Write::Append { log: keys::LOG_JOBS.to_owned(), value, keep: retention.log_entries });
    }
    Unit { id: change.id, guards, writes }
}

/// What only the first commit of a job does: its key is taken, its payload stays, it is listed as live.
fn admit(job: &Job, guards: &mut Vec<Guard>, writes: &mut Vec<Write>, retention: &Retention) {
    if !job.plan.idempotency_key.is_empty() {
        let key = keys::idempotency(&job.tenant_id, &job.plan.idempotency_key);
        guards.push(Guard::Absent { key: key.clone() });
        let value = IdempotencyRecord { version: 1, job_id: job.id.to_string(), trace_id: job.trace_id.clone() };
        let value = value.encode_to_vec().into();
        writes.push(Write::Put { key, revision: 1, value, expire: Some(retention.jobs) });
    }
    // A submitter that gave up takes its input back; a submission that arrives after that must not become a job.
    if job.plan.input_bytes > 0 && !job.from_bus {
        guards.push(Guard::Exists { key: keys::context(job.id.as_str()) });
    }
    if job.end().is_none() {
        writes.push(Write::Persist { key: keys::context(job.id.as_str()) });
        let score = score(job);
        writes.push(Write::IndexAdd { index: keys::INDEX_LIVE.to_owned(), member: job.id.to_string(), score });
    }
}

/// What only the last commit of a job does.
fn finish(job: &Job, end: &End, change: &Change<'_>, writes: &mut Vec<Write>, retention: &Retention) {
    let member = job.id.to_string();
    if change.revision > 0 {
        writes.push(Write::IndexRemove { index: keys::INDEX_LIVE.to_owned(), member: member.clone() });
    }
    if change.refused {
        return;
    }
    let finished = keys::index_finished(&job.tenant_id);
    let oldest = end.at.millis().saturating_sub(millis(retention.jobs));
    writes.push(Write::IndexTrim { index: finished.clone(), below: i64::try_from(oldest).unwrap_or(i64::MAX) });
    writes.push(Write::IndexAdd { index: finished, member: member.clone(), score: score(job) });
    let results = if job.plan.result_ttl_ms > 0 { Duration::from_millis(job.plan.result_ttl_ms) } else { retention.results };
    writes.push(Write::Expire { key: keys::context(&member), after: results });
    if let Some(result) = &end.result {
        if let Some(from) = &result.copied_from {
            writes.push(Write::Copy { from: from.clone(), to: keys::attempt_result(&member, job.attempt), expire: None });
            writes.push(Write::Expire { key: from.clone(), after: results });
        }
        if let Ok(Pointer::Redis(key)) = Pointer::parse(&result.pointer) {
            writes.push(Write::Expire { key, after: results });
        }
    }
    if is_dead(end) {
        let letter = dead_letter(job, end).encode_to_vec().into();
        let key = keys::dead_letter(&member);
        writes.push(Write::Put { key, revision: 1, value: letter, expire: Some(retention.dead_letters) });
        let score = i64::try_from(end.at.millis()).unwrap_or(i64::MAX);
        writes.push(Write::IndexAdd { index: keys::INDEX_DEAD.to_owned(), member, score });
        let oldest = end.at.millis().saturating_sub(millis(retention.dead_letters));
        let below = i64::try_from(oldest).unwrap_or(i64::MAX);
        writes.push(Write::IndexTrim { index: keys::INDEX_DEAD.to_owned(), below });
    }
}

/// Whether an end leaves a dead letter: the job should have succeeded and did not.
#[must_use]
pub const fn is_dead(end: &End) -> bool {
    matches!(end.outcome, Outcome::Failed | Outcome::Timeout)
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
        dead_letter: end.is_some_and(is_dead),
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
