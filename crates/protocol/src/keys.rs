//! Names of the records, indexes, logs and payloads in Redis.

use crate::hex;
use crate::ports::CommitId;

/// The log of job transitions.
pub const LOG_JOBS: &str = "ev:jobs";
/// How far the log of job transitions was told on the bus: a record that holds a cursor.
pub const LOG_JOBS_RELAYED: &str = "ev:jobs:relayed";
/// The log of changes of runs.
pub const LOG_RUNS: &str = "ev:runs";
/// How far the log of changes of runs was told on the bus: a record that holds a cursor.
pub const LOG_RUNS_RELAYED: &str = "ev:runs:relayed";
/// Live runs, scored by creation time.
pub const INDEX_LIVE_RUNS: &str = "wf:live";
/// Ended runs whose items have not all been made to expire yet, scored by the time of their end.
pub const INDEX_RETIRING: &str = "wf:retiring";
/// The lease of the active workflow engine.
pub const LOCK_ENGINE: &str = "lock:workflow-engine";
/// Live jobs, scored by creation time; while an attempt is out, by that time with a minus, so that who takes over reads them first.
pub const INDEX_LIVE: &str = "job:live";
/// What is paused, and which workers drain.
pub const HOLDS: &str = "job:holds";
/// What is known of the owners of workers whose results are compared.
pub const QUORUM_CREDITS: &str = "quorum:credits";
/// What makes the scheduler's draws unforeseeable.
pub const QUORUM_SECRET: &str = "quorum:secret";
/// The enrolled keys of workers.
pub const ENROLMENTS: &str = "trust:keys";
/// Bounds of tenants and topics.
pub const LIMITS: &str = "cfg:limits";
/// Dead letters, scored by the time of death.
pub const INDEX_DEAD: &str = "dlq:index";
/// The lease of the active scheduler.
pub const LOCK_SCHEDULER: &str = "lock:scheduler";
/// All topic documents.
pub const TOPICS: &str = "cfg:topics";
/// Ids of packs that are installed or on their way, scored by the time of the first installation.
pub const INDEX_PACKS: &str = "cfg:packs";
/// The lease of whoever installs a pack or takes one away.
pub const LOCK_PACKS: &str = "lock:packs";
/// Digests of API keys, scored by creation time.
pub const INDEX_API_KEYS: &str = "key:index";
/// Ids of published policy bundles, scored by publication time.
pub const INDEX_BUNDLES: &str = "policy:bundles";

/// The lease of whoever collects blobs.
pub const LOCK_BLOBS: &str = "lock:blobs";
/// What the records of jobs begin with.
pub const JOBS: &str = "job:meta:";
/// What the records of dead letters begin with.
pub const DEAD_LETTERS: &str = "dlq:entry:";
/// What the records of packs begin with.
pub const PACKS: &str = "cfg:pack:";
/// What the records of artifacts begin with.
pub const ARTIFACTS: &str = "art:";

/// The record of a job.
#[must_use]
pub fn job(job_id: &str) -> String {
    [JOBS, job_id].concat()
}

/// A challenge that a worker has yet to answer.
#[must_use]
pub fn challenge(challenge_id: &str) -> String {
    format!("trust:challenge:{challenge_id}")
}

/// A production-signed message that was taken: of these parts, hashed.
#[must_use]
pub fn taken_message(tenant_id: &str, audience: &str, sender_id: &str, message_id: &[u8]) -> String {
    // Neither tenants nor subjects nor senders of packets that count hold a space.
    hashed("trust:taken:".to_owned(), &format!("{tenant_id} {audience} {sender_id} {}", hex::encode(message_id)))
}

/// The session that a token stands for. The token itself is nowhere.
#[must_use]
pub fn worker_session(token: &str) -> String {
    hashed("trust:session:".to_owned(), token)
}

/// Finished jobs of a tenant, scored by creation time.
#[must_use]
pub fn index_finished(tenant_id: &str) -> String {
    format!("job:recent:{tenant_id}")
}

/// The payload that a job works on.
#[must_use]
pub fn context(job_id: &str) -> String {
    ["ctx:", job_id].concat()
}

/// Stands there for a submission that was taken back: it must not become a job any more.
#[must_use]
pub fn revoked(job_id: &str) -> String {
    ["job:revoked:", job_id].concat()
}

/// Where a CAP worker leaves a result.
#[must_use]
pub fn result(job_id: &str) -> String {
    format!("res:{job_id}")
}

/// Where the accepted result of an attempt stands.
#[must_use]
pub fn attempt_result(job_id: &str, attempt: u32) -> String {
    format!("res:{job_id}:{attempt}")
}

/// The log lines of an attempt.
#[must_use]
pub fn attempt_log(job_id: &str, attempt: u32) -> String {
    format!("log:{job_id}:{attempt}")
}

/// The last checkpoint of an attempt.
#[must_use]
pub fn attempt_checkpoint(job_id: &str, attempt: u32) -> String {
    format!("chk:{job_id}:{attempt}")
}

/// A dead letter.
#[must_use]
pub fn dead_letter(job_id: &str) -> String {
    format!("{DEAD_LETTERS}{job_id}")
}

/// Dead letters of a tenant, scored by the time of death.
#[must_use]
pub fn index_dead(tenant_id: &str) -> String {
    format!("dlq:index:{tenant_id}")
}

/// Which job an idempotency key of a tenant stands for. The key is hashed, so that any text is a good key.
#[must_use]
pub fn idempotency(tenant_id: &str, key: &str) -> String {
    hashed(format!("idem:{tenant_id}:"), key)
}

fn hashed(mut name: String, key: &str) -> String {
    use sha2::{Digest, Sha256};
    hex::append(&mut name, &Sha256::digest(key.as_bytes())[..16]);
    name
}

/// Whose a workflow is, as a part of its keys: a pack's workflows belong to every tenant. No tenant is called `*`.
fn workflow_owner(tenant_id: &str) -> &str {
    if tenant_id.is_empty() { "*" } else { tenant_id }
}

/// The newest version of a workflow. The tenant is empty for a pack's.
#[must_use]
pub fn workflow(tenant_id: &str, workflow_id: &str) -> String {
    format!("wf:def:{}:{workflow_id}", workflow_owner(tenant_id))
}

/// One version of a workflow. The tenant is empty for a pack's.
#[must_use]
pub fn workflow_version(tenant_id: &str, workflow_id: &str, number: u32) -> String {
    format!("wf:def:{}:{workflow_id}:{number}", workflow_owner(tenant_id))
}

/// Ids of a tenant's workflows, or of the packs' where the tenant is empty, scored by the time of the newest version.
#[must_use]
pub fn index_workflows(tenant_id: &str) -> String {
    format!("wf:index:{}", workflow_owner(tenant_id))
}

/// The record of a run.
#[must_use]
pub fn run(run_id: &str) -> String {
    format!("wf:run:{run_id}")
}

/// All runs of a tenant, scored by creation time.
#[must_use]
pub fn index_runs(tenant_id: &str) -> String {
    format!("wf:runs:{tenant_id}")
}

/// A tenant's runs of one workflow, scored by creation time. Workflow ids hold no colon.
#[must_use]
pub fn index_runs_of(tenant_id: &str, workflow_id: &str) -> String {
    format!("wf:runs-of:{tenant_id}:{workflow_id}")
}

/// A step of a run.
#[must_use]
pub fn step(run_id: &str, step_id: &str) -> String {
    format!("wf:step:{run_id}:{step_id}")
}

/// An item of a `for_each` step of a run, counted from 0.
#[must_use]
pub fn step_item(run_id: &str, step_id: &str, item: u32) -> String {
    format!("wf:step:{run_id}:{step_id}:{item}")
}

/// The input of a run.
#[must_use]
pub fn run_input(run_id: &str) -> String {
    format!("wf:in:{run_id}")
}

/// The output of a run.
#[must_use]
pub fn run_output(run_id: &str) -> String {
    format!("wf:out:{run_id}")
}

/// The output of a step.
#[must_use]
pub fn step_output(run_id: &str, step_id: &str) -> String {
    format!("wf:out:{run_id}:{step_id}")
}

/// The output of an item of a `for_each` step, counted from 0.
#[must_use]
pub fn item_output(run_id: &str, step_id: &str, item: u32) -> String {
    format!("wf:out:{run_id}:{step_id}:{item}")
}

/// A value on its way to the place where it will stand: the commit that speaks of it takes it there. The name is used once.
#[must_use]
pub fn staged(id: CommitId) -> String {
    let mut name = "wf:staged:".to_owned();
    hex::append(&mut name, &id.0);
    name
}

/// What a `for_each` step goes over.
#[must_use]
pub fn step_items(run_id: &str, step_id: &str) -> String {
    format!("wf:items:{run_id}:{step_id}")
}

/// The log of one run's changes.
#[must_use]
pub fn run_timeline(run_id: &str) -> String {
    format!("wf:run:timeline:{run_id}")
}

/// Which run an idempotency key of a tenant stands for. The key is hashed, so that any text is a good key.
#[must_use]
pub fn run_idempotency(tenant_id: &str, key: &str) -> String {
    hashed(format!("wf:idem:{tenant_id}:"), key)
}

/// A pack.
#[must_use]
pub fn pack(pack_id: &str) -> String {
    format!("{PACKS}{pack_id}")
}

/// A policy bundle.
#[must_use]
pub fn bundle(bundle_id: &str) -> String {
    format!("policy:bundle:{bundle_id}")
}

/// An artifact's record.
#[must_use]
pub fn artifact(artifact_id: &str) -> String {
    format!("{ARTIFACTS}{artifact_id}")
}

/// An API key's record, by the SHA-256 of the key.
#[must_use]
pub fn api_key(sha256_hex: &str) -> String {
    format!("key:{sha256_hex}")
}
