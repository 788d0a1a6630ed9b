//! The workers that `dev` starts: they come with it, come again when they die, and go with it.
//!
//! In the place of the `worker` program stands a script that becomes a `sleeper`: what is tested is how workers are kept.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use busbar_api::JobState;
use rustix::process::Signal;
use serde_json::json;

use crate::support::{Dev, DevOptions, Executions, SLEEP, is_alive, kill9, program, sleeper_program, until};

/// A folder with a copy of the server binary and what it takes for the worker program.
fn install(bin: &Path, file: &Path) {
    fs::create_dir_all(bin).unwrap();
    let original = program().get_program().to_owned();
    if fs::hard_link(&original, bin.join("busbar")).is_err() {
        fs::copy(&original, bin.join("busbar")).unwrap();
    }
    // --nats URL --redis URL --blobs URL --pool NAME --max-parallel N --id ID
    let script = format!(
        "#!/bin/sh\n[ $# -eq 12 ] && exec '{}' \"$1\" \"$2\" \"$3\" \"$4\" \"$7\" \"$8\" \"$9\" \"${{10}}\" \"${{11}}\" \"${{12}}\" --file '{}'\n",
        sleeper_program().display(),
        file.display()
    );
    fs::write(bin.join("worker"), script).unwrap();
    fs::set_permissions(bin.join("worker"), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn workers_come_with_dev_and_go_with_it() {
    let temp = tempfile::tempdir().unwrap();
    let (bin, file) = (temp.path().join("bin"), temp.path().join("executions"));
    install(&bin, &file);
    let mut dev = Dev::start_with(DevOptions {
        args: ["--max-parallel", "3"].map(str::to_owned).to_vec(),
        workers: 2,
        program: Some(bin.join("busbar")),
        ..DevOptions::default()
    });
    // Ready means that they are there.
    let client = dev.client();
    let online: Vec<_> = client.workers().items.into_iter().map(|worker| (worker.id, worker.capacity, worker.status)).collect();
    assert_eq!(online, ["dev-worker-1", "dev-worker-2"].map(|id| (id.to_owned(), 3, "online".to_owned())));

    // One that dies comes again, and what it held is done.
    let jobs = client.submit_sleeps([300; 6]);
    until("all slots are executing", || (Executions::read(&file).open == 6).then_some(()));
    let before = dev.worker_pid("dev-worker-1");
    kill9(before);
    for job in jobs {
        assert_eq!(client.wait(&job).state, JobState::Succeeded);
    }
    let workers = ["dev-worker-1", "dev-worker-2"].map(|id| dev.worker_pid(id));
    assert_ne!(workers[0], before);
    assert!(Executions::read(&file).count() <= 6 + 3);
    assert_eq!(client.wait(&client.submit(SLEEP, &json!({"ms": 1}))).state, JobState::Succeeded);

    assert!(dev.end(Signal::INT).success());
    assert!(!workers.into_iter().any(is_alive), "a worker outlived dev");

    dev.restart();
    let workers = ["dev-worker-1", "dev-worker-2"].map(|id| dev.worker_pid(id));
    dev.kill9();
    for pid in workers {
        until("the workers are gone", || (!is_alive(pid)).then_some(()));
    }
}

#[test]
fn a_missing_worker_program_is_named() {
    let temp = tempfile::tempdir().unwrap();
    let bin = temp.path().join("bin");
    install(&bin, temp.path());
    fs::remove_file(bin.join("worker")).unwrap();
    let dev = std::process::Command::new(bin.join("busbar")).args(["dev", "--data-dir"]).arg(temp.path().join("data")).output();
    let dev = dev.unwrap();
    let said = String::from_utf8_lossy(&dev.stderr);
    assert_eq!(dev.status.code(), Some(1), "{said}");
    assert!(said.contains("bin/worker") && said.contains("--workers 0"), "{said}");
}
