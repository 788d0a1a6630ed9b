//! The client library by itself: one connection that asks, publishes and stores, each message as it is given. Measurements use it to tell what
//! NATS and the way to it cost without [`crate::NatsBus`]; nothing that carries work does.

use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::Context;
use async_nats::jetstream::stream::{Config, DiscardPolicy, StorageType};
use busbar_protocol::ports::BusError;
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::BusConfig;
use crate::connection::{ConnectError, connect};
use crate::convert::{unavailable, with_causes};

/// How long a listener may take until the server knows of it.
const KNOWN_WITHIN: Duration = Duration::from_secs(5);

/// A bare connection. Clones share it; it ends with the last of them.
#[derive(Clone, Debug)]
pub struct Bare {
    client: Client,
    context: Context,
}

/// Somebody who listens. Dropping it ends it.
#[derive(Debug)]
pub struct BareListener {
    task: JoinHandle<()>,
    heard: watch::Receiver<u64>,
}

impl Drop for BareListener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl BareListener {
    /// How many messages were heard so far, and all later counts.
    #[must_use]
    pub fn heard(&self) -> watch::Receiver<u64> {
        self.heard.clone()
    }
}

impl Bare {
    /// Connects to a server that is new enough and keeps streams.
    ///
    /// # Errors
    /// [`ConnectError`], which says what to do.
    pub async fn connect(config: &BusConfig) -> Result<Self, ConnectError> {
        let (client, _health) = connect(config).await?;
        let context = async_nats::jetstream::new(client.clone());
        Ok(Self { client, context })
    }

    /// One message, and the answer to it.
    ///
    /// # Errors
    /// [`BusError::Unavailable`].
    pub async fn ask(&self, subject: &'static str, payload: Bytes) -> Result<Bytes, BusError> {
        let answer = self.client.request(subject, payload).await;
        answer.map(|message| message.payload).map_err(|error| failed(&error))
    }

    /// One message for whoever listens.
    ///
    /// # Errors
    /// [`BusError::Unavailable`].
    pub async fn publish(&self, subject: &'static str, payload: Bytes) -> Result<(), BusError> {
        self.client.publish(subject, payload).await.map_err(|error| failed(&error))
    }

    /// One message into a stream, and its word that it is stored.
    ///
    /// # Errors
    /// [`BusError::Unavailable`].
    pub async fn store(&self, subject: &'static str, payload: Bytes) -> Result<(), BusError> {
        let word = self.context.publish(subject, payload).await.map_err(|error| failed(&error))?;
        word.await.map(drop).map_err(|error| failed(&error))
    }

    /// Makes a stream on disk that keeps the newest of what comes on a subject.
    ///
    /// # Errors
    /// [`BusError::Unavailable`].
    pub async fn make_stream(&self, name: &str, subject: &str, bytes_max: i64) -> Result<(), BusError> {
        let config = Config {
            name: name.to_owned(),
            subjects: vec![subject.to_owned()],
            max_bytes: bytes_max,
            storage: StorageType::File,
            discard: DiscardPolicy::Old,
            ..Config::default()
        };
        self.context.create_stream(config).await.map(drop).map_err(|error| failed(&error))
    }

    /// Listens, counts, and gives every message back to whoever asked. The server knows of it when this returns.
    ///
    /// # Errors
    /// [`BusError::Unavailable`].
    pub async fn listen(&self, subject: &'static str) -> Result<BareListener, BusError> {
        let mut messages = self.client.subscribe(subject).await.map_err(|error| failed(&error))?;
        self.until_known().await?;
        let (count, heard) = watch::channel(0);
        let client = self.client.clone();
        let task = tokio::spawn(async move {
            while let Some(message) = messages.next().await {
                if let Some(reply) = message.reply {
                    // Whoever asked tells that there was no answer.
                    let _ = client.publish(reply, message.payload).await;
                }
                count.send_modify(|count| *count += 1);
            }
        });
        Ok(BareListener { task, heard })
    }

    /// A message to ourselves comes back only after the server has read what was sent before it.
    async fn until_known(&self) -> Result<(), BusError> {
        let inbox = self.client.new_inbox();
        let mut echo = self.client.subscribe(inbox.clone()).await.map_err(|error| failed(&error))?;
        self.client.publish(inbox, Bytes::new()).await.map_err(|error| failed(&error))?;
        let heard = tokio::time::timeout(KNOWN_WITHIN, echo.next()).await;
        heard.ok().flatten().map(drop).ok_or_else(|| unavailable("the server does not know of a listener"))
    }
}

fn failed(error: &(dyn std::error::Error + 'static)) -> BusError {
    unavailable(with_causes(error))
}
