//! The bus as one simulated process sees it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use busbar_protocol::ports::{Bus, BusError, Connection, Delivery, Headers, Message, PullConsumer, Settlement, Subscription};
use busbar_protocol::subjects::Stream;
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::server::{ClientId, Server, stream_of, unavailable};

/// The largest message, as nats-server has it by default.
const PAYLOAD_BYTES_MAX: usize = 1 << 20;
/// How long a durable publication, a subscription or a round trip waits for the server.
const SERVER_WITHIN: Duration = Duration::from_secs(5);
/// How many in a thousand messages sent while disconnected get lost instead of refused: a process notices only later.
const UNNOTICED_PER_MILLE: u32 = 500;

/// A client of a [`super::ModelBus`].
#[derive(Clone, Debug)]
pub struct ModelClient {
    server: Arc<Server>,
    id: ClientId,
    name: String,
    connection: watch::Receiver<Connection>,
}

/// Reads one stream of a [`super::ModelBus`].
#[derive(Debug)]
pub struct ModelConsumer {
    client: ModelClient,
    stream: Stream,
    /// The last message read of a kept stream.
    read: u64,
}

impl ModelClient {
    pub(super) fn new(server: &Arc<Server>, name: &str) -> Self {
        let (id, connection) = server.admit(name);
        Self { server: Arc::clone(server), id, name: name.to_owned(), connection }
    }

    /// Goes on only in a process that lives.
    async fn alive(&self) {
        if !self.server.is_alive(self.id) {
            std::future::pending::<()>().await;
        }
    }

    /// Does what the future says as long as the process lives.
    async fn living<T>(&self, future: impl Future<Output = T>) -> T {
        self.alive().await;
        let output = future.await;
        self.alive().await;
        output
    }

    async fn until_connected(&self, deadline: Instant) -> Result<(), BusError> {
        loop {
            let changed = self.server.changed();
            if self.server.connected(self.id) {
                return Ok(());
            }
            if timeout_at(deadline, changed).await.is_err() {
                return Err(unavailable("not connected"));
            }
        }
    }

    /// What becomes of something that is sent at once: on its way, lost, or refused.
    fn leaves(&self) -> Result<bool, BusError> {
        if self.server.connected(self.id) {
            return Ok(true);
        }
        if self.server.chaos.chance(UNNOTICED_PER_MILLE) {
            self.server.lock().counters.dropped += 1;
            return Ok(false);
        }
        Err(unavailable("not connected"))
    }

    async fn send(&self, message: Message) -> Result<(), BusError> {
        self.alive().await;
        check_size(&message.payload)?;
        if self.leaves()? {
            self.server.publish(&message);
        }
        Ok(())
    }

    /// Under way to the server; false when it does not arrive.
    async fn arrives(&self) -> bool {
        let delay = self.server.delay();
        if !delay.is_zero() {
            sleep(delay).await;
            self.alive().await;
        }
        self.server.connected(self.id) && !self.server.loses()
    }

    async fn ask(&self, message: Message, waited: Duration, until: Instant) -> Result<Message, BusError> {
        let subject = message.subject.clone();
        let mut answers = self.server.listen(self.id, message.reply.as_deref().unwrap_or_default(), None);
        self.server.publish(&message);
        match timeout_at(until, answers.next()).await {
            Ok(Some(answer)) if answer.headers.get("Status").is_some_and(|status| status == "503") => {
                Err(BusError::NoResponders { subject })
            }
            Ok(Some(answer)) => Ok(answer),
            Ok(None) | Err(_) => Err(BusError::TimedOut { subject, waited }),
        }
    }

    async fn store(&self, stream: Stream, id: &str, message: Message) -> Result<(), BusError> {
        let until = Instant::now() + SERVER_WITHIN;
        let faults = self.server.lock().faults;
        if self.arrives().await {
            self.server.spread(&message);
            if self.server.chaos.chance(faults.refuse_durable_per_mille) {
                return Err(unavailable("maximum messages exceeded"));
            }
            self.server.store(stream, id, &message);
            if !self.server.chaos.chance(faults.lose_ack_per_mille) {
                return Ok(());
            }
            self.server.lock().counters.acks_lost += 1;
        }
        sleep_until(until).await;
        Err(BusError::TimedOut { subject: message.subject, waited: SERVER_WITHIN })
    }
}

fn check_size(payload: &Bytes) -> Result<(), BusError> {
    if payload.len() <= PAYLOAD_BYTES_MAX {
        return Ok(());
    }
    Err(BusError::TooLarge { bytes: payload.len(), max: PAYLOAD_BYTES_MAX })
}

impl Bus for ModelClient {
    type Consumer = ModelConsumer;

    async fn publish(&self, subject: &str, headers: Headers, payload: Bytes) -> Result<(), BusError> {
        self.send(Message { subject: subject.to_owned(), reply: None, headers, payload }).await
    }

    async fn publish_with_reply(&self, subject: &str, reply: &str, headers: Headers, payload: Bytes) -> Result<(), BusError> {
        self.send(Message { subject: subject.to_owned(), reply: Some(reply.to_owned()), headers, payload }).await
    }

    async fn publish_durable(&self, subject: &str, message_id: &str, headers: Headers, payload: Bytes) -> Result<(), BusError> {
        self.living(async {
            check_size(&payload)?;
            self.until_connected(Instant::now() + SERVER_WITHIN).await?;
            let Some(stream) = stream_of(subject) else {
                return Err(BusError::NoResponders { subject: subject.to_owned() });
            };
            self.store(stream, message_id, Message { subject: subject.to_owned(), reply: None, headers, payload }).await
        })
        .await
    }

    async fn request(&self, subject: &str, headers: Headers, payload: Bytes, deadline: Duration) -> Result<Message, BusError> {
        self.living(async {
            check_size(&payload)?;
            let until = Instant::now() + deadline;
            self.until_connected(until).await?;
            let message = Message { subject: subject.to_owned(), reply: Some(self.inbox()), headers, payload };
            self.ask(message, deadline, until).await
        })
        .await
    }

    async fn subscribe(&self, subject: &str, queue: Option<&str>) -> Result<Subscription, BusError> {
        self.living(async {
            self.until_connected(Instant::now() + SERVER_WITHIN).await?;
            Ok(self.server.listen(self.id, subject, queue).boxed())
        })
        .await
    }

    async fn consume(&self, stream: Stream) -> Result<ModelConsumer, BusError> {
        self.living(async {
            self.until_connected(Instant::now() + SERVER_WITHIN).await?;
            Ok(ModelConsumer { client: self.clone(), stream, read: 0 })
        })
        .await
    }

    async fn settle(&self, delivery: &Delivery, settlement: Settlement) -> Result<(), BusError> {
        self.alive().await;
        if self.leaves()? {
            self.server.settle(delivery, settlement);
        }
        Ok(())
    }

    async fn round_trip(&self) -> Result<(), BusError> {
        self.living(async {
            let until = Instant::now() + SERVER_WITHIN;
            if !self.server.connected(self.id) {
                return Err(unavailable("not connected"));
            }
            if self.arrives().await {
                return Ok(());
            }
            sleep_until(until).await;
            Err(BusError::TimedOut { subject: self.inbox(), waited: SERVER_WITHIN })
        })
        .await
    }

    fn connection(&self) -> watch::Receiver<Connection> {
        self.connection.clone()
    }

    fn inbox(&self) -> String {
        let id = self.server.lock().fresh_id();
        format!("_INBOX.{}.{id}", self.name)
    }
}

impl ModelConsumer {
    /// What is there now.
    fn take(&mut self, max: usize) -> Vec<Delivery> {
        if self.stream.is_work_queue() {
            return self.client.server.take(self.stream, max);
        }
        let mut state = self.client.server.lock();
        let mut batch = Vec::new();
        while batch.len() < max
            && let Some((sequence, delivery)) = state.stream(self.stream).after(self.read)
        {
            self.read = sequence;
            batch.push(delivery);
            state.counters.pulled += 1;
        }
        batch
    }

    /// When there may be something without a further event.
    fn ready_next(&self) -> Option<Instant> {
        if !self.stream.is_work_queue() {
            return None;
        }
        self.client.server.lock().stream(self.stream).ready_next()
    }
}

impl PullConsumer for ModelConsumer {
    async fn pull(&mut self, max: usize, wait: Duration) -> Result<Vec<Delivery>, BusError> {
        let deadline = Instant::now() + wait;
        let server = Arc::clone(&self.client.server);
        loop {
            self.client.alive().await;
            let changed = server.changed();
            let connected = server.connected(self.client.id);
            if connected {
                let batch = self.take(max.max(1));
                if !batch.is_empty() {
                    return Ok(batch);
                }
            }
            if Instant::now() >= deadline {
                return if connected { Ok(Vec::new()) } else { Err(unavailable("not connected")) };
            }
            let next = self.ready_next().filter(|_| connected);
            let _woken = timeout_at(next.map_or(deadline, |next| next.min(deadline)), changed).await;
        }
    }
}
