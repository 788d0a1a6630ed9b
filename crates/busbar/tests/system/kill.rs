//! Whatever is killed, no acknowledged job is lost, none ends twice, and none is executed again without need.
//!
//! 2,000 jobs of 20 to 200 ms run on 8 slots. The kill comes when 500 to 1,500 have ended and all 8 slots are executing: the
//! worker is frozen for the look, so that both are certain, and that it holds no attempt beside those.

use std::path::PathBuf;

use busbar_protocol::busbar::JobState;

use crate::support::{Dev, Executions, Sleeper, Truth, kill9, thaw, until};

const JOBS: usize = 2_000;
const SLOTS: u32 = 8;
const WORKER: &str = "sleeper-1";
/// The kill comes when so many jobs have ended.
const ENDED_MIN: u64 = 500;
const ENDED_MAX: u64 = 1_500;

struct Scene {
    dev: Dev,
    sleeper: Sleeper,
    file: PathBuf,
    /// What the client was told: its own list.
    acknowledged: Vec<String>,
    /// How many jobs had ended at the moment of the kill.
    ended: u64,
}

#[test]
fn kill_worker() {
    let mut scene = Scene::at_the_moment();
    scene.sleeper.kill9();
    scene.sleeper = Sleeper::start(&scene.dev, WORKER, SLOTS, &scene.file);
    scene.check(SLOTS);
}

#[test]
fn kill_nats() {
    let scene = Scene::at_the_moment();
    kill9(scene.dev.server_pid("nats"));
    thaw(scene.sleeper.pid());
    scene.check(0);
}

#[test]
fn kill_redis() {
    let scene = Scene::at_the_moment();
    kill9(scene.dev.server_pid("redis"));
    thaw(scene.sleeper.pid());
    scene.check(0);
}

/// The whole of it: roles, servers, and the worker as well.
#[test]
fn kill_dev() {
    let mut scene = Scene::at_the_moment();
    scene.dev.kill9();
    scene.sleeper.kill9();
    scene.dev.restart();
    scene.sleeper = Sleeper::start(&scene.dev, WORKER, SLOTS, &scene.file);
    scene.check(SLOTS);
}

impl Scene {
    /// Everything runs, and the worker is frozen at the right moment.
    fn at_the_moment() -> Self {
        let dev = Dev::start();
        let file = dev.temp().join("executions");
        let sleeper = Sleeper::start(&dev, WORKER, SLOTS, &file);
        let acknowledged = dev.client().submit_sleeps((0..JOBS as u64).map(|n| 20 + n * 7919 % 181));
        until("enough jobs have ended", || (ended(&dev)? >= ENDED_MIN).then_some(()));
        let ended = sleeper.freeze_full(SLOTS, &file, || ended(&dev));
        assert!((ENDED_MIN..=ENDED_MAX).contains(&ended), "{ended} jobs had ended");
        Self { dev, sleeper, file, acknowledged, ended }
    }

    /// Waits for the end and holds everybody to their word.
    fn check(&self, extra_max: u32) {
        let truth = Truth::connect(&self.dev.endpoints.redis);
        let ends = until("every acknowledged job has ended", || {
            let ends = truth.ends()?;
            self.acknowledged.iter().all(|id| ends.contains_key(id)).then_some(ends)
        });
        // Nothing is under way any more that could add to it.
        let client = self.dev.client();
        until("the scheduler has no live job", || (client.live_jobs()? == 0).then_some(()));
        let after = truth.ends().expect("the store is there");
        assert_eq!(ends, after, "something ended after its end");
        for id in &self.acknowledged {
            assert_eq!(ends[id], [JobState::Succeeded], "{id}");
        }
        assert_eq!(ends.len(), self.acknowledged.len(), "there are jobs that nobody submitted");
        self.check_list();
        self.check_executions(extra_max);
    }

    /// The client finds exactly its own jobs, all of them with success.
    fn check_list(&self) {
        let mut listed: Vec<String> = self.dev.client().list("&state=SUCCEEDED").into_iter().map(|job| job.id).collect();
        let mut acknowledged = self.acknowledged.clone();
        listed.sort();
        acknowledged.sort();
        assert_eq!(listed, acknowledged);
    }

    fn check_executions(&self, extra_max: u32) {
        let executions = Executions::read(&self.file);
        for id in &self.acknowledged {
            assert!(executions.starts.contains_key(id), "{id} succeeded and was never executed");
        }
        let extra = executions.count() - u32::try_from(JOBS).unwrap();
        // Shown with `--nocapture`, and when the test fails.
        eprintln!("killed when {} of {JOBS} jobs had ended and {SLOTS} were executing: {extra} extra executions", self.ended);
        assert!(extra <= extra_max, "{extra} extra executions; the killed one held {extra_max}");
    }
}

fn ended(dev: &Dev) -> Option<u64> {
    Some(JOBS as u64 - dev.client().live_jobs()?)
}
