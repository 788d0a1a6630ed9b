//! `topics.yaml`: the topics of a pack, and the topic documents that follow from them.

use std::collections::BTreeSet;

use busbar_protocol::busbar::{
    Comparison, FlowLimits, KeyLimits, KeyStrategy, Rate, Replication, ReplicationTrust, TopicDocument,
};
use busbar_protocol::imports::ImportGroup;
use busbar_protocol::subjects;
use serde::{Deserialize, Serialize};

use super::manifest::in_pack;
use super::names::check_topic;
use super::{Broken, Module};
use crate::Schema;
use crate::replication::Terms;

/// `topics.yaml`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TopicsFile {
    /// The pack's topics.
    pub(super) topics: Vec<TopicEntry>,
}

/// One topic of a pack. What is left out has the scheduler's default.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TopicEntry {
    /// Exact, or with `*` for one token, or ending in `>` for the rest.
    pub(super) topic: String,
    /// Pools that serve it.
    pools: Vec<String>,
    /// A module of the pack; none means a handler of the worker's own.
    module: Option<String>,
    /// The file with the JSON Schema of the input.
    pub(super) input_schema: Option<String>,
    /// The file with the JSON Schema of the output.
    pub(super) output_schema: Option<String>,
    /// How long things may take.
    #[serde(default)]
    timeouts: Timeouts,
    /// What happens when an attempt does not succeed.
    #[serde(default)]
    retries: Retries,
    /// What a guest may use.
    limits: Option<Limits>,
    /// How long results stay, in milliseconds.
    #[serde(default)]
    result_ttl_ms: u64,
    /// Reach workers through the topic's queue group only.
    #[serde(default)]
    queue_only: bool,
    /// How many attempts may be in flight through the queue group.
    #[serde(default)]
    queue_in_flight_max: u32,
    /// How many of its jobs at once, and how fast.
    flow: Option<Flow>,
    /// The same for its jobs that carry one concurrency key.
    key: Option<Key>,
    /// How many workers must come to the same result.
    replication: Option<Replicas>,
}

/// How many owners of workers must agree on a result.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Replicas {
    quorum: u32,
    /// If it is left out, twice the quorum and one; with trust, [`REPLICAS_MAX_DEFAULT`].
    replicas_max: Option<u32>,
    #[serde(default)]
    compare: Compare,
    trust: Option<Trust>,
    /// The topic whose jobs check each result before it counts: one of the same pack.
    verifier: Option<String>,
}

/// In which form results are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Compare {
    #[default]
    Exact,
    Json,
}

/// What trust is measured by.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Trust {
    error_max: f64,
    #[serde(default = "liars_default")]
    liars_max: f64,
    #[serde(default = "audits_default")]
    audit_share: f64,
}

/// How many replicas of a job there may be where owners earn trust: newcomers need more of them.
const REPLICAS_MAX_DEFAULT: u32 = 16;

/// One owner of ten.
const fn liars_default() -> f64 {
    0.1
}

/// One job of twenty.
const fn audits_default() -> f64 {
    0.05
}

/// A share as so many of so many; what is no share is none.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and a billion; what is not saturates")]
fn parts(share: f64, of: u32) -> u32 {
    (share * f64::from(of)).round() as u32
}

impl From<&Replicas> for Replication {
    fn from(replicas: &Replicas) -> Self {
        let compare = match replicas.compare {
            Compare::Exact => Comparison::Exact,
            Compare::Json => Comparison::Json,
        };
        let trust = replicas.trust.as_ref().map(|trust| ReplicationTrust {
            wrong_per_billion: parts(trust.error_max, 1_000_000_000),
            liars_per_million: parts(trust.liars_max, 1_000_000),
            audited_per_million: parts(trust.audit_share, 1_000_000),
        });
        let twice = replicas.quorum.saturating_mul(2).saturating_add(1);
        let usual = if trust.is_some() { REPLICAS_MAX_DEFAULT } else { twice };
        let replicas_max = replicas.replicas_max.unwrap_or(usual);
        let verifier = replicas.verifier.clone().unwrap_or_default();
        Self { quorum: replicas.quorum, replicas_max, compare: compare.into(), trust, verifier }
    }
}

/// How many jobs at once, and how fast; 0, or left out, means no bound.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Flow {
    concurrency_max: u32,
    starts: Option<Pace>,
    admissions: Option<Pace>,
    backlog_max: u64,
}

/// So many in so much time.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pace {
    count: u32,
    #[serde(default)]
    per_ms: u64,
    #[serde(default)]
    burst: u32,
}

/// Bounds for jobs that carry the same concurrency key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Key {
    concurrency_max: u32,
    strategy: Strategy,
    starts: Option<Pace>,
}

/// What happens when a job comes whose key has no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Strategy {
    #[default]
    Queue,
    Reject,
    CancelOldest,
}

impl From<&Pace> for Rate {
    fn from(pace: &Pace) -> Self {
        Self { count: pace.count, per_ms: pace.per_ms, burst: pace.burst }
    }
}

impl From<&Flow> for FlowLimits {
    fn from(flow: &Flow) -> Self {
        Self {
            concurrency_max: flow.concurrency_max,
            starts: flow.starts.as_ref().map(Rate::from),
            admissions: flow.admissions.as_ref().map(Rate::from),
            backlog_max: flow.backlog_max,
        }
    }
}

impl From<&Key> for KeyLimits {
    fn from(key: &Key) -> Self {
        let strategy = match key.strategy {
            Strategy::Queue => KeyStrategy::Queue,
            Strategy::Reject => KeyStrategy::Reject,
            Strategy::CancelOldest => KeyStrategy::CancelOldest,
        };
        let starts = key.starts.as_ref().map(Rate::from);
        Self { concurrency_max: key.concurrency_max, strategy: strategy.into(), starts }
    }
}

/// How long things may take, in milliseconds; 0 means the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Timeouts {
    schedule_to_start_ms: u64,
    start_to_close_ms: u64,
    heartbeat_timeout_ms: u64,
    deadline_ms: u64,
}

/// What happens when an attempt does not succeed; 0 means the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Retries {
    max_attempts: u32,
    backoff_initial_ms: u64,
    backoff_max_ms: u64,
    /// Error codes after which no other attempt is made.
    non_retryable_codes: Vec<String>,
    /// After so many workers died with a job in their hands it is not tried again.
    crash_limit: u32,
}

/// What a guest may use; what is left out has the sandbox's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Limits {
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wall_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tmp_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tmp_files: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    open_handles: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    table_elements: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    random_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fuel: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repeatable: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    imports: Option<BTreeSet<ImportGroup>>,
}

impl TopicsFile {
    /// The files that its topics name.
    pub(super) fn schemas(&self) -> impl Iterator<Item = &str> {
        self.topics.iter().flat_map(|entry| [&entry.input_schema, &entry.output_schema]).flatten().map(String::as_str)
    }

    /// Refuses verifiers that are no topics of the pack, or whose own word would have to be checked, or known to be anybody's.
    pub(super) fn check_verifiers(&self) -> Result<(), Broken> {
        for entry in &self.topics {
            let Some(verifier) = entry.replication.as_ref().and_then(|replicas| replicas.verifier.as_ref()) else { continue };
            let refuse = |rule: &str| Err(Broken::new(format!("topics.yaml: {}: replication: verifier", entry.topic), rule));
            let Some(named) = self.topics.iter().find(|other| other.topic == *verifier) else {
                return refuse("must be a topic of the same pack");
            };
            if named.replication.is_some() || named.queue_only || !subjects::is_topic(verifier) {
                return refuse(
                    "must be a plain topic without replication and queue_only: its workers are those that are believed",
                );
            }
            if entry.input_schema.is_none() {
                return refuse("needs an input_schema beside it: the verifier is given the input as JSON");
            }
        }
        Ok(())
    }

    /// Refuses files that do not lie in the pack.
    pub(super) fn check_paths(&self) -> Result<(), Broken> {
        self.schemas().try_for_each(|file| in_pack(&format!("topics.yaml: {file}"), file))
    }
}

impl TopicEntry {
    /// The topic document that it stands for, with the texts of its schemas.
    pub(super) fn document(
        &self,
        pack_id: &str,
        modules: &[Module],
        [input_schema, output_schema]: [Option<&str>; 2],
    ) -> Result<TopicDocument, Broken> {
        let place = |member: &str| format!("topics.yaml: {}: {member}", self.topic);
        check_topic(pack_id, &self.topic)?;
        if self.pools.is_empty() || self.pools.iter().any(String::is_empty) {
            return Err(Broken::new(place("pools"), "must name at least one pool"));
        }
        for (member, schema) in [("input_schema", input_schema), ("output_schema", output_schema)] {
            if let Some(text) = schema {
                Schema::compile(text).map_err(|error| Broken::new(place(member), error.to_string()))?;
            }
        }
        let replication = self.replication.as_ref().map(Replication::from);
        if let Some(replication) = &replication {
            Terms::from(replication).check().map_err(|error| Broken::new(place("replication"), error.to_string()))?;
            if self.queue_only {
                return Err(Broken::new(
                    place("replication"),
                    "cannot stand beside queue_only: nobody could tell the workers apart",
                ));
            }
        }
        Ok(TopicDocument {
            topic: self.topic.clone(),
            pools: self.pools.clone(),
            module: self.module_of(modules)?,
            input_schema: input_schema.unwrap_or_default().to_owned(),
            output_schema: output_schema.unwrap_or_default().to_owned(),
            schedule_to_start_ms: self.timeouts.schedule_to_start_ms,
            start_to_close_ms: self.timeouts.start_to_close_ms,
            deadline_ms: self.timeouts.deadline_ms,
            max_attempts: self.retries.max_attempts,
            backoff_initial_ms: self.retries.backoff_initial_ms,
            backoff_max_ms: self.retries.backoff_max_ms,
            limits: self.limits.as_ref().map(limits_json).unwrap_or_default(),
            pack_id: pack_id.to_owned(),
            result_ttl_ms: self.result_ttl_ms,
            queue_only: self.queue_only,
            queue_in_flight_max: self.queue_in_flight_max,
            flow: self.flow.as_ref().map(FlowLimits::from),
            key: self.key.as_ref().map(KeyLimits::from),
            heartbeat_timeout_ms: self.timeouts.heartbeat_timeout_ms,
            non_retryable_codes: self.retries.non_retryable_codes.clone(),
            crash_limit: self.retries.crash_limit,
            replication,
        })
    }

    fn module_of(&self, modules: &[Module]) -> Result<String, Broken> {
        let Some(name) = &self.module else { return Ok(String::new()) };
        let module = modules.iter().find(|module| module.name == *name).ok_or_else(|| {
            let rule = format!("{name:?} is not among the modules of pack.yaml");
            Broken::new(format!("topics.yaml: {}: module", self.topic), rule)
        })?;
        Ok(format!("sha256:{}", module.sha256))
    }
}

fn limits_json(limits: &Limits) -> String {
    serde_json::to_string(limits).expect("numbers under text keys are always JSON")
}
