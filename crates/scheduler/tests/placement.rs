//! Placement: who gets what, and who does not.

#![expect(clippy::expect_used, reason = "tests")]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use busbar_protocol::busbar::{TopicDocument, WorkerBeat, WorkerKind};
use busbar_protocol::cap::{Handshake, Heartbeat};
use busbar_protocol::ids::JobId;
use busbar_protocol::time::Timestamp;
use busbar_scheduler::core::flow::Charge;
use busbar_scheduler::core::holds::Holds;
use busbar_scheduler::core::job::Hold;
use busbar_scheduler::core::line::{Class, Line, Rank, Seat, Spot};
use busbar_scheduler::core::place::{self, GroupRoom, Rooms};
use busbar_scheduler::core::queue::{AGED, Queue, Turn, WholeRoom};
use busbar_scheduler::core::timeline::Gate;
use busbar_scheduler::core::trust::Bindings;
use busbar_scheduler::core::workers::Workers;

const NOW: Timestamp = Timestamp::from_millis(1_000_000);

#[derive(Default)]
struct Scene {
    queue: Queue,
    workers: Workers,
    document: TopicDocument,
    out_in_group: u32,
    rests: bool,
    proven_only: bool,
    bindings: Bindings,
    short: bool,
}

impl Scene {
    fn new() -> Self {
        let document = TopicDocument { topic: "job.a".to_owned(), pools: vec!["p".to_owned()], ..TopicDocument::default() };
        Self { document, ..Self::default() }
    }

    fn job(mut self, name: &str, rank: Rank, age: u64, class: Class) -> Self {
        self.queue.add(&spot(name, rank, age, class, "default"), "p");
        self
    }

    fn worker(mut self, beat: WorkerBeat) -> Self {
        self.workers.beat(&WorkerBeat { incarnation: "i".to_owned(), sequence: 1, ..beat }, NOW);
        self
    }

    /// Who goes where, until nobody can go any more.
    fn placed(&self) -> Vec<(String, String)> {
        let mut queue = self.queue.clone();
        let mut rooms = Rooms::new(&self.workers, &self.bindings, &Holds::default(), NOW);
        let mut group = GroupRoom { out: self.out_in_group, rests: self.rests, proven_only: self.proven_only };
        let mut placed = Vec::new();
        while let Some((spot, placement)) =
            queue.next(NOW, |spot| match rooms.find(&spot.line.class, &self.document, group, self.short) {
                Some(to) => {
                    group.out += u32::from(to.worker_id.is_empty());
                    Turn::Goes { to, cost_ms: 1, weight: 1 }
                }
                None => Turn::ClassWaits(Gate::Worker),
            })
        {
            placed.push((name_of(spot.seat), placement.worker_id));
        }
        placed
    }
}

thread_local! {
    /// Who has which seat.
    static NAMES: RefCell<BTreeMap<Seat, String>> = const { RefCell::new(BTreeMap::new()) };
}

/// A spot with a seat of its own.
fn spot(name: &str, rank: Rank, age: u64, class: Class, tenant: &str) -> Spot {
    let class = Arc::new(Class { topic: "job.a".to_owned(), ..class });
    let mut seat = Seat::first_of(Timestamp::from_millis(NOW.millis() - age));
    NAMES.with_borrow_mut(|names| {
        while names.contains_key(&seat) {
            seat = seat.next();
        }
        names.insert(seat, name.to_owned());
    });
    Spot { line: Arc::new(Line { class, rank, tenant: tenant.into() }), seat }
}

fn name_of(seat: Seat) -> String {
    NAMES.with_borrow(|names| names[&seat].clone())
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
    let hold =
        Hold { worker_id: "large".to_owned(), kind: WorkerKind::Native, incarnation: "i".to_owned(), since: NOW, heard: NOW };
    let charge = Charge { tenant: "default".into(), topic: "job.a".into(), key: None };
    scene.workers.take(&hold, (id("other"), 1), charge, NOW);
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

fn named(ids: &[&str]) -> BTreeSet<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

/// The verdicts about the workers of a scene, in the order of their ids.
fn verdicts(scene: &Scene, holds: &Holds, class: Class) -> Vec<(String, String)> {
    let class = Class { topic: "job.a".to_owned(), ..class };
    let all = place::verdicts((&scene.workers, &scene.bindings), holds, &class, &scene.document, NOW);
    let all: BTreeMap<String, String> = all.into_iter().map(|verdict| (verdict.worker_id, verdict.verdict)).collect();
    all.into_iter().collect()
}

#[test]
fn an_excluded_worker_gets_nothing_though_nobody_else_is_there() {
    let class = Class { excluded: named(&["a"]), worker: Some("a".to_owned()), ..Class::default() };
    let scene = Scene::new().job("j", Rank::Batch, 1, class.clone()).worker(native("a", 4));
    assert_eq!(scene.placed(), []);
    assert_eq!(verdicts(&scene, &Holds::default(), class), pairs(&[("a", "excluded")]));
    assert_eq!(scene.worker(native("b", 1)).placed(), pairs(&[("j", "b")]));
}

#[test]
fn what_excludes_workers_never_goes_to_a_queue_group() {
    let class = Class { excluded: named(&["a"]), ..Class::default() };
    let mut scene = Scene::new().job("j", Rank::Batch, 1, class);
    assert_eq!(scene.placed(), []);
    scene.document.queue_only = true;
    assert_eq!(scene.placed(), []);
}

#[test]
fn an_avoided_worker_is_taken_only_while_nobody_else_is_there() {
    let class = Class { avoided: named(&["a"]), worker: Some("a".to_owned()), ..Class::default() };
    let jobs = || Scene::new().job("j1", Rank::Batch, 2, class.clone()).job("j2", Rank::Batch, 1, class.clone());
    let alone = jobs().worker(native("a", 1));
    assert_eq!(alone.placed(), pairs(&[("j1", "a")]));
    assert_eq!(verdicts(&alone, &Holds::default(), class.clone()), pairs(&[("a", "free")]));
    // The other one is waited for, though the avoided one has room.
    let both = jobs().worker(native("a", 4)).worker(native("b", 1));
    assert_eq!(both.placed(), pairs(&[("j1", "b")]));
    assert_eq!(verdicts(&both, &Holds::default(), class.clone()), pairs(&[("a", "avoided"), ("b", "free")]));
    // One that drains gets nothing, so it is no reason to wait.
    let draining = jobs().worker(native("a", 4)).worker(WorkerBeat { draining: true, ..native("b", 1) });
    assert_eq!(draining.placed(), pairs(&[("j1", "a"), ("j2", "a")]));
    assert_eq!(verdicts(&draining, &Holds::default(), class), pairs(&[("a", "free"), ("b", "draining")]));
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
fn workers_with_the_default_id_of_an_sdk_are_reached_as_a_group() {
    let mut scene = Scene::new().job("j", Rank::Batch, 1, Class::default());
    let shake =
        Handshake { component_id: "cap-runtime".to_owned(), ready_topics: vec!["job.a".to_owned()], ..Handshake::default() };
    let heartbeat = Heartbeat { worker_id: "cap-runtime".to_owned(), max_parallel_jobs: 1, ..Heartbeat::default() };
    scene.workers.handshake(&shake, NOW, NOW);
    scene.workers.heartbeat(&heartbeat, NOW);
    assert_eq!(scene.placed(), pairs(&[("j", "")]), "each process with this id would get what is sent to it");
}

#[test]
fn a_worker_that_is_bound_to_a_tenant_gets_no_other_jobs_and_blocks_none() {
    let of = |tenant: &str| Class { tenant: Some(tenant.into()), ..Class::default() };
    let mut scene = Scene::new()
        .job("theirs", Rank::Interactive, 9, of("acme"))
        .job("ours", Rank::Interactive, 1, of("default"))
        .worker(native("w", 2));
    scene.bindings = [("w".to_owned(), "default".to_owned())].into();
    scene.document.module = "sha256:x".to_owned();
    assert_eq!(scene.placed(), pairs(&[("ours", "w")]));
    let mut scene = Scene::new().job("nobody's", Rank::Interactive, 1, Class::default()).worker(native("w", 2));
    scene.bindings = [("w".to_owned(), "default".to_owned())].into();
    scene.document.module = "sha256:x".to_owned();
    assert_eq!(scene.placed(), pairs(&[]), "of whom nobody knows whose it is");
}

#[test]
fn where_workers_must_prove_themselves_only_they_open_a_queue_group() {
    let announce = |scene: &mut Scene, id: &str| {
        let shake = Handshake { component_id: id.to_owned(), ready_topics: vec!["job.a".to_owned()], ..Handshake::default() };
        scene.workers.handshake(&shake, NOW, NOW);
    };
    for queue_only in [false, true] {
        let mut scene = Scene::new().job("j", Rank::Batch, 1, Class::default());
        (scene.document.queue_only, scene.proven_only) = (queue_only, true);
        assert_eq!(scene.placed(), pairs(&[]), "nobody has proved to serve it");
        announce(&mut scene, "cap-runtime");
        assert_eq!(scene.placed(), pairs(&[("j", "")]));
    }
}

#[test]
fn a_queue_group_is_bounded_and_rests_when_nobody_was_there() {
    let mut scene = Scene::new();
    scene.document.queue_in_flight_max = 2;
    for number in 0..4 {
        scene = scene.job(&format!("j{number}"), Rank::Batch, 10 - number, Class::default());
    }
    scene.out_in_group = 1;
    assert_eq!(scene.placed(), pairs(&[("j0", "")]));
    scene.rests = true;
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

#[test]
fn attempts_that_are_short_are_given_in_advance_but_only_when_all_slots_are_taken() {
    let ahead = |name: &str| WorkerBeat { prefetch: 1, ..native(name, 1) };
    let mut scene = Scene::new().worker(ahead("a")).worker(ahead("b"));
    for number in 0..6 {
        scene = scene.job(&format!("j{number}"), Rank::Batch, 10 - number, Class::default());
    }
    assert_eq!(scene.placed(), pairs(&[("j0", "a"), ("j1", "b")]));
    scene.short = true;
    assert_eq!(scene.placed(), pairs(&[("j0", "a"), ("j1", "b"), ("j2", "a"), ("j3", "b")]));
}

#[test]
fn region_and_type_are_labels_that_workers_need_not_carry() {
    let wants =
        |name: &str, value: &str| Class { labels: BTreeMap::from([(name.to_owned(), value.to_owned())]), ..Class::default() };
    let worker = WorkerBeat { region: "eu".to_owned(), worker_type: "gpu-box".to_owned(), ..native("w", 4) };
    let scene = Scene::new()
        .job("here", Rank::Batch, 3, wants("region", "eu"))
        .job("there", Rank::Batch, 2, wants("region", "us"))
        .job("boxed", Rank::Batch, 1, wants("type", "gpu-box"))
        .worker(worker);
    assert_eq!(scene.placed(), pairs(&[("here", "w"), ("boxed", "w")]));
}

/// Serves a queue as long as somebody goes, everybody at once, and says whose jobs went.
fn served(queue: &mut Queue, most: usize, weight: impl Fn(&str) -> u32) -> Vec<String> {
    let mut tenants = Vec::new();
    while tenants.len() < most {
        let goes = |spot: &Spot| Turn::Goes { to: (), cost_ms: 10, weight: weight(&spot.line.tenant) };
        let Some((spot, ())) = queue.next(NOW, goes) else { break };
        tenants.push(spot.line.tenant.to_string());
    }
    tenants
}

#[test]
fn tenants_share_by_weight_however_much_each_has_waiting() {
    let mut queue = Queue::default();
    for number in 0..1_000 {
        queue.add(&spot(&format!("noisy-{number}"), Rank::Batch, 5_000 - number, Class::default(), "noisy"), "p");
    }
    for number in 0..100 {
        queue.add(&spot(&format!("quiet-{number}"), Rank::Batch, 100 - number, Class::default(), "quiet"), "p");
    }
    let order = served(&mut queue, 150, |tenant| if tenant == "quiet" { 2 } else { 1 });
    let quiet = order.iter().filter(|tenant| *tenant == "quiet").count();
    assert!((99..=101).contains(&quiet), "{quiet} of 150, with twice the weight");
}

#[test]
fn who_was_away_saves_nothing_up() {
    let mut queue = Queue::default();
    let add = |queue: &mut Queue, tenant: &str, count: u64, from: u64| {
        for number in from..from + count {
            queue.add(&spot(&format!("{tenant}-{number}"), Rank::Batch, 100_000 - number, Class::default(), tenant), "p");
        }
    };
    add(&mut queue, "busy", 2_000, 0);
    served(&mut queue, 1_000, |_| 1);
    add(&mut queue, "late", 500, 0);
    let order = served(&mut queue, 100, |_| 1);
    let late = order.iter().filter(|tenant| *tenant == "late").count();
    assert!((49..=51).contains(&late), "{late} of 100");
}

#[test]
fn a_lower_priority_waits_but_does_not_starve() {
    let mut queue = Queue::default();
    let aged = u64::try_from(AGED.as_millis()).expect("a minute") + 1;
    queue.add(&spot("old-batch", Rank::Batch, aged, Class::default(), "a"), "p");
    queue.add(&spot("young-batch", Rank::Batch, 1, Class::default(), "a"), "p");
    for number in 0..100 {
        queue.add(&spot(&format!("critical-{number}"), Rank::Critical, 50, Class::default(), "b"), "p");
    }
    let goes = |_: &Spot| Turn::Goes { to: (), cost_ms: 1, weight: 1 };
    let order: Vec<String> = std::iter::from_fn(|| queue.next(NOW, goes)).map(|(spot, ())| name_of(spot.seat)).collect();
    let place = |name: &str| order.iter().position(|job| job == name).expect("it went");
    assert!(place("old-batch") < 8, "one in eight goes to what is old");
    assert_eq!(place("young-batch"), 101);
}

#[test]
fn what_is_shut_is_not_looked_at_until_it_is_opened() {
    let mut queue = Queue::default();
    queue.add(&spot("a", Rank::Batch, 2, Class::default(), "shut"), "p");
    queue.add(&spot("b", Rank::Batch, 1, Class::default(), "open"), "p");
    let mut asked = Vec::new();
    let ask = |queue: &mut Queue, asked: &mut Vec<String>| {
        queue.next(NOW, |spot| {
            asked.push(spot.line.tenant.to_string());
            if &*spot.line.tenant == "shut" { Turn::<()>::TenantWaits } else { Turn::ClassWaits(Gate::Worker) }
        })
    };
    assert!(ask(&mut queue, &mut asked).is_none());
    assert!(ask(&mut queue, &mut asked).is_none());
    assert_eq!(asked, ["shut", "open"]);
    assert!(!queue.may_go());
    queue.open_tenant("shut");
    queue.room_came();
    asked.clear();
    assert!(ask(&mut queue, &mut asked).is_none());
    assert_eq!(asked.len(), 2);
    assert_eq!(queue.len(), 2);
}

#[test]
fn who_is_next_is_asked_for_before_it_is_needed_and_keeps_its_turn() {
    let mut queue = Queue::new(WholeRoom { cell: 8, lane: 8 });
    let spots: Vec<Spot> =
        (0..100).map(|number| spot(&number.to_string(), Rank::Batch, 1_000 - number, Class::default(), "t")).collect();
    for spot in &spots {
        if queue.is_crowded(&spot.line) { queue.add_shelved(&spot.line, "p", &[spot.seat]) } else { queue.add(spot, "p") }
    }
    let (mut went, mut most) = (Vec::new(), 0);
    while went.len() < spots.len() {
        let wanted = queue.take_wanted();
        for seat in wanted {
            queue.unshelve(spots.iter().find(|spot| spot.seat == seat).expect("one of ours"));
        }
        most = most.max(spots.iter().filter(|spot| queue.has(spot)).count());
        let goes = |_: &Spot| Turn::Goes { to: (), cost_ms: 1, weight: 1 };
        went.extend(queue.next(NOW, goes).map(|(spot, ())| name_of(spot.seat)));
    }
    assert_eq!(went, (0..100).map(|number| number.to_string()).collect::<Vec<_>>());
    assert!(most <= 16, "{most} were in memory at once");
}
