//! The state of a job as the HTTP interface names it.

use std::fmt;
use std::str::FromStr;

use busbar_protocol::busbar;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The ten states of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum JobState {
    /// Admitted, not yet decided.
    Pending,
    /// A person has to approve it.
    ApprovalRequired,
    /// Allowed, waiting for a worker.
    Scheduled,
    /// Sent to a worker.
    Dispatched,
    /// A worker executes it.
    Running,
    /// Ended with a result.
    Succeeded,
    /// Ended without success, all attempts used.
    Failed,
    /// Ended because somebody asked for it.
    Cancelled,
    /// The policy does not allow it.
    Denied,
    /// Ended because it took too long.
    Timeout,
}

/// A text that names no state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownState(
    /// The text, shortened.
    pub String,
);

impl fmt::Display for UnknownState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no state of a job; the states are", self.0)?;
        JobState::ALL.iter().try_for_each(|state| write!(f, " {state}"))
    }
}

impl std::error::Error for UnknownState {}

impl JobState {
    /// All states, in the order of a job's life.
    pub const ALL: [Self; 10] = [
        Self::Pending,
        Self::ApprovalRequired,
        Self::Scheduled,
        Self::Dispatched,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
        Self::Denied,
        Self::Timeout,
    ];

    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::ApprovalRequired => "APPROVAL_REQUIRED",
            Self::Scheduled => "SCHEDULED",
            Self::Dispatched => "DISPATCHED",
            Self::Running => "RUNNING",
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
            Self::Denied => "DENIED",
            Self::Timeout => "TIMEOUT",
        }
    }

    /// Whether the job has ended: nothing changes it any more.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        match self {
            Self::Succeeded | Self::Failed | Self::Cancelled | Self::Denied | Self::Timeout => true,
            Self::Pending | Self::ApprovalRequired | Self::Scheduled | Self::Dispatched | Self::Running => false,
        }
    }

    /// The state that a message of ours means; `None` where it says none.
    #[must_use]
    pub const fn from_protocol(state: busbar::JobState) -> Option<Self> {
        match state {
            busbar::JobState::Unspecified => None,
            busbar::JobState::Pending => Some(Self::Pending),
            busbar::JobState::ApprovalRequired => Some(Self::ApprovalRequired),
            busbar::JobState::Scheduled => Some(Self::Scheduled),
            busbar::JobState::Dispatched => Some(Self::Dispatched),
            busbar::JobState::Running => Some(Self::Running),
            busbar::JobState::Succeeded => Some(Self::Succeeded),
            busbar::JobState::Failed => Some(Self::Failed),
            busbar::JobState::Cancelled => Some(Self::Cancelled),
            busbar::JobState::Denied => Some(Self::Denied),
            busbar::JobState::Timeout => Some(Self::Timeout),
        }
    }

    /// The state as our messages carry it.
    #[must_use]
    pub const fn to_protocol(self) -> busbar::JobState {
        match self {
            Self::Pending => busbar::JobState::Pending,
            Self::ApprovalRequired => busbar::JobState::ApprovalRequired,
            Self::Scheduled => busbar::JobState::Scheduled,
            Self::Dispatched => busbar::JobState::Dispatched,
            Self::Running => busbar::JobState::Running,
            Self::Succeeded => busbar::JobState::Succeeded,
            Self::Failed => busbar::JobState::Failed,
            Self::Cancelled => busbar::JobState::Cancelled,
            Self::Denied => busbar::JobState::Denied,
            Self::Timeout => busbar::JobState::Timeout,
        }
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for JobState {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        let found = Self::ALL.into_iter().find(|state| state.as_str().eq_ignore_ascii_case(text));
        found.ok_or_else(|| UnknownState(text.chars().take(40).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_reads_back_in_every_form() {
        for state in JobState::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
            assert_eq!(state.as_str().to_lowercase().parse(), Ok(state));
            assert_eq!(JobState::from_protocol(state.to_protocol()), Some(state));
            assert_eq!(serde_json::to_string(&state).expect("a unit variant"), format!("\"{state}\""));
        }
        assert!("BLOCKED".parse::<JobState>().is_err());
    }
}
