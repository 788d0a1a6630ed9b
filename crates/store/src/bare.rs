//! The client library by itself: one connection, each call sent as it is given, none grouped and none repeated. Measurements use it to tell
//! what Redis and the way to it cost without [`crate::Store`], and what the server counts; nothing that keeps records does.

use busbar_protocol::ports::StoreError;
use bytes::Bytes;
use fred::clients::Client;
use fred::interfaces::ClientLike as _;
use fred::types::{ClusterHash, ConnectHandle, CustomCommand, Resp3Frame as Frame, Value};

use crate::config::StoreConfig;
use crate::{connect, decode};

/// A bare connection. Dropping it closes it.
#[derive(Debug)]
pub struct Bare {
    client: Client,
    connection: ConnectHandle,
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Bare {
    /// Connects, once, and asks nothing about the server.
    ///
    /// # Errors
    /// [`StoreError::Refused`] for a URL that cannot be used, [`StoreError::Unavailable`] when nobody answers there.
    pub async fn connect(config: &StoreConfig) -> Result<Self, StoreError> {
        let client: Client = connect::builder(config)?.build().map_err(|error| decode::refused(&error.to_string()))?;
        let connection = client.init().await.map_err(|error| unavailable(&error))?;
        Ok(Self { client, connection })
    }

    /// One call, and the elements of its answer; what is no array is the only one. Numbers are told as text.
    ///
    /// # Errors
    /// [`StoreError::Refused`] with what the server said, or for an answer with arrays inside; [`StoreError::Unavailable`].
    pub async fn call(&self, command: &'static str, args: Vec<Bytes>) -> Result<Vec<Option<Bytes>>, StoreError> {
        let command = CustomCommand::new_static(command, ClusterHash::FirstKey, false);
        let args: Vec<Value> = args.into_iter().map(Value::Bytes).collect();
        match self.client.custom_raw(command, args).await.map_err(|error| unavailable(&error))? {
            Frame::Array { data, .. } => data.into_iter().map(element).collect(),
            other => Ok(vec![element(other)?]),
        }
    }
}

fn element(frame: Frame) -> Result<Option<Bytes>, StoreError> {
    match frame {
        Frame::Number { data, .. } => Ok(Some(data.to_string().into())),
        Frame::SimpleError { data, .. } => Err(decode::refused(&data)),
        Frame::BlobError { data, .. } => Err(decode::refused(&String::from_utf8_lossy(&data))),
        other => decode::bytes(other),
    }
}

fn unavailable(error: &fred::error::Error) -> StoreError {
    StoreError::Unavailable { detail: error.to_string() }
}
