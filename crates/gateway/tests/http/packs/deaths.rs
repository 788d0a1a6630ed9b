//! A gateway dies at every step of an installation, an upgrade and a removal; the next one finds all of it or nothing.

use super::mortal::Life;
use super::rig::{Rig, Running, demo, lean};

const STEPS_MAX: i64 = 40;

/// What the cell holds of the pack, seen from every side.
#[derive(Debug, PartialEq)]
struct Seen {
    pack: Option<(String, String)>,
    topics: Vec<String>,
    bundles: usize,
    workflows: Vec<String>,
}

impl Seen {
    async fn look(rig: &Rig, gateway: &Running) -> Self {
        let pack = gateway.pack("demo").await;
        let topics = rig.topic_names().await;
        let held = rig.around.held();
        Self { pack, topics, bundles: held.bundles.len(), workflows: held.workflows.keys().cloned().collect() }
    }

    fn nothing() -> Self {
        Self { pack: None, topics: vec![], bundles: 0, workflows: vec![] }
    }

    fn demo() -> Self {
        let pack = Some(("active".to_owned(), "1.0.0".to_owned()));
        let names = |names: [&str; 2]| names.map(str::to_owned).to_vec();
        Self { pack, topics: names(["job.demo.a", "job.demo.b"]), bundles: 1, workflows: names(["demo.one", "demo.two"]) }
    }

    fn lean() -> Self {
        let pack = Some(("active".to_owned(), "2.0.0".to_owned()));
        let topics = ["job.demo.a", "job.demo.c"].map(str::to_owned).to_vec();
        Self { pack, topics, bundles: 0, workflows: vec!["demo.one".to_owned()] }
    }
}

/// Tries something with gateways that live longer and longer, until one lives to its end. `begin` makes the state before, the
/// last argument is told what was found after each death.
async fn die_at_every_step(
    rig: &Rig,
    begin: impl AsyncFn(&Running),
    attempt: impl AsyncFn(&Running) -> u16,
    expect: impl Fn(&Seen, bool),
) {
    for last_is_done in [false, true] {
        let mut deaths = 0;
        for calls in 0..STEPS_MAX {
            let healthy = rig.gateway().await;
            begin(&healthy).await;
            healthy.end().await;

            let life = Life::of(calls, last_is_done);
            let mortal = rig.mortal(&life).await;
            let status = attempt(&mortal).await;
            let died = life.is_over();
            assert_eq!(status >= 500, died, "after {calls} steps: {status}");
            mortal.end().await;

            let next = rig.gateway().await;
            next.rest().await;
            expect(&Seen::look(rig, &next).await, died);
            if next.pack("demo").await.is_some() {
                assert_eq!(next.uninstall("demo").await.status, 200);
            }
            assert_eq!(Seen::look(rig, &next).await, Seen::nothing());
            next.end().await;
            if !died {
                break;
            }
            deaths += 1;
        }
        assert!((4..STEPS_MAX).contains(&deaths), "{deaths} deaths");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_installation_is_there_or_not() {
    let rig = Rig::start().await;
    let install = async |gateway: &Running| gateway.install(&demo("1.0.0"), "").await.status;
    die_at_every_step(
        &rig,
        async |_| {},
        install,
        |seen, died| {
            assert!(*seen == Seen::demo() || (died && *seen == Seen::nothing()), "{seen:?}");
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_is_there_or_not() {
    let rig = Rig::start().await;
    let begin = async |gateway: &Running| assert_eq!(gateway.install(&demo("1.0.0"), "").await.status, 201);
    let upgrade = async |gateway: &Running| gateway.install(&lean("2.0.0"), "?upgrade=true").await.status;
    die_at_every_step(&rig, begin, upgrade, |seen, died| {
        assert!(*seen == Seen::lean() || (died && *seen == Seen::demo()), "{seen:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_is_done_or_not() {
    let rig = Rig::start().await;
    let begin = async |gateway: &Running| assert_eq!(gateway.install(&demo("1.0.0"), "").await.status, 201);
    let remove = async |gateway: &Running| gateway.uninstall("demo").await.status;
    die_at_every_step(&rig, begin, remove, |seen, died| {
        assert!(*seen == Seen::nothing() || (died && *seen == Seen::demo()), "{seen:?}");
    })
    .await;
}
