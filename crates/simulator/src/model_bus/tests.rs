//! The model keeps the promises of the port, and breaks what it may break only when told to.

use std::time::Duration;

use busbar_protocol::ports::{Bus, BusError, Connection, Headers, Message, PullConsumer, Settlement, Subscription};
use busbar_protocol::subjects::{HANDSHAKE, RESULT, SUBMIT, Stream};
use bytes::Bytes;
use futures::{FutureExt, StreamExt};

use super::stream::ACK_WAIT;
use super::{BusCounters, BusFaults, ModelBus, ModelClient};
use crate::chaos::Chaos;

fn model(seed: u64) -> ModelBus {
    ModelBus::new(Chaos::new(seed))
}

fn text(number: u64) -> Bytes {
    Bytes::from(number.to_string())
}

async fn publish(client: &ModelClient, subject: &str, number: u64) {
    client.publish(subject, Headers::new(), text(number)).await.expect("publishes");
}

/// What is there already. Unconstrained, or else tokio would say after 128 messages that there are no more.
fn take_all(subscription: &mut Subscription) -> Vec<Message> {
    std::iter::from_fn(|| tokio::task::unconstrained(subscription.next()).now_or_never().flatten()).collect()
}

#[tokio::test(start_paused = true)]
async fn without_faults_everything_arrives_in_order() {
    let bus = model(1);
    let (one, two) = (bus.client("one"), bus.client("two"));
    let mut plain = two.subscribe("a.*", None).await.expect("subscribes");
    let mut first = two.subscribe("a.b", Some("q")).await.expect("subscribes");
    let mut second = one.subscribe("a.b", Some("q")).await.expect("subscribes");
    for number in 0..100 {
        publish(&one, "a.b", number).await;
    }
    for number in 0..100 {
        assert_eq!(plain.next().await.expect("message").payload, text(number));
    }
    let (left, right) = (take_all(&mut first).len(), take_all(&mut second).len());
    assert!(left > 0 && right > 0 && left + right == 100, "{left} {right}");
    drop(plain);
    publish(&one, "a.c", 0).await;
    assert_eq!(bus.counters(), BusCounters { published: 101, delivered: 200, ..BusCounters::default() });
}

#[tokio::test(start_paused = true)]
async fn requests_are_answered_time_out_or_find_nobody() {
    let bus = model(1);
    let (asker, server) = (bus.client("asker"), bus.client("server"));
    let nobody = asker.request("q", Headers::new(), text(1), Duration::from_secs(1)).await;
    assert_eq!(nobody, Err(BusError::NoResponders { subject: "q".to_owned() }));
    let mut requests = server.subscribe("q", None).await.expect("subscribes");
    let waited = Duration::from_secs(1);
    let silent = asker.request("q", Headers::new(), text(1), waited).await;
    assert_eq!(silent, Err(BusError::TimedOut { subject: "q".to_owned(), waited }));
    requests.next().await.expect("the request that was not answered");
    tokio::spawn(async move {
        let request = requests.next().await.expect("request");
        server.publish(&request.reply.expect("reply"), Headers::new(), request.payload).await.expect("answers");
    });
    let answer = asker.request("q", Headers::new(), text(7), waited).await.expect("answer");
    assert_eq!(answer.payload, text(7));
    let inbox = asker.inbox();
    let mut answers = asker.subscribe(&inbox, None).await.expect("subscribes");
    asker.publish_with_reply("nobody.here", &inbox, Headers::new(), text(1)).await.expect("publishes");
    assert_eq!(answers.next().await.expect("word").headers.get("Status").map(String::as_str), Some("503"));
}

#[tokio::test(start_paused = true)]
async fn faults_drop_duplicate_and_reorder() {
    let bus = model(3);
    let client = bus.client("one");
    let mut tap = bus.tap(">");
    let mut heard = client.subscribe("a", None).await.expect("subscribes");
    bus.set_faults(BusFaults { drop_per_mille: 200, duplicate_per_mille: 200, delay_ms_max: 50, ..BusFaults::default() });
    for number in 0..1_000 {
        publish(&client, "a", number).await;
    }
    tokio::time::sleep(Duration::from_millis(60)).await;
    let numbers: Vec<Bytes> = take_all(&mut heard).into_iter().map(|message| message.payload).collect();
    let counters = bus.counters();
    assert!((150..250).contains(&counters.dropped) && (100..220).contains(&counters.duplicated), "{counters:?}");
    assert_eq!(numbers.len() as u64, counters.delivered);
    assert_eq!(counters.delivered, 1_000 - counters.dropped + counters.duplicated);
    let mut sorted = numbers.clone();
    sorted.sort_by_key(|number| String::from_utf8_lossy(number).parse::<u64>().expect("number"));
    assert_ne!(sorted, numbers, "reordered");
    assert_eq!(take_all(&mut tap).len(), 1_000, "a tap misses nothing");
}

#[tokio::test(start_paused = true)]
async fn a_disconnected_client_knows_and_hears_nothing() {
    let bus = model(1);
    let (one, two) = (bus.client("one"), bus.client("two"));
    let mut heard = two.subscribe("a", None).await.expect("subscribes");
    let mut connection = two.connection();
    bus.disconnect("two");
    connection.changed().await.expect("told");
    assert_eq!(*connection.borrow(), Connection { connected: false, generation: 1 });
    publish(&one, "a", 1).await;
    let waited = Duration::from_secs(1);
    assert!(matches!(two.request("b", Headers::new(), text(1), waited).await, Err(BusError::Unavailable { .. })));
    assert!(matches!(two.round_trip().await, Err(BusError::Unavailable { .. })));
    let mut refused = 0;
    for number in 0..100 {
        refused += usize::from(two.publish("a", Headers::new(), text(number)).await.is_err());
    }
    assert!((20..80).contains(&refused), "some are refused, some are lost: {refused}");
    bus.reconnect("two");
    assert_eq!(*two.connection().borrow(), Connection { connected: true, generation: 2 });
    publish(&one, "a", 2).await;
    assert_eq!(heard.next().await.expect("message").payload, text(2));
    assert!(heard.next().now_or_never().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_killed_client_is_gone_for_good() {
    let bus = model(1);
    let (one, two) = (bus.client("one"), bus.client("two"));
    let mut heard = two.subscribe("a", None).await.expect("subscribes");
    publish(&one, "a", 1).await;
    bus.kill("two");
    publish(&one, "a", 2).await;
    let patience = Duration::from_secs(3600);
    assert!(tokio::time::timeout(patience, heard.next()).await.is_err(), "neither a message nor the end");
    assert!(tokio::time::timeout(patience, two.publish("a", Headers::new(), text(1))).await.is_err());
    let reborn = bus.client("two");
    let mut heard = reborn.subscribe("a", None).await.expect("subscribes");
    publish(&one, "a", 3).await;
    assert_eq!(heard.next().await.expect("message").payload, text(3));
}

#[tokio::test(start_paused = true)]
async fn a_work_queue_delivers_until_settled() {
    let bus = model(1);
    let (one, two) = (bus.client("one"), bus.client("two"));
    let mut first = one.consume(Stream::Submissions).await.expect("consumes");
    let mut second = two.consume(Stream::Submissions).await.expect("consumes");
    for number in 0..4 {
        one.publish_durable(SUBMIT, &number.to_string(), Headers::new(), text(number)).await.expect("stored");
    }
    one.publish_durable(SUBMIT, "0", Headers::new(), text(0)).await.expect("recognised");
    let batch = first.pull(3, Duration::ZERO).await.expect("pulls");
    let rest = second.pull(3, Duration::ZERO).await.expect("pulls");
    assert_eq!((batch.len(), rest.len(), bus.counters().recognised), (3, 1, 1));
    one.settle(&batch[0], Settlement::Ack).await.expect("settles");
    one.settle(&batch[1], Settlement::Nak(Duration::from_secs(5))).await.expect("settles");
    two.settle(&rest[0], Settlement::Term).await.expect("settles");
    bus.kill("one");
    let since = tokio::time::Instant::now();
    let again = second.pull(3, Duration::from_secs(60)).await.expect("pulls");
    assert_eq!((again.len(), again[0].deliveries, &again[0].message.payload), (1, 2, &text(1)));
    assert_eq!(since.elapsed().as_secs(), 5);
    two.settle(&again[0], Settlement::Ack).await.expect("settles");
    let again = second.pull(3, Duration::from_secs(60)).await.expect("pulls");
    assert_eq!((again.len(), &again[0].message.payload), (1, &text(2)), "what the dead reader held");
    assert_eq!(since.elapsed().as_secs(), ACK_WAIT.as_secs());
    two.settle(&again[0], Settlement::Ack).await.expect("settles");
    assert_eq!(bus.stream_len(Stream::Submissions), 0);
}

#[tokio::test(start_paused = true)]
async fn a_pull_waits_for_a_message_that_anybody_publishes() {
    let bus = model(1);
    let (one, two) = (bus.client("one"), bus.client("two"));
    let mut consumer = one.consume(Stream::Results).await.expect("consumes");
    let pulling = tokio::spawn(async move { consumer.pull(3, Duration::from_secs(60)).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    publish(&two, RESULT, 1).await;
    assert_eq!(pulling.await.expect("task").expect("pulls").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn handshakes_are_read_from_the_start_by_everyone() {
    let bus = model(1);
    let client = bus.client("one");
    bus.set_faults(BusFaults { delay_ms_max: 100, ..BusFaults::default() });
    for number in 0..10 {
        client.publish_durable(HANDSHAKE, &number.to_string(), Headers::new(), text(number)).await.expect("stored");
    }
    for _ in 0..2 {
        let mut reader = client.consume(Stream::Handshakes).await.expect("consumes");
        let batch = reader.pull(100, Duration::ZERO).await.expect("pulls");
        let numbers: Vec<Bytes> = batch.iter().map(|delivery| delivery.message.payload.clone()).collect();
        assert_eq!(numbers, (0..10).map(text).collect::<Vec<_>>());
        client.settle(&batch[0], Settlement::Ack).await.expect("settles");
    }
    assert_eq!(bus.stream_len(Stream::Handshakes), 10);
}

/// Sends numbers through a faulty work queue until all arrived; tells what happened.
async fn churn(seed: u64) -> (Vec<Bytes>, BusCounters) {
    let bus = model(seed);
    let (sender, reader) = (bus.client("sender"), bus.client("reader"));
    bus.set_faults(BusFaults {
        drop_per_mille: 100,
        duplicate_per_mille: 100,
        delay_ms_max: 20,
        lose_ack_per_mille: 100,
        forget_id_per_mille: 200,
        refuse_durable_per_mille: 50,
    });
    let mut consumer = reader.consume(Stream::Submissions).await.expect("consumes");
    tokio::spawn({
        let bus = bus.clone();
        async move {
            for number in 0..200 {
                let id = number.to_string();
                while sender.publish_durable(SUBMIT, &id, Headers::new(), text(number)).await.is_err() {}
                if number % 50 == 25 {
                    bus.disconnect("reader");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    bus.reconnect("reader");
                }
            }
        }
    });
    let (mut order, mut missing) = (Vec::new(), 200);
    while missing > 0 || bus.stream_len(Stream::Submissions) > 0 {
        for delivery in consumer.pull(16, Duration::from_secs(10)).await.unwrap_or_default() {
            let _lost = reader.settle(&delivery, Settlement::Ack).await;
            missing -= usize::from(!order.contains(&delivery.message.payload));
            order.push(delivery.message.payload);
        }
    }
    (order, bus.counters())
}

#[tokio::test(start_paused = true)]
async fn a_faulty_work_queue_loses_nothing_and_a_seed_repeats_it_exactly() {
    let (order, counters) = churn(11).await;
    assert!(order.len() > 200 && counters.redelivered > 0 && counters.acks_lost > 0, "{counters:?}");
    assert_eq!(churn(11).await, (order.clone(), counters));
    assert_ne!(churn(12).await.0, order);
}
