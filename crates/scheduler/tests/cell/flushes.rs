//! What changes between the moment when units are taken and the moment when they are durable.

use busbar_scheduler::core::transition::Command;

use super::replicas::{replicated, scene as with_replicas};
use super::*;

/// The revision to which a unit brings its job.
fn revision(unit: &Unit) -> u64 {
    match unit.writes.first() {
        Some(Write::Put { revision, .. }) => *revision,
        other => panic!("a job comes first: {other:?}"),
    }
}

#[test]
fn a_job_that_ends_while_its_dispatch_is_written_stays_until_its_end_is() {
    let mut scene = Scene::new(LimitsDocument::default());
    scene.job("a", "acme", |_| {});
    scene.cell.place(1, at(scene.now));
    let (dispatched, orders) = (scene.cell.take_units(), scene.cell.take_orders());
    assert_eq!((dispatched.len(), revision(&dispatched[0].1), orders.len()), (1, 2, 1));
    scene.succeeds("a");
    scene.cell.committed(&id("a"), at(scene.now));
    assert_eq!(scene.state("a"), Some(JobState::Succeeded), "its end is not durable");
    assert!(!scene.cell.is_due(&orders[0]), "nobody needs to do it any more");
    let ended = scene.cell.take_units();
    assert_eq!((ended.len(), revision(&ended[0].1)), (1, 3));
    scene.cell.committed(&id("a"), at(scene.now));
    assert_eq!(scene.state("a"), None);
}

#[test]
fn what_changes_again_while_it_is_written_holds_up_the_next_flush() {
    let mut scene = Scene::new(LimitsDocument::default());
    scene.job("a", "acme", |_| {});
    scene.job("b", "acme", |_| {});
    scene.cell.place(1, at(scene.now));
    let first = scene.cell.take_units();
    assert_eq!((first.len(), scene.cell.changes()), (1, 0));
    scene.cell.place(1, at(scene.now));
    assert_eq!((scene.cell.changes(), scene.cell.has_changed_again()), (1, false), "another job may follow");
    scene.succeeds("a");
    assert_eq!((scene.cell.changes(), scene.cell.has_changed_again()), (2, true));
    scene.cell.committed(&id("a"), at(scene.now));
    assert!(!scene.cell.has_changed_again());
}

#[test]
fn an_attempt_that_was_lost_while_it_was_written_is_not_sent_as_the_next_one() {
    let mut scene = Scene::new(LimitsDocument::default());
    scene.job("a", "acme", |_| {});
    scene.cell.place(1, at(scene.now));
    let (_, first) = (scene.cell.take_units(), scene.cell.take_orders());
    scene.ends("a", Reported::Retryable { code: String::new(), message: String::new(), timed_out: false });
    scene.cell.committed(&id("a"), at(scene.now));
    scene.now += 60_000;
    scene.beat("w", 100);
    scene.cell.pass_time(at(scene.now), at(scene.now));
    scene.cell.place(1, at(scene.now));
    assert_eq!(scene.cell.job(&id("a")).map(|job| job.attempt), Some(2));
    assert!(!scene.cell.is_due(&first[0]));
    let second = scene.cell.take_orders();
    assert!(matches!(second[..], [Order { command: Command::Dispatch { attempt: 2 }, .. }]), "{second:?}");
    assert!(scene.cell.is_due(&second[0]));
}

#[test]
fn an_attempt_that_is_over_before_it_is_written_is_written_before_the_next_one() {
    let mut scene = Scene::new(LimitsDocument::default());
    scene.job("a", "acme", |_| {});
    scene.cell.place(1, at(scene.now));
    scene.ends("a", Reported::Retryable { code: String::new(), message: String::new(), timed_out: false });
    scene.now += 60_000;
    scene.beat("w", 100);
    scene.cell.pass_time(at(scene.now), at(scene.now));
    assert_eq!(scene.cell.place(1, at(scene.now)), 0, "nobody has written that there was a first one");
    assert_eq!(scene.cell.take_units().len(), 1);
    scene.cell.committed(&id("a"), at(scene.now));
    assert_eq!(scene.cell.place(1, at(scene.now)), 1);
    assert_eq!(scene.cell.job(&id("a")).map(|job| job.attempt), Some(2));
}

#[test]
fn a_replica_whose_job_ends_while_it_is_written_is_cancelled() {
    let mut scene = with_replicas(&["w", "w2"]);
    scene.job("j", "acme", |job| {
        replicated(job);
        job.plan.deadline_at_ms = T0 + 10;
    });
    scene.cell.place(1, at(scene.now));
    scene.cell.pass_time(at(scene.now), at(scene.now));
    let births = scene.cell.take_births();
    assert_eq!(births.len(), 2);
    scene.now += 20;
    scene.cell.pass_time(at(scene.now), at(scene.now));
    assert_eq!(scene.state("j"), Some(JobState::Timeout));
    for Delivered { job, class, unit } in births {
        scene.write(&unit);
        scene.cell.insert_new(job, class, at(scene.now));
    }
    scene.turn(1);
    scene.turn(1);
    assert!(scene.cell.is_empty(), "{:?}", scene.cell.live());
}
