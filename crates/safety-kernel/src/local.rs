//! The kernel for a scheduler in the same process: the same decisions, counted and traced the same way, without a wire between.

use busbar_protocol::busbar::CheckBatchResponse;
use busbar_protocol::ports::{Judge, JudgeError, Question};
use tokio::sync::watch;

use crate::server::Answers;

/// Asks the kernel that runs in this process. Clones ask the same one.
#[derive(Clone, Debug)]
pub struct LocalKernel(watch::Receiver<Option<Answers>>);

/// Where a kernel takes its place for those who ask it. Without it, nobody is there.
#[derive(Debug)]
pub struct Seat(watch::Sender<Option<Answers>>);

/// A kernel to be asked, and the place that it takes when it runs.
#[must_use]
pub fn local() -> (LocalKernel, Seat) {
    let (seat, kernel) = watch::channel(None);
    (LocalKernel(kernel), Seat(seat))
}

impl Seat {
    /// From now on it decides.
    pub(crate) fn take(&self, answers: Answers) {
        self.0.send_replace(Some(answers));
    }
}

impl Judge for LocalKernel {
    async fn check(&self, questions: Vec<Question>) -> Result<CheckBatchResponse, JudgeError> {
        let away = |detail: &str| JudgeError::Unavailable { detail: detail.to_owned() };
        // What it knew must not decide once it has ended.
        if self.0.has_changed().is_err() {
            return Err(away("the kernel of this process has ended"));
        }
        let answers = self.0.borrow().clone().ok_or_else(|| away("the kernel of this process has no policy yet"))?;
        Ok(answers.decide_all(questions.iter().map(|question| (&question.request, question.traceparent.as_str()))))
    }
}

#[cfg(test)]
mod tests {
    use busbar_protocol::cap::{DecisionType, PolicyCheckRequest};
    use busbar_service::Telemetry;

    use super::*;
    use crate::core::snapshot::Snapshot;
    use crate::server::Current;

    #[tokio::test]
    async fn it_decides_while_there_is_a_kernel_and_not_before_or_after() {
        let (kernel, seat) = local();
        let questions = || vec![Question::from(PolicyCheckRequest { topic: "job.echo".into(), ..PolicyCheckRequest::default() })];
        assert!(matches!(kernel.check(questions()).await, Err(JudgeError::Unavailable { .. })));
        let current = watch::Sender::new(Current::new(Snapshot::of(Vec::new())));
        seat.take(Answers::new(current.subscribe(), &Telemetry::default()));
        let answer = kernel.check(questions()).await.expect("an answer");
        assert_eq!(answer.responses.len(), 1);
        assert_ne!(answer.responses[0].decision(), DecisionType::Unspecified);
        assert_eq!(answer.responses[0].policy_snapshot, answer.snapshot);
        assert!(kernel.check(vec![]).await.expect("an answer").responses.is_empty());
        drop(seat);
        assert!(matches!(kernel.check(questions()).await, Err(JudgeError::Unavailable { .. })));
    }
}
