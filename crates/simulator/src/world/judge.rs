//! A model of the safety kernel: rules by topic, sometimes away, sometimes under a new snapshot.

use busbar_protocol::busbar::CheckBatchResponse;
use busbar_protocol::cap::{DecisionType, PolicyCheckRequest, PolicyCheckResponse};
use busbar_protocol::ports::{Clock as _, Judge, JudgeError, Question};

use super::World;
use crate::plant::Plant;

/// The model.
#[derive(Clone, Debug)]
pub(crate) struct ModelJudge {
    pub(crate) world: World,
}

impl Judge for ModelJudge {
    async fn check(&self, questions: Vec<Question>) -> Result<CheckBatchResponse, JudgeError> {
        tokio::time::sleep(self.world.pause(std::time::Duration::from_millis(3))).await;
        let away = self.world.troubled() && self.world.chaos.chance(50);
        if away && self.world.plant != Some(Plant::DecisionPresumed) {
            return Err(JudgeError::Unavailable { detail: "the simulation says so".to_owned() });
        }
        // The policy changes every ten seconds.
        let age = self.world.clock.now().since(super::START).as_secs() / 10;
        let snapshot = if self.world.troubled() { format!("snapshot-{age}") } else { "snapshot-final".to_owned() };
        let decide = |question: &Question| self.decide(&question.request, &snapshot, away);
        let responses = questions.iter().map(decide).collect();
        Ok(CheckBatchResponse { responses, snapshot })
    }
}

impl ModelJudge {
    fn decide(&self, request: &PolicyCheckRequest, snapshot: &str, presumed: bool) -> PolicyCheckResponse {
        let decision = match request.topic.as_str() {
            _ if presumed => DecisionType::Allow,
            "job.denied" => DecisionType::Deny,
            "job.approval" => DecisionType::RequireHuman,
            "job.throttled" if self.world.chaos.chance(500) => DecisionType::Throttle,
            _ => DecisionType::Allow,
        };
        PolicyCheckResponse {
            decision: decision.into(),
            reason: "the model says so".to_owned(),
            rule_id: request.topic.clone(),
            policy_snapshot: snapshot.to_owned(),
            ..PolicyCheckResponse::default()
        }
    }
}
