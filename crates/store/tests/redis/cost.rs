//! What a typical unit costs: a figure, not an assertion. `cargo test -p busbar-store --test redis cost -- --ignored --nocapture`

use std::time::{Duration, Instant};

use busbar_protocol::ports::{CommitClass, Guard, Records, Unit, Write};
use busbar_store::Store;
use bytes::Bytes;

use crate::server::{APPLIED, Server, absent, revision, unit};

const JOBS: usize = 256 * 200;

fn put(key: &str, revision: u64) -> Write {
    Write::Put { key: key.into(), revision, value: Bytes::from(vec![b'x'; 600]), expire: Some(Duration::from_secs(3600)) }
}

fn admit(job: usize, epoch: u64) -> Unit {
    let (key, id) = (format!("job:meta:{job:036}"), format!("{job:036}"));
    let live = Write::IndexAdd { index: "job:live".into(), member: id, score: i64::try_from(job).expect("small") };
    unit([Guard::Epoch { lock: "lock:s".into(), epoch }, absent(&key)], [put(&key, 1), live])
}

/// Epoch and revision, a record of 600 bytes, two indexes, one log entry.
fn finish(job: usize, epoch: u64) -> Unit {
    let (key, id) = (format!("job:meta:{job:036}"), format!("{job:036}"));
    let writes = [
        put(&key, 2),
        Write::IndexRemove { index: "job:live".into(), member: id.clone() },
        Write::IndexAdd { index: "job:recent:default".into(), member: id, score: i64::try_from(job).expect("small") },
        Write::Append { log: "ev:jobs".into(), value: Bytes::from(vec![b'e'; 120]), keep: 100_000 },
    ];
    unit([Guard::Epoch { lock: "lock:s".into(), epoch }, revision(&key, 1)], writes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn cost_of_a_typical_unit() {
    let server = Server::start().await;
    let epoch = server.store.lease("lock:s", "me", Duration::from_secs(3600)).await.expect("leased").epoch;
    for grouped in [64, 256, 1] {
        let jobs = JOBS.min(grouped * 2000);
        measure(&server, &format!("admit in groups of {grouped}"), jobs, grouped, |job| admit(job, epoch)).await;
        measure(&server, &format!("finish in groups of {grouped}"), jobs, grouped, |job| finish(job, epoch)).await;
        server.say("DEL job:recent:default ev:jobs");
        remove_jobs(&server.store, jobs).await;
    }
}

/// From the restarted server's first answer to ours; a writer waits all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn cost_of_a_restart() {
    let server = Server::start().await;
    for round in 1..=5 {
        server.redis.kill9();
        let store = server.store.clone();
        let writer =
            tokio::spawn(
                async move { while store.commit(CommitClass::Advance, vec![unit([], [put("k", 1)])]).await.is_err() {} },
            );
        // Not a wait for a state: long enough for the client to have drawn its longest pause.
        tokio::time::sleep(Duration::from_secs(2)).await;
        server.redis.restart().expect("running again");
        let began = Instant::now();
        writer.await.expect("committed");
        eprintln!("round {round}: the first commit {} ms after the server was ready", began.elapsed().as_millis());
    }
}

async fn measure(server: &Server, what: &str, jobs: usize, grouped: usize, make: impl Fn(usize) -> Unit) {
    server.say("CONFIG RESETSTAT");
    let began = Instant::now();
    for first in (0..jobs).step_by(grouped) {
        let units: Vec<Unit> = (first..(first + grouped).min(jobs)).map(&make).collect();
        let answers = server.store.commit(CommitClass::Advance, units).await.expect("answered");
        assert!(
            answers.iter().all(|answer| *answer == APPLIED || matches!(answer, busbar_protocol::ports::Answer::Applied { .. }))
        );
    }
    let elapsed = began.elapsed();
    let stats = server.say("INFO commandstats");
    let fcall = stats.lines().find(|line| line.starts_with("cmdstat_fcall:")).expect("calls");
    let micros: usize = fcall.split("usec=").nth(1).and_then(|rest| rest.split(',').next()?.parse().ok()).expect("a number");
    let per_unit = micros * 1000 / jobs;
    eprintln!("{what}: {per_unit} ns in Redis, {} ns from end to end, a unit", elapsed.as_nanos() / jobs as u128);
}

async fn remove_jobs(store: &Store, jobs: usize) {
    for first in (0..jobs).step_by(256) {
        let keys = first..(first + 256).min(jobs);
        let units: Vec<Unit> = keys.map(|job| unit([], [Write::Delete { key: format!("job:meta:{job:036}") }])).collect();
        store.commit(CommitClass::Advance, units).await.expect("answered");
    }
}
