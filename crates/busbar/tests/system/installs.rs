//! Packs that come and go on a running stack, through the HTTP interface and through `ctl`.

use std::process::{Command, Output};

use busbar_api::{JobState, PackList, PackOutcome, PackReply};
use serde_json::{Value, json};

use crate::support::{Dev, SLEEP, Sleeper, archive_of, built, source_pack};

const TEST: &str = "/api/v1/packs/test";

#[test]
fn what_a_pack_brings_goes_with_it_and_comes_again() {
    let dev = Dev::start();
    let client = dev.client();
    let _sleeper = Sleeper::start(&dev, "sleeper-1", 1, &dev.temp().join("executions"));
    let listed: PackList = client.get("/api/v1/packs").of(200);
    assert_eq!(listed.items.iter().map(|pack| (pack.id.as_str(), pack.state.as_str())).collect::<Vec<_>>(), [("test", "active")]);
    assert_eq!(listed.items[0].installed_by, "dev");

    // Nobody ever serves it: it stays live until it is cancelled.
    let live = client.submit("job.test.unserved", &json!(null));
    let told = client.delete(TEST).problem(409, "pack_in_use");
    assert!(told.contains(&live), "{told}");
    let _: Value = client.post_raw(&format!("/api/v1/jobs/{live}/cancel"), b"").of(200);

    let archive = archive_of(&dev.temp().join("packs/test"));
    for _ in 0..2 {
        let gone: PackReply = client.delete(TEST).of(200);
        assert_eq!(gone.outcome, PackOutcome::Uninstalled);
        let submission = json!({"topic": SLEEP, "input": {"ms": 1}});
        client.post("/api/v1/jobs", &submission).problem(422, "unknown_topic");
        let back: PackReply = client.post_raw("/api/v1/packs", &archive).of(201);
        assert_eq!(back.outcome, PackOutcome::Installed);
        // Known again, allowed again, its schema judged again.
        let known = client.post("/api/v1/jobs", &submission);
        assert_eq!(known.status, 202, "{known:?}");
        assert_eq!(client.wait(&client.submit(SLEEP, &json!({"ms": 1}))).state, JobState::Succeeded);
        client.post("/api/v1/jobs", &json!({"topic": SLEEP, "input": {}})).problem(422, "input_invalid");
    }
}

#[test]
fn ctl_builds_installs_shows_and_uninstalls() {
    let dev = Dev::start();
    let file = dev.temp().join("smoke.tgz");
    let file = file.to_str().unwrap();
    let ctl = |args: &[&str]| -> Output {
        Command::new(built("ctl")).args(args).arg("--data-dir").arg(dev.data_dir()).output().unwrap()
    };
    let good = |args: &[&str]| -> String {
        let output = ctl(args);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let source = source_pack("smoke");
    let built = good(&["pack", "build", source.to_str().unwrap(), "--file", file]);
    assert!(built.contains("smoke 0.1.0, sha256:"), "{built}");
    assert_eq!(std::fs::read(file).unwrap(), archive_of(&source), "the same bytes for the same pack");

    let planned = good(&["pack", "install", file, "--dry-run"]);
    assert!(planned.contains("create") && planned.contains("job.echo") && planned.contains("smoke 0.1.0: planned"), "{planned}");
    assert_eq!(ctl(&["pack", "show", "smoke"]).status.code(), Some(1));
    let installed = good(&["pack", "install", file]);
    assert!(installed.contains("pack-smoke") && installed.contains("smoke 0.1.0: installed"), "{installed}");
    assert!(good(&["pack", "install", source.to_str().unwrap()]).contains("smoke 0.1.0: unchanged"));
    assert!(good(&["pack", "list"]).contains("smoke"));
    let shown: Value = serde_json::from_str(&good(&["pack", "show", "smoke", "-o", "json"])).unwrap();
    assert_eq!((&shown["installed_by"], &shown["owns"][0]["name"]), (&json!("dev"), &json!("job.default")));

    assert!(good(&["pack", "uninstall", "smoke"]).contains("smoke 0.1.0: uninstalled"));
    let refused = ctl(&["pack", "uninstall", "smoke"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(1) && said.starts_with("error: pack_not_found"), "{said}");
    let not_built = ctl(&["pack", "install", source_pack("bpsw").to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&not_built.stderr).contains("bpsw.wasm: the file is missing"), "{not_built:?}");
}
