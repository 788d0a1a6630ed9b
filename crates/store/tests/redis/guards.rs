//! Every guard: holds, does not hold, and is judged before anything is written.

use std::time::Duration;

use busbar_protocol::ports::{Answer, CommitClass, Guard, Records, StoreError};

use crate::server::{APPLIED, Server, absent, count, put, revision, unit};

fn conflict(guard: usize) -> Answer {
    Answer::Conflict { guard }
}

fn failed(guard: usize) -> Answer {
    Answer::GuardFailed { guard }
}

#[tokio::test]
async fn absent_and_exists() {
    let server = Server::start().await;
    let exists = |key: &str| Guard::Exists { key: key.into() };
    assert_eq!(server.commit(unit([absent("k")], [put("k", 1, "a")])).await, APPLIED);
    assert_eq!(server.commit(unit([absent("k")], [put("k", 1, "b")])).await, failed(0));
    assert_eq!(server.commit(unit([exists("k"), exists("other")], [count("n", 1)])).await, failed(1));
    assert_eq!(server.commit(unit([exists("k")], [count("n", 1)])).await, APPLIED);
    let read = server.store.read(vec!["k".into(), "other".into()]).await.expect("read");
    assert_eq!(read[0].as_ref().map(|record| record.value.as_ref()), Some(b"a".as_slice()));
    assert_eq!(read[1], None);
}

#[tokio::test]
async fn revisions_of_the_subject_and_of_others() {
    let server = Server::start().await;
    assert_eq!(server.commit(unit([absent("k")], [put("k", 1, "a"), put("j", 1, "a")])).await, APPLIED);
    assert_eq!(server.commit(unit([revision("k", 2)], [put("k", 3, "b")])).await, conflict(0));
    assert_eq!(server.commit(unit([revision("k", 1)], [put("k", 2, "b")])).await, APPLIED);
    assert_eq!(server.commit(unit([revision("k", 1)], [put("k", 2, "c")])).await, conflict(0));
    assert_eq!(server.commit(unit([revision("k", 2), revision("j", 2)], [put("k", 3, "c")])).await, conflict(1));
    assert_eq!(server.commit(unit([revision("k", 2), revision("j", 1)], [put("k", 3, "c"), put("j", 2, "c")])).await, APPLIED);
    assert_eq!(server.commit(unit([revision("gone", 1)], [put("gone", 2, "c")])).await, conflict(0));
    let read = server.store.read(vec!["k".into(), "j".into()]).await.expect("read");
    let revisions: Vec<_> = read.iter().flatten().map(|record| record.revision).collect();
    assert_eq!(revisions, [3, 2]);
}

#[tokio::test]
async fn counters_have_a_bound() {
    let server = Server::start().await;
    let below = |bound| Guard::CounterBelow { key: "n".into(), bound };
    assert_eq!(server.commit(unit([below(0)], [count("n", 1)])).await, failed(0));
    assert_eq!(server.commit(unit([below(1)], [count("n", 2)])).await, APPLIED);
    assert_eq!(server.commit(unit([below(2)], [count("n", 1)])).await, failed(0));
    assert_eq!(server.commit(unit([below(3)], [count("n", -5)])).await, APPLIED);
    assert_eq!(server.commit(unit([below(-3)], [count("n", 1)])).await, failed(0));
    assert_eq!(server.say("GET n"), "$2\r\n-3\r\n");
}

#[tokio::test]
async fn the_epoch_fences_the_old_owner() {
    let server = Server::start().await;
    let epoch = |epoch| Guard::Epoch { lock: "lock:s".into(), epoch };
    assert_eq!(server.commit(unit([epoch(1)], [put("k", 1, "a")])).await, failed(0));
    let first = server.store.lease("lock:s", "a", Duration::from_secs(60)).await.expect("leased");
    assert_eq!(server.commit(unit([epoch(first.epoch)], [put("k", 1, "a")])).await, APPLIED);
    server.store.release("lock:s", "a").await.expect("released");
    assert_eq!(server.commit(unit([epoch(first.epoch)], [put("k", 2, "a")])).await, APPLIED);
    let second = server.store.lease("lock:s", "b", Duration::from_secs(60)).await.expect("leased");
    assert_eq!(server.commit(unit([epoch(first.epoch)], [put("k", 3, "a")])).await, failed(0));
    assert_eq!(server.commit(unit([epoch(second.epoch)], [put("k", 3, "b")])).await, APPLIED);
}

fn bucket(key: &str, per_second: u32, burst: u32, cost: u32) -> Guard {
    Guard::TokenBucket { key: key.into(), per_second, burst, cost }
}

#[tokio::test]
async fn a_bucket_is_emptied_only_by_units_that_are_applied() {
    let server = Server::start().await;
    let take = |cost| bucket("b", 0, 5, cost);
    assert_eq!(server.commit(unit([take(3), absent("k")], [put("k", 1, "a")])).await, APPLIED);
    assert_eq!(server.commit(unit([take(2), absent("k")], [put("k", 1, "a")])).await, failed(1));
    assert_eq!(server.commit(unit([take(3)], [count("n", 1)])).await, failed(0));
    // Twice in one unit: both are paid.
    assert_eq!(server.commit(unit([take(1), take(2)], [count("n", 1)])).await, failed(1));
    assert_eq!(server.commit(unit([take(1), take(1)], [count("n", 1)])).await, APPLIED);
    assert_eq!(server.commit(unit([take(1)], [count("n", 1)])).await, failed(0));
    assert_eq!(server.commit(unit([take(0)], [count("n", 1)])).await, APPLIED);
    assert_eq!(server.commit(unit([bucket("other", 9, 5, 6)], [count("n", 1)])).await, failed(0));
}

#[tokio::test]
async fn a_bucket_refills_with_time_and_is_forgotten_when_full() {
    let server = Server::start().await;
    let slow = |cost| bucket("slow", 1, 60, cost);
    assert_eq!(server.commit(unit([slow(60)], [count("n", 1)])).await, APPLIED);
    assert_eq!(server.commit(unit([slow(60)], [count("n", 1)])).await, failed(0));
    wait_for("a token", async || server.commit(unit([slow(1)], [count("n", 1)])).await == APPLIED).await;
    assert_eq!(server.commit(unit([bucket("quick", 100, 10, 10)], [count("n", 1)])).await, APPLIED);
    wait_for("a full bucket", async || server.say("EXISTS quick") == ":0\r\n").await;
    assert_eq!(server.commit(unit([bucket("quick", 100, 10, 10)], [count("n", 1)])).await, APPLIED);
}

#[tokio::test]
async fn a_guard_on_something_else_refuses_the_unit() {
    let server = Server::start().await;
    server.say("RPUSH list x");
    server.say("SET text x");
    let guards = [
        bucket("list", 1, 1, 1),
        bucket("text", 1, 1, 1),
        revision("list", 1),
        Guard::CounterBelow { key: "text".into(), bound: 1 },
        Guard::Epoch { lock: "text".into(), epoch: 1 },
    ];
    for guard in guards {
        let refused = server.store.commit(CommitClass::Advance, vec![unit([guard.clone()], [put("k", 1, "a")])]).await;
        assert!(matches!(refused, Err(StoreError::Refused { .. })), "{guard:?}: {refused:?}");
    }
    // The tokens of a bucket are no counter.
    let counted = server.store.commit(CommitClass::Advance, vec![unit([bucket("b", 1, 2, 1)], [count("b", 1)])]).await;
    assert!(matches!(counted, Err(StoreError::Refused { .. })), "{counted:?}");
    assert_eq!(server.say("EXISTS k b"), ":0\r\n");
}

async fn wait_for(what: &str, mut reached: impl AsyncFnMut() -> bool) {
    let reach = async { while !reached().await {} };
    tokio::time::timeout(Duration::from_secs(60), reach).await.unwrap_or_else(|_| panic!("no {what} in time"));
}
