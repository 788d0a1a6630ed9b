//! Guests that misbehave: each ends with the code of its own misdeed, and nobody else is harmed.

use std::fs;

use busbar_api::{JobState, JobView, SubmitReply};
use busbar_protocol::pointers::Sha256Hex;
use serde_json::{Value, json};

use crate::support::{Client, Dev, DevOptions, empty, guest, guest_pack, looping, sleeping, until};

const WORKER: &str = "dev-worker-1";
/// Longer than any test may take.
const FOR_EVER_MS: u64 = 600_000;

/// A guest, what it is granted, and how its job ends: code, a word of the message, attempts.
struct Case {
    name: &'static str,
    wasm: Vec<u8>,
    limits: Value,
    end: (&'static str, &'static str, u32),
}

fn case(name: &'static str, wasm: Vec<u8>, limits: Value, end: (&'static str, &'static str, u32)) -> Case {
    Case { name, wasm, limits, end }
}

fn cases() -> Vec<Case> {
    let free = || json!({});
    let says = |bytes: usize| format!("(call $say (i32.const 1) (i32.const 100) (i32.const {bytes}))");
    let exits = |code: u8| {
        guest(&format!("(call $say (i32.const 2) (i32.const 100) (i32.const 7)) (call $exit (i32.const {code}))"), "reason\\n")
    };
    vec![
        case("loops", looping(), json!({"cpu_ms": 300}), ("limit_cpu", "", 1)),
        case("idles", sleeping(FOR_EVER_MS), json!({"wall_ms": 300}), ("limit_wall", "", 1)),
        case(
            "grows",
            guest("(loop $more (drop (memory.grow (i32.const 16))) (br $more))", ""),
            json!({"memory_bytes": 8 << 20}),
            ("limit_memory", "", 1),
        ),
        case(
            "floods",
            guest(&format!("(loop $more {} (br $more))", says(4)), "null"),
            json!({"output_bytes": 1000}),
            ("limit_output", "", 1),
        ),
        case("traps", guest("unreachable", ""), free(), ("guest_trap", "unreachable", 1)),
        case("exits", exits(3), free(), ("guest_exit", "reason", 1)),
        case("tries-again", exits(75), free(), ("attempt_failed", "reason", 2)),
        case("mumbles", guest(&says(3), "nul"), free(), ("guest_output_invalid", "JSON", 1)),
        case("lies", guest(&says(4), "true"), free(), ("output_invalid", "null", 1)),
        case("nonsense", b"\0asm\x01\0\0\0no module".to_vec(), free(), ("module_invalid", "", 1)),
        case("reaches-out", reaching_out(), free(), ("module_invalid", "open", 1)),
    ]
}

/// Wants an import that nobody grants.
fn reaching_out() -> Vec<u8> {
    wat::parse_str(r#"(module (import "env" "open" (func)) (memory (export "memory") 1) (func (export "_start")))"#).unwrap()
}

#[test]
fn a_guest_that_misbehaves_ends_alone() {
    let temp = tempfile::tempdir().unwrap();
    let cases = cases();
    let others = [("naps", sleeping(300)), ("good", empty()), ("stays", sleeping(FOR_EVER_MS))];
    let others = others.map(|(name, wasm)| (name, wasm, json!({"wall_ms": FOR_EVER_MS})));
    let guests = cases.iter().map(|case| (case.name, case.wasm.clone(), case.limits.clone())).chain(others);
    let dev = Dev::start_with(DevOptions {
        args: ["--max-parallel", "4"].map(str::to_owned).to_vec(),
        workers: 1,
        packs: vec![guest_pack(temp.path(), guests)],
        ..DevOptions::default()
    });
    let client = dev.client();
    let pid = dev.worker_pid(WORKER);
    let submit = |name: &str| client.submit(&format!("job.guests.{name}"), &json!(null));
    // Two neighbours for each of them.
    let jobs: Vec<[String; 3]> = cases.iter().map(|case| [submit("naps"), submit(case.name), submit("good")]).collect();
    for (case, [naps, job, good]) in cases.iter().zip(&jobs) {
        let (code, word, attempts) = case.end;
        let view: JobView = client.wait(job);
        let told = (view.state, view.error_code.as_deref(), view.attempts);
        assert_eq!(told, (JobState::Failed, Some(code), attempts), "{}: {:?}", case.name, view.error_message);
        let message = view.error_message.unwrap_or_default();
        assert!(message.contains(word), "{}: {message:?}", case.name);
        assert_eq!((view.result.is_none(), view.result_ptr), (true, None), "{}", case.name);
        for neighbour in [naps, good] {
            let view = client.wait(neighbour);
            assert_eq!((view.state, view.attempts), (JobState::Succeeded, 1), "beside {}: {view:?}", case.name);
        }
    }
    let logs = client.get(&format!("/api/v1/jobs/{}/logs", jobs[position(&cases, "exits")][1]));
    assert!(logs.status == 200 && logs.body.contains("reason"), "{logs:?}");
    assert_eq!(dev.worker_pid(WORKER), pid, "the worker went down with a guest");
    a_guest_ends_with_its_job(&client);
    until("every slot is free", || {
        let worker = client.workers().items.remove(0);
        (worker.status == "online" && worker.in_flight == 0).then_some(())
    });
}

/// Its limits would let it stay; its job's deadline does not. That it has ended shows in the slot that it held.
fn a_guest_ends_with_its_job(client: &Client) {
    let submission = json!({"topic": "job.guests.stays", "input": null, "deadline_ms": 1_500});
    let reply: SubmitReply = client.post("/api/v1/jobs", &submission).of(202);
    let view = client.wait(&reply.job_id);
    assert_eq!((view.state, view.error_code.as_deref()), (JobState::Timeout, Some("deadline_exceeded")), "{view:?}");
}

fn position(cases: &[Case], name: &str) -> usize {
    cases.iter().position(|case| case.name == name).unwrap()
}

/// The file of a module is changed, or gone, after it was accepted: its jobs fail, and no others.
#[test]
fn a_module_must_be_what_its_digest_says() {
    let temp = tempfile::tempdir().unwrap();
    let (changed, gone) = (guest("(call $exit (i32.const 1))", ""), guest("(call $exit (i32.const 2))", ""));
    let digest = |wasm: &[u8]| Sha256Hex::of(wasm).to_string();
    let digests = [&changed, &gone].map(|wasm| digest(wasm));
    let guests = [("changed", changed), ("gone", gone), ("good", empty())].map(|(name, wasm)| (name, wasm, json!({})));
    let packs = vec![guest_pack(temp.path(), guests)];
    let dev = Dev::start_with(DevOptions { workers: 1, packs, ..DevOptions::default() });
    let client = dev.client();
    let [changed, gone] = digests.each_ref().map(|digest| dev.blob(digest));
    assert!(changed.is_file() && gone.is_file());
    // It may stand there without permission to write.
    fs::remove_file(&changed).unwrap();
    fs::write(&changed, empty()).unwrap();
    fs::remove_file(&gone).unwrap();

    for (name, code) in [("changed", "module_digest_mismatch"), ("gone", "module_missing")] {
        let view = client.wait(&client.submit(&format!("job.guests.{name}"), &json!(null)));
        assert_eq!((view.state, view.error_code.as_deref(), view.attempts), (JobState::Failed, Some(code), 1), "{view:?}");
    }
    let good = client.wait(&client.submit("job.guests.good", &json!(null)));
    assert_eq!((good.state, good.module), (JobState::Succeeded, Some(format!("sha256:{}", digest(&empty())))));
}
