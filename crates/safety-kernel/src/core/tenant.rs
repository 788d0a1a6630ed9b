//! What a bundle says of one tenant, apart from its rules.
//!
//! `deny_topics` deny. `allow_topics` allow what they match and, where there are any, deny everything else: they are a list of
//! what the tenant may do at all. Denials win over whatever rules say.

use busbar_rules::{Constraints, Glob};

use crate::core::decision::Decision;
use crate::core::facts::Facts;
use crate::core::mcp::McpLists;

/// The section of one tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TenantPolicy {
    /// What it may do at all; empty: no such list.
    pub allow_topics: Vec<Glob>,
    /// What it may not do.
    pub deny_topics: Vec<Glob>,
    /// What it may do over MCP.
    pub mcp: Option<McpLists>,
    /// Limits on all its jobs.
    pub constraints: Constraints,
}

/// What a tenant's section says of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantWord {
    /// A name in the manner of a rule's id.
    pub id: String,
    /// What it says.
    pub decision: Decision,
    /// Why.
    pub reason: String,
}

impl TenantPolicy {
    /// Everything that the section says of a job.
    #[must_use]
    pub fn words(&self, facts: &Facts<'_>) -> Vec<TenantWord> {
        let (tenant, topic) = (&facts.tenant, facts.topic);
        let word = |id: String, decision, reason: String| TenantWord { id: format!("tenant:{tenant}:{id}"), decision, reason };
        let place = |globs: &[Glob]| globs.iter().position(|glob| glob.matches(topic));
        let mut words = Vec::new();
        if let Some(n) = place(&self.deny_topics) {
            words.push(word(format!("deny:{n}"), Decision::Deny, format!("tenant {tenant} may not use topic {topic}")));
        }
        match place(&self.allow_topics) {
            Some(n) => words.push(word(format!("allow:{n}"), Decision::Allow, format!("tenant {tenant} may use topic {topic}"))),
            None if self.allow_topics.is_empty() => {}
            None => {
                let reason = format!("topic {topic} is not among those that tenant {tenant} may use");
                words.push(word("allow".into(), Decision::Deny, reason));
            }
        }
        if let Some(kind) = self.mcp.as_ref().and_then(|lists| lists.refused(&facts.mcp)) {
            words.push(word(format!("mcp:{kind}"), Decision::Deny, format!("tenant {tenant} may not use this MCP {kind}")));
        }
        words
    }
}
