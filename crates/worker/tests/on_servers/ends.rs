//! How guests end: every way has its status and its code, and harms nobody else.

#![expect(clippy::unwrap_used, reason = "tests")]

use busbar_protocol::busbar::JobState;
use busbar_protocol::cap::JobStatus;
use serde_json::{Value, json};

use crate::guests::{continuing, empty, guest, looping, sleeping};
use crate::packs::shipped;
use crate::rig::{Job, Rig, SLOTS, TENANT, end};

const SUCCEEDED: (JobStatus, &str) = (JobStatus::Succeeded, "");

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_ends_as_it_says() {
    let mut rig = Rig::start().await;
    let _worker = rig.worker().await;
    let exit = |code: u8| {
        guest(&format!("(call $say (i32.const 2) (i32.const 100) (i32.const 7)) (call $exit (i32.const {code}))"), "reason\\n")
    };
    let cases = [
        ("good", empty(), SUCCEEDED, ""),
        ("again", exit(75), (JobStatus::FailedRetryable, "attempt_failed"), "reason"),
        ("bad", exit(3), (JobStatus::Failed, "guest_exit"), "reason"),
        ("trap", guest("unreachable", ""), (JobStatus::Failed, "guest_trap"), "unreachable"),
        ("mute", guest("", ""), (JobStatus::Failed, "guest_output_invalid"), "JSON"),
    ];
    let mut jobs = Vec::new();
    for (name, wasm, ..) in &cases {
        jobs.push(Job::guest(*name, &rig.module(wasm.clone()).await, Value::Null));
    }
    let results = rig.run(&jobs).await;
    for ((name, _, expected, message), result) in cases.iter().zip(&results) {
        assert_eq!(end(result), *expected, "{name}: {}", result.error_message);
        assert!(result.error_message.contains(message), "{name}: {}", result.error_message);
    }
    assert_eq!(rig.payload("log:bad:1").await.unwrap(), "reason\n", "what the guest says is the job's log");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_limit_ends_a_guest_and_leaves_its_neighbours_alone() {
    let mut rig = Rig::start().await;
    let _worker = rig.worker().await;
    let growing = guest("(loop $more (drop (memory.grow (i32.const 16))) (br $more))", "");
    let flooding = guest("(loop $more (call $say (i32.const 1) (i32.const 100) (i32.const 4)) (br $more))", "null");
    // The start function calls itself: it comes after five imports and two functions.
    let deep = guest("(call 7)", "");
    let cases = [
        ("cpu", looping(), json!({ "cpu_ms": 200 }), "limit_cpu"),
        ("wall", sleeping(600_000), json!({ "wall_ms": 200 }), "limit_wall"),
        ("wall-busy", looping(), json!({ "wall_ms": 200 }), "limit_wall"),
        ("memory", growing, json!({ "memory_bytes": 8 << 20 }), "limit_memory"),
        ("output", flooding, json!({ "output_bytes": 1000 }), "limit_output"),
        ("stack", deep, json!({}), "limit_stack"),
        ("fuel", looping(), json!({ "fuel": 10_000 }), "limit_fuel"),
        ("imports", looping(), json!({ "imports": ["files"] }), "import_denied"),
    ];
    let neighbour = rig.module(sleeping(300)).await;
    let mut jobs = Vec::new();
    for (name, wasm, limits, _) in &cases {
        jobs.push(Job::guest(*name, &rig.module(wasm.clone()).await, Value::Null).limited(limits.clone()));
    }
    jobs.push(Job::guest("neighbour", &neighbour, Value::Null));
    jobs.push(Job::echo("echo", json!({ "still": "here" })));
    let results = rig.run(&jobs).await;
    for ((name, _, _, code), result) in cases.iter().zip(&results) {
        assert_eq!(end(result), (JobStatus::Failed, *code), "{name}: {}", result.error_message);
    }
    let [neighbour, echo] = &results[cases.len()..] else { panic!("two more: {results:?}") };
    assert_eq!(end(neighbour), SUCCEEDED);
    assert_eq!(rig.output_of(echo).await, json!({ "still": "here" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn text_is_cut_where_json_would_end_the_guest() {
    let mut rig = Rig::start().await;
    let _worker = rig.worker().await;
    let twice = guest(&"(call $say (i32.const 1) (i32.const 100) (i32.const 5))".repeat(2), "text\\n");
    let text = json!({ "text": true, "output_bytes": 6 });
    let results = rig.run(&[Job::guest("text", &rig.module(twice).await, Value::Null).limited(text)]).await;
    assert_eq!(end(&results[0]), SUCCEEDED, "{}", results[0].error_message);
    assert_eq!(rig.output_of(&results[0]).await, json!("text\nt\n[cut: the first 6 of 10 bytes]"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_must_be_what_its_digest_says() {
    let mut rig = Rig::start().await;
    let _worker = rig.worker().await;
    let good = rig.module(empty()).await;
    let garbage = rig.module("no module").await;
    let foreign = rig
        .module(
            wat::parse_str(r#"(module (import "env" "open" (func)) (memory (export "memory") 1) (func (export "_start")))"#)
                .unwrap(),
        )
        .await;
    let absent = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
    // The file is there under the name of another content.
    let changed = rig.module(looping()).await;
    overwrite(&rig, &changed, &empty());
    let cases = [
        (changed.as_str(), "module_digest_mismatch"),
        (absent, "module_missing"),
        (&garbage, "module_invalid"),
        (&foreign, "module_invalid"),
        ("sha256:12", "module_invalid"),
        (&good, ""),
    ];
    let job = |(number, (module, _)): (usize, &(&str, &str))| Job::guest(format!("module-{number}"), module, Value::Null);
    let jobs: Vec<Job> = cases.iter().enumerate().map(job).collect();
    let results = rig.run(&jobs).await;
    for ((module, code), result) in cases.iter().zip(&results) {
        let status = if code.is_empty() { JobStatus::Succeeded } else { JobStatus::Failed };
        assert_eq!(end(result), (status, *code), "{module}: {}", result.error_message);
    }
}

fn blob_file(rig: &Rig, module: &str) -> std::path::PathBuf {
    let digits = module.strip_prefix("sha256:").unwrap();
    let path = rig.blobs.folder().join("sha256").join(&digits[..2]).join(&digits[2..]);
    assert!(path.is_file());
    path
}

fn overwrite(rig: &Rig, module: &str, content: &[u8]) {
    let path = blob_file(rig, module);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(path, content).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn artifacts_are_granted_to_their_tenant_alone() {
    let mut rig = Rig::start().await;
    let _worker = rig.worker().await;
    let module = rig.module(empty()).await;
    rig.artifact("mine", "content").await;
    rig.artifact("lost", "gone soon").await;
    let lost = busbar_protocol::pointers::Sha256Hex::of(b"gone soon");
    assert!(rig.blobs.delete(&lost).await.unwrap());
    let cases = [
        ("own", TENANT, json!({ "artifact": "mine" }), ""),
        ("foreign", "other", json!({ "artifact": "mine" }), "artifact_not_found"),
        ("unknown", TENANT, json!({ "artifacts": ["mine", "unknown"] }), "artifact_not_found"),
        ("outside", TENANT, json!({ "artifact": "../../secret" }), "artifact_not_found"),
        ("lost", TENANT, json!({ "artifact": "lost" }), "artifact_unavailable"),
        ("many", TENANT, json!({ "artifacts": (0..1_001).map(|n| n.to_string()).collect::<Vec<_>>() }), "input_invalid"),
    ];
    for (name, tenant, input, code) in cases {
        rig.dispatch_for(&Job::guest(name, &module, input), tenant, 1).await;
        let result = rig.result(name).await;
        let status = if code.is_empty() { JobStatus::Succeeded } else { JobStatus::Failed };
        assert_eq!(end(&result), (status, code), "{name}: {}", result.error_message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_result_of_a_job_is_an_artifact() {
    let mut rig = Rig::start().await;
    let _worker = rig.worker().await;
    let wordcount = rig.module(shipped("wordcount/wordcount.wasm")).await;
    let part = |word: &str| format!(r#"{{"words":2,"distinct":1,"counts":{{"{word}":2}}}}"#);
    let large = rig.blobs.put_bytes(part("large").into()).await.unwrap();
    rig.ended("large", JobState::Succeeded, &format!("blob:sha256:{}", large.sha256)).await;
    // The worker itself leaves the other one.
    let small = Job::guest("small", &wordcount, json!({ "text": "small small" }));
    let made = rig.output(&small).await;
    assert_eq!(made["words"], json!(2));
    rig.ended("small", JobState::Succeeded, "redis://res:small:1").await;
    rig.ended("expired", JobState::Succeeded, "redis://res:expired:1").await;
    rig.ended("silent", JobState::Succeeded, "").await;
    rig.ended("failed", JobState::Failed, "redis://res:small:1").await;
    rig.ended("liar", JobState::Succeeded, "redis://res:small:1").await;

    let sum = rig.output(&Job::guest("sum", &wordcount, json!({ "artifacts": ["large", "small"] }))).await;
    assert_eq!(sum["counts"], json!({ "large": 2, "small": 2 }));
    let cases = [
        ("foreign", "other", "large", "artifact_not_found"),
        ("gone", TENANT, "expired", "artifact_unavailable"),
        ("nothing", TENANT, "silent", "artifact_not_found"),
        ("unsuccessful", TENANT, "failed", "artifact_not_found"),
        ("elsewhere", TENANT, "liar", "artifact_not_found"),
    ];
    for (name, tenant, artifact, code) in cases {
        rig.dispatch_for(&Job::guest(name, &wordcount, json!({ "artifact": artifact })), tenant, 1).await;
        let result = rig.result(name).await;
        assert_eq!(end(&result), (JobStatus::Failed, code), "{name}: {}", result.error_message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_attempt_goes_on_from_the_last_checkpoint() {
    let mut rig = Rig::start().await;
    let _worker = rig.worker().await;
    let job = Job::guest("long", &rig.module(continuing()).await, Value::Null);
    rig.dispatch(&job).await;
    assert_eq!(end(&rig.result("long").await), (JobStatus::FailedRetryable, "attempt_failed"));
    // One attempt was lost before it handed anything over.
    rig.dispatch_for(&job, TENANT, 3).await;
    let result = rig.result("long").await;
    assert_eq!(rig.output_of(&result).await, json!("half"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_guest_stops() {
    let mut rig = Rig::start().await;
    let _worker = rig.worker().await;
    for (name, wasm) in [("computes", looping()), ("sleeps", sleeping(600_000))] {
        let module = rig.module(wasm).await;
        rig.dispatch(&Job::guest(name, &module, Value::Null)).await;
        assert_eq!(rig.progress(name).await, 1);
        rig.cancel(name).await;
        let result = rig.result(name).await;
        assert_eq!(end(&result), (JobStatus::Cancelled, "cancelled"));
        assert_eq!(result.error_message, "not needed");
    }
}

/// The file of its module is a pipe into which nobody writes: it cannot even be opened.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_cancelled_does_not_wait_for_a_module_and_leaves_its_slot() {
    let mut rig = Rig::start().await;
    let _worker = rig.worker().await;
    let stuck = rig.module(looping()).await;
    let path = blob_file(&rig, &stuck);
    std::fs::remove_file(&path).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let names: Vec<String> = (0..SLOTS).map(|number| format!("stuck-{number}")).collect();
    for name in &names {
        rig.dispatch(&Job::guest(name, &stuck, Value::Null)).await;
    }
    rig.beat(|beat| beat.held.len() == names.len()).await;
    for name in &names {
        rig.cancel(name).await;
        assert_eq!(end(&rig.result(name).await), (JobStatus::Cancelled, "cancelled"));
    }
    // All slots are free again, for guests as well.
    let good = rig.module(empty()).await;
    let jobs: Vec<Job> = names.iter().map(|name| Job::guest(format!("after-{name}"), &good, Value::Null)).collect();
    for result in rig.run(&jobs).await {
        assert_eq!(end(&result), SUCCEEDED, "{}", result.error_message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_without_a_module_are_echoed_or_left_to_others() {
    let mut rig = Rig::start().await;
    let _worker = rig.worker().await;
    let input = json!({ "text": "ü", "number": 12.5 });
    assert_eq!(rig.output(&Job::echo("echo", input.clone())).await, input);
    let module = rig.module(empty()).await;
    let with_module = Job { module: Some(module), ..Job::echo("echo-module", input.clone()) };
    assert_eq!(rig.output(&with_module).await, Value::Null, "a module goes before our own code");
    rig.dispatch(&Job { topic: "job.default", ..Job::echo("default", input) }).await;
    assert_eq!(end(&rig.result("default").await), (JobStatus::FailedRetryable, "unknown_topic"));
    // So that nobody sends it what it can not do.
    let beat = rig.beat(|_| true).await;
    assert_eq!((beat.topics, beat.capabilities), (vec!["job.echo".to_owned()], vec!["wasm".to_owned()]));
}
