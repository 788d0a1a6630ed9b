//! Garbage on every subject while jobs run: whoever asks gets an answer, and the jobs do not notice.

use std::time::Duration;

use busbar_api::JobState;
use busbar_bus::{BusConfig, NatsBus};
use busbar_protocol::ports::{Bus as _, Headers};
use busbar_protocol::subjects;
use bytes::Bytes;
use serde_json::json;

use crate::support::{Dev, Executions, Noise, SLEEP, Sleeper, until};

const WORKER: &str = "sleeper-1";
const SEED: u64 = 0x5eed_0bad_f00d_cafe;
const ROUNDS: usize = 25;
/// How long an answer to a senseless question may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Every subject that somebody of ours listens on, or that is captured by a stream.
fn heard() -> Vec<String> {
    let fixed = [
        subjects::SUBMIT,
        subjects::RESULT,
        subjects::PROGRESS,
        subjects::CANCEL,
        subjects::DEAD_LETTER,
        subjects::HEARTBEAT,
        subjects::HANDSHAKE,
        subjects::TRUST_CHALLENGE,
        subjects::TRUST_AUTHENTICATE,
        subjects::ALERT,
        subjects::BEAT,
        subjects::JOB_EVENT,
        subjects::RUN_EVENT,
        subjects::CONFIG_CHANGED,
        subjects::KERNEL_SNAPSHOT,
        "sys.workflow.event",
        "sys.audit.anything",
        SLEEP,
    ];
    let to_the_worker = [subjects::worker_jobs(WORKER), subjects::worker_batches(WORKER)];
    fixed.into_iter().chain(asked()).map(str::to_owned).chain(to_the_worker).collect()
}

/// Those that answer.
fn asked() -> impl Iterator<Item = &'static str> {
    let fixed = [
        subjects::ADMIT,
        subjects::SCHEDULER_CANCEL,
        subjects::SCHEDULER_LIST,
        subjects::SCHEDULER_WORKERS,
        subjects::SCHEDULER_PAUSE,
        subjects::SCHEDULER_DRAIN,
        subjects::SCHEDULER_REDRIVE,
        subjects::SCHEDULER_ENROL,
        subjects::SCHEDULER_EXPLAIN,
        subjects::REPORT,
        subjects::KERNEL_PUBLISH,
    ];
    fixed.into_iter().chain(subjects::ENGINE_QUESTIONS)
}

#[test]
fn garbage_on_every_subject_harms_nobody() {
    let dev = Dev::start();
    let file = dev.temp().join("executions");
    let _sleeper = Sleeper::start(&dev, WORKER, 8, &file);
    let client = dev.client();
    let acknowledged = client.submit_sleeps((0..400).map(|n| 20 + n % 60));
    until("they run", || (Executions::read(&file).count() >= 8).then_some(()));

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(litter(&dev.endpoints.nats));

    for id in &acknowledged {
        assert_eq!(client.wait(id).state, JobState::Succeeded);
    }
    let executions = Executions::read(&file);
    assert_eq!((executions.count(), executions.open), (400, 0), "garbage was executed, or something twice");
    assert_eq!(client.get("/readyz").status, 200);
    let listed = client.list("&topic=job.test.sleep");
    assert_eq!(listed.len(), 400, "garbage became a job");
    assert_eq!(client.wait(&client.submit(SLEEP, &json!({"ms": 1}))).state, JobState::Succeeded);
}

async fn litter(nats: &str) {
    let bus = NatsBus::connect(BusConfig::new(nats, "litterer")).await.unwrap();
    let mut noise = Noise::new(SEED);
    for _ in 0..ROUNDS {
        for subject in heard() {
            bus.publish(&subject, Headers::new(), bytes(&mut noise)).await.unwrap();
            bus.publish_with_reply(&subject, &bus.inbox(), Headers::new(), bytes(&mut noise)).await.unwrap();
        }
    }
    bus.round_trip().await.unwrap();
    for subject in asked() {
        let asked = bus.request(subject, Headers::new(), bytes(&mut noise), PATIENCE).await;
        assert!(asked.is_ok(), "{subject} did not answer (seed {SEED:#x}): {asked:?}");
    }
}

/// Bytes that look like nothing, or almost like something.
fn bytes(noise: &mut Noise) -> Bytes {
    let length = match noise.next() % 5 {
        0 => 0,
        1 => noise.next() % 8,
        2 => noise.next() % 100,
        3 => noise.next() % 2_000,
        _ => noise.next() % 100_000,
    };
    let random: Vec<u8> = (0..length).map(|_| noise.next().to_le_bytes()[0]).collect();
    match noise.next() % 3 {
        // Small field numbers and short lengths: protobuf that a decoder goes into.
        0 => random.iter().flat_map(|byte| [((byte % 32) << 3) | 2, byte % 4]).collect(),
        // Text where bytes were expected.
        1 => random.iter().map(|byte| b' ' + byte % 95).collect::<Vec<u8>>().into(),
        _ => random.into(),
    }
}
