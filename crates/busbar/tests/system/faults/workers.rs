//! A worker that is killed, and one that sleeps for too long and wakes: their jobs are done elsewhere, and what they say late is
//! not heard.

use busbar_api::{JobState, JobView};
use busbar_protocol::cap::JobStatus;
use serde_json::json;

use super::{extra_executions, rest_with_success};
use crate::support::{Client, Dev, Executions, Sleeper, Truth, Wire, freeze, result_of, thaw, until};

const SLOTS: u32 = 4;
/// Long enough to be told apart from its successor, which starts when the first worker is given up.
const SLEEP_MS: u64 = 2_000;

struct Scene {
    dev: Dev,
    one: Sleeper,
    _two: Sleeper,
    jobs: Vec<String>,
}

impl Scene {
    /// Two workers whose every slot is taken; the first one is frozen then.
    fn start() -> Self {
        let dev = Dev::start();
        let file = dev.temp().join("executions");
        let [one, two] = ["one", "two"].map(|id| Sleeper::start(&dev, id, SLOTS, &file));
        let jobs = dev.client().submit_sleeps((0..2 * SLOTS).map(|_| SLEEP_MS));
        until("every slot is taken", || (Executions::read(&file).open == 2 * SLOTS).then_some(()));
        freeze(one.pid());
        Self { dev, one, _two: two, jobs }
    }

    /// The jobs of the first worker, once the other one executes them.
    fn moved(&self) -> Vec<&String> {
        let client = self.dev.client();
        until("the other worker executes them", || {
            let again = self.jobs.iter().filter(|id| view(&client, id).attempts == 2).collect::<Vec<_>>();
            let there = |id: &&String| view(&client, id).worker_id.as_deref() == Some("two");
            (again.len() == SLOTS as usize && again.iter().all(there)).then_some(again)
        })
    }

    /// Each job ended once, with the second attempt where there was one.
    fn check(&self, moved: &[&String]) {
        let client = self.dev.client();
        rest_with_success(&client, &Truth::connect(&self.dev.endpoints.redis), &self.jobs);
        for id in &self.jobs {
            let (view, attempts) = (view(&client, id), if moved.contains(&id) { 2 } else { 1 });
            assert_eq!((view.attempts, view.worker_id.as_deref()), (attempts, Some("two")), "{view:?}");
            assert_eq!(view.result_ptr, Some(format!("redis://res:{id}:{attempts}")));
            assert_eq!(client.result(id), json!({ "slept": SLEEP_MS }));
        }
        assert_eq!(extra_executions(&self.dev.temp().join("executions"), &self.jobs), SLOTS, "what the first one held");
    }
}

#[test]
fn what_a_killed_worker_held_is_done_elsewhere_and_its_late_results_do_not_count() {
    let mut scene = Scene::start();
    scene.one.kill9();
    let moved = scene.moved();
    // As if they had been under way when it died.
    let wire = Wire::connect(&scene.dev.endpoints.nats);
    for id in &moved {
        for (status, pointer) in [(JobStatus::Failed, String::new()), (JobStatus::Succeeded, format!("redis://res:{id}:1"))] {
            let mut late = result_of(id, 1, "one");
            late.set_status(status);
            late.result_ptr = pointer;
            wire.tell_result(late);
        }
        // It may not speak for the other one either.
        let mut foreign = result_of(id, 2, "one");
        foreign.set_status(JobStatus::Failed);
        wire.tell_result(foreign);
    }
    scene.check(&moved);
}

#[test]
fn a_worker_that_slept_for_too_long_is_not_heard() {
    let scene = Scene::start();
    let moved = scene.moved();
    // Its sleeps are over, too: it tells the results of all its attempts at once.
    thaw(scene.one.pid());
    scene.dev.client().until_online("one", SLOTS);
    scene.check(&moved);
}

fn view(client: &Client, id: &str) -> JobView {
    let view: JobView = client.get(&format!("/api/v1/jobs/{id}")).of(200);
    assert_ne!(view.state, JobState::Failed, "{view:?}");
    view
}
