//! Jobs that wait behind many others stand in the store, and are there when something happens with them.

use busbar_protocol::ports::{CommitId, Stored};
use busbar_scheduler::core::cell::{Misread, Page};
use busbar_scheduler::core::queue::WholeRoom;
use busbar_scheduler::core::sketch::{Found, Kind};

use super::*;

/// How many jobs that wait are whole in these tests.
const ROOM: usize = 4;

impl Scene {
    fn cramped(limits: LimitsDocument) -> Self {
        Self::with(limits, Settings { whole: WholeRoom { cell: ROOM, lane: ROOM }, ..Settings::default() })
    }

    /// Many jobs, of which most are shelved.
    fn crowd(count: usize) -> Self {
        let mut scene = Self::cramped(LimitsDocument::default());
        scene.beat("w", 1);
        (0..count).for_each(|number| scene.job(&format!("j{number:03}"), "acme", |_| ()));
        scene
    }

    /// Reads what the cell wants, as it stands in the store.
    fn fetch(&mut self) -> usize {
        let wanted = self.cell.take_wanted();
        for id in &wanted {
            let found = self.store.get(id).cloned();
            self.cell.fetched(id, found, at(self.now)).expect("it is what was written");
        }
        wanted.len()
    }

    fn whole(&self) -> usize {
        self.store.keys().filter(|id| self.cell.job(id).is_some()).count()
    }

    fn is_shelved(&self, name: &str) -> bool {
        self.cell.is_shelved(&id(name))
    }
}

#[test]
fn a_long_line_goes_in_its_order_and_few_of_it_are_whole() {
    let mut scene = Scene::crowd(200);
    assert_eq!((scene.cell.len(), scene.cell.live()[&JobState::Scheduled]), (200, 200));
    let (mut went, mut most) = (Vec::new(), 0);
    while went.len() < 200 {
        most = most.max(scene.whole());
        for name in scene.turn(1) {
            scene.succeeds(&name);
            went.push(name);
        }
        scene.fetch();
    }
    assert!(went.is_sorted(), "{went:?}");
    assert!(most <= 2 * ROOM + 1, "{most} were whole at once");
    scene.turn(1);
    assert!(scene.cell.is_empty() && scene.cell.live().is_empty(), "{:?}", scene.cell.live());
}

#[test]
fn time_passes_for_what_is_shelved() {
    let mut scene = Scene::crowd(20);
    scene.job("late", "acme", |job| job.plan.deadline_at_ms = T0 + 5_000);
    scene.job("deferred", "acme", |job| {
        job.state = State::Scheduled { since: at(T0), not_before: at(T0 + 60_000) };
    });
    assert!(scene.is_shelved("late") && scene.is_shelved("deferred"));
    scene.turn(5_000);
    assert!(scene.fetch() > 0);
    scene.turn(0);
    assert_eq!(scene.store[&id("late")].0.state.tag(), JobState::Timeout);
    scene.turn(55_000);
    scene.beat("w", 1);
    scene.fetch();
    let gate = scene.stands("deferred").0;
    assert!(gate == "rank" || gate == "worker", "it is in its line now: {gate}");
}

#[test]
fn what_was_read_and_is_not_what_was_written_is_not_believed() {
    let mut scene = Scene::crowd(20);
    let last = id("j019");
    let (job, revision) = scene.store[&last].clone();
    let now = at(scene.now);
    assert_eq!(scene.cell.fetched(&last, None, now), Err(Misread::Foreign), "it is gone");
    assert_eq!(scene.cell.fetched(&last, Some((job.clone(), revision + 1)), now), Err(Misread::Foreign), "somebody wrote it");
    assert_eq!(scene.cell.fetched(&last, Some((job.clone(), revision - 1)), now), Err(Misread::Early), "it was read too early");
    assert_eq!(scene.cell.fetched(&last, Some((job, revision)), now), Ok(()));
    assert!(scene.cell.job(&last).is_some());
}

#[test]
fn what_is_shelved_is_listed_counted_and_cancelled_like_everything_else() {
    let limits = tenant("acme", FlowLimits { backlog_max: 21, ..FlowLimits::default() });
    let mut scene = Scene::cramped(limits);
    scene.beat("w", 1);
    (0..21).for_each(|number| scene.job(&format!("j{number:03}"), "acme", |_| ()));
    let listed = |scene: &Scene, before: Option<&(Timestamp, JobId)>| -> Vec<String> {
        scene.cell.newest_before(before).map(|known| known.id().to_string()).collect()
    };
    let all = listed(&scene, None);
    assert!(all.len() == 21 && all.is_sorted_by(|a, b| a > b), "{all:?}");
    assert_eq!(listed(&scene, Some(&(at(T0), id("j007")))), all[14..]);
    let known = scene.cell.newest_before(None).next().expect("the newest");
    assert_eq!((known.tenant_id(), known.topic(), known.state()), ("acme", "job.a", JobState::Scheduled));

    let next = scheduled("next", "acme", at(scene.now), |_| ());
    assert!(matches!(scene.cell.admit(&next, at(scene.now)), Err(Refusal::Backlog { most: 21, .. })));
    let found = scene.store.get(&id("j020")).cloned();
    scene.cell.fetched(&id("j020"), found, at(scene.now)).expect("as it was written");
    let cancel = Event::CancelAsked { attempt: 0, reason: String::new(), requested_by: "test".to_owned(), code: Code::Cancelled };
    scene.cell.apply(&id("j020"), &cancel, at(scene.now)).expect("it waits");
    scene.turn(0);
    assert_eq!(scene.cell.admit(&next, at(scene.now)), Ok(()));
}

#[test]
fn a_page_that_was_read_before_a_job_ended_does_not_bring_it_back() {
    let mut scene = Scene::new(tenant("counted", FlowLimits { backlog_max: 5, ..FlowLimits::default() }));
    scene.cell.begin_loading(3);
    let class = Arc::new(Class { topic: "job.a".to_owned(), ..Class::default() });
    let jobs = ["a", "b", "c"].map(|name| (scheduled(name, "acme", at(T0), |_| ()), 1, Arc::clone(&class)));
    let [a, _, _] = jobs.clone();
    assert!(scene.cell.may_be_unread(&id("a")) && scene.cell.len() == 3);
    scene.cell.load_one(a.0, a.1, a.2, at(T0));
    assert_eq!(scene.turn(1), ["a"]);
    scene.succeeds("a");
    scene.turn(1);
    scene.cell.load(Page { whole: jobs.to_vec(), ..Page::default() }, at(scene.now));
    assert_eq!((scene.cell.len(), scene.cell.is_live(&id("a"))), (2, false));
    assert!(!scene.cell.can_judge(&scheduled("d", "counted", at(T0), |_| ())), "its tenant's jobs are not counted yet");
    assert!(scene.cell.can_judge(&scheduled("d", "acme", at(T0), |_| ())));
    scene.cell.end_loading();
    assert!(scene.cell.can_judge(&scheduled("d", "counted", at(T0), |_| ())));
    assert_eq!(scene.turn(1), ["b", "c"]);
}

#[test]
fn what_is_read_before_its_turn_is_there_for_whoever_asked_however_many_wait() {
    let mut scene = Scene::crowd(20);
    scene.cell.begin_loading(2);
    let class = Arc::new(Class { topic: "job.a".to_owned(), ..Class::default() });
    let [asked, other] = ["asked", "other"].map(|name| scheduled(name, "acme", at(T0), |_| ()));
    scene.cell.load_one(asked.clone(), 1, Arc::clone(&class), at(T0));
    assert!(scene.cell.job(&id("asked")).is_some());
    let whole = vec![(asked, 1, Arc::clone(&class)), (other, 1, class)];
    scene.cell.load(Page { whole, ..Page::default() }, at(T0));
    assert!(scene.cell.job(&id("asked")).is_some() && scene.is_shelved("other"));
}

/// A page of jobs of one kind, of which only that was read by which they wait.
fn sketched(jobs: &[Job]) -> Page {
    let sketch = |job: &Job| {
        let stored = Stored { revision: 1, commit: CommitId([0; 16]), value: job.encode() };
        Found::read(&stored).expect("it waits").into_sketch(0)
    };
    let class = Arc::new(Class { topic: "job.a".to_owned(), ..Class::default() });
    let kind = Kind { tenant_id: "acme".to_owned(), class, priority: jobs[0].priority, replicated: false };
    Page { whole: Vec::new(), sketches: jobs.iter().map(sketch).collect(), kinds: vec![kind] }
}

#[test]
fn of_what_is_only_sketched_everything_is_read_before_it_goes() {
    let mut scene = Scene::new(tenant("acme", FlowLimits { backlog_max: 3, ..FlowLimits::default() }));
    scene.cell.begin_loading(3);
    let jobs = ["a", "b", "c"].map(|name| scheduled(name, "acme", at(T0), |_| ()));
    for job in &jobs {
        scene.store.insert(job.id.clone(), (job.clone(), 1));
    }
    // The page comes twice, as after a store that was away.
    scene.cell.load(sketched(&jobs), at(T0));
    scene.cell.load(sketched(&jobs), at(T0));
    assert!(scene.cell.len() == 3 && scene.is_shelved("a") && scene.is_shelved("c"));
    let next = scheduled("next", "acme", at(scene.now), |_| ());
    assert!(matches!(scene.cell.admit(&next, at(scene.now)), Err(Refusal::Backlog { most: 3, .. })));
    assert!(scene.turn(1).is_empty(), "nothing goes that was not read");
    assert_eq!(scene.fetch(), 3);
    assert_eq!(scene.turn(1), ["a", "b", "c"]);
    assert!(scene.cell.job(&id("b")).is_some_and(|job| job.trace_id == "trace"));
    // Nor does it come again as what is in memory, nor as what has ended.
    scene.cell.load(sketched(&jobs), at(scene.now));
    assert!(scene.cell.len() == 3 && !scene.is_shelved("a"));
    ["a", "b", "c"].iter().for_each(|name| scene.succeeds(name));
    scene.turn(1);
    scene.cell.load(sketched(&jobs), at(scene.now));
    scene.cell.end_loading();
    assert_eq!(scene.cell.len(), 0);
}

#[test]
fn jobs_of_a_paused_run_on_the_shelf_wait_and_come_back() {
    let mut scene = Scene::cramped(LimitsDocument::default());
    scene.beat("w", 1);
    (0..60).for_each(|number| scene.job(&format!("r:map[{number}]@1"), "acme", |_| ()));
    (0..20).for_each(|number| scene.job(&format!("other{number:02}"), "acme", |_| ()));
    let what = PauseName { scope: PauseScope::Run.into(), name: "r".to_owned() };
    scene.cell.pause(vec![Pause { what: Some(what.clone()), ..Pause::default() }], at(scene.now)).expect("a good pause");
    let run = |scene: &mut Scene, turns: usize| {
        let mut went = Vec::new();
        for _ in 0..turns {
            for name in scene.turn(1) {
                scene.succeeds(&name);
                went.push(name);
            }
            scene.fetch();
        }
        went
    };
    let went = run(&mut scene, 200);
    assert!(went.len() == 20 && went.iter().all(|name| name.starts_with("other")), "{went:?}");
    assert_eq!(scene.cell.len(), 60);
    scene.cell.lift(&[what], at(scene.now));
    assert_eq!(run(&mut scene, 200).len(), 60);
    assert!(scene.cell.is_empty());
}
