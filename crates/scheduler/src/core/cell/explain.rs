//! Why a job is where it is: gate by gate, with the time spent at each.

use busbar_protocol::busbar::{ExplainReply, Gate as Told, GateState, Pause, WorkerVerdict};
use busbar_protocol::ids::JobId;
use busbar_protocol::time::Timestamp;

use super::super::flow::{Wait, Whose};
use super::super::job::{Job, State};
use super::super::line::Rank;
use super::super::place;
use super::super::timeline::{Gate, Timeline};
use super::placing::pools;
use super::{Cell, Entry};

/// How many jobs before one in its line are counted.
const COUNTED_MAX: usize = 10_000;
/// How many workers are told of.
const WORKERS_MAX: usize = 200;

/// Where a job stands, as one gate after the other.
const POLICY: &str = "policy";
const APPROVAL: &str = "approval";
const NOT_BEFORE: &str = "not_before";
const PAUSE: &str = "pause";
const QUOTA: &str = "quota";
const RATE: &str = "rate";
const KEY: &str = "key";
const RANK: &str = "rank";
const WORKER: &str = "worker";
const ORDER: [&str; 9] = [POLICY, APPROVAL, NOT_BEFORE, PAUSE, QUOTA, RATE, KEY, RANK, WORKER];

/// The gate at which a job stands, and what there is to say about it.
struct Stand {
    gate: &'static str,
    detail: String,
    opens: Option<Timestamp>,
}

impl Cell {
    /// Explains a live job; none where there is no such job here.
    #[must_use]
    pub fn explain(&self, id: &JobId, now: Timestamp) -> Option<ExplainReply> {
        let entry = self.jobs.get(id)?;
        let stand = self.stand(entry, now);
        let at = stand.as_ref().map(|stand| stand.gate);
        let place = at.and_then(|at| ORDER.iter().position(|name| *name == at)).unwrap_or(ORDER.len());
        let gates = ORDER.iter().enumerate().map(|(index, name)| {
            let state = match index.cmp(&place) {
                std::cmp::Ordering::Less => GateState::Passed,
                std::cmp::Ordering::Equal => GateState::Waits,
                std::cmp::Ordering::Greater => GateState::Ahead,
            };
            let here = stand.as_ref().filter(|stand| stand.gate == *name);
            Told {
                name: (*name).to_owned(),
                state: state.into(),
                detail: here.map_or_else(|| self.passing(entry, name), |stand| stand.detail.clone()),
                spent_ms: self.spent(entry, name, here.is_some(), now),
                opens_ms: here.and_then(|stand| stand.opens).map_or(0, Timestamp::millis),
                workers: if *name == WORKER { self.verdicts(entry, now) } else { Vec::new() },
            }
        });
        Some(ExplainReply {
            state: entry.job.state.tag().into(),
            gates: gates.collect(),
            summary: summary(&entry.job, stand.as_ref(), self.tell_replicas(id)),
            now_ms: now.millis(),
            problem: None,
        })
    }

    /// Where it stands; nowhere, if a worker has it.
    fn stand(&self, entry: &Entry, now: Timestamp) -> Option<Stand> {
        let stand = |gate, detail: String, opens| Some(Stand { gate, detail, opens });
        let job = &entry.job;
        match &job.state {
            State::Pending { not_before } => {
                let throttled = job.decision.is_some() && *not_before > now;
                let detail = if throttled { "the policy throttles it" } else { "the safety kernel has not decided" };
                stand(POLICY, detail.to_owned(), Some(*not_before).filter(|at| *at > now))
            }
            State::ApprovalRequired { .. } => stand(APPROVAL, "a person must approve it".to_owned(), None),
            State::Scheduled { not_before, .. } if *not_before > now => {
                let ended = job.last_end.as_ref().filter(|_| job.attempt > 0);
                let retried = |end: &super::super::job::AttemptEnd| format!("attempt {} ended: {}", end.attempt, end.code);
                stand(NOT_BEFORE, ended.map_or_else(|| "asked to wait".to_owned(), retried), Some(*not_before))
            }
            State::Scheduled { .. } if !self.is_judged(job) => {
                stand(POLICY, "the policy has changed; it is decided again".to_owned(), None)
            }
            State::Scheduled { .. } => Some(self.stand_in_line(entry, now)),
            State::Dispatched { .. } | State::Running { .. } | State::Replicated { .. } | State::Ended(_) => None,
        }
    }

    fn stand_in_line(&self, entry: &Entry, now: Timestamp) -> Stand {
        let (charge, job) = (&entry.charge, &entry.job);
        let key = charge.key_name();
        let document = self.topics.resolve(&job.topic);
        let in_pools = || self.holds.pools(pools(&entry.line.class, document?), now);
        let paused = self.holds.topic(&charge.topic, now).or_else(in_pools).or_else(|| self.holds.tenant(&charge.tenant, now));
        let paused = paused.or_else(|| key.as_ref().and_then(|name| self.holds.key(name, now)));
        let paused = paused.or_else(|| self.holds.run_of(&job.id));
        if let Some(pause) = paused {
            let opens = Some(pause.until_ms).filter(|until| *until > 0).map(Timestamp::from_millis);
            return Stand { gate: PAUSE, detail: told(pause), opens };
        }
        let Some(document) = document else {
            return Stand { gate: WORKER, detail: format!("no topic document matches {}", job.topic), opens: None };
        };
        // A look that changes nothing: the meters are asked as they are, on a copy.
        if let Err(wait) = self.flow.clone_for(charge).may_start(charge, Some(document), now) {
            return self.stand_at_gate(entry, wait);
        }
        let spot = entry.spot();
        let (before, tenants) = self.queue.before(&spot, COUNTED_MAX).unwrap_or((0, 1));
        let class_waits = self.queue.class_timeline(&entry.line.class).and_then(Timeline::stands_at).map(|(gate, _)| gate);
        if before == 0 || class_waits == Some(Gate::Worker) {
            let verdicts = self.verdicts(entry, now);
            let able = verdicts.iter().filter(|worker| matches!(worker.verdict.as_str(), "free" | "full")).count();
            let detail = match (verdicts.len(), able) {
                (0, _) => "no worker is known".to_owned(),
                (known, 0) => format!("none of {known} known workers may have it now"),
                (_, able) => format!("{able} workers may have it; none has a free slot, or it is about to go"),
            };
            let detail = if before == 0 { detail } else { format!("{detail}; {before} jobs of its tenant are before it") };
            return Stand { gate: WORKER, detail, opens: None };
        }
        let rank = Rank::from(job.priority);
        let detail = format!("{before} jobs of its tenant are before it; {tenants} tenants take turns ({rank:?})");
        Stand { gate: RANK, detail, opens: None }
    }

    fn stand_at_gate(&self, entry: &Entry, wait: Wait) -> Stand {
        let charge = &entry.charge;
        let [tenant_out, topic_out, key_out] = self.flow.out(charge);
        let document = self.topics.resolve(&charge.topic);
        let (tenant, topic) = (self.flow.bounds().tenant(&charge.tenant), self.flow.bounds().topic(&charge.topic, document));
        let detail = match (wait.gate, wait.whose) {
            (Gate::Quota, Whose::Topic) => {
                format!("topic {}: {topic_out} of {} attempts are out", charge.topic, topic.flow.concurrency_max)
            }
            (Gate::Quota, _) => format!("tenant {}: {tenant_out} of {} attempts are out", charge.tenant, tenant.concurrency_max),
            (Gate::Rate, Whose::Topic) => format!("topic {} starts no more attempts for the moment", charge.topic),
            (Gate::Rate, _) => format!("tenant {} starts no more attempts for the moment", charge.tenant),
            (Gate::Key | Gate::Pause | Gate::Worker, _) => {
                let key = charge.key.as_deref().unwrap_or_default();
                format!("key {key}: {key_out} of {} attempts are out", topic.key.concurrency_max.max(1))
            }
        };
        Stand { gate: named(wait.gate), detail, opens: wait.opens }
    }

    /// What there is to say about a gate at which the job does not stand.
    fn passing(&self, entry: &Entry, gate: &str) -> String {
        let job = &entry.job;
        match (gate, &job.decision) {
            (POLICY, Some(decision)) => format!("{}: {}", decision.decision().as_str_name(), decision.reason),
            (KEY, _) => entry.charge.key.as_deref().map_or_else(|| "it carries none".to_owned(), |key| format!("key {key}")),
            (WORKER, _) => match job.hold() {
                Some(hold) => format!("attempt {} is with {}", job.attempt, held_by(&hold.worker_id)),
                None => self.tell_replicas(&job.id).unwrap_or_default(),
            },
            (_, _) => String::new(),
        }
    }

    fn verdicts(&self, entry: &Entry, now: Timestamp) -> Vec<WorkerVerdict> {
        if !entry.job.waits() {
            return Vec::new();
        }
        let Some(document) = self.topics.resolve(&entry.job.topic) else { return Vec::new() };
        let mut verdicts = place::verdicts((&self.workers, &self.bindings), &self.holds, &entry.line.class, document, now);
        verdicts.truncate(WORKERS_MAX);
        verdicts
    }

    /// How long a job has stood at a gate since it came, in milliseconds. What passed while others of its line went is its rank's.
    fn spent(&self, entry: &Entry, gate: &str, stands: bool, now: Timestamp) -> u64 {
        let job = &entry.job;
        let since = |then: Timestamp| u64::try_from(now.since(then).as_millis()).unwrap_or(u64::MAX);
        let decided = job.decision.as_ref().map(|decision| Timestamp::from_millis(decision.decided_ms));
        let (queued, until) = match &job.state {
            State::Scheduled { since, not_before } => ((*since).max(*not_before), now),
            State::Dispatched { hold } | State::Running { hold, .. } => (decided.unwrap_or(job.created), hold.since),
            State::Replicated { since } => (decided.unwrap_or(job.created), *since),
            State::Pending { .. } | State::ApprovalRequired { .. } | State::Ended(_) => (now, now),
        };
        let line = |timeline: Option<&Timeline>, gate| {
            timeline.map_or(0, |line| u64::try_from(line.spent(gate, queued, until).as_millis()).unwrap_or(u64::MAX))
        };
        let class = self.queue.class_timeline(&entry.line.class);
        let tenant = self.flow.tenant_timeline(&entry.charge.tenant);
        let key_name = entry.charge.key_name();
        let key = key_name.as_ref().and_then(|name| self.flow.key_timeline(name));
        match gate {
            POLICY if stands => since(decided.unwrap_or(job.created)),
            POLICY => decided.map_or(0, |at| u64::try_from(at.since(job.created).as_millis()).unwrap_or(0)),
            APPROVAL => match &job.state {
                State::ApprovalRequired { since: then } => since(*then),
                _ => 0,
            },
            NOT_BEFORE => match &job.state {
                State::Scheduled { since: then, not_before } => {
                    u64::try_from((*not_before).min(now).since(*then).as_millis()).unwrap_or(0)
                }
                _ => 0,
            },
            PAUSE => line(class, Gate::Pause) + line(tenant, Gate::Pause),
            QUOTA => line(class, Gate::Quota) + line(tenant, Gate::Quota),
            RATE => line(class, Gate::Rate) + line(tenant, Gate::Rate),
            KEY => line(key, Gate::Key),
            WORKER => line(class, Gate::Worker),
            _ => {
                let all = u64::try_from(until.since(queued).as_millis()).unwrap_or(u64::MAX);
                let elsewhere: u64 =
                    [Gate::Pause, Gate::Quota, Gate::Rate, Gate::Worker].map(|gate| line(class, gate)).iter().sum();
                let of_tenant: u64 = [Gate::Pause, Gate::Quota, Gate::Rate].map(|gate| line(tenant, gate)).iter().sum();
                all.saturating_sub(elsewhere + of_tenant + line(key, Gate::Key))
            }
        }
    }
}

const fn named(gate: Gate) -> &'static str {
    match gate {
        Gate::Pause => PAUSE,
        Gate::Quota => QUOTA,
        Gate::Rate => RATE,
        Gate::Key => KEY,
        Gate::Worker => WORKER,
    }
}

fn told(pause: &Pause) -> String {
    let what = pause.what.clone().unwrap_or_default();
    let scope = what.scope().as_str_name().trim_start_matches("PAUSE_SCOPE_").to_lowercase();
    let reason = if pause.reason.is_empty() { String::new() } else { format!(": {}", pause.reason) };
    format!("{scope} {} is paused by {}{reason}", what.name, pause.set_by)
}

fn held_by(worker_id: &str) -> &str {
    if worker_id.is_empty() { "a worker of its topic's queue group" } else { worker_id }
}

fn summary(job: &Job, stand: Option<&Stand>, replicas: Option<String>) -> String {
    match (stand, job.hold(), replicas) {
        (Some(Stand { gate, detail, .. }), _, _) => format!("It waits at the gate {gate}: {detail}."),
        (None, Some(hold), _) => format!("Attempt {} is with {}.", job.attempt, held_by(&hold.worker_id)),
        (None, None, Some(replicas)) => format!("Its replicas are out: {replicas}."),
        (None, None, None) => "It has just ended.".to_owned(),
    }
}
