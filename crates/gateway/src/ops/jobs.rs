//! One job: looking at it, waiting for its end, ending it.

use std::time::Duration;

use busbar_api::{CancelReply, JobState, JobView, Problem};
use busbar_protocol::busbar::{self, CancelItem, JobRecord, cancel_answer};
use busbar_protocol::codes::Code;
use busbar_protocol::pointers::Pointer;
use busbar_protocol::ports::{Bus, Records, Stored};
use busbar_protocol::prost::Message as _;
use busbar_protocol::{ids, keys, subjects};

use super::results::{self, Found};
use super::waiting::Waiting;
use crate::app::{App, Caller};
use crate::core::view;
use crate::error::{internal, of_store, of_wire};

/// How long the cancellation of a job waits for a scheduler.
const PATIENCE: Duration = Duration::from_secs(5);
const REASON_CHARACTERS_MAX: usize = 500;

/// A job as soon as it has ended, or as it is when patience is over; with its result where that is small.
pub(crate) async fn get<B: Bus, R: Records>(
    app: &App<B, R>,
    tenant_id: &str,
    job_id: &str,
    patience: Duration,
) -> Result<JobView, Problem> {
    check_job_id(job_id)?;
    let waiting = Waiting::new(app.jobs.register(job_id), patience, &app.shutdown);
    show_ended(app, tenant_id, job_id, waiting).await
}

/// A job as soon as it has ended, or as it is when the wait is over; with its result where that is small.
pub(crate) async fn show_ended<B: Bus, R: Records>(
    app: &App<B, R>,
    tenant_id: &str,
    job_id: &str,
    waiting: Waiting<'_>,
) -> Result<JobView, Problem> {
    let (record, found) = wait_for_end(app, tenant_id, job_id, waiting).await?;
    show(app, &record, found).await
}

/// A record with its result where that is small; it may have been found already.
pub(crate) async fn show<B: Bus, R: Records>(
    app: &App<B, R>,
    record: &JobRecord,
    found: Option<Found>,
) -> Result<JobView, Problem> {
    let unknown = || internal(&format!("the record of {} is in no known state", record.job_id));
    let mut view = view::view(record).ok_or_else(unknown)?;
    view.result = results::inline(app, record, found).await?;
    Ok(view)
}

/// Ends a job. The answer comes after the commit.
pub(crate) async fn cancel<B: Bus, R: Records>(
    app: &App<B, R>,
    caller: &Caller,
    job_id: String,
    reason: Option<String>,
) -> Result<CancelReply, Problem> {
    check_job_id(&job_id)?;
    let reason = reason.unwrap_or_else(|| "cancelled via the API".to_owned());
    let item = CancelItem {
        job_id: job_id.clone(),
        tenant_id: caller.tenant_id().to_owned(),
        reason: reason.chars().take(REASON_CHARACTERS_MAX).collect(),
        requested_by: caller.name().to_owned(),
        attempt: 0,
    };
    let question = busbar::CancelRequest { items: vec![item] };
    let reply: busbar::CancelReply = app.ask(subjects::SCHEDULER_CANCEL, &question, PATIENCE).await?;
    match cancelled(job_id.clone(), reply) {
        // The scheduler knows live jobs only.
        Err(problem) if problem.code == Code::JobNotFound.as_str() => {
            let record = read_job(app, caller.tenant_id(), &job_id).await?;
            let state = view::ended(&record).and_then(|end| JobState::from_protocol(end.state())).ok_or(problem)?;
            Ok(too_late(job_id, state))
        }
        reply => reply,
    }
}

fn too_late(id: String, state: JobState) -> CancelReply {
    CancelReply { id, state, reason: Some("job already terminal".to_owned()) }
}

fn cancelled(job_id: String, reply: busbar::CancelReply) -> Result<CancelReply, Problem> {
    if let Some(problem) = reply.problem {
        return Err(of_wire(problem));
    }
    let state = match reply.answers.into_iter().next().and_then(|answer| answer.answer) {
        Some(cancel_answer::Answer::State(state)) => busbar::JobState::try_from(state).ok().and_then(JobState::from_protocol),
        Some(cancel_answer::Answer::Rejected(problem)) => return Err(of_wire(problem)),
        None => None,
    };
    let state = state.ok_or_else(|| internal(&"the scheduler's reply to a cancellation names no state"))?;
    if state.is_terminal() && state != JobState::Cancelled {
        return Ok(too_late(job_id, state));
    }
    Ok(CancelReply { id: job_id, state, reason: None })
}

/// The record of a job as soon as it has ended, or as it is when the wait is over; with the payload that was read beside it.
async fn wait_for_end<B: Bus, R: Records>(
    app: &App<B, R>,
    tenant_id: &str,
    job_id: &str,
    mut waiting: Waiting<'_>,
) -> Result<(JobRecord, Option<Found>), Problem> {
    loop {
        let (seen, found) = match Pointer::parse(&waiting.told()) {
            Ok(Pointer::Redis(result)) => read_job_beside(app, tenant_id, job_id, result).await,
            _ => (read_job(app, tenant_id, job_id).await, None),
        };
        if !waiting.again(&seen, |record| view::ended(record).is_some()).await {
            return Ok((seen?, found));
        }
    }
}

/// The record of a job of this tenant. Others' jobs do not exist for it.
pub(crate) async fn read_job<B: Bus, R: Records>(app: &App<B, R>, tenant_id: &str, job_id: &str) -> Result<JobRecord, Problem> {
    check_job_id(job_id)?;
    let stored = app.records.read(vec![keys::job(job_id)]).await.map_err(|error| of_store(&error))?;
    job_of(tenant_id, job_id, stored.into_iter().next().flatten())
}

/// The same with what stands where an event says that its result stands.
async fn read_job_beside<B: Bus, R: Records>(
    app: &App<B, R>,
    tenant_id: &str,
    job_id: &str,
    result: String,
) -> (Result<JobRecord, Problem>, Option<Found>) {
    match app.records.read_beside(vec![keys::job(job_id)], vec![result.clone()]).await {
        Ok((stored, bytes)) => {
            let (stored, bytes) = (stored.into_iter().next().flatten(), bytes.into_iter().next().flatten());
            (job_of(tenant_id, job_id, stored), bytes.map(|bytes| Found::new(result, bytes)))
        }
        Err(error) => (Err(of_store(&error)), None),
    }
}

fn job_of(tenant_id: &str, job_id: &str, stored: Option<Stored>) -> Result<JobRecord, Problem> {
    let record = stored.map(|stored| JobRecord::decode(stored.value)).transpose().map_err(|error| internal(&error))?;
    record.filter(|record| record.tenant_id == tenant_id).ok_or_else(|| {
        Problem::new(
            Code::JobNotFound,
            format!("no job {job_id} is known: it never was, belongs to another tenant or has expired"),
        )
    })
}

/// Refuses an identifier that no job can have.
pub(crate) fn check_job_id(job_id: &str) -> Result<(), Problem> {
    ids::check(job_id).map_err(|error| Problem::new(Code::JobNotFound, error.to_string()))
}
