//! An active scheduler that sleeps past its lease and wakes up as one that was replaced.

use std::path::Path;

use super::{extra_executions, rest_with_success};
use crate::support::{Executions, Roles, Sleeper, freeze, size, thaw, until};

const SLOTS: u32 = 8;

/// Again and again, so that it sleeps in the middle of many different things.
#[test]
fn a_scheduler_that_slept_past_its_lease_changes_nothing() {
    let (rounds, each) = (size(3, 50), 150);
    let roles = Roles::start(2, 1, &[]);
    let file = roles.dir().join("executions");
    let _sleeper = Sleeper::start_at(&roles.at[0], roles.dir(), "sleeper-1", SLOTS, &file);
    let client = roles.client();
    let acknowledged = client.submit_sleeps((0..(rounds + 1) * each).map(|n| 10 + n as u64 % 80));
    for round in 1..=rounds {
        executed(&file, round * each / 2);
        let before = until("an active one", || client.status().scheduler);
        let sleeper = roles.schedulers[roles.place_of(&before.owner)].pid();
        freeze(sleeper);
        let after = until("the other one is active", || client.status().scheduler.filter(|now| now.owner != before.owner));
        assert!(after.epoch > before.epoch, "{before:?} {after:?}");
        executed(&file, round * each / 2 + 20);
        thaw(sleeper);
    }
    let last = client.status().scheduler.expect("an active one");
    rest_with_success(&client, &roles.truth(), &acknowledged);
    assert_eq!(extra_executions(&file, &acknowledged), 0, "no worker was harmed");
    let now = client.status().scheduler.expect("an active one");
    assert_eq!((now.owner, now.epoch), (last.owner, last.epoch), "one that was replaced stands by");
}

fn executed(file: &Path, count: usize) {
    until("the work goes on", || (Executions::read(file).count() as usize > count).then_some(()));
}
