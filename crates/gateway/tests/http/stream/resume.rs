//! From the snapshot over cuts and resets: every change is told, once, in order.

use std::collections::BTreeMap;

use busbar_protocol::busbar::JobState::{Dispatched, Running, Scheduled, Succeeded};
use busbar_protocol::busbar::{JobEvent, JobState};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::clients::{Events, Ledger, Socket, change, job_and_states};
use crate::support::{DEADLINE, Fixture, Scheduler};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_the_cursor_then_the_snapshot_then_what_happens() {
    let fixture = Fixture::start().await;
    let scheduler = Scheduler::start(&fixture).await;
    let submitted = fixture.ask("POST", "/api/v1/jobs", r#"{"topic":"job.echo","input":1}"#).await.json();
    let job_id = submitted["job_id"].as_str().expect("an id");
    let mut socket = Socket::connect(&fixture, &fixture.key, "").await;
    let opening = socket.opening().await;
    assert_eq!(opening.len(), 4, "{opening:?}");
    assert!(opening[0]["cursor"].is_string() && opening[0].as_object().is_some_and(|frame| frame.len() == 1));
    assert_eq!((&opening[1]["snapshot"], &opening[1]["subject"]), (&json!(true), &json!("busbar.job.event")));
    assert_eq!((&opening[1]["event"]["job_id"], &opening[1]["event"]["state"]), (&json!(job_id), &json!("SCHEDULED")));
    assert_eq!((&opening[2]["snapshot"], &opening[2]["event"]["id"]), (&json!(true), &json!("w1")));
    let end = json!({"jobs": 1, "runs": 0, "workers": 1, "complete": true});
    assert_eq!((&opening[3]["snapshot_end"], &opening[3]["cursor"]), (&end, &opening[0]["cursor"]));
    assert!(opening[1].get("cursor").is_none(), "the middle of a snapshot is no place to resume");

    // The snapshot knew this one already: its record is younger.
    let updated = scheduler.job(job_id).updated_ms;
    let late = JobEvent { at_ms: updated + 1, ..change(job_id, &[Dispatched]) };
    Ledger::new(&fixture).tell(&[late]).await;
    let told = loop {
        let frame = socket.frame().await.expect("a frame");
        if frame["subject"] == "busbar.job.event" {
            break frame;
        }
    };
    assert_eq!(job_and_states(&told), (job_id.to_owned(), vec!["DISPATCHED".to_owned()]));
    assert_ne!(told["cursor"], opening[0]["cursor"]);
    fixture.end().await;
}

const JOBS: usize = 500;
const LIFE: [&[JobState]; 3] = [&[Scheduled], &[Dispatched], &[Running, Succeeded]];

/// Writes the lives of all jobs, one change of every job after the other.
async fn write_lives(fixture: &Fixture) {
    let ledger = Ledger::new(fixture);
    for states in LIFE {
        for jobs in (0..JOBS).collect::<Vec<_>>().chunks(50) {
            let events: Vec<_> = jobs.iter().map(|n| change(&format!("j{n}"), states)).collect();
            ledger.tell(&events).await;
        }
    }
}

fn note(frame: &Value, seen: &mut BTreeMap<String, Vec<String>>) {
    let (job_id, states) = job_and_states(frame);
    seen.entry(job_id).or_default().extend(states);
}

fn check(seen: &BTreeMap<String, Vec<String>>) {
    assert_eq!(seen.len(), JOBS);
    for (job_id, states) in seen {
        assert_eq!(states, &["SCHEDULED", "DISPATCHED", "RUNNING", "SUCCEEDED"], "{job_id}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_cut_off_again_and_again_misses_nothing_and_gets_nothing_twice() {
    let fixture = Fixture::start().await;
    let _scheduler = Scheduler::start(&fixture).await;
    let mut first = Socket::connect(&fixture, &fixture.key, "kind=job").await;
    let _ = first.opening().await;
    let reading = async {
        let (mut socket, mut seen, mut cuts) = (first, BTreeMap::new(), 0);
        let mut total = 0;
        while total < JOBS * LIFE.len() {
            // Each connection breaks after another number of frames, without a goodbye.
            for frame in socket.told((37 + 29 * cuts).min(JOBS * LIFE.len() - total)).await {
                note(&frame, &mut seen);
                total += 1;
            }
            let cursor = std::mem::take(&mut socket.cursor);
            drop(socket);
            cuts += 1;
            socket = Socket::connect(&fixture, &fixture.key, &format!("kind=job&cursor={cursor}")).await;
        }
        assert!(cuts > 5, "{cuts}");
        seen
    };
    let ((), seen) = tokio::join!(write_lives(&fixture), reading);
    check(&seen);
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_resume_by_the_last_id() {
    let fixture = Fixture::start().await;
    let _scheduler = Scheduler::start(&fixture).await;
    let mut first = Events::connect(&fixture, "kind=job", "").await;
    assert!(first.status.ends_with("200 OK"), "{}", first.status);
    // Nothing but the end of the snapshot is a place to resume.
    while first.frame().await.expect("a frame").get("snapshot_end").is_none() {
        assert_eq!(first.id, "");
    }
    assert_ne!(first.id, "");
    let reading = async {
        let (mut events, mut seen, mut total) = (first, BTreeMap::new(), 0);
        while total < JOBS * LIFE.len() {
            for _ in 0..400.min(JOBS * LIFE.len() - total) {
                let frame = loop {
                    let frame = events.frame().await.expect("an event");
                    if frame.get("event").is_some() {
                        break frame;
                    }
                };
                note(&frame, &mut seen);
                total += 1;
            }
            // The newer place is in the header, as a browser has it.
            events = Events::connect(&fixture, "kind=job&cursor=czE6MDow", &events.id).await;
        }
        seen
    };
    let ((), seen) = tokio::join!(write_lives(&fixture), reading);
    check(&seen);
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_of_which_nobody_told_are_found_in_the_log() {
    let fixture = Fixture::start().await;
    let mut socket = Socket::connect(&fixture, &fixture.key, "kind=job&snapshot=false").await;
    let _ = socket.frame().await;
    let ledger = Ledger::new(&fixture);
    // The relay stands still: word of the second entry comes, of the first and the third it does not.
    ledger.append(&[change("a", &[Scheduled])], 1_000_000).await;
    ledger.tell(&[change("b", &[Scheduled])]).await;
    ledger.append(&[change("c", &[Scheduled])], 1_000_000).await;
    let ids: Vec<String> = socket.told(3).await.iter().map(|frame| job_and_states(frame).0).collect();
    assert_eq!(ids, ["a", "b", "c"]);
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_that_the_log_does_not_reach_begins_anew() {
    let fixture = Fixture::start().await;
    let _scheduler = Scheduler::start(&fixture).await;
    let submitted = fixture.ask("POST", "/api/v1/jobs", r#"{"topic":"job.echo","input":1}"#).await.json();
    let ledger = Ledger::new(&fixture);
    ledger.tell(&[change("old", &[Scheduled])]).await;
    let mut socket = Socket::connect(&fixture, &fixture.key, "kind=job").await;
    let _ = socket.opening().await;
    let old = socket.cursor;

    // The log goes on so far that the ring has forgotten the entry at the cursor, and the log has, too.
    let many: Vec<_> = (0..6_000).map(|n| change(&format!("j{n}"), &[Scheduled])).collect();
    ledger.append(&many, 100).await;
    let ahead = "czE6OTk5OTk5OTk5OTk5OTktMDow"; // s1:99999999999999-0:0
    for cursor in [old.as_str(), ahead] {
        let mut socket = Socket::connect(&fixture, &fixture.key, &format!("kind=job&cursor={cursor}")).await;
        let opening = socket.opening().await;
        let reset = opening.iter().position(|frame| frame.get("reset").is_some()).expect("a reset");
        assert!(opening[reset]["reset"]["reason"].is_string());
        assert_eq!(opening[reset + 1]["event"]["job_id"], submitted["job_id"]);
        // What comes next is news.
        ledger.tell(&[change("new", &[Scheduled])]).await;
        assert_eq!(job_and_states(&socket.told(1).await[0]).0, "new");
    }
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_end_everybody_is_told() {
    let fixture = Fixture::start().await;
    let mut socket = Socket::connect(&fixture, &fixture.key, "snapshot=false").await;
    let _ = socket.frame().await;
    let mut events = Events::connect(&fixture, "snapshot=false", "").await;
    let _ = events.frame().await;
    let ended = tokio::spawn(async move {
        let (code, said) = socket.closed().await;
        assert_eq!((code, said), (CloseCode::Away, None));
        while events.frame().await.is_some() {}
    });
    fixture.end().await;
    tokio::time::timeout(DEADLINE, ended).await.expect("in time").expect("both have ended");
}
