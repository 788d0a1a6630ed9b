//! The cell, without servers: a clock, workers with their beats, and a store that keeps what was committed.

#![expect(clippy::expect_used, reason = "tests")]

mod ahead;
mod carried;
mod flushes;
mod replicas;
mod rules;
mod shelving;
mod verified;

use std::collections::BTreeMap;
use std::sync::Arc;

use busbar_protocol::busbar::{
    Drain, ExplainReply, FlowLimits, GateState, JobDecision, JobPlan, JobState, KeyLimits, KeyStrategy, LimitsDocument, Pause,
    PauseName, PauseScope, Rate, TenantLimits, TopicDocument, TopicLimits, WorkerBeat,
};
use busbar_protocol::cap::{DecisionType, JobPriority};
use busbar_protocol::codes::Code;
use busbar_protocol::ids::JobId;
use busbar_protocol::ports::{Unit, Write};
use busbar_protocol::time::Timestamp;
use busbar_rules::topics::TopicTable;
use busbar_scheduler::core::bounds::Bounds;
use busbar_scheduler::core::cell::{Beginning, Cell, Delivered, Order, Settings};
use busbar_scheduler::core::flow::Refusal;
use busbar_scheduler::core::job::{Job, ResultPlace, State};
use busbar_scheduler::core::line::Class;
use busbar_scheduler::core::transition::{Event, Report, Reported};

const T0: u64 = 1_000_000;

/// A cell with its clock, its workers and their beats.
struct Scene {
    cell: Cell,
    now: u64,
    beats: u64,
    /// Jobs as they stand in the store.
    store: BTreeMap<JobId, (Job, u64)>,
}

impl Scene {
    /// One pool, one topic, these bounds, and a worker with many slots.
    fn new(limits: LimitsDocument) -> Self {
        Self::with(limits, Settings::default())
    }

    fn with(limits: LimitsDocument, settings: Settings) -> Self {
        let document = TopicDocument { topic: "job.>".to_owned(), pools: vec!["p".to_owned()], ..TopicDocument::default() };
        let beginning = Beginning {
            epoch: 1,
            topics: TopicTable::new([document]).expect("a good document"),
            bounds: Bounds::new(LimitsDocument { version: 1, ..limits }).expect("good patterns"),
            snapshot: "s".to_owned(),
            now: at(0),
            ..Beginning::default()
        };
        let mut scene = Self { cell: Cell::new(settings, beginning), now: T0, beats: 0, store: BTreeMap::new() };
        scene.beat("w", 100);
        scene
    }

    fn beat(&mut self, worker_id: &str, capacity: u32) {
        self.beats += 1;
        let beat = WorkerBeat {
            worker_id: worker_id.to_owned(),
            incarnation: "i".to_owned(),
            sequence: self.beats,
            pool: "p".to_owned(),
            capacity,
            ..WorkerBeat::default()
        };
        self.cell.beat(&beat, at(self.now));
    }

    fn job(&mut self, name: &str, tenant: &str, change: impl FnOnce(&mut Job)) {
        let job = scheduled(name, tenant, at(self.now), change);
        self.store.insert(job.id.clone(), (job.clone(), 1));
        let class = Arc::new(Class { topic: job.topic.clone(), ..Class::default() });
        self.cell.insert(job, 1, class, at(self.now));
    }

    /// Lets time pass and places; the names of the jobs that were sent since the last call, in order.
    fn turn(&mut self, millis: u64) -> Vec<String> {
        self.now += millis;
        self.cell.pass_time(at(self.now), at(self.now));
        self.cell.place(100, at(self.now));
        let births = self.cell.take_births();
        let units = self.cell.take_units();
        units.iter().for_each(|(_, unit)| self.write(unit));
        for Delivered { job, class, unit } in births {
            self.write(&unit);
            self.cell.insert_new(job, class, at(self.now));
        }
        for (id, _) in units {
            self.cell.committed(&id, at(self.now));
        }
        let orders = self.cell.take_orders().into_iter();
        orders.filter(|order| self.cell.is_due(order)).map(|order| order.job.to_string()).collect()
    }

    fn write(&mut self, unit: &Unit) {
        let Some(Write::Put { revision, value, .. }) = unit.writes.first() else { return };
        let job = Job::decode(value).expect("a job comes first");
        self.store.insert(job.id.clone(), (job, *revision));
    }

    fn ends(&mut self, name: &str, outcome: Reported) {
        let job = self.cell.job(&id(name)).expect("it is live");
        let report = Report {
            attempt: Some(job.attempt),
            worker_id: job.hold().expect("it is out").worker_id.clone(),
            outcome,
            execution_ms: 10,
        };
        self.cell.report(&id(name), &report, at(self.now)).expect("it counts");
    }

    fn succeeds(&mut self, name: &str) {
        self.ends(name, Reported::Succeeded(None));
    }

    fn succeeds_with(&mut self, name: &str, place: ResultPlace) {
        self.ends(name, Reported::Succeeded(Some(place)));
    }

    fn state(&self, name: &str) -> Option<JobState> {
        self.cell.job(&id(name)).map(|job| job.state.tag())
    }

    /// The gate at which a job stands, and the sentence.
    fn stands(&self, name: &str) -> (String, ExplainReply) {
        let told = self.cell.explain(&id(name), at(self.now)).expect("it is live");
        let gate = told.gates.iter().find(|gate| gate.state() == GateState::Waits);
        (gate.map(|gate| gate.name.clone()).unwrap_or_default(), told)
    }
}

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn id(name: &str) -> JobId {
    JobId::parse(name).expect("a good id")
}

fn scheduled(name: &str, tenant: &str, now: Timestamp, change: impl FnOnce(&mut Job)) -> Job {
    let plan = JobPlan { max_attempts: 3, crash_limit: 3, backoff_initial_ms: 100, backoff_max_ms: 100, ..JobPlan::default() };
    let decision = JobDecision {
        decision: DecisionType::Allow.into(),
        snapshot: "s".to_owned(),
        decided_ms: now.millis(),
        ..JobDecision::default()
    };
    let mut job = Job {
        tenant_id: tenant.to_owned(),
        trace_id: "trace".to_owned(),
        topic: "job.a".to_owned(),
        priority: JobPriority::Interactive,
        created: now,
        updated: now,
        plan,
        decision: Some(decision),
        ..Job::new(id(name), State::Scheduled { since: now, not_before: now })
    };
    change(&mut job);
    job
}

fn tenant(tenant_id: &str, flow: FlowLimits) -> LimitsDocument {
    let row = TenantLimits { tenant_id: tenant_id.to_owned(), weight: 1, flow: Some(flow) };
    LimitsDocument { tenants: vec![row], ..LimitsDocument::default() }
}

fn topic(flow: FlowLimits, key: KeyLimits) -> LimitsDocument {
    let row = TopicLimits { topic: "job.a".to_owned(), flow: Some(flow), key: Some(key) };
    LimitsDocument { topics: vec![row], ..LimitsDocument::default() }
}

fn keyed(job: &mut Job) {
    job.plan.concurrency_key = "k".to_owned();
}
