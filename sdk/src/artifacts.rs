//! The files that inputs name: from the identifier of an artifact to a verified file on this machine.

use std::path::PathBuf;

use busbar_blobs::{BlobError, Blobs};
use busbar_protocol::busbar::ArtifactRecord;
use busbar_protocol::codes::Code;
use busbar_protocol::pointers::Sha256Hex;
use busbar_protocol::ports::{Records, StoreError};
use busbar_protocol::prost::Message as _;
use busbar_protocol::{ids, keys};
use busbar_store::Store;

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

    /// Where the content of an artifact lies on this machine, verified. While the store is away it waits. The file belongs to
    /// the blob store: it must not be written to.
    ///
    /// # Errors
    /// A [`Failure`] with code `artifact_not_found` when there is none of that tenant, `artifact_unavailable` when its content is
    /// gone, damaged or can not be read now, `store_unavailable` when its record can not be read.
    pub async fn path(&self, tenant_id: &str, artifact_id: &str) -> Result<PathBuf, Failure> {
        let digest = self.digest(tenant_id, artifact_id).await?;
        let no_store = || Failure::of(Code::ArtifactUnavailable, "artifacts can not be read without a blob store");
        let blobs = self.blobs.as_ref().ok_or_else(no_store)?;
        blobs.verified_path(&digest).await.map_err(|error| unavailable(artifact_id, &error))
    }

    async fn digest(&self, tenant_id: &str, artifact_id: &str) -> Result<Sha256Hex, Failure> {
        // Another tenant's artifact is answered like none: nobody learns that it exists.
        let unknown = || Failure::of(Code::ArtifactNotFound, format!("no artifact {artifact_id:?} is known"));
        ids::check(artifact_id).map_err(|_| unknown())?;
        let record = self.record(artifact_id).await?.filter(|record| record.tenant_id == owner(tenant_id)).ok_or_else(unknown)?;
        let strange = |error| Failure::of(Code::ArtifactUnavailable, format!("the record of artifact {artifact_id}: {error}"));
        Sha256Hex::parse(&record.sha256).map_err(strange)
    }

    async fn record(&self, artifact_id: &str) -> Result<Option<ArtifactRecord>, Failure> {
        let key = keys::artifact(artifact_id);
        let mut backoff = Backoff::new();
        let stored = loop {
            match self.records.read(vec![key.clone()]).await {
                Ok(found) => break found.into_iter().next().flatten(),
                Err(StoreError::Unavailable { .. }) => backoff.pause().await,
                Err(error @ (StoreError::MemoryShort | StoreError::Refused { .. } | StoreError::Corrupt { .. })) => {
                    return Err(Failure { retryable: true, ..Failure::of(Code::StoreUnavailable, error.to_string()) });
                }
            }
        };
        let decoded = stored.map(|stored| ArtifactRecord::decode(stored.value)).transpose();
        decoded.map_err(|error| Failure::of(Code::ArtifactUnavailable, format!("the record of artifact {artifact_id}: {error}")))
    }
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
