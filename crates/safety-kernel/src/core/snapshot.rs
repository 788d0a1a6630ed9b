//! Snapshots: all bundles at one moment, immutable, named by what is in them.

use busbar_protocol::hex;
use busbar_protocol::ids::DEFAULT_TENANT;
use sha2::{Digest, Sha256};

use crate::core::bundle::{Bundle, BundleError, Source};
use crate::core::decision::Decision;
use crate::core::facts::Facts;
use crate::core::index::RuleIndex;
use crate::core::rule::Rule;

/// All bundles at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    id: String,
    /// By tier and name.
    bundles: Vec<Bundle>,
    /// Which of their rules to look at.
    index: RuleIndex,
    default_tenant: String,
    default_decision: Decision,
}

impl Snapshot {
    /// Compiles bundles; their order does not matter, nor does that of the rules in them.
    ///
    /// # Errors
    /// [`BundleError`] of the first bundle that is refused.
    pub fn compile(sources: impl IntoIterator<Item = Source>) -> Result<Self, BundleError> {
        Ok(Self::of(sources.into_iter().map(Bundle::compile).collect::<Result<_, _>>()?))
    }

    /// Puts compiled bundles together.
    #[must_use]
    pub fn of(mut bundles: Vec<Bundle>) -> Self {
        bundles.sort_by(|a, b| a.source.cmp(&b.source));
        let default_tenant = bundles.iter().find_map(|bundle| bundle.default_tenant.clone());
        let default_decision = bundles.iter().filter_map(|bundle| bundle.default_decision).max();
        Self {
            id: id(&bundles),
            index: RuleIndex::of(&bundles),
            default_tenant: default_tenant.unwrap_or_else(|| DEFAULT_TENANT.to_owned()),
            // What nothing allows is denied, unless the operator says otherwise.
            default_decision: default_decision.unwrap_or(Decision::Deny),
            bundles,
        }
    }

    /// Its name: `sha256:` and the hash of what is in it. Two snapshots with the same name decide alike.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its bundles, by tier and name.
    #[must_use]
    pub fn bundles(&self) -> &[Bundle] {
        &self.bundles
    }

    /// The rules that match, with their bundles.
    pub(crate) fn matching(&self, facts: &Facts<'_>) -> impl Iterator<Item = (&Bundle, &Rule)> {
        let candidates = self.index.candidates(facts).into_iter().filter_map(|(bundle, rule)| {
            let bundle = self.bundles.get(bundle)?;
            Some((bundle, bundle.rules.get(rule)?))
        });
        candidates.filter(|(bundle, rule)| rule.mismatch(facts, &bundle.scope).is_none())
    }

    /// The tenant of requests that name none.
    #[must_use]
    pub fn default_tenant(&self) -> &str {
        &self.default_tenant
    }

    /// What holds where no rule matches.
    #[must_use]
    pub const fn default_decision(&self) -> Decision {
        self.default_decision
    }
}

fn id(bundles: &[Bundle]) -> String {
    let mut hash = Sha256::new();
    let mut add = |text: &str| {
        // Lengths keep neighbours apart: without them "ab" and "c" would hash like "a" and "bc".
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text.as_bytes());
    };
    for Bundle { source, .. } in bundles {
        add(source.tier.as_str());
        add(&source.id);
        add(&source.content);
        add(&source.topics.join("\n"));
    }
    let mut id = "sha256:".to_owned();
    hex::append(&mut id, &hash.finalize());
    id
}
