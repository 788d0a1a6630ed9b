//! Checkpoints: what an attempt hands over, so that the next attempt of its job goes on from there.

use std::time::Duration;

use busbar_protocol::codes::Code;
use busbar_protocol::keys;
use busbar_protocol::ports::{Records, StoreError};
use busbar_store::Store;
use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::backoff::Backoff;
use crate::context::Context;
use crate::failure::Failure;

/// The largest checkpoint that is kept.
const BYTES_MAX: usize = 64 << 10;
/// As long as the logs; an attempt that comes later begins anew.
const TTL: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// How many attempts back a checkpoint is looked for.
const ATTEMPTS_BACK: u32 = 32;
/// How often the last checkpoint is offered to a store that does not take it.
const FINISH_TRIES: u32 = 3;

/// Reads and keeps checkpoints; see [`crate::Worker::checkpoints`]. Clones are the same.
///
/// Each attempt writes under a name of its own, so that one that was given up but still runs disturbs nobody.
#[derive(Clone, Debug)]
pub struct Checkpoints<R = Store> {
    records: R,
}

impl<R: Records> Checkpoints<R> {
    pub(crate) fn new(records: R) -> Self {
        Self { records }
    }

    /// The last checkpoint of the job's earlier attempts. While the store is away it waits.
    ///
    /// # Errors
    /// A [`Failure`] with code `store_unavailable`, to be tried again, when the store refuses.
    pub async fn last(&self, context: &Context) -> Result<Option<Bytes>, Failure> {
        let earlier = (context.attempt().saturating_sub(ATTEMPTS_BACK).max(1)..context.attempt()).rev();
        let names: Vec<String> = earlier.map(|attempt| keys::attempt_checkpoint(context.job_id(), attempt)).collect();
        if names.is_empty() {
            return Ok(None);
        }
        let mut backoff = Backoff::new();
        loop {
            match self.records.payloads(names.clone()).await {
                Ok(found) => return Ok(found.into_iter().flatten().next()),
                Err(StoreError::Unavailable { .. }) => backoff.pause().await,
                Err(error @ (StoreError::MemoryShort | StoreError::Refused { .. } | StoreError::Corrupt { .. })) => {
                    return Err(Failure { retryable: true, ..Failure::of(Code::StoreUnavailable, error.to_string()) });
                }
            }
        }
    }

    /// Begins to keep the checkpoints of an attempt. Must be called inside a tokio runtime.
    #[must_use]
    pub fn keep(&self, context: &Context) -> Keeping {
        let (newest, waiting) = watch::channel(None);
        let name = keys::attempt_checkpoint(context.job_id(), context.attempt());
        Keeping { newest: CheckpointSender(newest), writing: tokio::spawn(write_newest(self.records.clone(), name, waiting)) }
    }
}

/// The checkpoints of one attempt being kept.
#[derive(Debug)]
pub struct Keeping {
    newest: CheckpointSender,
    writing: JoinHandle<()>,
}

/// Hands checkpoints over. Clones are the same.
#[derive(Clone, Debug)]
pub struct CheckpointSender(watch::Sender<Option<Bytes>>);

impl Keeping {
    /// Where the attempt hands its checkpoints over.
    #[must_use]
    pub fn sender(&self) -> CheckpointSender {
        self.newest.clone()
    }

    /// Waits until the newest checkpoint is kept, so that the next attempt finds it. Every [`CheckpointSender`] must be gone.
    pub async fn finish(self) {
        drop(self.newest);
        // It ends by itself, or the runtime does.
        let _ = self.writing.await;
    }
}

impl CheckpointSender {
    /// Hands over state to go on from, which replaces what came before. Never waits. More than 64 KiB is left out.
    pub fn send(&self, state: Bytes) {
        if state.len() > BYTES_MAX {
            return tracing::debug!(bytes = state.len(), "a checkpoint is too large to be kept");
        }
        self.0.send_replace(Some(state));
    }
}

/// Writes whatever is newest, one write at a time, and what is left at the end.
async fn write_newest<R: Records>(records: R, name: String, mut waiting: watch::Receiver<Option<Bytes>>) {
    while waiting.changed().await.is_ok() {
        write(&records, &name, &mut waiting).await;
    }
    let mut backoff = Backoff::new();
    for _ in 0..FINISH_TRIES {
        if waiting.borrow().is_none() || write(&records, &name, &mut waiting).await {
            return;
        }
        backoff.pause().await;
    }
    tracing::warn!(name, "the last checkpoint could not be kept");
}

async fn write<R: Records>(records: &R, name: &str, waiting: &mut watch::Receiver<Option<Bytes>>) -> bool {
    let Some(state) = waiting.borrow_and_update().clone() else { return true };
    let written = records.put_payload(name, state, Some(TTL)).await;
    if let Err(error) = &written {
        // The next one says more.
        tracing::debug!(name, %error, "a checkpoint was not kept");
    }
    written.is_ok()
}
