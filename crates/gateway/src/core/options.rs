//! What a submission asks for beyond CAP's request.

use busbar_api::{IdempotencyPolicy, Problem, SPAN_MS_MAX, SubmitRequest};
use busbar_protocol::busbar::{self, JobOptions};
use busbar_protocol::codes::Code;
use busbar_protocol::ids;
use busbar_protocol::time::Timestamp;

use super::moment::{self, Members};

const CONCURRENCY_KEY_BYTES_MAX: usize = 256;
const CODES_MAX: usize = 32;
const CODE_BYTES_MAX: usize = 64;

/// Checks the options of a submission; `None` where it has none.
pub(crate) fn options(request: &SubmitRequest, now: Timestamp) -> Result<Option<JobOptions>, Problem> {
    let members = Members { at: "not_before", after: "delay_ms" };
    let not_before = moment::ahead(members, request.not_before.as_deref(), request.delay_ms, now)?;
    if let (Some(time), Some(deadline_ms)) = (not_before, request.deadline_ms) {
        let reachable = time < now.after_millis(deadline_ms);
        demand(reachable, || format!("deadline_ms: it is over after {deadline_ms} ms, before the job may begin at {time}"))?;
    }
    let options = JobOptions {
        not_before_ms: not_before.map_or(0, Timestamp::millis),
        schedule_to_start_ms: span("schedule_to_start_ms", request.schedule_to_start_ms)?,
        start_to_close_ms: span("start_to_close_ms", request.start_to_close_ms)?,
        heartbeat_timeout_ms: span("heartbeat_timeout_ms", request.heartbeat_timeout_ms)?,
        concurrency_key: concurrency_key(request.concurrency_key.as_deref())?,
        non_retryable_codes: codes(&request.non_retryable_codes)?,
        idempotency_policy: policy(request)?.into(),
    };
    Ok((options != JobOptions::default()).then_some(options))
}

/// The parent that a submission names; empty where it names none.
pub(crate) fn parent(request: &SubmitRequest, job_id: &str) -> Result<String, Problem> {
    let Some(parent) = &request.parent_job_id else { return Ok(String::new()) };
    ids::check(parent).map_err(|error| Problem::new(Code::FieldInvalid, format!("parent_job_id: {error}")))?;
    demand(parent != job_id, || "parent_job_id: a job does not belong to itself".to_owned())?;
    Ok(parent.clone())
}

fn span(member: &str, given: Option<u64>) -> Result<u64, Problem> {
    let Some(ms) = given else { return Ok(0) };
    demand((1..=SPAN_MS_MAX).contains(&ms), || format!("{member}: 1 to {SPAN_MS_MAX} milliseconds, not {ms}"))?;
    Ok(ms)
}

fn concurrency_key(given: Option<&str>) -> Result<String, Problem> {
    let Some(key) = given else { return Ok(String::new()) };
    let good = (1..=CONCURRENCY_KEY_BYTES_MAX).contains(&key.len()) && !key.chars().any(char::is_control);
    demand(good, || {
        format!(
            "concurrency_key: 1 to {CONCURRENCY_KEY_BYTES_MAX} bytes, none of them a control character; this one has {}",
            key.len()
        )
    })?;
    Ok(key.to_owned())
}

fn codes(given: &[String]) -> Result<Vec<String>, Problem> {
    demand(given.len() <= CODES_MAX, || format!("non_retryable_codes: at most {CODES_MAX}, not {}", given.len()))?;
    for code in given {
        let shown: String = code.chars().take(40).collect();
        demand(is_code(code), || {
            format!(
                "non_retryable_codes: {shown:?} is no code: 1 to {CODE_BYTES_MAX} lower-case letters, digits and `_`, a letter first"
            )
        })?;
    }
    Ok(given.to_vec())
}

fn is_code(text: &str) -> bool {
    text.len() <= CODE_BYTES_MAX
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

fn policy(request: &SubmitRequest) -> Result<busbar::IdempotencyPolicy, Problem> {
    let Some(policy) = request.idempotency_policy else { return Ok(busbar::IdempotencyPolicy::Unspecified) };
    demand(request.idempotency_key.is_some(), || "idempotency_policy: only together with an idempotency_key".to_owned())?;
    Ok(match policy {
        IdempotencyPolicy::ReturnExisting => busbar::IdempotencyPolicy::ReturnExisting,
        IdempotencyPolicy::Reject => busbar::IdempotencyPolicy::Reject,
        IdempotencyPolicy::AllowAfterFailure => busbar::IdempotencyPolicy::AllowAfterFailure,
    })
}

fn demand(holds: bool, detail: impl FnOnce() -> String) -> Result<(), Problem> {
    if holds { Ok(()) } else { Err(Problem::new(Code::FieldInvalid, detail())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn request(members: &str) -> SubmitRequest {
        let text = format!(r#"{{"topic":"job.a","input":1{members}}}"#);
        serde_json::from_str(&text).expect(members)
    }

    #[test]
    fn everything_arrives() {
        let asked = request(
            r#","delay_ms":5000,"deadline_ms":6000,"concurrency_key":"a b","schedule_to_start_ms":1,"start_to_close_ms":2,
            "heartbeat_timeout_ms":3,"non_retryable_codes":["card_declined"],"idempotency_key":"k","idempotency_policy":"reject""#,
        );
        let expected = JobOptions {
            not_before_ms: NOW.millis() + 5000,
            schedule_to_start_ms: 1,
            start_to_close_ms: 2,
            heartbeat_timeout_ms: 3,
            concurrency_key: "a b".into(),
            non_retryable_codes: vec!["card_declined".into()],
            idempotency_policy: busbar::IdempotencyPolicy::Reject.into(),
        };
        assert_eq!(options(&asked, NOW), Ok(Some(expected)));
        assert_eq!(options(&request(""), NOW), Ok(None));
        assert_eq!(parent(&request(r#","parent_job_id":"p""#), "j"), Ok("p".to_owned()));
        assert_eq!(parent(&request(""), "j"), Ok(String::new()));
    }

    #[test]
    fn each_mistake_names_its_member() {
        let long = format!(r#","concurrency_key":"{}""#, "x".repeat(257));
        let many = format!(r#","non_retryable_codes":[{}]"#, vec![r#""a""#; 33].join(","));
        let wide = format!(r#","non_retryable_codes":["{}"]"#, "a".repeat(65));
        for (members, named) in [
            (r#","not_before":"2023-11-14T00:00:00Z""#, "not_before: "),
            (r#","not_before":"2023-11-15T00:00:00Z","delay_ms":1"#, "not_before: not together with delay_ms"),
            (r#","delay_ms":31622400001"#, "delay_ms: "),
            (r#","delay_ms":5000,"deadline_ms":5000"#, "deadline_ms: "),
            (r#","schedule_to_start_ms":0"#, "schedule_to_start_ms: "),
            (r#","start_to_close_ms":31622400001"#, "start_to_close_ms: "),
            (r#","heartbeat_timeout_ms":0"#, "heartbeat_timeout_ms: "),
            (r#","concurrency_key":"""#, "concurrency_key: "),
            (&long, "concurrency_key: "),
            (r#","concurrency_key":"a\nb""#, "concurrency_key: "),
            (r#","non_retryable_codes":["Bad"]"#, "non_retryable_codes: \"Bad\""),
            (r#","non_retryable_codes":["1a"]"#, "non_retryable_codes: "),
            (r#","non_retryable_codes":[""]"#, "non_retryable_codes: "),
            (&many, "non_retryable_codes: at most 32"),
            (&wide, "non_retryable_codes: "),
            (r#","idempotency_policy":"reject""#, "idempotency_policy: only together"),
        ] {
            let problem = options(&request(members), NOW).expect_err(members);
            assert!(problem.code == "field_invalid" && problem.detail.starts_with(named), "{members}: {problem}");
        }
        for bad in ["", "a b", "j"] {
            let problem = parent(&request(&format!(r#","parent_job_id":"{bad}""#)), "j").expect_err(bad);
            assert!(problem.detail.starts_with("parent_job_id: "), "{problem}");
        }
    }
}
