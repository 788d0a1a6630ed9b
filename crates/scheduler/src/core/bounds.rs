//! How many and how fast, for each tenant, topic and key: the operator's rows, laid over what topic documents say.

use std::collections::BTreeMap;

use busbar_protocol::busbar::{FlowLimits, KeyLimits, LimitsDocument, TenantLimits, TopicDocument};
use busbar_rules::topics::{TopicPattern, TopicPatternError};

/// The row that stands for every tenant without one.
const EVERY_TENANT: &str = "*";
/// The largest weight: shares beyond that are nobody's intention.
pub const WEIGHT_MAX: u32 = 10_000;

/// What a topic's jobs are bound by.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TopicBounds {
    /// All of them together.
    pub flow: FlowLimits,
    /// Those that carry one concurrency key.
    pub key: KeyLimits,
}

/// The rows of the operator.
#[derive(Clone, Debug, Default)]
pub struct Bounds {
    tenants: BTreeMap<String, TenantLimits>,
    every_tenant: TenantLimits,
    /// The narrowest pattern first.
    topics: Vec<(TopicPattern, TopicBounds)>,
}

impl Bounds {
    /// Reads the document.
    ///
    /// # Errors
    /// [`TopicPatternError`] names a row whose topic is no pattern.
    pub fn new(document: LimitsDocument) -> Result<Self, TopicPatternError> {
        let mut topics = Vec::with_capacity(document.topics.len());
        for row in document.topics {
            let bounds = TopicBounds { flow: row.flow.unwrap_or_default(), key: row.key.unwrap_or_default() };
            topics.push((TopicPattern::parse(&row.topic)?, bounds));
        }
        topics.sort_by(|(one, _), (other, _)| one.cmp(other));
        let mut tenants: BTreeMap<String, TenantLimits> =
            document.tenants.into_iter().map(|row| (row.tenant_id.clone(), row)).collect();
        let every_tenant = tenants.remove(EVERY_TENANT).unwrap_or_default();
        Ok(Self { tenants, every_tenant, topics })
    }

    /// What a tenant is bound by.
    #[must_use]
    pub fn tenant(&self, tenant_id: &str) -> FlowLimits {
        self.row(tenant_id).flow.unwrap_or_default()
    }

    /// A tenant's share, compared with those of others.
    #[must_use]
    pub fn weight(&self, tenant_id: &str) -> u32 {
        self.row(tenant_id).weight.clamp(1, WEIGHT_MAX)
    }

    /// What a topic is bound by.
    #[must_use]
    pub fn topic(&self, topic: &str, document: Option<&TopicDocument>) -> TopicBounds {
        if let Some((_, bounds)) = self.topics.iter().find(|(pattern, _)| pattern.matches(topic)) {
            return bounds.clone();
        }
        let own = document.map(|document| (document.flow, document.key)).unwrap_or_default();
        TopicBounds { flow: own.0.unwrap_or_default(), key: own.1.unwrap_or_default() }
    }

    fn row(&self, tenant_id: &str) -> &TenantLimits {
        self.tenants.get(tenant_id).unwrap_or(&self.every_tenant)
    }
}

#[cfg(test)]
mod tests {
    use busbar_protocol::busbar::TopicLimits;

    use super::*;

    fn flow(concurrency_max: u32) -> FlowLimits {
        FlowLimits { concurrency_max, ..FlowLimits::default() }
    }

    #[test]
    fn the_narrowest_row_counts_and_replaces_the_document() {
        let row = |topic: &str, most| TopicLimits { topic: topic.into(), flow: Some(flow(most)), key: None };
        let topics = vec![row("job.>", 1), row("job.a.b", 3), row("job.a.*", 2)];
        let bounds = Bounds::new(LimitsDocument { version: 1, tenants: Vec::new(), topics }).expect("good patterns");
        let document = TopicDocument { flow: Some(flow(9)), ..TopicDocument::default() };
        let most = |topic| bounds.topic(topic, Some(&document)).flow.concurrency_max;
        assert_eq!((most("job.a.b"), most("job.a.c"), most("job.x.y.z")), (3, 2, 1));
        assert_eq!(Bounds::default().topic("job.a", Some(&document)).flow.concurrency_max, 9);
    }

    #[test]
    fn tenants_without_a_row_have_that_of_all() {
        let row = |tenant: &str, weight| TenantLimits { tenant_id: tenant.into(), weight, flow: Some(flow(weight)) };
        let tenants = vec![row("*", 2), row("acme", 40_000)];
        let bounds = Bounds::new(LimitsDocument { version: 1, tenants, topics: Vec::new() }).expect("no patterns");
        assert_eq!((bounds.weight("acme"), bounds.weight("other"), Bounds::default().weight("any")), (WEIGHT_MAX, 2, 1));
        assert_eq!(bounds.tenant("other").concurrency_max, 2);
    }

    #[test]
    fn a_row_that_names_no_topics_is_told() {
        let topics = vec![TopicLimits { topic: "echo".into(), flow: None, key: None }];
        assert!(Bounds::new(LimitsDocument { version: 1, tenants: Vec::new(), topics }).is_err());
    }
}
