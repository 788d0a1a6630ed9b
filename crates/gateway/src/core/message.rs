//! Between the messages of the gRPC interface and the words of the HTTP interface, in which everything is decided.

use busbar_api::{
    DecisionView, ExplainView, GateState, GateView, IdempotencyPolicy, JobEndView, JobState, JobView, Judgement, Priority,
    Problem, RawValue, SubmitReply, SubmitRequest, VoteView,
};
use busbar_protocol::busbar::{self, watch_jobs_reply};
use busbar_protocol::cap::JobProgress;
use busbar_protocol::codes::Code;
use busbar_protocol::cordum_api;
use busbar_protocol::cursor::LogCursor;
use busbar_protocol::prost_types::Timestamp;
use busbar_rules::TopicPattern;
use bytes::Bytes;
use serde_json::json;

use super::follow::{self, Filter, Whom};
use super::submission::Familiar;

const PROMPT_CHARACTERS_MAX: usize = 100_000;
/// What users of Cordum leave out.
const TOPIC_DEFAULT: &str = "job.default";
/// How a prompt refers to a secret; the policy is told.
const SECRET: &str = "secret://";

fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(Code::FieldInvalid, detail)
}

/// A submission of `busbar.v1.Jobs`.
pub(crate) fn submission(request: busbar::SubmitJobRequest) -> Result<SubmitRequest, Problem> {
    let priority = busbar::Priority::try_from(request.priority)
        .map_err(|_| invalid(format!("priority: {} is none of PRIORITY_BATCH, _INTERACTIVE, _CRITICAL", request.priority)))?;
    let idempotency_policy = policy(request.idempotency_policy)?;
    Ok(SubmitRequest {
        topic: request.topic,
        input: input(request.input_json)?,
        priority: match priority {
            busbar::Priority::Unspecified => None,
            busbar::Priority::Batch => Some(Priority::Batch),
            busbar::Priority::Interactive => Some(Priority::Interactive),
            busbar::Priority::Critical => Some(Priority::Critical),
        },
        labels: request.labels,
        requires: request.requires,
        idempotency_key: request.idempotency_key,
        deadline_ms: request.deadline_ms,
        max_attempts: request.max_attempts,
        not_before: request.not_before.map(|time| time.to_string()),
        delay_ms: request.delay_ms,
        concurrency_key: request.concurrency_key,
        schedule_to_start_ms: request.schedule_to_start_ms,
        start_to_close_ms: request.start_to_close_ms,
        heartbeat_timeout_ms: request.heartbeat_timeout_ms,
        non_retryable_codes: request.non_retryable_codes,
        idempotency_policy,
        parent_job_id: request.parent_job_id,
    })
}

fn policy(number: i32) -> Result<Option<IdempotencyPolicy>, Problem> {
    let policy = busbar::IdempotencyPolicy::try_from(number);
    Ok(match policy.map_err(|_| invalid(format!("idempotency_policy: {number} is none")))? {
        busbar::IdempotencyPolicy::Unspecified => None,
        busbar::IdempotencyPolicy::ReturnExisting => Some(IdempotencyPolicy::ReturnExisting),
        busbar::IdempotencyPolicy::Reject => Some(IdempotencyPolicy::Reject),
        busbar::IdempotencyPolicy::AllowAfterFailure => Some(IdempotencyPolicy::AllowAfterFailure),
    })
}

/// JSON as the messages carry it: bytes that are one value.
pub(crate) fn input(json: Bytes) -> Result<Box<RawValue>, Problem> {
    let text = String::from_utf8(json.into()).map_err(|error| invalid(format!("input_json: it is no UTF-8: {error}")))?;
    RawValue::from_string(text).map_err(|error| invalid(format!("input_json: it is no JSON: {error}")))
}

/// A submission of `cordum.v1.CordumApi`: the prompt becomes the input, as its users know it.
pub(crate) fn familiar_submission(
    request: cordum_api::SubmitJobRequest,
    tenant_id: &str,
    created_at: &str,
) -> Result<(SubmitRequest, Familiar), Problem> {
    check_familiar(&request, tenant_id)?;
    let topic = if request.topic.is_empty() { TOPIC_DEFAULT.to_owned() } else { request.topic };
    let priority = priority(&request.priority)?;
    let input = json!({
        "prompt": request.prompt,
        "adapter_id": request.adapter_id,
        "priority": priority,
        "topic": topic,
        "created_at": created_at,
        "tenant_id": tenant_id,
    });
    let (mut labels, mut risk_tags) = (request.labels, request.risk_tags);
    if request.prompt.contains(SECRET) {
        labels.insert("secrets_present".to_owned(), "true".to_owned());
        risk_tags.push("secrets".to_owned());
    }
    let env = [("team_id", request.team_id), ("project_id", request.project_id)];
    let familiar = Familiar {
        adapter_id: request.adapter_id,
        memory_id: Some(request.memory_id),
        pack_id: request.pack_id,
        capability: request.capability,
        risk_tags,
        env: env.into_iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| (name.to_owned(), value)).collect(),
    };
    let mut submission = SubmitRequest::new(topic, &input).map_err(|error| invalid(error.to_string()))?;
    submission.priority = Some(priority);
    submission.labels = labels;
    submission.requires = request.requires;
    submission.idempotency_key = Some(request.idempotency_key).filter(|key| !key.is_empty());
    Ok((submission, familiar))
}

fn check_familiar(request: &cordum_api::SubmitJobRequest, tenant_id: &str) -> Result<(), Problem> {
    let characters = request.prompt.chars().count();
    if !(1..=PROMPT_CHARACTERS_MAX).contains(&characters) {
        return Err(invalid(format!("prompt: 1 to {PROMPT_CHARACTERS_MAX} characters, this one has {characters}")));
    }
    if !request.org_id.is_empty() && request.org_id != tenant_id {
        return Err(Problem::new(Code::Forbidden, "org_id: the key belongs to another tenant"));
    }
    if !matches!(request.actor_type.as_str(), "" | "human" | "service") {
        return Err(invalid("actor_type: `human` or `service`"));
    }
    Ok(())
}

fn priority(text: &str) -> Result<Priority, Problem> {
    match text {
        "" | "interactive" => Ok(Priority::Interactive),
        "batch" => Ok(Priority::Batch),
        "critical" => Ok(Priority::Critical),
        _ => Err(invalid("priority: `batch`, `interactive` or `critical`")),
    }
}

/// The answer to a submission.
pub(crate) fn accepted(reply: SubmitReply) -> busbar::SubmitJobReply {
    let SubmitReply { job_id, trace_id, state, existing } = reply;
    busbar::SubmitJobReply { job_id, trace_id, state: state.to_protocol().into(), existing }
}

/// The answer to one submission of many.
pub(crate) fn answer(outcome: Result<SubmitReply, Problem>) -> busbar::SubmitJobAnswer {
    use busbar::submit_job_answer::Answer;
    let answer = match outcome {
        Ok(reply) => Answer::Accepted(accepted(reply)),
        Err(Problem { code, detail, retry_after_ms, .. }) => {
            Answer::Rejected(busbar::Refusal { code, detail, retry_after_ms: retry_after_ms.unwrap_or(0) })
        }
    };
    busbar::SubmitJobAnswer { answer: Some(answer) }
}

/// A job.
pub(crate) fn job(view: JobView) -> busbar::Job {
    busbar::Job {
        state: view.state.to_protocol().into(),
        created_at: time(Some(&view.created_at)),
        updated_at: time(Some(&view.updated_at)),
        not_before: time(view.not_before.as_deref()),
        deadline_at: time(view.deadline_at.as_deref()),
        priority: priority_number(view.priority),
        id: view.id,
        topic: view.topic,
        tenant_id: view.tenant_id,
        trace_id: view.trace_id,
        attempts: view.attempts,
        max_attempts: view.max_attempts,
        worker_id: view.worker_id.unwrap_or_default(),
        result_ptr: view.result_ptr.unwrap_or_default(),
        result_bytes: view.result_bytes.unwrap_or(0),
        result_json: view.result.map(|result| Bytes::copy_from_slice(result.get().as_bytes())).unwrap_or_default(),
        execution_ms: view.execution_ms.unwrap_or(0),
        error_code: view.error_code.unwrap_or_default(),
        error_message: view.error_message.unwrap_or_default(),
        labels: view.labels,
        requires: view.requires,
        percent: view.percent,
        module: view.module.unwrap_or_default(),
        cancel_requested: view.cancel_requested,
        decision: view.decision.map(decision),
        parent_job_id: view.parent_job_id.unwrap_or_default(),
        redrive_of: view.redrive_of.unwrap_or_default(),
        crashes: view.crashes,
        concurrency_key: view.concurrency_key.unwrap_or_default(),
        votes: view.votes.into_iter().map(vote).collect(),
    }
}

fn vote(view: VoteView) -> busbar::ReplicaVote {
    busbar::ReplicaVote {
        job_id: view.job_id,
        worker_id: view.worker_id.unwrap_or_default(),
        owner: view.owner.unwrap_or_default(),
        sha256: view.sha256.unwrap_or_default(),
        error_code: view.error_code.unwrap_or_default(),
        agrees: view.agrees,
        judgement: view.judgement.map(Judgement::as_str).unwrap_or_default().to_owned(),
    }
}

/// A time that a view tells as text.
pub(crate) fn time(text: Option<&str>) -> Option<Timestamp> {
    text.and_then(|text| text.parse().ok())
}

/// A priority as the messages carry it.
pub(crate) fn priority_number(priority: Priority) -> i32 {
    match priority {
        Priority::Batch => busbar::Priority::Batch,
        Priority::Interactive => busbar::Priority::Interactive,
        Priority::Critical => busbar::Priority::Critical,
    }
    .into()
}

fn decision(decision: DecisionView) -> busbar::Decision {
    let DecisionView { decision, rule_id, reason, snapshot } = decision;
    busbar::Decision { decision, rule_id, reason, snapshot }
}

/// Why a job is where it is.
pub(crate) fn explanation(view: ExplainView) -> busbar::JobExplanation {
    busbar::JobExplanation {
        state: view.state.to_protocol().into(),
        at: time(Some(&view.at)),
        job_id: view.id,
        summary: view.summary,
        gates: view.gates.into_iter().map(gate).collect(),
        end: view.end.map(end),
    }
}

fn gate(view: GateView) -> busbar::JobGate {
    let state = match view.state {
        GateState::Passed => busbar::JobGateState::Passed,
        GateState::Waits => busbar::JobGateState::Waits,
        GateState::Ahead => busbar::JobGateState::Ahead,
    };
    let workers = view.workers.into_iter().map(|worker| busbar::JobGateWorker {
        worker_id: worker.worker_id,
        verdict: worker.verdict,
        detail: worker.detail,
    });
    busbar::JobGate {
        name: view.name,
        state: state.into(),
        detail: view.detail,
        spent_ms: view.spent_ms,
        opens_at: time(view.opens_at.as_deref()),
        workers: workers.collect(),
    }
}

fn end(view: JobEndView) -> busbar::JobEnd {
    busbar::JobEnd {
        at: time(Some(&view.at)),
        attempts: view.attempts,
        max_attempts: view.max_attempts,
        worker_id: view.worker_id.unwrap_or_default(),
        crashes: view.crashes,
        error_code: view.error_code.unwrap_or_default(),
        error_message: view.error_message.unwrap_or_default(),
        decision: view.decision.map(decision),
    }
}

/// The state that a number means: `None` for unspecified.
pub(crate) fn state(number: i32) -> Result<Option<JobState>, Problem> {
    let state = busbar::JobState::try_from(number).map_err(|_| invalid(format!("state: {number} is no state of a job")))?;
    Ok(JobState::from_protocol(state))
}

/// Whom and what a watch is of, and where it goes on.
pub(crate) fn watch(request: busbar::WatchJobsRequest, tenant_id: &str) -> Result<(Filter, Option<LogCursor>), Problem> {
    let topic = Some(request.topic).filter(|topic| !topic.is_empty());
    let whom = match (request.job_id, topic) {
        (job_id, None) if !job_id.is_empty() => Whom::Job(job_id),
        (job_id, Some(_)) if !job_id.is_empty() => return Err(invalid("topic: not together with job_id")),
        (_, topic) => {
            let pattern = topic.as_deref().map(TopicPattern::parse).transpose();
            Whom::Tenant(pattern.map_err(|error| Problem::new(Code::TopicInvalid, error.to_string()))?)
        }
    };
    let states = request.states.into_iter().map(state).collect::<Result<Vec<_>, _>>()?;
    let states = states.into_iter().map(|state| state.ok_or_else(|| invalid("states: JOB_STATE_UNSPECIFIED is none")));
    let filter = Filter { tenant_id: tenant_id.to_owned(), whom, states: states.collect::<Result<_, _>>()? };
    let cursor = Some(request.cursor).filter(|cursor| !cursor.is_empty()).map(|cursor| follow::cursor(&cursor)).transpose()?;
    Ok((filter, cursor))
}

/// A committed change.
pub(crate) fn change(event: busbar::JobEvent) -> watch_jobs_reply::What {
    watch_jobs_reply::What::Change(busbar::JobChange {
        at: Some(timestamp(event.at_ms)),
        job_id: event.job_id,
        topic: event.topic,
        trace_id: event.trace_id,
        states: event.states,
        attempt: event.attempt,
        worker_id: event.worker_id,
        error_code: event.error_code,
        error_message: event.error_message,
        result_ptr: event.result_ptr,
        execution_ms: event.execution_ms,
    })
}

/// A worker's report.
pub(crate) fn progress(progress: &JobProgress) -> watch_jobs_reply::What {
    watch_jobs_reply::What::Progress(busbar::JobProgressed {
        job_id: progress.job_id.clone(),
        percent: progress.percent.clamp(0, 100),
        message: progress.message.clone(),
    })
}

fn timestamp(millis: u64) -> Timestamp {
    let nanos = i32::try_from(millis % 1000).unwrap_or(0) * 1_000_000;
    Timestamp { seconds: i64::try_from(millis / 1000).unwrap_or(i64::MAX), nanos }
}

/// How a familiar client is told where a job stands.
pub(crate) fn familiar_status(view: JobView) -> cordum_api::GetJobStatusResponse {
    cordum_api::GetJobStatusResponse {
        job_id: view.id,
        status: view.state.as_str().to_owned(),
        result_ptr: view.result_ptr.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn cordum(prompt: &str) -> cordum_api::SubmitJobRequest {
        cordum_api::SubmitJobRequest { prompt: prompt.into(), ..Default::default() }
    }

    fn told<T>(outcome: Result<T, Problem>) -> (String, String) {
        let problem = outcome.err().expect("a refusal");
        (problem.code, problem.detail)
    }

    #[test]
    fn an_input_is_kept_byte_for_byte() {
        let json = r#"{"b": 1.50,  "a":123456789012345678901234567890}"#;
        let request = busbar::SubmitJobRequest { topic: "job.a".into(), input_json: json.into(), ..Default::default() };
        let submission = submission(request).expect("good");
        assert_eq!((submission.input.get(), submission.priority, submission.deadline_ms), (json, None, None));
    }

    #[test]
    fn options_come_through_as_over_http() {
        let request = busbar::SubmitJobRequest {
            input_json: "1".into(),
            not_before: Some(timestamp(1_700_000_000_125)),
            non_retryable_codes: vec!["bad".into()],
            idempotency_policy: busbar::IdempotencyPolicy::Reject.into(),
            ..Default::default()
        };
        let read = submission(request.clone()).expect("good");
        let time = crate::core::moment::parse("not_before", read.not_before.as_deref().expect("set")).expect("RFC 3339");
        assert_eq!((time.millis(), read.idempotency_policy), (1_700_000_000_125, Some(IdempotencyPolicy::Reject)));
        assert_eq!(read.non_retryable_codes, ["bad"]);
        let strange = busbar::SubmitJobRequest { idempotency_policy: 9, ..request };
        assert!(told(submission(strange)).1.starts_with("idempotency_policy: 9"));
    }

    #[test]
    fn what_is_no_submission_is_refused_by_name() {
        let of = |input: &'static [u8], priority| {
            told(submission(busbar::SubmitJobRequest { input_json: input.into(), priority, ..Default::default() }))
        };
        for (input, priority, named) in
            [(&b""[..], 0, "input_json"), (b"{", 0, "JSON"), (b"\xff", 0, "UTF-8"), (b"1", 9, "priority")]
        {
            let (code, detail) = of(input, priority);
            assert!(code == "field_invalid" && detail.contains(named), "{detail}");
        }
    }

    #[test]
    fn a_prompt_becomes_the_input_and_the_rest_reaches_the_policy() {
        let request = cordum_api::SubmitJobRequest {
            priority: "batch".into(),
            capability: "c".into(),
            risk_tags: vec!["r".into()],
            team_id: "t".into(),
            principal_id: "somebody else".into(),
            idempotency_key: "k".into(),
            ..cordum("use secret://x")
        };
        let (submission, familiar) = familiar_submission(request, "acme", "now").expect("good");
        assert_eq!((submission.topic.as_str(), submission.priority), ("job.default", Some(Priority::Batch)));
        let input: serde_json::Value = serde_json::from_str(submission.input.get()).expect("JSON");
        assert_eq!((&input["prompt"], &input["tenant_id"]), (&json!("use secret://x"), &json!("acme")));
        assert_eq!((familiar.capability.as_str(), familiar.risk_tags), ("c", vec!["r".to_owned(), "secrets".to_owned()]));
        assert_eq!(familiar.env, BTreeMap::from([("team_id".to_owned(), "t".to_owned())]));
        assert_eq!(submission.labels.get("secrets_present").map(String::as_str), Some("true"));
        assert_eq!(submission.idempotency_key.as_deref(), Some("k"));
    }

    #[test]
    fn familiar_mistakes_are_refused() {
        let of = |request| told(familiar_submission(request, "acme", "now")).0;
        assert_eq!(of(cordum("")), "field_invalid");
        assert_eq!(of(cordum(&"x".repeat(PROMPT_CHARACTERS_MAX + 1))), "field_invalid");
        assert_eq!(of(cordum_api::SubmitJobRequest { org_id: "other".into(), ..cordum("p") }), "forbidden");
        assert_eq!(of(cordum_api::SubmitJobRequest { priority: "urgent".into(), ..cordum("p") }), "field_invalid");
        assert_eq!(of(cordum_api::SubmitJobRequest { actor_type: "robot".into(), ..cordum("p") }), "field_invalid");
    }

    #[test]
    fn a_watch_is_of_one_job_or_of_topics() {
        let of = |job: &str, topic: &str, cursor: &str, states: &[i32]| {
            let request = busbar::WatchJobsRequest {
                job_id: job.into(),
                topic: topic.into(),
                cursor: cursor.into(),
                states: states.to_vec(),
            };
            watch(request, "acme")
        };
        assert_eq!(of("j", "", "", &[]).expect("good").0.whom, Whom::Job("j".into()));
        assert_eq!(of("", "", "5-1", &[7]).expect("good").0.states, [JobState::Failed]);
        for (bad, code) in [
            (of("j", "job.a", "", &[]), "field_invalid"),
            (of("", "nonsense..", "", &[]), "topic_invalid"),
            (of("", "", "x", &[]), "cursor_invalid"),
            (of("", "", "", &[0]), "field_invalid"),
            (of("", "", "", &[77]), "field_invalid"),
        ] {
            assert_eq!(told(bad).0, code);
        }
    }

    #[test]
    fn times_keep_their_milliseconds() {
        let parsed: Timestamp = super::super::view::time(1_700_000_000_125).parse().expect("RFC 3339");
        assert_eq!(parsed, timestamp(1_700_000_000_125));
    }
}
