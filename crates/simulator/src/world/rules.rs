//! What the operator of the simulated cell has laid down: the documents that the schedulers read and the world judges them by.

use busbar_protocol::busbar::{
    Comparison, FlowLimits, KeyLimits, KeyStrategy, LimitsDocument, Rate, Replication, TenantLimits, TopicDocument, TopicLimits,
};
use busbar_protocol::cap::JobRequest;
use busbar_protocol::labels;
use busbar_protocol::prost::Message as _;
use busbar_scheduler::core::job::Job;

/// After so many dead workers a job is not tried again.
pub(crate) const CRASH_LIMIT: u32 = 2;

/// The pool of all workers.
pub(crate) const POOL: &str = "default";

/// The topic whose results two workers must agree on.
pub(crate) const AGREED: &str = "job.agreed";
/// The topic whose results are checked before they count, and the one whose jobs check them.
pub(crate) const PROVED: &str = "job.proved";
pub(crate) const CHECK: &str = "job.check";

/// The topic documents.
pub(crate) fn topics() -> Vec<TopicDocument> {
    let document = |topic: &str| TopicDocument {
        topic: topic.to_owned(),
        pools: vec![POOL.to_owned()],
        start_to_close_ms: 12_000,
        max_attempts: 8,
        backoff_initial_ms: 100,
        backoff_max_ms: 2_000,
        // Workers are killed for nothing all the time here.
        crash_limit: 1_000,
        ..TopicDocument::default()
    };
    vec![
        document("job.native"),
        TopicDocument { max_attempts: 2, ..document("job.fragile") },
        TopicDocument { start_to_close_ms: 1_500, max_attempts: 2, ..document("job.slow") },
        TopicDocument {
            schedule_to_start_ms: 2_000,
            pools: vec!["nowhere".to_owned()],
            module: "sha256:none".to_owned(),
            ..document("job.unserved")
        },
        TopicDocument { heartbeat_timeout_ms: 1_500, max_attempts: 3, ..document("job.mute") },
        TopicDocument { crash_limit: CRASH_LIMIT, ..document("job.poison") },
        // Two workers are all there are: a replica that nobody may have is given up.
        TopicDocument { replication: replication(2, ""), schedule_to_start_ms: 4_000, ..document(AGREED) },
        TopicDocument { replication: replication(1, CHECK), schedule_to_start_ms: 4_000, ..document(PROVED) },
        document(CHECK),
        document("job.single"),
        document("job.latest"),
        document("job.denied"),
        document("job.throttled"),
        document("job.approval"),
        document("job.announced"),
        document("job.silent"),
    ]
}

fn replication(quorum: u32, verifier: &str) -> Option<Replication> {
    let compare = Comparison::Exact.into();
    Some(Replication { quorum, replicas_max: 4, compare, trust: None, verifier: verifier.to_owned() })
}

/// The bounds of tenants and topics.
pub(crate) fn limits() -> LimitsDocument {
    let tenant = |id: &str, weight: u32, flow: FlowLimits| TenantLimits { tenant_id: id.to_owned(), weight, flow: Some(flow) };
    let topic =
        |name: &str, flow: FlowLimits, key: KeyLimits| TopicLimits { topic: name.to_owned(), flow: Some(flow), key: Some(key) };
    let key = |strategy: KeyStrategy| KeyLimits { concurrency_max: 1, strategy: strategy.into(), ..KeyLimits::default() };
    let rate = |count: u32| Rate { count, per_ms: 1_000, burst: 0 };
    LimitsDocument {
        version: 1,
        tenants: vec![
            tenant("acme", 3, FlowLimits { concurrency_max: 2, backlog_max: 10, ..FlowLimits::default() }),
            tenant("*", 1, FlowLimits { starts: Some(Rate { burst: 3, ..rate(8) }), ..FlowLimits::default() }),
        ],
        topics: vec![
            topic("job.native", FlowLimits::default(), KeyLimits { starts: Some(rate(1)), ..key(KeyStrategy::Queue) }),
            topic("job.single", FlowLimits::default(), key(KeyStrategy::Reject)),
            topic("job.latest", FlowLimits::default(), key(KeyStrategy::CancelOldest)),
            topic("job.fragile", FlowLimits { concurrency_max: 2, ..FlowLimits::default() }, KeyLimits::default()),
            topic("job.throttled", FlowLimits { admissions: Some(rate(3)), ..FlowLimits::default() }, KeyLimits::default()),
        ],
    }
}

/// What an attempt of a job counts against.
pub(crate) struct Account {
    /// Whose it is.
    pub name: String,
    /// How many attempts there may be at once; 0 is any number.
    pub most: u32,
    /// How fast they may start.
    pub starts: Option<Rate>,
}

/// Everything that an attempt of a job counts against.
pub(crate) fn accounts(limits: &LimitsDocument, job: &Job) -> Vec<Account> {
    let of_flow = |name: String, flow: &FlowLimits| Account { name, most: flow.concurrency_max, starts: flow.starts };
    let mut accounts = Vec::new();
    let own = limits.tenants.iter().find(|row| row.tenant_id == job.tenant_id);
    let any = limits.tenants.iter().find(|row| row.tenant_id == "*");
    let tenant = own.or(any).and_then(|row| row.flow.as_ref());
    accounts.extend(tenant.map(|flow| of_flow(format!("the tenant {}", job.tenant_id), flow)));
    if let Some(row) = limits.topics.iter().find(|row| row.topic == job.topic) {
        accounts.extend(row.flow.as_ref().map(|flow| of_flow(format!("the topic {}", job.topic), flow)));
        let of_key = |key: &KeyLimits| {
            let name = format!("the key {}", key_name(job));
            Account { name, most: key.concurrency_max, starts: key.starts }
        };
        accounts.extend(row.key.as_ref().filter(|_| !job.plan.concurrency_key.is_empty()).map(of_key));
    }
    accounts
}

/// The workers that a job avoids: with its topic and its priority, all that tells the lines of one tenant apart here.
pub(crate) fn avoided(job: &Job) -> Option<String> {
    JobRequest::decode(job.request.clone()).ok()?.labels.remove(labels::AVOIDED_WORKER_IDS)
}

/// What a pause calls the key of a job.
pub(crate) fn key_name(job: &Job) -> String {
    format!("{} {} {}", job.tenant_id, job.topic, job.plan.concurrency_key)
}
