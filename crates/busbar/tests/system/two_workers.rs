//! Workers that join a running stack share its work, and one takes over what another leaves.

use busbar_api::{JobState, JobView};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Client, Dev, DevOptions, Process, empty, guest_pack, sleeping, until};

const SLOTS: u32 = 2;
/// Longer than any test may take.
const FOR_EVER_MS: u64 = 600_000;

#[test]
fn two_workers_share_the_work() {
    let temp = tempfile::tempdir().unwrap();
    let guests = [("good", empty()), ("sleeps", sleeping(FOR_EVER_MS))];
    let packs = vec![guest_pack(temp.path(), guests.map(|(name, wasm)| (name, wasm, json!({"wall_ms": FOR_EVER_MS}))))];
    let dev = Dev::start_with(DevOptions { packs, ..DevOptions::default() });
    let client = dev.client();
    let waiting = client.submit("job.guests.good", &json!(null));
    let mut one = Process::worker(&dev, "one", SLOTS);
    let mut two = Process::worker(&dev, "two", SLOTS);
    assert_eq!(client.wait(&waiting).state, JobState::Succeeded);

    // As many as there are slots: each worker gets its share and no more.
    let long = client.submit_all((0..2 * SLOTS).map(|_| ("job.guests.sleeps", json!(null))));
    until("every slot is taken", || (held_by(&client, "one") == SLOTS && held_by(&client, "two") == SLOTS).then_some(()));

    // What the killed one held waits for a slot of the other.
    one.kill9();
    let kept: Vec<&String> = until("its attempts are given up", || {
        let kept: Vec<&String> = long.iter().filter(|id| holder(&client, id).as_deref() == Some("two")).collect();
        let lost = long.iter().filter(|id| view(&client, id).state == JobState::Scheduled).count();
        (kept.len() + lost == long.len() && lost > 0).then_some(kept)
    });
    for id in &kept {
        cancel(&client, id);
    }
    let moved: Vec<&String> = long.iter().filter(|id| !kept.contains(id)).collect();
    until("the other one holds them", || {
        moved.iter().all(|id| holder(&client, id).as_deref() == Some("two") && view(&client, id).attempts == 2).then_some(())
    });
    for id in &moved {
        cancel(&client, id);
    }

    // All of it is free again, also for somebody who comes back under the same name.
    let mut one = Process::worker(&dev, "one", SLOTS);
    for id in client.submit_all((0..20).map(|_| ("job.guests.good", json!(null)))) {
        assert_eq!(client.wait(&id).state, JobState::Succeeded);
    }
    for worker in [&mut one, &mut two] {
        assert!(worker.end(Signal::TERM).success());
    }
}

fn view(client: &Client, id: &str) -> JobView {
    client.get(&format!("/api/v1/jobs/{id}")).of(200)
}

/// The worker that holds the job now.
fn holder(client: &Client, id: &str) -> Option<String> {
    let view = view(client, id);
    view.worker_id.filter(|_| matches!(view.state, JobState::Dispatched | JobState::Running))
}

fn held_by(client: &Client, worker: &str) -> u32 {
    client.workers().items.iter().find(|item| item.id == worker).map_or(0, |item| item.in_flight)
}

fn cancel(client: &Client, id: &str) {
    let _: Value = client.post_raw(&format!("/api/v1/jobs/{id}/cancel"), b"").of(200);
    assert_eq!(client.wait(id).state, JobState::Cancelled);
}
