//! What the tests on a real nats-server share.

use std::time::Duration;

use busbar_bus::{BusConfig, NatsBus};
use busbar_protocol::ports::{Bus, Delivery, Message, PullConsumer, Settlement, Subscription};
use busbar_servers::{Nats, NatsOptions, Search};
use futures::{FutureExt, StreamExt};
use tempfile::TempDir;

/// How long anything may take before a test fails: generous, because it is not what is tested.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A server of a test's own.
pub(crate) struct Server {
    pub(crate) nats: Nats,
    _folder: TempDir,
}

impl Server {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().expect("temp folder");
        let binary = Search::from_env().find_nats().expect("nats-server").path;
        let nats = Nats::start(NatsOptions::new(folder.path().join("nats"), binary)).expect("nats-server starts");
        Self { nats, _folder: folder }
    }

    pub(crate) fn config(&self) -> BusConfig {
        let mut config = BusConfig::new(self.nats.url(), "test");
        config.streams.work_queue_bytes_max = 8 << 20;
        config.streams.kept_bytes_max = 8 << 20;
        config.streams.ack_wait = Duration::from_secs(2);
        config
    }

    pub(crate) async fn bus(&self) -> NatsBus {
        NatsBus::connect(self.config()).await.expect("connects")
    }
}

/// The next message of a subscription.
pub(crate) async fn next(subscription: &mut Subscription) -> Message {
    tokio::time::timeout(PATIENCE, subscription.next()).await.expect("a message in time").expect("the subscription goes on")
}

/// How many messages are there already, taken out. Unconstrained, or else tokio would say after 128 that there are no more.
pub(crate) fn take_all(subscription: &mut Subscription) -> Vec<Message> {
    let next = |subscription: &mut Subscription| tokio::task::unconstrained(subscription.next()).now_or_never().flatten();
    std::iter::from_fn(|| next(subscription)).collect()
}

/// Pulls until there is something; errors are those of a server that is away for the moment.
pub(crate) async fn pull_some(consumer: &mut impl PullConsumer, max: usize) -> Vec<Delivery> {
    let pulling = async {
        loop {
            match consumer.pull(max, Duration::from_secs(1)).await {
                Ok(batch) if batch.is_empty() => {}
                Ok(batch) => return batch,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, pulling).await.expect("messages in time")
}

/// Pulls and acknowledges until that many different payloads were seen; returns them in order of their first delivery.
pub(crate) async fn drain(bus: &impl Bus, consumer: &mut impl PullConsumer, count: usize) -> Vec<String> {
    let mut seen: Vec<String> = Vec::new();
    while seen.len() < count {
        for delivery in pull_some(consumer, 64).await {
            let text = String::from_utf8(delivery.message.payload.to_vec()).expect("text");
            if !seen.contains(&text) {
                seen.push(text);
            }
            // Lost while the server is away: then it comes again.
            let _settled = bus.settle(&delivery, Settlement::Ack).await;
        }
    }
    seen
}
