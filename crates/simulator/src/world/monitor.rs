//! What must hold at every step: watches each commit and each message at the instant at which it happens.

mod dispatches;
mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use busbar_protocol::busbar::{JobEvent, JobEventBatch, LimitsDocument, PauseScope, ReportItem, ReportReply, ReportRequest};
use busbar_protocol::cap::bus_packet::Payload;
use busbar_protocol::envelope;
use busbar_protocol::keys;
use busbar_protocol::ports::{CommitId, Delivery, Message, Settlement, Unit, Write};
use busbar_protocol::prost::Message as _;
use busbar_protocol::subjects;
use busbar_protocol::time::Timestamp;
use busbar_scheduler::core::job::{Job, Outcome};
use tokio::time::Instant;

use crate::batch;
use crate::watch::Watch;

/// The most breaches that are told: the first ones say it all.
const TOLD_MAX: usize = 20;

/// For how long after a disturbance a scheduler may be mistaken about what workers hold.
const MISTAKEN_FOR: Duration = Duration::from_secs(6);

/// The watcher. Clones are the same one.
#[derive(Clone, Debug)]
pub(crate) struct Monitor {
    seen: Arc<Mutex<Seen>>,
}

/// A job as its last commit has left it.
#[derive(Debug)]
struct Known {
    job: Job,
    revision: u64,
    listed: bool,
    /// When that was, by the store's clock.
    at: Timestamp,
}

/// Everything that was seen.
#[derive(Debug, Default)]
struct Seen {
    jobs: BTreeMap<String, Known>,
    /// The present epoch of each lease.
    epochs: BTreeMap<String, u64>,
    /// Revisions of the records of runs.
    runs: BTreeMap<String, u64>,
    /// Which worker each attempt was committed to; empty for a queue group.
    sent_to: BTreeMap<(String, u32), String>,
    /// Jobs that somebody holds, by worker, or by topic for queue groups.
    holding: BTreeMap<String, BTreeSet<String>>,
    /// Attempts that are out on each account, and how many there may be.
    accounts: BTreeMap<String, (u32, u32)>,
    limits: LimitsDocument,
    /// What is paused, as was acknowledged.
    paused: BTreeSet<(PauseScope, String)>,
    /// Runs whose jobs the scheduler holds, as it was committed, and when it let go of those that it held once.
    held_runs: BTreeMap<String, Option<Timestamp>>,
    /// What was asked for jobs: their parents, and the times before which they are not to be sent.
    parents: BTreeMap<String, String>,
    not_before: BTreeMap<String, Timestamp>,
    /// When jobs were cancelled, by the store's clock.
    cancelled: BTreeMap<String, Timestamp>,
    /// Accounts on which something was dispatched in the present call.
    charged: BTreeSet<String>,
    /// Changes of jobs that have not arrived, and that the present scheduler commits again.
    lost: BTreeSet<CommitId>,
    /// Where something was dispatched to in the present call.
    filled: BTreeSet<String>,
    /// Jobs that were dispatched in the present call, and when.
    went: Vec<(Job, Timestamp)>,
    /// Replicas, and what checks them, that were dispatched in the present call.
    parts_sent: Vec<String>,
    /// What was reported to schedulers, by where they answer.
    reports: BTreeMap<String, Vec<ReportItem>>,
    /// Cursors of the log of jobs that were told.
    told: BTreeSet<String>,
    /// Jobs whose end, or whose death, was told on CAP's subjects.
    ends_told: BTreeSet<String>,
    deaths_told: BTreeSet<String>,
    /// When attempts started, by account, by the scheduler's clock.
    starts: BTreeMap<String, Vec<Timestamp>>,
    /// All clocks are right, and say when attempts started.
    exact: bool,
    /// Jobs whose dead letters were thrown away, as it was committed and as it was acknowledged.
    discarded: BTreeSet<String>,
    /// When something last made a scheduler forget or miss what workers hold.
    disturbed: Option<Instant>,
    /// The term, epoch included, of the last commit of a job, and when it began: what waits is not all read at once then, and who comes
    /// meanwhile may go first.
    term: Vec<u8>,
    taken_over: Option<Instant>,
    /// What the bus had lost when a worker last got something.
    dropped: u64,
    broken: Vec<String>,
}

/// The epoch under which a unit was made, if it is the scheduler's or the engine's.
fn epoch_of(unit: &Unit) -> u64 {
    let mut epoch = [0; 8];
    epoch[2..].copy_from_slice(&unit.id.0[..6]);
    u64::from_be_bytes(epoch)
}

fn is_of_job(write: &Write) -> bool {
    matches!(write, Write::Put { key, .. } if key.starts_with("job:meta:"))
}

impl Seen {
    /// Whether something is not long ago.
    fn is_lately(at: Option<Instant>) -> bool {
        at.is_some_and(|at| at.elapsed() < MISTAKEN_FOR)
    }

    fn breaks(&mut self, what: String) {
        if self.broken.len() < TOLD_MAX {
            self.broken.push(what);
        }
    }
}

impl Monitor {
    /// A watcher that knows these bounds, and whether all clocks are right.
    pub(crate) fn new(limits: LimitsDocument, exact: bool) -> Self {
        Self { seen: Arc::new(Mutex::new(Seen { limits, exact, ..Seen::default() })) }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The breaches so far.
    pub(crate) fn take_broken(&self) -> Vec<String> {
        std::mem::take(&mut self.seen().broken)
    }

    /// A job as its last commit has left it.
    pub(crate) fn job(&self, id: &str) -> Option<Job> {
        self.seen().jobs.get(id).map(|known| known.job.clone())
    }

    /// Whether a job exists, and is live.
    pub(crate) fn is_live(&self, id: &str) -> Option<bool> {
        self.seen().jobs.get(id).map(|known| known.job.end().is_none())
    }

    /// Whether an entry of the log of jobs was told.
    pub(crate) fn told(&self, cursor: &str) -> bool {
        self.seen().told.contains(cursor)
    }

    /// Whether the end and the death of a job were told.
    pub(crate) fn told_of(&self, id: &str) -> (bool, bool) {
        let seen = self.seen();
        (seen.ends_told.contains(id), seen.deaths_told.contains(id))
    }

    /// What a client asks for a job.
    pub(crate) fn expect(&self, id: &str, parent: &str, not_before_ms: u64) {
        let mut seen = self.seen();
        if !parent.is_empty() {
            seen.parents.insert(id.to_owned(), parent.to_owned());
        }
        if not_before_ms > 0 {
            seen.not_before.insert(id.to_owned(), Timestamp::from_millis(not_before_ms));
        }
    }

    /// Whether a job has ended by cancellation.
    pub(crate) fn is_cancelled(&self, id: &str) -> bool {
        let seen = self.seen();
        let end = seen.jobs.get(id).and_then(|known| known.job.end());
        end.is_some_and(|end| end.outcome == Outcome::Cancelled)
    }

    /// It was acknowledged that the dead letter of a job is thrown away.
    pub(crate) fn is_discarded(&self, id: &str) {
        let mut seen = self.seen();
        if !seen.discarded.contains(id) {
            seen.breaks(format!("the dead letter of {id} was said to be thrown away, and is there"));
        }
    }

    /// Whether the dead letter of a job was thrown away.
    pub(crate) fn has_discarded(&self, id: &str) -> bool {
        self.seen().discarded.contains(id)
    }

    /// A pause or a drain was acknowledged, or is about to be lifted.
    pub(crate) fn hold(&self, scope: PauseScope, name: &str, held: bool) {
        let mut seen = self.seen();
        if held {
            seen.paused.insert((scope, name.to_owned()));
        } else {
            seen.paused.remove(&(scope, name.to_owned()));
        }
    }

    /// Something happened after which a scheduler may be mistaken about what workers hold.
    pub(crate) fn disturb(&self) {
        self.seen().disturbed = Some(Instant::now());
    }

    /// A worker holds so many attempts, this one included that it has just got; `dropped` counts what the bus has lost.
    pub(crate) fn holds(&self, worker: &str, held: usize, most: usize, dropped: u64) {
        let mut seen = self.seen();
        if std::mem::replace(&mut seen.dropped, dropped) != dropped {
            seen.disturbed = Some(Instant::now());
        }
        if held > most && !Seen::is_lately(seen.disturbed) {
            seen.breaks(format!("{worker} was given {held} attempts at once and takes {most}"));
        }
    }
}

impl Watch for Monitor {
    fn applied(&self, at: Timestamp, unit: &Unit) {
        let seen = &mut *self.seen();
        let discarded = |write: &Write| match write {
            Write::Delete { key } => key.strip_prefix("dlq:entry:").map(str::to_owned),
            _ => None,
        };
        seen.lost.remove(&unit.id);
        seen.discarded.extend(unit.writes.iter().filter_map(discarded));
        let subject = unit.writes.iter().find_map(|write| match write {
            Write::Put { key, revision, value, .. } => Some((key.as_str(), *revision, value)),
            _ => None,
        });
        let Some((key, revision, value)) = subject else { return };
        if let Some(id) = key.strip_prefix("job:meta:") {
            seen.fence(unit, keys::LOCK_SCHEDULER, key);
            if seen.term != unit.id.0[..10] {
                seen.term = unit.id.0[..10].to_vec();
                seen.taken_over = Some(Instant::now());
            }
            match Job::decode(value) {
                Ok(job) => seen.job_changes(at, id, job, revision, unit),
                Err(error) => seen.breaks(format!("{key} cannot be read: {error}")),
            }
        } else if key == keys::HOLDS {
            seen.runs_held(at, value);
        } else if key.starts_with("wf:run:") {
            seen.fence(unit, keys::LOCK_ENGINE, key);
            let before = seen.runs.insert(key.to_owned(), revision).unwrap_or(0);
            if revision != before + 1 {
                seen.breaks(format!("{key} went from revision {before} to {revision}"));
            }
        }
    }

    fn flushed(&self) {
        let seen = &mut *self.seen();
        // What frees a place may be behind what takes it, once.
        if seen.lost.is_empty() {
            seen.check_room();
        }
        seen.check_turns();
        seen.check_meetings();
    }

    fn lost(&self, units: &[Unit]) {
        let seen = &mut *self.seen();
        let present = seen.epochs.get(keys::LOCK_SCHEDULER).copied();
        let changes = units.iter().filter(|unit| present == Some(epoch_of(unit)) && unit.writes.iter().any(is_of_job));
        seen.lost.extend(changes.map(|unit| unit.id));
    }

    fn leased(&self, lock: &str, epoch: u64) {
        let seen = &mut *self.seen();
        let before = seen.epochs.insert(lock.to_owned(), epoch);
        if lock == keys::LOCK_SCHEDULER && before != Some(epoch) {
            seen.lost.clear();
        }
    }

    fn published(&self, message: &Message) {
        let subject = message.subject.as_str();
        if subject.starts_with("worker.") || subject.starts_with("job.") || subject == subjects::CANCEL {
            self.seen().command(message);
        } else if batch::worker_of(subject).is_some() {
            let mut seen = self.seen();
            batch::apart(message).into_iter().flatten().for_each(|message| seen.command(&message));
        } else if subject == subjects::RESULT || subject == subjects::DEAD_LETTER {
            self.seen().announcement(message);
        } else if subject == subjects::REPORT {
            self.seen().reported(message);
        } else if subject == subjects::JOB_EVENT
            && let Ok(batch) = JobEventBatch::decode(message.payload.clone())
        {
            self.seen().told.extend(batch.entries.into_iter().map(|entry| entry.cursor));
        } else {
            self.seen().answered(message);
        }
    }

    fn settled(&self, delivery: &Delivery, settlement: Settlement) {
        if settlement == Settlement::Ack
            && let Ok(decoded) = envelope::decode(&delivery.message.payload)
        {
            self.seen().settled(&decoded.payload);
        }
    }
}

impl Seen {
    /// Nobody but the owner of the lease changes anything: the id of a commit says under which epoch it was made.
    fn fence(&mut self, unit: &Unit, lock: &str, key: &str) {
        let (under, present) = (epoch_of(unit), self.epochs.get(lock).copied().unwrap_or(0));
        if under != present {
            self.breaks(format!("{key} was changed under epoch {under}, and {present} is the present one"));
        }
    }

    /// Remembers what is asked, until all answers have come that may.
    fn reported(&mut self, message: &Message) {
        if let (Some(reply), Ok(request)) = (&message.reply, ReportRequest::decode(message.payload.clone())) {
            self.reports.insert(reply.clone(), request.items);
        }
    }

    /// What is answered has been dealt with.
    fn answered(&mut self, answer: &Message) {
        let Some(items) = self.reports.get(&answer.subject).cloned() else { return };
        // Word that nobody is there has another form.
        let Ok(reply) = ReportReply::decode(answer.payload.clone()) else { return };
        if reply.problem.is_some() || answer.headers.contains_key("Status") {
            return;
        }
        for (place, item) in (0_u32..).zip(&items) {
            if let Ok(decoded) = envelope::decode(&item.packet)
                && !reply.again.contains(&place)
            {
                self.settled(&decoded.payload);
            }
        }
    }

    /// What leaves a stream has been dealt with.
    fn settled(&mut self, payload: &Payload) {
        match payload {
            Payload::JobRequest(request) if !self.jobs.contains_key(&request.job_id) => {
                self.breaks(format!("the submission of {} left its stream, and there is no such job", request.job_id));
            }
            Payload::JobResult(result) => {
                let named = result.dispatch.as_ref().and_then(|dispatch| u32::try_from(dispatch.attempt).ok());
                let present = self.jobs.get(&result.job_id).filter(|known| known.job.hold().is_some());
                if let (Some(named), Some(known)) = (named, present)
                    && named == known.job.attempt
                {
                    self.breaks(format!("the result of {}/{named} was taken, and nothing followed", result.job_id));
                }
            }
            _ => {}
        }
    }

    /// What we tell of ends has become true before.
    fn announcement(&mut self, message: &Message) {
        let Ok(decoded) = envelope::decode(&message.payload) else { return };
        let Payload::JobResult(result) = decoded.payload else { return };
        if decoded.packet.sender_id != subjects::SCHEDULER_SENDER {
            return;
        }
        if self.jobs.get(&result.job_id).is_none_or(|known| known.job.end().is_none()) {
            self.breaks(format!("the end of {} was told before it was durable", result.job_id));
        }
        let told = if message.subject == subjects::RESULT { &mut self.ends_told } else { &mut self.deaths_told };
        told.insert(result.job_id);
    }
}

/// The entry that a unit appends to the log of jobs.
fn event(unit: &Unit) -> Option<JobEvent> {
    unit.writes.iter().find_map(|write| match write {
        Write::Append { log, value, .. } if log == keys::LOG_JOBS => JobEvent::decode(value.clone()).ok(),
        _ => None,
    })
}
