//! What is common to all who read a job's state.

use crate::busbar::JobState;

impl JobState {
    /// Whether a job in this state has ended; an end is for ever.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        match self {
            Self::Succeeded | Self::Failed | Self::Cancelled | Self::Denied | Self::Timeout => true,
            Self::Unspecified | Self::Pending | Self::ApprovalRequired | Self::Scheduled | Self::Dispatched | Self::Running => {
                false
            }
        }
    }

    /// The name that people see: `SUCCEEDED`, not `JOB_STATE_SUCCEEDED`.
    #[must_use]
    pub fn short_name(self) -> &'static str {
        self.as_str_name().trim_start_matches("JOB_STATE_")
    }
}
