//! `ctl` as a process, against a gateway of a few lines that knows all answers: what it prints, and how it exits.

mod operations;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Jobs by id: topic and input.
type Jobs = Arc<Mutex<BTreeMap<String, (String, Value)>>>;

/// A gateway whose jobs end at once, with results that are known beforehand.
struct Gateway {
    url: String,
}

impl Gateway {
    /// `one_off` makes one count of primes wrong.
    fn start(one_off: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let jobs = Jobs::default();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, jobs) = (stream.expect("a connection"), jobs.clone());
                std::thread::spawn(move || serve(stream, &jobs, one_off));
            }
        });
        Self { url }
    }

    fn ctl(&self, args: &[&str]) -> Output {
        ctl(&[&["--url", &self.url, "--api-key", "k"], args].concat())
    }
}

fn ctl(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ctl"));
    for name in ["BUSBAR_ENDPOINTS", "BUSBAR_API_KEY", "XDG_STATE_HOME"] {
        command.env_remove(name);
    }
    command.args(args).env("HOME", "/nonexistent").output().expect("ctl runs")
}

/// Answers the requests of one connection.
fn serve(mut stream: TcpStream, jobs: &Jobs, one_off: bool) {
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    while let Some((line, key, body)) = read(&mut reader) {
        let mut parts = line.split(' ');
        let (method, path) = (parts.next().expect("a method"), parts.next().expect("a path"));
        let query = path.split_once('?').map_or("", |(_, query)| query).to_owned();
        let path = path.split('?').next().expect("a path");
        if path == "/api/v1/stream/sse" {
            follow(&mut stream, &query, jobs);
            return;
        }
        let refusal = || problem(401, "unauthenticated", "no key");
        let known =
            || operations::answer(method, path, &query, &body).unwrap_or_else(|| answer(method, path, &body, jobs, one_off));
        let (status, answer) = if key { known() } else { refusal() };
        let kind = if status < 300 { "application/json" } else { "application/problem+json" };
        let text = answer.to_string();
        let head = format!("HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n", text.len());
        if stream.write_all(format!("{head}{text}").as_bytes()).is_err() {
            return;
        }
    }
}

/// One request: its first line, whether it has the key, its body.
fn read(reader: &mut BufReader<TcpStream>) -> Option<(String, bool, Vec<u8>)> {
    let (mut first, mut key, mut length, mut chunked) = (String::new(), false, 0, false);
    reader.read_line(&mut first).ok().filter(|bytes| *bytes > 0)?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim().to_lowercase();
        match line.split_once(": ") {
            None => break,
            Some(("content-length", value)) => length = value.parse().expect("a number"),
            Some(("transfer-encoding", value)) => chunked = value == "chunked",
            Some(("x-api-key", value)) => key = value == "k",
            Some(_) => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    while chunked {
        let mut size = String::new();
        reader.read_line(&mut size).ok()?;
        let size = usize::from_str_radix(size.trim(), 16).expect("a size");
        let mut chunk = vec![0; size + 2];
        reader.read_exact(&mut chunk).ok()?;
        body.extend_from_slice(&chunk[..size]);
        chunked = size > 0;
    }
    Some((first, key, body))
}

/// Runs have ended before anybody looks, and jobs end as soon as they come. Whoever names the job j0 sees its whole life.
fn follow(stream: &mut TcpStream, query: &str, jobs: &Jobs) {
    let events = if query.contains("kind=run") {
        stream_of(&[
            json!({"cursor": "c0"}),
            json!({"cursor": "c0", "snapshot_end": {"jobs": 0, "runs": 0, "workers": 0, "complete": true}}),
        ])
    } else if query.contains("snapshot=false") {
        stream_of(&[json!({"cursor": "c0"})])
    } else {
        // It breaks after every few frames; whoever comes again says where it was.
        events(query)
    };
    let mut told = 0;
    let began = Instant::now();
    let mut written = stream.write_all(events.as_bytes());
    while query.contains("snapshot=false") && written.is_ok() && began.elapsed() < Duration::from_secs(30) {
        let count = jobs.lock().expect("not poisoned").len();
        let ends = (told..count)
            .map(|n| json!({"cursor": "c", "subject": "busbar.job.event", "event": change(&format!("j{n}"), "SUCCEEDED")}));
        written = stream.write_all(ends.map(|frame| format!("data: {frame}\n\n")).collect::<String>().as_bytes());
        told = count;
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn stream_of(frames: &[Value]) -> String {
    let events: String = frames.iter().map(|frame| format!("data: {frame}\n\n")).collect();
    format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n{events}")
}

fn change(job_id: &str, state: &str) -> Value {
    json!({"job_id": job_id, "topic": "job.echo", "state": state, "states": [state], "at": "2026-11-21T09:30:00.000Z", "attempt": 1,
        "worker_id": "w1", "error_code": null, "error_message": null, "result_ptr": null, "execution_ms": null, "trace_id": "t"})
}

/// The life of the job j0, a part of it per connection: the cursor counts what was told.
fn events(query: &str) -> String {
    let told = query.split('&').find_map(|pair| pair.strip_prefix("cursor=c")).map_or(0, |n| n.parse().expect("a number"));
    let change = |state: &str| change("j0", state);
    let mut frames = Vec::new();
    if told == 0 {
        frames.push(json!({"cursor": "c0"}));
        frames.push(json!({"snapshot": true, "subject": "busbar.job.event", "event": change("SCHEDULED")}));
        frames.push(json!({"cursor": "c1", "snapshot_end": {"jobs": 1, "runs": 0, "workers": 0, "complete": true}}));
    }
    let progress = json!({"senderId": "w1", "jobProgress": {"jobId": "j0", "percent": 40}});
    let life = [
        json!({"cursor": "c2", "subject": "busbar.job.event", "event": change("RUNNING")}),
        json!({"cursor": "c3", "subject": "sys.job.progress", "packet": progress}),
        json!({"cursor": "c4", "subject": "busbar.job.event", "event": change("SUCCEEDED")}),
    ];
    frames.extend(life.into_iter().skip(usize::saturating_sub(told, 1)).take(2));
    stream_of(&frames)
}

fn problem(status: u16, code: &str, detail: &str) -> (u16, Value) {
    (status, json!({"type": "x", "title": code, "status": status, "detail": detail, "code": code}))
}

fn answer(method: &str, path: &str, body: &[u8], jobs: &Jobs, one_off: bool) -> (u16, Value) {
    let parts: Vec<&str> = path.trim_start_matches("/api/v1/").split('/').collect();
    let known = || jobs.lock().expect("not poisoned").clone();
    match (method, parts.as_slice()) {
        ("POST", ["jobs"]) => match admit(&serde_json::from_slice(body).expect("JSON"), jobs) {
            Ok(id) => (202, json!({"job_id": id, "trace_id": "t", "state": "SCHEDULED"})),
            Err(refusal) => refusal,
        },
        ("POST", ["jobs", "batch"]) => {
            let batch: Value = serde_json::from_slice(body).expect("JSON");
            let submitted = batch["jobs"].as_array().expect("jobs");
            let ids: Vec<String> = submitted.iter().map(|job| admit(job, jobs).expect("a good job")).collect();
            (202, json!({"job_ids": ids, "rejected": []}))
        }
        ("GET", ["jobs"]) => {
            let items: Vec<Value> = known().iter().map(|(id, job)| view(id, job)).collect();
            (200, json!({"items": items, "next_cursor": null}))
        }
        ("GET", ["jobs", id]) => match known().get(*id) {
            Some(job) => (200, view(id, job)),
            None => problem(404, "job_not_found", "no such job"),
        },
        ("GET", ["jobs", "shard", "result"]) => (200, json!({"words": 3, "distinct": 2, "counts": {"a": 2, "b": 1}})),
        ("GET", ["jobs", id, "result"]) => (200, view(id, &known()[*id])["result"].clone()),
        ("GET", ["jobs", id, "logs"]) => (200, json!({"id": id, "attempts": [{"attempt": 1, "lines": ["first", "second"]}]})),
        ("POST", ["jobs", id, "cancel"]) => (200, json!({"id": id, "state": "SUCCEEDED", "reason": "job already terminal"})),
        ("POST", ["workflows"]) => {
            let document: Value = serde_json::from_slice(body).expect("JSON");
            (201, json!({"id": document["id"], "version": 1}))
        }
        ("GET", ["workflows"]) => (200, json!({"items": [workflow(false)], "next_cursor": null})),
        ("GET", ["workflows", "words"]) => (200, workflow(true)),
        ("DELETE", ["workflows", "words"]) => problem(409, "workflow_in_use", "1 run of it is live"),
        ("POST", ["workflows", "words", "runs"]) => {
            (202, json!({"run_id": "r1", "state": "RUNNING", "workflow_id": "words", "version": 1}))
        }
        ("POST", ["workflows", workflow, "runs"]) => {
            let id = format!("d{}", known().len());
            let input = serde_json::from_slice(body).expect("JSON");
            jobs.lock().expect("not poisoned").insert(id.clone(), ((*workflow).to_owned(), input));
            (202, json!({"run_id": id, "state": "RUNNING", "workflow_id": workflow, "version": 1}))
        }
        ("GET", ["workflow-runs", id]) if known().contains_key(*id) => (200, demo_run(id, &known()[*id], one_off)),
        ("GET", ["workflow-runs"]) => (200, json!({"items": [run("r1", false)], "next_cursor": null})),
        ("GET", ["workflow-runs", id]) => (200, run(id, true)),
        ("GET", ["workflow-runs", _, "output"]) => (200, json!({"words": 3})),
        ("GET", ["workflow-runs", _, "timeline"]) => (200, timeline()),
        ("POST", ["workflow-runs", id, "pause"]) => (200, json!({"run_id": id, "state": "PAUSED"})),
        ("POST", ["workflow-runs", id, "resume"]) => (200, json!({"run_id": id, "state": "RUNNING"})),
        ("POST", ["workflow-runs", _, "cancel"]) => problem(409, "run_terminal", "run r1 has ended already"),
        ("GET", ["status"]) => (200, status()),
        ("POST", ["artifacts"]) => (201, json!({"artifact_id": "a1", "sha256": "x", "size_bytes": body.len(), "name": "n"})),
        _ => problem(404, "not_found", "nothing"),
    }
}

fn workflow(whole: bool) -> Value {
    let mut view = json!({"id": "words", "version": 1, "newest": 2, "title": "Count words", "description": "", "pack": null,
        "created_at": "2026-11-21T09:30:00.000Z", "created_by": "ci"});
    if whole {
        view["document"] = json!({"id": "words", "steps": {}});
    }
    view
}

/// The run `r1` has succeeded, every other one has failed.
fn run(id: &str, whole: bool) -> Value {
    let good = id == "r1";
    let error = json!({"code": "step_failed", "message": "it failed", "step": "map"});
    let mut view = json!({"run_id": id, "workflow_id": "words", "version": 1, "state": if good { "SUCCEEDED" } else { "FAILED" },
        "created_at": "2026-11-21T09:30:00.000Z", "ended_at": "2026-11-21T09:30:01.000Z", "error": if good { Value::Null } else { error },
        "output": null, "output_bytes": null, "labels": {}, "trace_id": "t"});
    if whole {
        view["steps"] = json!([{"id": "map", "type": "for_each", "state": "SUCCEEDED", "attempts": 0, "job_id": null, "started_at": null,
            "ended_at": null, "error": null, "items": {"total": 3, "succeeded": 3, "failed": 0, "running": 0}}]);
    }
    view
}

/// A run of the demo, with its output.
fn demo_run(id: &str, (workflow, input): &(String, Value), one_off: bool) -> Value {
    let mut view = run("r1", false);
    view["run_id"] = json!(id);
    view["output"] = match workflow.as_str() {
        "bpsw.search" => primes(input, one_off),
        _ => json!({"words": 3, "distinct": 2, "top": [{"word": "a", "count": 2}, {"word": "b", "count": 1}],
            "sums": [{"artifact": "shard", "bytes": 9}]}),
    };
    view
}

fn timeline() -> Value {
    let at = "2026-11-21T09:30:00.000Z";
    let items = json!([{"at": at, "cursor": "1-0", "state": "RUNNING"},
        {"at": at, "cursor": "1-0", "step": "map", "item": 0, "step_state": "RUNNING", "attempt": 1, "job_id": "r1:map[0]@1"}]);
    json!({"items": items, "next_cursor": "1-0"})
}

fn status() -> Value {
    json!({"time": "2026-11-21T09:30:00.000Z", "version": "x", "uptime_seconds": 1, "bus": {"connected": true, "connections": 1},
        "store": {"ok": true}, "workers": {"count": 1, "capacity": 4, "in_flight": 2},
        "scheduler": {"owner": "s", "epoch": 1, "started_at": "x", "snapshot": "x", "live": {"RUNNING": 7}}})
}

fn admit(job: &Value, jobs: &Jobs) -> Result<String, (u16, Value)> {
    let topic = job["topic"].as_str().expect("a topic").to_owned();
    if topic == "job.none" {
        return Err(problem(422, "unknown_topic", "no topic document matches job.none"));
    }
    let mut jobs = jobs.lock().expect("not poisoned");
    let id = format!("j{}", jobs.len());
    jobs.insert(id.clone(), (topic, job["input"].clone()));
    Ok(id)
}

fn view(id: &str, (topic, input): &(String, Value)) -> Value {
    let failed = topic == "job.fails";
    json!({
        "id": id, "state": if failed { "FAILED" } else { "SUCCEEDED" }, "topic": topic, "attempts": 1, "worker_id": "w1",
        "created_at": "2026-11-21T09:30:00.000Z", "updated_at": "2026-11-21T09:30:00.250Z",
        "result_ptr": if failed { Value::Null } else { json!(format!("redis://res:{id}:1")) },
        "result": if failed { Value::Null } else { input.clone() },
        "error_code": if failed { json!("limit_cpu") } else { Value::Null }, "error_message": null
    })
}

/// What is known of a range.
fn primes(input: &Value, one_off: bool) -> Value {
    let number = |name: &str| input[name].as_str().expect("a text").parse::<u128>().expect("decimal");
    let (from, to) = (number("from"), number("to"));
    let (primes, spsp2, slpsp) = match from {
        3 => (78_497, 46, 58),
        1_000_000_000_000 => (36_249, 0, 0),
        1_000_000_000_000_000 => (28_845, 0, 0),
        1_000_000_000_000_000_000 => (24_280, 0, 0),
        9_223_372_036_854_775_808 => (22_920 - u32::from(one_off), 0, 0),
        100_000_000_000_000_000_001 => (419, 0, 0),
        _ => (0, 0, 0),
    };
    let checked = u64::try_from(to.div_ceil(2) - from / 2).expect("few");
    json!({"parts": 20, "checked": checked, "primes": primes, "spsp2": spsp2, "slpsp": slpsp, "counterexamples": []})
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_job_is_submitted_and_looked_at() {
    let gateway = Gateway::start(false);
    let output = gateway.ctl(&["job", "submit", "job.echo", "--input", r#"{"a": 1}"#, "--wait", "-o", "json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let view: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    assert_eq!((&view["state"], &view["result"]), (&json!("SUCCEEDED"), &json!({"a": 1})));
    let output = gateway.ctl(&["job", "get", "j0"]);
    assert!(
        stdout(&output).lines().any(|line| line.starts_with("state ") && line.ends_with(" SUCCEEDED")),
        "{}",
        stdout(&output)
    );
    assert_eq!(stdout(&gateway.ctl(&["job", "result", "j0"])), r#"{"a":1}"#);
    assert_eq!(stdout(&gateway.ctl(&["job", "logs", "j0"])), "first\nsecond\n");
    let watched = stdout(&gateway.ctl(&["job", "watch", "j0"]));
    let words: Vec<&str> = watched.lines().filter_map(|line| line.split_whitespace().nth(3)).collect();
    assert_eq!(words, ["SCHEDULED", "RUNNING", "40", "SUCCEEDED"], "over a cut, each once: {watched}");
    let frames = stdout(&gateway.ctl(&["job", "watch", "j0", "-o", "json"]));
    let cursors: Vec<Value> =
        frames.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")["cursor"].clone()).collect();
    assert_eq!(cursors, [json!(null), json!("c2"), json!("c3"), json!("c4")]);
    let top = gateway.ctl(&["top", "--once"]);
    let picture = stdout(&top);
    for part in ["live jobs", "RUNNING 7", "2 of 4 busy", "job.echo"] {
        assert!(picture.contains(part), "{part} in {picture}{}", stderr(&top));
    }
    assert!(stdout(&gateway.ctl(&["job", "cancel", "j0"])).contains("job already terminal"));
    let output = gateway.ctl(&["job", "submit", "job.echo", "--count", "3"]);
    assert_eq!(stdout(&output), "j1\nj2\nj3\n");
    assert_eq!(stdout(&gateway.ctl(&["job", "list"])).lines().count(), 5);
}

#[test]
fn workflows_are_saved_and_looked_at() {
    let gateway = Gateway::start(false);
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("words.yaml");
    std::fs::write(&file, "id: words\nsteps: {}\n").expect("written");
    let output = gateway.ctl(&["workflow", "save", file.to_str().expect("a path")]);
    assert_eq!(stdout(&output), "words  version 1\n", "{}", stderr(&output));
    assert!(stdout(&gateway.ctl(&["workflow", "list"])).contains("Count words"));
    let shown = stdout(&gateway.ctl(&["workflow", "show", "words", "--version", "1"]));
    assert!(shown.contains("1 of 2") && shown.contains(r#""id": "words""#), "{shown}");
    let output = gateway.ctl(&["workflow", "delete", "words"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("error: workflow_in_use: 1 run of it is live\nhint: "), "{}", stderr(&output));
    assert_eq!(gateway.ctl(&["workflow", "save", "/no/such/file"]).status.code(), Some(2));
}

#[test]
fn runs_are_started_followed_and_told() {
    let gateway = Gateway::start(false);
    assert_eq!(stdout(&gateway.ctl(&["run", "start", "words", "--input", "{}"])), "r1  RUNNING\n");
    let output = gateway.ctl(&["run", "start", "words", "--wait", "-o", "json", "--idempotency-key", "k", "--label", "a=b"]);
    let view: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    assert_eq!((output.status.code(), &view["state"]), (Some(0), &json!("SUCCEEDED")));
    assert!(stdout(&gateway.ctl(&["run", "list", "--state", "succeeded"])).contains("r1"));
    let shown = stdout(&gateway.ctl(&["run", "show", "r1"]));
    assert!(shown.contains("words version 1") && shown.contains("for_each") && shown.contains("3/3"), "{shown}");
    let watched = stdout(&gateway.ctl(&["run", "watch", "r1"]));
    assert!(watched.lines().last().is_some_and(|line| line.contains("run") && line.ends_with("SUCCEEDED")), "{watched}");
    let told = stdout(&gateway.ctl(&["run", "timeline", "r1"]));
    assert!(told.contains("map[0]") && told.lines().count() == 3, "{told}");
    assert_eq!(stdout(&gateway.ctl(&["run", "pause", "r1"])), "r1  PAUSED\n");
    assert_eq!(stdout(&gateway.ctl(&["run", "resume", "r1"])), "r1  RUNNING\n");
    assert_eq!(stdout(&gateway.ctl(&["run", "output", "r1"])), r#"{"words":3}"#);
    assert!(stderr(&gateway.ctl(&["run", "cancel", "r1"])).starts_with("error: run_terminal"));
    let output = gateway.ctl(&["run", "watch", "r2"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("the run r2 ended as FAILED: step_failed: it failed"), "{}", stderr(&output));
    assert_eq!(gateway.ctl(&["run", "list", "--state", "PENDING"]).status.code(), Some(2));
}

#[test]
fn hunts_are_started_held_and_listed() {
    let gateway = Gateway::start(false);
    let started = gateway.ctl(&["hunt", "bpsw", "--no-watch"]);
    assert_eq!(stdout(&started), "d0  RUNNING\n", "{}", stderr(&started));
    assert_eq!(stdout(&gateway.ctl(&["hunt", "pause", "d0"])), "d0  PAUSED\n");
    assert_eq!(stdout(&gateway.ctl(&["hunt", "resume", "d0"])), "d0  RUNNING\n");
    assert!(stdout(&gateway.ctl(&["hunt", "list"])).contains("r1"));
    assert!(stderr(&gateway.ctl(&["hunt", "cancel", "r1"])).starts_with("error: run_terminal"));
    for wrong in [&["--from", "9", "--to", "3"][..], &["--kind", "chernick", "--census"], &["--from", "1e9"], &["--kind", "all"]]
    {
        let output = gateway.ctl(&[&["hunt", "bpsw"], wrong].concat());
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn what_is_refused_is_told_with_code_detail_and_hint() {
    let gateway = Gateway::start(false);
    let output = gateway.ctl(&["job", "submit", "job.none"]);
    assert_eq!(output.status.code(), Some(1));
    let told = stderr(&output);
    assert!(told.starts_with("error: unknown_topic: no topic document matches job.none\nhint: Check the spelling"), "{told}");
    let output = gateway.ctl(&["job", "submit", "job.fails", "--wait"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("the job j0 ended as FAILED: limit_cpu"), "{}", stderr(&output));
    let output = ctl(&["--url", &gateway.url, "job", "list"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("error: unauthenticated"), "{}", stderr(&output));
}

#[test]
fn wrong_usage_and_a_missing_stack_differ() {
    for args in [
        &["job", "get"][..],
        &["job", "list", "--state", "BLOCKED"],
        &["job", "submit", "t", "--input", "{"],
        &["job", "watch"],
        &["x"],
    ] {
        let all = [args, &["--url", "http://127.0.0.1:1"]].concat();
        assert_eq!(ctl(&all).status.code(), Some(2), "{args:?}");
    }
    let output = ctl(&["status"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("/nonexistent/.local/state/busbar/dev/endpoints.json"), "{}", stderr(&output));
    let output = ctl(&["status", "--url", "http://127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("error: no answer from http://127.0.0.1:1"), "{}", stderr(&output));
}

#[test]
fn codes_are_explained_without_a_stack() {
    let output = ctl(&["explain", "unknown_topic"]);
    assert!(output.status.success() && stdout(&output).starts_with("# unknown_topic\n"), "{}", stdout(&output));
    assert_eq!(ctl(&["explain", "topic_unknown"]).status.code(), Some(1));
    assert!(stdout(&ctl(&["explain"])).contains("limit_cpu"));
}

#[test]
fn words_of_files_are_counted_with_options() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = |name: &str| dir.path().join(name).to_str().expect("a path").to_owned();
    std::fs::write(file("text.md"), "a B a\n").expect("written");
    std::fs::write(file("stop"), "the").expect("written");
    let gateway = Gateway::start(false);
    let output = gateway.ctl(&["wordcount", &file("*.md"), "--top", "2", "--stop-words", &file("stop"), "--min-length", "1"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let shown = stdout(&output);
    assert!(shown.contains("3 words, 2 different, in 1 file") && shown.contains("ctl run output d0"), "{shown}");
    assert!(stderr(&output).contains("6 bytes in 1 file"), "{}", stderr(&output));

    let output = gateway.ctl(&["-o", "json", "wordcount", "--demo"]);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&report["bytes"], &report["distinct"], &report["runs"]), (&json!(27_600), &json!(2), &json!(["d1"])));

    let refused = gateway.ctl(&["wordcount", &file("none")]);
    assert!(refused.status.code() == Some(2) && stderr(&refused).contains("none cannot be read"), "{}", stderr(&refused));
    assert_eq!(gateway.ctl(&["wordcount"]).status.code(), Some(2), "nothing to count");
    assert_eq!(gateway.ctl(&["wordcount", "--demo", &file("stop")]).status.code(), Some(2), "one of both");
}

#[test]
fn the_demo_checks_what_it_gets() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("text.md"), "a B a\n").expect("written");
    let text = dir.path().to_str().expect("a path");
    let args = ["demo", "--text", text, "--echo-jobs", "20"];
    let output = Gateway::start(false).ctl(&args);
    assert!(output.status.success(), "{}\n{}", stdout(&output), stderr(&output));
    let shown = stdout(&output);
    let parts = [
        "20 jobs in",
        "[2^63, +10^6]",
        "22,920",
        "46 / 58",
        "3 words, 2 different",
        "ctl run timeline d26",
        "All results are right",
        "ctl job get j0",
    ];
    for part in parts {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    assert!(!shown.contains('✗'), "{shown}");

    let output = Gateway::start(true).ctl(&args);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("[2^63, +10^6]: primes should be 22,920, not 22,919"), "{}", stderr(&output));
    assert!(stdout(&output).contains('✗'));
}
