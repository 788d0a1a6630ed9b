//! The published CAP SDK for Python, unmodified, against a whole stack: its workers, its client, and its judgement of what we say.
//!
//! The processes stand in `interop/sdk.py`; `tools/test interop` installs the SDK and says where in `BUSBAR_TEST_CAP_SDK`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use busbar_api::{JobState, WorkerView};
use busbar_protocol::signing::PrivateKey;
use busbar_protocol::subjects;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::support::{
    CapSdk, Client, Dev, DevOptions, Executions, Prover, Wire, cap_pack, executions, scheduler_public_key, trusting, until,
};

fn dev() -> Dev {
    Dev::start_with(DevOptions { packs: vec![cap_pack()], ..DevOptions::default() })
}

/// Submits a job whose input a worker without Redis finds in a label, too.
fn submit(client: &Client, topic: &str, input: &Value) -> String {
    let body = json!({"topic": topic, "input": input, "labels": {"input": input.to_string()}});
    let reply: Value = client.post("/api/v1/jobs", &body).of(202);
    reply["job_id"].as_str().unwrap().to_owned()
}

fn worker(client: &Client, id: &str) -> Option<WorkerView> {
    client.workers().items.into_iter().find(|worker| worker.id == id)
}

#[test]
#[ignore = "needs the published CAP SDK: tools/test interop"]
fn agents_with_the_default_id_do_each_job_once() {
    let dev = dev();
    let client = dev.client();
    let _agents = ["one", "two"].map(|name| CapSdk::agent(&dev, name, "job.cap.echo", None));
    let jobs: Vec<String> = (0..30).map(|n| submit(&client, "job.cap.echo", &json!({"ms": 20, "n": n}))).collect();
    for (n, job) in jobs.iter().enumerate() {
        assert_eq!(client.result(job), json!({"seen": {"ms": 20, "n": n}, "topic": "job.cap.echo"}));
        // The SDK lets results live for ever; we do not.
        assert!(CapSdk::ttl(&dev, &format!("res:{job}")) > 0 || n > 2, "{job}");
    }
    let seen = Executions::read(&executions(&dev));
    assert_eq!((seen.count(), seen.open, seen.starts.len()), (30, 0, 30), "{seen:?}");
    // Straight onto the bus, by the SDK's client.
    CapSdk::submit(&dev, "job.cap.echo", &json!({"ms": 1}), "by-the-sdk");
    until("the job is known", || (client.get("/api/v1/jobs/by-the-sdk").status == 200).then_some(()));
    assert_eq!(client.result("by-the-sdk")["seen"], json!({"ms": 1}));
    // What a handler does wrong, its job tells.
    let failed = client.wait(&submit(&client, "job.cap.echo", &json!({"fail": "exception"})));
    assert_eq!((failed.state, failed.error_message.as_deref()), (JobState::Failed, Some("handler failed")));
    assert_eq!(client.result(&submit(&client, "job.cap.echo", &json!({"fail": "nothing"}))), Value::Null);
    let shown = until("heartbeats came", || worker(&client, "cap-runtime").filter(|worker| worker.capacity == 1));
    assert_eq!((shown.kind.as_str(), shown.status.as_str()), ("announced", "online"), "{shown:?}");
}

#[test]
#[ignore = "needs the published CAP SDK: tools/test interop"]
fn named_agents_share_a_topic_and_may_die() {
    let dev = dev();
    let client = dev.client();
    let first = CapSdk::agent(&dev, "first", "job.cap.named", Some("agent-1"));
    let mut second = CapSdk::agent(&dev, "second", "job.cap.named", Some("agent-2"));
    client.until_online("agent-1", 1);
    client.until_online("agent-2", 1);
    let jobs: Vec<String> = (0..10).map(|_| submit(&client, "job.cap.named", &json!({"ms": 100}))).collect();
    let by: BTreeSet<String> = jobs.iter().map(|job| client.wait(job).worker_id.expect("a worker")).collect();
    assert_eq!(by, ["agent-1", "agent-2"].map(str::to_owned).into());
    // One is killed in the middle of a job, and started again under its id.
    drop(first);
    let slow = submit(&client, "job.cap.named", &json!({"ms": 2_000}));
    let busy = until("agent-2 works on it", || {
        let view: Value = client.get(&format!("/api/v1/jobs/{slow}")).of(200);
        view["worker_id"].as_str().map(str::to_owned)
    });
    if busy == "agent-2" {
        until("it has begun", || Executions::read(&executions(&dev)).starts.contains_key(&slow).then_some(()));
        second.kill9();
    }
    let _again = ["agent-1", "agent-2"].map(|id| CapSdk::agent(&dev, &format!("{id}-again"), "job.cap.named", Some(id)));
    let done = client.wait(&slow);
    assert_eq!((done.state, done.attempts), (JobState::Succeeded, 2), "{done:?}");
}

#[test]
#[ignore = "needs the published CAP SDK: tools/test interop"]
fn an_agent_that_knows_our_key_takes_what_we_sign_and_nothing_else() {
    let temp = tempfile::tempdir().unwrap();
    let (secret, ours, other) = (temp.path().join("key.pem"), temp.path().join("public.pem"), temp.path().join("other.pem"));
    let key = |byte| PrivateKey::from_secret(&[byte; 32]).unwrap();
    fs::write(&secret, key(1).to_pem().unwrap()).unwrap();
    fs::write(&ours, key(1).public().to_pem().unwrap()).unwrap();
    fs::write(&other, key(2).public().to_pem().unwrap()).unwrap();
    let set = format!("scheduler.signing_key_file={}", secret.display());
    let dev =
        Dev::start_with(DevOptions { packs: vec![cap_pack()], args: vec!["--set".to_owned(), set], ..DevOptions::default() });
    let client = dev.client();
    let listener = CapSdk::listener(&dev);
    // One that was told another key hears every dispatch and takes none.
    let deaf = CapSdk::distrustful(&dev, "job.cap.named", "deaf", &other);
    client.until_online("deaf", 1);
    let passed_over = submit(&client, "job.cap.named", &json!({"ms": 1}));
    until("it was sent", || listener.heard().iter().any(|told| told["subject"] == "worker.deaf.jobs").then_some(()));
    // The scheduler gives it ten seconds to answer: enough to do what it never did.
    assert_eq!(client.post(&format!("/api/v1/jobs/{passed_over}/cancel"), &json!({})).status, 200);
    assert_eq!(client.wait(&passed_over).state, JobState::Cancelled);
    assert!(!Executions::read(&executions(&dev)).starts.contains_key(&passed_over));
    drop(deaf);
    let _agent = CapSdk::distrustful(&dev, "job.cap.named", "trusting", &ours);
    client.until_online("trusting", 1);
    let job = submit(&client, "job.cap.named", &json!({"ms": 1}));
    assert_eq!(client.result(&job)["seen"], json!({"ms": 1}));
}

#[test]
#[ignore = "needs the published CAP SDK: tools/test interop"]
fn an_agent_proves_its_key_and_lives_as_long_as_that_is_enrolled() {
    let dev = trusting(&["scheduler.worker_trust=enforce"]);
    let client = dev.client();
    let prover = Prover::new("proving", 3);
    prover.enrol(&dev);
    let keys = (prover.key_file(&dev), scheduler_public_key(&dev));
    let _agent = CapSdk::proving(&dev, "proving", false, &keys.0, &keys.1);
    // One that proves nothing is heard, and not believed.
    let _plain = CapSdk::agent(&dev, "plain", "job.cap.echo", Some("plain"));
    client.until_online("proving", 1);
    let job = submit(&client, "job.cap.named", &json!({"ms": 1}));
    assert_eq!(client.result(&job)["seen"], json!({"ms": 1}));
    let slow = submit(&client, "job.cap.named", &json!({"ms": 3_000}));
    until("it has begun", || Executions::read(&executions(&dev)).starts.contains_key(&slow).then_some(()));
    assert!(worker(&client, "plain").is_none());
    // What it does under a key that is revoked meanwhile does not count.
    prover.revoke(&dev);
    until("it is lost", || worker(&client, "proving").filter(|worker| worker.status == "lost"));
    until("it has ended", || (Executions::read(&executions(&dev)).open == 0).then_some(()));
    assert_ne!(client.get(&format!("/api/v1/jobs/{slow}")).of::<Value>(200)["state"], "SUCCEEDED");
}

#[test]
#[ignore = "needs the published CAP SDK: tools/test interop"]
fn a_production_agent_takes_what_is_signed_for_it_and_signs_what_it_did() {
    let dev = trusting(&["scheduler.worker_trust=enforce"]);
    let client = dev.client();
    let prover = Prover::new("production", 4);
    prover.enrol_with(&dev, &["--production"]);
    let keys = (prover.key_file(&dev), scheduler_public_key(&dev));
    let _agent = CapSdk::proving(&dev, "production", true, &keys.0, &keys.1);
    client.until_online("production", 1);
    for n in 0..3 {
        let job = submit(&client, "job.cap.named", &json!({"ms": n}));
        assert_eq!(client.result(&job)["seen"], json!({"ms": n}));
    }
    assert_eq!(Executions::read(&executions(&dev)).count(), 3);
}

#[test]
#[ignore = "needs the published CAP SDK: tools/test interop"]
fn a_worker_that_never_announces_itself_may_answer_anything() {
    let dev = dev();
    let client = dev.client();
    let _workers = ["one", "two"].map(|name| CapSdk::plain(&dev, name, "job.cap.plain"));
    let cases = [
        (json!({"ms": 1}), JobState::Succeeded, 1, None),
        (json!({"fail": "once"}), JobState::Succeeded, 2, None),
        (json!({"fail": "retryable"}), JobState::Failed, 3, Some("told_to")),
        (json!({"fail": "fatal"}), JobState::Failed, 1, Some("told_to")),
        (json!({"fail": "failed"}), JobState::Failed, 1, Some("told_to")),
        (json!({"fail": "exception"}), JobState::Failed, 1, Some("handler_failed")),
        (json!({"fail": "nothing"}), JobState::Failed, 1, Some("handler_failed")),
        (json!({"fail": "garbage"}), JobState::Succeeded, 1, None),
        (json!({"fail": "foreign"}), JobState::Failed, 1, Some("pointer_invalid")),
        (json!({"ms": 1_500}), JobState::Succeeded, 1, None),
    ];
    let jobs: Vec<String> = cases.iter().map(|(input, ..)| submit(&client, "job.cap.plain", input)).collect();
    for (job, (input, state, attempts, code)) in jobs.iter().zip(&cases) {
        let view = client.wait(job);
        assert_eq!((view.state, view.attempts), (*state, *attempts), "{input}: {view:?}");
        if *state == JobState::Failed {
            assert_eq!(view.error_code.as_deref(), *code, "{input}: {view:?}");
        }
    }
}

#[test]
#[ignore = "needs the published CAP SDK: tools/test interop"]
fn what_we_say_passes_the_sdks_own_checks() {
    let dev = dev();
    let client = dev.client();
    let listener = CapSdk::listener(&dev);
    let _workers = CapSdk::plain(&dev, "late", "job.cap.late");
    let post = |topic: &str, more: Value| {
        let mut body = json!({"topic": topic, "input": {}, "labels": {"input": "{\"ms\": 3000}"}});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let reply: Value = client.post("/api/v1/jobs", &body).of(202);
        reply["job_id"].as_str().unwrap().to_owned()
    };
    let denied = "denied-on-the-bus".to_owned();
    CapSdk::submit(&dev, "job.cap.forbidden", &json!({}), &denied);
    let strange = "no-such-topic".to_owned();
    CapSdk::submit(&dev, "job.cap.nobody-knows-it", &json!({}), &strange);
    let late = post("job.cap.late", json!({}));
    let unserved = post("job.cap.unserved", json!({"schedule_to_start_ms": 200}));
    let cancelled = post("job.cap.unserved", json!({}));
    assert_eq!(client.post(&format!("/api/v1/jobs/{cancelled}/cancel"), &json!({})).status, 200);
    // Nonsense, of which operators are told.
    let wire = Wire::connect(&dev.endpoints.nats);
    wire.send(subjects::HEARTBEAT, Bytes::from_static(b"\xff\x00"));
    let expected: BTreeMap<String, String> = [
        (denied, "JOB_STATUS_DENIED"),
        (strange, "JOB_STATUS_FAILED"),
        (late, "JOB_STATUS_TIMEOUT"),
        (unserved, "JOB_STATUS_TIMEOUT"),
        (cancelled, "JOB_STATUS_CANCELLED"),
    ]
    .map(|(job, status)| (job, status.to_owned()))
    .into();
    let ours = |told: &Value| told["packet"]["sender_id"] == subjects::SCHEDULER_SENDER;
    let told_of = |heard: &[Value]| -> BTreeMap<String, String> {
        let results = heard.iter().filter(|told| told["subject"] == subjects::RESULT).map(|told| &told["packet"]["job_result"]);
        let pair = |result: &Value| Some((result["job_id"].as_str()?.to_owned(), result["status"].as_str()?.to_owned()));
        results.filter_map(pair).collect()
    };
    let heard = until("everything was told", || {
        let heard: Vec<Value> = listener.heard().into_iter().filter(ours).collect();
        let alerted = heard.iter().any(|told| told["subject"] == subjects::ALERT);
        (told_of(&heard).len() == expected.len() && alerted).then_some(heard)
    });
    assert_eq!(told_of(&heard), expected);
    for told in &heard {
        assert_eq!((&told["broken"], &told["unreadable"]), (&json!([]), &Value::Null), "{told}");
        let result = &told["packet"]["job_result"];
        if result.is_object() {
            // CAP has no code for what was cancelled.
            let coded = result["error_code_enum"].is_string() || result["status"] == "JOB_STATUS_CANCELLED";
            assert!(result["error_code"].is_string() && coded, "{told}");
        }
    }
    let subjects: BTreeSet<&str> = heard.iter().filter_map(|told| told["subject"].as_str()).collect();
    assert!(subjects.contains("job.cap.late") && subjects.contains(subjects::DEAD_LETTER), "{subjects:?}");
}
