//! `ctl bench` against a real cell: what it counts, what it asks first, and what it leaves behind when it is stopped.

use std::process::{Command, Output, Stdio};

use busbar_api::JobState;
use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Client, Dev, DevOptions, Process, built, signal, source_pack, until};

const SLOTS: u32 = 4;
/// A topic of the pack that nobody here works on.
const IDLE: &str = "job.default";

fn ctl(dev: &Dev, arguments: &[&str]) -> Command {
    let mut command = Command::new(built("ctl"));
    command.args(["--url", &dev.endpoints.http, "--api-key", &dev.endpoints.api_key]).args(arguments).stdin(Stdio::null());
    command
}

fn bench(dev: &Dev, arguments: &[&str]) -> Output {
    ctl(dev, &["bench", "--json"]).args(arguments).output().unwrap()
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// The report of a benchmark in which every job succeeded.
fn all_succeed(dev: &Dev, arguments: &[&str], jobs: u64) -> Value {
    let output = bench(dev, arguments);
    assert!(output.status.success(), "{output:?}");
    let report = report(&output);
    assert_eq!(report["counts"]["succeeded"], jobs, "{report}");
    assert_eq!(report["latency_ms"]["samples"], jobs, "{report}");
    assert_eq!((&report["delivery"]["exact"], &report["finish"]), (&true.into(), &"done".into()), "{report}");
    report
}

fn refused(dev: &Dev, arguments: &[&str], code: i32, told: &str) {
    let output = bench(dev, arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(code) && stderr.contains(told), "{arguments:?}: {stderr}");
}

#[test]
fn users_measure_their_own_cell() {
    let dev = Dev::start_with(DevOptions { packs: vec![source_pack("smoke")], ..DevOptions::default() });
    let client = dev.client();
    what_cannot_be_measured_is_told(&dev);
    whoever_waits_for_nobody_gives_up(&dev, &client);
    whoever_is_interrupted_cancels_what_was_submitted(&dev, &client);

    let _worker = Process::worker(&dev, "one", SLOTS);
    assert_eq!(all_succeed(&dev, &["--jobs", "200"], 200)["settings"]["mode"], "closed");
    assert_eq!(all_succeed(&dev, &["--jobs", "2500", "--bulk", "--payload", "300"], 2_500)["settings"]["payload_bytes"], 300);
    let open = all_succeed(&dev, &["--jobs", "100", "--rate", "200"], 100);
    assert!(open["latest_send_ms"].is_number(), "{open}");

    // More than the tenant may submit: told to wait, it waits, and everything is done all the same.
    let limited = ctl(&dev, &["limits", "topic", "job.echo", "--admissions", "20/s:5"]).output().unwrap();
    assert!(limited.status.success(), "{limited:?}");
    for arguments in [&["--jobs", "30"][..], &["--jobs", "30", "--bulk"]] {
        let report = all_succeed(&dev, arguments, 30);
        assert!(report["counts"]["told_to_wait"].as_u64() > Some(0), "{report}");
    }
}

fn what_cannot_be_measured_is_told(dev: &Dev) {
    refused(dev, &["--rate", "0"], 2, "a number of jobs a second is wanted");
    refused(dev, &["--rate", "5", "--bulk"], 2, "cannot be used with");
    refused(dev, &["--jobs", "20000"], 2, "say --yes");
    refused(dev, &["--topic", "job.of.nobody"], 1, "unknown_topic");
    refused(dev, &["--topic", "not a topic"], 1, "invalid");
}

fn whoever_waits_for_nobody_gives_up(dev: &Dev, client: &Client) {
    let output = bench(dev, &["--topic", IDLE, "--jobs", "5", "--patience", "2s"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report = report(&output);
    assert_eq!((&report["finish"], &report["counts"]["cancelled"]), (&"stalled".into(), &5.into()), "{report}");
    assert!(report["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{report}");
    assert_eq!(client.live_jobs(), Some(0));
}

fn whoever_is_interrupted_cancels_what_was_submitted(dev: &Dev, client: &Client) {
    let mut command = ctl(dev, &["bench", "--json", "--topic", IDLE, "--jobs", "50", "--concurrency", "20"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until("as many as may be are under way", || (client.live_jobs() == Some(20)).then_some(()));
    signal(child.id(), Signal::INT);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report = report(&output);
    assert_eq!((&report["finish"], &report["counts"]["accepted"]), (&"interrupted".into(), &20.into()), "{report}");
    assert_eq!((&report["counts"]["cancelled"], &report["delivery"]["unfinished"]), (&20.into(), &0.into()), "{report}");
    assert_eq!(client.live_jobs(), Some(0));
    let ended = client.list("&topic=job.default");
    assert!(ended.iter().all(|view| view.state == JobState::Cancelled), "{ended:?}");
}
