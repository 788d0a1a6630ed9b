//! The safety kernel as a port.

use std::future::Future;

use crate::busbar::CheckBatchResponse;
use crate::cap::PolicyCheckRequest;

/// Asks for decisions.
pub trait Judge: Clone + Send + Sync + 'static {
    /// One response per request, in order, all under one snapshot.
    ///
    /// # Errors
    /// [`JudgeError`] when no decision was made; then nothing may run, and nothing is denied for that reason.
    fn check(&self, requests: Vec<PolicyCheckRequest>) -> impl Future<Output = Result<CheckBatchResponse, JudgeError>> + Send;
}

/// Why there is no decision.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JudgeError {
    /// The kernel is away or too slow; ask again.
    #[error("the safety kernel did not answer: {detail}")]
    Unavailable {
        /// What the transport said.
        detail: String,
    },
    /// The kernel answered something that is no answer.
    #[error("the safety kernel's answer cannot be used: {detail}")]
    Malformed {
        /// What is wrong with it.
        detail: String,
    },
}
