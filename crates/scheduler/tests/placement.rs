//! Placement: who gets what, and who does not.

#![expect(clippy::expect_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use busbar_protocol::busbar::{TopicDocument, WorkerBeat, WorkerKind};
use busbar_protocol::cap::{Handshake, Heartbeat};
use busbar_protocol::ids::JobId;
use busbar_protocol::time::Timestamp;
use busbar_scheduler::core::job::Hold;
use busbar_scheduler::core::place::{Placement, Problem, plan};
use busbar_scheduler::core::queue::{Class, Queue, Rank};
use busbar_scheduler::core::workers::Workers;

const NOW: Timestamp = Timestamp::from_millis(1_000_000);

#[derive(Default)]
struct Scene {
    queue: Queue,
    workers: Workers,
    document: TopicDocument,
    queued_out: BTreeMap<String, BTreeSet<JobId>>,
    resting: BTreeMap<String, Timestamp>,
}

impl Scene {
    fn new() -> Self {
        let document = TopicDocument { topic: "job.a".to_owned(), pools: vec!["p".to_owned()], ..TopicDocument::default() };
        Self { document, ..Self::default() }
    }

    fn job(mut self, name: &str, rank: Rank, age: u64, class: Class) -> Self {
        let class = Arc::new(Class { topic: "job.a".to_owned(), ..class });
        self.queue.add(rank, &class, (Timestamp::from_millis(NOW.millis() - age), id(name)));
        self
    }

    fn worker(mut self, beat: WorkerBeat) -> Self {
        self.workers.beat(&WorkerBeat { incarnation: "i".to_owned(), sequence: 1, ..beat }, NOW);
        self
    }

    fn plan(&self) -> Vec<Placement> {
        let topic = |name: &str| (name == "job.a").then_some(&self.document);
        plan(&Problem {
            queue: &self.queue,
            workers: &self.workers,
            topic: &topic,
            queued_out: &self.queued_out,
            resting: &self.resting,
            now: NOW,
            limit: 100,
        })
    }

    fn placed(&self) -> Vec<(String, String)> {
        self.plan().into_iter().map(|place| (place.job.to_string(), place.worker_id)).collect()
    }
}

fn id(name: &str) -> JobId {
    JobId::parse(name).expect("a good id")
}

fn native(name: &str, capacity: u32) -> WorkerBeat {
    WorkerBeat { worker_id: name.to_owned(), pool: "p".to_owned(), capacity, ..WorkerBeat::default() }
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(job, worker)| ((*job).to_owned(), (*worker).to_owned())).collect()
}

#[test]
fn priority_then_age_and_never_more_than_fits() {
    let scene = Scene::new()
        .job("batch", Rank::Batch, 900, Class::default())
        .job("young", Rank::Interactive, 10, Class::default())
        .job("old", Rank::Interactive, 50, Class::default())
        .job("now", Rank::Critical, 1, Class::default())
        .worker(native("w", 3));
    assert_eq!(scene.placed(), pairs(&[("now", "w"), ("old", "w"), ("young", "w")]));
}

#[test]
fn the_smaller_share_of_slots_taken_wins() {
    let mut scene = Scene::new().worker(native("large", 8)).worker(native("small", 2));
    let hold = Hold { worker_id: "large".to_owned(), kind: WorkerKind::Native, incarnation: "i".to_owned(), since: NOW };
    scene.workers.take(&hold, (id("other"), 1), NOW);
    for number in 0..5 {
        scene = scene.job(&format!("j{number}"), Rank::Batch, 10 - number, Class::default());
    }
    // 0/2 beats 1/8; then 1/8 beats 1/2, up to 4/8, which ties with 1/2 and goes by name.
    assert_eq!(scene.placed(), pairs(&[("j0", "small"), ("j1", "large"), ("j2", "large"), ("j3", "large"), ("j4", "large")]));
}

#[test]
fn a_class_that_nobody_can_serve_blocks_no_other() {
    let gpu = Class { requires: BTreeSet::from(["gpu".to_owned()]), ..Class::default() };
    let zone = Class { labels: BTreeMap::from([("zone".to_owned(), "eu".to_owned())]), ..Class::default() };
    let scene = Scene::new()
        .job("needs-gpu", Rank::Critical, 99, gpu.clone())
        .job("needs-zone", Rank::Critical, 98, zone.clone())
        .job("plain", Rank::Batch, 1, Class::default())
        .worker(native("w", 4));
    assert_eq!(scene.placed(), pairs(&[("plain", "w")]));
    let able = WorkerBeat {
        capabilities: vec!["GPU".to_owned()],
        labels: BTreeMap::from([("zone".to_owned(), "eu".to_owned())]),
        ..native("able", 4)
    };
    let scene = Scene::new().job("needs-gpu", Rank::Batch, 2, gpu).job("needs-zone", Rank::Batch, 1, zone).worker(able);
    assert_eq!(scene.placed(), pairs(&[("needs-gpu", "able"), ("needs-zone", "able")]));
}

#[test]
fn pool_topic_and_drain_are_respected() {
    let elsewhere = WorkerBeat { pool: "other".to_owned(), ..native("elsewhere", 1) };
    let picky = WorkerBeat { topics: vec!["job.b.>".to_owned()], ..native("picky", 1) };
    let leaving = WorkerBeat { draining: true, ..native("leaving", 1) };
    let mut scene = Scene::new().job("j", Rank::Batch, 1, Class::default()).worker(elsewhere).worker(picky).worker(leaving);
    scene.document.module = "sha256:x".to_owned();
    assert_eq!(scene.placed(), pairs(&[]));
    assert_eq!(scene.worker(native("w", 1)).placed(), pairs(&[("j", "w")]));
}

#[test]
fn a_preferred_worker_is_taken_while_it_has_room() {
    let class = Class { worker: Some("b".to_owned()), ..Class::default() };
    let scene = Scene::new()
        .job("j1", Rank::Batch, 3, class.clone())
        .job("j2", Rank::Batch, 2, class)
        .worker(native("a", 4))
        .worker(native("b", 1));
    assert_eq!(scene.placed(), pairs(&[("j1", "b"), ("j2", "a")]));
}

#[test]
fn an_announced_worker_serves_exactly_the_topics_that_it_named() {
    let mut scene = Scene::new().job("j", Rank::Batch, 1, Class::default());
    let shake = |topic: &str| Handshake {
        component_id: "agent".to_owned(),
        ready_topics: vec![topic.to_owned()],
        ..Handshake::default()
    };
    let heartbeat = Heartbeat { worker_id: "agent".to_owned(), max_parallel_jobs: 1, ..Heartbeat::default() };
    scene.workers.handshake(&shake("job.a"), NOW, NOW);
    scene.workers.heartbeat(&heartbeat, NOW);
    assert_eq!(scene.placed(), pairs(&[("j", "agent")]));
    scene.workers.handshake(&shake("job.b"), NOW, NOW);
    assert_eq!(scene.placed(), pairs(&[("j", "")]), "nobody known serves it, so its queue group is tried");
}

#[test]
fn a_queue_group_is_bounded_and_rests_when_nobody_was_there() {
    let mut scene = Scene::new();
    scene.document.queue_in_flight_max = 2;
    for number in 0..4 {
        scene = scene.job(&format!("j{number}"), Rank::Batch, 10 - number, Class::default());
    }
    scene.queued_out.insert("job.a".to_owned(), BTreeSet::from([id("out")]));
    assert_eq!(scene.placed(), pairs(&[("j0", "")]));
    scene.resting.insert("job.a".to_owned(), NOW.after_millis(1));
    assert_eq!(scene.placed(), pairs(&[]));
}

#[test]
fn who_runs_modules_serves_topics_that_it_does_not_announce() {
    let beat = WorkerBeat { topics: vec!["job.b".to_owned()], capabilities: vec!["wasm".to_owned()], ..native("w", 1) };
    let mut scene = Scene::new().job("a", Rank::Interactive, 0, Class::default()).worker(beat);
    assert!(scene.placed().iter().all(|(_, worker)| worker.is_empty()), "only those with a module");
    scene.document.module = "sha256:x".to_owned();
    assert_eq!(scene.placed(), pairs(&[("a", "w")]));
}

#[test]
fn a_module_never_goes_to_a_queue_group() {
    let mut scene = Scene::new().job("j", Rank::Batch, 1, Class::default());
    scene.document.module = "sha256:x".to_owned();
    assert_eq!(scene.placed(), pairs(&[]));
}
