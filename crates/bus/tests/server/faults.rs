//! What a killed, restarted, frozen or emptied nats-server does to the bus.

use std::time::Duration;

use crate::support::{PATIENCE, Server, drain, next, pull_some};
use busbar_bus::{BusConfig, NatsBus};
use busbar_protocol::ports::{Bus, BusError, Connection, Headers, PullConsumer};
use busbar_protocol::subjects::{HANDSHAKE, SUBMIT, Stream};
use bytes::Bytes;
use tokio::sync::watch;

fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn until(connection: &mut watch::Receiver<Connection>, what: impl FnMut(&Connection) -> bool) {
    tokio::time::timeout(PATIENCE, connection.wait_for(what)).await.expect("in time").expect("followed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_kill_everything_lives_again_and_nothing_acknowledged_is_lost() {
    let server = Server::start();
    let (bus, other) = (server.bus().await, server.bus().await);
    let mut connection = bus.connection();
    assert_eq!(*connection.borrow(), Connection { connected: true, generation: 1 });
    let mut subscription = bus.subscribe("a", None).await.expect("subscribes");
    let mut consumer = bus.consume(Stream::Submissions).await.expect("consumes");
    let mut reader = bus.consume(Stream::Handshakes).await.expect("consumes");
    for number in 0..100 {
        other.publish_durable(SUBMIT, &number.to_string(), Headers::new(), text(&number.to_string())).await.expect("stored");
    }
    other.publish_durable(HANDSHAKE, "w", Headers::new(), text("w")).await.expect("stored");
    assert_eq!(pull_some(&mut reader, 10).await.len(), 1);
    // Some are delivered and not settled when the server dies.
    assert_eq!(pull_some(&mut consumer, 10).await.len(), 10);

    server.nats.kill9();
    until(&mut connection, |state| !state.connected).await;
    assert!(matches!(bus.publish("a", Headers::new(), Bytes::new()).await, Err(BusError::Unavailable { .. })));
    assert!(matches!(bus.round_trip().await, Err(BusError::Unavailable { .. })));
    assert!(matches!(consumer.pull(1, Duration::from_millis(50)).await, Err(BusError::Unavailable { .. })));
    // A request and a durable publication wait for the server within their time.
    let waiting = {
        let bus = bus.clone();
        tokio::spawn(async move { bus.publish_durable(SUBMIT, "last", Headers::new(), text("100")).await })
    };
    server.nats.restart().expect("restarts");
    until(&mut connection, |state| state.connected && state.generation == 2).await;
    waiting.await.expect("task").expect("stored after the restart");

    let mut seen = drain(&bus, &mut consumer, 101).await;
    seen.sort_by_key(|number| number.parse::<u32>().expect("number"));
    assert_eq!(seen, (0..=100).map(|number| number.to_string()).collect::<Vec<_>>());
    other.publish_durable(HANDSHAKE, "v", Headers::new(), text("v")).await.expect("stored");
    let fresh = pull_some(&mut reader, 10).await;
    assert_eq!((fresh.len(), &fresh[0].message.payload), (1, &text("v")), "the reader goes on after the last one");

    other.round_trip().await.expect("round trip");
    bus.round_trip().await.expect("round trip");
    other.publish("a", Headers::new(), text("alive")).await.expect("publishes");
    assert_eq!(next(&mut subscription).await.payload, text("alive"));
}

/// Publishes that many messages of each batch; the next batch begins when a kill has begun, so that every kill meets load.
async fn publish_batches(bus: impl Bus, progress: watch::Sender<u32>, mut kills: watch::Receiver<u32>) {
    for number in 0..KILLS * BATCH {
        let begun = kills.wait_for(|kills| *kills >= number / BATCH);
        tokio::time::timeout(PATIENCE, begun).await.expect("in time").expect("killer");
        let id = number.to_string();
        // The id makes repeating safe.
        while bus.publish_durable(SUBMIT, &id, Headers::new(), text(&id)).await.is_err() {
            tokio::task::yield_now().await;
        }
        progress.send_replace(number + 1);
    }
}

const KILLS: u32 = 4;
const BATCH: u32 = 250;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_under_load_lose_nothing_acknowledged() {
    let server = Server::start();
    let bus = server.bus().await;
    let mut consumer = bus.consume(Stream::Submissions).await.expect("consumes");
    let progress = watch::Sender::new(0);
    let kills = watch::Sender::new(0);
    let publisher = tokio::spawn(publish_batches(server.bus().await, progress.clone(), kills.subscribe()));
    let mut published = progress.subscribe();
    let killer = async {
        for kill in 0..KILLS {
            let loaded = published.wait_for(|published| *published >= kill * BATCH + BATCH / 2);
            tokio::time::timeout(PATIENCE, loaded).await.expect("load goes on").expect("publisher");
            tokio::task::block_in_place(|| {
                server.nats.kill9();
                kills.send_replace(kill + 1);
                server.nats.restart().expect("restarts");
            });
        }
    };
    let expected = (KILLS * BATCH) as usize;
    let (seen, ()) = tokio::join!(drain(&bus, &mut consumer, expected), killer);
    publisher.await.expect("publisher");
    assert_eq!(seen.len(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_freeze_is_sat_out() {
    let server = Server::start();
    // With the usual interval a machine that is busy enough could make the freeze a long one.
    let config = BusConfig { ping_interval: Duration::from_secs(30), ..server.config() };
    let bus = NatsBus::connect(config).await.expect("connects");
    let mut consumer = bus.consume(Stream::Submissions).await.expect("consumes");
    let mut subscription = bus.subscribe("a", None).await.expect("subscribes");
    server.nats.pause().expect("freezes");
    // The signal reaches the server's threads a moment later: until then it still answers that nobody listens.
    let frozen = async {
        let waited = Duration::from_millis(100);
        while !matches!(bus.request("b", Headers::new(), Bytes::new(), waited).await, Err(BusError::TimedOut { .. })) {}
    };
    tokio::time::timeout(PATIENCE, frozen).await.expect("frozen");
    bus.publish("a", Headers::new(), text("late")).await.expect("is under way");
    tokio::time::sleep(Duration::from_secs(3)).await;
    server.nats.resume().expect("goes on");
    assert_eq!(next(&mut subscription).await.payload, text("late"));
    bus.publish_durable(SUBMIT, "a", Headers::new(), text("a")).await.expect("stored");
    assert_eq!(pull_some(&mut consumer, 10).await.len(), 1);
    assert_eq!(bus.connection().borrow().generation, 1, "the connection was not given up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_freeze_is_noticed_and_outlived() {
    let server = Server::start();
    let bus = server.bus().await;
    let mut connection = bus.connection();
    let mut consumer = bus.consume(Stream::Submissions).await.expect("consumes");
    server.nats.pause().expect("freezes");
    let since = std::time::Instant::now();
    until(&mut connection, |state| !state.connected).await;
    eprintln!("freeze noticed after {:?}", since.elapsed());
    server.nats.resume().expect("goes on");
    until(&mut connection, |state| state.connected).await;
    bus.publish_durable(SUBMIT, "a", Headers::new(), text("a")).await.expect("stored");
    assert_eq!(pull_some(&mut consumer, 10).await.len(), 1);
}

/// Somebody deletes consumer and stream under our hands: both are made again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_deleted_is_made_again() {
    let server = Server::start();
    let bus = server.bus().await;
    let mut consumer = bus.consume(Stream::Submissions).await.expect("consumes");
    let mut reader = bus.consume(Stream::Handshakes).await.expect("consumes");
    for stream in [Stream::Submissions, Stream::Handshakes] {
        let subject = format!("$JS.API.STREAM.DELETE.{}", stream.name());
        bus.request(&subject, Headers::new(), Bytes::new(), PATIENCE).await.expect("deleted");
    }
    let publish = async {
        for (subject, id) in [(SUBMIT, "a"), (HANDSHAKE, "b")] {
            while bus.publish_durable(subject, id, Headers::new(), text(id)).await.is_err() {
                tokio::task::yield_now().await;
            }
        }
    };
    let ((), batch, read) = tokio::join!(publish, pull_some(&mut consumer, 10), pull_some(&mut reader, 10));
    assert_eq!((batch.len(), read.len()), (1, 1));
    let subject = format!("$JS.API.CONSUMER.DELETE.{}.{}", Stream::Results.name(), busbar_bus::CONSUMER);
    let mut results = bus.consume(Stream::Results).await.expect("consumes");
    bus.request(&subject, Headers::new(), Bytes::new(), PATIENCE).await.expect("deleted");
    bus.publish_durable(Stream::Results.subject(), "r", Headers::new(), text("r")).await.expect("stored");
    assert_eq!(pull_some(&mut results, 10).await.len(), 1);
}
