//! The two examples of the SDK, run as its readers would run them.

use std::process::Command;

use busbar_api::{JobState, LogsView};
use rustix::process::Signal;

use crate::support::{Dev, DevOptions, Process, built, source_pack, until};

const LINES_MAX: usize = 40;

#[test]
fn the_examples_are_short() {
    for (name, text) in [
        ("worker", include_str!("../../../../sdk/examples/worker.rs")),
        ("client", include_str!("../../../../sdk/examples/client.rs")),
    ] {
        let lines = text.lines().count();
        assert!(lines <= LINES_MAX, "{name}: {lines} lines");
    }
}

#[test]
fn the_example_client_is_greeted_by_the_example_worker() {
    let dev = Dev::start_with(DevOptions { packs: vec![source_pack("smoke")], ..DevOptions::default() });
    let client = dev.client();
    let mut worker = Process::join(&dev, "examples/worker", &[]);
    until("it is online", || client.workers().items.iter().any(|worker| worker.status == "online").then_some(()));

    for (args, greeting) in [(&["--name", "Ada"][..], "Hello, Ada!\n"), (&[], "Hello, world!\n")] {
        let output = Command::new(built("examples/client"))
            .args(["--nats", &dev.endpoints.nats, "--redis", &dev.endpoints.redis])
            .args(args)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), greeting, "{output:?}");
    }

    // The jobs are like any others.
    let jobs = client.list("&topic=job.default");
    assert_eq!(jobs.iter().map(|job| job.state).collect::<Vec<_>>(), [JobState::Succeeded; 2]);
    let logs: LogsView = client.get(&format!("/api/v1/jobs/{}/logs", jobs[1].id)).of(200);
    assert!(format!("{logs:?}").contains("greeting Ada"), "{logs:?}");

    let status = worker.end(Signal::INT);
    assert!(status.success(), "{status}");
}
