//! A bus that forgets: of what is not kept in streams, three messages in ten are lost, in both directions.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use busbar_bus::{NatsBus, NatsConsumer};
use busbar_protocol::ports::{Bus, BusError, Connection, Delivery, Headers, Message, Settlement, Subscription};
use busbar_protocol::subjects::Stream;
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::watch;

use super::Noise;

const LOST_PERCENT: u64 = 30;

/// NATS that forgets. Clones share what comes by chance.
#[derive(Clone, Debug)]
pub(crate) struct Forgetful {
    inner: NatsBus,
    noise: Arc<Mutex<Noise>>,
}

impl Forgetful {
    pub(crate) fn new(inner: NatsBus, seed: u64) -> Self {
        Self { inner, noise: Arc::new(Mutex::new(Noise::new(seed))) }
    }

    fn forgets(&self) -> bool {
        self.noise.lock().unwrap_or_else(PoisonError::into_inner).below(100) < LOST_PERCENT
    }
}

impl Bus for Forgetful {
    type Consumer = NatsConsumer;

    async fn publish(&self, subject: &str, headers: Headers, payload: Bytes) -> Result<(), BusError> {
        if self.forgets() { Ok(()) } else { self.inner.publish(subject, headers, payload).await }
    }

    async fn publish_with_reply(&self, subject: &str, reply: &str, headers: Headers, payload: Bytes) -> Result<(), BusError> {
        if self.forgets() { Ok(()) } else { self.inner.publish_with_reply(subject, reply, headers, payload).await }
    }

    async fn publish_durable(&self, subject: &str, message_id: &str, headers: Headers, payload: Bytes) -> Result<(), BusError> {
        self.inner.publish_durable(subject, message_id, headers, payload).await
    }

    async fn request(&self, subject: &str, headers: Headers, payload: Bytes, deadline: Duration) -> Result<Message, BusError> {
        self.inner.request(subject, headers, payload, deadline).await
    }

    async fn subscribe(&self, subject: &str, queue: Option<&str>) -> Result<Subscription, BusError> {
        let messages = self.inner.subscribe(subject, queue).await?;
        let own = self.clone();
        Ok(messages.filter(move |_| std::future::ready(!own.forgets())).boxed())
    }

    async fn consume(&self, stream: Stream) -> Result<Self::Consumer, BusError> {
        self.inner.consume(stream).await
    }

    async fn settle(&self, delivery: &Delivery, settlement: Settlement) -> Result<(), BusError> {
        self.inner.settle(delivery, settlement).await
    }

    async fn round_trip(&self) -> Result<(), BusError> {
        self.inner.round_trip().await
    }

    fn connection(&self) -> watch::Receiver<Connection> {
        self.inner.connection()
    }

    fn inbox(&self) -> String {
        self.inner.inbox()
    }
}
