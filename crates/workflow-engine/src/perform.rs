//! Commands to the scheduler: they follow from what runs are now, and are given again until they have been heard.

use std::collections::BTreeSet;
use std::time::Duration;

use busbar_protocol::busbar::{
    AdmitItem, AdmitReply, AdmitRequest, CancelItem, CancelRequest, Pause, PauseName, PauseReply, PauseRequest, PauseScope,
    admit_answer,
};
use busbar_protocol::codes::Code;
use busbar_protocol::keys;
use busbar_protocol::limits::{ADMIT_BYTES_MAX, ADMIT_ITEMS_MAX, INPUT_TTL};
use busbar_protocol::ports::{Bus, Clock, CommitClass, CommitId, Guard, Headers, Records, StoreError, TRACEPARENT, Unit, Write};
use busbar_protocol::prost::Message as _;
use busbar_protocol::subjects;
use bytes::Bytes;
use futures::future::try_join_all;
use tokio::sync::mpsc;

use crate::core::run::Outcome;
use crate::core::transition::JobOutcome;
use crate::input::{Found, Input, What};
use crate::service::Ports;

/// How long the scheduler may take to answer one message.
const PATIENCE: Duration = Duration::from_secs(3);
/// The same where somebody waits for a run to be paused: it is asked twice, once more if another pause is on its way, and the gateway waits for 5 s.
const HOLD_PATIENCE: Duration = Duration::from_secs(1);
/// Pauses between tries: the scheduler is away, or has no room.
const PAUSE: Duration = Duration::from_millis(200);
/// After so many tries the jobs are left to the look at everything that is out.
const TRIES_MAX: u32 = 10;

/// A job on its way to the scheduler.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    pub(crate) job_id: String,
    pub(crate) input: Bytes,
    pub(crate) item: AdmitItem,
}

/// Submits jobs. Repeating that is safe: a job that was admitted before is answered with the same admission.
pub(crate) async fn submit<B: Bus, R: Records, C: Clock>(
    ports: Ports<B, R, C>,
    jobs: Vec<Outgoing>,
    inputs: mpsc::Sender<Input>,
) {
    let all: Vec<String> = jobs.iter().map(|job| job.job_id.clone()).collect();
    for message in messages(jobs) {
        let refused = submit_message(&ports, message).await;
        if !refused.is_empty() && inputs.send(Input::Found(refused)).await.is_err() {
            return;
        }
    }
    let _ = inputs.send(Input::Submitted(all)).await;
}

/// Jobs in messages of the size that the scheduler takes.
fn messages(jobs: Vec<Outgoing>) -> Vec<Vec<Outgoing>> {
    let mut messages: Vec<Vec<Outgoing>> = Vec::new();
    let mut bytes = 0;
    for job in jobs {
        // Tag and length of an item stand around it.
        let size = job.item.encoded_len() + 8;
        let fits = messages.last().is_some_and(|last| last.len() < ADMIT_ITEMS_MAX && bytes + size <= ADMIT_BYTES_MAX);
        if !fits {
            messages.push(Vec::new());
            bytes = 0;
        }
        bytes += size;
        if let Some(last) = messages.last_mut() {
            last.push(job);
        }
    }
    messages
}

/// Submits what fits into one message. Returns what was refused for good.
async fn submit_message<B: Bus, R: Records, C: Clock>(ports: &Ports<B, R, C>, mut jobs: Vec<Outgoing>) -> Vec<Found> {
    let mut refused = Vec::new();
    for _ in 0..TRIES_MAX {
        if put_inputs(&ports.records, &jobs).await.is_ok() {
            let (later, for_good) = ask(ports, jobs).await;
            refused.extend(for_good);
            jobs = later;
        }
        if jobs.is_empty() {
            break;
        }
        ports.clock.sleep(PAUSE).await;
    }
    refused
}

/// Puts the inputs of jobs in their places that do not go along, unless the scheduler has taken the job already: from then on its
/// input stays, and writing it again would make it expire under a live job.
async fn put_inputs<R: Records>(records: &R, jobs: &[Outgoing]) -> Result<(), StoreError> {
    let jobs: Vec<&Outgoing> = jobs.iter().filter(|job| job.item.input.is_empty()).collect();
    if jobs.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = jobs.iter().map(|_| keys::staged(CommitId::generate())).collect();
    let writes = jobs.iter().zip(&names).map(|(job, name)| records.put_payload(name, job.input.clone(), Some(INPUT_TTL)));
    try_join_all(writes).await?;
    let units = jobs.into_iter().zip(names).map(|(job, name)| Unit {
        id: CommitId::generate(),
        guards: vec![Guard::Absent { key: keys::job(&job.job_id) }],
        writes: vec![
            Write::Copy { from: name.clone(), to: keys::context(&job.job_id), expire: Some(INPUT_TTL) },
            Write::Delete { key: name },
        ],
    });
    records.commit(CommitClass::Admit, units.collect::<Vec<_>>()).await.map(drop)
}

/// Asks once: what is to be asked again, and what was refused for good.
async fn ask<B: Bus, R: Records, C: Clock>(ports: &Ports<B, R, C>, jobs: Vec<Outgoing>) -> (Vec<Outgoing>, Vec<Found>) {
    let mut headers = Headers::new();
    if let [job] = jobs.as_slice()
        && !job.item.traceparent.is_empty()
    {
        headers.insert(TRACEPARENT.to_owned(), job.item.traceparent.clone());
    }
    let request = AdmitRequest { items: jobs.iter().map(|job| job.item.clone()).collect() };
    let answered = ports.bus.request(subjects::ADMIT, headers, request.encode_to_vec().into(), PATIENCE).await;
    let reply = match answered.map(|message| AdmitReply::decode(message.payload)) {
        Ok(Ok(reply)) if reply.problem.is_none() && reply.answers.len() == jobs.len() => reply,
        Ok(Ok(reply)) => {
            tracing::debug!(problem = ?reply.problem, "the scheduler did not take jobs of runs");
            return (jobs, Vec::new());
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, "the scheduler's answer cannot be read");
            return (jobs, Vec::new());
        }
        Err(error) => {
            tracing::debug!(%error, "the scheduler did not answer");
            return (jobs, Vec::new());
        }
    };
    let mut later = Vec::new();
    let mut refused = Vec::new();
    for (job, answer) in jobs.into_iter().zip(reply.answers) {
        match answer.answer {
            Some(admit_answer::Answer::Admitted(_)) => {}
            // A scheduler of an earlier version does not see an input that goes along.
            Some(admit_answer::Answer::Rejected(problem))
                if problem.code == Code::PayloadMissing.as_str() && !job.item.input.is_empty() =>
            {
                later.push(Outgoing { item: AdmitItem { input: Bytes::new(), ..job.item }, ..job });
            }
            Some(admit_answer::Answer::Rejected(problem)) if problem.retry_after_ms == 0 => {
                let outcome = JobOutcome::NotSucceeded {
                    outcome: Outcome::Failed,
                    code: problem.code,
                    message: problem.detail,
                    retryable: false,
                };
                refused.push(Found { job_id: job.job_id, what: What::Over(outcome) });
            }
            Some(admit_answer::Answer::Rejected(_)) | None => later.push(job),
        }
    }
    (later, refused)
}

/// Has the scheduler hold the jobs of these runs, and of no others.
pub(crate) async fn hold<B: Bus, R: Records, C: Clock>(
    ports: Ports<B, R, C>,
    paused: BTreeSet<String>,
    inputs: mpsc::Sender<Input>,
) {
    if hold_only(&ports.bus, &paused).await.is_none() {
        tracing::debug!(runs = paused.len(), "the scheduler was not told which runs are paused");
    }
    let _ = inputs.send(Input::Held).await;
}

/// None, if the scheduler does not answer, or refuses.
async fn hold_only<B: Bus>(bus: &B, paused: &BTreeSet<String>) -> Option<()> {
    let held: BTreeSet<String> = ask_pauses(bus, PauseRequest::default()).await?;
    let name = |run_id: &String| PauseName { scope: PauseScope::Run.into(), name: run_id.clone() };
    let pause = |run_id| Pause {
        what: Some(name(run_id)),
        reason: "its run is paused".to_owned(),
        set_by: subjects::ENGINE_QUEUE.to_owned(),
        ..Pause::default()
    };
    let request =
        PauseRequest { set: paused.difference(&held).map(pause).collect(), lift: held.difference(paused).map(name).collect() };
    if request == PauseRequest::default() {
        return Some(());
    }
    (ask_pauses(bus, request).await? == *paused).then_some(())
}

/// Changes pauses, and tells which runs are paused then.
async fn ask_pauses<B: Bus>(bus: &B, request: PauseRequest) -> Option<BTreeSet<String>> {
    let asked =
        bus.request(subjects::SCHEDULER_PAUSE, Headers::new(), request.encode_to_vec().into(), HOLD_PATIENCE).await.ok()?;
    let reply = PauseReply::decode(asked.payload).ok().filter(|reply| reply.problem.is_none())?;
    let of_runs = reply.pauses.into_iter().filter_map(|pause| pause.what).filter(|what| what.scope() == PauseScope::Run);
    Some(of_runs.map(|what| what.name).collect())
}

/// Cancels jobs of runs that are ending. What is not heard is said again.
pub(crate) async fn cancel<B: Bus, R: Records, C: Clock>(ports: Ports<B, R, C>, items: Vec<CancelItem>) {
    for page in items.chunks(ADMIT_ITEMS_MAX) {
        let request = CancelRequest { items: page.to_vec() };
        let asked = ports.bus.request(subjects::SCHEDULER_CANCEL, Headers::new(), request.encode_to_vec().into(), PATIENCE);
        if let Err(error) = asked.await {
            tracing::debug!(%error, "jobs of a run that is ending were not cancelled yet");
        }
    }
}
