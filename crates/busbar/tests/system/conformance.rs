//! `busbar conformance`, driven as CAP's conformance kit drives it: every case passes, and each fails when its rule is switched off.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

/// The kit's cases for a control plane, with its parameters.
fn cases() -> Vec<(&'static str, Value)> {
    let stale = json!({"attempt": "1", "activeAttempt": "2", "dispatchId": "dsp-1"});
    vec![
        ("lifecycle/cp-pending-to-scheduled", json!({})),
        ("lifecycle/cp-scheduled-to-dispatched", json!({})),
        ("lifecycle/cp-scheduled-to-denied", json!({})),
        ("lifecycle/cp-dispatched-to-timeout", json!({})),
        ("lifecycle/cp-rejects-backwards-transition", json!({})),
        ("cancellation/cp-cancel-from-pending", json!({})),
        ("cancellation/cp-cancel-from-running", json!({})),
        ("cancellation/cp-rejects-cancel-after-terminal", json!({})),
        ("safety/allow-precedes-dispatch", json!({"decision": "ALLOW"})),
        ("safety/deny-blocks-dispatch", json!({"decision": "DENY"})),
        ("safety/require-human-pauses-dispatch", json!({"decision": "REQUIRE_HUMAN"})),
        ("safety/throttle-blocks-immediate-dispatch", json!({"decision": "THROTTLE"})),
        ("negotiation/selects-highest-common-version", json!({"cpVersions": "1,2,3", "workerVersions": "2,3", "expect": "3"})),
        ("negotiation/rejects-when-no-common-version", json!({"cpVersions": "3", "workerVersions": "1,2"})),
        (
            "negotiation/required-capability-filters-dispatch",
            json!({"requiredCapability": "vision", "workerCapabilities": "text,audio"}),
        ),
        ("negotiation/ready-topics-filters-dispatch", json!({"jobTopic": "pool.z", "readyTopics": "pool.a,pool.b"})),
        ("negotiation/missing-ready-topics-is-unspecified-not-error", json!({"jobTopic": "pool.a"})),
        ("retries/cp-ignores-stale-attempt-result", stale.clone()),
        ("retries/cp-ignores-stale-attempt-progress", stale.clone()),
        ("retries/cp-ignores-stale-attempt-cancel", stale),
        ("duplicates/cp-duplicate-result-applies-once", json!({"attempt": "1", "deliveries": "2"})),
    ]
}

/// One conversation: the status and the detail of each case.
fn play(without: Option<&str>, cases: &[(&str, Value)]) -> Vec<(String, String)> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_busbar"));
    command.arg("conformance").args(without.iter().flat_map(|name| ["--without", name]));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut to = child.stdin.take().unwrap();
    let mut from = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut ask = |asked: &Value| -> Value {
        writeln!(to, "{asked}").unwrap();
        serde_json::from_str(&from.next().expect("an answer").unwrap()).unwrap()
    };
    let hello = ask(&json!({"type": "hello"}));
    assert_eq!((&hello["protocolVersion"], &hello["role"]), (&json!(1), &json!("control-plane")), "{hello}");
    let answers = cases.iter().map(|(name, params)| {
        let told = ask(&json!({"type": "run", "id": name, "scenario": name, "params": params}));
        assert_eq!((&told["type"], &told["id"]), (&json!("result"), &json!(name)), "{told}");
        let text = |field: &str| told[field].as_str().unwrap_or_default().to_owned();
        (text("status"), text("detail"))
    });
    let answers = answers.collect();
    drop(to);
    assert!(child.wait().unwrap().success());
    answers
}

#[test]
fn every_case_passes_and_fails_without_its_rule() {
    let cases = cases();
    for ((name, _), (status, detail)) in cases.iter().zip(play(None, &cases)) {
        assert_eq!(status, "PASS", "{name}: {detail}");
    }
    for case in &cases {
        let (name, _) = case;
        let answers = play(Some(name), std::slice::from_ref(case));
        assert_eq!(answers[0].0, "FAIL", "{name} passes without its rule");
    }
}

#[test]
fn a_case_that_cannot_be_read_is_an_error_and_an_unknown_one_unsupported() {
    let asked = [("retries/cp-ignores-stale-attempt-result", json!({"attempt": "one"})), ("lifecycle/cp-dances", json!({}))];
    let statuses: Vec<_> = play(None, &asked).into_iter().map(|(status, _)| status).collect();
    assert_eq!(statuses, ["ERROR", "UNSUPPORTED"]);
}
