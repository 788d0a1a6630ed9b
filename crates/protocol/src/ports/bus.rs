//! The message bus as a port.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use tokio::sync::watch;

use crate::subjects::Stream;

/// The header that carries W3C trace context.
pub const TRACEPARENT: &str = "traceparent";

/// The header of a dispatch that names the start of the worker's process that it is for: a later start, which took over the name
/// but not the work, leaves it alone.
pub const INCARNATION: &str = "Busbar-Incarnation";

/// The header of a message that shall be heard and not stored, on a subject that a stream captures, and its value: it is meant for
/// another stream, of which there is none, so that JetStream leaves it alone (`Nats-Expected-Stream`).
pub const NOT_STORED: (&str, &str) = ("Nats-Expected-Stream", "none");

/// Message headers by name.
pub type Headers = BTreeMap<String, String>;

/// What arrives on a subscription. It ends when the bus is closed.
pub type Subscription = BoxStream<'static, Message>;

/// One message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Where it was published.
    pub subject: String,
    /// Where an answer is expected.
    pub reply: Option<String>,
    /// Its headers.
    pub headers: Headers,
    /// Its body.
    pub payload: Bytes,
}

/// One message of a stream, to be settled once it has been dealt with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The message; its `reply` is the stream's own and of no use to the reader.
    pub message: Message,
    /// What the bus needs to settle it.
    pub token: String,
    /// How often the stream has delivered it, this time included.
    pub deliveries: u64,
}

/// What becomes of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// Dealt with.
    Ack,
    /// Deliver it again, not before this delay.
    Nak(Duration),
    /// Never deliver it again: it can not be dealt with.
    Term,
}

/// Whether the bus can be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// Connected right now.
    pub connected: bool,
    /// How many times a connection was made, the first one included.
    pub generation: u64,
}

/// Why the bus did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// Nobody listens on that subject.
    #[error("nobody answers on {subject}")]
    NoResponders {
        /// The subject.
        subject: String,
    },
    /// No answer in time: whether the request was carried out is unknown.
    #[error("no answer on {subject} within {waited:?}")]
    TimedOut {
        /// The subject.
        subject: String,
        /// How long was waited.
        waited: Duration,
    },
    /// The bus is away or refused.
    #[error("the bus is not available: {detail}")]
    Unavailable {
        /// What the client said.
        detail: String,
    },
    /// The message is larger than the server takes.
    #[error("a message of {bytes} bytes is larger than the {max} that the bus takes")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The bound.
        max: usize,
    },
}

/// Publishes, asks, listens.
pub trait Bus: Clone + Send + Sync + 'static {
    /// Reads one stream.
    type Consumer: PullConsumer;

    /// Publishes at most once: it may be lost while nobody listens or the connection is away.
    ///
    /// # Errors
    /// [`BusError`] when the message was certainly not sent.
    fn publish(&self, subject: &str, headers: Headers, payload: Bytes) -> impl Future<Output = Result<(), BusError>> + Send;

    /// Publishes like [`Bus::publish`] and names the subject on which an answer, or word that nobody listens, shall come.
    ///
    /// # Errors
    /// [`BusError`] when the message was certainly not sent.
    fn publish_with_reply(
        &self,
        subject: &str,
        reply: &str,
        headers: Headers,
        payload: Bytes,
    ) -> impl Future<Output = Result<(), BusError>> + Send;

    /// Publishes into the stream that captures the subject and waits for the stream's word. `message_id` lets the stream drop
    /// a repetition; readers must not rely on it.
    ///
    /// # Errors
    /// [`BusError`]; after [`BusError::TimedOut`] the message may be there, so repeat it with the same id.
    fn publish_durable(
        &self,
        subject: &str,
        message_id: &str,
        headers: Headers,
        payload: Bytes,
    ) -> impl Future<Output = Result<(), BusError>> + Send;

    /// Asks and waits for one answer.
    ///
    /// # Errors
    /// [`BusError::NoResponders`], [`BusError::TimedOut`] or [`BusError::Unavailable`].
    fn request(
        &self,
        subject: &str,
        headers: Headers,
        payload: Bytes,
        deadline: Duration,
    ) -> impl Future<Output = Result<Message, BusError>> + Send;

    /// Listens; members of one queue group share the messages. When this returns, the server knows of it.
    ///
    /// # Errors
    /// [`BusError::Unavailable`].
    fn subscribe(&self, subject: &str, queue: Option<&str>) -> impl Future<Output = Result<Subscription, BusError>> + Send;

    /// Opens the durable consumer of a stream, creating stream and consumer where they are missing.
    ///
    /// # Errors
    /// [`BusError::Unavailable`], also where what exists differs from what we would create.
    fn consume(&self, stream: Stream) -> impl Future<Output = Result<Self::Consumer, BusError>> + Send;

    /// Settles a delivery. Losing this costs a redelivery, nothing else.
    ///
    /// # Errors
    /// [`BusError::Unavailable`].
    fn settle(&self, delivery: &Delivery, settlement: Settlement) -> impl Future<Output = Result<(), BusError>> + Send;

    /// Returns once a round trip with the server has happened: everything sent before has arrived there.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] or [`BusError::TimedOut`].
    fn round_trip(&self) -> impl Future<Output = Result<(), BusError>> + Send;

    /// Follows the state of the connection.
    fn connection(&self) -> watch::Receiver<Connection>;

    /// A fresh subject on which only this process listens.
    fn inbox(&self) -> String;
}

/// Reads a stream in batches.
pub trait PullConsumer: Send + 'static {
    /// Up to `max` messages: returns as soon as there is at least one, or with none after `wait`.
    ///
    /// # Errors
    /// [`BusError`]; call again, the consumer repairs itself.
    fn pull(&mut self, max: usize, wait: Duration) -> impl Future<Output = Result<Vec<Delivery>, BusError>> + Send;
}
