//! What the safety kernel is asked about a job, and what its answer means for the job.

use std::collections::BTreeMap;

use busbar_protocol::busbar::JobDecision;
use busbar_protocol::cap::{JobRequest, PolicyCheckRequest, PolicyCheckResponse, PolicyConstraints, ToolchainConstraints};
use busbar_protocol::envelope;
use busbar_protocol::imports::ImportGroup;
use busbar_protocol::pointers::Pointer;
use busbar_protocol::prost::Message as _;
use busbar_protocol::time::Timestamp;
use busbar_rules::imports;
use serde_json::Value;

use super::job::Job;
use super::transition::Verdict;

/// The question about a job, whose request may be at hand already.
#[must_use]
pub fn question(job: &Job, request: Option<JobRequest>) -> PolicyCheckRequest {
    let request = request.unwrap_or_else(|| JobRequest::decode(job.request.clone()).unwrap_or_default());
    let referred = request.context_ref.as_ref().map_or(0, |reference| reference.size_bytes);
    PolicyCheckRequest {
        job_id: job.id.to_string(),
        topic: job.topic.clone(),
        tenant: job.tenant_id.clone(),
        priority: request.priority,
        budget: request.budget,
        principal_id: request.principal_id,
        labels: request.labels,
        memory_id: request.memory_id,
        meta: request.meta,
        identity: request.identity,
        input_ref: request.context_ref,
        input_size_bytes: i64::try_from(job.plan.input_bytes.max(referred)).unwrap_or(i64::MAX),
        ..PolicyCheckRequest::default()
    }
}

/// The answer, ready to be applied.
#[must_use]
pub fn verdict(job: &Job, answer: &PolicyCheckResponse, now: Timestamp) -> Verdict {
    let constraints = answer.constraints.clone().unwrap_or_default();
    let (budgets, tools) = (constraints.budgets.unwrap_or_default(), constraints.toolchain.unwrap_or_default());
    let run_ms_max = u64::try_from(budgets.max_runtime_ms).ok().filter(|most| *most > 0);
    let attempts_max = u32::try_from(budgets.max_retries).ok().filter(|most| *most > 0).map(|most| most + 1);
    Verdict {
        decision: JobDecision {
            decision: effective(answer),
            snapshot: answer.policy_snapshot.clone(),
            rule_id: answer.rule_id.clone(),
            reason: answer.reason.clone(),
            constraints: packed(answer.constraints.as_ref()),
            decided_ms: now.millis(),
        },
        redacted_request: redacted(&job.request, &answer.redacted_context_ptr),
        run_ms_max,
        attempts_max,
        limits: tightened(&job.plan.limits, run_ms_max, imports_left(&job.plan.module, &tools).as_deref()),
    }
}

/// CAP lets an allowing answer demand an approval all the same.
fn effective(answer: &PolicyCheckResponse) -> i32 {
    use busbar_protocol::cap::DecisionType;
    let allows = matches!(answer.decision(), DecisionType::Allow | DecisionType::AllowWithConstraints);
    if allows && answer.approval_required { DecisionType::RequireHuman.into() } else { answer.decision }
}

fn packed(constraints: Option<&PolicyConstraints>) -> bytes::Bytes {
    constraints.map(|c| c.encode_to_vec().into()).unwrap_or_default()
}

/// The request with its payload replaced, where the kernel gave one in place of it. A reference to a blob goes: the worker would
/// prefer what the kernel did not want it to see.
fn redacted(request: &[u8], context_ptr: &str) -> Option<bytes::Bytes> {
    Pointer::parse(context_ptr).ok()?;
    let patch = JobRequest { context_ptr: context_ptr.to_owned(), ..JobRequest::default() };
    Some(envelope::patch_request(&envelope::without_context_ref(request), &patch))
}

/// The groups of functions that a guest may still import, where the decision says which tools may be used.
fn imports_left(module: &str, toolchain: &ToolchainConstraints) -> Option<Vec<ImportGroup>> {
    let tools = &toolchain.allowed_tools;
    let is_stated = !tools.is_empty() && !module.is_empty();
    is_stated.then(|| ImportGroup::ALL.into_iter().filter(|group| imports::is_among(*group, tools)).collect())
}

/// The sandbox limits under what a decision allows, which can only lower them; none where it says nothing of them.
fn tightened(limits: &str, run_ms_max: Option<u64>, imports: Option<&[ImportGroup]>) -> Option<String> {
    if run_ms_max.is_none() && imports.is_none() {
        return None;
    }
    let mut all: BTreeMap<String, Value> = serde_json::from_str(limits).unwrap_or_default();
    if let Some(most) = run_ms_max {
        let wall_ms = all.get("wall_ms").and_then(Value::as_u64).map_or(most, |wall_ms| wall_ms.min(most));
        all.insert("wall_ms".to_owned(), wall_ms.into());
    }
    if let Some(left) = imports {
        // A topic that says nothing of imports allows all of them.
        let own = all.get("imports").and_then(Value::as_array);
        let is_own = |name: &str| own.is_none_or(|own| own.iter().any(|group| group.as_str() == Some(name)));
        let both = left.iter().map(|group| group.as_str()).filter(|name| is_own(name));
        let both: Vec<Value> = both.map(Value::from).collect();
        all.insert("imports".to_owned(), both.into());
    }
    Some(serde_json::to_string(&all).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use busbar_protocol::cap::ResourceRef;

    use super::*;

    #[test]
    fn a_decision_lowers_the_wall_clock_and_leaves_every_other_limit() {
        let short = |limits| tightened(limits, Some(7), None);
        assert_eq!(short("").as_deref(), Some(r#"{"wall_ms":7}"#));
        assert_eq!(short(r#"{"wall_ms":5}"#).as_deref(), Some(r#"{"wall_ms":5}"#));
        let all = r#"{"cpu_ms":1,"imports":["files"],"repeatable":true,"wall_ms":9}"#;
        let lowered = r#"{"cpu_ms":1,"imports":["files"],"repeatable":true,"wall_ms":7}"#;
        assert_eq!(short(all).as_deref(), Some(lowered));
        assert_eq!(tightened(all, None, None), None, "it says nothing");
    }

    #[test]
    fn a_decision_takes_imports_away_and_gives_none() {
        let left = [ImportGroup::Files, ImportGroup::Reports];
        let narrow = |limits, left: &[ImportGroup]| tightened(limits, None, Some(left)).expect("lowered");
        assert_eq!(narrow("", &left), r#"{"imports":["files","reports"]}"#);
        assert_eq!(narrow(r#"{"cpu_ms":1}"#, &[]), r#"{"cpu_ms":1,"imports":[]}"#);
        assert_eq!(narrow(r#"{"imports":["reports","random"]}"#, &left), r#"{"imports":["reports"]}"#);
    }

    #[test]
    fn tools_are_groups_of_imports_for_guests_alone() {
        let toolchain = |tools: &[&str]| ToolchainConstraints {
            allowed_tools: tools.iter().map(|tool| (*tool).to_owned()).collect(),
            ..ToolchainConstraints::default()
        };
        assert_eq!(imports_left("sha256:0", &toolchain(&[])), None);
        assert_eq!(imports_left("sha256:0", &toolchain(&["cc", "wasm.random"])), Some(vec![ImportGroup::Random]));
        assert_eq!(imports_left("sha256:0", &toolchain(&["cc"])), Some(Vec::new()));
        assert_eq!(imports_left("", &toolchain(&["cc"])), None);
    }

    #[test]
    fn what_is_redacted_cannot_be_found_by_its_reference() {
        let blob = ResourceRef { resolver_id: "busbar.blobs".into(), uri: "blob:sha256:0".into(), ..ResourceRef::default() };
        let request = JobRequest { job_id: "a".into(), context_ref: Some(blob), ..JobRequest::default() };
        let instead = |context_ptr: &str| redacted(&request.encode_to_vec(), context_ptr);
        let seen = JobRequest { context_ptr: "redis://ctx:a.redacted".into(), context_ref: None, ..request.clone() };
        assert_eq!(instead("redis://ctx:a.redacted").map(|bytes| JobRequest::decode(bytes).expect("a request")), Some(seen));
        assert_eq!(instead(""), None);
    }
}
