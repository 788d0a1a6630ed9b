//! One connection to Redis: calls with a deadline, repeated where that does no harm.

use std::time::Duration;

use busbar_protocol::ports::StoreError;
use fred::clients::Client;
use fred::error::Error;
use fred::interfaces::ClientLike;
use fred::types::config::Options;
use fred::types::{ClusterHash, ConnectHandle, CustomCommand, Resp3Frame as Frame, Value};
use tokio::time::Instant;

use crate::decode;
use crate::library;

/// Between two attempts of a call.
const PAUSE: Duration = Duration::from_millis(20);
/// How often one command is written anew on a new connection, when it may be repeated.
const WRITES_MAX: u32 = 5;

/// Whether a call does no harm when it is sent again although it may have been carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    Harmless,
    Never,
}

/// A connection that makes itself anew, until this is dropped.
#[derive(Debug)]
pub(crate) struct Lane {
    client: Client,
    connection: ConnectHandle,
    call_timeout: Duration,
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// What a failed attempt means.
enum Failure {
    /// Nothing happened, and the server may be ready soon.
    NotYet(String),
    /// The function library is gone; nothing happened.
    NoLibrary,
    /// Nobody knows what happened.
    Lost(String),
    /// Repeating would not change it.
    Final(StoreError),
}

impl Lane {
    pub(crate) fn new(client: Client, connection: ConnectHandle, call_timeout: Duration) -> Self {
        Self { client, connection, call_timeout }
    }

    /// Calls Redis: within the call timeout comes the answer or an error.
    ///
    /// # Errors
    /// All but [`StoreError::Corrupt`].
    pub(crate) async fn call(&self, command: &'static str, args: Vec<Value>, repeat: Repeat) -> Result<Frame, StoreError> {
        let deadline = Instant::now() + self.call_timeout;
        loop {
            let detail = match self.attempt(command, args.clone(), repeat, deadline).await {
                Ok(frame) => return Ok(frame),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::NotYet(detail)) => detail,
                Err(Failure::Lost(detail)) if repeat == Repeat::Harmless => detail,
                Err(Failure::Lost(detail)) => return Err(StoreError::Unavailable { detail }),
                Err(Failure::NoLibrary) => match self.load_library(deadline).await {
                    Ok(()) => continue,
                    Err(Failure::Final(error)) => return Err(error),
                    Err(Failure::NotYet(detail) | Failure::Lost(detail)) => detail,
                    Err(Failure::NoLibrary) => "the function library is missing".to_owned(),
                },
            };
            if Instant::now() + PAUSE >= deadline {
                return Err(StoreError::Unavailable { detail });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Calls a function of our library.
    pub(crate) async fn function(&self, name: &'static str, args: &[&[u8]], repeat: Repeat) -> Result<Frame, StoreError> {
        let mut all = vec![fixed(name), fixed("0")];
        all.extend(args.iter().map(owned));
        self.call("FCALL", all, repeat).await
    }

    /// Loads the function library unless ours or a newer one is there.
    pub(crate) async fn ensure_library(&self) -> Result<(), StoreError> {
        match self.load_library(Instant::now() + self.call_timeout).await {
            Ok(()) => Ok(()),
            Err(Failure::Final(error)) => Err(error),
            Err(Failure::NotYet(detail) | Failure::Lost(detail)) => Err(StoreError::Unavailable { detail }),
            Err(Failure::NoLibrary) => Err(decode::refused("Redis does not keep function libraries")),
        }
    }

    async fn load_library(&self, deadline: Instant) -> Result<(), Failure> {
        let ask = vec![fixed("LIST"), fixed("LIBRARYNAME"), fixed(library::NAME), fixed("WITHCODE")];
        let there = self.attempt("FUNCTION", ask, Repeat::Harmless, deadline).await?;
        if library_source(there).is_some_and(|source| !library::replaces(&source)) {
            return Ok(());
        }
        let load = vec![fixed("LOAD"), fixed("REPLACE"), fixed(library::SOURCE)];
        self.attempt("FUNCTION", load, Repeat::Harmless, deadline).await?;
        tracing::info!(library = library::NAME, "loaded the function library into Redis");
        Ok(())
    }

    async fn attempt(
        &self,
        command: &'static str,
        args: Vec<Value>,
        repeat: Repeat,
        deadline: Instant,
    ) -> Result<Frame, Failure> {
        // A timeout of zero would mean none.
        let timeout = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let max_attempts = Some(if repeat == Repeat::Harmless { WRITES_MAX } else { 1 });
        let options = Options { timeout: Some(timeout), max_attempts, ..Options::default() };
        let command = CustomCommand::new_static(command, ClusterHash::FirstKey, false);
        match self.client.with_options(&options).custom_raw(command, args).await {
            Ok(Frame::SimpleError { data, .. }) => Err(server_error(&data)),
            Ok(Frame::BlobError { data, .. }) => Err(server_error(&String::from_utf8_lossy(&data))),
            Ok(frame) => Ok(frame),
            Err(error) => Err(client_error(&error)),
        }
    }
}

/// An argument that lives for ever.
pub(crate) fn fixed(text: &'static str) -> Value {
    Value::Bytes(bytes::Bytes::from_static(text.as_bytes()))
}

/// An argument that is copied.
pub(crate) fn owned(bytes: impl AsRef<[u8]>) -> Value {
    Value::Bytes(bytes::Bytes::copy_from_slice(bytes.as_ref()))
}

/// Everything that the client itself reports: connections that broke, deadlines, full buffers.
fn client_error(error: &Error) -> Failure {
    Failure::Lost(error.to_string())
}

/// What an error answer means; its first word is its kind.
fn server_error(text: &str) -> Failure {
    match text.split(' ').next().unwrap_or_default() {
        "OOM" => Failure::Final(StoreError::MemoryShort),
        "LOADING" | "BUSY" | "MASTERDOWN" | "READONLY" | "NOREPLICAS" | "MISCONF" | "TRYAGAIN" | "NOAUTH" => {
            Failure::NotYet(text.to_owned())
        }
        "ERR" if text.contains("Function not found") => Failure::NoLibrary,
        _ => Failure::Final(StoreError::Refused { detail: text.to_owned() }),
    }
}

/// The source in the answer of `FUNCTION LIST … WITHCODE`: a list of libraries, each a list of names and values in turn.
fn library_source(frame: Frame) -> Option<String> {
    let first = decode::array(frame).ok()?.into_iter().next()?;
    let mut fields = decode::array(first).ok()?.into_iter();
    while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
        if decode::text(name).ok()? == "library_code" {
            return decode::text(value).ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_answers_are_told_apart() {
        assert!(matches!(server_error("OOM allow-oom flag is not set"), Failure::Final(StoreError::MemoryShort)));
        assert!(matches!(server_error("LOADING Redis is loading the dataset in memory"), Failure::NotYet(_)));
        assert!(matches!(server_error("ERR Function not found"), Failure::NoLibrary));
        assert!(matches!(server_error("WRONGTYPE Operation"), Failure::Final(StoreError::Refused { .. })));
    }
}
