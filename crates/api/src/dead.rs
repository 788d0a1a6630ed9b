//! Dead letters: jobs that ended without success, kept for whoever wants to try them again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::job::{Priority, Rejection, SubmitReply};
use crate::state::JobState;

/// What `GET /api/v1/dlq` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeadLetterList {
    /// Dead letters, the newest first.
    pub items: Vec<DeadLetterView>,
    /// Where the next page begins; null at the end.
    #[schema(required)]
    pub next_cursor: Option<String>,
}

/// A dead letter in short. Times are RFC 3339 in UTC with milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeadLetterView {
    /// The dead job.
    pub job_id: String,
    /// Its topic.
    pub topic: String,
    /// Whose it was.
    pub tenant_id: String,
    /// The trace that it belonged to.
    pub trace_id: String,
    /// The state in which it ended.
    pub state: JobState,
    /// Why: a stable code, ours or the worker's.
    pub reason_code: String,
    /// The same in words.
    pub reason: String,
    /// Attempts that were sent to workers.
    pub attempts: u32,
    /// Workers that died with it in their hands.
    pub crashes: u32,
    /// When it died.
    pub dead_at: String,
    /// The job that tries it again; null where none does.
    #[schema(required)]
    pub redriven_as: Option<String>,
    /// Since when.
    #[schema(required)]
    pub redriven_at: Option<String>,
    /// The dead job of which it was another try already; null where there is none.
    #[schema(required)]
    pub redrive_of: Option<String>,
}

/// What `GET /api/v1/dlq/{job_id}` answers: the whole letter.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DeadLetterDetail {
    /// What lists show as well.
    pub letter: DeadLetterView,
    /// Which of two waiting jobs went first.
    pub priority: Priority,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Capabilities that its worker had to have.
    pub requires: Vec<String>,
    /// How many attempts it had at most.
    pub max_attempts: u32,
    /// How long it could take from admission to its end, in milliseconds; null where its topic said.
    #[schema(required)]
    pub deadline_ms: Option<u64>,
    /// Its concurrency key; null where there is none.
    #[schema(required)]
    pub concurrency_key: Option<String>,
    /// The job that it belonged to; null where there is none.
    #[schema(required)]
    pub parent_job_id: Option<String>,
    /// The wasm module that it ran, `sha256:<hex>`.
    #[schema(required)]
    pub module: Option<String>,
    /// Where its input stands.
    #[schema(required)]
    pub input_ptr: Option<String>,
    /// The size of its input, in bytes.
    pub input_bytes: u64,
    /// The input where it is JSON of at most 256 KiB and still there, else null.
    #[schema(value_type = Value)]
    pub input: Option<Box<RawValue>>,
}

/// What `POST /api/v1/dlq/{job_id}/redrive` takes; the body may be missing.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RedriveRequest {
    /// Another input instead of the one that it had: any JSON, kept as it was written, at most 1 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    #[schema(value_type = Value)]
    pub input: Option<Box<RawValue>>,
    /// Not sent to a worker before this time (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<String>,
}

/// An input may be `null`: that is another thing than none.
fn given<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(deserializer).map(Some)
}

/// What `POST /api/v1/dlq/{job_id}/redrive` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RedriveReply {
    /// The dead job.
    pub redrive_of: String,
    /// The job that tries it again, as admitted.
    pub job: SubmitReply,
}

/// What `POST /api/v1/dlq/redrive` takes: which dead letters, and how fast. Those that were tried again already are passed over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RedriveManyRequest {
    /// Of this topic only: exact, or with `*` for one token, or ending in `>` for the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// With exactly this reason code only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason_code: Option<String>,
    /// Dead at this time (RFC 3339) or later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Dead before this time (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// How many of the new jobs may start in one second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 10_000, default = 10)]
    pub per_second: Option<u32>,
    /// How many are tried again by this call at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 10_000, default = 1000)]
    pub limit: Option<usize>,
    /// `next_cursor` of the call before: this one goes on behind those, and later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// What `POST /api/v1/dlq/redrive` answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RedriveManyReply {
    /// How many are tried again.
    pub redriven: usize,
    /// The dead jobs that were looked at, the oldest first.
    pub job_ids: Vec<String>,
    /// The jobs that try them again, in the same order; null where it was rejected.
    pub redriven_as: Vec<Option<String>>,
    /// What was rejected, and why; `index` counts in `job_ids`.
    pub rejected: Vec<Rejection>,
    /// When the last of the new jobs may start (RFC 3339); null where there is none.
    #[schema(required)]
    pub last_start: Option<String>,
    /// Where to go on; null where no more fit.
    #[schema(required)]
    pub next_cursor: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_of_null_is_an_input() {
        let read =
            |text: &str| serde_json::from_str::<RedriveRequest>(text).expect("good").input.map(|input| input.get().to_owned());
        assert_eq!(read("{}"), None);
        assert_eq!(read(r#"{"input":null}"#).as_deref(), Some("null"));
        assert_eq!(read(r#"{"input":{"a":  1.0}}"#).as_deref(), Some(r#"{"a":  1.0}"#));
    }
}
