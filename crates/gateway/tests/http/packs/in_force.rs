//! An answer means that the scheduler works with the topics that stand there, as long as the scheduler says anything.

use std::time::{Duration, Instant};

use super::around::InForce;
use super::rig::{Rig, Running, demo, small};
use crate::support::{Reply, until};

/// How long an answer waits at most.
const PATIENCE: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_answer_waits_for_the_scheduler() {
    let rig = Rig::start().await;
    let gateway = rig.gateway().await;
    let installed = held_back(&rig, gateway.install(&demo("1.0.0"), ""), &["job.demo.a", "job.demo.b"]).await;
    assert_eq!(installed.status, 201, "{}", installed.text());
    // Whoever asks again because the answer was lost is told the same as late.
    let again = held_back(&rig, gateway.install(&demo("1.0.0"), ""), &["job.demo.a", "job.demo.b"]).await;
    assert_eq!(again.json()["outcome"], "unchanged");
    let gone = held_back(&rig, gateway.uninstall("demo"), &[]).await;
    assert_eq!(gone.status, 200, "{}", gone.text());
    gateway.end().await;
}

/// Checks that a change is answered only after the scheduler says that these topics are in force, and returns the answer.
async fn held_back(rig: &Rig, change: impl Future<Output = Reply>, topics: &[&str]) -> Reply {
    // Of no record that ever stood there.
    rig.around.say(InForce::Still(vec![7; 16].into()));
    let mut change = std::pin::pin!(change);
    let asked = until("the scheduler is asked again and again", async || {
        (rig.around.times_asked() > 3 && rig.topic_names().await == topics).then_some(())
    });
    tokio::select! {
        early = &mut change => panic!("answered before it is in force: {}", early.text()),
        () = asked => {}
    }
    rig.around.say(InForce::Newest);
    let reply = change.await;
    assert!(rig.around.times_asked() > 0);
    reply
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_and_a_refusal_do_not_wait() {
    let rig = Rig::start().await;
    let gateway = rig.gateway().await;
    rig.around.say(InForce::Untold);
    assert_eq!(gateway.install(&demo("1.0.0"), "?dry_run=true").await.status, 200);
    gateway.uninstall("demo").await.refused(404, "pack_not_found");
    assert_eq!(rig.around.times_asked(), 0);
    gateway.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scheduler_that_says_nothing_or_something_else_only_delays_the_answer() {
    let rig = Rig::start().await;
    let gateway = rig.gateway().await;
    for (id, said) in [("a", InForce::Untold), ("b", InForce::Still(rig.around.topics_commit().await))] {
        rig.around.say(said);
        let begun = Instant::now();
        let installed = gateway.install(&small(id), "").await;
        assert_eq!(installed.json()["outcome"], "installed");
        assert!(begun.elapsed() >= PATIENCE, "answered after {:?}", begun.elapsed());
    }
    is_installed(&gateway).await;
    gateway.end().await;
}

async fn is_installed(gateway: &Running) {
    for id in ["a", "b"] {
        assert_eq!(gateway.pack(id).await, Some(("active".to_owned(), "1".to_owned())));
    }
}
