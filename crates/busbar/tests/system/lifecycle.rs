//! How `busbar dev` begins and ends, and what it leaves behind.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;

use busbar_api::JobState;
use busbar_servers::Stack;
use rustix::process::Signal;
use serde_json::json;

use crate::support::{Dev, DevOptions, SLEEP, Sleeper, is_alive, kill9, program, until};

#[test]
fn dev_ends_cleanly_on_either_signal() {
    let mut dev = Dev::start();
    let file = dev.data_dir().join("endpoints.json");
    for with in [Signal::INT, Signal::TERM] {
        let servers = ["nats", "redis"].map(|server| dev.server_pid(server));
        assert!(servers.into_iter().all(is_alive));
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(dev.endpoints.blobs.starts_with("file:///"), "{:?}", dev.endpoints);
        let grpc = dev.endpoints.grpc.as_deref().expect("dev has every way in");
        assert!(TcpStream::connect(grpc).is_ok());
        // The file is there before the words are.
        until("it says where it answers", || dev.said().contains(&format!("grpc     {grpc}")).then_some(()));

        let status = dev.end(with);
        assert!(status.success(), "{status}");
        assert!(!file.exists(), "endpoints.json is still there");
        assert!(!servers.into_iter().any(is_alive), "a server outlived dev");
        dev.restart();
    }
}

#[test]
fn children_die_with_a_killed_dev_and_the_next_goes_on() {
    let mut dev = Dev::start();
    let file = dev.temp().join("executions");
    let mut sleeper = Sleeper::start(&dev, "sleeper-1", 1, &file);
    let key = dev.endpoints.api_key.clone();
    let acknowledged = dev.client().submit_sleeps([200; 5]);
    let servers = ["nats", "redis"].map(|server| dev.server_pid(server));
    dev.kill9();
    sleeper.kill9();
    for pid in servers {
        until("the servers are gone", || (!is_alive(pid)).then_some(()));
    }
    assert!(dev.data_dir().join("endpoints.json").exists(), "what a killed dev leaves");
    dev.restart();
    assert_eq!(dev.endpoints.api_key, key);
    sleeper = Sleeper::start(&dev, "sleeper-1", 1, &file);
    for id in acknowledged {
        assert_eq!(dev.client().wait(&id).state, JobState::Succeeded);
    }
    drop(sleeper);
}

/// Nobody has ever been there for them, and the kill comes while the scheduler looks for somebody.
#[test]
fn jobs_without_a_worker_outlive_a_killed_dev() {
    let mut dev = Dev::start();
    let acknowledged = dev.client().submit_sleeps([1; 3]);
    dev.kill9();
    dev.restart();
    let _sleeper = Sleeper::start(&dev, "sleeper-1", 1, &dev.temp().join("executions"));
    for id in acknowledged {
        assert_eq!(dev.client().wait(&id).state, JobState::Succeeded);
    }
}

#[test]
fn a_killed_server_comes_back() {
    let dev = Dev::start();
    let _sleeper = Sleeper::start(&dev, "sleeper-1", 1, &dev.temp().join("executions"));
    for server in ["nats", "redis"] {
        let before = dev.server_pid(server);
        kill9(before);
        until("another server", || (dev.server_pid(server) != before).then_some(()));
    }
    let client = dev.client();
    let job = until("a submission is taken", || {
        let answer = client.post("/api/v1/jobs", &json!({"topic": SLEEP, "input": {"ms": 1}}));
        (answer.status == 202).then(|| answer.of::<busbar_api::SubmitReply>(202).job_id)
    });
    assert_eq!(client.wait(&job).state, JobState::Succeeded);
}

#[test]
fn a_folder_has_one_dev() {
    let dev = Dev::start();
    let second = program().args(["dev", "--workers", "0", "--data-dir"]).arg(dev.data_dir()).output().unwrap();
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains("in use") && said.contains(&dev.pid().to_string()), "{said}");
    assert_eq!(dev.client().get("/readyz").status, 200, "the first one is unharmed");
    assert!(dev.data_dir().join("endpoints.json").exists());
}

#[test]
fn servers_that_are_given_are_used_and_stay() {
    let stack = Stack::start_temp().unwrap();
    let env = [("NATS_URL", stack.nats.url()), ("REDIS_URL", stack.redis.url())];
    let env = env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let mut dev = Dev::start_with(DevOptions { env, ..DevOptions::default() });
    assert_eq!((&dev.endpoints.nats, &dev.endpoints.redis), (&stack.nats.url(), &stack.redis.url()));
    assert!(!dev.data_dir().join("nats").exists() && !dev.data_dir().join("redis").exists());
    assert!(dev.end(Signal::TERM).success());
    stack.nats.wait_ready().unwrap();
    stack.redis.wait_ready().unwrap();
}

#[test]
fn a_fixed_port_that_is_taken_is_named() {
    // When somebody else holds it already, that is as good.
    let _held = TcpListener::bind(("127.0.0.1", 4222));
    let temp = tempfile::tempdir().unwrap();
    let dev = program().args(["dev", "--ports", "fixed", "--workers", "0", "--data-dir"]).arg(temp.path()).output().unwrap();
    let said = String::from_utf8_lossy(&dev.stderr);
    assert_eq!(dev.status.code(), Some(1), "{said}");
    assert!(said.contains("4222") && said.contains("in use"), "{said}");
}

#[test]
fn a_pack_that_is_invalid_is_named() {
    let temp = tempfile::tempdir().unwrap();
    let pack = temp.path().join("packs/broken");
    fs::create_dir_all(&pack).unwrap();
    fs::write(pack.join("pack.yaml"), "apiVersion: busbar/v1\nkind: Pack\nsurprise: 1\n").unwrap();
    let dev = program()
        .args(["dev", "--workers", "0", "--data-dir"])
        .arg(temp.path().join("data"))
        .arg("--packs")
        .arg(temp.path().join("packs"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&dev.stderr);
    assert_eq!(dev.status.code(), Some(1), "{said}");
    assert!(said.contains("pack_invalid") && said.contains("broken") && said.contains("surprise"), "{said}");
}

#[test]
fn the_configuration_can_be_checked_and_printed() {
    let good = program().args(["scheduler", "--check-config"]).output().unwrap();
    assert!(good.status.success());
    let printed = program().args(["gateway", "--print-config", "--redis", "redis://u:geheim@h:1"]).output().unwrap();
    let text = String::from_utf8_lossy(&printed.stdout);
    assert!(printed.status.success() && text.contains("redis://u:***@h:1"), "{text}");
    let bad = program().args(["dev", "--check-config"]).env("BUSBAR_NATS__URI", "x").output().unwrap();
    let said = String::from_utf8_lossy(&bad.stderr);
    assert_eq!(bad.status.code(), Some(2), "{said}");
    assert!(said.contains("nats.uri") && said.contains("BUSBAR_NATS__URI"), "{said}");
}
