//! The worker as a process: it waits for servers, drains on a signal, and refuses what it cannot use.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::process::Command;

use busbar_protocol::cap::JobStatus;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::guests::{looping, sleeping};
use crate::rig::{Job, Process, Rig, end};

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_drains_and_what_is_held_is_finished() {
    let mut rig = Rig::start().await;
    let worker = rig.worker().await;
    let module = rig.module(sleeping(700)).await;
    rig.dispatch(&Job::guest("held", &module, Value::Null)).await;
    rig.progress("held").await;
    worker.signal(Signal::TERM);
    rig.beat(|beat| beat.draining).await;
    assert_eq!(end(&rig.result("held").await), (JobStatus::Succeeded, ""));
    rig.beat(|beat| beat.leaving).await;
    assert_eq!(worker.ended().await.code(), Some(0));
    assert_eq!(std::fs::read_dir(rig.blobs.folder().join("scratch/w1/tasks")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_is_bounded_and_a_second_signal_cuts_it_short() {
    let mut rig = Rig::start().await;
    let module = rig.module(looping()).await;

    let bounded = rig.worker_with(&["--drain-within", "0"]).await;
    rig.dispatch(&Job::guest("bounded", &module, Value::Null)).await;
    rig.progress("bounded").await;
    bounded.signal(Signal::INT);
    let given_back = rig.result("bounded").await;
    assert_eq!(
        end(&given_back),
        (JobStatus::FailedRetryable, "worker_left"),
        "a guest heeds the word, and the job goes on elsewhere"
    );
    assert_eq!(bounded.ended().await.code(), Some(0));

    let patient = rig.worker().await;
    rig.dispatch(&Job::guest("patient", &module, Value::Null)).await;
    rig.progress("patient").await;
    patient.signal(Signal::TERM);
    rig.beat(|beat| beat.draining && beat.held.len() == 1).await;
    patient.signal(Signal::TERM);
    assert_eq!(patient.ended().await.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_waits_for_servers_that_are_not_there_yet() {
    let mut rig = Rig::start().await;
    rig.stack.redis.kill9();
    rig.stack.nats.kill9();
    let worker = Process(rig.command().args(["--log", "debug"]).spawn().unwrap());
    rig.stack.nats.restart().unwrap();
    rig.stack.redis.restart().unwrap();
    rig.beat(|_| true).await;
    assert_eq!(rig.output(&Job::echo("a", json!(1))).await, json!(1));
    worker.signal(Signal::TERM);
    assert_eq!(worker.ended().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_it_also_while_it_waits() {
    let rig = Rig::start().await;
    rig.stack.nats.kill9();
    let worker = Process(rig.command().args(["--log", "debug"]).spawn().unwrap());
    let log = rig.log_path();
    // What it says first tells that it listens for signals.
    let waiting = tokio::task::spawn_blocking(move || {
        while !std::fs::read_to_string(&log).unwrap().contains("NATS does not answer yet") {
            std::thread::yield_now();
        }
    });
    tokio::time::timeout(crate::rig::PATIENCE, waiting).await.expect("it says that it waits").unwrap();
    worker.signal(Signal::TERM);
    assert_eq!(worker.ended().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_is_used_once_on_a_machine() {
    let mut rig = Rig::start().await;
    let _worker = rig.worker().await;
    let refused = Process(rig.command().spawn().unwrap()).ended().await;
    assert_eq!(refused.code(), Some(1));
    let said = std::fs::read_to_string(rig.log_path()).unwrap();
    assert!(said.contains("another worker uses the scratch folder"), "{said}");
}

#[test]
fn what_cannot_be_used_is_refused_with_the_reason() {
    let temp = tempfile::tempdir().unwrap();
    let blobs = busbar_blobs::url_of(temp.path());
    let cases = [
        (["nats://127.0.0.1:1", "redis://127.0.0.1:1", &blobs, "a.b"], "must be one token"),
        (["nats://127.0.0.1:1", "redis://127.0.0.1:1", "s3://bucket", "w1"], "are not supported"),
        (["nats://127.0.0.1:1", "redis://127.0.0.1:1", "/tmp", "w1"], "is not a URL of a blob store"),
    ];
    for ([nats, redis, blobs, id], reason) in cases {
        let arguments = ["--nats", nats, "--redis", redis, "--blobs", blobs, "--id", id];
        let output = Command::new(env!("CARGO_BIN_EXE_worker")).args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(reason), "{said}");
    }
}
