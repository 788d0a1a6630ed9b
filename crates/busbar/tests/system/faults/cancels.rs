//! Cancellations in every state, and at the very moment of the result.

use std::thread;

use busbar_api::{CancelReply, JobState, JobView};
use busbar_protocol::cap::bus_packet::Payload;
use busbar_protocol::cap::{DispatchIdentity, JobCancel};
use busbar_protocol::{busbar, subjects};
use serde_json::json;

use super::rest;
use crate::support::{
    Breaker, Client, Dev, DevOptions, Executions, Noise, Roles, SLEEP, Sleeper, Truth, WORK, Wire, chaos_pack, freeze, size,
    thaw, until,
};

const SEED: u64 = 0x5eed_ca4c;

#[test]
fn a_job_is_cancelled_in_every_state() {
    let roles = Roles::start(1, 1, &[chaos_pack()]);
    let client = roles.client();
    let file = roles.dir().join("executions");
    let mut jobs = Vec::new();
    let mut cancelled_in = |state: JobState, job: String, then: JobState| {
        until("the job is in its state", || (view(&client, &job).state == state).then_some(()));
        assert_eq!(cancel(&client, &job), then, "cancelled while {state:?}");
        jobs.push(job);
    };

    cancelled_in(JobState::ApprovalRequired, client.submit("job.chaos.person", &json!(null)), JobState::Cancelled);
    cancelled_in(JobState::Scheduled, client.submit(SLEEP, &json!({"ms": 1})), JobState::Cancelled);
    // Nobody decides.
    freeze(roles.kernel.pid());
    cancelled_in(JobState::Pending, client.submit(SLEEP, &json!({"ms": 1})), JobState::Cancelled);
    thaw(roles.kernel.pid());

    let breaker = Breaker::start(&roles.at[0], roles.dir(), "breaker", 2, &file, &[]);
    client.until_online("breaker", 2);
    // The worker is told, and stops.
    let job = client.submit(WORK, &json!({"ms": 60_000}));
    until("it is executed", || (Executions::read(&file).open == 1).then_some(()));
    assert!(matches!(cancel(&client, &job), JobState::Dispatched | JobState::Running));
    assert_eq!(client.wait(&job).state, JobState::Cancelled);
    jobs.push(job);
    // Between two attempts, or in one that fails at once.
    let job = client.submit(WORK, &json!({"ms": 0, "fails": 90}));
    until("it was tried", || (view(&client, &job).attempts > 1).then_some(()));
    cancel(&client, &job);
    assert_eq!(client.wait(&job).state, JobState::Cancelled);
    jobs.push(job);
    // What has ended stays as it is.
    let job = client.submit(SLEEP, &json!({"ms": 1}));
    assert_eq!(client.wait(&job).state, JobState::Succeeded);
    assert_eq!(cancel(&client, &job), JobState::Succeeded);
    jobs.push(job);
    // The worker never answers.
    freeze(breaker.pid());
    let job = client.submit(SLEEP, &json!({"ms": 1}));
    until("it is sent", || (view(&client, &job).state == JobState::Dispatched).then_some(()));
    assert!(matches!(
        cancel(&client, &job),
        JobState::Dispatched | JobState::Running | JobState::Scheduled | JobState::Cancelled
    ));
    assert_eq!(client.wait(&job).state, JobState::Cancelled);
    jobs.push(job);
    thaw(breaker.pid());

    let ends = rest(&client, &roles.truth(), &jobs);
    let succeeded = ends.values().filter(|states| states[..] == [busbar::JobState::Succeeded]).count();
    assert_eq!(succeeded, 1, "{ends:?}");
}

/// CAP lets a cancellation name the attempt that it means.
#[test]
fn a_cancellation_of_another_attempt_means_nothing() {
    let dev = Dev::start();
    let file = dev.temp().join("executions");
    let _sleeper = Sleeper::start(&dev, "sleeper-1", 1, &file);
    let client = dev.client();
    let wire = Wire::connect(&dev.endpoints.nats);
    let job = client.submit(SLEEP, &json!({"ms": 10_000}));
    until("it is executed", || (Executions::read(&file).open == 1).then_some(()));
    let cancel = |attempt: u64, reason: &str| {
        let dispatch = DispatchIdentity { attempt, ..DispatchIdentity::default() };
        let (job_id, reason, requested_by) = (job.clone(), reason.to_owned(), "a-client".to_owned());
        let cancel = JobCancel { job_id, reason, requested_by, dispatch: Some(dispatch), ..JobCancel::default() };
        wire.say(subjects::CANCEL, "a-client", Payload::JobCancel(cancel));
    };
    cancel(2, "another attempt");
    cancel(u64::MAX, "no attempt at all");
    cancel(1, "for this one");
    let view = client.wait(&job);
    assert_eq!(view.state, JobState::Cancelled, "{view:?}");
    // Had one of the others counted, its reason would stand here: they came before, on the same connection.
    assert!(!view.error_message.is_some_and(|why| why.contains("attempt")), "another cancellation counted");
}

/// Four clients cancel what just ends. Whatever they were told is so.
#[test]
fn a_cancellation_that_races_with_the_result_has_one_winner() {
    let dev = Dev::start_with(DevOptions { packs: vec![chaos_pack()], ..DevOptions::default() });
    let file = dev.temp().join("executions");
    let _sleeper = Sleeper::start(&dev, "sleeper-1", 16, &file);
    let client = dev.client();
    let jobs: Vec<(String, JobState)> = thread::scope(|scope| {
        let races: Vec<_> = (0..4)
            .map(|n| {
                scope.spawn({
                    let client = &client;
                    move || race(client, n)
                })
            })
            .collect();
        races.into_iter().flat_map(|race| race.join().unwrap()).collect()
    });
    let acknowledged: Vec<String> = jobs.iter().map(|(id, _)| id.clone()).collect();
    let ends = rest(&client, &Truth::connect(&dev.endpoints.redis), &acknowledged);
    let mut won = [0; 2];
    for (id, told) in &jobs {
        let end = view(&client, id).state;
        assert_eq!(format!("{end:?}"), format!("{:?}", ends[id][0]), "{id}");
        assert!(matches!(end, JobState::Succeeded | JobState::Cancelled), "{id} ended as {end:?}");
        assert!(!told.is_terminal() || *told == end, "{id}: {told:?} was told, and it ended as {end:?}");
        won[usize::from(end == JobState::Cancelled)] += 1;
    }
    eprintln!("{} results and {} cancellations won (seed {SEED:#x})", won[0], won[1]);
}

fn race(client: &Client, number: u64) -> Vec<(String, JobState)> {
    let mut noise = Noise::new(SEED + number);
    let mut jobs = Vec::new();
    for _ in 0..size(40, 2_000) {
        let id = client.submit(SLEEP, &json!({"ms": noise.below(40)}));
        thread::sleep(std::time::Duration::from_millis(noise.below(30)));
        let told = cancel(client, &id);
        jobs.push((id, told));
    }
    jobs
}

fn view(client: &Client, id: &str) -> JobView {
    client.get(&format!("/api/v1/jobs/{id}")).of(200)
}

/// The state that the answer tells.
fn cancel(client: &Client, id: &str) -> JobState {
    let reply: CancelReply = client.post_raw(&format!("/api/v1/jobs/{id}/cancel"), b"").of(200);
    reply.state
}
