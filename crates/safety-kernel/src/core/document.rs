//! The YAML of a bundle, word for word. Every mapping is closed: a key that is not here refuses the whole bundle, because a
//! misspelt condition would silently widen a rule.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_saphyr::Spanned;

/// The root.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Document {
    /// For people; part of the content and so of the snapshot.
    pub version: Option<String>,
    /// The tenant of requests that name none. Tier core only.
    pub default_tenant: Option<String>,
    /// What holds where no rule matches. Tier core only.
    pub default_decision: Option<Spanned<String>>,
    /// The rules, in no order that matters.
    pub rules: Option<Vec<Spanned<RuleDocument>>>,
    /// What tenants may.
    pub tenants: Option<BTreeMap<String, Option<TenantDocument>>>,
}

/// One rule.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleDocument {
    /// Unique in its bundle.
    pub id: String,
    /// All given conditions must hold; none means always.
    #[serde(default, rename = "match")]
    pub conditions: Option<MatchDocument>,
    /// A decision or one of its synonyms.
    pub decision: Spanned<String>,
    /// Told to whoever submitted the job.
    #[serde(default)]
    pub reason: Option<String>,
    /// Limits for jobs that may run.
    #[serde(default)]
    pub constraints: Option<ConstraintsDocument>,
    /// What the submitter could do instead.
    #[serde(default)]
    pub remediations: Option<Vec<RemediationDocument>>,
}

/// The conditions of a rule.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MatchDocument {
    /// The tenant is one of these.
    pub tenants: Vec<String>,
    /// The topic matches one of these globs.
    pub topics: Vec<String>,
    /// The capability is one of these.
    pub capabilities: Vec<String>,
    /// The pack is one of these.
    pub pack_ids: Vec<String>,
    /// The actor is one of these.
    pub actor_ids: Vec<String>,
    /// `human`, `service`.
    pub actor_types: Vec<String>,
    /// At least one of these is among the job's.
    pub risk_tags: Vec<String>,
    /// All of these are among the job's.
    pub requires: Vec<String>,
    /// Exactly these labels.
    pub labels: BTreeMap<String, String>,
    /// Whether secrets are present.
    pub secrets_present: Option<bool>,
    /// A request that uses MCP must pass these lists.
    pub mcp: Option<McpDocument>,
}

/// Lists of MCP names; an empty allow list allows all.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct McpDocument {
    /// Servers.
    pub allow_servers: Vec<String>,
    /// Servers.
    pub deny_servers: Vec<String>,
    /// Tools.
    pub allow_tools: Vec<String>,
    /// Tools.
    pub deny_tools: Vec<String>,
    /// Resources.
    pub allow_resources: Vec<String>,
    /// Resources.
    pub deny_resources: Vec<String>,
    /// Actions.
    pub allow_actions: Vec<String>,
    /// Actions.
    pub deny_actions: Vec<String>,
}

/// Limits.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConstraintsDocument {
    /// Amounts.
    pub budgets: BudgetsDocument,
    /// What a sandbox grants.
    pub sandbox: SandboxDocument,
    /// What may be used.
    pub toolchain: ToolchainDocument,
    /// What a change may touch.
    pub diff: DiffDocument,
    /// `none`, `low`, `medium`, `high` or `full`.
    pub redaction_level: Option<String>,
}

/// Amounts; each at least 1.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BudgetsDocument {
    /// Milliseconds.
    pub max_runtime_ms: Option<i64>,
    /// Attempts after the first.
    pub max_retries: Option<i32>,
    /// Bytes.
    pub max_artifact_bytes: Option<i64>,
    /// Jobs at the same time.
    pub max_concurrent_jobs: Option<i32>,
}

/// What a sandbox grants; a list that is given and empty grants nothing.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SandboxDocument {
    /// Runs apart.
    pub isolated: bool,
    /// Hosts.
    pub network_allowlist: Option<Vec<String>>,
    /// Paths.
    pub fs_read_only: Option<Vec<String>>,
    /// Paths.
    pub fs_read_write: Option<Vec<String>>,
}

/// What may be used.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ToolchainDocument {
    /// Tools.
    pub allowed_tools: Option<Vec<String>>,
    /// Commands.
    pub allowed_commands: Option<Vec<String>>,
}

/// What a change may touch.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiffDocument {
    /// Files.
    pub max_files: Option<i32>,
    /// Lines.
    pub max_lines: Option<i32>,
    /// Paths that must not be touched.
    pub deny_path_globs: Vec<String>,
}

/// A way out for the submitter.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RemediationDocument {
    /// Its name.
    pub id: String,
    /// One line.
    pub title: String,
    /// A few lines.
    pub summary: String,
    /// Use this topic.
    pub replacement_topic: String,
    /// Use this capability.
    pub replacement_capability: String,
    /// Add these labels.
    pub add_labels: BTreeMap<String, String>,
    /// Remove these labels.
    pub remove_labels: Vec<String>,
}

/// What one tenant may.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TenantDocument {
    /// Globs: these topics are allowed, and no others.
    pub allow_topics: Vec<String>,
    /// Globs: these topics are denied.
    pub deny_topics: Vec<String>,
    /// Not supported: nothing tells the kernel of repositories.
    pub allowed_repo_hosts: Vec<String>,
    /// Not supported: nothing tells the kernel of repositories.
    pub denied_repo_hosts: Vec<String>,
    /// Jobs at the same time.
    pub max_concurrent_jobs: Option<i32>,
    /// A request that uses MCP must pass these lists.
    pub mcp: Option<McpDocument>,
}
