//! A bus that repeats, reorders, forgets, drowns its listeners and loses its consumers.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use busbar_bus::{BusConfig, CONSUMER, NatsBus};
use busbar_protocol::busbar::{HeldAttempt, JobState, WorkerBeat};
use busbar_protocol::cap::bus_packet::Payload;
use busbar_protocol::cap::{JobProgress, JobStatus};
use busbar_protocol::ports::{Bus as _, Headers, Message};
use busbar_protocol::prost::Message as _;
use busbar_protocol::subjects::{self, Stream};
use busbar_protocol::time::Timestamp;
use busbar_protocol::{envelope, ids};
use busbar_sdk::{BoxError, Context, Failure, Ports, Worker, WorkerOptions};
use busbar_store::{Store, StoreConfig};
use bytes::Bytes;
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{extra_executions, rest, rest_with_success};
use crate::support::{
    Breaker, Dev, DevOptions, Executions, Forgetful, Noise, SLEEP, Sleeper, Truth, WORK, Wire, chaos_pack, freeze, result_of,
    size, thaw, until,
};

const SEED: u64 = 0x5eed_ec40;
const SLOTS: u32 = 8;
/// What an echo carries, so that it has no echo itself.
const ECHO: &str = "test-echo";

/// Everything that workers and scheduler say to each other comes up to five times more, late and in another order.
#[test]
fn what_comes_often_and_in_any_order_counts_once() {
    let dev = Dev::start_with(DevOptions { packs: vec![chaos_pack()], ..DevOptions::default() });
    let file = dev.temp().join("executions");
    let _breaker = Breaker::start(&dev.endpoints, dev.temp(), "breaker", SLOTS, &file, &[]);
    let client = dev.client();
    client.until_online("breaker", SLOTS);
    let wire = Wire::connect(&dev.endpoints.nats);
    for subject in [subjects::RESULT, subjects::PROGRESS, subjects::BEAT, subjects::HEARTBEAT, subjects::CANCEL, "worker.*.jobs"]
    {
        let messages = wire.runtime.block_on(wire.bus.subscribe(subject, None)).unwrap();
        wire.runtime.spawn(repeat(wire.bus.clone(), messages));
    }
    let count = size(300, 20_000) as u64;
    // Each third one fails at first: the echo of that comes while the next attempt is under way.
    let fails = |n: u64| n.is_multiple_of(3);
    let inputs = (0..count).map(|n| json!({"ms": 10 + n % 50, "fails": u32::from(fails(n))}));
    let acknowledged = client.submit_all(inputs.map(|input| (WORK, input)));
    rest_with_success(&client, &Truth::connect(&dev.endpoints.redis), &acknowledged);
    let executions = Executions::read(&file);
    for (n, id) in (0..).zip(&acknowledged) {
        assert_eq!(executions.starts[id], 1 + u32::from(fails(n)), "{id}");
    }
}

async fn repeat(bus: NatsBus, mut messages: busbar_protocol::ports::Subscription) {
    let mut noise = Noise::new(SEED);
    while let Some(message) = messages.next().await {
        if message.headers.contains_key(ECHO) {
            continue;
        }
        for _ in 0..=noise.below(5) {
            let (bus, delay) = (bus.clone(), Duration::from_millis(noise.below(400)));
            let Message { subject, payload, .. } = message.clone();
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                let headers = Headers::from([(ECHO.to_owned(), String::new())]);
                // An echo more or less does not matter.
                let _ = bus.publish(&subject, headers, payload).await;
            });
        }
    }
}

/// A worker by hand tells its result first, and only then that it holds the attempt and how far it is.
#[test]
fn a_result_before_its_progress_is_the_end() {
    const HAND: &str = "hand";
    let dev = Dev::start();
    let client = dev.client();
    let wire = Wire::connect(&dev.endpoints.nats);
    let mut jobs = wire.runtime.block_on(wire.bus.subscribe(&subjects::worker_jobs(HAND), None)).unwrap();
    let mut beat = WorkerBeat {
        worker_id: HAND.into(),
        incarnation: ids::generate(),
        pool: "nobody".into(),
        capacity: 1,
        ..WorkerBeat::default()
    };
    let mut say_beat = |held: Vec<HeldAttempt>| {
        beat.sequence += 1;
        beat.held = held;
        let body = Bytes::from(beat.encode_to_vec());
        wire.runtime.block_on(wire.bus.publish(subjects::BEAT, Headers::new(), body)).unwrap();
    };
    until("the worker is known", || {
        say_beat(vec![]);
        client.workers().items.iter().any(|worker| worker.id == HAND).then_some(())
    });
    let job = client.submit("job.test.unserved", &json!(null));
    let request = wire.next_job(&mut jobs, || say_beat(vec![]));
    let identity = request.dispatch.expect("a named attempt");
    let attempt = u32::try_from(identity.attempt).unwrap();
    let held = HeldAttempt { job_id: job.clone(), attempt, dispatch_id: identity.dispatch_id.clone(), ended: false };

    let mut result = result_of(&job, identity.attempt, HAND);
    result.dispatch = Some(identity.clone());
    result.set_status(JobStatus::Succeeded);
    wire.tell_result(result);
    let progress = JobProgress { job_id: job.clone(), percent: 50, dispatch: Some(identity), ..JobProgress::default() };
    for _ in 0..3 {
        wire.say(subjects::PROGRESS, HAND, Payload::JobProgress(progress.clone()));
        say_beat(vec![held.clone()]);
    }
    say_beat(vec![]);

    let truth = Truth::connect(&dev.endpoints.redis);
    rest_with_success(&client, &truth, std::slice::from_ref(&job));
    let states: Vec<JobState> = truth.events().unwrap().iter().flat_map(|event| event.states().collect::<Vec<_>>()).collect();
    let expected = [JobState::Pending, JobState::Scheduled, JobState::Dispatched, JobState::Succeeded];
    let without_running: Vec<JobState> = states.iter().copied().filter(|state| *state != JobState::Running).collect();
    assert_eq!(without_running, expected, "{states:?}");
    assert_eq!(states.last(), Some(&JobState::Succeeded));
}

/// A worker that hears seven of ten messages and whose words get through as often.
#[test]
fn three_of_ten_messages_are_lost() {
    let dev = Dev::start();
    let client = dev.client();
    let runs = Arc::new(Mutex::new(BTreeMap::<(String, u32), u32>::new()));
    let (nats, redis) = (dev.endpoints.nats.clone(), dev.endpoints.redis.clone());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let worker = runtime.block_on(forgetful_worker(&nats, &redis, Arc::clone(&runs)));
    let (stop, stopped) = oneshot::channel::<()>();
    let running = runtime.spawn(worker.run(async { drop(stopped.await) }));
    client.until_online("forgetful", SLOTS);
    let acknowledged = client.submit_sleeps((0..size(60, 3_000)).map(|n| 10 + n as u64 % 40));
    let ends = rest(&client, &Truth::connect(&redis), &acknowledged);
    assert!(ends.values().all(|states| states == &[JobState::Succeeded]), "{ends:?}");
    drop(stop);
    runtime.block_on(running).unwrap().unwrap();
    let runs = runs.lock().unwrap();
    assert!(runs.values().all(|count| *count == 1), "an attempt was executed twice: {runs:?}");
    eprintln!("30 % of the messages were lost: {} extra executions (seed {SEED:#x})", runs.len() - acknowledged.len());
}

type Runs = Arc<Mutex<BTreeMap<(String, u32), u32>>>;

async fn forgetful_worker(nats: &str, redis: &str, runs: Runs) -> Worker<Forgetful, Store> {
    let connect = |nats: String, seed| async move {
        let bus = NatsBus::connect(BusConfig::new(nats, "forgetful")).await?;
        Ok::<_, BoxError>(Forgetful::new(bus, seed))
    };
    let ports = Ports {
        bus: connect(nats.to_owned(), SEED).await.unwrap(),
        records: Store::connect(StoreConfig::new(redis)).await.unwrap(),
        blobs: None,
        beats: {
            let beats = connect(nats.to_owned(), SEED + 1);
            Box::new(|| Box::pin(beats))
        },
    };
    let options = WorkerOptions { id: "forgetful".into(), max_parallel: SLOTS as usize, ..WorkerOptions::default() };
    let mut worker = Worker::with_ports(options, ports).unwrap();
    worker.handle(SLEEP, move |context: Context, input: Value| {
        let runs = Arc::clone(&runs);
        async move {
            *runs.lock().unwrap().entry((context.job_id().to_owned(), context.attempt())).or_default() += 1;
            tokio::time::sleep(Duration::from_millis(input["ms"].as_u64().unwrap_or_default())).await;
            Ok::<_, Failure>(json!(null))
        }
    });
    worker
}

/// So many messages that whoever listens loses some; and somebody who listens to everything and reads nothing.
#[test]
fn listeners_that_drown_lose_words_and_no_jobs() {
    let dev = Dev::start();
    let file = dev.temp().join("executions");
    let _sleeper = Sleeper::start(&dev, "sleeper-1", SLOTS, &file);
    let client = dev.client();
    let port = dev.endpoints.nats.rsplit(':').next().and_then(|port| port.parse::<u16>().ok()).expect("a port");
    let mut deaf = TcpStream::connect(("127.0.0.1", port)).unwrap();
    deaf.write_all(b"CONNECT {\"verbose\":false}\r\nSUB > 1\r\n").unwrap();

    let acknowledged = client.submit_sleeps((0..400).map(|n| 20 + n % 60));
    until("they run", || (Executions::read(&file).count() > 50).then_some(()));
    freeze(dev.pid());
    let wire = Wire::connect(&dev.endpoints.nats);
    // More than a subscription holds for a reader that does not come.
    let flood = size(100_000, 2_000_000);
    let progress = JobProgress { job_id: ids::generate(), percent: 1, ..JobProgress::default() };
    let packet = envelope::packet(&ids::generate_trace(), "stranger", Timestamp::wall_clock(), Payload::JobProgress(progress));
    wire.runtime.block_on(async {
        for _ in 0..flood {
            wire.bus.publish(subjects::PROGRESS, Headers::new(), packet.clone()).await.unwrap();
        }
        wire.bus.round_trip().await.unwrap();
    });
    thaw(dev.pid());

    let truth = Truth::connect(&dev.endpoints.redis);
    rest_with_success(&client, &truth, &acknowledged);
    assert_eq!(extra_executions(&file, &acknowledged), 0, "no worker was harmed");
    // Whoever waits hears of ends, too.
    let next = client.submit(SLEEP, &json!({"ms": 1}));
    assert_eq!(client.wait(&next).state, busbar_api::JobState::Succeeded);
    drop(deaf);
}

/// Somebody deletes what the scheduler reads results by, again and again.
#[test]
fn a_deleted_consumer_is_made_anew() {
    let dev = Dev::start();
    let file = dev.temp().join("executions");
    let _sleeper = Sleeper::start(&dev, "sleeper-1", SLOTS, &file);
    let client = dev.client();
    let wire = Wire::connect(&dev.endpoints.nats);
    let (deletions, each) = (size(3, 50), 150);
    let acknowledged = client.submit_sleeps((0..(deletions + 1) * each).map(|n| 10 + n as u64 % 50));
    for deletion in 1..=deletions {
        let more = u32::try_from(deletion * each / 2).unwrap();
        until("the work goes on", || (Executions::read(&file).count() > more).then_some(()));
        for stream in [Stream::Results, Stream::Submissions] {
            let subject = format!("$JS.API.CONSUMER.DELETE.{}.{CONSUMER}", stream.name());
            let answer: Value = serde_json::from_slice(&wire.ask(&subject, Bytes::new()).payload).unwrap();
            assert!(answer["success"] == json!(true) || answer["error"]["code"] == json!(404), "{answer}");
        }
    }
    rest_with_success(&client, &Truth::connect(&dev.endpoints.redis), &acknowledged);
    assert_eq!(extra_executions(&file, &acknowledged), 0, "no worker was harmed");
}
