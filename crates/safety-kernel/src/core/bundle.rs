//! Bundles: from text to compiled rules, or to the reason why not. A bundle is taken whole or not at all.

use std::collections::{BTreeMap, BTreeSet};

use busbar_protocol::cap::PolicyRemediation;
use busbar_protocol::ids;
use busbar_rules::constraints::RedactionLevel;
use busbar_rules::{Constraints, Glob, TopicPattern, imports};
use serde_saphyr::Spanned;

use crate::core::decision::Decision;
use crate::core::document::{ConstraintsDocument, Document, MatchDocument, RemediationDocument, RuleDocument, TenantDocument};
use crate::core::rule::{Conditions, Rule};
use crate::core::tenant::TenantPolicy;

/// The longest bundle, in bytes.
pub const BUNDLE_BYTES_MAX: usize = 256 * 1024;

/// The most rules that a bundle may have.
pub const RULES_MAX: usize = 1000;

/// What every topic of a job begins with: a glob that ends its literal part within it speaks of everybody's topics.
const TOPIC_ROOT: &str = "job.";

/// Whose bundle it is. No tier loosens another's denial or constraint: the strongest word of all holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// The operator's.
    Core,
    /// A tenant's: its rules name the tenants that they speak of.
    Tenant,
    /// A pack's: its rules speak only of its own topics.
    Pack,
}

impl Tier {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::Tenant => "tenant",
            Self::Pack => "pack",
        }
    }
}

/// A bundle as it was written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    /// Whose it is.
    pub tier: Tier,
    /// Its name; publishing under the same name replaces it.
    pub id: String,
    /// YAML.
    pub content: String,
    /// Tier pack: the topics that it may speak of.
    pub topics: Vec<String>,
}

/// A compiled bundle.
#[derive(Clone, Debug, PartialEq)]
pub struct Bundle {
    /// What it was compiled from.
    pub source: Source,
    /// The topics that its rules may speak of; empty means all.
    pub scope: Vec<TopicPattern>,
    /// The tenant of requests that name none.
    pub default_tenant: Option<String>,
    /// What holds where nothing matches.
    pub default_decision: Option<Decision>,
    /// Its rules.
    pub rules: Vec<Rule>,
    /// Its sections on tenants, by name in lower case.
    pub tenants: BTreeMap<String, TenantPolicy>,
}

/// Why a bundle is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bundle {bundle}: {place}: {problem}")]
pub struct BundleError {
    /// The bundle.
    pub bundle: String,
    /// Where in it.
    pub place: String,
    /// What is wrong there.
    pub problem: String,
}

impl Bundle {
    /// Compiles a bundle.
    ///
    /// # Errors
    /// [`BundleError`] names the first thing that is wrong, with its place.
    pub fn compile(source: Source) -> Result<Self, BundleError> {
        let name: String = source.id.chars().take(80).collect();
        build(source).map_err(|Wrong { place, problem }| BundleError { bundle: name, place, problem })
    }
}

/// What is wrong, and where; the bundle's name is added at the end.
struct Wrong {
    place: String,
    problem: String,
}

fn wrong(place: impl Into<String>, problem: impl Into<String>) -> Wrong {
    Wrong { place: place.into(), problem: problem.into() }
}

fn build(source: Source) -> Result<Bundle, Wrong> {
    ids::check(&source.id).map_err(|error| wrong("bundle_id", error.to_string()))?;
    let document = parse(&source.content)?;
    let scope = scope(&source)?;
    let rules = rules(document.rules.unwrap_or_default())?;
    check_tier(source.tier, &scope, &rules)?;
    if source.tier != Tier::Core && (document.default_decision.is_some() || document.default_tenant.is_some()) {
        return Err(wrong("the root", "only a bundle of tier core sets default_decision and default_tenant"));
    }
    if source.tier == Tier::Pack && document.tenants.as_ref().is_some_and(|tenants| !tenants.is_empty()) {
        return Err(wrong("tenants", "a pack does not speak of tenants"));
    }
    let tenants = document.tenants.unwrap_or_default().into_iter().map(tenant).collect::<Result<_, _>>()?;
    let default_decision = document.default_decision.as_ref().map(default_decision).transpose()?;
    Ok(Bundle { source, scope, default_tenant: document.default_tenant, default_decision, rules, tenants })
}

fn parse(content: &str) -> Result<Document, Wrong> {
    if content.len() > BUNDLE_BYTES_MAX {
        return Err(wrong("the root", format!("{} bytes are more than the {BUNDLE_BYTES_MAX} that are taken", content.len())));
    }
    let says_nothing = content.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'));
    if says_nothing {
        return Ok(Document::default());
    }
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options(content, options).map_err(|error| {
        let place =
            error.location().map_or_else(|| "the root".to_owned(), |at| format!("line {}, column {}", at.line(), at.column()));
        wrong(place, error.to_string())
    })
}

fn scope(source: &Source) -> Result<Vec<TopicPattern>, Wrong> {
    match (source.tier, source.topics.is_empty()) {
        (Tier::Pack, true) => Err(wrong("topics", "a bundle of tier pack must come with the topics that are its own")),
        (Tier::Core | Tier::Tenant, false) => Err(wrong("topics", "only a bundle of tier pack comes with topics")),
        (Tier::Core | Tier::Tenant, true) => Ok(Vec::new()),
        (Tier::Pack, false) => source
            .topics
            .iter()
            .map(|topic| TopicPattern::parse(topic).map_err(|error| wrong("topics", error.to_string())))
            .collect(),
    }
}

fn rules(documents: Vec<Spanned<RuleDocument>>) -> Result<Vec<Rule>, Wrong> {
    if documents.len() > RULES_MAX {
        return Err(wrong("rules", format!("more than {RULES_MAX}")));
    }
    let mut seen = BTreeSet::new();
    let mut rules = Vec::with_capacity(documents.len());
    for document in documents {
        let line = document.referenced.line();
        let rule = rule(document.value, line)?;
        if !seen.insert(rule.id.clone()) {
            return Err(wrong(format!("line {line}"), format!("a second rule has the id {}", rule.id)));
        }
        rules.push(rule);
    }
    Ok(rules)
}

fn rule(document: RuleDocument, line: u64) -> Result<Rule, Wrong> {
    ids::check(&document.id).map_err(|error| wrong(format!("line {line}"), error.to_string()))?;
    let id = document.id;
    let place = |part: &str| format!("rule {id}, {part}");
    let decision = Decision::parse(&document.decision.value).ok_or_else(|| {
        let at = document.decision.referenced.line();
        wrong(format!("rule {id}, line {at}"), format!("{:?} is no decision", document.decision.value))
    })?;
    let conditions =
        conditions(document.conditions.unwrap_or_default()).map_err(|problem| wrong(place("match.topics"), problem))?;
    let constraints =
        constraints(document.constraints.unwrap_or_default()).map_err(|problem| wrong(place("constraints"), problem))?;
    let remediations = document.remediations.unwrap_or_default().into_iter().map(remediation).collect();
    Ok(Rule { conditions, decision, reason: document.reason.unwrap_or_default(), constraints, remediations, id })
}

fn conditions(document: MatchDocument) -> Result<Conditions, String> {
    Ok(Conditions {
        tenants: lower(&document.tenants),
        topics: globs(&document.topics)?,
        capabilities: lower(&document.capabilities),
        pack_ids: lower(&document.pack_ids),
        actor_ids: lower(&document.actor_ids),
        actor_types: lower(&document.actor_types),
        risk_tags: lower(&document.risk_tags),
        requires: lower(&document.requires),
        labels: document.labels,
        secrets_present: document.secrets_present,
        mcp: document.mcp.map(Into::into),
    })
}

fn constraints(document: ConstraintsDocument) -> Result<Constraints, String> {
    let redaction_level = document
        .redaction_level
        .map(|text| {
            RedactionLevel::parse(&text).ok_or_else(|| format!("redaction_level {text:?} is not none, low, medium, high or full"))
        })
        .transpose()?;
    let (budgets, sandbox, tools, diff) = (document.budgets, document.sandbox, document.toolchain, document.diff);
    Ok(Constraints {
        max_runtime_ms: positive("budgets.max_runtime_ms", budgets.max_runtime_ms)?,
        max_retries: positive("budgets.max_retries", budgets.max_retries)?,
        max_artifact_bytes: positive("budgets.max_artifact_bytes", budgets.max_artifact_bytes)?,
        max_concurrent_jobs: positive("budgets.max_concurrent_jobs", budgets.max_concurrent_jobs)?,
        isolated: sandbox.isolated,
        network_allowlist: sandbox.network_allowlist.map(set),
        fs_read_only: sandbox.fs_read_only.map(set),
        fs_read_write: sandbox.fs_read_write.map(set),
        allowed_tools: tools.allowed_tools.map(known_tools).transpose()?,
        allowed_commands: tools.allowed_commands.map(set),
        max_files: positive("diff.max_files", diff.max_files)?,
        max_lines: positive("diff.max_lines", diff.max_lines)?,
        deny_path_globs: set(diff.deny_path_globs),
        redaction_level,
    })
}

/// What is named like a group of imports must be one.
fn known_tools(tools: Vec<String>) -> Result<BTreeSet<String>, String> {
    match imports::no_group(tools.iter().map(String::as_str)) {
        Some(tool) => Err(format!("toolchain.allowed_tools: {tool:?} is no group of functions that guests import")),
        None => Ok(set(tools)),
    }
}

/// On the wire 0 means "not stated", so that a limit of 0 would be no limit at all.
fn positive<T: PartialOrd + From<u8>>(name: &str, value: Option<T>) -> Result<Option<T>, String> {
    match value {
        Some(value) if value < T::from(1) => Err(format!("{name} must be at least 1")),
        other => Ok(other),
    }
}

fn remediation(document: RemediationDocument) -> PolicyRemediation {
    PolicyRemediation {
        id: document.id,
        title: document.title,
        summary: document.summary,
        replacement_topic: document.replacement_topic,
        replacement_capability: document.replacement_capability,
        add_labels: document.add_labels,
        remove_labels: document.remove_labels,
    }
}

fn tenant((name, document): (String, Option<TenantDocument>)) -> Result<(String, TenantPolicy), Wrong> {
    let document = document.unwrap_or_default();
    let place = |part: &str| format!("tenants.{name}.{part}");
    if !document.allowed_repo_hosts.is_empty() || !document.denied_repo_hosts.is_empty() {
        let problem = "repository hosts are not known to the kernel, so that this would promise what nothing enforces";
        return Err(wrong(place("allowed_repo_hosts"), problem));
    }
    let max_concurrent_jobs = positive("max_concurrent_jobs", document.max_concurrent_jobs)
        .map_err(|problem| wrong(place("max_concurrent_jobs"), problem))?;
    let policy = TenantPolicy {
        allow_topics: globs(&document.allow_topics).map_err(|problem| wrong(place("allow_topics"), problem))?,
        deny_topics: globs(&document.deny_topics).map_err(|problem| wrong(place("deny_topics"), problem))?,
        mcp: document.mcp.map(Into::into),
        constraints: Constraints { max_concurrent_jobs, ..Constraints::default() },
    };
    Ok((name.to_lowercase(), policy))
}

fn default_decision(text: &Spanned<String>) -> Result<Decision, Wrong> {
    match Decision::parse(&text.value) {
        Some(decision @ (Decision::Allow | Decision::RequireHuman | Decision::Deny)) => Ok(decision),
        Some(_) | None => {
            let problem = format!("default_decision must be allow, require_human or deny, not {:?}", text.value);
            Err(wrong(format!("line {}", text.referenced.line()), problem))
        }
    }
}

/// A tenant's rules must name tenants, a pack's rules topics of its own: otherwise they would speak for everybody.
fn check_tier(tier: Tier, scope: &[TopicPattern], rules: &[Rule]) -> Result<(), Wrong> {
    for rule in rules {
        let refuse = |part: &str, problem: String| Err(wrong(format!("rule {}, match.{part}", rule.id), problem));
        match tier {
            Tier::Core => {}
            Tier::Tenant if rule.conditions.tenants.is_empty() => {
                return refuse("tenants", "a rule of tier tenant must name the tenants that it speaks of".into());
            }
            Tier::Tenant => {}
            Tier::Pack if rule.conditions.topics.is_empty() => {
                return refuse("topics", "a rule of tier pack must name the topics that it speaks of".into());
            }
            Tier::Pack => {
                if let Some(glob) = rule.conditions.topics.iter().find(|glob| !is_own(glob, scope)) {
                    return refuse("topics", format!("{} is not a topic of the pack", glob.as_str()));
                }
            }
        }
    }
    Ok(())
}

/// Whether a glob of a pack's rule keeps to the pack's topics, as far as its text shows. What it matches beyond them it does
/// not speak of: [`Rule::mismatch`] looks at the scope first.
fn is_own(glob: &Glob, scope: &[TopicPattern]) -> bool {
    let prefix = glob.literal_prefix();
    let shares = |pattern: &TopicPattern| {
        let own = pattern.literal_prefix().to_lowercase();
        if pattern.is_exact() { glob.matches(&own) } else { prefix.starts_with(&own) || own.starts_with(&prefix) }
    };
    let reaches_everywhere = TOPIC_ROOT.starts_with(&prefix);
    !reaches_everywhere && scope.iter().any(shares)
}

fn globs(texts: &[String]) -> Result<Vec<Glob>, String> {
    texts.iter().map(|text| Glob::compile(text).map_err(|error| error.to_string())).collect()
}

fn lower(texts: &[String]) -> BTreeSet<String> {
    texts.iter().map(|text| text.to_lowercase()).collect()
}

fn set(texts: Vec<String>) -> BTreeSet<String> {
    texts.into_iter().collect()
}

#[cfg(test)]
mod tests;
