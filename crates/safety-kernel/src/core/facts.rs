//! What is known of a job, in the form in which rules ask for it.

use std::collections::{BTreeMap, BTreeSet};

use busbar_protocol::cap::{ActorType, IdentityBinding, JobMetadata, PolicyCheckRequest};
use busbar_protocol::ids::DEFAULT_TENANT;

use crate::core::mcp::McpFacts;

/// The facts of one request. Texts that are compared without regard to case are in lower case here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts<'a> {
    /// Who submits; never empty.
    pub tenant: String,
    /// Where to.
    pub topic: &'a str,
    /// What for.
    pub capability: String,
    /// By which pack.
    pub pack_id: String,
    /// By whom.
    pub actor_id: String,
    /// `human`, `service` or empty.
    pub actor_type: &'static str,
    /// Marks of risk.
    pub risk_tags: BTreeSet<String>,
    /// What the worker must offer.
    pub requires: BTreeSet<String>,
    /// Labels, as they are.
    pub labels: &'a BTreeMap<String, String>,
    /// Whether the payload holds secrets, as the submitter says.
    pub secrets_present: bool,
    /// What is done over MCP.
    pub mcp: McpFacts,
}

impl<'a> Facts<'a> {
    /// Reads a request.
    #[must_use]
    pub fn of(request: &'a PolicyCheckRequest, default_tenant: &str) -> Self {
        let (no_meta, nobody) = (JobMetadata::default(), IdentityBinding::default());
        let meta = request.meta.as_ref().unwrap_or(&no_meta);
        let identity = request.identity.as_ref().unwrap_or(&nobody);
        let actor_type = match meta.actor_type() {
            ActorType::Human => "human",
            ActorType::Service => "service",
            ActorType::Unspecified => "",
        };
        let risk_tags = lower(&meta.risk_tags);
        let secrets_present = match request.labels.get("secrets_present") {
            Some(label) => matches!(label.to_ascii_lowercase().as_str(), "true" | "1" | "yes"),
            None => risk_tags.contains("secrets"),
        };
        Self {
            tenant: first([&request.tenant, &meta.tenant_id, default_tenant, DEFAULT_TENANT]).to_lowercase(),
            topic: &request.topic,
            capability: meta.capability.to_lowercase(),
            pack_id: meta.pack_id.to_lowercase(),
            actor_id: first([&meta.actor_id, &identity.actor_id]).to_lowercase(),
            actor_type,
            risk_tags,
            requires: lower(&meta.requires),
            labels: &request.labels,
            secrets_present,
            mcp: McpFacts::of_labels(&request.labels),
        }
    }
}

fn first<const N: usize>(texts: [&str; N]) -> &str {
    texts.into_iter().find(|text| !text.is_empty()).unwrap_or_default()
}

fn lower(texts: &[String]) -> BTreeSet<String> {
    texts.iter().map(|text| text.to_lowercase()).collect()
}
