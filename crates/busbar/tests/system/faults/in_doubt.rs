//! What was on its way to workers that cannot show what they hold when nats-server died: it comes again, long before its time is over.

use busbar_protocol::busbar::JobState;
use busbar_protocol::cap::bus_packet::Payload;
use busbar_protocol::cap::{ComponentRole, Handshake, Heartbeat, JobRequest, JobStatus};
use busbar_protocol::ports::{Bus as _, Subscription};
use busbar_protocol::subjects;
use busbar_servers::Stack;
use serde_json::json;

use super::{rest_with_success, servers::on_given_servers};
use crate::support::{Client, Truth, Wire, result_of, until};

/// No worker that is known serves it.
const TOPIC: &str = "job.test.unserved";
/// Longer than it takes to stop a server, and shorter than it takes to notice that one has stopped.
const DELAY_MS: u64 = 1_500;

/// Word that nobody listens is lost with the server that would have said it.
#[test]
fn what_reached_no_queue_group_is_sent_again() {
    let stack = Stack::start_temp().unwrap();
    let dev = on_given_servers(&stack);
    let (client, truth) = (dev.client(), Truth::connect(&stack.redis.url()));
    let job = lose_dispatch(&stack, &client, &truth);
    until("it is known that nobody is there", || (states(&truth, &job).last() == Some(&JobState::Scheduled)).then_some(()));

    let wire = Wire::connect(&stack.nats.url());
    let mut jobs = wire.runtime.block_on(wire.bus.subscribe(TOPIC, Some(TOPIC))).unwrap();
    do_next(&wire, &mut jobs, "hand", || {});
    rest_with_success(&client, &truth, &[job]);
}

/// A worker that announces itself comes back later than the scheduler, which waits for a word of it.
#[test]
fn what_an_announced_worker_did_not_get_is_sent_again() {
    const HAND: &str = "hand";
    let stack = Stack::start_temp().unwrap();
    let dev = on_given_servers(&stack);
    let (client, truth) = (dev.client(), Truth::connect(&stack.redis.url()));
    let wire = Wire::connect(&stack.nats.url());
    let mut jobs = wire.runtime.block_on(wire.bus.subscribe(&subjects::worker_jobs(HAND), None)).unwrap();
    let handshake = Handshake {
        component_id: HAND.to_owned(),
        role: ComponentRole::Worker.into(),
        ready_topics: vec![TOPIC.to_owned()],
        ..Handshake::default()
    };
    let beat = || {
        let beat = Heartbeat { worker_id: HAND.to_owned(), max_parallel_jobs: 2, ..Heartbeat::default() };
        wire.say(subjects::HEARTBEAT, HAND, Payload::Heartbeat(beat));
    };
    wire.say(subjects::HANDSHAKE, HAND, Payload::Handshake(handshake));
    beat();
    client.until_online(HAND, 2);
    let lost = lose_dispatch(&stack, &client, &truth);
    until("the worker is there again", || wire.runtime.block_on(wire.bus.round_trip()).ok());
    // It has a free slot, but nobody knows yet whether it listens.
    let later = client.submit(TOPIC, &json!(null));
    for _ in 0..2 {
        do_next(&wire, &mut jobs, HAND, beat);
    }
    rest_with_success(&client, &truth, &[lost, later]);
}

/// Has a job dispatched while nats-server does nothing more, which is killed then and started again.
fn lose_dispatch(stack: &Stack, client: &Client, truth: &Truth) -> String {
    let body = json!({"topic": TOPIC, "input": null, "delay_ms": DELAY_MS});
    let job = client.post("/api/v1/jobs", &body).of::<busbar_api::SubmitReply>(202).job_id;
    stack.nats.pause().unwrap();
    until("the job is sent", || (states(truth, &job).last() == Some(&JobState::Dispatched)).then_some(()));
    stack.nats.kill9();
    stack.nats.restart().unwrap();
    job
}

fn states(truth: &Truth, job: &str) -> Vec<JobState> {
    let events = truth.events().unwrap_or_default();
    events.iter().filter(|event| event.job_id == job).flat_map(|event| event.states().collect::<Vec<_>>()).collect()
}

/// Does the next job that comes; while none does, something else.
fn do_next(wire: &Wire, jobs: &mut Subscription, worker: &str, meanwhile: impl Fn()) {
    let JobRequest { job_id, dispatch, .. } = wire.next_job(jobs, meanwhile);
    let mut result = result_of(&job_id, dispatch.as_ref().expect("a named attempt").attempt, worker);
    result.dispatch = dispatch;
    result.set_status(JobStatus::Succeeded);
    wire.tell_result(result);
}
