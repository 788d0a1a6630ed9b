//! A model of the safety kernel: rules by topic, sometimes away, sometimes under a new snapshot.

use busbar_protocol::busbar::CheckBatchResponse;
use busbar_protocol::cap::{DecisionType, PolicyCheckRequest, PolicyCheckResponse};
use busbar_protocol::keys;
use busbar_protocol::pointers::Pointer;
use busbar_protocol::ports::{Clock as _, Judge, JudgeError, Question, Records as _};
use bytes::Bytes;

use super::World;
use crate::plant::Plant;

/// The label of jobs whose inputs are redacted.
pub(crate) const SECRET: &str = "secret";

/// The name under which the redacted input of a job stands.
pub(crate) fn redacted(job_id: &str) -> String {
    format!("{}.redacted", keys::context(job_id))
}

/// What stands there.
pub(crate) const REDACTED: &[u8] = b"\"redacted\"";

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
        let mut responses = Vec::with_capacity(questions.len());
        for question in &questions {
            let response = self.decide(&question.request, &snapshot, away);
            responses.push(if response.decision() == DecisionType::Redact {
                self.redact(&question.request.job_id, response).await
            } else {
                response
            });
        }
        Ok(CheckBatchResponse { responses, snapshot })
    }
}

impl ModelJudge {
    fn decide(&self, request: &PolicyCheckRequest, snapshot: &str, presumed: bool) -> PolicyCheckResponse {
        let decision = match request.topic.as_str() {
            _ if presumed => DecisionType::Allow,
            "job.denied" => DecisionType::Deny,
            "job.approval" => DecisionType::RequireHuman,
            _ if request.labels.contains_key(SECRET) => DecisionType::Redact,
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

    /// Puts another input in place of that of a job, if it finds one.
    async fn redact(&self, job_id: &str, response: PolicyCheckResponse) -> PolicyCheckResponse {
        let original = keys::context(job_id);
        if !self.world.store.contents(&original).iter().any(|(key, _, _)| *key == original) {
            return response;
        }
        let key = redacted(job_id);
        while self.world.store.put_payload(&key, Bytes::from_static(REDACTED), None).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
        PolicyCheckResponse { redacted_context_ptr: Pointer::Redis(key).to_string(), ..response }
    }
}
