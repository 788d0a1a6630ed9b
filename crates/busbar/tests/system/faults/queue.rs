//! A long queue, filled while nobody works and drained then.

use std::collections::{BTreeMap, BTreeSet};

use busbar_api::{CancelReply, JobState};
use busbar_protocol::busbar::{self, JobEvent};
use rustix::process::Signal;
use serde_json::json;

use super::{extra_executions, rest, rest_with_success};
use crate::support::{Dev, Roles, SLEEP, Sleeper, Truth, size, until};

const SLOTS: u32 = 64;
const BATCH: usize = 1_000;

#[test]
fn a_long_queue_drains_in_its_order() {
    let count = size(5_000, 1_000_000);
    let dev = Dev::start();
    let (client, truth) = (dev.client(), Truth::connect(&dev.endpoints.redis));
    let mut acknowledged = Vec::with_capacity(count);
    while acknowledged.len() < count {
        acknowledged.extend(client.submit_all((0..BATCH).map(|_| (SLEEP, json!({"ms": 0})))));
        truth.look();
    }
    let file = dev.temp().join("executions");
    let _sleeper = Sleeper::start(&dev, "sleeper-1", SLOTS, &file);
    rest_with_success(&client, &truth, &acknowledged);
    assert_eq!(extra_executions(&file, &acknowledged), 0);
    let events = truth.events().unwrap();
    let displaced = displaced(&dispatched(&events), &acknowledged);
    // The jobs of one batch are equals, and so are those that are sent together.
    assert!(displaced < BATCH + SLOTS as usize, "a job was sent {displaced} places from where it was submitted");
    eprintln!("no job was sent more than {displaced} places from where it was submitted");
    eprintln!("jobs a second in each tenth of {count}: {:?}", rates(&events));
}

/// The active scheduler is killed with more waiting than a takeover reads before it begins. What was read last is there for those who
/// ask for it, and everything ends.
#[test]
fn a_standby_goes_on_with_a_long_queue_while_it_reads_it() {
    let (count, kills) = (size(6_000, 200_000), 3);
    let mut roles = Roles::start(1 + kills, 1, &[]);
    let (client, truth) = (roles.client(), roles.truth());
    let mut acknowledged = Vec::with_capacity(count);
    while acknowledged.len() < count {
        acknowledged.extend(client.submit_all((0..BATCH).map(|_| (SLEEP, json!({"ms": 0})))));
    }
    let file = roles.dir().join("executions");
    let mut sleeper = None;
    for kill in 1..=kills {
        let before = until("an active one", || client.status().scheduler);
        let place = roles.place_of(&before.owner);
        roles.schedulers[place].end(Signal::KILL);
        until("another one is active", || client.status().scheduler.filter(|now| now.owner != before.owner));
        let last = &acknowledged[count - kill];
        let cancelled: CancelReply = client.post(&format!("/api/v1/jobs/{last}/cancel"), &json!({})).of(200);
        assert_eq!(cancelled.state, JobState::Cancelled);
        sleeper.get_or_insert_with(|| Sleeper::start_at(&roles.at[0], roles.dir(), "sleeper-1", SLOTS, &file));
        assert!(client.live_jobs().is_some());
    }
    let ends = rest(&client, &truth, &acknowledged);
    let of = |state| ends.values().filter(|states| states[..] == [state]).count();
    assert_eq!((of(busbar::JobState::Succeeded), of(busbar::JobState::Cancelled)), (count - kills, kills));
    assert_eq!(extra_executions(&file, &acknowledged[..count - kills]), 0, "no worker was harmed");
}

/// How far from its place in the one list a job stands in the other at most.
fn displaced(sent: &[String], submitted: &[String]) -> usize {
    let places: BTreeMap<&String, usize> = submitted.iter().zip(0..).collect();
    sent.iter().zip(0..).map(|(id, place): (_, usize)| places[id].abs_diff(place)).max().unwrap_or_default()
}

/// The jobs in the order of their first attempts.
fn dispatched(events: &[JobEvent]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let sent = events.iter().filter(|event| event.states().any(|state| state == busbar::JobState::Dispatched));
    sent.filter(|event| seen.insert(&event.job_id)).map(|event| event.job_id.clone()).collect()
}

fn rates(events: &[JobEvent]) -> Vec<u64> {
    let ends: Vec<u64> =
        events.iter().filter(|event| event.states().any(|state| state.is_terminal())).map(|event| event.at_ms).collect();
    let tenth = (ends.len() / 10).max(1);
    let rate = |ends: &[u64]| ends.len() as u64 * 1_000 / (ends[ends.len() - 1] - ends[0]).max(1);
    ends.chunks(tenth).map(rate).collect()
}
