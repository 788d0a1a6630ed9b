//! Lists: live and finished jobs as one, in pages.

use busbar_protocol::busbar::JobState;
use serde_json::{Value, json};

use crate::support::{Fixture, Scheduler};

fn ids(list: &Value) -> Vec<String> {
    list["items"].as_array().expect("items").iter().map(|item| item["id"].as_str().expect("an id").to_owned()).collect()
}

async fn all_pages(fixture: &Fixture, query: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut cursor = String::new();
    loop {
        let list = fixture.get(&format!("/api/v1/jobs?{query}&cursor={cursor}")).await.json();
        let page = ids(&list);
        let more = list["next_cursor"].as_str().map(str::to_owned);
        assert!(!page.is_empty() || more.is_none(), "an empty page while there is more");
        all.extend(page);
        match more {
            Some(next) => cursor = next,
            None => return all,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_hold_live_and_finished_jobs_once_each_newest_first() {
    let fixture = Fixture::start().await;
    let scheduler = Scheduler::start(&fixture).await;
    let jobs: Vec<Value> =
        (0..500).map(|n| json!({"topic": if n % 10 == 0 { "job.rare" } else { "job.echo" }, "input": n})).collect();
    let reply = fixture.ask("POST", "/api/v1/jobs/batch", &json!({ "jobs": jobs }).to_string()).await.json();
    let submitted: Vec<String> =
        reply["job_ids"].as_array().expect("ids").iter().map(|id| id.as_str().expect("an id").to_owned()).collect();
    // Two of three end, so that both sources are mixed; only the oldest of them fail.
    for (n, job_id) in submitted.iter().enumerate().filter(|(n, _)| n % 3 != 0) {
        let failed = n < 20;
        let state = if failed { JobState::Failed } else { JobState::Succeeded };
        scheduler.finish(job_id, state, (!failed).then_some("1")).await;
    }
    let mut expected = submitted.clone();
    // Jobs are created in the order in which their admissions arrive, which need not be that of the batch.
    expected.sort_by_key(|id| std::cmp::Reverse((scheduler.created_ms(id), id.clone())));

    assert_eq!(all_pages(&fixture, "limit=7").await, expected);
    assert_eq!(all_pages(&fixture, "limit=200").await, expected);
    let of = |keep: &dyn Fn(usize) -> bool| -> Vec<String> {
        let kept: Vec<&String> = submitted.iter().enumerate().filter(|(n, _)| keep(*n)).map(|(_, id)| id).collect();
        expected.iter().filter(|id| kept.contains(id)).cloned().collect()
    };
    assert_eq!(all_pages(&fixture, "limit=20&topic=job.rare").await, of(&|n| n % 10 == 0));
    assert_eq!(all_pages(&fixture, "limit=20&state=SCHEDULED").await, of(&|n| n % 3 == 0));
    // Few fit, and they are the oldest: the first page holds them nevertheless.
    let failed = of(&|n| n % 3 != 0 && n < 20);
    assert_eq!(ids(&fixture.get("/api/v1/jobs?limit=50&state=FAILED").await.json()), failed);
    fixture.end().await;
}
