//! Keys of workers: the scheduler keeps them, and answers after the commit with all that are enrolled.

use std::time::Duration;

use busbar_api::{EnrolRequest, Problem, WorkerKeyView};
use busbar_protocol::busbar::{self, EnrolReply, EnrolledKey, EnrolledKeyName};
use busbar_protocol::codes::Code;
use busbar_protocol::ports::{Bus, Clock as _, Records};
use busbar_protocol::subjects;

use crate::app::{App, Caller};
use crate::core::view::time;
use crate::error::of_wire;

const PATIENCE: Duration = Duration::from_secs(5);

/// A key as a path names it.
pub(crate) struct Named {
    pub(crate) worker_id: String,
    pub(crate) key_id: String,
}

/// The enrolled keys, of one worker or of all.
pub(crate) async fn list<B: Bus, R: Records>(app: &App<B, R>, worker_id: Option<&str>) -> Result<Vec<WorkerKeyView>, Problem> {
    let keys = ask(app, busbar::EnrolRequest::default()).await?;
    Ok(keys.into_iter().filter(|key| worker_id.is_none_or(|id| key.worker_id == id)).map(view).collect())
}

/// Enrols a key, or replaces the one of that name.
pub(crate) async fn enrol<B: Bus, R: Records>(
    app: &App<B, R>,
    caller: &Caller,
    named: Named,
    request: EnrolRequest,
) -> Result<WorkerKeyView, Problem> {
    let key = EnrolledKey {
        agent_id: request.agent_id.unwrap_or_else(|| named.worker_id.clone()),
        tenant_id: request.tenant_id.unwrap_or_else(|| caller.tenant_id().to_owned()),
        worker_id: named.worker_id,
        proof_key_id: named.key_id,
        public_key: request.public_key,
        enrolled_ms: app.clock.now().millis(),
        enrolled_by: caller.name().to_owned(),
        enrolment_id: String::new(),
        production: request.production,
    };
    ask(app, busbar::EnrolRequest { enrol: vec![key.clone()], revoke: Vec::new() }).await?;
    Ok(view(key))
}

/// Revokes a key, and tells which ones the worker still has.
pub(crate) async fn revoke<B: Bus, R: Records>(app: &App<B, R>, named: Named) -> Result<Vec<WorkerKeyView>, Problem> {
    let Named { worker_id, key_id } = named;
    if !list(app, Some(&worker_id)).await?.iter().any(|key| key.key_id == key_id) {
        return Err(Problem::new(Code::NotFound, format!("worker {worker_id} has no enrolled key {key_id}")));
    }
    let name = EnrolledKeyName { worker_id: worker_id.clone(), proof_key_id: key_id };
    let keys = ask(app, busbar::EnrolRequest { enrol: Vec::new(), revoke: vec![name] }).await?;
    Ok(keys.into_iter().filter(|key| key.worker_id == worker_id).map(view).collect())
}

async fn ask<B: Bus, R: Records>(app: &App<B, R>, question: busbar::EnrolRequest) -> Result<Vec<EnrolledKey>, Problem> {
    let reply: EnrolReply = app.ask(subjects::SCHEDULER_ENROL, &question, PATIENCE).await?;
    reply.problem.map_or_else(|| Ok(reply.keys), |problem| Err(of_wire(problem)))
}

fn view(key: EnrolledKey) -> WorkerKeyView {
    WorkerKeyView {
        worker_id: key.worker_id,
        key_id: key.proof_key_id,
        agent_id: key.agent_id,
        tenant_id: key.tenant_id,
        production: key.production,
        public_key: key.public_key,
        enrolled_at: time(key.enrolled_ms),
        enrolled_by: key.enrolled_by,
    }
}
