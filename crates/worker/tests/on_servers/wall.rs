//! What stands around a running worker, and what outlives it.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::guests::empty;
use crate::rig::{Job, Rig, TENANT};

/// A field of every thread of a process, as the kernel tells it.
fn of_threads(process: u32, field: &str) -> Vec<String> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    // A thread that has just ended says nothing any more.
    let states = threads.filter_map(|thread| fs::read_to_string(thread.unwrap().path().join("status")).ok());
    let value = |state: String| state.lines().find_map(|line| Some(line.strip_prefix(field)?.trim().to_owned()));
    states.filter_map(value).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_thread_stands_behind_the_wall_and_the_work_goes_on() {
    let mut rig = Rig::start().await;
    let worker = rig.worker_with(&["--health-listen", "127.0.0.1:0"]).await;
    let module = rig.module(empty()).await;
    rig.artifact("mine", "content").await;
    assert_eq!(rig.output(&Job::guest("a", &module, json!({ "artifact": "mine" }))).await, Value::Null);
    assert_eq!(rig.output(&Job::echo("b", json!([TENANT]))).await, json!([TENANT]));
    let status = |field| of_threads(worker.0.id(), field);
    assert!(status("NoNewPrivs:").iter().all(|value| value == "1"), "{:?}", status("NoNewPrivs:"));
    let filters = status("Seccomp:");
    let log = fs::read_to_string(rig.log_path()).unwrap();
    assert!(log.contains("the second wall around guests"), "{log}");
    if log.contains("seccomp=true") {
        assert!(filters.iter().all(|value| value == "2"), "{filters:?}");
    }
    worker.signal(Signal::TERM);
    assert_eq!(worker.ended().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_restarts_finds_what_was_compiled() {
    let mut rig = Rig::start().await;
    let worker = rig.worker().await;
    let module = rig.module(empty()).await;
    assert_eq!(rig.output(&Job::guest("before", &module, Value::Null)).await, Value::Null);
    worker.signal(Signal::TERM);
    assert_eq!(worker.ended().await.code(), Some(0));
    let digits = module.strip_prefix("sha256:").unwrap();
    fs::remove_file(rig.blobs.folder().join("sha256").join(&digits[..2]).join(&digits[2..])).unwrap();
    let _worker = rig.worker().await;
    assert_eq!(rig.output(&Job::guest("after", &module, Value::Null)).await, Value::Null, "it was not fetched again");
}
