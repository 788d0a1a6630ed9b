//! Bounds of tenants and topics: checked as they come in, and shown as they stand.

use std::collections::BTreeSet;

use busbar_api::{KeyLimits, KeyStrategy, LIMIT_ROWS_MAX, LimitsView, Problem, Rate, TenantLimits, TopicLimits, WEIGHT_MAX};
use busbar_protocol::busbar::{self, FlowLimits, LimitsDocument};
use busbar_protocol::codes::Code;
use busbar_protocol::ids;
use busbar_rules::TopicPattern;

/// The row of each tenant that has none of its own.
const EVERY_TENANT: &str = "*";
const COUNT_MAX: u32 = 1_000_000_000;
const PER_MS_MAX: u64 = 24 * 3600 * 1000;
const DOCUMENT_VERSION: u32 = 1;

/// All bounds as a client wants them.
pub(crate) fn document(tenants: &[TenantLimits], topics: &[TopicLimits]) -> Result<LimitsDocument, Problem> {
    check_rows(tenants.len() + topics.len())?;
    let names: BTreeSet<&str> = tenants.iter().map(|row| row.tenant_id.as_str()).collect();
    demand(names.len() == tenants.len(), || "tenants: each has one row".to_owned())?;
    let names: BTreeSet<&str> = topics.iter().map(|row| row.topic.as_str()).collect();
    demand(names.len() == topics.len(), || "topics: each pattern has one row".to_owned())?;
    let mut document = LimitsDocument {
        version: DOCUMENT_VERSION,
        tenants: tenants.iter().map(tenant).collect::<Result<_, _>>()?,
        topics: topics.iter().map(topic).collect::<Result<_, _>>()?,
    };
    sort(&mut document);
    Ok(document)
}

/// Puts a tenant's row in, over the one that is there.
pub(crate) fn put_tenant(document: &mut LimitsDocument, row: &TenantLimits) -> Result<(), Problem> {
    let row = tenant(row)?;
    remove_tenant(document, &row.tenant_id);
    document.tenants.push(row);
    settle(document)
}

/// Puts a topic's row in, over the one that is there.
pub(crate) fn put_topic(document: &mut LimitsDocument, row: &TopicLimits) -> Result<(), Problem> {
    let row = topic(row)?;
    remove_topic(document, &row.topic);
    document.topics.push(row);
    settle(document)
}

/// Takes a tenant's row out.
pub(crate) fn remove_tenant(document: &mut LimitsDocument, tenant_id: &str) {
    document.tenants.retain(|row| row.tenant_id != tenant_id);
}

/// Takes a topic's row out.
pub(crate) fn remove_topic(document: &mut LimitsDocument, pattern: &str) {
    document.topics.retain(|row| row.topic != pattern);
}

fn settle(document: &mut LimitsDocument) -> Result<(), Problem> {
    document.version = DOCUMENT_VERSION;
    sort(document);
    check_rows(document.tenants.len() + document.topics.len())
}

fn sort(document: &mut LimitsDocument) {
    document.tenants.sort_by(|a, b| a.tenant_id.cmp(&b.tenant_id));
    document.topics.sort_by(|a, b| a.topic.cmp(&b.topic));
}

fn check_rows(rows: usize) -> Result<(), Problem> {
    demand(rows <= LIMIT_ROWS_MAX, || format!("limits: at most {LIMIT_ROWS_MAX} rows in all, not {rows}"))
}

fn tenant(row: &TenantLimits) -> Result<busbar::TenantLimits, Problem> {
    let name = &row.tenant_id;
    if name != EVERY_TENANT {
        ids::check(name).map_err(|error| invalid(format!("tenant_id: {error}; or `*` for each tenant without a row")))?;
    }
    let what = format!("tenant {name}");
    if let Some(weight) = row.weight {
        demand((1..=WEIGHT_MAX).contains(&weight), || format!("{what}: weight: 1 to {WEIGHT_MAX}, not {weight}"))?;
    }
    let flow = flow(&what, row.concurrency_max, row.starts, row.admissions, row.backlog_max)?;
    Ok(busbar::TenantLimits { tenant_id: name.clone(), weight: row.weight.unwrap_or(0), flow: Some(flow) })
}

fn topic(row: &TopicLimits) -> Result<busbar::TopicLimits, Problem> {
    TopicPattern::parse(&row.topic).map_err(|error| Problem::new(Code::TopicInvalid, error.to_string()))?;
    let what = format!("topic {}", row.topic);
    let flow = flow(&what, row.concurrency_max, row.starts, row.admissions, row.backlog_max)?;
    let key = row.key.map(|limits| key(&what, limits)).transpose()?;
    Ok(busbar::TopicLimits { topic: row.topic.clone(), flow: Some(flow), key })
}

fn flow(
    what: &str,
    concurrency_max: Option<u32>,
    starts: Option<Rate>,
    admissions: Option<Rate>,
    backlog_max: Option<u64>,
) -> Result<FlowLimits, Problem> {
    let positive =
        |member: &str, zero: bool| demand(!zero, || format!("{what}: {member}: at least 1; leave it out for no bound"));
    positive("concurrency_max", concurrency_max == Some(0))?;
    positive("backlog_max", backlog_max == Some(0))?;
    Ok(FlowLimits {
        concurrency_max: concurrency_max.unwrap_or(0),
        starts: starts.map(|rate| pace(what, "starts", rate)).transpose()?,
        admissions: admissions.map(|rate| pace(what, "admissions", rate)).transpose()?,
        backlog_max: backlog_max.unwrap_or(0),
    })
}

fn key(what: &str, limits: KeyLimits) -> Result<busbar::KeyLimits, Problem> {
    demand(limits.concurrency_max != Some(0), || format!("{what}: key.concurrency_max: at least 1"))?;
    let strategy = match limits.strategy {
        KeyStrategy::Queue => busbar::KeyStrategy::Queue,
        KeyStrategy::Reject => busbar::KeyStrategy::Reject,
        KeyStrategy::CancelOldest => busbar::KeyStrategy::CancelOldest,
    };
    Ok(busbar::KeyLimits {
        concurrency_max: limits.concurrency_max.unwrap_or(0),
        strategy: strategy.into(),
        starts: limits.starts.map(|rate| pace(what, "key.starts", rate)).transpose()?,
    })
}

fn pace(what: &str, member: &str, rate: Rate) -> Result<busbar::Rate, Problem> {
    let within = |name: &str, value: u64, max: u64| {
        demand((1..=max).contains(&value), || format!("{what}: {member}.{name}: 1 to {max}, not {value}"))
    };
    within("count", rate.count.into(), COUNT_MAX.into())?;
    rate.per_ms.map_or(Ok(()), |per_ms| within("per_ms", per_ms, PER_MS_MAX))?;
    rate.burst.map_or(Ok(()), |burst| within("burst", burst.into(), COUNT_MAX.into()))?;
    Ok(busbar::Rate { count: rate.count, per_ms: rate.per_ms.unwrap_or(0), burst: rate.burst.unwrap_or(0) })
}

/// The bounds as the interface shows them.
pub(crate) fn view(document: LimitsDocument, revision: u64) -> LimitsView {
    LimitsView {
        revision,
        tenants: document.tenants.into_iter().map(tenant_view).collect(),
        topics: document.topics.into_iter().map(topic_view).collect(),
    }
}

fn tenant_view(row: busbar::TenantLimits) -> TenantLimits {
    let flow = row.flow.unwrap_or_default();
    TenantLimits {
        tenant_id: row.tenant_id,
        weight: some(row.weight),
        concurrency_max: some(flow.concurrency_max),
        starts: flow.starts.and_then(rate),
        admissions: flow.admissions.and_then(rate),
        backlog_max: Some(flow.backlog_max).filter(|max| *max > 0),
    }
}

fn topic_view(row: busbar::TopicLimits) -> TopicLimits {
    let flow = row.flow.unwrap_or_default();
    TopicLimits {
        topic: row.topic,
        concurrency_max: some(flow.concurrency_max),
        starts: flow.starts.and_then(rate),
        admissions: flow.admissions.and_then(rate),
        backlog_max: Some(flow.backlog_max).filter(|max| *max > 0),
        key: row.key.map(key_view),
    }
}

fn key_view(limits: busbar::KeyLimits) -> KeyLimits {
    let strategy = match limits.strategy() {
        busbar::KeyStrategy::Unspecified | busbar::KeyStrategy::Queue => KeyStrategy::Queue,
        busbar::KeyStrategy::Reject => KeyStrategy::Reject,
        busbar::KeyStrategy::CancelOldest => KeyStrategy::CancelOldest,
    };
    KeyLimits { concurrency_max: some(limits.concurrency_max), strategy, starts: limits.starts.and_then(rate) }
}

fn rate(rate: busbar::Rate) -> Option<Rate> {
    let per_ms = Some(rate.per_ms).filter(|ms| *ms > 0);
    (rate.count > 0).then(|| Rate { count: rate.count, per_ms, burst: some(rate.burst) })
}

fn some(number: u32) -> Option<u32> {
    (number > 0).then_some(number)
}

fn invalid(detail: String) -> Problem {
    Problem::new(Code::FieldInvalid, detail)
}

fn demand(holds: bool, detail: impl FnOnce() -> String) -> Result<(), Problem> {
    if holds { Ok(()) } else { Err(invalid(detail())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_tenant(id: &str) -> TenantLimits {
        TenantLimits { tenant_id: id.into(), weight: Some(2), ..TenantLimits::default() }
    }

    #[test]
    fn what_is_set_is_shown() {
        let starts = Some(Rate { count: 10, per_ms: Some(60_000), burst: Some(20) });
        let key = KeyLimits { concurrency_max: None, strategy: KeyStrategy::CancelOldest, starts };
        let topics =
            [TopicLimits { topic: "job.a.>".into(), backlog_max: Some(5), starts, key: Some(key), ..TopicLimits::default() }];
        let tenants = [TenantLimits { concurrency_max: Some(3), ..a_tenant("b") }, a_tenant("*")];
        let view = view(document(&tenants, &topics).expect("good"), 7);
        assert_eq!(view.tenants, [tenants[1].clone(), tenants[0].clone()]);
        assert_eq!((view.topics, view.revision), (topics.to_vec(), 7));
    }

    #[test]
    fn each_mistake_names_its_row_and_member() {
        let tenant = |row: TenantLimits| document(&[row], &[]);
        let topic = |row: TopicLimits| document(&[], &[TopicLimits { topic: "job.a".into(), ..row }]);
        let rate = |count, per_ms, burst| Some(Rate { count, per_ms, burst });
        for (outcome, named) in [
            (tenant(a_tenant("a b")), "tenant_id: "),
            (tenant(TenantLimits { weight: Some(10_001), ..a_tenant("a") }), "tenant a: weight: "),
            (tenant(TenantLimits { weight: Some(0), ..a_tenant("a") }), "tenant a: weight: "),
            (tenant(TenantLimits { concurrency_max: Some(0), ..a_tenant("a") }), "tenant a: concurrency_max: "),
            (tenant(TenantLimits { starts: rate(0, None, None), ..a_tenant("a") }), "tenant a: starts.count: "),
            (topic(TopicLimits { backlog_max: Some(0), ..TopicLimits::default() }), "topic job.a: backlog_max: "),
            (
                topic(TopicLimits { admissions: rate(1, Some(0), None), ..TopicLimits::default() }),
                "topic job.a: admissions.per_ms: ",
            ),
            (
                topic(TopicLimits {
                    key: Some(KeyLimits { starts: rate(1, None, Some(0)), ..KeyLimits::default() }),
                    ..TopicLimits::default()
                }),
                "topic job.a: key.starts.burst: ",
            ),
            (document(&[a_tenant("a"), a_tenant("a")], &[]), "tenants: "),
            (document(&vec![a_tenant("a"); 10_001], &[]), "limits: at most 10000"),
        ] {
            let problem = outcome.expect_err(named);
            assert!(problem.detail.starts_with(named), "{problem}");
        }
        let strange = document(&[], &[TopicLimits::default()]).expect_err("no pattern");
        assert_eq!(strange.code, "topic_invalid");
    }

    #[test]
    fn rows_are_replaced_and_taken_out() {
        let mut document = LimitsDocument::default();
        for (id, weight) in [("b", 1), ("a", 2), ("b", 3)] {
            put_tenant(&mut document, &TenantLimits { weight: Some(weight), ..a_tenant(id) }).expect("good");
        }
        let rows: Vec<_> = document.tenants.iter().map(|row| (row.tenant_id.as_str(), row.weight)).collect();
        assert_eq!(rows, [("a", 2), ("b", 3)]);
        put_topic(&mut document, &TopicLimits { topic: "job.x".into(), ..TopicLimits::default() }).expect("good");
        remove_tenant(&mut document, "a");
        remove_topic(&mut document, "job.x");
        assert_eq!((document.tenants.len(), document.topics.len()), (1, 0));
    }
}
