//! Leases: one owner at a time, by the time of Redis.

use std::time::Duration;

use busbar_protocol::ports::{Lease, Records};

use crate::server::Server;

const LONG: Duration = Duration::from_secs(60);

async fn lease(server: &Server, owner: &str, ttl: Duration) -> Lease {
    server.store.lease("lock:s", owner, ttl).await.expect("answered")
}

#[tokio::test]
async fn one_owner_at_a_time() {
    let server = Server::start().await;
    let first = lease(&server, "a", LONG).await;
    assert_eq!(first, Lease { held: true, epoch: 1, remaining: LONG, owner: "a".into() });
    let other = lease(&server, "b", LONG).await;
    assert_eq!((other.held, other.epoch, other.owner.as_str()), (false, 1, "a"));
    assert!(other.remaining <= LONG && other.remaining > Duration::from_secs(30), "{:?}", other.remaining);
    assert_eq!(lease(&server, "a", LONG).await.epoch, 1);
}

#[tokio::test]
async fn a_released_lease_is_free_and_its_epoch_never_comes_again() {
    let server = Server::start().await;
    lease(&server, "a", LONG).await;
    server.store.release("lock:s", "b").await.expect("answered");
    assert!(!lease(&server, "b", LONG).await.held);
    server.store.release("lock:s", "a").await.expect("answered");
    server.store.release("lock:s", "a").await.expect("answered");
    let again = lease(&server, "a", LONG).await;
    assert_eq!((again.held, again.epoch), (true, 2));
}

#[tokio::test]
async fn a_lease_that_has_run_out_is_taken_over() {
    let server = Server::start().await;
    lease(&server, "a", Duration::from_millis(200)).await;
    let take_over = async {
        loop {
            let asked = lease(&server, "b", LONG).await;
            if asked.held {
                return asked;
            }
            assert_eq!((asked.owner.as_str(), asked.epoch), ("a", 1));
        }
    };
    let taken = tokio::time::timeout(LONG, take_over).await.expect("taken over in time");
    assert_eq!((taken.epoch, taken.owner.as_str()), (2, "b"));
    let old = lease(&server, "a", LONG).await;
    assert_eq!((old.held, old.epoch, old.owner.as_str()), (false, 2, "b"));
}

#[tokio::test]
async fn time_is_that_of_the_store() {
    let server = Server::start().await;
    let before = busbar_protocol::time::Timestamp::wall_clock();
    let time = server.store.time().await.expect("a time");
    assert!(time.since(before) < LONG && before.since(time) < LONG, "{time} {before}");
}
