//! What must hold whatever happened.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use busbar_protocol::busbar::{JobEvent, JobState, WorkersReply};
use busbar_protocol::cap::JobStatus;
use busbar_protocol::keys;
use busbar_protocol::ports::{Bus as _, Headers};
use busbar_protocol::prost::Message as _;
use busbar_protocol::subjects;
use busbar_scheduler::core::job::{Job, Outcome};
use bytes::Bytes;
use tokio::time::Instant;

use super::{Ledger, Story, World, rules, run_invariants, worker};
use crate::model_store::Content;

/// Every change of state that the life of a job allows.
const ALLOWED: &[(JobState, &[JobState])] = {
    use JobState::{ApprovalRequired, Cancelled, Denied, Dispatched, Failed, Pending, Running, Scheduled, Succeeded, Timeout};
    &[
        (Pending, &[Scheduled, ApprovalRequired, Denied, Failed, Timeout, Cancelled]),
        (ApprovalRequired, &[Pending, Denied, Timeout, Cancelled]),
        (Scheduled, &[Dispatched, Pending, ApprovalRequired, Denied, Failed, Timeout, Cancelled]),
        (Dispatched, &[Running, Succeeded, Failed, Scheduled, Timeout, Cancelled]),
        (Running, &[Succeeded, Failed, Scheduled, Timeout, Cancelled]),
    ]
};

/// Whether the life of a job allows this change of state.
pub(crate) fn is_allowed(from: JobState, to: JobState) -> bool {
    ALLOWED.iter().any(|(state, next)| *state == from && next.contains(&to))
}

/// The changes that a long run must have seen.
pub const EXPECTED: &[&str] = &[
    "PENDING>SCHEDULED",
    "PENDING>APPROVAL_REQUIRED",
    "PENDING>DENIED",
    "PENDING>TIMEOUT",
    "PENDING>CANCELLED",
    "APPROVAL_REQUIRED>TIMEOUT",
    "APPROVAL_REQUIRED>CANCELLED",
    "SCHEDULED>DISPATCHED",
    "SCHEDULED>PENDING",
    "SCHEDULED>TIMEOUT",
    "SCHEDULED>CANCELLED",
    "DISPATCHED>RUNNING",
    "DISPATCHED>SUCCEEDED",
    "DISPATCHED>FAILED",
    "DISPATCHED>SCHEDULED",
    "DISPATCHED>TIMEOUT",
    "DISPATCHED>CANCELLED",
    "RUNNING>SUCCEEDED",
    "RUNNING>FAILED",
    "RUNNING>SCHEDULED",
    "RUNNING>TIMEOUT",
    "RUNNING>CANCELLED",
    "code cancelled",
    "code deadline_exceeded",
    "code heartbeat_timeout",
    "code job_quarantined",
    "code quorum_not_reached",
    "code rate_limited",
    "code schedule_to_start_timeout",
    "code start_to_close_timeout",
    "code superseded",
    "code worker_left",
    "code worker_lost",
    "code worker_unreachable",
];

/// A submission is prepared at most so long before it is found out what its key stands for.
const LOOKED_UP_WITHIN: Duration = Duration::from_secs(20);

/// Waits until nothing is live, the relay has caught up and every slot is free.
pub(crate) async fn come_to_rest(world: &World, end: Instant) -> Result<(), String> {
    let probe = world.bus.client("probe");
    loop {
        let live = world.store.members(keys::INDEX_LIVE).len();
        let queued = world.bus.stream_len(subjects::Stream::Submissions) + world.bus.stream_len(subjects::Stream::Results);
        let relayed = relayed(world, keys::LOG_JOBS, keys::LOG_JOBS_RELAYED);
        let asked = probe.request(subjects::SCHEDULER_WORKERS, Headers::new(), Vec::new().into(), Duration::from_secs(2)).await;
        let view = asked.ok().and_then(|message| WorkersReply::decode(message.payload).ok()).unwrap_or_default();
        let taken: u32 = view.workers.iter().map(|worker| worker.in_flight).sum();
        let calm = !world.troubled() && view.scheduler.is_some();
        let runs = run_invariants::unrest(world, &probe).await;
        if calm && live == 0 && queued == 0 && relayed && taken == 0 && runs.is_none() {
            return Ok(());
        }
        if Instant::now() > end {
            let told = |id: &String| world.job(id).map_or_else(String::new, |job| format!("{id}: {:?}", job.state));
            let members: Vec<String> =
                world.store.members(keys::INDEX_LIVE).into_iter().take(5).map(|entry| told(&entry.member)).collect();
            return Err(format!(
                "the world does not come to rest: {live} live ({members:?}), {queued} in streams, relay caught up: {relayed}, slots taken: {taken}, active scheduler: {}, {}",
                view.scheduler.is_some(),
                runs.unwrap_or_default()
            ));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Whether everything that a log holds was told.
pub(crate) fn relayed(world: &World, log: &str, cursor: &str) -> bool {
    let last = world.store.logged(log).last().map(|entry| entry.cursor.clone());
    let told = world.store.records(cursor).first().map(|(_, stored)| stored.value.clone());
    last.is_none_or(|last| told.is_some_and(|told| told == last.as_bytes()))
}

/// Judges the whole history.
pub(crate) fn judge(world: &World, story: &mut Story, broken: &mut Vec<String>) {
    let histories = histories(world, broken);
    let records = records(world, broken);
    for (job, history) in &histories {
        follow(job, history, story, broken);
        let last = history.last().and_then(|event| event.states.last().copied());
        if records.get(job).map(|record| i32::from(record.state.tag())) != last {
            broken.push(format!("{job}: the record is not where the log ends"));
        }
    }
    story.faults = super::faults(world);
    let ledger = world.ledger();
    for job in &ledger.acknowledged {
        match records.get(job) {
            None => broken.push(format!("{job} was acknowledged and is gone")),
            Some(record) if record.end().is_none() => broken.push(format!("{job} was acknowledged and has not ended")),
            Some(_) => {}
        }
    }
    let mut executions: BTreeMap<&String, u32> = BTreeMap::new();
    for ((job, attempt, incarnation), count) in &ledger.executed {
        *executions.entry(job).or_default() += count;
        if *count > 1 {
            broken.push(format!("{job}: attempt {attempt} ran {count} times in one worker ({incarnation})"));
        }
        if job.ends_with("denied") {
            broken.push(format!("{job} was denied and ran"));
        }
    }
    for (job, count) in executions {
        let attempts = records.get(job).map_or(0, |record| record.attempt);
        let held = ledger.held_at_kill.get(job).copied().unwrap_or(0);
        if count > attempts + held {
            broken.push(format!("{job} ran {count} times in {attempts} attempts, {held} of them in workers that were killed"));
        }
    }
    dead_letters(world, &records, broken);
    ends(world, &ledger, &records, broken);
    quarantine(&records, broken);
    quorums(world, &records, broken);
    told(world, &records, broken);
    let counters = world.bus.counters();
    story.events = counters.published + counters.delivered + counters.pulled + world.store.commits();
    story.calm = u64::from(ledger.calm);
    story.least = (!ledger.calm).then_some((story.events, story.faults));
    story.reordered = counters.reordered;
    story.disconnects = ledger.disconnects;
    story.freezes = ledger.frozen.values().map(|count| u64::from(*count)).sum();
    story.jumps = ledger.jumps;
    story.jobs = ledger.acknowledged.len();
    story.crash_points = world.points.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
}

fn histories(world: &World, broken: &mut Vec<String>) -> BTreeMap<String, Vec<JobEvent>> {
    let mut histories: BTreeMap<String, Vec<JobEvent>> = BTreeMap::new();
    for entry in world.store.logged(keys::LOG_JOBS) {
        match JobEvent::decode(entry.value) {
            Ok(event) => histories.entry(event.job_id.clone()).or_default().push(event),
            Err(error) => broken.push(format!("log entry {} cannot be read: {error}", entry.cursor)),
        }
    }
    histories
}

fn records(world: &World, broken: &mut Vec<String>) -> BTreeMap<String, Job> {
    let mut records = BTreeMap::new();
    for (key, stored) in world.store.records("job:meta:") {
        match Job::decode(&stored.value) {
            Ok(job) => {
                records.insert(job.id.to_string(), job);
            }
            Err(error) => broken.push(format!("{key} cannot be read: {error}")),
        }
    }
    records
}

/// One job's history: legal steps, attempts that rise by one, one end and nothing after it.
fn follow(job: &str, history: &[JobEvent], story: &mut Story, broken: &mut Vec<String>) {
    let mut now: Option<JobState> = None;
    let mut attempt = 0;
    for event in history {
        if !event.error_code.is_empty() {
            *story.transitions.entry(format!("code {}", event.error_code)).or_default() += 1;
        }
        for state in event.states.iter().filter_map(|state| JobState::try_from(*state).ok()) {
            if let Some(before) = now {
                *story.transitions.entry(format!("{}>{}", before.short_name(), state.short_name())).or_default() += 1;
                if !is_allowed(before, state) {
                    broken.push(format!("{job} went from {} to {}", before.short_name(), state.short_name()));
                }
            }
            if state == JobState::Dispatched {
                attempt += 1;
            }
            now = Some(state);
        }
        if event.attempt != attempt {
            broken.push(format!("{job}: the log tells of attempt {} after {attempt} dispatches", event.attempt));
        }
    }
}

fn dead_letters(world: &World, records: &BTreeMap<String, Job>, broken: &mut Vec<String>) {
    let dead: BTreeSet<String> = world.store.members(keys::INDEX_DEAD).into_iter().map(|entry| entry.member).collect();
    for (id, job) in records {
        let admitted = job.created != job.updated || job.attempt > 0 || !job.from_bus;
        let dead_now = matches!(job.state.tag(), JobState::Failed | JobState::Timeout);
        let should = admitted && dead_now && !job.is_part() && !world.monitor.has_discarded(id);
        if should != dead.contains(id) {
            broken.push(format!("{id}: state {}, dead letter: {}", job.state.tag().short_name(), dead.contains(id)));
        }
    }
}

/// Each end is what a worker said of that very attempt, or what we decided within the bounds of the topic; results are where the
/// records say; one idempotency key is one job.
fn ends(world: &World, ledger: &Ledger, records: &BTreeMap<String, Job>, broken: &mut Vec<String>) {
    let documents = rules::topics();
    for (id, job) in records {
        let Some(end) = job.end() else { continue };
        if !end.decided_here && end.worker_id.starts_with("native-") {
            let said = ledger.reported.get(&(id.clone(), job.attempt));
            let fits = |status: &JobStatus| match end.outcome {
                Outcome::Succeeded => *status == JobStatus::Succeeded,
                Outcome::Failed => matches!(status, JobStatus::Failed | JobStatus::FailedRetryable),
                Outcome::Cancelled => *status == JobStatus::Cancelled,
                Outcome::Denied | Outcome::Timeout => false,
            };
            if !said.is_some_and(|said| said.iter().any(fits)) {
                broken.push(format!("{id} is {:?} by attempt {}, of which {said:?} was said", end.outcome, job.attempt));
            }
        }
        let document = documents.iter().find(|document| document.topic == job.topic);
        let of_run = id.contains(':');
        if let Some(document) = document.filter(|_| !of_run)
            && job.attempt - job.unreached > document.max_attempts
        {
            broken.push(format!("{id} had {} attempts, {} of which reached nobody", job.attempt, job.unreached));
        }
        if let Some(key) = end.result.as_ref().and_then(|result| result.pointer.strip_prefix("redis://")) {
            let there = world.store.contents(key).into_iter().find(|(there, _, _)| there == key);
            let given = ledger.outputs.get(&(id.clone(), job.attempt)).filter(|_| end.worker_id.starts_with("native-"));
            match there {
                Some((_, Content::Text(output), _)) if given.is_none_or(|given| given.contains(&output)) => {}
                Some(_) => broken.push(format!("what stands at {key} is not what {} gave", end.worker_id)),
                None => broken.push(format!("the result of {id} is not at {key}")),
            }
        }
        if end.outcome == Outcome::Denied && ledger.secret.contains(id) && job.topic != "job.denied" {
            broken.push(format!("{id} should have been redacted, and was denied: {}", end.message));
        }
    }
    for (key, jobs) in ledger.keyed_jobs.iter().filter(|(_, jobs)| jobs.len() > 1) {
        let all: Vec<&Job> = jobs.iter().filter_map(|id| records.get(id)).collect();
        let succeeded = all.iter().filter(|job| job.end().is_some_and(|end| end.outcome == Outcome::Succeeded)).count();
        let overlap = |one: &Job| {
            let later = |other: &&&Job| other.id != one.id && other.created >= one.created;
            all.iter().filter(later).any(|other| one.end().is_none_or(|end| end.at.since(other.created) > LOOKED_UP_WITHIN))
        };
        // A key passes to a new job when the one before has ended without success. Clocks that are wrong prove nothing.
        if succeeded > 1 || (world.jumps_ms == 0 && all.iter().any(|job| overlap(job))) {
            broken.push(format!("the idempotency key {key} stood for {jobs:?} at once"));
        }
    }
    for (id, jobs) in ledger.redriven.iter().filter(|(_, jobs)| jobs.len() > 1) {
        broken.push(format!("the dead letter {id} was tried again as {jobs:?}"));
    }
}

/// A job that kills its workers is given to no more of them than its topic allows.
fn quarantine(records: &BTreeMap<String, Job>, broken: &mut Vec<String>) {
    for (id, job) in records.iter().filter(|(_, job)| job.topic == "job.poison") {
        if job.crashes > rules::CRASH_LIMIT {
            broken.push(format!("{id} has killed {} workers", job.crashes));
        }
    }
}

/// Where two must agree, or somebody checks, no lie counts.
fn quorums(world: &World, records: &BTreeMap<String, Job>, broken: &mut Vec<String>) {
    let least = |job: &Job| match job.topic.as_str() {
        rules::AGREED if !job.is_part() => Some(2),
        rules::PROVED if !job.is_part() => Some(1),
        _ => None,
    };
    for (id, job, least) in records.iter().filter_map(|(id, job)| Some((id, job, least(job)?))) {
        if job.end().is_none_or(|end| end.outcome != Outcome::Succeeded) {
            continue;
        }
        let key = keys::attempt_result(id, job.attempt);
        let result = world.store.contents(&key).into_iter().find(|(there, _, _)| *there == key).map(|(_, content, _)| content);
        if result != Some(Content::Text(Bytes::from_static(worker::DONE))) {
            broken.push(format!("{id} has succeeded with {result:?}"));
        }
        let parts = records.values().filter(|other| other.parent_job_id == *id && other.is_part());
        let (checks, replicas): (Vec<&Job>, Vec<&Job>) = parts
            .filter(|part| part.end().is_some_and(|end| end.outcome == Outcome::Succeeded))
            .partition(|part| part.verifies > 0);
        if replicas.len() < least || (job.topic == rules::PROVED && checks.is_empty()) {
            let (replicas, checks) = (replicas.len(), checks.len());
            broken.push(format!("{id} has succeeded with {replicas} results, of which {checks} were checked"));
        }
    }
}

/// Everything was told: each entry of the log, each end that no worker told, each death.
fn told(world: &World, records: &BTreeMap<String, Job>, broken: &mut Vec<String>) {
    for entry in world.store.logged(keys::LOG_JOBS).into_iter().filter(|entry| !world.monitor.told(&entry.cursor)) {
        broken.push(format!("log entry {} was never told", entry.cursor));
    }
    let dead: BTreeSet<String> = world.store.members(keys::INDEX_DEAD).into_iter().map(|entry| entry.member).collect();
    for (id, job) in records {
        let (end, death) = world.monitor.told_of(id);
        if job.end().is_some_and(|end| end.decided_here) && !end {
            broken.push(format!("the end of {id} was never told"));
        }
        if dead.contains(id) && !death {
            broken.push(format!("the death of {id} was never told"));
        }
    }
}
