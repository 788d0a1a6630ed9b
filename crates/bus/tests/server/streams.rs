//! The streams on a real server: durable publication, consumers, settlement, what exists and differs.

use std::time::Duration;

use crate::support::{PATIENCE, Server, drain, next, pull_some};
use busbar_bus::{BusConfig, CONSUMER, NatsBus, StreamLimits};
use busbar_protocol::ports::{Bus, BusError, Headers, NOT_STORED, PullConsumer, Settlement};
use busbar_protocol::subjects::{HANDSHAKE, RESULT, SUBMIT, Stream};
use bytes::Bytes;

fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn store(bus: &NatsBus, subject: &str, what: &str) {
    bus.publish_durable(subject, what, Headers::new(), text(what)).await.expect("stored");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_stored_is_delivered_once_settled_and_gone() {
    let server = Server::start();
    let bus = server.bus().await;
    let mut consumer = bus.consume(Stream::Submissions).await.expect("consumes");
    for number in 0..100 {
        let headers = Headers::from([("traceparent".to_owned(), format!("00-{number}"))]);
        bus.publish_durable(SUBMIT, &number.to_string(), headers, text(&number.to_string())).await.expect("stored");
    }
    let mut batch = Vec::new();
    while batch.len() < 100 {
        batch.extend(pull_some(&mut consumer, 100).await);
    }
    assert_eq!(batch.len(), 100, "each comes once");
    for (number, delivery) in batch.iter().enumerate() {
        assert_eq!((delivery.message.subject.as_str(), delivery.deliveries), (SUBMIT, 1));
        assert_eq!(delivery.message.payload, text(&number.to_string()));
        assert_eq!(delivery.message.headers.get("traceparent"), Some(&format!("00-{number}")));
        bus.settle(delivery, Settlement::Ack).await.expect("settles");
    }
    assert_eq!(consumer.pull(10, Duration::from_millis(50)).await.expect("pulls"), []);
    bus.round_trip().await.expect("round trip");
    let emptied = async { while bus.stream_state(Stream::Submissions).await.expect("state").messages > 0 {} };
    tokio::time::timeout(PATIENCE, emptied).await.expect("acknowledged messages leave the stream");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_waits_for_the_first_message() {
    let server = Server::start();
    let (bus, other) = (server.bus().await, server.bus().await);
    let mut consumer = bus.consume(Stream::Results).await.expect("consumes");
    let pulling = tokio::spawn(async move { consumer.pull(10, PATIENCE).await });
    other.round_trip().await.expect("round trip");
    store(&other, RESULT, "a").await;
    let batch = pulling.await.expect("task").expect("pulls");
    assert_eq!(batch.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nak_comes_again_and_term_never() {
    let server = Server::start();
    let bus = server.bus().await;
    let mut consumer = bus.consume(Stream::Submissions).await.expect("consumes");
    for what in ["again", "later", "never"] {
        store(&bus, SUBMIT, what).await;
    }
    let batch = pull_some(&mut consumer, 10).await;
    assert_eq!(batch.len(), 3);
    bus.settle(&batch[0], Settlement::Nak(Duration::ZERO)).await.expect("settles");
    bus.settle(&batch[1], Settlement::Nak(Duration::from_millis(300))).await.expect("settles");
    bus.settle(&batch[2], Settlement::Term).await.expect("settles");
    let mut again = Vec::new();
    while again.len() < 2 {
        for delivery in pull_some(&mut consumer, 10).await {
            bus.settle(&delivery, Settlement::Ack).await.expect("settles");
            again.push((delivery.message.payload.clone(), delivery.deliveries));
        }
    }
    assert_eq!(again, [(text("again"), 2), (text("later"), 2)]);
    // Longer than the time after which something that was only delivered would come again.
    assert_eq!(consumer.pull(10, Duration::from_secs(3)).await.expect("pulls"), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_settled_is_delivered_again_with_its_count() {
    let server = Server::start();
    let bus = server.bus().await;
    let mut consumer = bus.consume(Stream::Submissions).await.expect("consumes");
    store(&bus, SUBMIT, "a").await;
    for count in 1..=2 {
        let batch = pull_some(&mut consumer, 10).await;
        assert_eq!((batch.len(), batch[0].deliveries), (1, count));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_known_id_is_stored_once_but_heard_by_all() {
    let server = Server::start();
    let bus = server.bus().await;
    let mut consumer = bus.consume(Stream::Results).await.expect("consumes");
    let mut listener = bus.subscribe(RESULT, None).await.expect("subscribes");
    for _ in 0..2 {
        bus.publish_durable(RESULT, "same", Headers::new(), text("a")).await.expect("stored");
        next(&mut listener).await;
    }
    assert_eq!(pull_some(&mut consumer, 10).await.len(), 1);
    assert_eq!(bus.stream_state(Stream::Results).await.expect("state").last_sequence, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_to_be_stored_is_heard_and_not_stored() {
    let server = Server::start();
    let bus = server.bus().await;
    let mut consumer = bus.consume(Stream::Results).await.expect("consumes");
    let mut listener = bus.subscribe(RESULT, None).await.expect("subscribes");
    let headers = Headers::from([(NOT_STORED.0.to_owned(), NOT_STORED.1.to_owned())]);
    bus.publish(RESULT, headers, text("heard")).await.expect("sent");
    assert_eq!(next(&mut listener).await.payload, text("heard"));
    store(&bus, RESULT, "kept").await;
    let batch = pull_some(&mut consumer, 10).await;
    assert_eq!(batch.iter().map(|delivery| delivery.message.payload.clone()).collect::<Vec<_>>(), [text("kept")]);
    assert_eq!(bus.stream_state(Stream::Results).await.expect("state").last_sequence, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_stream_a_durable_publication_says_so() {
    let server = Server::start();
    let bus = server.bus().await;
    let refused = bus.publish_durable(SUBMIT, "a", Headers::new(), text("a")).await;
    assert_eq!(refused, Err(BusError::NoResponders { subject: SUBMIT.to_owned() }));
    bus.ensure_streams().await.expect("streams");
    bus.ensure_streams().await.expect("a second time");
    store(&bus, SUBMIT, "a").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_work_queue_refuses() {
    let server = Server::start();
    let streams = StreamLimits { work_queue_messages_max: 2, ..server.config().streams };
    let bus = NatsBus::connect(BusConfig { streams, ..server.config() }).await.expect("connects");
    bus.ensure_streams().await.expect("streams");
    store(&bus, SUBMIT, "a").await;
    store(&bus, SUBMIT, "b").await;
    let refused = bus.publish_durable(SUBMIT, "c", Headers::new(), text("c")).await;
    assert!(matches!(&refused, Err(BusError::Unavailable { detail }) if detail.contains("maximum messages")), "{refused:?}");
    let state = bus.stream_state(Stream::Submissions).await.expect("state");
    assert_eq!((state.messages, state.messages_max), (2, Some(2)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_or_consumer_that_differs_is_refused_and_the_difference_named() {
    let server = Server::start();
    let bus = server.bus().await;
    drop(bus.consume(Stream::Submissions).await.expect("consumes"));
    let with = |change: fn(&mut StreamLimits)| {
        let mut config = server.config();
        change(&mut config.streams);
        async move { NatsBus::connect(config).await.expect("connects").consume(Stream::Submissions).await.map(drop) }
    };
    let error = with(|limits| limits.work_queue_bytes_max += 1).await.expect_err("differs").to_string();
    assert!(error.contains("BUSBAR_SUBMISSIONS") && error.contains("max_bytes is 8388608 and should be 8388609"), "{error}");
    let error = with(|limits| limits.ack_wait *= 2).await.expect_err("differs").to_string();
    assert!(error.contains(CONSUMER) && error.contains("ack_wait is 2s and should be 4s"), "{error}");
    with(|_| ()).await.expect("the same again is fine");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_may_create_the_streams_at_once() {
    let server = Server::start();
    let mut buses = Vec::new();
    for _ in 0..4 {
        buses.push(server.bus().await);
    }
    let creating = buses.iter().map(|bus| async {
        bus.ensure_streams().await.expect("streams");
        bus.consume(Stream::Submissions).await.expect("consumes")
    });
    futures::future::join_all(creating).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_consumers_share_a_work_queue() {
    let server = Server::start();
    let (bus, other) = (server.bus().await, server.bus().await);
    let mut first = bus.consume(Stream::Submissions).await.expect("consumes");
    let mut second = other.consume(Stream::Submissions).await.expect("consumes");
    for number in 0..20 {
        store(&bus, SUBMIT, &number.to_string()).await;
    }
    let batch = pull_some(&mut first, 10).await;
    let rest = pull_some(&mut second, 20).await;
    let mut all: Vec<_> = batch.iter().chain(&rest).map(|delivery| delivery.message.payload.clone()).collect();
    all.sort();
    all.dedup();
    assert_eq!((batch.len(), rest.len(), all.len()), (10, 10, 20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_are_read_from_the_start_by_everyone_and_in_order() {
    let server = Server::start();
    let bus = server.bus().await;
    bus.ensure_streams().await.expect("streams");
    for number in 0..50 {
        store(&bus, HANDSHAKE, &number.to_string()).await;
    }
    let expected: Vec<String> = (0..50).map(|number| number.to_string()).collect();
    for _ in 0..2 {
        let mut reader = bus.consume(Stream::Handshakes).await.expect("consumes");
        assert_eq!(drain(&bus, &mut reader, 50).await, expected);
        assert_eq!(reader.pull(10, Duration::from_millis(50)).await.expect("pulls"), []);
    }
}

/// What was pulled on behalf of a future that is gone is still there for the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_pull_loses_nothing() {
    let server = Server::start();
    let bus = server.bus().await;
    let mut consumer = bus.consume(Stream::Submissions).await.expect("consumes");
    let mut numbers = Vec::new();
    for number in 0..200 {
        store(&bus, SUBMIT, &number.to_string()).await;
        let short = Duration::from_micros(number * 7);
        if let Ok(batch) = tokio::time::timeout(short, consumer.pull(10, PATIENCE)).await {
            for delivery in batch.expect("pulls") {
                assert_eq!(delivery.deliveries, 1);
                bus.settle(&delivery, Settlement::Ack).await.expect("settles");
                numbers.push(delivery.message.payload);
            }
        }
    }
    while numbers.len() < 200 {
        for delivery in pull_some(&mut consumer, 64).await {
            assert_eq!(delivery.deliveries, 1, "nothing had to come a second time");
            bus.settle(&delivery, Settlement::Ack).await.expect("settles");
            numbers.push(delivery.message.payload);
        }
    }
    let expected: Vec<Bytes> = (0..200).map(|number: i32| text(&number.to_string())).collect();
    assert_eq!(numbers, expected);
}

/// What a consumer still held when it was dropped goes back at once, not after the acknowledgement time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_consumer_gives_back_what_it_held() {
    let server = Server::start();
    let mut config = server.config();
    config.streams.ack_wait = PATIENCE * 10;
    let bus = NatsBus::connect(config).await.expect("connects");
    let mut consumer = bus.consume(Stream::Submissions).await.expect("consumes");
    let mut other = bus.consume(Stream::Submissions).await.expect("consumes");
    // Nothing is there yet, but the request stays at the server and brings the message into the consumer.
    assert_eq!(consumer.pull(10, Duration::ZERO).await.expect("pulls"), []);
    bus.round_trip().await.expect("round trip");
    store(&bus, SUBMIT, "a").await;
    bus.round_trip().await.expect("round trip");
    drop(consumer);
    let batch = pull_some(&mut other, 10).await;
    assert_eq!(batch[0].message.payload, text("a"));
}
