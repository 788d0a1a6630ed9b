//! A server that is short of memory, killed, frozen or emptied.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use busbar_protocol::ports::{Answer, CommitClass, Records, StoreError};
use busbar_store::Store;
use bytes::Bytes;
use tokio::task::JoinHandle;

use crate::server::{APPLIED, Server, absent, put, revision, unit};

const DEADLINE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn short_memory_refuses_new_work_and_lets_work_drain() {
    let server = Server::start().await;
    assert_eq!(server.commit(unit([], [put("k", 1, "a")])).await, APPLIED);
    server.say("CONFIG SET maxmemory 1");
    let admit = server.store.commit(CommitClass::Admit, vec![unit([absent("n")], [put("n", 1, "a")])]).await;
    assert_eq!(admit, Err(StoreError::MemoryShort));
    assert_eq!(server.store.put_payload("p", Bytes::from_static(b"x"), None).await, Err(StoreError::MemoryShort));
    assert_eq!(server.store.put_result("res", Bytes::from_static(b"done"), DEADLINE).await, Ok(()), "it ends work that is there");
    assert_eq!(server.store.payloads(vec!["res".into()]).await, Ok(vec![Some(Bytes::from_static(b"done"))]));
    let grow = server.store.append_payload("p", Bytes::from_static(b"x"), 10, DEADLINE).await;
    assert_eq!(grow, Err(StoreError::MemoryShort));
    assert_eq!(server.commit(unit([revision("k", 1)], [put("k", 2, "b")])).await, APPLIED);
    assert!(server.store.lease("lock:s", "a", DEADLINE).await.expect("leased").held);
    assert_eq!(server.store.read(vec!["n".into()]).await, Ok(vec![None]));
    server.say("CONFIG SET maxmemory 0");
    let admit = server.store.commit(CommitClass::Admit, vec![unit([absent("n")], [put("n", 1, "a")])]).await;
    assert_eq!(admit, Ok(vec![APPLIED]));
}

#[tokio::test]
async fn a_lost_library_is_loaded_again() {
    let server = Server::start().await;
    server.say("FUNCTION FLUSH");
    assert_eq!(server.commit(unit([], [put("k", 1, "a")])).await, APPLIED);
    server.say("FUNCTION FLUSH");
    assert!(server.store.lease("lock:s", "a", DEADLINE).await.expect("leased").held);
}

#[tokio::test]
async fn a_dead_server_makes_calls_fail_in_time() {
    let server = Server::start().await;
    server.redis.kill9();
    let result = tokio::time::timeout(DEADLINE, server.store.commit(CommitClass::Advance, vec![unit([], [put("k", 1, "a")])]));
    assert!(matches!(result.await, Ok(Err(StoreError::Unavailable { .. }))));
    let read = tokio::time::timeout(DEADLINE, server.store.read(vec!["k".into()]));
    assert!(matches!(read.await, Ok(Err(StoreError::Unavailable { .. }))));
    server.redis.restart().expect("running again");
    until_available(&server.store).await;
}

#[tokio::test]
async fn a_frozen_server_makes_calls_fail_in_time() {
    let server = Server::start().await;
    server.redis.pause().expect("paused");
    let result = tokio::time::timeout(DEADLINE, server.store.commit(CommitClass::Advance, vec![unit([], [put("k", 1, "a")])]));
    assert!(matches!(result.await, Ok(Err(StoreError::Unavailable { .. }))));
    server.redis.resume().expect("resumed");
    until_available(&server.store).await;
}

async fn until_available(store: &Store) {
    let ready = async { while store.ping().await.is_err() {} };
    tokio::time::timeout(DEADLINE, ready).await.expect("available again");
}

/// Writers commit all the time while the server is killed and started again, three times. A commit whose answer was lost is
/// repeated with the same id until it is answered; nothing that was acknowledged may be lost, nothing applied twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_by_kills() {
    let server = Server::start().await;
    let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writers: Vec<_> = (0..8).map(|writer| spawn_writer(&server.store, writer, &stop, &acknowledged)).collect();
    for _ in 0..3 {
        until_more(&acknowledged, 500).await;
        server.redis.kill9();
        server.redis.restart().expect("running again");
    }
    until_more(&acknowledged, 500).await;
    stop.store(true, Ordering::Relaxed);
    for (writer, handle) in writers.into_iter().enumerate() {
        let last = tokio::time::timeout(DEADLINE, handle).await.expect("done in time").expect("a sound writer");
        let read = server.store.read(vec![format!("k{writer}")]).await.expect("read").remove(0).expect("a record");
        assert_eq!(read.revision, last, "writer {writer}");
        assert_eq!(server.say(&format!("GET n{writer}")), format!("${}\r\n{last}\r\n", last.to_string().len()));
    }
}

async fn until_more(acknowledged: &AtomicU64, more: u64) {
    let goal = acknowledged.load(Ordering::Relaxed) + more;
    let reach = async {
        while acknowledged.load(Ordering::Relaxed) < goal {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, reach).await.expect("commits go on");
}

/// Raises the revision of its own record until it is told to stop; answers with the last one that was acknowledged.
fn spawn_writer(store: &Store, writer: u64, stop: &Arc<AtomicBool>, acknowledged: &Arc<AtomicU64>) -> JoinHandle<u64> {
    let (store, stop, acknowledged) = (store.clone(), stop.clone(), acknowledged.clone());
    tokio::spawn(async move {
        let (key, counter) = (format!("k{writer}"), format!("n{writer}"));
        let mut last = 0;
        while !stop.load(Ordering::Relaxed) {
            let guard = if last == 0 { absent(&key) } else { revision(&key, last) };
            let next = unit([guard], [put(&key, last + 1, "a"), crate::server::count(&counter, 1)]);
            let answer = loop {
                match store.commit(CommitClass::Advance, vec![next.clone()]).await {
                    Ok(answers) => break answers[0].clone(),
                    Err(StoreError::Unavailable { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
            };
            assert!(matches!(answer, Answer::Applied { .. } | Answer::Already), "{answer:?}");
            last += 1;
            acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        last
    })
}
