//! Inputs and outputs behind pointers: Redis up to 1 MiB, blobs above.
//!
//! Small ones travel with their messages, so that an attempt seldom waits here: what does is boxed, and the future of an attempt small.

use std::time::Duration;

use busbar_blobs::Blobs;
use busbar_protocol::cap::{JobRequest, ResourceRef};
use busbar_protocol::codes::Code;
use busbar_protocol::keys;
use busbar_protocol::limits::PAYLOAD_BYTES_MAX;
use busbar_protocol::pointers::{Pointer, Sha256Hex};
use busbar_protocol::ports::{Records, StoreError};
use bytes::Bytes;

use crate::backoff::Backoff;
use crate::blob;
use crate::context::LOG_BYTES_MAX;
use crate::core::dispatch::Dispatch;
use crate::core::ledger::AttemptKey;
use crate::failure::Failure;

const RESULT_TTL: Duration = Duration::from_secs(24 * 60 * 60);
const LOG_TTL: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Where a result was put.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Placed {
    /// In Redis.
    Pointer {
        /// The pointer that CAP consumers follow.
        pointer: String,
        /// The reference that also tells size and digest.
        reference: ResourceRef,
        /// The output itself, where it is not there yet: it goes with the result, and the scheduler writes it.
        carried: Option<Bytes>,
    },
    /// In the blob store.
    Reference(ResourceRef),
}

/// Reads and writes payloads, patiently: while the store is away it waits.
#[derive(Clone, Debug)]
pub(crate) struct Payloads<R> {
    pub(crate) records: R,
    pub(crate) blobs: Option<Blobs>,
}

impl<R: Records> Payloads<R> {
    /// The input of a job. A job without any pointer has the input `null`.
    pub(crate) async fn input(&self, dispatch: &Dispatch) -> Result<Bytes, Failure> {
        match (input_pointer(&dispatch.request)?, &dispatch.input) {
            (None, _) => Ok(Bytes::from_static(b"null")),
            // Where the policy has put another payload in place of the input, that is the input.
            (Some(pointer), Some(input)) if pointer.is_context_of(&dispatch.key.job_id) => Ok(input.clone()),
            (Some(Pointer::Redis(key)), _) => Box::pin(self.redis(&key)).await,
            (Some(Pointer::Blob(digest)), _) => Box::pin(blob::read(self.blobs.as_ref(), &digest)).await,
        }
    }

    async fn redis(&self, key: &str) -> Result<Bytes, Failure> {
        let mut backoff = Backoff::new();
        loop {
            match self.records.payloads(vec![key.to_owned()]).await {
                Ok(found) => {
                    let missing = || Failure::of(Code::PayloadMissing, format!("nothing stands at redis://{key}"));
                    return found.into_iter().next().flatten().ok_or_else(missing);
                }
                Err(StoreError::Unavailable { .. }) => backoff.pause().await,
                Err(error @ (StoreError::MemoryShort | StoreError::Refused { .. } | StoreError::Corrupt { .. })) => {
                    return Err(unavailable(&error));
                }
            }
        }
    }

    /// Stores the output of an attempt, unless it may go with the result.
    pub(crate) async fn place(&self, dispatch: &Dispatch, output: Bytes) -> Result<Placed, Failure> {
        if output.len() > PAYLOAD_BYTES_MAX {
            let put = blob::put(self.blobs.as_ref(), output, "result", Code::ResultTooLarge);
            return Box::pin(put).await.map(Placed::Reference);
        }
        let name = keys::attempt_result(&dispatch.key.job_id, dispatch.key.attempt);
        let pointer = Pointer::Redis(name.clone()).to_string();
        let reference = blob::reference_to(&pointer, &Sha256Hex::of(&output), output.len() as u64, "result");
        if !output.is_empty() && output.len() <= dispatch.output_bytes_max {
            return Ok(Placed::Pointer { pointer, reference, carried: Some(output) });
        }
        Box::pin(self.put(&name, output)).await?;
        Ok(Placed::Pointer { pointer, reference, carried: None })
    }

    async fn put(&self, name: &str, output: Bytes) -> Result<(), Failure> {
        let mut backoff = Backoff::new();
        loop {
            match self.records.put_result(name, output.clone(), RESULT_TTL).await {
                Ok(()) => return Ok(()),
                Err(StoreError::Unavailable { .. }) => backoff.pause().await,
                Err(error @ (StoreError::MemoryShort | StoreError::Refused { .. } | StoreError::Corrupt { .. })) => {
                    return Err(unavailable(&error));
                }
            }
        }
    }

    /// Appends to the log of an attempt; says whether that worked.
    pub(crate) async fn append_log(&self, key: &AttemptKey, piece: Bytes) -> Result<(), StoreError> {
        let name = keys::attempt_log(&key.job_id, key.attempt);
        self.records.append_payload(&name, piece, LOG_BYTES_MAX as u64, LOG_TTL).await
    }
}

fn unavailable(error: &StoreError) -> Failure {
    Failure { retryable: true, ..Failure::of(Code::StoreUnavailable, error.to_string()) }
}

/// The pointer to a job's input: a blob reference if there is one, else the context pointer.
fn input_pointer(request: &JobRequest) -> Result<Option<Pointer>, Failure> {
    let reference = request.context_ref.as_ref().filter(|reference| reference.resolver_id == blob::RESOLVER);
    let text = reference.map_or(request.context_ptr.as_str(), |reference| reference.uri.as_str());
    if text.is_empty() {
        return Ok(None);
    }
    Pointer::parse(text).map(Some).map_err(|error| Failure::of(Code::PointerInvalid, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_blob_reference_wins_over_the_pointer() {
        let digest = Sha256Hex::of(b"x");
        let blob = blob::reference(&digest, 1, "input");
        let job = |context_ptr: &str, context_ref| JobRequest {
            context_ptr: context_ptr.to_owned(),
            context_ref,
            ..JobRequest::default()
        };
        assert_eq!(input_pointer(&job("redis://ctx:a", None)), Ok(Some(Pointer::Redis("ctx:a".to_owned()))));
        assert_eq!(input_pointer(&job("redis://ctx:a", Some(blob.clone()))), Ok(Some(Pointer::Blob(digest))));
        let foreign = ResourceRef { resolver_id: "s3".to_owned(), ..blob };
        assert_eq!(input_pointer(&job("redis://ctx:a", Some(foreign))), Ok(Some(Pointer::Redis("ctx:a".to_owned()))));
        assert_eq!(input_pointer(&job("", None)), Ok(None));
        assert_eq!(input_pointer(&job("file:///etc/passwd", None)).map_err(|f| f.code), Err("pointer_invalid".to_owned()));
    }
}
