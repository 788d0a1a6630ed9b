//! One rule: its conditions, and what it says where they hold.

use std::collections::{BTreeMap, BTreeSet};

use busbar_protocol::cap::PolicyRemediation;
use busbar_rules::{Constraints, Glob, TopicPattern};

use crate::core::decision::Decision;
use crate::core::facts::Facts;
use crate::core::mcp::McpLists;

/// A compiled rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Unique in its bundle.
    pub id: String,
    /// When it speaks.
    pub conditions: Conditions,
    /// What it says.
    pub decision: Decision,
    /// Why; may be empty.
    pub reason: String,
    /// Within which limits.
    pub constraints: Constraints,
    /// What could be done instead.
    pub remediations: Vec<PolicyRemediation>,
}

/// All of these must hold. Empty lists and `None` hold always.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// The tenant is one of these.
    pub tenants: BTreeSet<String>,
    /// The topic matches one of these.
    pub topics: Vec<Glob>,
    /// The capability is one of these.
    pub capabilities: BTreeSet<String>,
    /// The pack is one of these.
    pub pack_ids: BTreeSet<String>,
    /// The actor is one of these.
    pub actor_ids: BTreeSet<String>,
    /// The actor is of one of these types.
    pub actor_types: BTreeSet<String>,
    /// At least one of these is among the job's.
    pub risk_tags: BTreeSet<String>,
    /// All of these are among the job's.
    pub requires: BTreeSet<String>,
    /// Exactly these labels are there.
    pub labels: BTreeMap<String, String>,
    /// Whether secrets are present.
    pub secrets_present: Option<bool>,
    /// What is done over MCP passes these lists.
    pub mcp: Option<McpLists>,
}

impl Rule {
    /// The first condition that does not hold. `scope` are the topics that the rule's bundle may speak of; empty means all.
    #[must_use]
    pub fn mismatch(&self, facts: &Facts<'_>, scope: &[TopicPattern]) -> Option<&'static str> {
        let in_scope = scope.is_empty() || scope.iter().any(|pattern| pattern.matches(facts.topic));
        if in_scope { self.conditions.mismatch(facts) } else { Some("scope") }
    }
}

impl Conditions {
    /// The first that does not hold.
    pub(crate) fn mismatch(&self, facts: &Facts<'_>) -> Option<&'static str> {
        let one_of = |list: &BTreeSet<String>, value: &str| list.is_empty() || list.contains(value);
        // Nothing is looked at behind the first that does not hold: most rules speak of other topics.
        let checks: [(&str, &dyn Fn() -> bool); 11] = [
            ("topics", &|| self.topics.is_empty() || self.topics.iter().any(|glob| glob.matches(facts.topic))),
            ("tenants", &|| one_of(&self.tenants, &facts.tenant)),
            ("capabilities", &|| one_of(&self.capabilities, &facts.capability)),
            ("pack_ids", &|| one_of(&self.pack_ids, &facts.pack_id)),
            ("actor_ids", &|| one_of(&self.actor_ids, &facts.actor_id)),
            ("actor_types", &|| one_of(&self.actor_types, facts.actor_type)),
            ("risk_tags", &|| self.risk_tags.is_empty() || !self.risk_tags.is_disjoint(&facts.risk_tags)),
            ("requires", &|| self.requires.is_subset(&facts.requires)),
            ("labels", &|| self.labels.iter().all(|(label, value)| facts.labels.get(label) == Some(value))),
            ("secrets_present", &|| self.secrets_present.is_none_or(|expected| expected == facts.secrets_present)),
            ("mcp", &|| self.mcp.as_ref().is_none_or(|lists| lists.refused(&facts.mcp).is_none())),
        ];
        checks.into_iter().find_map(|(name, holds)| (!holds()).then_some(name))
    }
}
