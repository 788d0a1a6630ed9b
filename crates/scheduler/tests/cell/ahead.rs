//! New jobs that go to a worker with their first commit.

use busbar_scheduler::core::commit::Birth;

use super::*;

impl Scene {
    /// Takes a job in ahead and places; the state in its first unit, if it has a worker.
    fn submits(&mut self, name: &str, change: impl FnOnce(&mut Job)) -> Option<JobState> {
        let job = Arc::new(scheduled(name, "acme", at(self.now), change));
        let class = Arc::new(Class { topic: job.topic.clone(), ..Class::default() });
        if !self.cell.insert_ahead(&job, class, at(self.now)) {
            return None;
        }
        self.cell.place(100, at(self.now));
        let passed = [JobState::Pending, JobState::Scheduled];
        let (unit, _) = self.cell.birth_ahead(&job.id, &passed, &Birth::default(), at(self.now))?;
        self.write(&unit);
        self.store.get(&job.id).map(|(job, _)| job.state.tag())
    }

    fn orders(&mut self) -> Vec<String> {
        let orders = self.cell.take_orders().into_iter();
        orders.filter(|order| self.cell.is_due(order)).map(|order| order.job.to_string()).collect()
    }

    fn in_flight(&self, worker: &str) -> usize {
        self.cell.workers().get(worker).map_or(0, |worker| worker.out.len())
    }
}

#[test]
fn a_job_that_finds_a_worker_is_dispatched_in_its_first_unit() {
    let mut scene = Scene::new(LimitsDocument::default());
    assert_eq!(scene.submits("a", |_| {}), Some(JobState::Dispatched));
    assert!(scene.cell.take_units().is_empty(), "there is nothing else to write");
    assert_eq!(scene.state("a"), None, "it is not durable");
    let orders = scene.cell.take_orders();
    assert!(!scene.cell.is_due(&orders[0]), "nor may it be sent");
    scene.cell.born(&id("a"));
    assert!(scene.cell.is_due(&orders[0]));
    assert_eq!(scene.state("a"), Some(JobState::Dispatched));
    scene.succeeds("a");
    let units = scene.cell.take_units();
    assert!(matches!(units[0].1.writes[0], Write::Put { revision: 2, .. }), "{units:?}");
    scene.cell.committed(&id("a"), at(scene.now));
    assert!(scene.cell.is_empty());
}

#[test]
fn one_that_the_store_does_not_take_was_never_there() {
    let mut scene = Scene::new(tenant("acme", FlowLimits { concurrency_max: 1, ..FlowLimits::default() }));
    let before = format!("{:?}", scene.cell.live());
    assert_eq!(scene.submits("a", |job| job.plan.deadline_at_ms = T0 + 1_000), Some(JobState::Dispatched));
    assert_eq!(scene.in_flight("w"), 1);
    scene.cell.withdraw(&id("a"), at(scene.now));
    assert!(scene.cell.is_empty() && scene.orders().is_empty());
    assert_eq!((scene.in_flight("w"), format!("{:?}", scene.cell.live())), (0, before));
    // Its tenant has its slot back, and its deadline wakes nobody.
    assert_eq!(scene.submits("b", |_| {}), Some(JobState::Dispatched));
    scene.cell.born(&id("b"));
    assert_eq!(scene.turn(2_000), ["b"]);
}

#[test]
fn one_that_finds_no_worker_is_admitted_as_others_are() {
    let mut scene = Scene::new(LimitsDocument::default());
    scene.beat("w", 1);
    assert_eq!(scene.submits("a", |_| {}), Some(JobState::Dispatched));
    scene.cell.born(&id("a"));
    assert_eq!(scene.submits("b", |_| {}), None);
    assert!(!scene.cell.is_live(&id("b")), "it is not in memory before it is durable");
    scene.job("b", "acme", |_| {});
    scene.turn(0);
    scene.succeeds("a");
    assert_eq!(scene.turn(0), ["b"]);
}

#[test]
fn one_that_was_let_in_is_counted_once() {
    let mut scene = Scene::new(tenant("acme", FlowLimits { backlog_max: 1, ..FlowLimits::default() }));
    scene.beat("w", 1);
    let [a, b, c] = ["a", "b", "c"].map(|name| scheduled(name, "acme", at(scene.now), |_| ()));
    assert_eq!(scene.cell.admit(&a, at(scene.now)), Ok(()));
    assert_eq!(scene.submits("a", |_| {}), Some(JobState::Dispatched));
    assert_eq!((scene.cell.coming(), scene.cell.len()), (0, 1), "it is here");
    assert_eq!(scene.cell.admit(&b, at(scene.now)), Ok(()), "a worker has the first");
    assert_eq!(scene.submits("b", |_| {}), None);
    assert_eq!((scene.cell.coming(), scene.cell.len()), (1, 1), "there was no worker, so that it goes without");
    assert!(scene.cell.admit(&c, at(scene.now)).is_err());
    scene.cell.withdraw(&a.id, at(scene.now));
    assert_eq!((scene.cell.coming(), scene.cell.len()), (1, 0), "the store did not take it");
}

#[test]
fn whoever_waits_longer_goes_before_one_that_comes() {
    let mut scene = Scene::new(LimitsDocument::default());
    scene.beat("w", 1);
    scene.job("first", "acme", |_| {});
    assert_eq!(scene.submits("second", |_| {}), None);
    scene.job("second", "acme", |_| {});
    assert_eq!(scene.orders(), ["first"]);
}

#[test]
fn one_whose_worker_is_lost_before_it_is_durable_goes_to_another() {
    let mut scene = Scene::new(LimitsDocument::default());
    assert_eq!(scene.submits("a", |_| {}), Some(JobState::Dispatched));
    let first = scene.cell.take_orders();
    scene.now += 10_000;
    scene.cell.pass_time(at(T0), at(scene.now));
    assert!(scene.cell.has_changed_again(), "the loss cannot be written before the job is");
    scene.cell.born(&id("a"));
    assert!(!scene.cell.is_due(&first[0]), "nobody is there to have it");
    assert_eq!(scene.state("a"), Some(JobState::Scheduled));
    scene.beat("v", 1);
    assert_eq!(scene.turn(1_000), ["a"]);
}

#[test]
fn what_is_not_alone_waits_until_it_is_durable() {
    let mut scene = Scene::new(LimitsDocument::default());
    assert_eq!(scene.submits("keyed", keyed), None);
    assert_eq!(scene.submits("child", |job| job.parent_job_id = "p".to_owned()), None);
    let later = at(scene.now + 1_000);
    assert_eq!(scene.submits("later", |job| job.state = State::Scheduled { since: job.created, not_before: later }), None);
    scene.job("there", "acme", |_| {});
    assert_eq!(scene.submits("there", |_| {}), None);
    assert_eq!(scene.cell.len(), 1);
}
