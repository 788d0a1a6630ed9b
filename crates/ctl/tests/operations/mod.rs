//! What operators do: explanations, pauses, drains, blocks, dead letters, limits.

use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use crate::{Gateway, problem, stderr, stdout};

const AT: &str = "2026-11-21T09:30:00.000Z";

/// How many more times the worker is seen to hold an attempt.
static HELD: AtomicU32 = AtomicU32::new(2);

/// The answer, where it is one of these.
pub(crate) fn answer(method: &str, path: &str, query: &str, body: &[u8]) -> Option<(u16, Value)> {
    let parts: Vec<&str> = path.strip_prefix("/api/v1/")?.split('/').collect();
    let body = || serde_json::from_slice::<Value>(body).expect("JSON");
    Some(match (method, &parts[..]) {
        ("GET", ["jobs", "j7", "explain"]) => (200, explanation()),
        ("GET", ["jobs", "j8", "explain"]) => (200, ended()),
        ("GET", ["pauses"]) => (200, json!({"items": [pause("topic", "job.a", &json!({"reason": "down"}))]})),
        ("PUT", ["pauses", scope, name]) => (200, pause(scope, &name.replace("%20", " "), &body())),
        ("DELETE", ["pauses", ..]) => (200, json!({"items": []})),
        ("GET", ["workers"]) => (200, workers()),
        ("POST", ["workers", id, "drain"]) => {
            (200, json!({"worker_id": id, "since": AT, "reason": body()["reason"].as_str().unwrap_or_default(), "set_by": "ops"}))
        }
        ("DELETE", ["workers", _, "drain" | "block"]) => (200, json!({"items": []})),
        ("PUT", ["workers", "nobody", "block"]) => problem(422, "field_invalid", "worker: no"),
        ("PUT", ["workers", id, "block"]) => (200, pause("worker", id, &body())),
        ("GET", ["dlq"]) if query.contains("cursor=c1") => (200, json!({"items": [letter("d2")], "next_cursor": null})),
        ("GET", ["dlq"]) => {
            assert!(query.contains("reason_code=worker_lost&redriven=false"), "{query}");
            (200, json!({"items": [letter("d1")], "next_cursor": "c1"}))
        }
        ("GET", ["jobs", id, "dead-letter"]) => (200, whole(id)),
        ("POST", ["dlq", "redrive"]) => (202, redriven(&body())),
        ("POST", ["dlq", id, "redrive"]) => {
            let new = if body()["input"].is_null() { format!("{id}.d1") } else { "edited".to_owned() };
            (202, json!({"redrive_of": id, "job": {"job_id": new, "trace_id": "t", "state": "SCHEDULED"}}))
        }
        ("DELETE", ["jobs", _, "dead-letter"]) => (204, Value::Null),
        ("GET", ["limits"]) => (200, limits()),
        ("PUT", ["limits"]) => (200, json!({"revision": 8, "tenants": body()["tenants"], "topics": []})),
        ("PUT", ["limits", "tenants", "acme"]) => {
            let expected = json!({"tenant_id": "acme", "weight": 2, "concurrency_max": 5, "starts": {"count": 10, "burst": 20}});
            assert_eq!(body(), expected);
            (200, json!({"revision": 8}))
        }
        ("PUT", ["limits", "topics", "job.%2A"]) => {
            let key = json!({"strategy": "cancel_oldest", "concurrency_max": 2});
            assert_eq!(body(), json!({"topic": "job.*", "backlog_max": 9, "key": key}));
            (200, json!({"revision": 8}))
        }
        ("PUT", ["limits", ..]) => problem(412, "revision_changed", "again"),
        ("DELETE", ["limits", ..]) => (200, json!({"revision": 9})),
        _ => return None,
    })
}

fn letter(id: &str) -> Value {
    json!({"job_id": id, "topic": "job.a", "tenant_id": "acme", "trace_id": "t", "state": "FAILED", "reason_code": "worker_lost",
        "reason": "it is gone", "attempts": 3, "crashes": 2, "dead_at": AT, "redriven_as": null, "redriven_at": null,
        "redrive_of": null})
}

fn whole(id: &str) -> Value {
    json!({"letter": letter(id), "priority": "batch", "labels": {"a": "b"}, "requires": [], "max_attempts": 3, "deadline_ms": null,
        "concurrency_key": "k", "parent_job_id": null, "module": null, "input_ptr": "redis://ctx:x", "input_bytes": 9,
        "input": {"n": 1}})
}

/// Two pages; the last dead job cannot be tried again.
fn redriven(body: &Value) -> Value {
    assert_eq!(body["per_second"], 5);
    if body["cursor"].is_null() {
        return json!({"redriven": 2, "job_ids": ["a", "b"], "redriven_as": ["a.d1", "b.d1"], "rejected": [], "last_start": AT,
            "next_cursor": "c1"});
    }
    let rejected = json!([{"index": 0, "code": "backlog_full", "detail": "too many"}]);
    json!({"redriven": 0, "job_ids": ["c"], "redriven_as": [null], "rejected": rejected, "last_start": null, "next_cursor": null})
}

fn limits() -> Value {
    json!({"revision": 7, "tenants": [{"tenant_id": "acme", "weight": 2, "backlog_max": 100, "starts": {"count": 1}}],
        "topics": [{"topic": "job.*", "backlog_max": 9, "key": {"strategy": "reject", "concurrency_max": 2}}]})
}

fn explanation() -> Value {
    let gate = |name: &str, state: &str, spent_ms: u64, workers: Value| {
        json!({"name": name, "state": state, "detail": format!("{name} it is"), "spent_ms": spent_ms, "opens_at": null,
            "workers": workers})
    };
    let full = json!([{"worker_id": "w1", "verdict": "full", "detail": "8 of 8"}]);
    let gates = json!([gate("policy", "passed", 12, json!([])), gate("worker", "waits", 61_000, full)]);
    json!({"id": "j7", "state": "SCHEDULED", "summary": "It waits for a free worker.", "gates": gates, "at": AT, "end": null})
}

fn ended() -> Value {
    let end = json!({"at": AT, "attempts": 3, "max_attempts": 3, "worker_id": "w1", "crashes": 3, "error_code": "job_quarantined",
        "error_message": null, "decision": null});
    json!({"id": "j8", "state": "FAILED", "summary": "It failed in attempt 3 of 3.", "gates": [], "at": AT, "end": end})
}

fn pause(scope: &str, name: &str, body: &Value) -> Value {
    let until = if body["for_ms"].is_number() { json!(AT) } else { body["until"].clone() };
    json!({"scope": scope, "name": name, "since": AT, "until": until, "reason": body["reason"].as_str().unwrap_or_default(),
        "set_by": "ops"})
}

fn workers() -> Value {
    let held = HELD.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |held| held.checked_sub(1)).unwrap_or(0).min(1);
    json!({"items": [{"id": "w1", "kind": "native", "pool": "default", "status": "draining", "reason": "new disk", "capacity": 8,
        "in_flight": held, "last_seen_at": AT, "prefetch": 2, "type": "gpu"}]})
}

#[test]
fn a_job_is_explained_gate_by_gate() {
    let gateway = Gateway::start(false);
    let told = stdout(&gateway.ctl(&["job", "explain", "j7"]));
    let lines: Vec<Vec<&str>> = told.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["j7", "SCHEDULED"]);
    assert_eq!(told.lines().nth(1), Some("It waits for a free worker."));
    assert!(lines.contains(&vec!["policy", "passed", "12", "ms", "policy", "it", "is"]), "{told}");
    assert!(lines.contains(&vec!["worker", "WAITS", "1", "min", "1", "s", "worker", "it", "is"]), "{told}");
    assert!(lines.contains(&vec!["w1", "full", "8", "of", "8"]), "{told}");
    let told = stdout(&gateway.ctl(&["job", "explain", "j8"]));
    assert!(told.contains("It failed in attempt 3 of 3.") && told.contains("job_quarantined"), "{told}");
    let json: Value = serde_json::from_str(&stdout(&gateway.ctl(&["job", "explain", "j7", "-o", "json"]))).expect("JSON");
    assert_eq!(json["gates"][1]["workers"][0]["verdict"], "full");
}

#[test]
fn things_are_paused_and_resumed() {
    let gateway = Gateway::start(false);
    let set = |args: &[&str]| gateway.ctl(&[&["pause", "set"], args].concat());
    assert_eq!(stdout(&set(&["pool", "default"])), "pool default is paused until it is lifted\n");
    assert_eq!(stdout(&set(&["key", "acme job.a k", "--for", "10m"])), format!("key acme job.a k is paused until {AT}\n"));
    let output = set(&["topic", "job.a", "--until", "2027-01-01T00:00:00Z", "--reason", "why", "-o", "json"]);
    let pause: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    assert_eq!((&pause["until"], &pause["reason"]), (&json!("2027-01-01T00:00:00Z"), &json!("why")));
    for bad in [&["cell", "x"][..], &["pool", "p", "--for", "soon"], &["pool", "p", "--for", "1s", "--until", "x"]] {
        assert_eq!(set(bad).status.code(), Some(2), "{bad:?}");
    }
    let listed = stdout(&gateway.ctl(&["pause", "list"]));
    assert!(listed.contains("job.a") && listed.contains("down"), "{listed}");
    assert_eq!(stdout(&gateway.ctl(&["pause", "lift", "topic", "job.a"])), "nothing is paused\n");
}

#[test]
fn workers_are_drained_and_blocked() {
    let gateway = Gateway::start(false);
    let output = gateway.ctl(&["worker", "drain", "w1", "--wait", "--reason", "new disk"]);
    assert_eq!(stdout(&output), "worker w1 drains, and holds nothing\n", "{}", stderr(&output));
    let listed = stdout(&gateway.ctl(&["worker", "list"]));
    assert!(listed.contains("draining (new disk)") && listed.contains("gpu"), "{listed}");
    assert_eq!(stdout(&gateway.ctl(&["worker", "drain", "w1"])), "worker w1 drains\n");
    assert_eq!(stdout(&gateway.ctl(&["worker", "undrain", "w1"])), "worker w1 gets work again\n");
    let output = gateway.ctl(&["worker", "block", "w1", "--for", "1h"]);
    assert_eq!(stdout(&output), format!("worker w1 is paused until {AT}\n"));
    assert_eq!(stdout(&gateway.ctl(&["worker", "unblock", "w1"])), "worker w1 gets work again\n");
    assert!(stderr(&gateway.ctl(&["worker", "block", "nobody"])).starts_with("error: field_invalid"));
}

#[test]
fn dead_letters_are_looked_at_and_tried_again() {
    let gateway = Gateway::start(false);
    let output = gateway.ctl(&["dlq", "list", "--reason-code", "worker_lost", "--redriven", "false"]);
    assert_eq!(stdout(&output).lines().count(), 3, "{}{}", stdout(&output), stderr(&output));
    let shown = stdout(&gateway.ctl(&["dlq", "show", "d1"]));
    assert!(shown.contains("3 of 3") && shown.contains(r#"{"n":1}"#), "{shown}");
    assert_eq!(stdout(&gateway.ctl(&["dlq", "redrive", "d1"])), "d1 is tried again as d1.d1  SCHEDULED\n");
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("input.json");
    std::fs::write(&file, r#"{"n":2}"#).expect("written");
    let output = gateway.ctl(&["dlq", "redrive", "d1", "--input", file.to_str().expect("a path")]);
    assert_eq!(stdout(&output), "d1 is tried again as edited  SCHEDULED\n", "{}", stderr(&output));
    assert_eq!(stdout(&gateway.ctl(&["dlq", "discard", "d1"])), "d1 is thrown away\n");
    let output = gateway.ctl(&["dlq", "redrive", "--all", "--rate", "5"]);
    assert_eq!(stdout(&output), format!("2 jobs tried again, the last of them starts at {AT}\n"));
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("1 of 3 were rejected, the first with backlog_full"), "{}", stderr(&output));
    for bad in [&["dlq", "redrive"][..], &["dlq", "redrive", "d1", "--all"], &["dlq", "redrive", "d1", "--rate", "5"]] {
        assert_eq!(gateway.ctl(bad).status.code(), Some(2), "{bad:?}");
    }
}

#[test]
fn limits_are_shown_and_changed_in_part() {
    let gateway = Gateway::start(false);
    let shown = stdout(&gateway.ctl(&["limits", "get"]));
    assert!(shown.starts_with("revision 7\n") && shown.contains("2 at once, reject"), "{shown}");
    let tenant = ["limits", "tenant", "acme", "--concurrency", "5", "--backlog", "0", "--starts", "10/s:20"];
    let output = gateway.ctl(&tenant);
    assert_eq!(stdout(&output), "set, revision 8\n", "{}", stderr(&output));
    let output = gateway.ctl(&["limits", "topic", "job.*", "--key-strategy", "cancel_oldest"]);
    assert_eq!(stdout(&output), "set, revision 8\n", "{}", stderr(&output));
    assert_eq!(stdout(&gateway.ctl(&["limits", "tenant", "acme", "--unset"])), "unset, revision 9\n");
    let output = gateway.ctl(&["limits", "tenant", "other", "--weight", "3"]);
    assert!(stderr(&output).starts_with("error: revision_changed"), "after so many tries: {}", stderr(&output));
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("limits.yaml");
    std::fs::write(&file, "revision: 7\ntenants: [{tenant_id: b, weight: 4}]\n").expect("written");
    assert!(stdout(&gateway.ctl(&["limits", "set", file.to_str().expect("a path")])).starts_with("revision 8\n"));
    assert_eq!(gateway.ctl(&["limits", "tenant", "acme", "--starts", "fast"]).status.code(), Some(2));
}
