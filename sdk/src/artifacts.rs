//! The files that inputs name: from the identifier of an artifact to a verified file on this machine.
//!
//! ```text
//!  id ─► art:<id>, the record of an upload ────────────────────────► blob ─► file
//!    └─► job:meta:<id>, the record of a job that succeeded ─► its result, in a blob or in Redis ─► file
//! ```

use std::path::PathBuf;

use busbar_blobs::{BlobError, Blobs};
use busbar_protocol::busbar::{ArtifactRecord, JobRecord, JobState, job_record};
use busbar_protocol::codes::Code;
use busbar_protocol::pointers::{Pointer, Sha256Hex};
use busbar_protocol::ports::{Records, StoreError};
use busbar_protocol::prost::Message;
use busbar_protocol::{ids, keys};
use busbar_store::Store;
use bytes::Bytes;

use crate::backoff::Backoff;
use crate::failure::Failure;

/// Finds artifacts; see [`crate::Worker::artifacts`]. Clones are the same.
#[derive(Clone, Debug)]
pub struct Artifacts<R = Store> {
    records: R,
    blobs: Option<Blobs>,
}

impl<R: Records> Artifacts<R> {
    pub(crate) fn new(records: R, blobs: Option<Blobs>) -> Self {
        Self { records, blobs }
    }

    /// Where the content of an artifact lies on this machine, verified. The identifier is that of an upload, or that of a job which
    /// has succeeded: then the content is its result. While the store is away it waits. The file belongs to the blob store: it must
    /// not be written to.
    ///
    /// # Errors
    /// A [`Failure`] with code `artifact_not_found` when there is none of that tenant, `artifact_unavailable` when its content is
    /// gone, damaged or can not be read now, `store_unavailable` when its record can not be read.
    pub async fn path(&self, tenant_id: &str, artifact_id: &str) -> Result<PathBuf, Failure> {
        let no_store = || Failure::of(Code::ArtifactUnavailable, "artifacts can not be read without a blob store");
        let blobs = self.blobs.as_ref().ok_or_else(no_store)?;
        let digest = match self.content(tenant_id, artifact_id).await? {
            Content::Blob(digest) => digest,
            Content::Inline(bytes) => blobs.put_bytes(bytes).await.map_err(|error| unavailable(artifact_id, &error))?.sha256,
        };
        blobs.verified_path(&digest).await.map_err(|error| unavailable(artifact_id, &error))
    }

    async fn content(&self, tenant_id: &str, artifact_id: &str) -> Result<Content, Failure> {
        // Another tenant's artifact is answered like none: nobody learns that it exists.
        let unknown = || Failure::of(Code::ArtifactNotFound, format!("no artifact {artifact_id:?} is known"));
        ids::check(artifact_id).map_err(|_| unknown())?;
        let tenant_id = owner(tenant_id);
        if let Some(upload) = self.read::<ArtifactRecord>(artifact_id, keys::artifact(artifact_id)).await? {
            let digest = Sha256Hex::parse(&upload.sha256).map_err(|error| strange(artifact_id, &error))?;
            return if upload.tenant_id == tenant_id { Ok(Content::Blob(digest)) } else { Err(unknown()) };
        }
        let job = self.read::<JobRecord>(artifact_id, keys::job(artifact_id)).await?;
        let job = job.filter(|job| owner(&job.tenant_id) == tenant_id).ok_or_else(unknown)?;
        match result_of(&job).ok_or_else(unknown)? {
            Pointer::Blob(digest) => Ok(Content::Blob(digest)),
            Pointer::Redis(key) => self.inline(artifact_id, &key).await.map(Content::Inline),
        }
    }

    /// A result that is small enough for Redis.
    async fn inline(&self, artifact_id: &str, key: &str) -> Result<Bytes, Failure> {
        let found = self.patiently(|| self.records.payloads(vec![key.to_owned()])).await?;
        let gone = || Failure::of(Code::ArtifactUnavailable, format!("the result of job {artifact_id} has expired"));
        found.into_iter().next().flatten().ok_or_else(gone)
    }

    async fn read<M: Message + Default>(&self, artifact_id: &str, key: String) -> Result<Option<M>, Failure> {
        let found = self.patiently(|| self.records.read(vec![key.clone()])).await?;
        let stored = found.into_iter().next().flatten();
        stored.map(|stored| M::decode(stored.value)).transpose().map_err(|error| strange(artifact_id, &error))
    }

    /// Asks the store again while it is away.
    async fn patiently<T, F: Future<Output = Result<T, StoreError>>>(&self, ask: impl Fn() -> F) -> Result<T, Failure> {
        let mut backoff = Backoff::new();
        loop {
            match ask().await {
                Ok(found) => return Ok(found),
                Err(StoreError::Unavailable { .. }) => backoff.pause().await,
                Err(error @ (StoreError::MemoryShort | StoreError::Refused { .. } | StoreError::Corrupt { .. })) => {
                    return Err(Failure { retryable: true, ..Failure::of(Code::StoreUnavailable, error.to_string()) });
                }
            }
        }
    }
}

/// Where the content of an artifact is.
enum Content {
    Blob(Sha256Hex),
    Inline(Bytes),
}

/// Where the result of a job stands that has succeeded and has one.
fn result_of(job: &JobRecord) -> Option<Pointer> {
    let Some(job_record::State::Ended(ended)) = &job.state else { return None };
    let pointer = Pointer::parse(&ended.result_ptr).ok().filter(|pointer| pointer.is_result_of(&job.job_id));
    pointer.filter(|_| ended.state() == JobState::Succeeded)
}

fn strange(artifact_id: &str, error: &dyn std::error::Error) -> Failure {
    Failure::of(Code::ArtifactUnavailable, format!("the record of artifact {artifact_id}: {error}"))
}

/// Whose artifacts a job may read: those of its tenant, which is the default one where it names none.
fn owner(tenant_id: &str) -> &str {
    if tenant_id.is_empty() { ids::DEFAULT_TENANT } else { tenant_id }
}

fn unavailable(artifact_id: &str, error: &BlobError) -> Failure {
    // What is gone or damaged stays so; a disk may recover, and another worker has another one.
    let retryable = match error {
        BlobError::Disk { .. } | BlobError::Stopping | BlobError::Source(_) => true,
        BlobError::Missing { .. }
        | BlobError::Corrupt { .. }
        | BlobError::TooLarge { .. }
        | BlobError::UrlInvalid { .. }
        | BlobError::SchemeUnsupported { .. } => false,
    };
    let message = format!("the artifact {artifact_id}: {}", Failure::from_error(error).message);
    Failure { retryable, ..Failure::of(Code::ArtifactUnavailable, message) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_without_a_tenant_is_the_default_ones() {
        assert_eq!((owner(""), owner("acme")), (ids::DEFAULT_TENANT, "acme"));
    }

    #[test]
    fn only_a_disk_may_recover() {
        let missing = unavailable("a", &BlobError::Missing { sha256: Sha256Hex::of(b"") });
        assert_eq!((missing.code.as_str(), missing.retryable), ("artifact_unavailable", false));
        assert!(unavailable("a", &BlobError::Source(std::io::ErrorKind::Other.into())).retryable);
    }
}
