//! Tenants that are many, loud, or in trouble, and others that must not notice.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use busbar_api::BatchReply;
use busbar_protocol::busbar::{JobEvent, JobState};
use serde_json::{Value, json};

use super::{rest, rest_with_success};
use crate::support::{Breaker, Dev, DevOptions, Executions, Truth, WORK, chaos_pack, ctl, size, until};

const SLOTS: u32 = 8;

fn start() -> Dev {
    Dev::start_with(DevOptions { packs: vec![chaos_pack()], ..DevOptions::default() })
}

/// Every job of one tenant fails, again and again.
#[test]
fn a_storm_of_retries_leaves_room_for_others() {
    /// What the topic of the pack says.
    const ATTEMPTS: u32 = 6;
    let dev = start();
    let file = dev.temp().join("executions");
    let [stormy, healthy] = ["stormy", "healthy"].map(|tenant| dev.client_of(tenant));
    let storm = stormy.submit_all((0..size(300, 30_000)).map(|_| ("job.chaos.storm", json!({"ms": 5, "fails": 100}))));
    let _breaker = Breaker::start(&dev.endpoints, dev.temp(), "breaker", SLOTS, &file, &[]);
    until("it storms", || (Executions::read(&file).count() > 100).then_some(()));
    let calm = healthy.submit_all((0..100).map(|_| (WORK, json!({"ms": 5}))));

    let truth = Truth::connect(&dev.endpoints.redis);
    let acknowledged = [storm.clone(), calm.clone()].concat();
    let ends = rest(&dev.client(), &truth, &acknowledged);
    assert!(storm.iter().all(|id| ends[id] == [JobState::Failed]));
    assert!(calm.iter().all(|id| ends[id] == [JobState::Succeeded]));
    let executions = Executions::read(&file);
    assert!(storm.iter().all(|id| executions.starts[id] == ATTEMPTS) && calm.iter().all(|id| executions.starts[id] == 1));
    let order = order_of_ends(&truth.events().unwrap());
    let last_calm = order.iter().rposition(|id| calm.contains(id)).expect("they ended");
    let later = order.len() - 1 - last_calm;
    eprintln!("{later} of {} failing jobs ended after the last healthy one", storm.len());
    assert!(later >= storm.len() / 2, "the healthy ones waited for the storm");
}

/// One tenant has thousands of jobs waiting when another one comes with a few.
#[test]
fn a_noisy_tenant_takes_its_share_and_no_more() {
    const FEW: usize = 50;
    let dev = start();
    let file = dev.temp().join("executions");
    let [noisy, quiet] = ["noisy", "quiet"].map(|tenant| dev.client_of(tenant));
    let truth = Truth::connect(&dev.endpoints.redis);
    let mut backlog = Vec::new();
    for _ in 0..size(4, 200) {
        backlog.extend(noisy.submit_all((0..1_000).map(|_| (WORK, json!({"ms": 2})))));
        truth.look();
    }
    let _breaker = Breaker::start(&dev.endpoints, dev.temp(), "breaker", SLOTS, &file, &[]);
    until("the backlog is worked on", || (Executions::read(&file).count() > 100).then_some(()));
    let few = quiet.submit_all((0..FEW).map(|_| (WORK, json!({"ms": 2}))));

    let acknowledged = [backlog, few.clone()].concat();
    rest_with_success(&dev.client(), &truth, &acknowledged);
    let events = truth.events().unwrap();
    let admitted = events.iter().rposition(|event| few.contains(&event.job_id) && event.attempt == 0).expect("admitted");
    let meanwhile = order_of_ends(&events[admitted..]);
    let last = meanwhile.iter().rposition(|id| few.contains(id)).expect("they ended");
    let others = last + 1 - FEW;
    eprintln!("while {FEW} jobs of the quiet tenant ended, {others} of the noisy one did");
    // As many as it had, for equal shares; those that were under way when it came; and one turn's worth of unevenness.
    assert!(others <= 2 * FEW + 4 * SLOTS as usize, "{others} jobs of the noisy tenant were done before");
}

/// Many submissions in calls that come at once, for a backlog that has room for a few.
#[test]
fn a_backlog_is_bounded_however_many_come_at_once() {
    const MOST: usize = 40;
    let dev = start();
    let client = dev.client_of("crowded");
    let most = MOST.to_string();
    ctl(&dev, &["limits", "tenant", "crowded", "--backlog", &most]).expect("a good limit");
    // Nobody can do it, so that none is tried on the topic's queue group: what is out there does not wait, and comes back.
    let job = json!({"topic": WORK, "input": {"ms": 1}, "requires": ["nothing-has-it"]});
    let until_full = || (0..=MOST).any(|_| client.post("/api/v1/jobs", &job).status == 429);
    until("the limit holds", || until_full().then_some(()));
    let waiting = client.list("&state=SCHEDULED");
    waiting.iter().for_each(|job| drop(client.post_raw(&format!("/api/v1/jobs/{}/cancel", job.id), b"").of::<Value>(200)));
    until("nobody waits", || client.list("&state=SCHEDULED").is_empty().then_some(()));

    let batch = json!({ "jobs": vec![job; 700] });
    let taken = thread::scope(|scope| {
        let calls: Vec<_> =
            (0..4).map(|_| scope.spawn(|| client.post("/api/v1/jobs/batch", &batch).of::<BatchReply>(202))).collect();
        calls.into_iter().map(|call| call.join().expect("a reply")).collect::<Vec<_>>()
    });
    let refused = taken.iter().flat_map(|reply| &reply.rejected);
    assert!(refused.clone().all(|rejection| rejection.code == "backlog_full"));
    assert_eq!((refused.count(), client.list("&state=SCHEDULED").len()), (4 * 700 - MOST, MOST));
}

/// Small jobs come all the time, and one that only one worker can do.
#[test]
fn a_job_with_rare_needs_starts_in_a_stream_of_others() {
    let dev = start();
    let file = dev.temp().join("executions");
    let start = |id, capabilities: &[&str]| Breaker::start(&dev.endpoints, dev.temp(), id, 2, &file, capabilities);
    let _workers = [start("plain", &[]), start("rare", &["--capability", "gpu"])];
    let client = dev.client();
    ["plain", "rare"].iter().for_each(|id| client.until_online(id, 2));
    let over = AtomicBool::new(false);
    let (rare, mut acknowledged) = thread::scope(|scope| {
        let stream = scope.spawn(|| {
            let mut small = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let waiting = client.live_jobs().unwrap_or_default();
                let room = 200_u64.saturating_sub(waiting);
                small.extend(client.submit_all((0..room).map(|_| (WORK, json!({"ms": 5})))));
            }
            small
        });
        until("the stream flows", || (Executions::read(&file).count() > 50).then_some(()));
        let body = json!({"topic": WORK, "input": {"ms": 5}, "requires": ["gpu"]});
        let reply: busbar_api::SubmitReply = client.post("/api/v1/jobs", &body).of(202);
        let view = client.wait(&reply.job_id);
        over.store(true, Ordering::Relaxed);
        assert_eq!(view.worker_id.as_deref(), Some("rare"));
        (reply.job_id, stream.join().unwrap())
    });
    acknowledged.push(rare);
    rest_with_success(&client, &Truth::connect(&dev.endpoints.redis), &acknowledged);
}

/// The jobs in the order of their ends.
fn order_of_ends(events: &[JobEvent]) -> Vec<String> {
    events.iter().filter(|event| event.states().any(JobState::is_terminal)).map(|event| event.job_id.clone()).collect()
}
