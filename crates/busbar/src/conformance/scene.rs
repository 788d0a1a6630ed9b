//! What a case of the conformance kit plays in: the scheduler's core with one topic, a clock, a worker and one job.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use busbar_protocol::busbar::{JobDecision, JobPlan, JobState, TopicDocument};
use busbar_protocol::cap::bus_packet::Payload;
use busbar_protocol::cap::{BusPacket, ComponentRole, DecisionType, Handshake, Heartbeat, JobPriority};
use busbar_protocol::envelope::{self, PROTOCOL_VERSION, PacketError};
use busbar_protocol::ids::JobId;
use busbar_protocol::negotiation::SPOKEN;
use busbar_protocol::ports::Write;
use busbar_protocol::time::Timestamp;
use busbar_rules::topics::TopicTable;
use busbar_scheduler::core::cell::{Beginning, Cell, Order, Settings};
use busbar_scheduler::core::job::{Job, State};
use busbar_scheduler::core::line::Class;
use busbar_scheduler::core::transition::{Command, Event, Rejected, Report, Reported, Verdict};

/// The topic that cases use which name none.
pub(super) const TOPIC: &str = "job.conformance";
/// The worker of a scene.
pub(super) const WORKER: &str = "conformance-worker";
const SNAPSHOT: &str = "snapshot-1";
const POOL: &str = "pool";
/// How long an attempt may take.
const START_TO_CLOSE: Duration = Duration::from_secs(10);
/// A scene has two jobs at most.
const UNDECIDED_MAX: usize = 2;
/// How long a job rests before its next attempt.
const BACKOFF: Duration = Duration::from_millis(100);

/// A cell with one job.
#[derive(Clone)]
pub(super) struct Scene {
    cell: Cell,
    now: Timestamp,
    job: JobId,
    /// The job as it was last written.
    written: Option<Job>,
    /// How often the end of a job was written.
    ends: usize,
    announced: bool,
}

/// A job that is about to come into a scene.
pub(super) struct Arrival<'a> {
    pub(super) topic: &'a str,
    pub(super) requires: &'a [&'a str],
    pub(super) attempts_max: u32,
    pub(super) priority: JobPriority,
}

impl Default for Arrival<'_> {
    fn default() -> Self {
        Self { topic: TOPIC, requires: &[], attempts_max: 1, priority: JobPriority::Interactive }
    }
}

impl Scene {
    /// A job has arrived that nobody has decided on yet.
    pub(super) fn new(arrival: &Arrival<'_>) -> Self {
        let now = Timestamp::from_millis(1_000_000);
        let document = TopicDocument { topic: "job.>".to_owned(), pools: vec![POOL.to_owned()], ..TopicDocument::default() };
        let beginning = Beginning {
            epoch: 1,
            topics: TopicTable::new([document]).unwrap_or_default(),
            snapshot: SNAPSHOT.to_owned(),
            now,
            ..Beginning::default()
        };
        let mut scene = Self {
            cell: Cell::new(Settings::default(), beginning),
            now,
            job: JobId::generate(),
            written: None,
            ends: 0,
            announced: false,
        };
        scene.arrive(&scene.job.clone(), arrival);
        scene
    }

    fn arrive(&mut self, id: &JobId, arrival: &Arrival<'_>) {
        let job = pending(id, arrival, self.now);
        let class = Class {
            topic: job.topic.clone(),
            requires: arrival.requires.iter().map(|&name| name.to_owned()).collect(),
            ..Class::default()
        };
        self.cell.insert(job, 1, Arc::new(class), self.now);
    }

    /// A worker announces itself, as a packet that is checked like every other.
    pub(super) fn announce(&mut self, ready_topics: &[&str], capabilities: &[&str], versions: &[i32]) -> Result<(), PacketError> {
        let shake = Handshake {
            component_id: WORKER.to_owned(),
            role: ComponentRole::Worker.into(),
            supported_versions: versions.to_vec(),
            capabilities: capabilities.iter().map(|&name| (name.to_owned(), true)).collect(),
            ready_topics: ready_topics.iter().map(|&topic| topic.to_owned()).collect(),
            ..Handshake::default()
        };
        let packet = BusPacket {
            trace_id: WORKER.to_owned(),
            sender_id: WORKER.to_owned(),
            created_at: Some(self.now.to_proto()),
            protocol_version: PROTOCOL_VERSION,
            payload: Some(Payload::Handshake(shake.clone())),
            ..BusPacket::default()
        };
        envelope::check(&packet)?;
        self.cell.handshake(&shake, self.now, self.now);
        self.announced = true;
        self.live();
        Ok(())
    }

    /// A worker that serves the scene's topic announces itself.
    pub(super) fn announce_good(&mut self) {
        // Whether it was taken shows in what is sent to it.
        let _ = self.announce(&[TOPIC], &[], SPOKEN);
    }

    /// The worker shows that it lives.
    fn live(&mut self) {
        if self.announced {
            let beat =
                Heartbeat { worker_id: WORKER.to_owned(), pool: POOL.to_owned(), max_parallel_jobs: 1, ..Heartbeat::default() };
            self.cell.heartbeat(&beat, self.now);
        }
    }

    /// The safety kernel decides, if the cell has asked for it.
    pub(super) fn decide(&mut self, decision: DecisionType) {
        let snapshot = self.cell.snapshot().to_owned();
        for job in self.cell.take_undecided(UNDECIDED_MAX) {
            let decision = JobDecision {
                decision: decision.into(),
                snapshot: snapshot.clone(),
                decided_ms: self.now.millis(),
                ..JobDecision::default()
            };
            let verdict = Verdict { decision, redacted_request: None, run_ms_max: None, attempts_max: None, limits: None };
            // What does not apply shows in the state.
            let _ = self.cell.apply(&job.id, &Event::Decided(verdict), self.now);
        }
    }

    /// The policy changes, so that decisions on what waits are made again.
    pub(super) fn change_policy(&mut self) {
        self.cell.set_snapshot("snapshot-2".to_owned(), self.now);
    }

    /// Time passes; the cell places, writes, and says what is to be sent.
    pub(super) fn pass(&mut self, time: Duration) -> Vec<Order> {
        self.now = self.now.after(time);
        self.live();
        self.cell.pass_time(self.now, self.now);
        self.cell.place(1, self.now);
        self.write();
        let mut orders = self.cell.take_orders();
        orders.retain(|order| self.cell.is_due(order));
        orders
    }

    /// The cell places, writes, and says what is to be sent.
    pub(super) fn turn(&mut self) -> Vec<Order> {
        self.pass(Duration::ZERO)
    }

    /// As long as an attempt may take, and a little more.
    pub(super) fn pass_an_attempt(&mut self) -> Vec<Order> {
        self.pass(START_TO_CLOSE + BACKOFF)
    }

    fn write(&mut self) {
        for (id, unit) in self.cell.take_units() {
            if let Some(Write::Put { value, .. }) = unit.writes.first()
                && let Ok(job) = Job::decode(value)
                && id == self.job
            {
                self.ends += usize::from(job.end().is_some());
                self.written = Some(job);
            }
            self.cell.committed(&id, self.now);
        }
    }

    /// Decided, placed and sent: the job is out, as its attempt `attempt`.
    pub(super) fn bring_out(&mut self, attempt: u32) {
        self.announce_good();
        self.decide(DecisionType::Allow);
        self.turn();
        while self.attempt() < attempt && self.state() == JobState::Dispatched {
            let retry = Reported::Retryable { code: String::new(), message: String::new(), timed_out: false };
            if self.report(self.attempt(), retry).is_err() {
                break;
            }
            self.pass(BACKOFF * 2);
        }
    }

    /// The worker's result for an attempt arrives.
    pub(super) fn report(&mut self, attempt: u32, outcome: Reported) -> Result<(), Rejected> {
        let report = Report { attempt: Some(attempt), worker_id: WORKER.to_owned(), outcome, execution_ms: 1 };
        self.cell.report(&self.job.clone(), &report, self.now)
    }

    /// Something else happens to the job.
    pub(super) fn apply(&mut self, event: &Event) -> Result<(), Rejected> {
        self.cell.apply(&self.job.clone(), event, self.now)
    }

    /// A more urgent job of the same topic is sent, and NATS answers that nobody is there.
    pub(super) fn find_nobody(&mut self, topic: &str) {
        self.arrive(&JobId::generate(), &Arrival { topic, priority: JobPriority::Critical, ..Arrival::default() });
        self.decide(DecisionType::Allow);
        for order in self.turn() {
            let attempt = self.cell.job(&order.job).map_or(0, |job| job.attempt);
            self.cell.nobody_there(&order.job, attempt, self.now);
        }
    }

    /// Where the job stands: as it was written when it has ended, as the cell knows it before.
    pub(super) fn state(&self) -> JobState {
        self.known().map_or(JobState::Unspecified, |job| job.state.tag())
    }

    /// The present attempt, or the last one.
    pub(super) fn attempt(&self) -> u32 {
        self.known().map_or(0, |job| job.attempt)
    }

    /// The code with which the job ended.
    pub(super) fn end_code(&self) -> &str {
        self.written.as_ref().and_then(Job::end).map_or("", |end| &end.code)
    }

    /// How often an end was written.
    pub(super) const fn ends(&self) -> usize {
        self.ends
    }

    fn known(&self) -> Option<&Job> {
        self.cell.job(&self.job).or(self.written.as_ref())
    }
}

/// How many of these are dispatches.
pub(super) fn dispatches(orders: &[Order]) -> usize {
    orders.iter().filter(|order| matches!(order.command, Command::Dispatch { .. })).count()
}

fn pending(id: &JobId, arrival: &Arrival<'_>, now: Timestamp) -> Job {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let plan = JobPlan {
        max_attempts: arrival.attempts_max,
        backoff_initial_ms: millis(BACKOFF),
        backoff_max_ms: millis(BACKOFF),
        start_to_close_ms: millis(START_TO_CLOSE),
        ..JobPlan::default()
    };
    Job {
        id: id.clone(),
        tenant_id: "default".to_owned(),
        trace_id: "trace".to_owned(),
        traceparent: String::new(),
        request: Default::default(),
        topic: arrival.topic.to_owned(),
        priority: arrival.priority,
        created: now,
        updated: now,
        attempt: 0,
        unreached: 0,
        crashes: 0,
        parent_job_id: String::new(),
        replica: 0,
        verifies: 0,
        votes: Vec::new(),
        redrive_of: String::new(),
        plan,
        decision: None,
        last_end: None,
        cancel: None,
        from_bus: false,
        state: State::Pending { not_before: now },
    }
}

/// What the runner gives along.
pub(super) type Evidence = BTreeMap<&'static str, String>;
