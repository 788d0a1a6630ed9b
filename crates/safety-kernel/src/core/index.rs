//! Which rules may speak of a job: found by whom and what they name, so that a decision takes as long as there are rules for its tenant and
//! topic, however many there are for others.
//!
//! ```text
//!  rule ─► the tenants that it names, or everybody ─► what the topics that it names begin with ─► its place
//! ```

use std::collections::{BTreeSet, HashMap};

use crate::core::bundle::Bundle;
use crate::core::facts::Facts;
use crate::core::rule::Conditions;

/// Where a rule stands: its bundle among all, and its place in that.
type Place = (usize, usize);

/// Rules by tenants and topics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RuleIndex {
    /// Those that name no tenant.
    everybody: ByTopic,
    by_tenant: HashMap<String, ByTopic>,
}

/// Rules by what the topics that they name begin with: literally, in lower case, up to the first wildcard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct ByTopic {
    places: HashMap<String, Vec<Place>>,
    /// How long these beginnings are, in bytes: few differ.
    lengths: BTreeSet<usize>,
}

impl RuleIndex {
    pub(crate) fn of(bundles: &[Bundle]) -> Self {
        let mut index = Self::default();
        for (bundle, rules) in bundles.iter().map(|bundle| &bundle.rules).enumerate() {
            for (rule, conditions) in rules.iter().map(|rule| &rule.conditions).enumerate() {
                index.add((bundle, rule), conditions);
            }
        }
        index
    }

    fn add(&mut self, place: Place, conditions: &Conditions) {
        let prefixes = prefixes(conditions);
        if conditions.tenants.is_empty() {
            self.everybody.add(place, &prefixes);
        }
        for tenant in &conditions.tenants {
            self.by_tenant.entry(tenant.clone()).or_default().add(place, &prefixes);
        }
    }

    /// The places of all rules that may match, in their order; some of them may not.
    pub(crate) fn candidates(&self, facts: &Facts<'_>) -> Vec<Place> {
        let topic = facts.topic.to_lowercase();
        let mut places = Vec::new();
        for rules in [Some(&self.everybody), self.by_tenant.get(&facts.tenant)].into_iter().flatten() {
            rules.find(&topic, &mut places);
        }
        // A rule may name several topics that begin alike.
        places.sort_unstable();
        places.dedup();
        places
    }
}

impl ByTopic {
    fn add(&mut self, place: Place, prefixes: &BTreeSet<String>) {
        for prefix in prefixes {
            self.places.entry(prefix.clone()).or_default().push(place);
            self.lengths.insert(prefix.len());
        }
    }

    fn find(&self, topic: &str, places: &mut Vec<Place>) {
        // In the middle of a character nothing begins.
        let beginnings = self.lengths.iter().filter_map(|length| topic.get(..*length));
        beginnings.filter_map(|beginning| self.places.get(beginning)).for_each(|found| places.extend(found));
    }
}

/// What the topics of a rule begin with; all begin with nothing.
fn prefixes(conditions: &Conditions) -> BTreeSet<String> {
    if conditions.topics.is_empty() {
        return BTreeSet::from([String::new()]);
    }
    conditions.topics.iter().map(busbar_rules::Glob::literal_prefix).collect()
}

#[cfg(test)]
mod tests {
    use busbar_protocol::cap::PolicyCheckRequest;
    use busbar_rules::Glob;
    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;

    use super::*;
    use crate::core::bundle::{Source, Tier};

    fn conditions() -> impl Strategy<Value = Conditions> {
        let topic = "(job\\.|JOB\\.|Job\\.é?|)(a|b|ab|B|é|\\.|\\*|\\?|\\[ab\\]|\\\\\\*){1,4}";
        (btree_set("[a-c]", 0..3), vec(topic, 0..3)).prop_map(|(tenants, topics)| Conditions {
            tenants,
            topics: topics.iter().map(|topic| Glob::compile(topic).expect("a pattern")).collect(),
            ..Conditions::default()
        })
    }

    fn places(index: &RuleIndex, topic: &str, tenant: &str) -> Vec<Place> {
        let request = PolicyCheckRequest { topic: topic.to_owned(), tenant: tenant.to_owned(), ..PolicyCheckRequest::default() };
        index.candidates(&Facts::of(&request, "default"))
    }

    proptest! {
        #[test]
        fn no_rule_that_matches_is_missed_and_none_is_named_twice(
            rules in vec(conditions(), 0..12),
            topic in "(job\\.|JOB\\.|jobé)(a|b|A|é|É|\\*|\\.){0,4}",
            tenant in "[a-dA]",
        ) {
            let mut index = RuleIndex::default();
            rules.iter().enumerate().for_each(|(number, conditions)| index.add((0, number), conditions));
            let found = places(&index, &topic, &tenant);
            prop_assert!(found.is_sorted_by(|a, b| a < b), "{found:?}");
            let request = PolicyCheckRequest { topic, tenant, ..PolicyCheckRequest::default() };
            let facts = Facts::of(&request, "default");
            for (number, conditions) in rules.iter().enumerate() {
                let matches = conditions.mismatch(&facts).is_none();
                prop_assert!(!matches || found.contains(&(0, number)), "{conditions:?} is missed by {request:?}");
            }
        }
    }

    #[test]
    fn only_rules_for_a_tenant_and_its_topic_are_looked_at() {
        let rules: String = (0..100)
            .map(|n| format!("  - {{id: r{n}, match: {{topics: [\"job.t{n}.*\", \"job.u{n}.*\"]}}, decision: deny}}\n"))
            .chain((0..100).map(|n| format!("  - {{id: s{n}, match: {{tenants: [team-{n}]}}, decision: deny}}\n")))
            .chain(["  - {id: any, match: {capabilities: [read]}, decision: deny}\n".to_owned()])
            .collect();
        let content = format!("rules:\n{rules}");
        let source = Source { tier: Tier::Core, id: "many".to_owned(), content, topics: Vec::new() };
        let index = RuleIndex::of(&[Bundle::compile(source).expect("a bundle")]);
        assert_eq!(places(&index, "job.t7.x", "nobody"), [(0, 7), (0, 200)]);
        assert_eq!(places(&index, "job.T7.x", "Team-9"), [(0, 7), (0, 109), (0, 200)]);
        assert_eq!(places(&index, "job.other", ""), [(0, 200)]);
    }
}
