//! A job's record as the HTTP interface shows it.

use std::collections::BTreeMap;

use busbar_api::{DecisionView, JobState, JobView, Judgement, Priority, VoteView, WorkerView};
use busbar_protocol::busbar::{self, JobDecision, JobRecord, job_record};
use busbar_protocol::cap::{DecisionType, JobPriority, JobRequest};
use busbar_protocol::hex;
use busbar_protocol::prost::Message as _;
use busbar_protocol::time::Timestamp;

/// What differs from state to state.
#[derive(Default)]
struct ByState<'a> {
    worker_id: Option<&'a str>,
    not_before_ms: u64,
    percent: Option<i32>,
    error: Option<(&'a str, &'a str)>,
}

/// The view of a record, without the result itself. `None` where the record is in no state that we know.
pub(crate) fn view(record: &JobRecord) -> Option<JobView> {
    let state = state(record)?;
    let by_state = by_state(record)?;
    let request = JobRequest::decode(&record.request[..]).unwrap_or_default();
    let ended = ended(record);
    let plan = record.plan.clone().unwrap_or_default();
    let result_ptr = ended.and_then(|end| text(&end.result_ptr));
    let error = by_state.error.filter(|(code, message)| !(code.is_empty() && message.is_empty()));
    Some(JobView {
        id: record.job_id.clone(),
        state,
        topic: record.topic.clone(),
        attempts: record.attempt,
        max_attempts: plan.max_attempts,
        worker_id: by_state.worker_id.and_then(text),
        created_at: time(record.created_ms),
        updated_at: time(record.updated_ms),
        result_bytes: ended.filter(|_| result_ptr.is_some()).map(|end| end.result_bytes),
        result_ptr,
        result: None,
        execution_ms: ended.map(|end| end.execution_ms).filter(|ms| *ms > 0),
        error_code: error.and_then(|(code, _)| text(code)),
        error_message: error.and_then(|(_, message)| text(message)),
        trace_id: record.trace_id.clone(),
        tenant_id: record.tenant_id.clone(),
        priority: priority(record.priority),
        labels: request.labels.into_iter().collect::<BTreeMap<_, _>>(),
        requires: plan.requires,
        percent: by_state.percent,
        not_before: (by_state.not_before_ms > record.updated_ms).then(|| time(by_state.not_before_ms)),
        deadline_at: (plan.deadline_at_ms > 0).then(|| time(plan.deadline_at_ms)),
        module: text(&plan.module),
        cancel_requested: record.cancel.is_some() && !state.is_terminal(),
        decision: record.decision.as_ref().and_then(decision),
        parent_job_id: text(&record.parent_job_id),
        redrive_of: text(&record.redrive_of),
        crashes: record.crashes,
        concurrency_key: text(&plan.concurrency_key),
        votes: record.votes.iter().map(|vote| vote_of(&record.job_id, vote)).collect(),
    })
}

fn vote_of(job_id: &str, vote: &busbar::Vote) -> VoteView {
    VoteView {
        job_id: format!("{job_id}.r{}", vote.replica),
        worker_id: text(&vote.worker_id),
        owner: text(&vote.owner),
        sha256: text(&hex::encode(&vote.compared_sha256)),
        error_code: text(&vote.error_code),
        agrees: vote.agrees,
        judgement: match vote.judgement() {
            busbar::Judgement::Proven => Some(Judgement::Proven),
            busbar::Judgement::Wrong => Some(Judgement::Wrong),
            busbar::Judgement::Plausible | busbar::Judgement::Unspecified => None,
        },
    }
}

/// The state of a record.
pub(crate) fn state(record: &JobRecord) -> Option<JobState> {
    use job_record::State;
    Some(match record.state.as_ref()? {
        State::Pending(_) => JobState::Pending,
        State::ApprovalRequired(_) => JobState::ApprovalRequired,
        State::Scheduled(_) => JobState::Scheduled,
        State::Dispatched(_) | State::Replicated(_) => JobState::Dispatched,
        State::Running(_) => JobState::Running,
        State::Ended(end) => JobState::from_protocol(end.state()).filter(|state| state.is_terminal())?,
    })
}

/// How the job ended, if it has.
pub(crate) fn ended(record: &JobRecord) -> Option<&busbar::Ended> {
    match record.state.as_ref()? {
        job_record::State::Ended(end) => Some(end),
        _ => None,
    }
}

fn by_state(record: &JobRecord) -> Option<ByState<'_>> {
    use job_record::State;
    let last = record.last_end.as_ref();
    let waiting = |not_before_ms| ByState {
        not_before_ms,
        worker_id: last.map(|end| end.worker_id.as_str()),
        error: last.map(|end| (end.code.as_str(), end.message.as_str())),
        ..ByState::default()
    };
    Some(match record.state.as_ref()? {
        State::Pending(pending) => waiting(pending.not_before_ms),
        State::ApprovalRequired(_) => waiting(0),
        State::Scheduled(scheduled) => waiting(scheduled.not_before_ms),
        State::Replicated(_) => ByState::default(),
        State::Dispatched(sent) => ByState { worker_id: Some(&sent.worker_id), ..ByState::default() },
        State::Running(run) => ByState { worker_id: Some(&run.worker_id), percent: Some(run.percent), ..ByState::default() },
        State::Ended(end) => {
            ByState { worker_id: Some(&end.worker_id), error: Some((&end.error_code, &end.error_message)), ..ByState::default() }
        }
    })
}

/// What the safety kernel decided, if it did.
pub(crate) fn decision(decision: &JobDecision) -> Option<DecisionView> {
    let kind = decision.decision();
    let name = kind.as_str_name();
    (kind != DecisionType::Unspecified).then(|| DecisionView {
        decision: name.strip_prefix("DECISION_TYPE_").unwrap_or(name).to_owned(),
        rule_id: decision.rule_id.clone(),
        reason: decision.reason.clone(),
        snapshot: decision.snapshot.clone(),
    })
}

/// The priority that a number on the wire means.
pub(crate) fn priority(number: i32) -> Priority {
    match JobPriority::try_from(number).unwrap_or_default() {
        JobPriority::Unspecified | JobPriority::Interactive => Priority::Interactive,
        JobPriority::Batch => Priority::Batch,
        JobPriority::Critical => Priority::Critical,
    }
}

/// A worker as the HTTP interface shows it.
pub(crate) fn worker(worker: busbar::WorkerView) -> WorkerView {
    let kind = match worker.kind() {
        busbar::WorkerKind::Unspecified => "unknown",
        busbar::WorkerKind::Native => "native",
        busbar::WorkerKind::Announced => "announced",
        busbar::WorkerKind::Silent => "silent",
    };
    WorkerView {
        kind: kind.to_owned(),
        id: worker.worker_id,
        pool: worker.pool,
        status: worker.status,
        capacity: worker.capacity,
        in_flight: worker.in_flight,
        last_seen_at: time(worker.last_seen_ms),
        topics: worker.topics,
        capabilities: worker.capabilities,
        labels: worker.labels,
        region: worker.region,
        incarnation: worker.incarnation,
        cpu_load: worker.cpu_load,
        memory_load: worker.memory_load,
        shared: worker.shared,
        reason: text(&worker.reason),
        prefetch: worker.prefetch,
        worker_type: worker.worker_type,
    }
}

/// RFC 3339 in UTC with milliseconds.
pub(crate) fn time(millis: u64) -> String {
    Timestamp::from_millis(millis).to_string()
}

/// A text that is not empty.
pub(crate) fn text(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use busbar_protocol::busbar::{AttemptEnd, Ended, JobPlan, Pending, Running, Scheduled};

    fn record(state: job_record::State) -> JobRecord {
        let request = JobRequest { labels: [("a".to_owned(), "b".to_owned())].into(), ..JobRequest::default() };
        JobRecord {
            job_id: "j".into(),
            topic: "job.echo".into(),
            created_ms: 1_700_000_000_000,
            updated_ms: 1_700_000_000_125,
            attempt: 2,
            request: request.encode_to_vec().into(),
            plan: Some(JobPlan { max_attempts: 3, concurrency_key: "order-7".into(), ..JobPlan::default() }),
            parent_job_id: "p".into(),
            crashes: 1,
            priority: JobPriority::Critical.into(),
            state: Some(state),
            ..JobRecord::default()
        }
    }

    #[test]
    fn an_ended_job_shows_how_it_ended() {
        let end = Ended {
            state: busbar::JobState::Succeeded.into(),
            worker_id: "w".into(),
            result_ptr: "redis://res:j:2".into(),
            result_bytes: 7,
            execution_ms: 30,
            ..Ended::default()
        };
        let view = view(&record(job_record::State::Ended(end))).expect("known");
        assert_eq!((view.state, view.attempts, view.max_attempts), (JobState::Succeeded, 2, 3));
        assert_eq!(view.worker_id.as_deref(), Some("w"));
        assert_eq!((view.result_ptr.as_deref(), view.result_bytes), (Some("redis://res:j:2"), Some(7)));
        assert_eq!((view.error_code, view.error_message), (None, None));
        assert_eq!(
            (view.created_at.as_str(), view.updated_at.as_str()),
            ("2023-11-14T22:13:20.000Z", "2023-11-14T22:13:20.125Z")
        );
        assert_eq!((view.priority, view.labels.len()), (Priority::Critical, 1));
        let kin = (view.parent_job_id.as_deref(), view.redrive_of, view.concurrency_key.as_deref(), view.crashes);
        assert_eq!(kin, (Some("p"), None, Some("order-7"), 1));
    }

    #[test]
    fn a_job_that_waits_for_its_next_attempt_shows_how_the_last_one_ended() {
        let mut waiting = record(job_record::State::Scheduled(Scheduled { since_ms: 1, not_before_ms: 1_700_000_001_000 }));
        waiting.last_end = Some(AttemptEnd { code: "worker_lost".into(), worker_id: "w".into(), ..AttemptEnd::default() });
        let view = view(&waiting).expect("known");
        assert_eq!(view.error_code.as_deref(), Some("worker_lost"));
        assert_eq!(view.not_before.as_deref(), Some("2023-11-14T22:13:21.000Z"));
        assert_eq!(view.result_ptr, None);
    }

    #[test]
    fn states_have_what_belongs_to_them() {
        let running =
            view(&record(job_record::State::Running(Running { worker_id: "w".into(), percent: 40, ..Running::default() })));
        assert_eq!(running.map(|v| (v.state, v.percent)), Some((JobState::Running, Some(40))));
        let pending = view(&record(job_record::State::Pending(Pending::default())));
        assert_eq!(pending.map(|v| (v.state, v.worker_id)), Some((JobState::Pending, None)));
        assert!(view(&JobRecord::default()).is_none());
    }
}
