//! What the other services are asked about packs.

use std::collections::BTreeSet;
use std::time::Duration;

use busbar_api::Problem;
use busbar_protocol::busbar::{
    self, BundleAction, BundleTier, DefineReply, DefineRequest, ListReply, ListRequest, PublishBundleReply, PublishBundleRequest,
    RemoveReply, RemoveRequest,
};
use busbar_protocol::codes::Code;
use busbar_protocol::ports::{Bus, BusError, Records};
use busbar_protocol::prost::Message;
use busbar_protocol::subjects;
use busbar_rules::pack::{Pack, Workflow};

use super::World;
use super::drive::Stuck;
use crate::app::{AskError, ask};
use crate::core::pack::bundle_id;
use crate::error::{internal, of_bus, of_wire};

const PATIENCE: Duration = Duration::from_secs(5);

impl<B: Bus, R: Records> World<B, R> {
    /// Whether the kernel would take the policy.
    pub(super) async fn check_policy(&self, pack: &Pack, policy: &str) -> Result<(), Stuck> {
        self.publish(pack, policy, BundleAction::Check).await
    }

    /// Puts the policy in force.
    pub(super) async fn publish_policy(&self, pack: &Pack, policy: &str) -> Result<(), Stuck> {
        self.publish(pack, policy, BundleAction::Publish).await
    }

    /// Takes the policy back.
    pub(super) async fn remove_policy(&self, pack_id: &str) -> Result<(), Stuck> {
        self.ask_kernel(PublishBundleRequest {
            bundle_id: bundle_id(pack_id),
            tier: BundleTier::Pack.into(),
            action: BundleAction::Remove.into(),
            ..PublishBundleRequest::default()
        })
        .await
    }

    async fn publish(&self, pack: &Pack, policy: &str, action: BundleAction) -> Result<(), Stuck> {
        self.ask_kernel(PublishBundleRequest {
            bundle_id: bundle_id(pack.id()),
            tier: BundleTier::Pack.into(),
            content: policy.to_owned(),
            topics: pack.topics.iter().map(|document| document.topic.clone()).collect(),
            action: action.into(),
        })
        .await
    }

    async fn ask_kernel(&self, request: PublishBundleRequest) -> Result<(), Stuck> {
        let reply: PublishBundleReply = self.ask(subjects::KERNEL_PUBLISH, &request, Code::KernelUnavailable).await?;
        agreed(reply.problem)
    }

    /// Saves a workflow, or only says whether that would be possible.
    pub(super) async fn define_workflow(&self, pack_id: &str, workflow: &Workflow, check_only: bool) -> Result<(), Stuck> {
        let request = DefineRequest {
            document: workflow.document.clone().into(),
            pack_id: pack_id.to_owned(),
            requested_by: bundle_id(pack_id),
            check_only,
            ..DefineRequest::default()
        };
        let reply: DefineReply = self.ask(subjects::ENGINE_DEFINE, &request, Code::EngineUnavailable).await?;
        agreed(reply.problem)
    }

    /// Takes a workflow away, or only says whether that would be possible. One that is not there is as good.
    pub(super) async fn remove_workflow(&self, pack_id: &str, workflow_id: &str, check_only: bool) -> Result<(), Stuck> {
        let request = RemoveRequest {
            workflow_id: workflow_id.to_owned(),
            pack_id: pack_id.to_owned(),
            check_only,
            ..RemoveRequest::default()
        };
        let reply: RemoveReply = self.ask(subjects::ENGINE_REMOVE, &request, Code::EngineUnavailable).await?;
        agreed(reply.problem.filter(|problem| problem.code != Code::WorkflowNotFound.as_str()))
    }

    /// Refuses where live jobs belong to these topics.
    pub(super) async fn refuse_live_jobs(&self, topics: BTreeSet<&str>) -> Result<(), Problem> {
        if topics.is_empty() {
            return Ok(());
        }
        let topic_patterns = topics.into_iter().map(str::to_owned).collect();
        let request = ListRequest { limit: 1, topic_patterns, ..ListRequest::default() };
        let reply: ListReply =
            self.ask(subjects::SCHEDULER_LIST, &request, Code::SchedulerUnavailable).await.map_err(Stuck::into_problem)?;
        agreed(reply.problem).map_err(Stuck::into_problem)?;
        match reply.jobs.first() {
            Some(job) => {
                let detail = format!("live jobs belong to topics that would go, for example {} of {}", job.job_id, job.topic);
                Err(Problem::new(Code::PackInUse, detail))
            }
            None => Ok(()),
        }
    }

    async fn ask<Q: Message, A: Message + Default>(&self, subject: &str, question: &Q, away: Code) -> Result<A, Stuck> {
        ask(&self.bus, subject, question, PATIENCE).await.map_err(|error| match error {
            AskError::Bus(BusError::NoResponders { .. } | BusError::TimedOut { .. }) => {
                Stuck::Away(Problem::new(away, format!("nobody answered on {subject}")).retry_after_ms(1000))
            }
            AskError::Bus(error @ BusError::TooLarge { .. }) => {
                Stuck::Refused(Problem::new(Code::PackInvalid, format!("it does not fit into a message: {error}")))
            }
            AskError::Bus(error) => Stuck::Away(of_bus(&error)),
            AskError::Reply(error) => Stuck::Away(internal(&error)),
        })
    }
}

/// A refusal for good differs from one that may pass by its status.
fn agreed(problem: Option<busbar::Problem>) -> Result<(), Stuck> {
    match problem.map(of_wire) {
        None => Ok(()),
        Some(problem) if problem.status >= 500 || problem.retry_after_ms.is_some() => Err(Stuck::Away(problem)),
        Some(problem) => Err(Stuck::Refused(problem)),
    }
}
