//! The table of transitions: one job and one event give the next job, or say why the event does not apply.

use std::time::Duration;

use busbar_protocol::busbar::{JobDecision, Vote, WorkerKind};
use busbar_protocol::cap::DecisionType;
use busbar_protocol::codes::Code;
use busbar_protocol::time::Timestamp;

use super::job::{AttemptEnd, CancelWish, End, Hold, Job, Outcome, ResultPlace, State};

/// How long a job rests that was handed back: whoever hands back everything must not have it at once again.
const HANDED_BACK_REST: Duration = Duration::from_millis(100);

/// Something that happened to a job that exists.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The safety kernel decided.
    Decided(Verdict),
    /// A worker was found: the attempt after the present one goes to it.
    Placed {
        /// The worker; empty for a topic's queue group.
        worker_id: String,
        /// What kind of worker.
        kind: WorkerKind,
        /// The start of its process.
        incarnation: String,
    },
    /// It is its turn, and its replicas are made.
    Replicated,
    /// Its replicas have said what it comes to.
    Settled(Settled),
    /// The worker has shown that it works on an attempt.
    Evidence {
        /// The attempt.
        attempt: u32,
        /// How far it is, where it said so.
        percent: Option<i32>,
    },
    /// A result came.
    Reported(Report),
    /// An attempt is over without a result.
    AttemptOver {
        /// The attempt.
        attempt: u32,
        /// Why.
        code: Code,
        /// What is known.
        message: String,
        /// It reached nobody, so that it does not count.
        unreached: bool,
    },
    /// Somebody wants it cancelled.
    CancelAsked {
        /// The attempt that is meant; 0 means the job, whatever its attempt.
        attempt: u32,
        /// Why.
        reason: String,
        /// Who.
        requested_by: String,
        /// The code of its end.
        code: Code,
    },
    /// It can never run.
    Impossible {
        /// Why.
        code: Code,
        /// What is known.
        message: String,
    },
    /// Time has passed.
    Tick,
}

/// What the replicas of a job have come to.
#[derive(Clone, Debug, PartialEq)]
pub struct Settled {
    /// What each of them said.
    pub votes: Vec<Vote>,
    /// How the job ends.
    pub outcome: Outcome,
    /// The code of its end, or empty.
    pub code: String,
    /// What is known of the error.
    pub message: String,
    /// The result, under the job's own name, if there is one.
    pub result: Option<ResultPlace>,
    /// The worker whose result it is, or empty.
    pub worker_id: String,
    /// How long that worker says that it took, in milliseconds.
    pub execution_ms: i64,
}

/// What the safety kernel says, ready to be kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The decision as it is kept.
    pub decision: JobDecision,
    /// The request with the redacted payload in place of the original, where the decision is to redact.
    pub redacted_request: Option<bytes::Bytes>,
    /// The tightest run time that the constraints allow, in milliseconds.
    pub run_ms_max: Option<u64>,
    /// The most attempts that the constraints allow.
    pub attempts_max: Option<u32>,
    /// The sandbox limits after the constraints.
    pub limits: Option<String>,
}

/// What a worker said about an attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The attempt, where the worker named it or holds only one of this job.
    pub attempt: Option<u32>,
    /// Who says so.
    pub worker_id: String,
    /// How it ended.
    pub outcome: Reported,
    /// How long it took, in milliseconds.
    pub execution_ms: i64,
}

/// How an attempt ended, as its worker tells it.
#[derive(Clone, Debug, PartialEq)]
pub enum Reported {
    /// It succeeded.
    Succeeded(Option<ResultPlace>),
    /// It failed, and another attempt would fail too.
    Failed {
        /// The worker's code.
        code: String,
        /// The worker's words.
        message: String,
    },
    /// It failed, and another attempt may succeed.
    Retryable {
        /// The worker's code.
        code: String,
        /// The worker's words.
        message: String,
        /// The worker itself ran out of time.
        timed_out: bool,
    },
    /// What the job needs takes nothing more for a while. That says nothing against the job, so the attempt does not count.
    RateLimited {
        /// The worker's words.
        message: String,
    },
    /// It stopped because it was told to.
    Cancelled,
}

/// What the table needs to know beside the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long a worker has to answer a cancellation.
    pub cancel_grace: Duration,
    /// How long a throttled job waits before it is decided again.
    pub throttle_delay: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { cancel_grace: Duration::from_secs(10), throttle_delay: Duration::from_secs(5) }
    }
}

/// Why an event does not apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// The job has ended; an end is for ever.
    #[error("the job has ended")]
    Terminal,
    /// The event speaks of another attempt than the present one.
    #[error("the event speaks of an attempt that is over or was never made")]
    StaleAttempt,
    /// The event does not fit the state.
    #[error("the event does not fit the state")]
    WrongState,
    /// Nothing would change.
    #[error("nothing changes")]
    Unchanged,
}

/// A change of a job.
#[derive(Clone, Debug, PartialEq)]
pub struct Transition {
    /// The job afterwards.
    pub next: Job,
    /// What must be sent, once this is durable.
    pub commands: Vec<Command>,
}

/// What follows from the record as it is now. Commands are never queued: a command that was lost is made again from the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Send an attempt to its worker.
    Dispatch {
        /// The attempt.
        attempt: u32,
    },
    /// Tell whoever has an attempt to stop.
    Stop {
        /// The attempt.
        attempt: u32,
        /// Why.
        reason: String,
        /// Who asked.
        requested_by: String,
    },
}

/// Decides what an event does to a job.
///
/// # Errors
/// [`Rejected`] says why it does nothing.
pub fn decide(job: &Job, event: &Event, limits: &Limits, now: Timestamp) -> Result<Transition, Rejected> {
    if job.end().is_some() {
        return Err(Rejected::Terminal);
    }
    match event {
        Event::Decided(verdict) => decided(job, verdict, limits, now),
        Event::Placed { worker_id, kind, incarnation } => {
            let (worker_id, incarnation) = (worker_id.clone(), incarnation.clone());
            placed(job, Hold { worker_id, kind: *kind, incarnation, since: now, heard: now }, now)
        }
        Event::Replicated => replicated(job, now),
        Event::Settled(settled) => settle(job, settled, now),
        Event::Evidence { attempt, percent } => evidence(job, *attempt, *percent, now),
        Event::Reported(report) => reported(job, report, now),
        Event::AttemptOver { attempt, code, message, unreached } => {
            let hold = current_hold(job, Some(*attempt))?;
            let end = AttemptEnd {
                attempt: *attempt,
                code: code.to_string(),
                message: message.clone(),
                timed_out: false,
                worker_id: hold.worker_id.clone(),
            };
            let mut next = job.clone();
            if *unreached {
                next.unreached += 1;
            }
            if *code == Code::WorkerLost {
                return Ok(crashed(next, end, now));
            }
            Ok(attempt_over(next, end, now))
        }
        Event::CancelAsked { attempt, .. } if !job.is_meant(*attempt) => Err(Rejected::StaleAttempt),
        Event::CancelAsked { reason, requested_by, code, .. } => {
            let by = now.after(limits.cancel_grace);
            cancel_asked(job, CancelWish { by, reason: reason.clone(), requested_by: requested_by.clone(), code: *code }, now)
        }
        Event::Impossible { code, message } => match job.state {
            State::Pending { .. } | State::Scheduled { .. } => {
                Ok(ended(job.clone(), Outcome::Failed, code.as_str(), message, now))
            }
            State::ApprovalRequired { .. }
            | State::Dispatched { .. }
            | State::Running { .. }
            | State::Replicated { .. }
            | State::Ended(_) => Err(Rejected::WrongState),
        },
        Event::Tick => tick(job, now),
    }
}

fn decided(job: &Job, verdict: &Verdict, limits: &Limits, now: Timestamp) -> Result<Transition, Rejected> {
    match job.state {
        State::Pending { .. } | State::Scheduled { .. } => {}
        State::ApprovalRequired { .. }
        | State::Dispatched { .. }
        | State::Running { .. }
        | State::Replicated { .. }
        | State::Ended(_) => return Err(Rejected::WrongState),
    }
    let mut next = job.clone();
    next.decision = Some(verdict.decision.clone());
    let reason = &verdict.decision.reason;
    match verdict.decision.decision() {
        DecisionType::Allow | DecisionType::AllowWithConstraints => Ok(allowed(next, verdict, now)),
        DecisionType::Redact => match &verdict.redacted_request {
            Some(request) => {
                next.request = request.clone();
                Ok(allowed(next, verdict, now))
            }
            None => {
                Ok(ended(next, Outcome::Denied, Code::SafetyDenied.as_str(), "to be redacted, but no redacted payload came", now))
            }
        },
        DecisionType::Throttle => {
            next.state = State::Pending { not_before: now.after(limits.throttle_delay) };
            Ok(changed(next, now))
        }
        DecisionType::RequireHuman => {
            next.state = State::ApprovalRequired { since: now };
            Ok(changed(next, now))
        }
        // A kernel that gives no decision that we know has not allowed the job.
        DecisionType::Deny | DecisionType::Quarantine | DecisionType::Unspecified => {
            Ok(ended(next, Outcome::Denied, Code::SafetyDenied.as_str(), reason, now))
        }
    }
}

/// An allowed job waits for a worker; one that waited already keeps its place.
fn allowed(mut next: Job, verdict: &Verdict, now: Timestamp) -> Transition {
    if let Some(most) = verdict.run_ms_max {
        let own = next.plan.start_to_close_ms;
        next.plan.start_to_close_ms = if own == 0 { most } else { own.min(most) };
    }
    if let Some(most) = verdict.attempts_max {
        next.plan.max_attempts = next.plan.max_attempts.min(most).max(1);
    }
    if let Some(limits) = &verdict.limits {
        next.plan.limits.clone_from(limits);
    }
    if !matches!(next.state, State::Scheduled { .. }) {
        let not_before = now.max(Timestamp::from_millis(next.plan.not_before_ms));
        next.state = State::Scheduled { since: now, not_before };
    }
    changed(next, now)
}

fn placed(job: &Job, hold: Hold, now: Timestamp) -> Result<Transition, Rejected> {
    let next = goes(job, State::Dispatched { hold }, now)?;
    let dispatch = Command::Dispatch { attempt: next.attempt };
    Ok(Transition { commands: vec![dispatch], ..changed(next, now) })
}

fn replicated(job: &Job, now: Timestamp) -> Result<Transition, Rejected> {
    Ok(changed(goes(job, State::Replicated { since: now }, now)?, now))
}

/// A job whose turn it is, with its next attempt under way.
fn goes(job: &Job, state: State, now: Timestamp) -> Result<Job, Rejected> {
    match job.state {
        State::Scheduled { not_before, .. } if not_before <= now => {}
        State::Scheduled { .. }
        | State::Pending { .. }
        | State::ApprovalRequired { .. }
        | State::Dispatched { .. }
        | State::Running { .. }
        | State::Replicated { .. }
        | State::Ended(_) => return Err(Rejected::WrongState),
    }
    Ok(Job { attempt: job.attempt + 1, state, ..job.clone() })
}

fn settle(job: &Job, settled: &Settled, now: Timestamp) -> Result<Transition, Rejected> {
    match job.state {
        State::Replicated { .. } => {}
        State::Ended(_) => return Err(Rejected::Terminal),
        State::Pending { .. }
        | State::ApprovalRequired { .. }
        | State::Scheduled { .. }
        | State::Dispatched { .. }
        | State::Running { .. } => return Err(Rejected::WrongState),
    }
    let Settled { votes, outcome, code, message, result, worker_id, execution_ms } = settled.clone();
    let end = End { outcome, at: now, worker_id, code, message, result, execution_ms, decided_here: true };
    Ok(changed(Job { votes, state: State::Ended(end), ..job.clone() }, now))
}

fn evidence(job: &Job, attempt: u32, percent: Option<i32>, now: Timestamp) -> Result<Transition, Rejected> {
    let mut hold = current_hold(job, Some(attempt))?.clone();
    let (started, known) = match &job.state {
        State::Running { started, percent, .. } => (*started, Some(*percent)),
        State::Pending { .. }
        | State::ApprovalRequired { .. }
        | State::Scheduled { .. }
        | State::Dispatched { .. }
        | State::Replicated { .. }
        | State::Ended(_) => (now, None),
    };
    let must_report = job.plan.heartbeat_timeout_ms > 0;
    if percent.is_some() {
        hold.heard = now;
    }
    let reported = percent.is_some();
    let percent = percent.or(known).unwrap_or(0).clamp(0, 100);
    if known == Some(percent) && !(reported && must_report) {
        return Err(Rejected::Unchanged);
    }
    let mut next = job.clone();
    next.state = State::Running { hold, started, percent };
    Ok(changed(next, now))
}

fn reported(job: &Job, report: &Report, now: Timestamp) -> Result<Transition, Rejected> {
    let hold = current_hold(job, report.attempt)?;
    // Whoever answers for a queue group is not known before; everybody else answers for itself alone.
    if !hold.worker_id.is_empty() && hold.worker_id != report.worker_id {
        return Err(Rejected::StaleAttempt);
    }
    let mut next = job.clone();
    let worker_id = report.worker_id.clone();
    let end = |outcome, code: &str, message: &str, result| End {
        outcome,
        at: now,
        worker_id: worker_id.clone(),
        code: code.to_owned(),
        message: message.to_owned(),
        result,
        execution_ms: report.execution_ms,
        decided_here: false,
    };
    match &report.outcome {
        Reported::Succeeded(result) => {
            // While a result without a name was looked at, the next attempt may have begun, and it is that one's now.
            let result = result.clone().map(|place| place.of_attempt(&job.id, job.attempt));
            next.state = State::Ended(end(Outcome::Succeeded, "", "", result));
        }
        Reported::Failed { code, message } => next.state = State::Ended(end(Outcome::Failed, code, message, None)),
        Reported::Cancelled => {
            let (code, message) =
                job.cancel.as_ref().map_or((Code::Cancelled, "the worker stopped it"), |wish| (wish.code, wish.reason.as_str()));
            next.state = State::Ended(end(Outcome::Cancelled, code.as_str(), message, None));
        }
        Reported::RateLimited { message } => {
            let (attempt, code) = (job.attempt, Code::RateLimited.to_string());
            let end = AttemptEnd { attempt, code, message: message.clone(), timed_out: false, worker_id };
            return Ok(told_to_come_later(next, end, now, now));
        }
        // A worker that leaves hands back what it had only queued: nothing was tried.
        Reported::Retryable { code, message, .. } if code == Code::WorkerLeft.as_str() && report.execution_ms == 0 => {
            let (attempt, code) = (job.attempt, code.clone());
            let end = AttemptEnd { attempt, code, message: message.clone(), timed_out: false, worker_id };
            return Ok(told_to_come_later(next, end, now.after(HANDED_BACK_REST), now));
        }
        Reported::Retryable { code, message, timed_out } => {
            let end = AttemptEnd {
                attempt: job.attempt,
                code: code.clone(),
                message: message.clone(),
                timed_out: *timed_out,
                worker_id: worker_id.clone(),
            };
            return Ok(attempt_over(next, end, now));
        }
    }
    Ok(changed(next, now))
}

fn cancel_asked(job: &Job, wish: CancelWish, now: Timestamp) -> Result<Transition, Rejected> {
    match &job.state {
        // What is out of a replicated job is its replicas, which follow it.
        State::Pending { .. } | State::ApprovalRequired { .. } | State::Scheduled { .. } | State::Replicated { .. } => {
            Ok(ended(job.clone(), Outcome::Cancelled, wish.code.as_str(), &wish.reason, now))
        }
        State::Dispatched { .. } | State::Running { .. } => {
            if job.cancel.is_some() {
                return Err(Rejected::Unchanged);
            }
            let mut next = job.clone();
            let stop = stop(job.attempt, &wish);
            next.cancel = Some(wish);
            Ok(Transition { commands: vec![stop], ..changed(next, now) })
        }
        State::Ended(_) => Err(Rejected::Terminal),
    }
}

/// Applies the first limit that has passed: cancellation, deadline, then the limit of the state.
fn tick(job: &Job, now: Timestamp) -> Result<Transition, Rejected> {
    if let Some(wish) = job.cancel.as_ref().filter(|wish| wish.by <= now) {
        return Ok(ended(job.clone(), Outcome::Cancelled, wish.code.as_str(), &wish.reason, now));
    }
    let deadline = job.plan.deadline_at_ms;
    if deadline > 0 && deadline <= now.millis() && job.cancel.is_none() {
        let message = "the job did not end within its deadline";
        let transition = ended(job.clone(), Outcome::Timeout, Code::DeadlineExceeded.as_str(), message, now);
        return Ok(stopping(job, transition));
    }
    match &job.state {
        State::Pending { .. } | State::ApprovalRequired { .. } | State::Replicated { .. } => Err(Rejected::Unchanged),
        State::Scheduled { since, not_before } => {
            if job.start_limit(*since, *not_before).is_none_or(|limit| limit > now) {
                return Err(Rejected::Unchanged);
            }
            let message = "no worker took the job in time";
            Ok(ended(job.clone(), Outcome::Timeout, Code::ScheduleToStartTimeout.as_str(), message, now))
        }
        State::Dispatched { hold } | State::Running { hold, .. } => {
            let is_over = |limit: Option<Timestamp>| limit.is_some_and(|limit| limit <= now);
            let (code, message) = if is_over(job.close_limit(hold.since)) {
                (Code::StartToCloseTimeout, format!("the attempt took longer than {} ms", job.plan.start_to_close_ms))
            } else if is_over(job.report_limit(hold)) {
                (Code::HeartbeatTimeout, format!("the attempt reported nothing for {} ms", job.plan.heartbeat_timeout_ms))
            } else {
                return Err(Rejected::Unchanged);
            };
            let worker_id = hold.worker_id.clone();
            let end = AttemptEnd { attempt: job.attempt, code: code.to_string(), message, timed_out: true, worker_id };
            Ok(stopping(job, attempt_over(job.clone(), end, now)))
        }
        State::Ended(_) => Err(Rejected::Terminal),
    }
}

/// The attempt is over: cancelled if that was wanted, again if attempts are left, else the end.
fn attempt_over(mut next: Job, end: AttemptEnd, now: Timestamp) -> Transition {
    if let Some(wish) = next.cancel.take() {
        next.last_end = Some(end);
        return ended(next, Outcome::Cancelled, wish.code.as_str(), &wish.reason, now);
    }
    let is_final = next.plan.non_retryable_codes.contains(&end.code);
    if !is_final && next.attempt.saturating_sub(next.unreached) < next.plan.max_attempts.max(1) {
        let not_before = now.after(next.backoff());
        next.last_end = Some(end);
        next.state = State::Scheduled { since: now, not_before };
        return changed(next, now);
    }
    let outcome = if end.timed_out { Outcome::Timeout } else { Outcome::Failed };
    let transition = ended(next, outcome, &end.code, &end.message, now);
    Transition { next: Job { last_end: Some(end), ..transition.next }, ..transition }
}

/// A worker died with the job in its hands. Once too often, and it is not given to another one.
fn crashed(mut next: Job, end: AttemptEnd, now: Timestamp) -> Transition {
    next.crashes += 1;
    if next.cancel.is_some() || next.plan.crash_limit == 0 || next.crashes < next.plan.crash_limit {
        return attempt_over(next, end, now);
    }
    let message = format!("{} workers died with it in their hands; the last one was {}", next.crashes, end.worker_id);
    let transition = ended(next, Outcome::Failed, Code::JobQuarantined.as_str(), &message, now);
    Transition { next: Job { last_end: Some(end), ..transition.next }, ..transition }
}

/// The attempt was made in vain, through no fault of the job's: it waits for its turn again.
fn told_to_come_later(mut next: Job, end: AttemptEnd, not_before: Timestamp, now: Timestamp) -> Transition {
    if next.cancel.is_some() {
        return attempt_over(next, end, now);
    }
    next.unreached += 1;
    next.last_end = Some(end);
    next.state = State::Scheduled { since: now, not_before };
    changed(next, now)
}

/// The hold of the present attempt, if that is the one spoken of.
fn current_hold(job: &Job, attempt: Option<u32>) -> Result<&Hold, Rejected> {
    let hold = job.hold().ok_or(Rejected::StaleAttempt)?;
    if attempt.is_some_and(|named| named != job.attempt) {
        return Err(Rejected::StaleAttempt);
    }
    Ok(hold)
}

fn ended(mut next: Job, outcome: Outcome, code: &str, message: &str, now: Timestamp) -> Transition {
    let worker_id = next.hold().map(|hold| hold.worker_id.clone()).unwrap_or_default();
    next.state = State::Ended(End {
        outcome,
        at: now,
        worker_id,
        code: code.to_owned(),
        message: message.to_owned(),
        result: None,
        execution_ms: 0,
        decided_here: true,
    });
    changed(next, now)
}

/// Tells the worker of an attempt that we gave up to stop.
fn stopping(before: &Job, mut transition: Transition) -> Transition {
    if before.hold().is_some() {
        transition.commands.push(Command::Stop {
            attempt: before.attempt,
            reason: "timed out".to_owned(),
            requested_by: busbar_protocol::subjects::SCHEDULER_SENDER.to_owned(),
        });
    }
    transition
}

fn stop(attempt: u32, wish: &CancelWish) -> Command {
    Command::Stop { attempt, reason: wish.reason.clone(), requested_by: wish.requested_by.clone() }
}

fn changed(mut next: Job, now: Timestamp) -> Transition {
    next.updated = now;
    Transition { next, commands: Vec::new() }
}
