//! Very many workers that all restart at once.

use std::collections::BTreeMap;

use super::{extra_executions, rest_with_success};
use crate::support::{Breaker, Client, Dev, Truth, size, until};

#[test]
fn all_workers_restart_at_once() {
    let count = size(200, 1_000);
    let jobs = 10 * count;
    let dev = Dev::start();
    let file = dev.temp().join("executions");
    let start = || Breaker::start(&dev.endpoints, dev.temp(), "herd", 1, &file, &["--count", &count.to_string()]);
    let mut herd = start();
    let client = dev.client();
    let before = incarnations(&client, count);
    let acknowledged = client.submit_sleeps((0..jobs as u64).map(|n| 20 + n % 100));
    until("some of them have ended", || (client.live_jobs()? < (jobs - count) as u64).then_some(()));
    herd.kill9();
    let _again = start();
    until("all of them are there again", || {
        let after = incarnations(&client, count);
        after.iter().all(|(id, incarnation)| before.get(id) != Some(incarnation)).then_some(())
    });
    rest_with_success(&client, &Truth::connect(&dev.endpoints.redis), &acknowledged);
    let extra = extra_executions(&file, &acknowledged);
    eprintln!("{count} workers restarted at once: {extra} extra executions");
    assert!(extra as usize <= count, "{extra} extra executions; the killed ones held {count}");
}

/// The starts of all workers, once so many are online.
fn incarnations(client: &Client, count: usize) -> BTreeMap<String, String> {
    until("all workers are online", || {
        let online = client.workers().items.into_iter().filter(|worker| worker.status == "online");
        let online: BTreeMap<_, _> = online.map(|worker| (worker.id, worker.incarnation)).collect();
        (online.len() == count).then_some(online)
    })
}
