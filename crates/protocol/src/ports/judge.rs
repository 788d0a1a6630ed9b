//! The safety kernel as a port.

use std::future::Future;

use crate::busbar::CheckBatchResponse;
use crate::cap::PolicyCheckRequest;

/// What the kernel is asked about one job.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Question {
    /// The question.
    pub request: PolicyCheckRequest,
    /// The W3C trace context in which it is asked; empty where nobody wants to see it.
    pub traceparent: String,
}

impl From<PolicyCheckRequest> for Question {
    fn from(request: PolicyCheckRequest) -> Self {
        Self { request, traceparent: String::new() }
    }
}

/// Asks for decisions.
pub trait Judge: Clone + Send + Sync + 'static {
    /// One response per question, in order, all under one snapshot.
    ///
    /// # Errors
    /// [`JudgeError`] when no decision was made; then nothing may run, and nothing is denied for that reason.
    fn check(&self, questions: Vec<Question>) -> impl Future<Output = Result<CheckBatchResponse, JudgeError>> + Send;
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
