//! What workers that cannot show what they hold never got, or lost: it comes again, long before its time is over.

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
    let next = wire.next_job(&mut jobs, || {});
    done(&wire, next, "hand");
    rest_with_success(&client, &truth, &[job]);
}

/// A worker that announces itself comes back later than the scheduler, which waits for a word of it.
#[test]
fn what_an_announced_worker_did_not_get_is_sent_again() {
    let stack = Stack::start_temp().unwrap();
    let dev = on_given_servers(&stack);
    let (client, truth) = (dev.client(), Truth::connect(&stack.redis.url()));
    let mut hand = Announced::begin(&stack, &client);
    let lost = lose_dispatch(&stack, &client, &truth);
    until("the worker is there again", || hand.wire.runtime.block_on(hand.wire.bus.round_trip()).ok());
    // It has a free slot, but nobody knows yet whether it listens.
    let later = client.submit(TOPIC, &json!(null));
    for _ in 0..2 {
        let job = hand.next_job();
        hand.done(job);
    }
    rest_with_success(&client, &truth, &[lost, later]);
}

/// A worker of CAP drops what it cannot read, with a line in its own log. Its heartbeats tell all the same.
#[test]
fn what_an_announced_worker_dropped_is_executed_in_another_attempt() {
    let stack = Stack::start_temp().unwrap();
    let dev = on_given_servers(&stack);
    let (client, truth) = (dev.client(), Truth::connect(&stack.redis.url()));
    let mut hand = Announced::begin(&stack, &client);
    let executed = client.submit(TOPIC, &json!(null));
    let job = hand.next_job();
    beat(&hand.wire, 1);
    hand.done(job);
    let dropped = client.submit(TOPIC, &json!(null));
    let first = hand.next_job();
    assert_eq!((&first.job_id, attempt_of(&first)), (&dropped, 1));
    let again = hand.next_job();
    assert_eq!((&again.job_id, attempt_of(&again)), (&dropped, 2));
    hand.done(again);
    rest_with_success(&client, &truth, &[executed, dropped]);
}

/// A scheduler that dies before a dispatch has left looks, in what it leaves behind, like one that dies just after it.
#[test]
fn what_a_scheduler_may_not_have_sent_when_it_died_is_executed_in_another_attempt() {
    let stack = Stack::start_temp().unwrap();
    let mut dev = on_given_servers(&stack);
    let truth = Truth::connect(&stack.redis.url());
    let mut hand = Announced::begin(&stack, &dev.client());
    let job = dev.client().submit(TOPIC, &json!(null));
    until("the job is sent", || (states(&truth, &job).last() == Some(&JobState::Dispatched)).then_some(()));
    dev.kill9();
    // As if it had never come: the worker does not have it, and has never said that it executes anything.
    hand.next_job();
    dev.restart();
    let again = hand.next_job();
    assert_eq!(attempt_of(&again), 2);
    hand.done(again);
    rest_with_success(&dev.client(), &truth, &[job]);
}

/// A worker that announces itself, by hand.
struct Announced {
    wire: Wire,
    jobs: Subscription,
}

impl Announced {
    const ID: &str = "hand";
    const SLOTS: u32 = 2;

    /// Announces itself, and waits until that is known.
    fn begin(stack: &Stack, client: &Client) -> Self {
        let wire = Wire::connect(&stack.nats.url());
        let jobs = wire.runtime.block_on(wire.bus.subscribe(&subjects::worker_jobs(Self::ID), None)).unwrap();
        let handshake = Handshake {
            component_id: Self::ID.to_owned(),
            role: ComponentRole::Worker.into(),
            ready_topics: vec![TOPIC.to_owned()],
            ..Handshake::default()
        };
        wire.say(subjects::HANDSHAKE, Self::ID, Payload::Handshake(handshake));
        let hand = Self { wire, jobs };
        beat(&hand.wire, 0);
        client.until_online(Self::ID, Self::SLOTS);
        hand
    }

    /// The next job; until it comes, the worker says that it executes nothing.
    fn next_job(&mut self) -> JobRequest {
        self.wire.next_job(&mut self.jobs, || beat(&self.wire, 0))
    }

    fn done(&self, job: JobRequest) {
        done(&self.wire, job, Self::ID);
    }
}

fn beat(wire: &Wire, active_jobs: i32) {
    let max_parallel_jobs = i32::try_from(Announced::SLOTS).unwrap();
    let beat = Heartbeat { worker_id: Announced::ID.to_owned(), max_parallel_jobs, active_jobs, ..Heartbeat::default() };
    wire.say(subjects::HEARTBEAT, Announced::ID, Payload::Heartbeat(beat));
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

fn attempt_of(job: &JobRequest) -> u64 {
    job.dispatch.as_ref().expect("a named attempt").attempt
}

/// Says that a job has succeeded.
fn done(wire: &Wire, job: JobRequest, worker: &str) {
    let mut result = result_of(&job.job_id, attempt_of(&job), worker);
    result.dispatch = job.dispatch;
    result.set_status(JobStatus::Succeeded);
    wire.tell_result(result);
}
