//! Workflows and their runs: saving and starting them, looking at them, ending them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use busbar_protocol::busbar;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

/// The states of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RunState {
    /// It goes on.
    Running,
    /// It starts nothing more for now; jobs that are out go on to their ends.
    Paused,
    /// All steps that had to succeed did.
    Succeeded,
    /// A step did not succeed.
    Failed,
    /// Somebody asked for its end.
    Cancelled,
    /// It took too long.
    Timeout,
}

/// A text that names no state of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownRunState(
    /// The text, shortened.
    pub String,
);

impl fmt::Display for UnknownRunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no state of a run; the states are", self.0)?;
        RunState::ALL.iter().try_for_each(|state| write!(f, " {state}"))
    }
}

impl std::error::Error for UnknownRunState {}

impl RunState {
    /// All states.
    pub const ALL: [Self; 6] = [Self::Running, Self::Paused, Self::Succeeded, Self::Failed, Self::Cancelled, Self::Timeout];

    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "RUNNING",
            Self::Paused => "PAUSED",
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
            Self::Timeout => "TIMEOUT",
        }
    }

    /// Whether the run has ended: nothing changes it any more.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        match self {
            Self::Succeeded | Self::Failed | Self::Cancelled | Self::Timeout => true,
            Self::Running | Self::Paused => false,
        }
    }

    /// The state that a message of ours means; `None` where it says none.
    #[must_use]
    pub const fn from_protocol(state: busbar::RunState) -> Option<Self> {
        match state {
            busbar::RunState::Unspecified => None,
            busbar::RunState::Running => Some(Self::Running),
            busbar::RunState::Paused => Some(Self::Paused),
            busbar::RunState::Succeeded => Some(Self::Succeeded),
            busbar::RunState::Failed => Some(Self::Failed),
            busbar::RunState::Cancelled => Some(Self::Cancelled),
            busbar::RunState::Timeout => Some(Self::Timeout),
        }
    }
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for RunState {
    type Err = UnknownRunState;

    fn from_str(text: &str) -> Result<Self, UnknownRunState> {
        let found = Self::ALL.into_iter().find(|state| state.as_str().eq_ignore_ascii_case(text));
        found.ok_or_else(|| UnknownRunState(text.chars().take(40).collect()))
    }
}

/// The states of a step of a run, or of an item of a `for_each` step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum StepState {
    /// It has not begun: other steps come before it.
    Pending,
    /// Its next attempt begins later.
    Waiting,
    /// It goes on.
    Running,
    /// It did what it should.
    Succeeded,
    /// It did not, all attempts used.
    Failed,
    /// The run ended before it did.
    Cancelled,
    /// It took too long.
    Timeout,
    /// Its condition did not hold.
    Skipped,
}

impl StepState {
    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Waiting => "WAITING",
            Self::Running => "RUNNING",
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
            Self::Timeout => "TIMEOUT",
            Self::Skipped => "SKIPPED",
        }
    }

    /// The state that a message of ours means; a step of which nothing is known has not begun.
    #[must_use]
    pub const fn from_protocol(state: busbar::StepState) -> Self {
        match state {
            busbar::StepState::Unspecified => Self::Pending,
            busbar::StepState::Waiting => Self::Waiting,
            busbar::StepState::Running => Self::Running,
            busbar::StepState::Succeeded => Self::Succeeded,
            busbar::StepState::Failed => Self::Failed,
            busbar::StepState::Cancelled => Self::Cancelled,
            busbar::StepState::Timeout => Self::Timeout,
            busbar::StepState::Skipped => Self::Skipped,
        }
    }
}

impl fmt::Display for StepState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What `POST /api/v1/workflows` answers; it takes the document itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SaveReply {
    /// The workflow.
    pub id: String,
    /// Its newest version, which is this document.
    pub version: u32,
}

/// What `GET /api/v1/workflows/{id}` answers. Times are RFC 3339 in UTC with milliseconds.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct WorkflowView {
    /// The workflow.
    pub id: String,
    /// Which version this is.
    pub version: u32,
    /// The newest version.
    pub newest: u32,
    /// What it is called.
    pub title: String,
    /// What it does.
    pub description: String,
    /// The pack that it came with; null where a tenant saved it.
    #[schema(required)]
    pub pack: Option<String>,
    /// When this version was saved.
    pub created_at: String,
    /// Who saved this version.
    #[serde(default)]
    #[schema(required)]
    pub created_by: Option<String>,
    /// The document. Lists do not carry it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub document: Option<Box<RawValue>>,
}

/// What `GET /api/v1/workflows` answers.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct WorkflowList {
    /// Newest versions, the one that was saved last first, without their documents.
    pub items: Vec<WorkflowView>,
    /// Where the next page begins; null at the end.
    #[schema(required)]
    pub next_cursor: Option<String>,
}

/// What `POST /api/v1/workflows/{id}/runs` answers; it takes the run's input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StartReply {
    /// The run.
    pub run_id: String,
    /// Its state as started.
    pub state: RunState,
    /// Its workflow.
    pub workflow_id: String,
    /// The version to which it is pinned.
    pub version: u32,
    /// The idempotency key named this run, which existed already.
    #[serde(default)]
    #[schema(required)]
    pub existing: bool,
}

/// What `GET /api/v1/workflow-runs/{id}` answers. Times are RFC 3339 in UTC with milliseconds.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RunView {
    /// The run.
    pub run_id: String,
    /// Its workflow.
    pub workflow_id: String,
    /// The version to which it is pinned.
    pub version: u32,
    /// Its state.
    pub state: RunState,
    /// When it was started.
    pub created_at: String,
    /// When it ended; null while it goes on.
    #[schema(required)]
    pub ended_at: Option<String>,
    /// Why it does not succeed; also while attempts are still out.
    #[schema(required)]
    pub error: Option<RunError>,
    /// The output where it has at most 256 KiB, else null. Lists do not carry it.
    #[serde(default)]
    #[schema(value_type = Value)]
    pub output: Option<Box<RawValue>>,
    /// The size of the output; null where there is none.
    #[serde(default)]
    #[schema(required)]
    pub output_bytes: Option<u64>,
    /// Its labels.
    #[serde(default)]
    #[schema(required)]
    pub labels: BTreeMap<String, String>,
    /// The trace that it belongs to.
    #[serde(default)]
    #[schema(required)]
    pub trace_id: String,
    /// Its steps, in the order in which they can run. Lists do not carry them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepView>,
}

/// Why a run does not succeed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunError {
    /// The stable code.
    pub code: String,
    /// The same in words.
    pub message: String,
    /// The step that decided it; null where none did.
    #[schema(required)]
    pub step: Option<String>,
}

/// One step of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StepView {
    /// The step.
    pub id: String,
    /// What kind of step it is, as the workflow says.
    #[serde(rename = "type")]
    #[schema(required)]
    pub kind: Option<String>,
    /// Its state.
    pub state: StepState,
    /// Jobs that were submitted for it.
    pub attempts: u32,
    /// The present or last job.
    #[schema(required)]
    pub job_id: Option<String>,
    /// When it began.
    #[schema(required)]
    pub started_at: Option<String>,
    /// When it ended.
    #[schema(required)]
    pub ended_at: Option<String>,
    /// Why it did not succeed, or why the last attempt did not.
    #[schema(required)]
    pub error: Option<StepError>,
    /// How far it is, where it goes over items.
    #[schema(required)]
    pub items: Option<ItemsView>,
}

/// Why a step did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StepError {
    /// The stable code.
    pub code: String,
    /// The same in words.
    pub message: String,
}

/// How far a `for_each` step has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ItemsView {
    /// All items.
    pub total: u32,
    /// Those that succeeded.
    pub succeeded: u32,
    /// Those that did not.
    pub failed: u32,
    /// Those that were begun and are not over.
    pub running: u32,
}

/// What `GET /api/v1/workflow-runs` and `GET /api/v1/workflows/{id}/runs` answer.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RunList {
    /// Runs, the newest first, without steps and outputs.
    pub items: Vec<RunView>,
    /// Where the next page begins; null at the end.
    #[schema(required)]
    pub next_cursor: Option<String>,
}

/// What `POST /api/v1/workflow-runs/{id}/cancel` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunCancelReply {
    /// The run.
    pub run_id: String,
    /// Its state after the call: `RUNNING` while attempts are still out.
    pub state: RunState,
}

/// What `POST /api/v1/workflow-runs/{id}/pause` and `…/resume` answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunHoldReply {
    /// The run.
    pub run_id: String,
    /// Its state after the call.
    pub state: RunState,
}

/// What `GET /api/v1/workflow-runs/{id}/timeline` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Timeline {
    /// What happened, oldest first.
    pub items: Vec<TimelineItem>,
    /// What to give as `after` for what comes later; null where nothing did so far.
    #[schema(required)]
    pub next_cursor: Option<String>,
}

/// Something that happened to a run: to itself, to a step, or to an item of a step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TimelineItem {
    /// When.
    pub at: String,
    /// The change that it was part of.
    pub cursor: String,
    /// The run's new state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<RunState>,
    /// The step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// The item of the step, counted from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<u32>,
    /// The new state of the step or item.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_state: Option<StepState>,
    /// Which job of the step or item it was, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// The job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<String>,
    /// Why it did not go well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The same in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_read_back_and_have_the_names_of_the_wire() {
        for state in RunState::ALL {
            assert_eq!(state.as_str().to_lowercase().parse(), Ok(state));
            assert_eq!(serde_json::to_string(&state).expect("a unit variant"), format!("\"{state}\""));
            let wire = busbar::RunState::from_str_name(&format!("RUN_STATE_{state}")).expect("the same name");
            assert_eq!(RunState::from_protocol(wire), Some(state));
        }
        assert!("PENDING".parse::<RunState>().expect_err("none").to_string().contains("RUNNING"));
        for wire in 1..=7 {
            let wire = busbar::StepState::try_from(wire).expect("a state");
            let state = StepState::from_protocol(wire);
            assert_eq!(format!("STEP_STATE_{state}"), wire.as_str_name());
            assert_eq!(serde_json::to_string(&state).expect("a unit variant"), format!("\"{state}\""));
        }
    }
}
