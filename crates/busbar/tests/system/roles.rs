//! The roles as processes of their own, as in production: two schedulers, one of which takes over when the other is killed.

use busbar_api::JobState;

use crate::support::{Executions, Roles, Sleeper, kill9, until};

const JOBS: usize = 400;
const SLOTS: u32 = 4;

#[test]
fn a_standby_takes_over() {
    let roles = Roles::start(2, 1, &[]);
    let file = roles.dir().join("executions");
    let _sleeper = Sleeper::start_at(&roles.at[0], roles.dir(), "sleeper-1", SLOTS, &file);
    let client = roles.client();
    let acknowledged = client.submit_sleeps((0..JOBS as u64).map(|n| 20 + n % 30));
    until("a quarter of them is done", || (Executions::read(&file).count() as usize > JOBS / 4).then_some(()));

    let before = client.status().scheduler.expect("an active one");
    kill9(roles.schedulers[roles.place_of(&before.owner)].pid());
    for id in &acknowledged {
        assert_eq!(client.wait(id).state, JobState::Succeeded);
    }
    let after = until("the other one is active", || client.status().scheduler);
    assert!(after.epoch > before.epoch && after.owner != before.owner, "{before:?} {after:?}");
    // Only the scheduler was killed: no attempt was lost with it.
    let executions = Executions::read(&file);
    assert_eq!((executions.count() as usize, executions.open), (JOBS, 0));
    let ends = roles.truth().ends().expect("the store is there");
    assert!(ends.len() == JOBS && ends.values().all(|states| states.len() == 1), "{ends:?}");
}
