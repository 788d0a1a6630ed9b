//! The bus.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use async_nats::connection::State;
use async_nats::jetstream::Context;
use async_nats::jetstream::context::ContextBuilder;
use busbar_protocol::ports::{Bus, BusError, Connection, Delivery, Headers, Message, Settlement, Subscription};
use busbar_protocol::subjects::Stream;
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::config::{BusConfig, StreamLimits};
use crate::connection::{ConnectError, Health, connect};
use crate::consumer::NatsConsumer;
use crate::convert::{self, Asked, header_map, unavailable};
use crate::streams::{self, StreamState};

/// How long a message may wait for a place in the connection's queue.
const QUEUE_WITHIN: Duration = Duration::from_secs(5);
/// How long a round trip may take.
const ROUND_TRIP_WITHIN: Duration = Duration::from_secs(5);
/// How long to wait for the end of a connection that is being closed.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);
/// How often the connection's state is looked at while it is away.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// NATS as a [`Bus`]. Clones share one connection, which ends with the last of them or with [`NatsBus::close`].
#[derive(Clone, Debug)]
pub struct NatsBus {
    client: Client,
    context: Context,
    health: Arc<Health>,
    limits: Arc<StreamLimits>,
    durable_within: Duration,
}

impl NatsBus {
    /// Connects to a server that is new enough and keeps streams, trying until `connect_within` is over; later the
    /// connection is made again for ever. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`ConnectError`], which says what to do.
    pub async fn connect(config: BusConfig) -> Result<Self, ConnectError> {
        let (client, health) = connect(&config).await?;
        let context = ContextBuilder::new()
            .timeout(config.durable_within)
            .ack_timeout(config.durable_within)
            .max_ack_inflight(config.durable_in_flight_max)
            .build(client.clone());
        let limits = Arc::new(config.streams);
        Ok(Self { client, context, health, limits, durable_within: config.durable_within })
    }

    /// Creates the streams that are missing and compares those that exist, so that durable publications find them.
    ///
    /// # Errors
    /// [`BusError::Unavailable`], also where a stream differs from what we would create.
    pub async fn ensure_streams(&self) -> Result<(), BusError> {
        for stream in Stream::ALL {
            streams::ensure(&self.context, &self.limits, stream).await?;
        }
        Ok(())
    }

    /// How full a stream is.
    ///
    /// # Errors
    /// [`BusError::Unavailable`], also where there is no such stream.
    pub async fn stream_state(&self, stream: Stream) -> Result<StreamState, BusError> {
        streams::state(&self.context, stream).await
    }

    /// How many messages were lost because a subscription was read too slowly.
    #[must_use]
    pub fn slow_consumer_losses(&self) -> u64 {
        self.health.slow()
    }

    /// The largest message that the server takes, in bytes, headers included.
    #[must_use]
    pub fn payload_bytes_max(&self) -> usize {
        self.client.max_payload()
    }

    /// Sends what is under way, ends every subscription after what has arrived for it, and closes the connection, for all
    /// clones.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] when the connection is away, so that what was under way may be lost.
    pub async fn close(&self) -> Result<(), BusError> {
        let sent = self.round_trip().await;
        let mut closed = self.health.closed();
        self.client.drain().await.map_err(|error| unavailable(error.to_string()))?;
        let ended = tokio::time::timeout(CLOSE_WITHIN, closed.wait_for(|closed| *closed)).await;
        if !matches!(ended, Ok(Ok(_))) {
            return Err(unavailable("the connection was away while it was closed"));
        }
        sent
    }

    pub(crate) fn context(&self) -> &Context {
        &self.context
    }

    /// How many connections there have been.
    pub(crate) fn generation(&self) -> u64 {
        self.health.generation()
    }

    pub(crate) fn limits(&self) -> &StreamLimits {
        &self.limits
    }

    /// Listens without making sure that the server knows.
    pub(crate) async fn listen(&self, subject: &str, queue: Option<&str>) -> Result<async_nats::Subscriber, BusError> {
        let subject = subject.to_owned();
        let made = match queue {
            Some(queue) => self.client.queue_subscribe(subject, queue.to_owned()).await,
            None => self.client.subscribe(subject).await,
        };
        made.map_err(|error| unavailable(error.to_string()))
    }

    /// Fails at once while the connection is away: the client would keep the message and send it much later.
    fn connected(&self) -> Result<(), BusError> {
        match self.client.connection_state() {
            State::Connected => Ok(()),
            State::Pending | State::Disconnected => Err(unavailable("not connected")),
        }
    }

    /// Waits until there is a connection.
    pub(crate) async fn until_connected(&self, deadline: Instant) -> Result<(), BusError> {
        let mut state = self.health.state();
        while let Err(error) = self.connected() {
            let now = Instant::now();
            if now >= deadline {
                return Err(error);
            }
            // The event and the client's own state change at slightly different times, so none is waited for alone.
            let _look_again = timeout_at(deadline.min(now + LOOK_AGAIN), state.changed()).await;
        }
        Ok(())
    }

    async fn send(&self, subject: &str, reply: Option<&str>, headers: Headers, payload: Bytes) -> Result<(), BusError> {
        self.connected()?;
        let asked = self.asked(subject, &payload, QUEUE_WITHIN);
        let subject = subject.to_owned();
        let headers = if headers.is_empty() { None } else { Some(header_map(&headers)?) };
        let sending = async {
            match (reply, headers) {
                (None, None) => self.client.publish(subject, payload).await,
                (None, Some(headers)) => self.client.publish_with_headers(subject, headers, payload).await,
                (Some(reply), None) => self.client.publish_with_reply(subject, reply.to_owned(), payload).await,
                (Some(reply), Some(headers)) => {
                    self.client.publish_with_reply_and_headers(subject, reply.to_owned(), headers, payload).await
                }
            }
        };
        match tokio::time::timeout(QUEUE_WITHIN, sending).await {
            Ok(sent) => sent.map_err(|error| asked.publish_error(&error)),
            Err(_) => Err(unavailable("the connection does not take any more messages")),
        }
    }

    fn asked<'a>(&self, subject: &'a str, payload: &Bytes, waited: Duration) -> Asked<'a> {
        Asked { subject, bytes: payload.len(), bytes_max: self.client.max_payload(), waited }
    }

    /// Publishes into a stream until it has answered. A connection that was lost took the answer with it, so the message is
    /// sent again with its id as soon as there is a new one.
    async fn publish_until_stored(
        &self,
        subject: &str,
        headers: &Headers,
        payload: &Bytes,
        asked: Asked<'_>,
    ) -> Result<(), BusError> {
        let deadline = Instant::now() + self.durable_within;
        let mut state = self.health.state();
        loop {
            self.until_connected(deadline).await?;
            let generation = self.health.generation();
            let answer = async {
                let headers = header_map(headers)?;
                let published = self.context.publish_with_headers(subject.to_owned(), headers, payload.clone()).await;
                published.map_err(|error| asked.durable_error(&error))?.await.map_err(|error| asked.durable_error(&error))
            };
            let reconnected = state.wait_for(|state| state.connected && state.generation > generation);
            tokio::select! {
                biased;
                answer = timeout_at(deadline, answer) => return answer.unwrap_or_else(|_| Err(asked.timed_out())).map(drop),
                _ = reconnected => {}
            }
        }
    }

    /// Sends a message to ourselves until it comes back.
    async fn own_echo(&self) -> Result<(), BusError> {
        let deadline = Instant::now() + ROUND_TRIP_WITHIN;
        let inbox = self.client.new_inbox();
        let mut echo = self.listen(&inbox, None).await?;
        let mut state = self.health.state();
        loop {
            self.until_connected(deadline).await?;
            let generation = self.health.generation();
            self.send(&inbox, None, Headers::new(), Bytes::new()).await?;
            let reconnected = state.wait_for(|state| state.connected && state.generation > generation);
            tokio::select! {
                biased;
                heard = timeout_at(deadline, echo.next()) => {
                    return match heard {
                        Ok(Some(_)) => Ok(()),
                        Ok(None) => Err(unavailable("the bus was closed")),
                        Err(_) => Err(BusError::TimedOut { subject: inbox, waited: ROUND_TRIP_WITHIN }),
                    };
                }
                _ = reconnected => {}
            }
        }
    }
}

impl Bus for NatsBus {
    type Consumer = NatsConsumer;

    async fn publish(&self, subject: &str, headers: Headers, payload: Bytes) -> Result<(), BusError> {
        self.send(subject, None, headers, payload).await
    }

    async fn publish_with_reply(&self, subject: &str, reply: &str, headers: Headers, payload: Bytes) -> Result<(), BusError> {
        self.send(subject, Some(reply), headers, payload).await
    }

    async fn publish_durable(
        &self,
        subject: &str,
        message_id: &str,
        mut headers: Headers,
        payload: Bytes,
    ) -> Result<(), BusError> {
        if !message_id.is_empty() {
            headers.insert("Nats-Msg-Id".to_owned(), message_id.to_owned());
        }
        let asked = self.asked(subject, &payload, self.durable_within);
        self.publish_until_stored(subject, &headers, &payload, asked).await
    }

    async fn request(&self, subject: &str, headers: Headers, payload: Bytes, deadline: Duration) -> Result<Message, BusError> {
        let until = Instant::now() + deadline;
        self.until_connected(until).await?;
        let asked = self.asked(subject, &payload, deadline);
        let mut request = async_nats::Request::new().payload(payload).timeout(None);
        if !headers.is_empty() {
            request = request.headers(header_map(&headers)?);
        }
        match timeout_at(until, self.client.send_request(subject.to_owned(), request)).await {
            Ok(answer) => answer.map(convert::message).map_err(|error| asked.request_error(&error)),
            Err(_) => Err(asked.timed_out()),
        }
    }

    async fn subscribe(&self, subject: &str, queue: Option<&str>) -> Result<Subscription, BusError> {
        let messages = self.listen(subject, queue).await?;
        self.own_echo().await.map_err(|error| unavailable(error.to_string()))?;
        Ok(messages.map(convert::message).boxed())
    }

    async fn consume(&self, stream: Stream) -> Result<NatsConsumer, BusError> {
        NatsConsumer::open(self.clone(), stream).await
    }

    async fn settle(&self, delivery: &Delivery, settlement: Settlement) -> Result<(), BusError> {
        let word = match settlement {
            Settlement::Ack => Bytes::from_static(b"+ACK"),
            Settlement::Nak(delay) if delay.is_zero() => Bytes::from_static(b"-NAK"),
            Settlement::Nak(delay) => Bytes::from(format!("-NAK {{\"delay\": {}}}", delay.as_nanos())),
            Settlement::Term => Bytes::from_static(b"+TERM"),
        };
        self.send(&delivery.token, None, Headers::new(), word).await
    }

    async fn round_trip(&self) -> Result<(), BusError> {
        self.connected()?;
        let before = self.health.generation();
        self.own_echo().await?;
        if self.health.generation() == before {
            return Ok(());
        }
        Err(unavailable("the connection was lost meanwhile, and perhaps messages with it"))
    }

    fn connection(&self) -> watch::Receiver<Connection> {
        self.health.state()
    }

    fn inbox(&self) -> String {
        self.client.new_inbox()
    }
}
