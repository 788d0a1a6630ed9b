//! Dead letters: listed, looked at, tried again one by one and by the thousand, thrown away.

use std::collections::BTreeSet;

use busbar_gateway::Role;
use busbar_protocol::busbar::redrive_dead_letters_answer::Answer;
use busbar_protocol::busbar::{
    DiscardDeadLetterRequest, GetDeadLetterRequest, ListDeadLettersRequest, RedriveDeadLetterRequest, RedriveDeadLettersRequest,
};
use busbar_protocol::keys;
use busbar_protocol::ports::Records as _;
use busbar_rpc::tonic::Code;
use serde_json::{Value, json};

use crate::grpc::{dead_letters, refused};
use crate::support::{Fixture, Scheduler, key, request};

/// 2023-11-14T22:13:20Z.
const THEN: u64 = 1_700_000_000_000;

fn ids(list: &Value) -> Vec<String> {
    list["items"].as_array().expect("items").iter().map(|item| item["job_id"].as_str().expect("an id").to_owned()).collect()
}

async fn all_pages(fixture: &Fixture, query: &str) -> Vec<String> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let list = fixture.get(&format!("/api/v1/dlq?{query}&cursor={cursor}")).await.json();
        all.extend(ids(&list));
        match list["next_cursor"].as_str() {
            Some(next) => next.clone_into(&mut cursor),
            None => return all,
        }
    }
}

async fn input(fixture: &Fixture, job_id: &str) -> Option<String> {
    let found = fixture.store.payloads(vec![keys::context(job_id)]).await.expect("read").remove(0);
    found.map(|bytes| String::from_utf8(bytes.into()).expect("a text"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_are_listed_filtered_and_shown() {
    let fixture = Fixture::start().await;
    let scheduler = Scheduler::start(&fixture).await;
    for n in 0..30_u64 {
        let (topic, code) = (if n % 3 == 0 { "job.a.x" } else { "job.b" }, if n % 2 == 0 { "worker_lost" } else { "bad_input" });
        // Always two of one moment.
        scheduler.bury(&format!("j{n:02}"), topic, code, THEN + n / 2 * 1000).await;
    }
    let of = |keep: &dyn Fn(u64) -> bool| (0..30_u64).rev().filter(|n| keep(*n)).map(|n| format!("j{n:02}")).collect::<Vec<_>>();
    assert_eq!(all_pages(&fixture, "limit=7").await, of(&|_| true));
    assert_eq!(all_pages(&fixture, "limit=2&topic=job.a.*").await, of(&|n| n % 3 == 0));
    assert_eq!(all_pages(&fixture, "reason_code=bad_input").await, of(&|n| n % 2 == 1));
    let span = "limit=3&since=2023-11-14T22:13:22Z&until=2023-11-14T22:13:27Z";
    assert_eq!(all_pages(&fixture, span).await, of(&|n| (4..14).contains(&n)));
    assert_eq!(fixture.ask("POST", "/api/v1/dlq/j05/redrive", "").await.status, 202);
    assert_eq!(all_pages(&fixture, "redriven=true").await, ["j05"]);
    assert_eq!(all_pages(&fixture, "redriven=false").await, of(&|n| n != 5));
    assert_eq!(ids(&fixture.get("/api/v1/dlq/page?limit=1").await.json()), ["j29"]);

    let letter = fixture.get("/api/v1/dlq/j05").await.json();
    assert_eq!(
        (&letter["input"], &letter["labels"], &letter["input_ptr"]),
        (&json!("j05"), &json!({"x": "y"}), &json!("redis://ctx:j05"))
    );
    let short = &letter["letter"];
    assert_eq!(
        (&short["reason_code"], &short["redriven_as"], &short["attempts"]),
        (&json!("bad_input"), &json!("j05.d1"), &json!(3))
    );
    assert_eq!(short["dead_at"], "2023-11-14T22:13:22.000Z");

    for (path, status, code) in [
        ("/api/v1/dlq/nobody", 404, "dead_letter_not_found"),
        ("/api/v1/dlq/a%20b", 404, "dead_letter_not_found"),
        ("/api/v1/dlq?topic=jobs", 422, "topic_invalid"),
        ("/api/v1/dlq?since=yesterday", 422, "field_invalid"),
        ("/api/v1/dlq?limit=201", 422, "field_invalid"),
        ("/api/v1/dlq?cursor=x", 400, "cursor_invalid"),
    ] {
        fixture.get(path).await.refused(status, code);
    }
    let other = key(&fixture.store, "other", Role::Admin).await;
    let ask = async |method: &str, path: &str| request(fixture.address, method, path, &[("x-api-key", &other)], b"").await;
    assert_eq!(ids(&ask("GET", "/api/v1/dlq").await.json()), Vec::<String>::new());
    ask("GET", "/api/v1/dlq/j01").await.refused(404, "dead_letter_not_found");
    ask("POST", "/api/v1/dlq/j01/redrive").await.refused(404, "dead_letter_not_found");
    ask("DELETE", "/api/v1/dlq/j01").await.refused(404, "dead_letter_not_found");
    let viewer = key(&fixture.store, "acme", Role::Viewer).await;
    for (method, path) in [("POST", "/api/v1/dlq/j01/redrive"), ("POST", "/api/v1/dlq/redrive"), ("DELETE", "/api/v1/dlq/j01")] {
        request(fixture.address, method, path, &[("x-api-key", &viewer)], b"").await.refused(403, "forbidden");
    }
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_job_is_tried_again_once() {
    let fixture = Fixture::start().await;
    let scheduler = Scheduler::start(&fixture).await;
    for job_id in ["a", "b", "c"] {
        scheduler.bury(job_id, "job.echo", "worker_lost", THEN).await;
    }
    for (path, existing) in [("/api/v1/dlq/a/redrive", false), ("/api/v1/dlq/a/retry", true)] {
        let reply = fixture.ask("POST", path, "").await;
        assert_eq!(reply.status, 202, "{}", reply.text());
        let (job, of) = (&reply.json()["job"], &reply.json()["redrive_of"]);
        assert_eq!((&job["job_id"], &job["existing"], of), (&json!("a.d1"), &json!(existing), &json!("a")));
    }
    let view = fixture.get("/api/v1/jobs/a.d1").await.json();
    assert_eq!((&view["redrive_of"], &view["topic"]), (&json!("a"), &json!("job.echo")));

    // With another input, and not at once.
    let body = r#"{"input":{"n": 1.50},"not_before":"2099-01-01T00:00:00Z"}"#;
    fixture.ask("POST", "/api/v1/dlq/b/redrive", body).await.refused(422, "field_invalid");
    let edited = fixture.ask("POST", "/api/v1/dlq/b/redrive", r#"{"input":{"n": 1.50}}"#).await.json();
    let new = edited["job"]["job_id"].as_str().expect("an id");
    assert_eq!(input(&fixture, new).await.as_deref(), Some(r#"{"n": 1.50}"#));
    let told = fixture.ask("POST", "/api/v1/dlq/b/redrive", r#"{"input":null}"#).await.refused(409, "dead_letter_redriven");
    assert!(told.contains(new), "{told}");
    assert_eq!(input(&fixture, new).await.as_deref(), Some(r#"{"n": 1.50}"#), "another input never reaches a job that is there");
    fixture.ask("POST", "/api/v1/dlq/b/redrive", "").await.refused(409, "dead_letter_redriven");

    // An answer that is lost is found out from the record.
    scheduler.state.lock().expect("not poisoned").redrives_unanswered = 1;
    let found = fixture.ask("POST", "/api/v1/dlq/c/redrive", r#"{"input":7}"#).await.json();
    let new = found["job"]["job_id"].as_str().expect("an id");
    assert_eq!((input(&fixture, new).await.as_deref(), scheduler.job(new).redrive_of.as_str()), (Some("7"), "c"));
    fixture.end().await;
}

/// Programs on the bus may call their jobs as paths are called.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_that_are_called_like_paths_have_dead_letters_too() {
    let fixture = Fixture::start().await;
    let scheduler = Scheduler::start(&fixture).await;
    for job_id in ["page", "redrive"] {
        scheduler.bury(job_id, "job.echo", "worker_lost", THEN).await;
        let path = format!("/api/v1/jobs/{job_id}/dead-letter");
        assert_eq!(fixture.get(&path).await.json()["letter"]["job_id"], job_id);
        let again = fixture.ask("POST", &format!("/api/v1/dlq/{job_id}/redrive"), "").await.json();
        assert_eq!(again["job"]["job_id"], format!("{job_id}.d1"));
        assert_eq!(fixture.ask("DELETE", &path, "").await.status, 204);
        fixture.get(&path).await.refused(404, "dead_letter_not_found");
    }
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_input_that_was_edited_in_vain_is_taken_away() {
    let fixture = Fixture::start().await;
    let scheduler = Scheduler::start(&fixture).await;
    scheduler.bury("full", "job.full", "worker_lost", THEN).await;
    let refused = fixture.ask("POST", "/api/v1/dlq/full/redrive", r#"{"input":7}"#).await;
    refused.refused(429, "backlog_full");
    assert_eq!(refused.headers["retry-after"], "1");
    let new = scheduler.state.lock().expect("not poisoned").last_redrive.clone();
    assert!(!new.is_empty());
    assert_eq!(input(&fixture, &new).await, None);
    assert_eq!(input(&fixture, "full").await.as_deref(), Some("\"full\""));
    let large = format!(r#"{{"input":"{}"}}"#, "x".repeat(1024 * 1024));
    fixture.ask("POST", "/api/v1/dlq/full/redrive", &large).await.refused(413, "payload_too_large");

    assert_eq!(fixture.ask("DELETE", "/api/v1/dlq/full", "").await.status, 204);
    fixture.ask("DELETE", "/api/v1/dlq/full", "").await.refused(404, "dead_letter_not_found");
    assert_eq!(fixture.get("/api/v1/dlq").await.json()["items"], json!([]));
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_are_tried_again_at_a_rate_and_none_twice() {
    let fixture = Fixture::start().await;
    let scheduler = Scheduler::start(&fixture).await;
    for n in 0..620_u64 {
        let topic = if n % 100 == 7 { "job.full" } else { "job.echo" };
        scheduler.bury(&format!("j{n:03}"), topic, "worker_lost", THEN + n / 3).await;
    }
    let (mut body, mut looked, mut refused) =
        (json!({"per_second": 100, "limit": 300, "topic": "job.>"}), Vec::new(), Vec::new());
    loop {
        let reply = fixture.ask("POST", "/api/v1/dlq/redrive", &body.to_string()).await.json();
        let page = reply["job_ids"].as_array().expect("ids").clone();
        refused.extend(reply["rejected"].as_array().expect("a list").iter().map(|rejection| {
            assert_eq!(rejection["code"], "backlog_full");
            page[usize::try_from(rejection["index"].as_u64().expect("a number")).expect("small")].clone()
        }));
        for (old, new) in page.iter().zip(reply["redriven_as"].as_array().expect("ids")) {
            assert!(new.is_null() || *new == json!(format!("{}.d1", old.as_str().expect("an id"))), "{old} {new}");
        }
        looked.extend(page);
        match reply["next_cursor"].as_str() {
            Some(cursor) => body["cursor"] = json!(cursor),
            None => break,
        }
    }
    let all: Vec<Value> = (0..620).map(|n| json!(format!("j{n:03}"))).collect();
    assert_eq!(looked, all, "each once, the oldest first");
    assert_eq!(refused, [7, 107, 207, 307, 407, 507, 607].map(|n| json!(format!("j{n:03}"))));
    let redrives = scheduler.state.lock().expect("not poisoned").redrives.clone();
    assert!(redrives.iter().all(|batch| batch.len() <= 256), "{:?}", redrives.iter().map(Vec::len).collect::<Vec<_>>());
    let starts: Vec<u64> = redrives.into_iter().flatten().collect();
    let spaced = starts.windows(2).all(|pair| pair[1] >= pair[0] + 10);
    assert!(spaced, "over all calls, no more than a hundred in any second: {starts:?}");

    // Again from the beginning: only those are left that were refused.
    let again = fixture.ask("POST", "/api/v1/dlq/redrive", "").await.json();
    assert_eq!((again["job_ids"].as_array().map(Vec::len), &again["redriven"]), (Some(7), &json!(0)));
    for bad in [json!({"per_second": 0}), json!({"limit": 10_001}), json!({"since": "x"}), json!({"rate": 1})] {
        fixture.ask("POST", "/api/v1/dlq/redrive", &bad.to_string()).await.refused(422, "field_invalid");
    }
    fixture.ask("POST", "/api/v1/dlq/redrive", r#"{"cursor":"x"}"#).await.refused(400, "cursor_invalid");
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_redriven_before_an_answer_was_lost_is_not_redriven_again() {
    let fixture = Fixture::start().await;
    let scheduler = Scheduler::start(&fixture).await;
    let dead: BTreeSet<String> = (0..300).map(|n| format!("j{n:03}")).collect();
    for (n, job_id) in (0_u64..).zip(&dead) {
        scheduler.bury(job_id, "job.echo", "worker_lost", THEN + n).await;
    }
    scheduler.state.lock().expect("not poisoned").redrives_unanswered = 1;
    fixture.ask("POST", "/api/v1/dlq/redrive", "").await.refused(503, "scheduler_unavailable");
    let reply = fixture.ask("POST", "/api/v1/dlq/redrive", "").await.json();
    assert_eq!((&reply["redriven"], &reply["next_cursor"]), (&json!(300 - 256), &Value::Null));
    let jobs: BTreeSet<String> = scheduler.state.lock().expect("not poisoned").jobs.keys().cloned().collect();
    assert_eq!(jobs, dead.iter().map(|id| format!("{id}.d1")).collect());
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_over_grpc() {
    let fixture = Fixture::start().await;
    let scheduler = Scheduler::start(&fixture).await;
    for (n, job_id) in (0_u64..).zip(["a", "b", "c", "full"]) {
        scheduler.bury(job_id, if job_id == "full" { "job.full" } else { "job.echo" }, "worker_lost", THEN + n).await;
    }
    let mut letters = dead_letters(&fixture);
    let list = ListDeadLettersRequest { page_size: 3, topic: "job.*".into(), ..ListDeadLettersRequest::default() };
    let page = letters.list(list.clone()).await.expect("a page").into_inner();
    let ids: Vec<&str> = page.dead_jobs.iter().map(|dead| dead.job_id.as_str()).collect();
    assert_eq!(ids, ["full", "c", "b"]);
    let rest =
        letters.list(ListDeadLettersRequest { page_token: page.next_page_token, ..list }).await.expect("a page").into_inner();
    assert_eq!((rest.dead_jobs.len(), rest.next_page_token.as_str()), (1, ""));
    let one = letters.get(GetDeadLetterRequest { job_id: "a".into() }).await.expect("known").into_inner();
    assert_eq!((&one.input_json[..], one.reason_code.as_str()), (&b"\"a\""[..], "worker_lost"));

    let redrive = RedriveDeadLetterRequest { job_id: "a".into(), input_json: "5".into(), ..RedriveDeadLetterRequest::default() };
    let reply = letters.redrive(redrive.clone()).await.expect("redriven").into_inner();
    assert_eq!(input(&fixture, &reply.redriven.expect("a job").job_id).await.as_deref(), Some("5"));
    refused(letters.redrive(redrive).await, Code::FailedPrecondition, "dead_letter_redriven");
    letters.discard(DiscardDeadLetterRequest { job_id: "b".into() }).await.expect("gone");
    refused(letters.get(GetDeadLetterRequest { job_id: "b".into() }).await, Code::NotFound, "dead_letter_not_found");
    let many = letters.redrive_many(RedriveDeadLettersRequest::default()).await.expect("redriven").into_inner();
    let told: Vec<_> =
        many.answers.iter().map(|answer| (answer.job_id.as_str(), answer.answer.as_ref().expect("an answer"))).collect();
    assert!(matches!(told[..], [("c", Answer::RedrivenAs(_)), ("full", Answer::Rejected(_))]), "{told:?}");
    fixture.end().await;
}
