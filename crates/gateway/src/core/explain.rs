//! Why a job is where it is, as the interface tells it.

use busbar_api::{ExplainView, GateState, GateView, JobEndView, JobState, WorkerVerdictView};
use busbar_protocol::busbar::{self, ExplainReply, Gate, JobRecord};
use busbar_protocol::time::Timestamp;

use super::view::{self, text, time};

/// What the scheduler says of a live job. `None` where it names no state.
pub(crate) fn live(job_id: &str, reply: ExplainReply) -> Option<ExplainView> {
    Some(ExplainView {
        state: JobState::from_protocol(reply.state())?,
        id: job_id.to_owned(),
        summary: reply.summary,
        gates: reply.gates.into_iter().map(gate).collect(),
        at: time(reply.now_ms),
        end: None,
    })
}

fn gate(gate: Gate) -> GateView {
    let state = match gate.state() {
        busbar::GateState::Waits => GateState::Waits,
        busbar::GateState::Ahead => GateState::Ahead,
        busbar::GateState::Unspecified | busbar::GateState::Passed => GateState::Passed,
    };
    let workers = gate.workers.into_iter().map(|worker| WorkerVerdictView {
        worker_id: worker.worker_id,
        verdict: worker.verdict,
        detail: worker.detail,
    });
    GateView {
        state,
        name: gate.name,
        detail: gate.detail,
        spent_ms: gate.spent_ms,
        opens_at: (gate.opens_ms > 0).then(|| time(gate.opens_ms)),
        workers: workers.collect(),
    }
}

/// What its record says of a job that has ended. `None` where it has not.
pub(crate) fn ended(record: &JobRecord, now: Timestamp) -> Option<ExplainView> {
    let state = view::state(record)?;
    let ended = view::ended(record)?;
    let end = JobEndView {
        at: time(if ended.at_ms > 0 { ended.at_ms } else { record.updated_ms }),
        attempts: record.attempt,
        max_attempts: record.plan.as_ref().map_or(0, |plan| plan.max_attempts),
        worker_id: text(&ended.worker_id),
        crashes: record.crashes,
        error_code: text(&ended.error_code),
        error_message: text(&ended.error_message),
        decision: record.decision.as_ref().and_then(view::decision),
    };
    Some(ExplainView {
        id: record.job_id.clone(),
        state,
        summary: summary(state, &end),
        gates: Vec::new(),
        at: now.to_string(),
        end: Some(end),
    })
}

/// How it ended, in one sentence.
fn summary(state: JobState, end: &JobEndView) -> String {
    let denial = || end.decision.as_ref().filter(|decision| !decision.reason.is_empty());
    let told = match state {
        JobState::Succeeded => format!("It succeeded{}", attempts(end)),
        JobState::Failed => format!("It failed{}", attempts(end)),
        JobState::Timeout => format!("It took too long{}", attempts(end)),
        JobState::Cancelled => "It was cancelled".to_owned(),
        JobState::Denied => match denial() {
            Some(decision) if !decision.rule_id.is_empty() => {
                return format!("The policy denied it by the rule {}: {}", decision.rule_id, decision.reason);
            }
            Some(decision) => return format!("The policy denied it: {}", decision.reason),
            None => "It was denied".to_owned(),
        },
        JobState::Pending | JobState::ApprovalRequired | JobState::Scheduled | JobState::Dispatched | JobState::Running => {
            format!("It is {state}")
        }
    };
    let why = [&end.error_code, &end.error_message].into_iter().flatten();
    why.fold(told, |told, part| format!("{told}: {part}"))
}

fn attempts(end: &JobEndView) -> String {
    match (end.attempts, end.max_attempts) {
        (0, _) => " before any attempt".to_owned(),
        (1, max) if max <= 1 => " in its only attempt".to_owned(),
        (made, max) if made <= max => format!(" in attempt {made} of {max}"),
        // Attempts that reached nobody do not count against the bound.
        (made, _) => format!(" in attempt {made}"),
    }
}

#[cfg(test)]
mod tests {
    use busbar_protocol::busbar::{Ended, JobDecision, JobPlan, job_record};
    use busbar_protocol::cap::DecisionType;

    use super::*;

    fn record(state: busbar::JobState, code: &str, message: &str, attempt: u32) -> JobRecord {
        let end =
            Ended { state: state.into(), at_ms: 5, error_code: code.into(), error_message: message.into(), ..Ended::default() };
        JobRecord {
            job_id: "j".into(),
            attempt,
            plan: Some(JobPlan { max_attempts: 3, ..JobPlan::default() }),
            state: Some(job_record::State::Ended(end)),
            ..JobRecord::default()
        }
    }

    fn told(record: &JobRecord) -> String {
        ended(record, Timestamp::from_millis(9)).expect("ended").summary
    }

    #[test]
    fn an_end_is_one_sentence() {
        use busbar::JobState as State;
        assert_eq!(told(&record(State::Succeeded, "", "", 1)), "It succeeded in attempt 1 of 3");
        assert_eq!(
            told(&record(State::Failed, "worker_lost", "w1 is gone", 3)),
            "It failed in attempt 3 of 3: worker_lost: w1 is gone"
        );
        assert_eq!(told(&record(State::Failed, "no_pool", "", 0)), "It failed before any attempt: no_pool");
        assert_eq!(told(&record(State::Timeout, "deadline_exceeded", "", 5)), "It took too long in attempt 5: deadline_exceeded");
        assert_eq!(told(&record(State::Cancelled, "cancelled", "by ci", 0)), "It was cancelled: cancelled: by ci");
        let decision = |rule: &str| {
            let kind = DecisionType::Deny.into();
            JobDecision { decision: kind, rule_id: rule.into(), reason: "not here".into(), ..JobDecision::default() }
        };
        let denied = |rule| JobRecord { decision: Some(decision(rule)), ..record(State::Denied, "safety_denied", "", 0) };
        assert_eq!(told(&denied("r1")), "The policy denied it by the rule r1: not here");
        assert_eq!(told(&denied("")), "The policy denied it: not here");
    }

    #[test]
    fn gates_keep_their_order_and_their_workers() {
        let worker = busbar::WorkerVerdict { worker_id: "w".into(), verdict: "full".into(), detail: "8 of 8".into() };
        let gates = vec![
            Gate { name: "policy".into(), state: busbar::GateState::Passed.into(), spent_ms: 7, ..Gate::default() },
            Gate {
                name: "worker".into(),
                state: busbar::GateState::Waits.into(),
                opens_ms: 1_700_000_000_000,
                workers: vec![worker],
                ..Gate::default()
            },
        ];
        let reply = ExplainReply { state: busbar::JobState::Scheduled.into(), gates, summary: "s".into(), ..Default::default() };
        let view = live("j", reply).expect("a state");
        assert_eq!((view.state, view.end), (JobState::Scheduled, None));
        let told: Vec<_> = view.gates.iter().map(|gate| (gate.name.as_str(), gate.state, gate.opens_at.is_some())).collect();
        assert_eq!(told, [("policy", GateState::Passed, false), ("worker", GateState::Waits, true)]);
        assert_eq!(view.gates[1].workers[0].verdict, "full");
        assert!(live("j", ExplainReply::default()).is_none());
    }
}
