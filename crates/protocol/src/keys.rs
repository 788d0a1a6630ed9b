//! Names of the records, indexes, logs and payloads in Redis.

/// The log of job transitions.
pub const LOG_JOBS: &str = "ev:jobs";
/// How far the log of job transitions was told on the bus: a record that holds a cursor.
pub const LOG_JOBS_RELAYED: &str = "ev:jobs:relayed";
/// Live jobs, scored by creation time.
pub const INDEX_LIVE: &str = "job:live";
/// Dead letters, scored by the time of death.
pub const INDEX_DEAD: &str = "dlq:index";
/// The lease of the active scheduler.
pub const LOCK_SCHEDULER: &str = "lock:scheduler";
/// All topic documents.
pub const TOPICS: &str = "cfg:topics";
/// Ids of published policy bundles, scored by publication time.
pub const INDEX_BUNDLES: &str = "policy:bundles";

/// The record of a job.
#[must_use]
pub fn job(job_id: &str) -> String {
    format!("job:meta:{job_id}")
}

/// Finished jobs of a tenant, scored by creation time.
#[must_use]
pub fn index_finished(tenant_id: &str) -> String {
    format!("job:recent:{tenant_id}")
}

/// The payload that a job works on.
#[must_use]
pub fn context(job_id: &str) -> String {
    format!("ctx:{job_id}")
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
    format!("dlq:entry:{job_id}")
}

/// Which job an idempotency key of a tenant stands for. The key is hashed, so that any text is a good key.
#[must_use]
pub fn idempotency(tenant_id: &str, key: &str) -> String {
    use sha2::{Digest, Sha256};
    use std::fmt::Write as _;
    let mut name = format!("idem:{tenant_id}:");
    for byte in &Sha256::digest(key.as_bytes())[..16] {
        let _ = write!(name, "{byte:02x}");
    }
    name
}

/// A policy bundle.
#[must_use]
pub fn bundle(bundle_id: &str) -> String {
    format!("policy:bundle:{bundle_id}")
}

/// An artifact's record.
#[must_use]
pub fn artifact(artifact_id: &str) -> String {
    format!("art:{artifact_id}")
}

/// An API key's record, by the SHA-256 of the key.
#[must_use]
pub fn api_key(sha256_hex: &str) -> String {
    format!("key:{sha256_hex}")
}
