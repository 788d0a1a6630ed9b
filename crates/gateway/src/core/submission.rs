//! From a submission to what the scheduler is asked to admit.

use std::collections::BTreeMap;

use busbar_api::{BATCH_TOO_LARGE, BatchRequest, INPUT_BYTES_MAX, Priority, Problem, SPAN_MS_MAX, SubmitRequest};
use busbar_protocol::busbar::AdmitItem;
use busbar_protocol::cap::{ActorType, Budget, IdentityBinding, JobMetadata, JobPriority, JobRequest};
use busbar_protocol::codes::Code;
use busbar_protocol::ids::JobId;
use busbar_protocol::inline;
use busbar_protocol::pointers::Pointer;
use busbar_protocol::prost::Message as _;
use busbar_protocol::time::Timestamp;
use busbar_protocol::trace::TraceContext;
use busbar_protocol::{keys, subjects};
use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::options;

const LABELS_MAX: usize = 50;
const LABEL_KEY_BYTES_MAX: usize = 128;
const LABEL_VALUE_BYTES_MAX: usize = 1024;
const REQUIRES_MAX: usize = 32;
const REQUIREMENT_BYTES_MAX: usize = 128;
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 256;
const ATTEMPTS_MAX: u32 = 100;
/// Labels that say who approved what: only the control plane sets them.
const RESERVED_LABEL_PREFIX: &str = "approval_";

/// Who submits, as authenticated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Submitter<'a> {
    pub(crate) tenant_id: &'a str,
    pub(crate) principal_id: &'a str,
}

/// What only users of Cordum can say of a job: it reaches the policy and the worker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Familiar {
    pub(crate) adapter_id: String,
    /// The memory that the job works with; an empty one is its own.
    pub(crate) memory_id: Option<String>,
    pub(crate) pack_id: String,
    pub(crate) capability: String,
    pub(crate) risk_tags: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
}

/// A submission that has the right form.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Prepared {
    pub(crate) job_id: String,
    /// What goes to `ctx:<job_id>`, where it does not go with the item.
    pub(crate) input: Option<Bytes>,
    pub(crate) item: AdmitItem,
}

/// Reads one submission.
pub(crate) fn parse(body: &[u8]) -> Result<SubmitRequest, Problem> {
    parse_json(body)
}

/// Reads a batch; its entries stay unread.
pub(crate) fn parse_batch(body: &[u8]) -> Result<BatchRequest, Problem> {
    parse_json(body)
}

/// Reads a body. What is no JSON is another mistake than a member that is wrong.
pub(crate) fn parse_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| {
        let told = error.to_string();
        match error.classify() {
            serde_json::error::Category::Data if told.starts_with("unknown field `prompt`") => {
                Problem::new(Code::FieldInvalid, "prompt: there is no such member; what a job works on goes into `input`")
            }
            serde_json::error::Category::Data if told.starts_with(BATCH_TOO_LARGE) => Problem::new(Code::BatchTooLarge, told),
            serde_json::error::Category::Data => Problem::new(Code::FieldInvalid, told),
            _ => Problem::new(Code::BodyInvalid, format!("the body is no JSON: {told}")),
        }
    })
}

/// Checks a submission and makes of it what the scheduler is asked to admit.
pub(crate) fn prepare(
    request: &SubmitRequest,
    familiar: Familiar,
    who: &Submitter<'_>,
    job_id: &JobId,
    trace: &TraceContext,
    now: Timestamp,
) -> Result<Prepared, Problem> {
    check(request)?;
    let options = options::options(request, now)?;
    let parent_job_id = options::parent(request, job_id.as_str())?;
    let input = Bytes::copy_from_slice(request.input.get().as_bytes());
    let carried = inline::carried(&input);
    let item = AdmitItem {
        request: JobRequest { parent_job_id, ..job_request(request, familiar, who, job_id) }.encode_to_vec().into(),
        tenant_id: who.tenant_id.to_owned(),
        trace_id: trace.trace_id(),
        traceparent: trace.to_string(),
        max_attempts: request.max_attempts.unwrap_or(0),
        input_bytes: input.len() as u64,
        options,
        input: carried.clone(),
        // A stored input is taken back by taking it away.
        revocable: !carried.is_empty(),
    };
    let stored = carried.is_empty().then_some(input);
    Ok(Prepared { job_id: job_id.as_str().to_owned(), input: stored, item })
}

fn job_request(request: &SubmitRequest, familiar: Familiar, who: &Submitter<'_>, job_id: &JobId) -> JobRequest {
    let labels: BTreeMap<String, String> = request.labels.clone();
    let own_memory = |id: String| if id.is_empty() { format!("mem:{}", job_id.as_str()) } else { id };
    let memory_id = familiar.memory_id.map(own_memory);
    let mut env = familiar.env;
    env.extend(memory_id.iter().map(|id| ("memory_id".to_owned(), id.clone())));
    JobRequest {
        job_id: job_id.as_str().to_owned(),
        topic: request.topic.clone(),
        priority: priority(request.priority.unwrap_or_default()).into(),
        context_ptr: Pointer::Redis(keys::context(job_id.as_str())).to_string(),
        budget: request.deadline_ms.map(|ms| Budget { deadline_ms: i64::try_from(ms).unwrap_or(i64::MAX), ..Budget::default() }),
        tenant_id: who.tenant_id.to_owned(),
        principal_id: who.principal_id.to_owned(),
        adapter_id: familiar.adapter_id,
        memory_id: memory_id.unwrap_or_default(),
        env,
        labels: labels.clone(),
        meta: Some(JobMetadata {
            tenant_id: who.tenant_id.to_owned(),
            actor_id: who.principal_id.to_owned(),
            actor_type: ActorType::Service.into(),
            idempotency_key: request.idempotency_key.clone().unwrap_or_default(),
            capability: familiar.capability,
            risk_tags: familiar.risk_tags,
            requires: request.requires.clone(),
            pack_id: familiar.pack_id,
            labels,
        }),
        identity: Some(IdentityBinding {
            tenant_id: who.tenant_id.to_owned(),
            principal_id: who.principal_id.to_owned(),
            actor_id: who.principal_id.to_owned(),
            ..IdentityBinding::default()
        }),
        ..JobRequest::default()
    }
}

const fn priority(priority: Priority) -> JobPriority {
    match priority {
        Priority::Batch => JobPriority::Batch,
        Priority::Interactive => JobPriority::Interactive,
        Priority::Critical => JobPriority::Critical,
    }
}

fn check(request: &SubmitRequest) -> Result<(), Problem> {
    if !subjects::is_topic(&request.topic) {
        let topic: String = request.topic.chars().take(80).collect();
        let rule = "it must begin with `job.` and be tokens of letters, digits, `_` and `-`, joined by dots";
        return Err(Problem::new(Code::TopicInvalid, format!("topic {topic:?}: {rule}")));
    }
    check_input(request.input.get())?;
    check_labels(&request.labels)?;
    check_requires(&request.requires)?;
    if let Some(key) = &request.idempotency_key {
        check_idempotency_key(key)?;
    }
    if let Some(ms) = request.deadline_ms {
        demand((1..=SPAN_MS_MAX).contains(&ms), || format!("deadline_ms: 1 to {SPAN_MS_MAX} milliseconds, not {ms}"))?;
    }
    if let Some(n) = request.max_attempts {
        demand((1..=ATTEMPTS_MAX).contains(&n), || format!("max_attempts: 1 to {ATTEMPTS_MAX}, not {n}"))?;
    }
    Ok(())
}

/// Refuses an input that is larger than one job may have.
pub(crate) fn check_input(input: &str) -> Result<(), Problem> {
    let input_bytes = input.len();
    if input_bytes <= INPUT_BYTES_MAX {
        return Ok(());
    }
    let detail = format!("input has {input_bytes} bytes; at most {INPUT_BYTES_MAX} are taken: upload an artifact instead");
    Err(Problem::new(Code::PayloadTooLarge, detail))
}

/// Refuses a key that is empty or too long.
pub(crate) fn check_idempotency_key(key: &str) -> Result<(), Problem> {
    let good = (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&key.len());
    demand(good, || format!("idempotency_key: 1 to {IDEMPOTENCY_KEY_BYTES_MAX} bytes, this one has {}", key.len()))
}

/// Refuses labels that nobody may set, and too many or too long ones.
pub(crate) fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), Problem> {
    demand(labels.len() <= LABELS_MAX, || format!("labels: at most {LABELS_MAX}, not {}", labels.len()))?;
    for (key, value) in labels {
        let shown: String = key.chars().take(40).collect();
        let key_good = (1..=LABEL_KEY_BYTES_MAX).contains(&key.len()) && !key.chars().any(char::is_control);
        demand(key_good, || {
            format!("labels: the name {shown:?} must have 1 to {LABEL_KEY_BYTES_MAX} bytes, none of them a control character")
        })?;
        let value_good = value.len() <= LABEL_VALUE_BYTES_MAX && !value.chars().any(char::is_control);
        demand(value_good, || {
            format!(
                "labels: the value of {shown:?} must have at most {LABEL_VALUE_BYTES_MAX} bytes, none of them a control character"
            )
        })?;
        let free = !key.to_ascii_lowercase().starts_with(RESERVED_LABEL_PREFIX);
        demand(free, || format!("labels: {shown:?} begins with `{RESERVED_LABEL_PREFIX}`, which only the control plane sets"))?;
    }
    Ok(())
}

fn check_requires(requires: &[String]) -> Result<(), Problem> {
    demand(requires.len() <= REQUIRES_MAX, || format!("requires: at most {REQUIRES_MAX}, not {}", requires.len()))?;
    let good = requires.iter().all(|r| (1..=REQUIREMENT_BYTES_MAX).contains(&r.len()) && r.bytes().all(|b| b.is_ascii_graphic()));
    demand(good, || format!("requires: each has 1 to {REQUIREMENT_BYTES_MAX} visible ASCII characters"))
}

fn demand(holds: bool, detail: impl FnOnce() -> String) -> Result<(), Problem> {
    if holds { Ok(()) } else { Err(Problem::new(Code::FieldInvalid, detail())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn who() -> Submitter<'static> {
        Submitter { tenant_id: "acme", principal_id: "ci" }
    }

    fn prepared(body: &str) -> Result<Prepared, String> {
        let trace = TraceContext::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").expect("a traceparent");
        let job_id = JobId::parse("j1").expect("good id");
        parse(body.as_bytes())
            .and_then(|request| prepare(&request, Familiar::default(), &who(), &job_id, &trace, NOW))
            .map_err(|p| format!("{p}"))
    }

    #[test]
    fn everything_arrives_in_the_request() {
        let body = r#"{"topic":"job.echo","input":{"a": 1},"priority":"batch","labels":{"x":"y"},"requires":["gpu"],
            "idempotency_key":"k","deadline_ms":5000,"max_attempts":2,"concurrency_key":"c","parent_job_id":"p"}"#;
        let prepared = prepared(body).expect("good");
        assert_eq!(prepared.input, None);
        assert_eq!(&prepared.item.input[..], br#"{"a": 1}"#);
        assert_eq!((prepared.item.max_attempts, prepared.item.input_bytes), (2, 8));
        assert_eq!(prepared.item.traceparent, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        let request = JobRequest::decode(&prepared.item.request[..]).expect("ours");
        assert_eq!((request.context_ptr.as_str(), request.parent_job_id.as_str()), ("redis://ctx:j1", "p"));
        assert_eq!(prepared.item.options.map(|options| options.concurrency_key), Some("c".to_owned()));
        assert_eq!(request.priority, i32::from(JobPriority::Batch));
        assert_eq!(request.budget.map(|b| b.deadline_ms), Some(5000));
        assert_eq!(request.labels.get("x").map(String::as_str), Some("y"));
        let meta = request.meta.expect("set");
        assert_eq!((meta.idempotency_key.as_str(), meta.requires), ("k", vec!["gpu".to_owned()]));
        let identity = request.identity.expect("set");
        assert_eq!((identity.tenant_id.as_str(), identity.principal_id.as_str()), ("acme", "ci"));
        assert!(request.env.is_empty());
    }

    #[test]
    fn what_only_users_of_cordum_say_arrives_as_well() {
        let request = parse(br#"{"topic":"job.echo","input":1}"#).expect("good");
        let familiar = Familiar {
            memory_id: Some(String::new()),
            capability: "c".into(),
            risk_tags: vec!["r".into()],
            env: [("team_id".to_owned(), "t".to_owned())].into(),
            ..Familiar::default()
        };
        let trace = TraceContext::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").expect("a traceparent");
        let prepared = prepare(&request, familiar, &who(), &JobId::parse("j1").expect("good id"), &trace, NOW).expect("good");
        let request = JobRequest::decode(&prepared.item.request[..]).expect("ours");
        assert_eq!((request.memory_id.as_str(), request.principal_id.as_str()), ("mem:j1", "ci"));
        assert_eq!(request.env.values().map(String::as_str).collect::<Vec<_>>(), ["mem:j1", "t"]);
        let meta = request.meta.expect("set");
        assert_eq!((meta.capability.as_str(), meta.risk_tags), ("c", vec!["r".to_owned()]));
    }

    #[test]
    fn each_mistake_has_its_code_and_names_the_member() {
        let cases = [
            ("{", "body_invalid", "JSON"),
            ("[]", "field_invalid", "expected"),
            (r#"{"prompt":"x","topic":"job.echo"}"#, "field_invalid", "`input`"),
            (r#"{"topic":"job.echo"}"#, "field_invalid", "`input`"),
            (r#"{"input":1}"#, "field_invalid", "`topic`"),
            (r#"{"topic":"echo","input":1}"#, "topic_invalid", "job."),
            (r#"{"topic":"job.*","input":1}"#, "topic_invalid", "job."),
            (r#"{"topic":"job.a","input":1,"priority":"urgent"}"#, "field_invalid", "`urgent`"),
            (r#"{"topic":"job.a","input":1,"deadline_ms":0}"#, "field_invalid", "deadline_ms"),
            (r#"{"topic":"job.a","input":1,"deadline_ms":-5}"#, "field_invalid", "-5"),
            (r#"{"topic":"job.a","input":1,"max_attempts":101}"#, "field_invalid", "max_attempts"),
            (r#"{"topic":"job.a","input":1,"idempotency_key":""}"#, "field_invalid", "idempotency_key"),
            (r#"{"topic":"job.a","input":1,"labels":{"":"x"}}"#, "field_invalid", "labels"),
            (r#"{"topic":"job.a","input":1,"labels":{"Approval_by":"me"}}"#, "field_invalid", "control plane"),
            (r#"{"topic":"job.a","input":1,"requires":["a b"]}"#, "field_invalid", "requires"),
            (r#"{"topic":"job.a","input":1,"delay_ms":-1}"#, "field_invalid", "-1"),
            (r#"{"topic":"job.a","input":1,"heartbeat_timeout_ms":0}"#, "field_invalid", "heartbeat_timeout_ms"),
            (r#"{"topic":"job.a","input":1,"parent_job_id":"j1"}"#, "field_invalid", "parent_job_id"),
            (r#"{"topic":"job.a","input":1,"idempotency_policy":"maybe"}"#, "field_invalid", "`maybe`"),
            (r#"{"topic":"job.a","input":1,"env":{"A":"b"}}"#, "field_invalid", "`env`"),
        ];
        for (body, code, named) in cases {
            let told = prepared(body).expect_err(body);
            assert!(told.starts_with(code) && told.contains(named), "{body}: {told}");
        }
    }

    #[test]
    fn an_input_of_one_mebibyte_is_the_largest() {
        let body = |bytes: usize| format!(r#"{{"topic":"job.a","input":"{}"}}"#, "x".repeat(bytes - 2));
        assert!(prepared(&body(INPUT_BYTES_MAX)).is_ok());
        assert!(prepared(&body(INPUT_BYTES_MAX + 1)).expect_err("too large").starts_with("payload_too_large"));
    }

    #[test]
    fn entries_of_a_batch_stay_unread() {
        let batch = parse_batch(br#"{"jobs":[{"topic":7},"x",{}]}"#).expect("a batch");
        assert_eq!(batch.jobs.len(), 3);
        assert_eq!(parse_batch(br#"{"jobs":7}"#).map_err(|p| p.code).err(), Some("field_invalid".into()));
    }
}
