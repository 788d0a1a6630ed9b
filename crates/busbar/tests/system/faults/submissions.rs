//! A hundred submissions at once that are all the same one.

use std::collections::BTreeSet;
use std::thread;

use busbar_api::{JobState, SubmitReply};
use busbar_protocol::busbar::{AdmitItem, IdempotencyPolicy, JobOptions};
use busbar_protocol::cap::{JobMetadata, JobRequest};
use busbar_protocol::{ids, keys};
use serde_json::{Value, json};

use super::{extra_executions, rest, rest_with_success};
use crate::support::{Breaker, Client, Dev, DevOptions, SLEEP, Sleeper, Truth, WORK, Wire, chaos_pack, item_of, saying};

const AT_ONCE: usize = 100;

#[test]
fn a_hundred_submissions_with_one_key_are_one_job() {
    let dev = Dev::start();
    let client = dev.client();
    let file = dev.temp().join("executions");
    // Before anybody works, while it is at work, and after its end.
    let first = at_once(&client, "key-1", true);
    let _sleeper = Sleeper::start(&dev, "sleeper-1", 4, &file);
    assert_eq!(at_once(&client, "key-1", false), first);
    assert_eq!(client.wait(&first).state, JobState::Succeeded);
    assert_eq!(at_once(&client, "key-1", false), first);
    let second = at_once(&client, "key-2", true);
    let acknowledged = [first, second];
    rest_with_success(&client, &Truth::connect(&dev.endpoints.redis), &acknowledged);
    assert_eq!(extra_executions(&file, &acknowledged), 0);
}

#[test]
fn a_key_whose_time_is_over_is_free_again() {
    let dev = Dev::start();
    let (client, truth) = (dev.client(), Truth::connect(&dev.endpoints.redis));
    let file = dev.temp().join("executions");
    let _sleeper = Sleeper::start(&dev, "sleeper-1", 4, &file);
    let first = at_once(&client, "key-1", true);
    assert_eq!(client.wait(&first).state, JobState::Succeeded);
    truth.expire(&keys::idempotency(ids::DEFAULT_TENANT, "key-1"));
    let second = at_once(&client, "key-1", true);
    assert_ne!(second, first);
    let acknowledged = [first, second];
    rest_with_success(&client, &truth, &acknowledged);
    assert_eq!(extra_executions(&file, &acknowledged), 0);
}

#[test]
fn a_key_that_is_taken_may_refuse_or_wait_for_success() {
    let dev = Dev::start_with(DevOptions { packs: vec![chaos_pack()], ..DevOptions::default() });
    let (client, wire) = (dev.client(), Wire::connect(&dev.endpoints.nats));
    let truth = Truth::connect(&dev.endpoints.redis);
    let file = dev.temp().join("executions");
    let _breaker = Breaker::start(&dev.endpoints, dev.temp(), "breaker", 4, &file, &[]);
    let (fine, fatal) = (json!({"ms": 20}), json!({"ms": 2_000, "fatal": true}));
    let hundred = |key: &str, policy, input: &Value| by_hand_at_once(&wire, &truth, key, policy, input);

    // Whoever comes later is refused, also after the end.
    let (first, refused) = hundred("reject", IdempotencyPolicy::Reject, &fine);
    assert_eq!((first.len(), refused), (1, AT_ONCE - 1));
    let first = first.into_iter().next().expect("one job");
    assert_eq!(client.wait(&first).state, JobState::Succeeded);
    assert_eq!(hundred("reject", IdempotencyPolicy::Reject, &fatal), (BTreeSet::new(), AT_ONCE));

    // The key is free again when its job failed, and only then.
    let mut acknowledged = BTreeSet::from([first]);
    for state in [JobState::Failed, JobState::Failed, JobState::Succeeded] {
        let input = if state == JobState::Failed { &fatal } else { &fine };
        let (jobs, refused) = hundred("again", IdempotencyPolicy::AllowAfterFailure, input);
        assert_eq!((jobs.len(), refused), (1, 0), "{jobs:?}");
        let job = jobs.into_iter().next().expect("one job");
        assert_eq!(client.wait(&job).state, state);
        assert!(acknowledged.insert(job), "the key of a failed job was not free");
    }
    let (jobs, _) = hundred("again", IdempotencyPolicy::AllowAfterFailure, &fatal);
    assert!(jobs.len() == 1 && jobs.is_subset(&acknowledged), "{jobs:?}");
    let acknowledged: Vec<String> = acknowledged.into_iter().collect();
    rest(&client, &truth, &acknowledged);
    assert_eq!(extra_executions(&file, &acknowledged), 0);
}

/// The jobs that a hundred submissions at once were answered with, and how many were refused because the key is taken.
fn by_hand_at_once(wire: &Wire, truth: &Truth, key: &str, policy: IdempotencyPolicy, input: &Value) -> (BTreeSet<String>, usize) {
    let meta = JobMetadata { idempotency_key: key.to_owned(), ..JobMetadata::default() };
    let with_key = JobRequest { meta: Some(meta), ..JobRequest::default() };
    let options = JobOptions { idempotency_policy: policy.into(), ..JobOptions::default() };
    let items: Vec<AdmitItem> = (0..AT_ONCE)
        .map(|_| AdmitItem { options: Some(options.clone()), ..saying(item_of(truth, WORK, input), &with_key) })
        .collect();
    let answers: Vec<_> = thread::scope(|scope| {
        let asked: Vec<_> = items.into_iter().map(|item| scope.spawn(move || wire.admit(vec![item]))).collect();
        asked.into_iter().flat_map(|asked| asked.join().unwrap()).collect()
    });
    let mut jobs = BTreeSet::new();
    let mut refused = 0;
    for answer in answers {
        match answer {
            Ok(admitted) => drop(jobs.insert(admitted.job_id)),
            Err(code) => {
                assert_eq!(code, "idempotency_key_used");
                refused += 1;
            }
        }
    }
    (jobs, refused)
}

/// The one job that all are answered with; one of them is told that it is new, if it is.
fn at_once(client: &Client, key: &str, new: bool) -> String {
    let body = json!({"topic": SLEEP, "input": {"ms": 20}, "idempotency_key": key});
    let replies: Vec<SubmitReply> = thread::scope(|scope| {
        let asked: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(|| client.post("/api/v1/jobs", &body).of(202))).collect();
        asked.into_iter().map(|asked| asked.join().unwrap()).collect()
    });
    let jobs: BTreeSet<&String> = replies.iter().map(|reply| &reply.job_id).collect();
    assert_eq!(jobs.len(), 1, "{jobs:?}");
    assert_eq!(replies.iter().filter(|reply| !reply.existing).count(), usize::from(new));
    replies[0].job_id.clone()
}
