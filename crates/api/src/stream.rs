//! The live stream: what a client may ask for, and the frames that it gets.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use crate::cell::WorkerView;
use crate::problem::Problem;
use crate::state::JobState;
use crate::workflow::{ItemsView, RunError, RunState, StepError, StepState};

/// The most values that one member of a filter takes.
pub const STREAM_FILTER_VALUES_MAX: usize = 256;

/// What a client wants to see: a frame passes that has one of the values of every member that is not empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct StreamFilter {
    /// Topics, exact or with wildcards (`job.bpsw.>`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[param(max_items = 256)]
    pub topic: Vec<String>,
    /// Jobs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[param(max_items = 256)]
    pub job: Vec<String>,
    /// Runs; the jobs of a run belong to it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[param(max_items = 256)]
    pub run: Vec<String>,
    /// Workers: what they are, and the jobs that they hold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[param(max_items = 256)]
    pub worker: Vec<String>,
    /// `job`, `run`, `step`, `progress`, `result`, `worker`, `alert`; none means all that the key may see.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[param(max_items = 256)]
    pub kind: Vec<String>,
    /// Whether the present comes first; without a word it does, unless one resumes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<bool>,
}

impl StreamFilter {
    /// Its members by name, for a query.
    pub fn members(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let lists =
            [("topic", &self.topic), ("job", &self.job), ("run", &self.run), ("worker", &self.worker), ("kind", &self.kind)];
        let values = lists.into_iter().flat_map(|(name, values)| values.iter().map(move |value| (name, value.as_str())));
        values.chain(self.snapshot.map(|snapshot| ("snapshot", if snapshot { "true" } else { "false" })))
    }
}

/// What a client may send over a WebSocket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamRequest {
    /// The filter from now on, in place of the one before.
    pub filter: StreamFilter,
}

/// One frame of the stream. Which members it has says what it is.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct StreamFrame {
    /// Where to resume after this frame; a frame without one is no place to resume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Where it was told on the bus.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// It tells of the present and not of a change.
    #[serde(skip_serializing_if = "is_false")]
    pub snapshot: bool,
    /// A message of ours, by its subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub event: Option<Box<RawValue>>,
    /// A CAP packet in the JSON form of protobuf.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub packet: Option<Box<RawValue>>,
    /// The present has been told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot_end: Option<SnapshotEnd>,
    /// What came after the client's cursor is not known any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reset: Option<StreamReset>,
    /// The filter from now on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<StreamFilter>,
    /// Why the stream ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Problem>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives references")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

/// What a snapshot held.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SnapshotEnd {
    /// Jobs that were told.
    pub jobs: u32,
    /// Runs that were told.
    pub runs: u32,
    /// Workers that were told.
    pub workers: u32,
    /// Nothing was left out: neither was there too much of it, nor did anybody who knows not answer.
    pub complete: bool,
}

/// Why a stream begins anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StreamReset {
    /// In words.
    pub reason: String,
}

/// A committed change of a job, told on `busbar.job.event`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobChange {
    /// The job.
    pub job_id: String,
    /// Its topic.
    pub topic: String,
    /// Its state after the change.
    pub state: JobState,
    /// Every state that the commit passed through, the last one being the present.
    pub states: Vec<JobState>,
    /// When (RFC 3339).
    pub at: String,
    /// Dispatches so far.
    pub attempt: u32,
    /// The worker that holds it, or held it last.
    pub worker_id: Option<String>,
    /// Why it did not succeed, or why the last attempt did not.
    pub error_code: Option<String>,
    /// The same in words.
    pub error_message: Option<String>,
    /// Where the result stands.
    pub result_ptr: Option<String>,
    /// How long the worker took, in milliseconds.
    pub execution_ms: Option<i64>,
    /// The trace that it belongs to.
    pub trace_id: String,
}

/// A committed change of a run, told on `busbar.run.event`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunChange {
    /// The run.
    pub run_id: String,
    /// Its workflow.
    pub workflow_id: String,
    /// Its state after the change.
    pub state: RunState,
    /// When (RFC 3339).
    pub at: String,
    /// How it will end once its jobs are over, or has ended.
    pub ending: Option<RunState>,
    /// Why it does not succeed.
    pub error: Option<RunError>,
    /// What changed of its steps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<StepChange>,
    /// The trace that it belongs to.
    pub trace_id: String,
}

/// A change of a step, or of one item of a `for_each` step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepChange {
    /// The step.
    pub step: String,
    /// The item, from 0; null for the step itself.
    pub item: Option<u32>,
    /// Its state after the change.
    pub state: StepState,
    /// Jobs that were submitted for it.
    pub attempt: u32,
    /// The present or last one.
    pub job_id: Option<String>,
    /// Why it did not succeed.
    pub error: Option<StepError>,
    /// How far a `for_each` step has come.
    pub items: Option<ItemsView>,
}

/// What a frame is.
#[derive(Clone, Debug)]
pub enum StreamItem {
    /// A place to resume, nothing else.
    Cursor,
    /// A job changed, or is like this.
    Job(JobChange),
    /// A run changed, or is like this.
    Run(RunChange),
    /// A worker changed, or is like this. Its status may also be `gone`: it was forgotten.
    Worker(WorkerView),
    /// A CAP packet.
    Packet(Box<RawValue>),
    /// The present has been told.
    SnapshotEnd(SnapshotEnd),
    /// The stream begins anew: forget what was known.
    Reset(StreamReset),
    /// The filter from now on.
    Filter(StreamFilter),
    /// The stream ends.
    Error(Problem),
    /// Something of a later version.
    Unknown,
}

/// The subjects of events, as frames name them.
pub mod stream_subjects {
    use busbar_protocol::subjects;

    /// Of [`JobChange`](super::JobChange).
    pub const JOB: &str = subjects::JOB_EVENT;
    /// Of [`RunChange`](super::RunChange).
    pub const RUN: &str = subjects::RUN_EVENT;
    /// Of [`WorkerView`](super::WorkerView).
    pub const WORKER: &str = subjects::SCHEDULER_WORKERS;
}

impl StreamFrame {
    /// What the frame is.
    ///
    /// # Errors
    /// When an event has not the form of its subject.
    pub fn item(&self) -> Result<StreamItem, serde_json::Error> {
        if let Some(error) = &self.error {
            return Ok(StreamItem::Error(error.clone()));
        }
        if let Some(reset) = &self.reset {
            return Ok(StreamItem::Reset(reset.clone()));
        }
        if let Some(end) = &self.snapshot_end {
            return Ok(StreamItem::SnapshotEnd(end.clone()));
        }
        if let Some(filter) = &self.filter {
            return Ok(StreamItem::Filter(filter.clone()));
        }
        match (self.subject.as_deref(), &self.event, &self.packet) {
            (Some(stream_subjects::JOB), Some(event), _) => serde_json::from_str(event.get()).map(StreamItem::Job),
            (Some(stream_subjects::RUN), Some(event), _) => serde_json::from_str(event.get()).map(StreamItem::Run),
            (Some(stream_subjects::WORKER), Some(event), _) => serde_json::from_str(event.get()).map(StreamItem::Worker),
            (_, None, Some(packet)) => Ok(StreamItem::Packet(packet.clone())),
            (None, None, None) if self.cursor.is_some() => Ok(StreamItem::Cursor),
            _ => Ok(StreamItem::Unknown),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(text: &str) -> StreamItem {
        serde_json::from_str::<StreamFrame>(text).expect("a frame").item().expect("readable")
    }

    #[test]
    fn the_members_say_what_a_frame_is() {
        assert!(matches!(item(r#"{"cursor":"c"}"#), StreamItem::Cursor));
        assert!(matches!(item(r#"{"cursor":"c","reset":{"reason":"x"}}"#), StreamItem::Reset(_)));
        assert!(matches!(item(r#"{"cursor":"c","snapshot_end":{"jobs":1,"runs":0,"workers":0,"complete":true}}"#),
            StreamItem::SnapshotEnd(end) if end.jobs == 1 && end.complete));
        assert!(matches!(item(r#"{"cursor":"c","subject":"sys.alert","packet":{"alert":{}}}"#), StreamItem::Packet(_)));
        assert!(matches!(item(r#"{"cursor":"c","subject":"busbar.of.tomorrow","event":{}}"#), StreamItem::Unknown));
        let job = r#"{"subject":"busbar.job.event","snapshot":true,"event":{"job_id":"j","topic":"job.a","state":"RUNNING","states":
            ["RUNNING"],"at":"","attempt":1,"worker_id":"w","error_code":null,"error_message":null,"result_ptr":null,
            "execution_ms":null,"trace_id":"","later":1}}"#;
        assert!(matches!(item(job), StreamItem::Job(change) if change.state == JobState::Running));
        assert!(
            serde_json::from_str::<StreamFrame>(r#"{"subject":"busbar.job.event","event":{}}"#).expect("a frame").item().is_err()
        );
    }

    #[test]
    fn a_filter_is_a_query_or_json() {
        let filter = StreamFilter {
            topic: vec!["job.>".into()],
            job: vec!["a".into(), "b".into()],
            snapshot: Some(false),
            ..StreamFilter::default()
        };
        let members: Vec<_> = filter.members().collect();
        assert_eq!(members, [("topic", "job.>"), ("job", "a"), ("job", "b"), ("snapshot", "false")]);
        let request = StreamRequest { filter };
        let text = serde_json::to_string(&request).expect("plain members");
        assert_eq!(serde_json::from_str::<StreamRequest>(&text).ok(), Some(request));
        assert!(serde_json::from_str::<StreamRequest>(r#"{"filter":{"tenant":["x"]}}"#).is_err());
    }
}
