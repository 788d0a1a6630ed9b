//! From a snapshot and a request to a judgement.
//!
//! All matching rules of all bundles count, and so do the sections on tenants and the request's own `effective_config`; the
//! strongest word holds. Constraints of all that match are merged to the tighter. Nothing here depends on an order.

use std::fmt::Write as _;

use busbar_protocol::cap::{PolicyCheckRequest, PolicyCheckResponse, PolicyRemediation};
use busbar_rules::{Constraints, Glob};
use serde::Deserialize;

use crate::core::bundle::Tier;
use crate::core::decision::Decision;
use crate::core::document::McpDocument;
use crate::core::facts::Facts;
use crate::core::mcp::McpLists;
use crate::core::snapshot::Snapshot;

/// The largest `effective_config` that is read, in bytes.
const EFFECTIVE_CONFIG_BYTES_MAX: usize = 256 * 1024;

/// The longest explanation, in bytes.
const EXPLANATION_BYTES_MAX: usize = 64 * 1024;

/// What was decided, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// The strongest word.
    pub decision: Decision,
    /// Whose word it is; empty where no rule spoke.
    pub rule_id: String,
    /// Of which tier's bundle; `None` where no bundle spoke.
    pub tier: Option<Tier>,
    /// Why.
    pub reason: String,
    /// Within which limits.
    pub constraints: Constraints,
    /// What could be done instead.
    pub remediations: Vec<PolicyRemediation>,
}

/// One word that counts.
struct Word<'a> {
    decision: Decision,
    id: String,
    bundle: &'a str,
    tier: Option<Tier>,
    reason: String,
    remediations: &'a [PolicyRemediation],
}

/// One rule that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// The rule's bundle.
    pub bundle: String,
    /// The rule.
    pub rule_id: String,
    /// What it would say.
    pub decision: Decision,
    /// The first condition that does not hold; `None` when it matches.
    pub mismatch: Option<&'static str>,
}

/// Decides.
#[must_use]
pub fn evaluate(snapshot: &Snapshot, request: &PolicyCheckRequest) -> Judgement {
    if request.topic.is_empty() {
        return no_topic("missing topic");
    }
    if !request.topic.starts_with("job.") {
        return no_topic("unsupported topic");
    }
    let facts = Facts::of(request, snapshot.default_tenant());
    let (mut words, constraints) = words(snapshot, &facts);
    words.extend(effective_config(request, &facts));
    judge(snapshot, &facts, words, constraints)
}

/// Every rule that was tried, in the order of bundles and ids.
#[must_use]
pub fn trials(snapshot: &Snapshot, request: &PolicyCheckRequest) -> Vec<Trial> {
    let facts = Facts::of(request, snapshot.default_tenant());
    let mut trials: Vec<Trial> = Vec::new();
    for bundle in snapshot.bundles() {
        trials.extend(bundle.rules.iter().map(|rule| Trial {
            bundle: bundle.source.id.clone(),
            rule_id: rule.id.clone(),
            decision: rule.decision,
            mismatch: rule.mismatch(&facts, &bundle.scope),
        }));
        if let Some(tenant) = bundle.tenants.get(&facts.tenant) {
            trials.extend(tenant.words(&facts).into_iter().map(|word| Trial {
                bundle: bundle.source.id.clone(),
                rule_id: word.id,
                decision: word.decision,
                mismatch: None,
            }));
        }
    }
    trials.sort_by(|a, b| (&a.bundle, &a.rule_id).cmp(&(&b.bundle, &b.rule_id)));
    trials
}

/// The judgement's reason, and below it a line for every rule that was tried.
#[must_use]
pub fn explain(snapshot: &Snapshot, request: &PolicyCheckRequest) -> (Judgement, String) {
    let judgement = evaluate(snapshot, request);
    let mut text = judgement.reason.clone();
    for trial in trials(snapshot, request) {
        let verdict = match trial.mismatch {
            None => "matches".to_owned(),
            Some(condition) => format!("does not match: {condition}"),
        };
        let line = format!("\n{}/{} ({}): {verdict}", trial.bundle, trial.rule_id, trial.decision.as_str());
        if text.len() + line.len() > EXPLANATION_BYTES_MAX {
            text.push_str("\n…");
            break;
        }
        text.push_str(&line);
    }
    let _ = write!(text, "\ndefault: {}", snapshot.default_decision().as_str());
    (judgement, text)
}

impl Judgement {
    /// What travels.
    #[must_use]
    pub fn to_wire(&self, snapshot: &Snapshot, request: &PolicyCheckRequest) -> PolicyCheckResponse {
        let approval_required = self.decision == Decision::RequireHuman;
        PolicyCheckResponse {
            decision: self.decision.to_wire().into(),
            reason: self.reason.clone(),
            policy_snapshot: snapshot.id().to_owned(),
            rule_id: self.rule_id.clone(),
            constraints: self.constraints.to_wire(),
            approval_required,
            approval_ref: if approval_required { request.job_id.clone() } else { String::new() },
            remediations: self.remediations.clone(),
            identity: request.identity.clone(),
            ..PolicyCheckResponse::default()
        }
    }
}

fn no_topic(reason: &str) -> Judgement {
    Judgement {
        decision: Decision::Deny,
        rule_id: String::new(),
        tier: None,
        reason: reason.to_owned(),
        constraints: Constraints::default(),
        remediations: Vec::new(),
    }
}

/// What rules and tenants' sections say, and within which limits.
fn words<'a>(snapshot: &'a Snapshot, facts: &Facts<'_>) -> (Vec<Word<'a>>, Constraints) {
    let mut words = Vec::new();
    let mut constraints = Constraints::default();
    for (bundle, rule) in snapshot.matching(facts) {
        constraints = constraints.tighten(&rule.constraints);
        words.push(Word {
            decision: rule.decision,
            id: rule.id.clone(),
            bundle: &bundle.source.id,
            tier: Some(bundle.source.tier),
            reason: rule.reason.clone(),
            remediations: &rule.remediations,
        });
    }
    for bundle in snapshot.bundles() {
        let (name, tier) = (bundle.source.id.as_str(), Some(bundle.source.tier));
        if let Some(tenant) = bundle.tenants.get(&facts.tenant) {
            constraints = constraints.tighten(&tenant.constraints);
            words.extend(tenant.words(facts).into_iter().map(|word| Word {
                decision: word.decision,
                id: word.id,
                bundle: name,
                tier,
                reason: word.reason,
                remediations: &[],
            }));
        }
    }
    (words, constraints)
}

fn judge(snapshot: &Snapshot, facts: &Facts<'_>, words: Vec<Word<'_>>, constraints: Constraints) -> Judgement {
    let strongest = words.iter().map(|word| word.decision).max();
    let deciding = words
        .into_iter()
        .filter(|word| Some(word.decision) == strongest)
        .min_by(|a, b| (&a.id, a.bundle, &a.reason).cmp(&(&b.id, b.bundle, &b.reason)));
    let Some(word) = deciding else { return by_default(snapshot, facts, constraints) };
    let mut judgement = Judgement {
        reason: if word.reason.is_empty() { format!("rule {}: {}", word.id, word.decision.as_str()) } else { word.reason },
        decision: word.decision,
        rule_id: word.id,
        tier: word.tier,
        remediations: word.remediations.to_vec(),
        constraints,
    };
    finish(&mut judgement);
    judgement
}

fn by_default(snapshot: &Snapshot, facts: &Facts<'_>, constraints: Constraints) -> Judgement {
    let decision = snapshot.default_decision();
    let reason = match decision {
        Decision::Deny => format!("no rule allows topic {} for tenant {}", facts.topic, facts.tenant),
        other => format!("no rule speaks of topic {}; the default is {}", facts.topic, other.as_str()),
    };
    let mut judgement = Judgement { decision, rule_id: String::new(), tier: None, reason, constraints, remediations: Vec::new() };
    finish(&mut judgement);
    judgement
}

/// Makes decision and constraints agree.
fn finish(judgement: &mut Judgement) {
    match judgement.decision {
        Decision::Deny | Decision::Quarantine => judgement.constraints = Constraints::default(),
        Decision::Allow | Decision::AllowWithConstraints | Decision::Redact | Decision::Throttle | Decision::RequireHuman => {
            if let Some(list) = judgement.constraints.nothing_left() {
                judgement.decision = Decision::Deny;
                judgement.reason = format!("the constraints of the matching rules leave nothing in {list}");
                judgement.constraints = Constraints::default();
            } else if judgement.decision == Decision::Allow && !judgement.constraints.is_empty() {
                judgement.decision = Decision::AllowWithConstraints;
            }
        }
    }
}

/// The part of a request's `effective_config` that concerns us.
#[derive(Default, Deserialize)]
#[serde(default)]
struct EffectiveConfig {
    safety: EffectiveSafety,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct EffectiveSafety {
    denied_topics: Vec<String>,
    allowed_topics: Vec<String>,
    mcp: Option<McpDocument>,
}

/// What a request's own configuration says: it may only deny further, and what cannot be read denies.
fn effective_config(request: &PolicyCheckRequest, facts: &Facts<'_>) -> Option<Word<'static>> {
    if request.effective_config.is_empty() {
        return None;
    }
    let reason = match read_safety(&request.effective_config) {
        Ok(safety) => safety.denial(facts)?,
        Err(problem) => format!("effective_config cannot be read: {problem}"),
    };
    Some(Word { decision: Decision::Deny, id: "effective_config".into(), bundle: "", tier: None, reason, remediations: &[] })
}

fn read_safety(json: &[u8]) -> Result<Safety, String> {
    if json.len() > EFFECTIVE_CONFIG_BYTES_MAX {
        return Err(format!("more than {EFFECTIVE_CONFIG_BYTES_MAX} bytes"));
    }
    let config: EffectiveConfig = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    let globs = |texts: &[String]| texts.iter().map(|text| Glob::compile(text)).collect::<Result<Vec<_>, _>>();
    Ok(Safety {
        denied: globs(&config.safety.denied_topics).map_err(|error| error.to_string())?,
        allowed: globs(&config.safety.allowed_topics).map_err(|error| error.to_string())?,
        mcp: config.safety.mcp.map(Into::into),
    })
}

struct Safety {
    denied: Vec<Glob>,
    allowed: Vec<Glob>,
    mcp: Option<McpLists>,
}

impl Safety {
    fn denial(&self, facts: &Facts<'_>) -> Option<String> {
        let hit = |globs: &[Glob]| globs.iter().any(|glob| glob.matches(facts.topic));
        if hit(&self.denied) || (!self.allowed.is_empty() && !hit(&self.allowed)) {
            return Some(format!("effective_config denies topic {}", facts.topic));
        }
        let kind = self.mcp.as_ref()?.refused(&facts.mcp)?;
        Some(format!("effective_config denies this MCP {kind}"))
    }
}

#[cfg(test)]
mod tests;
