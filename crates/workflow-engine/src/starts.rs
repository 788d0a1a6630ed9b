//! Starts of runs that may have begun already: whoever did not hear the answer asks again, and whoever gave an idempotency key
//! may ask for another run.

use std::sync::Arc;

use busbar_protocol::busbar::{RunIdempotencyRecord, RunRecord, RunState, StartReply, Started, start_reply};
use busbar_protocol::codes::Code;
use busbar_protocol::keys;
use busbar_protocol::ports::{Bus, Clock, Headers, Records, StoreError};
use busbar_protocol::prost::Message as _;

use crate::core::run::Head;
use crate::library::decode;
use crate::listen::problem;
use crate::service::Ports;

/// What names a run for those who ask for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) run_id: &'a str,
    pub(crate) tenant_id: &'a str,
    pub(crate) workflow_id: &'a str,
    /// Empty where there is none.
    pub(crate) idempotency_key: &'a str,
}

/// The answer for a run that has just begun, or is live here.
pub(crate) fn started(head: &Head, existing: bool) -> Started {
    Started {
        run_id: head.id.clone(),
        workflow_id: head.workflow_id.clone(),
        workflow_version: head.workflow_version,
        state: RunState::Running.into(),
        existing,
    }
}

/// The answer where the run, or one for its key, is there already: if it is the same, that is as good. Nothing where none is.
pub(crate) async fn find<R: Records>(records: &R, wanted: Wanted<'_>) -> Result<Option<start_reply::Answer>, StoreError> {
    let present = match read_run(records, wanted.run_id).await? {
        Some(run) => Some(run),
        None if wanted.idempotency_key.is_empty() => None,
        None => read_keyed(records, wanted.tenant_id, wanted.idempotency_key).await?,
    };
    Ok(present.map(|run| {
        if run.tenant_id != wanted.tenant_id || run.workflow_id != wanted.workflow_id {
            return start_reply::Answer::Rejected(problem(
                Code::RunDuplicate,
                "the run's identifier or idempotency key stands for another run already",
            ));
        }
        start_reply::Answer::Started(Started {
            state: run.state,
            run_id: run.run_id,
            workflow_id: run.workflow_id,
            workflow_version: run.workflow_version,
            existing: true,
        })
    }))
}

/// Answers a start whose commit found something in its way. Where nothing is known about that, nothing is said: the start is
/// asked again.
pub(crate) async fn resolve<B: Bus, R: Records, C: Clock>(ports: Ports<B, R, C>, head: Arc<Head>, reply: String) {
    let wanted = Wanted {
        run_id: &head.id,
        tenant_id: &head.tenant_id,
        workflow_id: &head.workflow_id,
        idempotency_key: &head.idempotency_key,
    };
    let Ok(Some(answer)) = find(&ports.records, wanted).await else { return };
    let body = StartReply { answer: Some(answer) }.encode_to_vec();
    if let Err(error) = ports.bus.publish(&reply, Headers::new(), body.into()).await {
        tracing::debug!(%error, "an answer was not sent");
    }
}

async fn read_run<R: Records>(records: &R, run_id: &str) -> Result<Option<RunRecord>, StoreError> {
    let key = keys::run(run_id);
    let stored = records.read(vec![key.clone()]).await?.pop().flatten();
    stored.map(|stored| decode(&key, &stored.value)).transpose()
}

/// The run that an idempotency key stands for.
async fn read_keyed<R: Records>(records: &R, tenant_id: &str, key: &str) -> Result<Option<RunRecord>, StoreError> {
    let name = keys::run_idempotency(tenant_id, key);
    let Some(stored) = records.read(vec![name.clone()]).await?.pop().flatten() else { return Ok(None) };
    read_run(records, &decode::<RunIdempotencyRecord>(&name, &stored.value)?.run_id).await
}
