//! Each dispatch: allowed, in time, to one worker that has room; and no command before its commit.

use std::collections::BTreeSet;
use std::time::Duration;

use busbar_protocol::busbar::{HoldsDocument, PauseScope};
use busbar_protocol::cap::DecisionType;
use busbar_protocol::cap::bus_packet::Payload;
use busbar_protocol::envelope;
use busbar_protocol::ids;
use busbar_protocol::ports::Message;
use busbar_protocol::prost::Message as _;
use busbar_protocol::subjects;
use busbar_protocol::time::Timestamp;
use busbar_scheduler::core::job::{Job, Outcome, State};

use super::Seen;
use crate::world::{rules, worker};

/// How soon the cancellation of a job reaches those of its children that wait: after this, and a takeover or two.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(20);

/// For how long a job may be there and not be next yet: what comes when the policy changes is decided twice.
const UNNOTICED_FOR: Duration = Duration::from_secs(3);

/// How many attempts may be under way through the queue group of a topic: the default, which no document here changes.
const QUEUED_MAX: usize = 16;

impl Seen {
    /// Attempts rise by one, each with a dispatch.
    pub(super) fn attempts(&mut self, at: Timestamp, id: &str, before: Option<&Job>, job: &Job) {
        let attempt = before.map_or(0, |before| before.attempt);
        if let Some(hold) = before.and_then(Job::hold) {
            let place = place(&hold.worker_id, &job.topic);
            self.holding.entry(place).or_default().remove(id);
            before.into_iter().for_each(|before| self.charge(before, false));
        }
        let rises = job.attempt.checked_sub(attempt);
        match rises {
            Some(0) => {}
            // The first may go out with the first commit.
            Some(1) => self.dispatched(at, id, before, job),
            _ => self.breaks(format!("{id} went from attempt {attempt} to {}", job.attempt)),
        }
        if let Some(hold) = job.hold() {
            if rises == Some(0) && before.is_none_or(|before| before.hold().is_none()) {
                self.breaks(format!("{id} is held again without a new attempt"));
            }
            self.holding.entry(place(&hold.worker_id, &job.topic)).or_default().insert(id.to_owned());
            self.charge(job, true);
        }
        // A result may still come before a cancellation that was asked for.
        let cancelled = job.end().map_or(job.cancel.is_some(), |end| end.outcome == Outcome::Cancelled);
        if cancelled {
            self.cancelled.entry(id.to_owned()).or_insert(at);
        } else {
            self.cancelled.remove(id);
        }
    }

    /// An attempt is out, or no longer, on the accounts of its job.
    fn charge(&mut self, job: &Job, out: bool) {
        for account in rules::accounts(&self.limits, job).into_iter().filter(|account| account.most > 0) {
            let (count, bound) = self.accounts.entry(account.name).or_default();
            *bound = account.most;
            *count = if out { *count + 1 } else { count.saturating_sub(1) };
        }
    }

    fn dispatched(&mut self, at: Timestamp, id: &str, before: Option<&Job>, job: &Job) {
        let Some(hold) = job.hold() else {
            // It was dispatched and came back within one commit.
            return;
        };
        self.sent_to.insert((id.to_owned(), job.attempt), hold.worker_id.clone());
        let decision = job.decision.as_ref().map(|decision| decision.decision()).unwrap_or_default();
        if !matches!(decision, DecisionType::Allow | DecisionType::AllowWithConstraints | DecisionType::Redact) {
            self.breaks(format!("{id} was dispatched under the decision {}", decision.as_str_name()));
        }
        if let Some(State::Scheduled { not_before, .. }) = before.map(|before| &before.state)
            && *not_before > hold.since
        {
            self.breaks(format!("{id} was dispatched {:?} too early", not_before.since(hold.since)));
        }
        self.filled.insert(place(&hold.worker_id, &job.topic));
        let accounts = rules::accounts(&self.limits, job);
        self.charged.extend(accounts.iter().filter(|account| account.most > 0).map(|account| account.name.clone()));
        if self.exact {
            accounts.iter().for_each(|account| self.starts(account, hold.since));
            self.went.push((job.clone(), hold.since));
        }
        let wanted = self.not_before.get(id).copied().filter(|_| job.attempt == 1);
        // A later attempt may be sent by somebody whose clock is behind.
        if let Some(not_before) = wanted.filter(|not_before| *not_before > hold.since) {
            self.breaks(format!("{id} was dispatched {:?} before it was to be", not_before.since(hold.since)));
        }
        self.held_up(id, job, &hold.worker_id);
        if job.is_part() {
            self.parts_sent.push(id.to_owned());
        }
        let parent = self.parents.get(id).cloned().unwrap_or_default();
        if let Some(cancelled) = self.cancelled.get(&parent).filter(|cancelled| at.since(**cancelled) > FOLLOWED_WITHIN).copied()
        {
            self.breaks(format!("{id} was dispatched {:?} after its parent {parent} was cancelled", at.since(cancelled)));
        }
    }

    /// However long one looks back, no more attempts of an account have started than its rate and its burst give.
    fn starts(&mut self, account: &rules::Account, since: Timestamp) {
        let Some(rate) = account.starts else { return };
        let burst = if rate.burst == 0 { rate.count } else { rate.burst };
        let starts = self.starts.entry(account.name.clone()).or_default();
        starts.push(since);
        starts.sort_unstable();
        let given = |length: Duration| length.as_millis() * u128::from(rate.count) / u128::from(rate.per_ms) + u128::from(burst);
        // One flush may carry what was placed at different times, in no order.
        let ends = starts.iter().enumerate().filter(|(_, end)| **end >= since);
        let too_fast = ends.flat_map(|(last, end)| (0..=last).map(move |first| (last + 1 - first, first, *end)));
        let too_fast = too_fast.map(|(count, first, end)| (count, end.since(starts[first])));
        if let Some((count, length)) = too_fast.into_iter().find(|(count, length)| *count as u128 > given(*length)) {
            let what = format!("{count} attempts of {} have started within {length:?}", account.name);
            self.breaks(what);
        }
    }

    /// Who has not been sent yet goes behind all others like it that came before and have not been sent either. One call carries
    /// those that go together in no order, so that is judged after it.
    pub(super) fn check_turns(&mut self) {
        for (job, since) in std::mem::take(&mut self.went) {
            if self.is_of_held_run(&job, since, Duration::ZERO) {
                self.breaks(format!("{} was dispatched, though its run is paused", job.id));
            }
            self.in_turn(&job, since);
        }
    }

    /// What is paused was written: which runs are among it.
    pub(super) fn runs_held(&mut self, at: Timestamp, record: &[u8]) {
        let pauses = HoldsDocument::decode(record).unwrap_or_default().pauses;
        let of_runs = pauses.into_iter().filter_map(|pause| pause.what).filter(|what| what.scope() == PauseScope::Run);
        let held: BTreeSet<String> = of_runs.map(|what| what.name).collect();
        for (run, let_go) in &mut self.held_runs {
            if !held.contains(run) && let_go.is_none() {
                *let_go = Some(at);
            }
        }
        self.held_runs.extend(held.into_iter().map(|run| (run, None)));
    }

    /// Whether the run of a job is held, or was so shortly before this time.
    fn is_of_held_run(&self, job: &Job, now: Timestamp, shortly: Duration) -> bool {
        let run = ids::run_of(job.id.as_str()).and_then(|run| self.held_runs.get(run));
        run.is_some_and(|let_go| let_go.is_none_or(|at| now.since(at) < shortly))
    }

    fn in_turn(&mut self, job: &Job, since: Timestamp) {
        // Replicas wait for workers of their own.
        let is_alone = |job: &Job| {
            job.attempt <= 1 && job.plan.concurrency_key.is_empty() && job.plan.replication.is_none() && !job.is_part()
        };
        let snapshot = |job: &Job| job.decision.as_ref().map(|decision| decision.snapshot.clone());
        if !is_alone(job) || Self::is_lately(self.disturbed) || Self::is_lately(self.taken_over) {
            return;
        }
        let is_passed = |known: &&super::Known| {
            let other = &known.job;
            let ready = matches!(other.state, State::Scheduled { not_before, .. } if not_before <= other.created);
            ready
                && since.since(known.at) > UNNOTICED_FOR
                && other.created < job.created
                && other.attempt == 0
                && is_alone(other)
                && !self.is_of_held_run(other, since, UNNOTICED_FOR)
                && rules::avoided(other) == rules::avoided(job)
                && (&other.tenant_id, &other.topic, other.priority) == (&job.tenant_id, &job.topic, job.priority)
                && snapshot(other) == snapshot(job)
        };
        if let Some(other) = self.jobs.values().find(is_passed).map(|known| known.job.id.clone()) {
            self.breaks(format!("{} was dispatched before {other}, which waited longer", job.id));
        }
    }

    /// No replica goes to a worker that has another one of the same job, or has spoken for one, nor does what checks that. One call carries what leaves a worker
    /// and what goes there, in no order.
    pub(super) fn check_meetings(&mut self) {
        for id in std::mem::take(&mut self.parts_sent) {
            let Some(job) = self.jobs.get(&id).map(|known| &known.job) else { continue };
            let Some(worker_id) = job.hold().map(|hold| &hold.worker_id) else { continue };
            let has = |other: &Job| match other.end() {
                None => other.hold().is_some_and(|hold| hold.worker_id == *worker_id),
                Some(end) => end.outcome == Outcome::Succeeded && end.worker_id == *worker_id,
            };
            let is_meant = |other: &Job| if job.verifies > 0 { other.replica == job.verifies } else { other.id != job.id };
            let is_other = |other: &Job| other.parent_job_id == job.parent_job_id && other.replica > 0 && is_meant(other);
            let mut others = self.jobs.values().map(|known| &known.job).filter(|other| is_other(other));
            if let Some(other) = others.find(|other| has(other)) {
                let what = format!("{id} went to {worker_id}, as did {}", other.id);
                self.breaks(what);
            }
        }
    }

    /// Nothing goes where an acknowledged pause or drain stands in the way.
    fn held_up(&mut self, id: &str, job: &Job, worker_id: &str) {
        let ways = [
            (PauseScope::Topic, job.topic.clone()),
            (PauseScope::Tenant, job.tenant_id.clone()),
            (PauseScope::Key, rules::key_name(job)),
            (PauseScope::Worker, worker_id.to_owned()),
            (PauseScope::Pool, rules::POOL.to_owned()),
        ];
        for way in ways.into_iter().filter(|way| self.paused.contains(way)).collect::<Vec<_>>() {
            self.breaks(format!("{id} was dispatched, though the {:?} {} was paused", way.0, way.1));
        }
    }

    /// Nobody has more than it takes. One call carries what ends and what takes its place, in no order.
    pub(super) fn check_room(&mut self) {
        for place in std::mem::take(&mut self.filled) {
            let most = worker::takes(&place).unwrap_or(QUEUED_MAX);
            let held = self.holding.get(&place).map_or(0, BTreeSet::len);
            if held > most {
                self.breaks(format!("{held} attempts were committed to {place}, which takes {most}"));
            }
        }
        for account in std::mem::take(&mut self.charged) {
            let (out, most) = self.accounts.get(&account).copied().unwrap_or_default();
            if out > most {
                self.breaks(format!("{out} attempts of {account} are out, and there may be {most}"));
            }
        }
    }

    /// A command goes out.
    pub(super) fn command(&mut self, message: &Message) {
        let Ok(decoded) = envelope::decode(&message.payload) else { return };
        match decoded.payload {
            Payload::JobRequest(request) => {
                let Some(dispatch) = request.dispatch else { return };
                let attempt = u32::try_from(dispatch.attempt).unwrap_or(0);
                let key = (request.job_id.clone(), attempt);
                let to = self.sent_to.get(&key).map(|worker| match worker.as_str() {
                    "" => request.topic.clone(),
                    worker => subjects::worker_jobs(worker),
                });
                if to.as_deref() != Some(message.subject.as_str()) {
                    let id = request.job_id;
                    self.breaks(format!("{id}/{attempt} was sent to {}, and was committed to {to:?}", message.subject));
                }
            }
            Payload::JobCancel(cancel) => {
                let Some(attempt) = cancel.dispatch.and_then(|dispatch| u32::try_from(dispatch.attempt).ok()) else { return };
                let wanted = |job: &Job| job.hold().is_some() && job.attempt == attempt && job.cancel.is_none();
                if self.jobs.get(&cancel.job_id).is_some_and(|known| wanted(&known.job)) {
                    self.breaks(format!("{}/{attempt} was told to stop, and somebody waits for it", cancel.job_id));
                }
            }
            _ => {}
        }
    }
}

fn place(worker_id: &str, topic: &str) -> String {
    if worker_id.is_empty() { topic.to_owned() } else { worker_id.to_owned() }
}
