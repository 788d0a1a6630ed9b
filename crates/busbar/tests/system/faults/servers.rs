//! Servers that are killed again and again, that lose everything, and that are full.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;

use busbar_protocol::keys;
use busbar_protocol::subjects::Stream;
use busbar_servers::Stack;
use serde_json::json;

use super::{extra_executions, rest_with_success};
use crate::support::{
    Breaker, Client, Dev, DevOptions, Executions, Sleeper, Truth, WORK, Wire, chaos_pack, freeze, kill9, size, thaw, until,
};

const SLOTS: u32 = 8;

#[test]
fn nats_is_killed_again_and_again() {
    let kills = size(4, 100);
    let each = 150;
    let dev = Dev::start();
    let file = dev.temp().join("executions");
    let _sleeper = Sleeper::start(&dev, "sleeper-1", SLOTS, &file);
    let client = dev.client();
    let acknowledged = client.submit_sleeps((0..(kills + 1) * each).map(|n| 10 + n as u64 % 60));
    for kill in 1..=kills {
        let more = u32::try_from(kill * each / 2).unwrap();
        until("the work goes on", || (Executions::read(&file).count() > more).then_some(()));
        kill9(dev.server_pid("nats"));
    }
    rest_with_success(&client, &Truth::connect(&dev.endpoints.redis), &acknowledged);
    assert_eq!(extra_executions(&file, &acknowledged), 0, "no worker was killed");
}

/// A dev on servers that the test itself ends and starts.
pub(super) fn on_given_servers(stack: &Stack) -> Dev {
    let env = [("NATS_URL", stack.nats.url()), ("REDIS_URL", stack.redis.url())];
    let env = env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Dev::start_with(DevOptions { env, packs: vec![chaos_pack()], ..DevOptions::default() })
}

/// The streams are gone with all that they held: results that nobody had read, too. The workers know them still.
#[test]
fn the_streams_are_lost_with_everything_in_them() {
    let stack = Stack::start_temp().unwrap();
    let dev = on_given_servers(&stack);
    let file = dev.temp().join("executions");
    let _sleeper = Sleeper::start(&dev, "sleeper-1", SLOTS, &file);
    let client = dev.client();
    let acknowledged = client.submit_sleeps((0..size(400, 100_000)).map(|n| 20 + n as u64 % 60));
    until("the work goes on", || (Executions::read(&file).count() > 100).then_some(()));

    // Results come, and nobody reads them.
    freeze(dev.pid());
    let wire = Wire::connect(&stack.nats.url());
    until("the worker has told all its results", || {
        let unread = wire.runtime.block_on(wire.bus.stream_state(Stream::Results)).ok()?.messages;
        (Executions::read(&file).open == 0 && unread > 0).then_some(())
    });
    stack.nats.kill9();
    fs::remove_dir_all(stack.temp_dir().unwrap().join("nats/js")).unwrap();
    stack.nats.restart().unwrap();
    thaw(dev.pid());

    let truth = Truth::connect(&stack.redis.url());
    rest_with_success(&client, &truth, &acknowledged);
    assert_eq!(extra_executions(&file, &acknowledged), 0, "the worker tells again what it has done");
    // A death is told by way of a stream, too.
    let late = json!({"topic": "job.test.unserved", "input": null, "deadline_ms": 1});
    let late: busbar_api::SubmitReply = client.post("/api/v1/jobs", &late).of(202);
    assert_eq!(client.wait(&late.job_id).state, busbar_api::JobState::Timeout);
    until("all of the log is told", || (truth.record(keys::LOG_JOBS_RELAYED)? == truth.end()?).then_some(()));
    for stream in Stream::ALL {
        wire.runtime.block_on(wire.bus.stream_state(stream)).unwrap();
    }
}

#[test]
fn a_full_store_refuses_work_and_forgets_none() {
    let stack = Stack::start_temp().unwrap();
    let dev = on_given_servers(&stack);
    let client = dev.client();
    let mut acknowledged = client.submit_all((0..300).map(|_| (WORK, json!({"ms": 5}))));
    configure(&stack, "maxmemory", &(memory(&stack) + 200_000).to_string());
    let refused = until("the store is full", || {
        let body = json!({"topic": WORK, "input": {"ms": 1}, "labels": {"a": "x".repeat(1_000)}});
        let answer = client.post("/api/v1/jobs", &body);
        if answer.status == 202 {
            let reply: busbar_api::SubmitReply = answer.of(202);
            acknowledged.push(reply.job_id);
            return None;
        }
        Some(answer)
    });
    refused.problem(503, "memory_short");

    // Nothing was forgotten, and it drains.
    let file = dev.temp().join("executions");
    let _breaker = Breaker::start(&dev.endpoints, dev.temp(), "breaker", SLOTS, &file, &[]);
    let truth = Truth::connect(&stack.redis.url());
    rest_with_success(&client, &truth, &acknowledged);
    assert_eq!(extra_executions(&file, &acknowledged), 0);
    client.post("/api/v1/jobs", &json!({"topic": WORK, "input": {"ms": 1}})).problem(503, "memory_short");

    configure(&stack, "maxmemory", "0");
    acknowledged.push(taken(&client));
    rest_with_success(&client, &truth, &acknowledged);
    assert_eq!(evicted(&stack), 0);
}

/// A job, once the store takes one again.
fn taken(client: &Client) -> String {
    until("a submission is taken", || {
        let answer = client.post("/api/v1/jobs", &json!({"topic": WORK, "input": {"ms": 1}}));
        (answer.status == 202).then(|| answer.of::<busbar_api::SubmitReply>(202).job_id)
    })
}

fn configure(stack: &Stack, name: &str, value: &str) {
    assert_eq!(redis(stack, &format!("CONFIG SET {name} {value}"), ""), "+OK");
}

fn memory(stack: &Stack) -> u64 {
    number(stack, "memory", "used_memory:")
}

fn evicted(stack: &Stack) -> u64 {
    number(stack, "stats", "evicted_keys:")
}

fn number(stack: &Stack, section: &str, name: &str) -> u64 {
    redis(stack, &format!("INFO {section}"), name).trim_start_matches(name).parse().unwrap()
}

/// The first line of the answer to a command that begins with this.
fn redis(stack: &Stack, command: &str, begins: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", stack.redis.port())).unwrap();
    stream.write_all(format!("{command}\r\n").as_bytes()).unwrap();
    let lines = BufReader::new(stream).lines().map(Result::unwrap);
    lines.map(|line| line.trim_end().to_owned()).find(|line| line.starts_with(begins)).unwrap()
}
