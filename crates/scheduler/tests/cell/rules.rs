//! Limits, keys, pauses, retries, children and explanations.

use super::*;

#[test]
fn a_tenant_never_has_more_attempts_out_than_it_may() {
    let mut scene = Scene::new(tenant("acme", FlowLimits { concurrency_max: 2, ..FlowLimits::default() }));
    for name in ["a1", "a2", "a3"] {
        scene.job(name, "acme", |_| ());
    }
    scene.job("b1", "other", |_| ());
    assert_eq!(scene.turn(1).len(), 3, "two of acme's, and the other tenant's");
    let (gate, told) = scene.stands("a3");
    assert_eq!(gate, "quota", "{}", told.summary);
    assert!(scene.turn(1_000).is_empty());
    scene.succeeds("a1");
    assert_eq!(scene.turn(1), ["a3"]);
}

#[test]
fn an_attempt_counts_until_its_worker_lets_go_of_it() {
    let mut scene = Scene::new(tenant("acme", FlowLimits { concurrency_max: 1, ..FlowLimits::default() }));
    scene.job("a1", "acme", |job| (job.plan.start_to_close_ms, job.plan.max_attempts) = (50, 1));
    scene.job("a2", "acme", |_| ());
    assert_eq!(scene.turn(1), ["a1"]);
    scene.turn(100);
    assert_eq!(scene.state("a1"), None, "it ran out of time");
    assert_eq!(scene.stands("a2").0, "quota", "but the worker may still be busy with it");
    let late = Report { attempt: Some(1), worker_id: "w".to_owned(), outcome: Reported::Cancelled, execution_ms: 0 };
    assert!(scene.cell.report(&id("a1"), &late, at(scene.now)).is_err(), "nobody waits for it");
    assert_eq!(scene.turn(1), ["a2"]);
}

#[test]
fn starts_are_paced_to_the_letter() {
    let starts = Some(Rate { count: 2, per_ms: 1_000, burst: 2 });
    let mut scene = Scene::new(topic(FlowLimits { starts, ..FlowLimits::default() }, KeyLimits::default()));
    scene.now = 10_000;
    scene.cell.beat(&WorkerBeat::default(), at(10_000));
    for number in 0..6 {
        scene.job(&format!("j{number}"), "acme", |_| ());
    }
    scene.now = T0;
    assert_eq!(scene.turn(0).len(), 2, "a burst after the pause");
    let (gate, told) = scene.stands("j5");
    assert_eq!(gate, "rate", "{}", told.summary);
    assert_eq!(scene.turn(499).len(), 0);
    assert_eq!(scene.turn(1).len(), 1);
    assert_eq!(scene.turn(1_000).len(), 2);
}

#[test]
fn whoever_takes_over_begins_with_empty_buckets() {
    let admissions = Some(Rate { count: 1, per_ms: 1_000, burst: 5 });
    let mut scene = Scene::new(tenant("acme", FlowLimits { admissions, backlog_max: 2, ..FlowLimits::default() }));
    let job = scheduled("j", "acme", at(500), |_| ());
    let refusal = scene.cell.admit(&job, at(500)).expect_err("its predecessor may have taken them all");
    assert!(matches!(refusal, Refusal::Rate { after, .. } if after.as_millis() == 500), "{refusal:?}");
    assert!(scene.cell.admit(&job, at(1_000)).is_ok());
}

#[test]
fn a_backlog_is_bounded_and_what_a_worker_holds_is_no_part_of_it() {
    let mut scene = Scene::new(tenant("acme", FlowLimits { backlog_max: 2, ..FlowLimits::default() }));
    let job = scheduled("new", "acme", at(T0), |_| ());
    scene.job("a1", "acme", |_| ());
    scene.job("a2", "acme", |_| ());
    assert!(matches!(scene.cell.admit(&job, at(T0)), Err(Refusal::Backlog { most: 2, .. })));
    scene.turn(1);
    assert!(scene.cell.admit(&job, at(T0)).is_ok(), "both are with workers now");
}

#[test]
fn what_is_on_its_way_into_the_store_counts() {
    let mut scene = Scene::new(tenant("acme", FlowLimits { backlog_max: 2, ..FlowLimits::default() }));
    let [a, b, c] = ["a", "b", "c"].map(|name| scheduled(name, "acme", at(T0), |_| ()));
    assert_eq!([scene.cell.admit(&a, at(T0)), scene.cell.admit(&b, at(T0))], [Ok(()), Ok(())]);
    assert!(matches!(scene.cell.admit(&c, at(T0)), Err(Refusal::Backlog { most: 2, .. })));
    assert_eq!(scene.cell.coming(), 2);
    scene.cell.came(&a);
    scene.job("a", "acme", |_| ());
    assert!(matches!(scene.cell.admit(&c, at(T0)), Err(Refusal::Backlog { .. })), "it waits now");
    // The store did not take it.
    scene.cell.came(&b);
    assert_eq!(scene.cell.admit(&c, at(T0)), Ok(()));
    assert_eq!(scene.cell.coming(), 1);
}

#[test]
fn jobs_of_one_key_go_one_by_one_and_hold_up_nobody_else() {
    let mut scene = Scene::new(topic(FlowLimits::default(), KeyLimits::default()));
    scene.job("k1", "acme", keyed);
    scene.job("k2", "acme", keyed);
    scene.job("k3", "acme", keyed);
    scene.job("free", "acme", |_| ());
    scene.job("theirs", "other", keyed);
    let mut sent = scene.turn(1);
    sent.sort();
    assert_eq!(sent, ["free", "k1", "theirs"], "the key of another tenant is another key");
    assert_eq!(scene.stands("k2").0, "key");
    scene.succeeds("k1");
    scene.turn(1);
    assert_eq!((scene.state("k2"), scene.state("k3")), (Some(JobState::Dispatched), Some(JobState::Scheduled)));
    scene.succeeds("k2");
    assert_eq!([scene.turn(1), scene.turn(1)].concat(), ["k3"]);
}

#[test]
fn room_of_a_key_that_is_not_made_use_of_goes_to_the_next_one() {
    let mut scene = Scene::new(topic(FlowLimits::default(), KeyLimits::default()));
    (1..=3).for_each(|number| scene.job(&format!("k{number}"), "acme", keyed));
    assert_eq!(scene.turn(1), ["k1"]);
    assert_eq!(scene.stands("k3").0, "key");
    scene.beat("w", 0);
    scene.succeeds("k1");
    scene.turn(1);
    assert_eq!(scene.stands("k2").0, "worker", "its key has room, and no worker has");
    let cancel = Event::CancelAsked { attempt: 0, reason: String::new(), requested_by: "test".to_owned(), code: Code::Cancelled };
    scene.cell.apply(&id("k2"), &cancel, at(scene.now)).expect("it waits");
    scene.turn(1);
    scene.beat("w", 100);
    assert_eq!([scene.turn(1), scene.turn(1)].concat(), ["k3"]);
}

#[test]
fn starts_of_a_key_are_paced_and_hold_up_nobody_else() {
    let starts = Some(Rate { count: 1, per_ms: 1_000, burst: 1 });
    let mut scene = Scene::new(topic(FlowLimits::default(), KeyLimits { concurrency_max: 10, starts, ..KeyLimits::default() }));
    (1..=3).for_each(|number| scene.job(&format!("k{number}"), "acme", keyed));
    scene.job("free", "acme", |_| ());
    let mut sent = scene.turn(0);
    sent.sort();
    assert_eq!(sent, ["free", "k1"]);
    assert_eq!(scene.stands("k2").0, "key");
    assert!(scene.turn(999).is_empty());
    assert_eq!([scene.turn(1), scene.turn(0)].concat(), ["k2"]);
    assert!(scene.turn(999).is_empty());
    assert_eq!([scene.turn(1), scene.turn(0)].concat(), ["k3"]);
}

#[test]
fn a_key_that_refuses_or_replaces() {
    let limits =
        |strategy: KeyStrategy| topic(FlowLimits::default(), KeyLimits { strategy: strategy.into(), ..KeyLimits::default() });
    let mut scene = Scene::new(limits(KeyStrategy::Reject));
    let new = scheduled("new", "acme", at(T0), keyed);
    assert_eq!(scene.cell.admit(&new, at(T0)), Ok(()));
    assert_eq!(scene.cell.admit(&new, at(T0)), Err(Refusal::Key { most: 1 }), "one is on its way");
    scene.cell.came(&new);
    assert_eq!(scene.cell.admit(&new, at(T0)), Ok(()), "it was not taken");
    scene.cell.came(&new);
    scene.job("k1", "acme", keyed);
    assert_eq!(scene.cell.admit(&new, at(T0)), Err(Refusal::Key { most: 1 }));
    let mut scene = Scene::new(limits(KeyStrategy::CancelOldest));
    scene.job("k1", "acme", keyed);
    scene.turn(1);
    scene.job("k2", "acme", keyed);
    scene.turn(1);
    let wish = scene.cell.job(&id("k1")).and_then(|job| job.cancel.clone()).expect("it is being cancelled");
    assert_eq!(wish.code, Code::Superseded);
    assert_eq!(scene.state("k2"), Some(JobState::Scheduled), "its worker has not let go of it");
    scene.ends("k1", Reported::Cancelled);
    scene.turn(1);
    assert_eq!(scene.turn(1).len() + usize::from(scene.state("k2") == Some(JobState::Dispatched)), 1);
}

fn pause(scope: PauseScope, name: &str, until_ms: u64) -> Pause {
    Pause {
        what: Some(PauseName { scope: scope.into(), name: name.to_owned() }),
        until_ms,
        set_by: "me".to_owned(),
        ..Pause::default()
    }
}

#[test]
fn a_pause_holds_what_it_names_until_it_is_lifted_or_over() {
    for (scope, name) in
        [(PauseScope::Topic, "job.*"), (PauseScope::Tenant, "acme"), (PauseScope::Pool, "p"), (PauseScope::Worker, "w")]
    {
        let mut scene = Scene::new(LimitsDocument::default());
        scene.cell.pause(vec![pause(scope, name, 0)], at(T0)).expect("a good pause");
        assert!(scene.cell.take_holds_unit().is_some() && scene.cell.take_holds_unit().is_none());
        scene.job("j", "acme", |_| ());
        assert!(scene.turn(1).is_empty(), "{name}");
        let (gate, told) = scene.stands("j");
        assert_eq!(gate, if scope == PauseScope::Worker { "worker" } else { "pause" }, "{}", told.summary);
        scene.cell.pause(vec![pause(scope, name, T0 + 5_000)], at(T0)).expect("a good pause");
        assert!(scene.turn(4_998).is_empty(), "{name}");
        scene.beat("w", 100);
        assert_eq!(scene.turn(1), ["j"], "{name}");
    }
}

/// What a worker has goes on; what waits, comes, or comes back waits until the run goes on, and keeps its place.
#[test]
fn nothing_of_a_paused_run_is_sent() {
    let mut scene = Scene::new(LimitsDocument::default());
    scene.beat("w", 2);
    for name in ["r-1:map[0]@1", "r-1:map[1]@1", "r-1:map[2]@1", "r-10:map[0]@1"] {
        scene.job(name, "acme", |_| ());
    }
    assert_eq!(scene.turn(1), ["r-1:map[0]@1", "r-1:map[1]@1"]);
    let run = || pause(PauseScope::Run, "r-1", 0);
    scene.cell.pause(vec![run()], at(scene.now)).expect("a good pause");
    scene.job("r-1:map[3]@1", "acme", |_| ());
    scene.succeeds("r-1:map[0]@1");
    scene.ends(
        "r-1:map[1]@1",
        Reported::Retryable { code: "attempt_failed".to_owned(), message: String::new(), timed_out: false },
    );
    assert!(scene.turn(120_000).is_empty());
    scene.beat("w", 2);
    assert_eq!(scene.turn(1), ["r-10:map[0]@1"], "only another run's");
    scene.succeeds("r-10:map[0]@1");
    for name in ["r-1:map[1]@1", "r-1:map[2]@1", "r-1:map[3]@1"] {
        let (gate, told) = scene.stands(name);
        assert!(gate == "pause" && told.summary.contains("run r-1 is paused by me"), "{}", told.summary);
    }
    assert!(scene.turn(1).is_empty());
    scene.cell.lift(&[run().what.expect("a name")], at(scene.now));
    assert_eq!(scene.turn(1), ["r-1:map[1]@1", "r-1:map[2]@1"], "the oldest first");
    scene.succeeds("r-1:map[2]@1");
    assert_eq!(scene.turn(1), ["r-1:map[3]@1"]);
}

#[test]
fn a_paused_run_goes_on_when_its_pause_is_over_and_its_jobs_can_end_meanwhile() {
    let mut scene = Scene::new(LimitsDocument::default());
    scene.cell.pause(vec![pause(PauseScope::Run, "r", T0 + 5_000)], at(T0)).expect("a good pause");
    scene.job("r:a@1", "acme", |_| ());
    scene.job("r:b@1", "acme", |job| job.plan.schedule_to_start_ms = 1_000);
    assert!(scene.turn(4_999).is_empty());
    assert_eq!(scene.state("r:b@1"), None, "it has waited too long");
    scene.beat("w", 2);
    assert_eq!(scene.turn(1), ["r:a@1"]);
}

#[test]
fn a_paused_pool_is_paused_for_workers_that_nobody_knows() {
    let mut scene = Scene::new(LimitsDocument::default());
    scene.beat("w", 0);
    scene.cell.pause(vec![pause(PauseScope::Pool, "p", 0)], at(T0)).expect("a good pause");
    scene.job("j", "acme", |job| job.topic = "job.silent".to_owned());
    assert!(scene.turn(1).is_empty());
    let (gate, told) = scene.stands("j");
    assert!(gate == "pause" && told.summary.contains("pool p is paused by me"), "{}", told.summary);
}

#[test]
fn a_worker_that_drains_gets_nothing_new() {
    let mut scene = Scene::new(LimitsDocument::default());
    scene.cell.drain(vec![Drain { worker_id: "w".to_owned(), ..Drain::default() }], at(T0)).expect("a good drain");
    scene.job("j", "acme", |_| ());
    assert!(scene.turn(1).is_empty());
    assert_eq!(scene.stands("j").1.gates.last().expect("the last gate").workers[0].verdict, "draining");
    scene.cell.undrain(&["w".to_owned()], at(T0));
    assert_eq!(scene.turn(1), ["j"]);
}

#[test]
fn a_worker_that_is_told_to_slow_down_pauses_what_it_names_and_the_attempt_does_not_count() {
    let mut scene = Scene::new(LimitsDocument::default());
    scene.job("j", "acme", |job| job.plan.max_attempts = 1);
    assert_eq!(scene.turn(1), ["j"]);
    scene.ends("j", Reported::RateLimited { message: "[pause topic 2s] ask later".to_owned() });
    assert!(scene.turn(1_998).is_empty());
    let (gate, told) = scene.stands("j");
    assert_eq!(gate, "pause", "{}", told.summary);
    assert!(told.summary.contains("worker:w"), "{}", told.summary);
    scene.beat("w", 100);
    assert_eq!(scene.turn(2), ["j"]);
}

#[test]
fn a_job_whose_workers_die_is_not_given_to_a_fourth() {
    let mut scene = Scene::new(LimitsDocument::default());
    scene.job("j", "acme", |job| job.plan.max_attempts = 100);
    for incarnation in ["i", "k", "l"] {
        scene.turn(200);
        assert_eq!(scene.state("j"), Some(JobState::Dispatched), "before {incarnation} dies");
        let born = WorkerBeat {
            worker_id: "w".to_owned(),
            incarnation: format!("{incarnation}x"),
            sequence: 1,
            pool: "p".to_owned(),
            capacity: 1,
            ..WorkerBeat::default()
        };
        scene.cell.beat(&born, at(scene.now));
    }
    let job = scene.cell.job(&id("j")).expect("it has just ended");
    assert_eq!((job.end().expect("it has ended").code.as_str(), job.crashes), (Code::JobQuarantined.as_str(), 3));
}

#[test]
fn an_attempt_that_must_report_and_does_not_is_over() {
    let mut scene = Scene::new(LimitsDocument::default());
    scene.job("j", "acme", |job| job.plan.heartbeat_timeout_ms = 1_000);
    scene.turn(1);
    let alive = Event::Evidence { attempt: 1, percent: Some(0) };
    for _ in 0..5 {
        scene.turn(900);
        scene.beat("w", 100);
        let _ = scene.cell.apply(&id("j"), &alive, at(scene.now));
    }
    assert_eq!(scene.state("j"), Some(JobState::Running));
    scene.turn(1_001);
    let job = scene.cell.job(&id("j")).expect("it is tried again");
    assert_eq!(job.last_end.as_ref().map(|end| end.code.as_str()), Some(Code::HeartbeatTimeout.as_str()));
}

#[test]
fn what_is_deferred_is_not_sent_before_its_time() {
    let mut scene = Scene::new(LimitsDocument::default());
    scene.job("j", "acme", |job| job.state = State::Scheduled { since: at(T0), not_before: at(T0 + 1_000) });
    assert!(scene.turn(999).is_empty());
    let (gate, told) = scene.stands("j");
    let opens = told.gates.iter().find(|told| told.name == gate).map(|gate| gate.opens_ms);
    assert_eq!((gate.as_str(), opens), ("not_before", Some(T0 + 1_000)));
    assert_eq!(scene.turn(1), ["j"]);
}

#[test]
fn children_end_with_a_parent_that_is_cancelled_and_so_do_theirs() {
    let mut scene = Scene::new(LimitsDocument::default());
    let child_of = |parent: &'static str| move |job: &mut Job| job.parent_job_id = parent.to_owned();
    scene.job("top", "acme", child_of("bottom"));
    scene.job("middle", "acme", child_of("top"));
    scene.job("bottom", "acme", child_of("middle"));
    scene.job("stranger", "acme", child_of("nobody"));
    let event = Event::CancelAsked { attempt: 0, reason: "why".to_owned(), requested_by: "me".to_owned(), code: Code::Cancelled };
    scene.cell.apply(&id("top"), &event, at(scene.now)).expect("it is live");
    assert!(scene.cell.is_cancelled("top") && !scene.cell.is_cancelled("stranger"));
    for _ in 0..4 {
        scene.turn(1);
    }
    assert_eq!(["top", "middle", "bottom"].map(|name| scene.state(name)), [None; 3]);
    assert!(scene.state("stranger").is_some());
    scene.job("late", "acme", child_of("top"));
    scene.turn(1);
    scene.turn(1);
    assert!(scene.cell.job(&id("late")).is_none_or(|job| job.cancel.is_some()), "its parent was cancelled before it came");
}

#[test]
fn explanations_add_up() {
    let mut scene = Scene::new(LimitsDocument::default());
    scene.beat("w", 1);
    scene.job("first", "acme", |_| ());
    scene.job("second", "acme", |_| ());
    scene.turn(0);
    for _ in 0..10 {
        scene.turn(300);
        scene.beat("w", 1);
    }
    let (gate, told) = scene.stands("second");
    assert_eq!(gate, "worker", "{}", told.summary);
    assert_eq!(told.gates.iter().map(|gate| gate.spent_ms).sum::<u64>(), 3_000, "{:?}", told.gates);
    assert_eq!(told.gates.last().map(|gate| gate.workers[0].verdict.as_str()), Some("full"));
    assert_eq!(scene.stands("first").0, "", "a worker has it");
}
