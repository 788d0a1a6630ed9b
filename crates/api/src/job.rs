//! Jobs: submitting them, looking at them, ending them.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
pub use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::problem::ErrorCode;
use crate::state::JobState;

/// Which of two waiting jobs goes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Work that can wait.
    Batch,
    /// Somebody waits for it.
    #[default]
    Interactive,
    /// Before everything else.
    Critical,
}

/// What a submission means whose idempotency key is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum IdempotencyPolicy {
    /// It is the job that took the key, whatever became of it.
    #[default]
    ReturnExisting,
    /// It is refused.
    Reject,
    /// The job that took the key, unless that has ended without success: then the key passes to a new job.
    AllowAfterFailure,
}

/// What `POST /api/v1/jobs` takes.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SubmitRequest {
    /// What kind of work it is, for example `job.echo`.
    #[schema(pattern = r"^job(\.[A-Za-z0-9_-]+)+$", max_length = 255, example = "job.echo")]
    pub topic: String,
    /// What the job works on: any JSON, kept as it was written, at most 1 MiB.
    #[schema(value_type = Value)]
    pub input: Box<RawValue>,
    /// Which of two waiting jobs goes first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// At most 50 labels. Names have up to 128 bytes and do not begin with `approval_`; values have up to 1,024.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Capabilities that the worker must have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 32)]
    pub requires: Vec<String>,
    /// Two submissions of a tenant with the same key are one job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 256)]
    pub idempotency_key: Option<String>,
    /// How long the job may take from admission to its end, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 31_622_400_000_u64)]
    pub deadline_ms: Option<u64>,
    /// How many attempts it gets, instead of what its topic says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 100)]
    pub max_attempts: Option<u32>,
    /// Not sent to a worker before this time (RFC 3339); at most a year ahead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "2026-11-21T09:30:00Z")]
    pub not_before: Option<String>,
    /// The same, in milliseconds from now; not together with `not_before`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 31_622_400_000_u64)]
    pub delay_ms: Option<u64>,
    /// Jobs of one tenant and topic with the same key share the topic's bounds for keys. Up to 256 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 256)]
    pub concurrency_key: Option<String>,
    /// How long it may wait for a worker, in milliseconds, instead of what its topic says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 31_622_400_000_u64)]
    pub schedule_to_start_ms: Option<u64>,
    /// How long one attempt may take, in milliseconds, instead of what its topic says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 31_622_400_000_u64)]
    pub start_to_close_ms: Option<u64>,
    /// An attempt that reports nothing for so many milliseconds is over, instead of what its topic says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 31_622_400_000_u64)]
    pub heartbeat_timeout_ms: Option<u64>,
    /// Error codes after which no other attempt is made: lower-case letters, digits and `_`, up to 64 bytes each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 32)]
    pub non_retryable_codes: Vec<String>,
    /// What it means that the idempotency key is taken; only together with a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_policy: Option<IdempotencyPolicy>,
    /// The job that this one belongs to, and with which it is cancelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 128)]
    pub parent_job_id: Option<String>,
}

impl SubmitRequest {
    /// A submission with nothing but a topic and an input.
    ///
    /// # Errors
    /// When the input cannot be told in JSON.
    pub fn new(topic: impl Into<String>, input: &impl Serialize) -> Result<Self, serde_json::Error> {
        Ok(Self {
            topic: topic.into(),
            input: serde_json::value::to_raw_value(input)?,
            priority: None,
            labels: BTreeMap::new(),
            requires: Vec::new(),
            idempotency_key: None,
            deadline_ms: None,
            max_attempts: None,
            not_before: None,
            delay_ms: None,
            concurrency_key: None,
            schedule_to_start_ms: None,
            start_to_close_ms: None,
            heartbeat_timeout_ms: None,
            non_retryable_codes: Vec::new(),
            idempotency_policy: None,
            parent_job_id: None,
        })
    }
}

/// What `POST /api/v1/jobs` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SubmitReply {
    /// The job.
    pub job_id: String,
    /// The trace that it belongs to.
    pub trace_id: String,
    /// Its state as admitted.
    pub state: JobState,
    /// The idempotency key named this job, which existed already.
    #[serde(default)]
    #[schema(required)]
    pub existing: bool,
}

/// What `POST /api/v1/jobs/batch` takes. The entries are read one by one, so that a bad one spoils only itself.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchRequest {
    /// Submissions, each in the form that `POST /api/v1/jobs` takes; at most 100,000.
    #[serde(deserialize_with = "bounded")]
    #[schema(value_type = Vec<SubmitRequest>, max_items = 100_000)]
    pub jobs: Vec<Box<RawValue>>,
}

/// Reads the submissions of a batch without growing beyond the bound, whatever the body holds.
fn bounded<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Box<RawValue>>, D::Error> {
    struct Bounded;
    impl<'de> Visitor<'de> for Bounded {
        type Value = Vec<Box<RawValue>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array of submissions")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
            let mut jobs = Vec::new();
            while let Some(entry) = entries.next_element()? {
                if jobs.len() == crate::BATCH_JOBS_MAX {
                    return Err(A::Error::custom(crate::BATCH_TOO_LARGE));
                }
                jobs.push(entry);
            }
            Ok(jobs)
        }
    }
    deserializer.deserialize_seq(Bounded)
}

/// What `POST /api/v1/jobs/batch` answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BatchReply {
    /// One entry per submission, in order; null where it was rejected.
    pub job_ids: Vec<Option<String>>,
    /// What was rejected, and why.
    pub rejected: Vec<Rejection>,
}

/// A submission of a batch that was rejected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rejection {
    /// Its place in the batch, from 0.
    pub index: usize,
    /// The stable code.
    #[schema(value_type = ErrorCode)]
    pub code: String,
    /// What is wrong in this case.
    pub detail: String,
    /// When asking again makes sense, in milliseconds; absent where it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

/// What `GET /api/v1/jobs/{id}` answers. Times are RFC 3339 in UTC with milliseconds.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct JobView {
    /// The job.
    pub id: String,
    /// Its state.
    pub state: JobState,
    /// Its topic.
    pub topic: String,
    /// Attempts that were sent to workers.
    pub attempts: u32,
    /// How many it gets at most.
    #[serde(default)]
    #[schema(required)]
    pub max_attempts: u32,
    /// The worker of the present or last attempt; null where there is none.
    #[schema(required)]
    pub worker_id: Option<String>,
    /// When it was admitted.
    pub created_at: String,
    /// When its state last changed.
    pub updated_at: String,
    /// Where the result stands; null where there is none.
    #[schema(required)]
    pub result_ptr: Option<String>,
    /// The result where it is JSON of at most 256 KiB, else null.
    #[schema(value_type = Value)]
    pub result: Option<Box<RawValue>>,
    /// The size of the result.
    #[serde(default)]
    #[schema(required)]
    pub result_bytes: Option<u64>,
    /// How long the worker took, in milliseconds.
    #[serde(default)]
    #[schema(required)]
    pub execution_ms: Option<i64>,
    /// Why it did not succeed, or why the last attempt did not.
    #[schema(required)]
    pub error_code: Option<String>,
    /// The same in words.
    #[schema(required)]
    pub error_message: Option<String>,
    /// The trace that it belongs to.
    #[serde(default)]
    #[schema(required)]
    pub trace_id: String,
    /// Whose it is.
    #[serde(default)]
    #[schema(required)]
    pub tenant_id: String,
    /// Which of two waiting jobs goes first.
    #[serde(default)]
    #[schema(required)]
    pub priority: Priority,
    /// Its labels.
    #[serde(default)]
    #[schema(required)]
    pub labels: BTreeMap<String, String>,
    /// Capabilities that its worker must have.
    #[serde(default)]
    #[schema(required)]
    pub requires: Vec<String>,
    /// How far it is, in percent, as far as its worker told.
    #[serde(default)]
    #[schema(required)]
    pub percent: Option<i32>,
    /// Not sent to a worker before this time.
    #[serde(default)]
    #[schema(required)]
    pub not_before: Option<String>,
    /// When it ends at the latest.
    #[serde(default)]
    #[schema(required)]
    pub deadline_at: Option<String>,
    /// The wasm module that it runs, `sha256:<hex>`.
    #[serde(default)]
    #[schema(required)]
    pub module: Option<String>,
    /// Somebody asked to cancel it, and a worker still holds it.
    #[serde(default)]
    #[schema(required)]
    pub cancel_requested: bool,
    /// What the safety kernel decided; null while it has not.
    #[serde(default)]
    #[schema(required)]
    pub decision: Option<DecisionView>,
    /// The job that this one belongs to, and with which it is cancelled; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_job_id: Option<String>,
    /// The dead job of which this one is another try; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redrive_of: Option<String>,
    /// Workers that died with this job in their hands; absent where none did.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub crashes: u32,
    /// Jobs of one tenant and topic with the same key share the topic's bounds for keys; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency_key: Option<String>,
    /// What its replicas said, once it has ended; absent where it has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub votes: Vec<VoteView>,
}

/// What one replica of a job said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VoteView {
    /// The replica, a job of its own.
    pub job_id: String,
    /// The worker that had it last; null where none did.
    #[schema(required)]
    pub worker_id: Option<String>,
    /// On whose account the worker speaks; null where no worker had it.
    #[schema(required)]
    pub owner: Option<String>,
    /// SHA-256 of its result as it was compared; null where it gave none.
    #[schema(required)]
    pub sha256: Option<String>,
    /// Why it gave none; null where it gave one, or was not waited for.
    #[schema(required)]
    pub error_code: Option<String>,
    /// Whether it said what the job came to.
    pub agrees: bool,
    /// What the verifier has found out about its result; null where nobody checked it, or nothing is certain.
    #[schema(required)]
    pub judgement: Option<Judgement>,
}

/// What a verifier has found out about a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Judgement {
    /// It shows by itself that it is right.
    Proven,
    /// It is wrong, whatever others say.
    Wrong,
}

impl Judgement {
    /// As it is told.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Proven => "proven",
            Self::Wrong => "wrong",
        }
    }
}

const fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// What the safety kernel decided on a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DecisionView {
    /// `ALLOW`, `DENY`, `REQUIRE_HUMAN`, `THROTTLE`, `ALLOW_WITH_CONSTRAINTS`, `QUARANTINE` or `REDACT`.
    pub decision: String,
    /// The rule that decided; empty where none matched.
    pub rule_id: String,
    /// Why.
    pub reason: String,
    /// The policy snapshot that it was decided under.
    pub snapshot: String,
}

/// What `GET /api/v1/jobs` answers.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct JobList {
    /// Jobs, the newest first, without their results.
    pub items: Vec<JobView>,
    /// Where the next page begins; null at the end.
    #[schema(required)]
    pub next_cursor: Option<String>,
}

/// What `POST /api/v1/jobs/{id}/cancel` takes; the body may be missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CancelRequest {
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What `POST /api/v1/jobs/{id}/cancel` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CancelReply {
    /// The job.
    pub id: String,
    /// Its state after the call. A live one means that the worker was told and has a short time to answer.
    pub state: JobState,
    /// Why nothing changed, where nothing did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What `GET /api/v1/jobs/{id}/logs` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogsView {
    /// The job.
    pub id: String,
    /// The last attempts that wrote something, oldest first.
    pub attempts: Vec<AttemptLog>,
}

/// What one attempt wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AttemptLog {
    /// Which attempt, from 1.
    pub attempt: u32,
    /// Its lines.
    pub lines: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_is_kept_as_it_was_written() {
        let text = r#"{"topic":"job.echo","input":{"b": 1.50,  "a":123456789012345678901234567890}}"#;
        let request: SubmitRequest = serde_json::from_str(text).expect("a good request");
        assert_eq!(request.input.get(), r#"{"b": 1.50,  "a":123456789012345678901234567890}"#);
        assert_eq!(serde_json::to_string(&request).expect("plain members"), text);
    }

    #[test]
    fn unknown_members_are_refused_by_name() {
        let error = serde_json::from_str::<SubmitRequest>(r#"{"topic":"job.echo","input":1,"prioriti":"batch"}"#);
        assert!(error.expect_err("misspelt").to_string().contains("`prioriti`"));
        let error = serde_json::from_str::<BatchRequest>(r#"{"jobs":[],"dry_run":true}"#);
        assert!(error.expect_err("unknown").to_string().contains("`dry_run`"));
    }

    #[test]
    fn all_members_of_a_submission_are_taken() {
        let text = r#"{"topic":"job.echo","input":null,"priority":"critical","labels":{"a":"b"},"requires":["gpu"],
            "idempotency_key":"k","deadline_ms":5,"max_attempts":2,"delay_ms":7,"concurrency_key":"c","schedule_to_start_ms":1,
            "start_to_close_ms":2,"heartbeat_timeout_ms":3,"non_retryable_codes":["bad"],"idempotency_policy":"allow_after_failure",
            "parent_job_id":"p"}"#;
        let request: SubmitRequest = serde_json::from_str(text).expect("a good request");
        assert_eq!(request.input.get(), "null");
        assert_eq!(request.priority, Some(Priority::Critical));
        assert_eq!((request.deadline_ms, request.max_attempts), (Some(5), Some(2)));
        assert_eq!(request.idempotency_policy, Some(IdempotencyPolicy::AllowAfterFailure));
    }

    #[test]
    fn a_batch_has_a_bound() {
        let batch = |jobs: usize| format!(r#"{{"jobs":[{}]}}"#, vec!["0"; jobs].join(","));
        let read = |jobs| serde_json::from_str::<BatchRequest>(&batch(jobs)).map(|batch| batch.jobs.len());
        assert_eq!(read(crate::BATCH_JOBS_MAX).ok(), Some(crate::BATCH_JOBS_MAX));
        assert!(read(crate::BATCH_JOBS_MAX + 1).expect_err("too many").to_string().starts_with(crate::BATCH_TOO_LARGE));
    }

    #[test]
    fn readers_pass_over_members_that_they_do_not_know() {
        let reply = r#"{"job_id":"a","trace_id":"b","state":"SCHEDULED","queue":7}"#;
        let reply: SubmitReply = serde_json::from_str(reply).expect("a reply of a later version");
        assert_eq!(reply.state, JobState::Scheduled);
    }

    #[test]
    fn rejections_keep_their_place() {
        let reply = BatchReply {
            job_ids: vec![Some("a".into()), None],
            rejected: vec![Rejection { index: 1, code: "unknown_topic".into(), detail: "x".into(), retry_after_ms: None }],
        };
        let text = serde_json::to_string(&reply).expect("plain members");
        assert_eq!(text, r#"{"job_ids":["a",null],"rejected":[{"index":1,"code":"unknown_topic","detail":"x"}]}"#);
    }
}
