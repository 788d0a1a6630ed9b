//! The roles run by the compose file's own settings: `tools/test deploy` starts them with `tools/compose-local` and runs this test
//! against them. One scheduler is killed in the middle of the work, and the standby finishes it.

use std::fs;

use busbar_api::JobState;
use busbar_protocol::busbar;
use serde_json::json;

use crate::support::{Client, Endpoints, Truth, kill9, until};

const ECHO: &str = "job.echo";
const JOBS: usize = 4_000;
/// The kill comes when so many jobs have ended.
const ENDED_MIN: usize = 200;

#[test]
#[ignore = "needs the roles that `tools/compose-local` starts: run `tools/test deploy`"]
fn the_standby_finishes_what_a_killed_scheduler_left() {
    let file = std::env::var_os("BUSBAR_ENDPOINTS").expect("tools/compose-local sets it");
    let at: Endpoints = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let client = Client::new(&at.http, Some(&at.api_key));
    until("a worker is there", || client.workers().items.iter().any(|worker| worker.status == "online").then_some(()));
    assert_eq!(client.with_key(Some("another key")).get("/api/v1/status").status, 401);

    let inputs = || (0..JOBS).map(|n| json!({ "n": n }));
    let acknowledged = client.submit_all(inputs().map(|input| (ECHO, input)));
    let live = until("some of them have ended", || client.live_jobs().filter(|live| *live <= (JOBS - ENDED_MIN) as u64));
    let before = client.status().scheduler.expect("an active one");
    kill9(pid_of(&before.owner));
    assert!(live > 0, "all of them had ended before the kill");

    for (id, input) in acknowledged.iter().zip(inputs()) {
        assert_eq!(client.wait(id).state, JobState::Succeeded);
        if id.ends_with('0') {
            assert_eq!(client.result(id), input);
        }
    }
    let after = until("the other one is active", || client.status().scheduler);
    assert!(after.epoch > before.epoch && pid_of(&after.owner) != pid_of(&before.owner), "{before:?} {after:?}");
    let ends = Truth::connect(&at.redis).ends().expect("the store is there");
    for id in &acknowledged {
        assert_eq!(ends[id], [busbar::JobState::Succeeded], "{id}");
    }
    // Shown with `--nocapture`.
    eprintln!("killed with {live} of {JOBS} jobs to do; epoch {} went on for epoch {}", after.epoch, before.epoch);
}

/// The owner of the lease is named `host/pid/start`, and all of them run on this machine.
fn pid_of(owner: &str) -> u32 {
    owner.split('/').nth(1).and_then(|pid| pid.parse().ok()).expect("a pid")
}
