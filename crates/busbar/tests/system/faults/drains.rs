//! Whatever is ended in good order under load costs nothing: no refused request, no lost acknowledgement, no second execution.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use busbar_api::SubmitReply;
use rustix::process::Signal;
use serde_json::json;

use super::{extra_executions, rest_with_success};
use crate::support::{Breaker, Client, Dev, Executions, Roles, SLEEP, Sleeper, Truth, freeze, is_alive, size, thaw, until};

const SLOTS: u32 = 8;
const CLIENTS: usize = 4;

#[test]
fn a_drained_worker_finishes_what_it_holds() {
    let dev = Dev::start();
    let file = dev.temp().join("executions");
    let start = || Breaker::start(&dev.endpoints, dev.temp(), "drained", SLOTS, &file, &[]);
    let _other = Sleeper::start(&dev, "other", SLOTS, &file);
    let mut worker = start();
    let client = dev.client();
    client.until_online("drained", SLOTS);
    let (drains, each) = (size(3, 50), 200);
    let acknowledged = client.submit_sleeps((0..(drains + 1) * each).map(|n| 20 + n as u64 % 60));
    for drain in 1..=drains {
        let more = u32::try_from(drain * each / 2).unwrap();
        until("the work goes on", || (Executions::read(&file).count() > more).then_some(()));
        let status = worker.end(Signal::TERM);
        assert!(status.success(), "{status}");
        worker = start();
        client.until_online("drained", SLOTS);
    }
    rest_with_success(&client, &Truth::connect(&dev.endpoints.redis), &acknowledged);
    assert_eq!(extra_executions(&file, &acknowledged), 0, "a drain loses no attempt");
}

/// The active one gives its lease back, and the standby takes it at once: whoever submits does not notice.
#[test]
fn a_scheduler_that_ends_refuses_nobody() {
    let mut roles = Roles::start(2, 1, &[]);
    let client = roles.client();
    let owner = until("an active one", || client.status().scheduler).owner;
    let place = roles.place_of(&owner);
    let mut active = roles.schedulers.remove(place);
    let acknowledged = under_load(&roles, |load| {
        load.until_more(40);
        assert!(active.end(Signal::TERM).success());
        load.until_more(40);
    });
    assert_ne!(until("an active one", || client.status().scheduler).owner, owner);
    assert!(acknowledged.len() >= 80);
}

/// Two gateways, of which the clients take the other when the first does not take their connection any more.
#[test]
fn a_gateway_that_ends_answers_what_it_has_begun() {
    let mut roles = Roles::start(1, 2, &[]);
    // The last one, since the first one is asked how things stand.
    let mut gateway = roles.gateways.pop().expect("two of them");
    let scheduler = roles.schedulers[0].pid();
    under_load(&roles, |load| {
        load.until_more(40);
        // Requests are open when it is told to end: nobody answers the gateway meanwhile.
        freeze(scheduler);
        load.until_open();
        crate::support::signal(gateway.pid(), Signal::TERM);
        thaw(scheduler);
        until("the gateway ends", || (!is_alive(gateway.pid())).then_some(()));
        assert!(gateway.end(Signal::CONT).success());
        load.until_more(40);
    });
}

/// Clients that submit all the time.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    answered: AtomicUsize,
    open: AtomicUsize,
}

impl Load {
    fn until_more(&self, count: usize) {
        let wanted = self.answered.load(Ordering::Relaxed) + count;
        until("more submissions are answered", || (self.answered.load(Ordering::Relaxed) >= wanted).then_some(()));
    }

    /// Every client waits for an answer.
    fn until_open(&self) {
        until("every client waits", || (self.open.load(Ordering::Relaxed) == CLIENTS).then_some(()));
    }
}

/// Does something while clients submit jobs at the last gateway, each with a key, so that asking another gateway again is safe.
/// Every answer is a success; all jobs are executed once; and every key stands for one job. Gives the jobs.
fn under_load(roles: &Roles, meanwhile: impl FnOnce(&Load)) -> Vec<String> {
    let file = roles.dir().join("executions");
    let _sleeper = Sleeper::start_at(&roles.at[0], roles.dir(), "sleeper-1", SLOTS, &file);
    let load = Load::default();
    let told: Vec<(String, String)> = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                scope.spawn({
                    let load = &load;
                    move || submit_all_the_time(roles, load, number)
                })
            })
            .collect();
        meanwhile(&load);
        load.stop.store(true, Ordering::Relaxed);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    let keys: BTreeMap<&String, &String> = told.iter().map(|(key, job)| (key, job)).collect();
    let acknowledged: Vec<String> = keys.values().map(|job| (*job).clone()).collect();
    rest_with_success(&roles.client(), &roles.truth(), &acknowledged);
    assert_eq!(extra_executions(&file, &acknowledged), 0, "no worker was harmed");
    acknowledged
}

/// Gives key and job of everything that was acknowledged.
fn submit_all_the_time(roles: &Roles, load: &Load, number: usize) -> Vec<(String, String)> {
    let at = |place: usize| Client::new(&roles.at[place].http, Some(&roles.at[place].api_key));
    let mut place = roles.at.len() - 1;
    let mut client = at(place);
    let mut told = Vec::new();
    while !load.stop.load(Ordering::Relaxed) {
        let key = format!("{number}-{}", told.len());
        let body = json!({"topic": SLEEP, "input": {"ms": 5}, "idempotency_key": key});
        load.open.fetch_add(1, Ordering::Relaxed);
        let answer = client.try_post("/api/v1/jobs", &body);
        load.open.fetch_sub(1, Ordering::Relaxed);
        match answer {
            Ok(answer) => {
                let reply: SubmitReply = answer.of(202);
                told.push((key, reply.job_id));
                load.answered.fetch_add(1, Ordering::Relaxed);
            }
            // It takes no connection any more, or closed one that had no request.
            Err(_) if place > 0 => {
                place -= 1;
                client = at(place);
            }
            Err(error) => panic!("the only gateway does not answer: {error}"),
        }
    }
    told
}
