//! From a step's job to what the scheduler is asked to admit.

use std::collections::BTreeMap;

use busbar_protocol::busbar::AdmitItem;
use busbar_protocol::cap::{ActorType, Budget, IdentityBinding, JobMetadata, JobRequest};
use busbar_protocol::inline;
use busbar_protocol::keys;
use busbar_protocol::pointers::Pointer;
use busbar_protocol::prost::Message as _;
use busbar_protocol::trace::TraceContext;

use super::run::{Head, Run};
use super::transition::Submission;
use super::workflow::{JobPlan, Work};

/// What the scheduler is asked; none where the step submits no jobs.
#[must_use]
pub fn admit_item(run: &Run, submission: &Submission) -> Option<AdmitItem> {
    let step = run.workflow.steps.get(submission.spot.step)?;
    let (Work::Job(plan) | Work::ForEach { job: plan, .. }) = &step.work else { return None };
    let head = &*run.head;
    Some(AdmitItem {
        request: job_request(run, &step.id, plan, submission).encode_to_vec().into(),
        tenant_id: head.tenant_id.clone(),
        trace_id: head.trace_id.clone(),
        traceparent: TraceContext::parse(&head.traceparent).map(|parent| place_of(head, parent).to_string()).unwrap_or_default(),
        max_attempts: 0,
        input_bytes: submission.input.len() as u64,
        options: None,
        input: inline::carried(&submission.input),
        revocable: false,
    })
}

/// The place of a run in its trace: its jobs stand below it.
#[must_use]
pub fn place_of(head: &Head, parent: TraceContext) -> TraceContext {
    parent.child(&format!("run {}", head.id))
}

fn job_request(run: &Run, step_id: &str, plan: &JobPlan, submission: &Submission) -> JobRequest {
    let head = &*run.head;
    let mut labels: BTreeMap<String, String> = head.labels.clone();
    labels.extend(plan.labels.clone());
    labels.extend(submission.place.clone());
    for (name, value) in [("run_id", head.id.as_str()), ("step_id", step_id), ("workflow_id", head.workflow_id.as_str())] {
        labels.insert(name.to_owned(), value.to_owned());
    }
    let deadline = plan
        .timeout
        .map(|timeout| Budget { deadline_ms: i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX), ..Budget::default() });
    JobRequest {
        job_id: submission.job_id.clone(),
        topic: submission.topic.clone(),
        priority: plan.priority.into(),
        context_ptr: Pointer::Redis(keys::context(&submission.job_id)).to_string(),
        workflow_id: head.workflow_id.clone(),
        step_index: i32::try_from(submission.spot.step).unwrap_or(i32::MAX),
        budget: deadline,
        tenant_id: head.tenant_id.clone(),
        principal_id: head.requested_by.clone(),
        labels: labels.clone(),
        meta: Some(JobMetadata {
            tenant_id: head.tenant_id.clone(),
            actor_id: head.requested_by.clone(),
            actor_type: ActorType::Service.into(),
            requires: plan.requires.clone(),
            labels,
            ..JobMetadata::default()
        }),
        identity: Some(IdentityBinding {
            tenant_id: head.tenant_id.clone(),
            principal_id: head.requested_by.clone(),
            actor_id: head.requested_by.clone(),
            ..IdentityBinding::default()
        }),
        ..JobRequest::default()
    }
}
