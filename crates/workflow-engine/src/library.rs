//! Workflows that were read and compiled, so that a run need not wait for that again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use busbar_protocol::busbar::{WorkflowHead, WorkflowVersion};
use busbar_protocol::codes::Code;
use busbar_protocol::keys;
use busbar_protocol::ports::{Records, StoreError};
use busbar_protocol::prost::Message;

use crate::core::workflow::Workflow;

/// The most workflows that are kept compiled.
const KEPT_MAX: usize = 256;

/// Whose, which, and the number of the version.
type Name = (String, String, u32);

/// Each with the time at which it was saved.
type Kept = BTreeMap<Name, (u64, Arc<Workflow>)>;

/// The compiled workflows. All clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Library {
    kept: Arc<Mutex<Kept>>,
}

/// Why there is no workflow.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LibraryError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{detail}")]
    Problem { code: Code, detail: String },
}

impl Library {
    /// The newest version of a workflow: the tenant's own, or else a pack's.
    pub(crate) async fn find<R: Records>(records: &R, tenant_id: &str, workflow_id: &str) -> Result<WorkflowHead, LibraryError> {
        for owner in [tenant_id, ""] {
            if let Some((head, _)) = head(records, owner, workflow_id).await? {
                return Ok(head);
            }
        }
        Err(not_found(format!("no workflow {workflow_id:?} is known")))
    }

    /// One version of a workflow, compiled. The tenant is the workflow's.
    pub(crate) async fn version<R: Records>(
        &self,
        records: &R,
        tenant_id: &str,
        workflow_id: &str,
        number: u32,
    ) -> Result<Arc<Workflow>, LibraryError> {
        let key = keys::workflow_version(tenant_id, workflow_id, number);
        let stored = records.read(vec![key.clone()]).await?.pop().flatten();
        let Some(stored) = stored else { return Err(not_found(format!("workflow {workflow_id:?} has no version {number}"))) };
        let version = decode::<WorkflowVersion>(&key, &stored.value)?;
        // A workflow that was taken away and saved again has the same numbers for other documents.
        let name = (tenant_id.to_owned(), workflow_id.to_owned(), number);
        if let Some((created, workflow)) = self.lock().get(&name)
            && *created == version.created_ms
        {
            return Ok(Arc::clone(workflow));
        }
        let compiled = Workflow::compile(&version.document);
        let workflow =
            compiled.map_err(|broken| LibraryError::Problem { code: Code::WorkflowInvalid, detail: broken.to_string() })?;
        let workflow = Arc::new(workflow);
        let mut kept = self.lock();
        if kept.len() >= KEPT_MAX {
            kept.pop_first();
        }
        kept.insert(name, (version.created_ms, Arc::clone(&workflow)));
        Ok(workflow)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The newest version of a workflow of this very owner, with the record's revision.
pub(crate) async fn head<R: Records>(
    records: &R,
    tenant_id: &str,
    workflow_id: &str,
) -> Result<Option<(WorkflowHead, u64)>, StoreError> {
    let key = keys::workflow(tenant_id, workflow_id);
    let Some(stored) = records.read(vec![key.clone()]).await?.pop().flatten() else { return Ok(None) };
    Ok(Some((decode(&key, &stored.value)?, stored.revision)))
}

/// Reads a record's value.
pub(crate) fn decode<M: Message + Default>(key: &str, value: &[u8]) -> Result<M, StoreError> {
    M::decode(value).map_err(|error| StoreError::Corrupt { key: key.to_owned(), detail: error.to_string() })
}

fn not_found(detail: String) -> LibraryError {
    LibraryError::Problem { code: Code::WorkflowNotFound, detail }
}
