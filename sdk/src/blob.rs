//! What is too large for Redis goes through the blob store, and as a `ResourceRef` over the bus.

use busbar_blobs::{BlobError, Blobs};
use busbar_protocol::cap::ResourceRef;
use busbar_protocol::codes::Code;
use busbar_protocol::pointers::{Pointer, Sha256Hex};
use bytes::Bytes;

use crate::failure::Failure;

/// The resolver that our blobs have on CAP messages.
pub(crate) const RESOLVER: &str = "busbar.blobs";
/// The largest blob that is read into memory.
const BYTES_MAX: u64 = 256 << 20;

/// The resolver that payloads in Redis have on CAP messages; CAP consumers follow the pointer beside it.
const REDIS_RESOLVER: &str = "busbar.redis";

/// How a blob travels on CAP messages.
pub(crate) fn reference(digest: &Sha256Hex, size_bytes: u64, purpose: &str) -> ResourceRef {
    let uri = Pointer::Blob(digest.clone()).to_string();
    ResourceRef { resolver_id: RESOLVER.to_owned(), ..reference_to(&uri, digest, size_bytes, purpose) }
}

/// What is told of a payload in Redis beside its pointer.
pub(crate) fn reference_to(uri: &str, digest: &Sha256Hex, size_bytes: u64, purpose: &str) -> ResourceRef {
    ResourceRef {
        resolver_id: REDIS_RESOLVER.to_owned(),
        uri: uri.to_owned(),
        sha256: digest.to_bytes(),
        media_type: "application/json".to_owned(),
        size_bytes,
        purpose: purpose.to_owned(),
        ..ResourceRef::default()
    }
}

/// Reads a blob whole.
pub(crate) async fn read(blobs: Option<&Blobs>, digest: &Sha256Hex) -> Result<Bytes, Failure> {
    let no_store = || Failure::retry(format!("blob:sha256:{digest} can not be read without a blob store"));
    blobs.ok_or_else(no_store)?.read(digest, BYTES_MAX).await.map_err(|error| failure(&error))
}

/// Stores a blob; the code says what it means that this is not possible.
pub(crate) async fn put(blobs: Option<&Blobs>, bytes: Bytes, purpose: &str, code: Code) -> Result<ResourceRef, Failure> {
    let size_bytes = bytes.len() as u64;
    let no_store = || Failure::of(code, format!("{size_bytes} bytes are too many for Redis, and there is no blob store"));
    if size_bytes > BYTES_MAX {
        return Err(Failure::of(code, format!("{size_bytes} bytes are more than the {BYTES_MAX} that are taken")));
    }
    let stored = blobs.ok_or_else(no_store)?.put_bytes(bytes).await;
    let stored =
        stored.map_err(|error| Failure { retryable: true, ..Failure::of(Code::ArtifactUnavailable, error.to_string()) })?;
    Ok(reference(&stored.sha256, stored.size_bytes, purpose))
}

fn failure(error: &BlobError) -> Failure {
    match error {
        BlobError::Missing { .. } => Failure::of(Code::PayloadMissing, error.to_string()),
        BlobError::TooLarge { .. } => Failure::of(Code::PayloadTooLarge, error.to_string()),
        BlobError::UrlInvalid { .. }
        | BlobError::SchemeUnsupported { .. }
        | BlobError::Corrupt { .. }
        | BlobError::Source(_)
        | BlobError::Disk { .. }
        | BlobError::Stopping => Failure { retryable: true, ..Failure::of(Code::ArtifactUnavailable, error.to_string()) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_names_the_content() {
        let digest = Sha256Hex::of(b"");
        let reference = reference(&digest, 0, "result");
        assert_eq!(reference.uri, format!("blob:sha256:{digest}"));
        assert_eq!((reference.sha256.len(), reference.sha256[0]), (32, 0xe3));
    }
}
