//! The tasks around the event loop: each asks the world something and puts the answer into the loop.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use busbar_protocol::busbar::{
    AdmitAnswer, AdmitReply, Admitted, IdempotencyPolicy, IdempotencyRecord, JobState, Judgement, SnapshotChanged, admit_answer,
};
use busbar_protocol::codes::Code;
use busbar_protocol::envelope;
use busbar_protocol::ids::JobId;
use busbar_protocol::keys;
use busbar_protocol::pointers::{Pointer, Sha256Hex};
use busbar_protocol::ports::{
    Bus, BusError, Clock, CommitId, Connection, Headers, Judge, Records, StoreError, Stored, UNITS_MAX,
};
use busbar_protocol::prost::Message as _;
use busbar_protocol::subjects;

use crate::Ports;
use crate::admission::{self, Doubt, Verdict, duplicate};
use crate::config::SchedulerConfig;
use crate::core::job::{self, Job, ResultPlace, Source};
use crate::core::quorum::{compare, judgement};
use crate::core::transition::{Report, Reported as Outcome};
use crate::core::verdict;
use crate::input::{Admit, Input, Origin, Reported, Shown};
use crate::intake;
use crate::library::{self, Library};
use crate::office::Proof;
use crate::takeover;
use crate::traces::Traces;

/// How often what is announced on the bus is asked for all the same, since an announcement can be lost.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How long the kernel rests after it did not answer.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// When workers are called, each time after the one before.
const CALLED_AFTER: [Duration; 3] = [Duration::ZERO, Duration::from_millis(500), Duration::from_secs(2)];
/// How long a read is repeated after the store was away.
const READ_RETRY: Duration = Duration::from_millis(100);
/// How long the next round trip with the bus waits when one did not come back.
const ROUND_TRIP_RETRY: Duration = Duration::from_millis(100);

/// Renews the lease until somebody else has it, or has had it: a lease that ran out and came back is one of another epoch, and
/// what happened in between is not in memory.
pub(crate) async fn keep_lease<B: Bus, R: Records, C: Clock, J: Judge>(
    ports: Ports<B, R, C, J>,
    config: SchedulerConfig,
    epoch: u64,
    proven: Arc<Proof>,
    inputs: mpsc::Sender<Input>,
) {
    loop {
        ports.clock.sleep(config.lease_poll).await;
        let asked = ports.clock.now();
        match ports.records.lease(keys::LOCK_SCHEDULER, &config.owner, config.lease_ttl).await {
            Ok(lease) if !lease.held || lease.epoch != epoch => {
                let _ = inputs.send(Input::LeaseLost).await;
                return;
            }
            Ok(_) => proven.renew(asked),
            // While the store is away nobody else can take the lease either, and every commit carries the epoch.
            Err(error) => tracing::debug!(%error, "the lease was not renewed"),
        }
    }
}

/// Reads jobs until the store answers; afterwards, what needed them goes on.
pub(crate) async fn fetch<B: Bus, R: Records, C: Clock, J: Judge>(
    ports: Ports<B, R, C, J>,
    ids: Vec<JobId>,
    then: Option<Box<Input>>,
    inputs: mpsc::Sender<Input>,
) {
    let stored = stored(&ports.records, &ports.clock, ids.iter().map(JobId::as_str)).await;
    let jobs = ids.into_iter().zip(stored).map(|(id, stored)| {
        let live = stored.map(|stored| takeover::live(id.as_str(), &stored)).transpose();
        let live = live.inspect_err(|error| tracing::error!(job_id = %id, %error, "a job cannot be read"));
        (id, live.ok().flatten().flatten())
    });
    let _ = inputs.send(Input::Fetched { jobs: jobs.collect(), then }).await;
}

/// The same, a little later: what was read was not yet what was written last.
pub(crate) async fn fetch_again<B: Bus, R: Records, C: Clock, J: Judge>(
    ports: Ports<B, R, C, J>,
    ids: Vec<JobId>,
    then: Option<Box<Input>>,
    inputs: mpsc::Sender<Input>,
) {
    ports.clock.sleep(READ_RETRY).await;
    fetch(ports, ids, then, inputs).await;
}

/// Reads the jobs of a page that are not in memory. Those that are not any more what was asked for are left out.
pub(crate) async fn complete<B: Bus, R: Records, C: Clock, J: Judge>(
    ports: Ports<B, R, C, J>,
    page: Vec<Shown>,
    state: JobState,
    reply: String,
    inputs: mpsc::Sender<Input>,
) {
    let shelved = page.iter().filter_map(|shown| if let Shown::Shelved(id) = shown { Some(id.as_str()) } else { None });
    let mut found = stored(&ports.records, &ports.clock, shelved).await.into_iter();
    let fits = |job: &Job| job.end().is_none() && (state == JobState::Unspecified || job.state.tag() == state);
    let jobs = page.into_iter().filter_map(|shown| match shown {
        Shown::Whole(record) => Some(*record),
        Shown::Shelved(_) => {
            let job = Job::decode(&found.next().flatten()?.value).ok()?;
            fits(&job).then(|| job.to_record())
        }
    });
    let _ = inputs.send(Input::Listed { jobs: jobs.collect(), reply }).await;
}

/// The records of jobs, in their order; asked for until the store answers.
pub(crate) async fn stored<R: Records, C: Clock>(records: &R, clock: &C, ids: impl Iterator<Item = &str>) -> Vec<Option<Stored>> {
    let keys: Vec<String> = ids.map(keys::job).collect();
    let mut found = Vec::with_capacity(keys.len());
    for keys in keys.chunks(UNITS_MAX) {
        loop {
            match records.read(keys.to_vec()).await {
                Ok(stored) => break found.extend(stored),
                Err(error) => {
                    tracing::debug!(%error, "jobs cannot be read for now");
                    clock.sleep(READ_RETRY).await;
                }
            }
        }
    }
    found
}

/// Asks all native workers to beat soon: those that rest would say only in some seconds that they are there. Nobody keeps the
/// question, so it is asked again for whom it did not reach.
pub(crate) async fn call_workers<B: Bus, C: Clock>(bus: B, clock: C) {
    for pause in CALLED_AFTER {
        clock.sleep(pause).await;
        if let Err(error) = bus.publish(subjects::CALL, Headers::new(), Bytes::new()).await {
            tracing::debug!(%error, "workers were not called");
        }
    }
}

/// Tells the loop when the bus goes and comes.
pub(crate) async fn watch_connection(mut connection: watch::Receiver<Connection>, inputs: mpsc::Sender<Input>) {
    while connection.changed().await.is_ok() {
        let now = *connection.borrow_and_update();
        if inputs.send(Input::Connection(now)).await.is_err() {
            return;
        }
    }
}

/// A round trip with the bus, begun behind the sending of this number. One that fails is over only after a while, as another one
/// begins then.
pub(crate) async fn go_and_return<B: Bus, C: Clock>(bus: B, clock: C, number: u64, inputs: mpsc::Sender<Input>) {
    let outcome = bus.round_trip().await;
    if let Err(error) = &outcome {
        tracing::debug!(%error, "nobody knows whether what was sent has arrived");
        clock.sleep(ROUND_TRIP_RETRY).await;
    }
    let _ = inputs.send(Input::CameBack { number, arrived: outcome.is_ok() }).await;
}

/// Reads the topic documents and the bounds again whenever they may have changed.
pub(crate) async fn watch_config<B: Bus, R: Records, C: Clock, J: Judge>(
    ports: &Ports<B, R, C, J>,
    inputs: mpsc::Sender<Input>,
    tasks: &mut JoinSet<()>,
) -> Result<(), BusError> {
    let mut words = ports.bus.subscribe(subjects::CONFIG_CHANGED, None).await?;
    let (records, clock) = (ports.records.clone(), ports.clock.clone());
    tasks.spawn(async move {
        // The commits and not the revisions: a record that was removed and written anew begins with revision 1 again.
        // Nothing is known at first, not even that there is no record: one that stood when the term began may be gone by now.
        let mut known: [Option<Option<CommitId>>; 2] = [None; 2];
        loop {
            tokio::select! {
                biased;
                word = words.next() => if word.is_none() { return },
                () = clock.sleep(LOOK_AGAIN) => {}
            }
            let Ok(stored) = records.read(vec![keys::TOPICS.to_owned(), keys::LIMITS.to_owned()]).await else { continue };
            let found: Vec<Option<CommitId>> = stored.into_iter().map(|stored| stored.map(|stored| stored.commit)).collect();
            for (index, found) in
                found.into_iter().enumerate().filter(|(index, found)| Some(*found) != known[*index]).collect::<Vec<_>>()
            {
                let input = match index {
                    0 => Library::load(&records).await.map(Input::Topics),
                    _ => library::bounds(&records).await.map(Input::Bounds),
                };
                match input {
                    Ok(input) => {
                        known[index] = Some(found);
                        if inputs.send(input).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => tracing::error!(%error, "a document cannot be used; the last good one stays"),
                }
            }
        }
    });
    Ok(())
}

/// Learns of new policy snapshots.
pub(crate) async fn watch_snapshot<B: Bus, R: Records, C: Clock, J: Judge>(
    ports: &Ports<B, R, C, J>,
    inputs: mpsc::Sender<Input>,
    tasks: &mut JoinSet<()>,
) -> Result<(), BusError> {
    let mut words = ports.bus.subscribe(subjects::KERNEL_SNAPSHOT, None).await?;
    let (judge, clock) = (ports.judge.clone(), ports.clock.clone());
    tasks.spawn(async move {
        loop {
            let announced = tokio::select! {
                biased;
                word = words.next() => match word {
                    Some(word) => SnapshotChanged::decode(word.payload).ok().map(|changed| changed.snapshot),
                    None => return,
                },
                () = clock.sleep(LOOK_AGAIN) => judge.check(Vec::new()).await.ok().map(|answer| answer.snapshot),
            };
            let Some(snapshot) = announced.filter(|snapshot| !snapshot.is_empty()) else { continue };
            if inputs.send(Input::Snapshot(snapshot)).await.is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// Asks the kernel about jobs that are undecided.
pub(crate) async fn ask<B: Bus, R: Records, C: Clock, J: Judge>(
    ports: Ports<B, R, C, J>,
    traces: Traces,
    jobs: Vec<Arc<Job>>,
    inputs: mpsc::Sender<Input>,
) {
    let answers = match ports.judge.check(jobs.iter().map(|job| traces.question(job, None)).collect()).await {
        Ok(answers) if answers.responses.len() == jobs.len() => answers.responses.into_iter().map(Some).collect(),
        Ok(_) | Err(_) => {
            ports.clock.sleep(ASK_AGAIN).await;
            vec![None; jobs.len()]
        }
    };
    let now = ports.clock.now();
    let verdicts = jobs.iter().zip(answers).map(|(job, answer)| (job.id.clone(), answer.map(|a| verdict::verdict(job, &a, now))));
    let _ = inputs.send(Input::Verdicts(verdicts.collect())).await;
}

/// Whether the payload of a result must be looked at before it counts. A result is suspect whose header is not what it speaks of.
pub(crate) fn needs_check(job: &Job, report: &Report, suspect: bool, library: &Library) -> bool {
    match &report.outcome {
        // What is compared is what stands there, whatever a worker says of it.
        Outcome::Succeeded(Some(_)) if job.is_part() => true,
        Outcome::Succeeded(Some(place)) => {
            let kept = Pointer::Redis(keys::attempt_result(job.id.as_str(), job.attempt)).to_string();
            suspect || place.pointer != kept || library.output_schema(&job.topic).is_some()
        }
        Outcome::Succeeded(None) => library.output_schema(&job.topic).is_some(),
        Outcome::Failed { .. } | Outcome::Retryable { .. } | Outcome::RateLimited { .. } | Outcome::Cancelled => false,
    }
}

/// Looks at the payload of a result: its place, its form, its digest.
pub(crate) async fn check_result<B: Bus, R: Records, C: Clock, J: Judge>(
    ports: Ports<B, R, C, J>,
    library: Arc<Library>,
    job: Job,
    mut reported: Reported,
    inputs: mpsc::Sender<Input>,
) {
    let Outcome::Succeeded(place) = reported.report.outcome.clone() else { return };
    reported.report.outcome = match place {
        Some(place) => checked(&ports, &library, &job, place).await,
        None => failed(Code::OutputInvalid, "the topic has an output schema, but there is no result".to_owned()),
    };
    reported.checked = true;
    let _ = inputs.send(Input::Reported(reported)).await;
}

async fn checked<B: Bus, R: Records, C: Clock, J: Judge>(
    ports: &Ports<B, R, C, J>,
    library: &Library,
    job: &Job,
    place: ResultPlace,
) -> Outcome {
    let pointer = match Pointer::parse(&place.pointer) {
        Ok(pointer) if pointer.is_result_of(job.id.as_str()) => pointer,
        Ok(_) => return failed(Code::PointerInvalid, format!("{} does not belong to the job", place.pointer)),
        Err(error) => return failed(Code::PointerInvalid, error.to_string()),
    };
    // Results in blobs are larger than what a schema is held against; their digest is their name.
    let key = match pointer {
        Pointer::Redis(key) => key,
        Pointer::Blob(_) if job.verifies > 0 => return failed(Code::OutputInvalid, "a verifier says less than that".to_owned()),
        Pointer::Blob(digest) => return Outcome::Succeeded(Some(ResultPlace { compared: digest.to_bytes(), ..place })),
    };
    let value = match &place.source {
        Source::Message(bytes) => Some(bytes.clone()),
        Source::There | Source::Key(_) => read_output(ports, &key).await,
    };
    let Some(value) = value else { return failed(Code::PayloadMissing, format!("there is nothing at {}", place.pointer)) };
    if let Some(Err(violation)) = library.output_schema(&job.topic).map(|schema| schema.validate(&value)) {
        return failed(Code::OutputInvalid, violation.to_string());
    }
    let (compared, judgement) = match said(job, &value) {
        Ok(said) => said,
        Err(detail) => return failed(Code::OutputInvalid, detail),
    };
    let compared = compared.map_or_else(Bytes::new, |compared| Bytes::copy_from_slice(&compared));
    if matches!(place.source, Source::Message(_)) {
        return Outcome::Succeeded(Some(ResultPlace { compared, judgement, ..place }));
    }
    let kept = keys::attempt_result(job.id.as_str(), job.attempt);
    let digest = Sha256Hex::of(&value);
    Outcome::Succeeded(Some(ResultPlace {
        pointer: Pointer::Redis(kept.clone()).to_string(),
        sha256: digest.to_bytes(),
        size: value.len() as u64,
        compared,
        judgement,
        source: if key == kept { Source::There } else { Source::Key(key) },
    }))
}

/// What the result of a part says: by which digest a replica's is compared, or what a verifier's says of that of another.
fn said(job: &Job, value: &[u8]) -> Result<(Option<[u8; 32]>, Judgement), String> {
    if job.verifies > 0 {
        return judgement::read(value).map(|word| (word.canonical, word.judgement));
    }
    let replication = job.plan.replication.as_ref();
    Ok((replication.map(|replication| compare::digest(value, replication.compare())), Judgement::Unspecified))
}

async fn read_output<B: Bus, R: Records, C: Clock, J: Judge>(ports: &Ports<B, R, C, J>, key: &str) -> Option<Bytes> {
    loop {
        match ports.records.payloads(vec![key.to_owned()]).await {
            Ok(mut values) => return values.pop().flatten(),
            Err(error) => {
                tracing::debug!(%error, "a result is read again");
                ports.clock.sleep(READ_RETRY).await;
            }
        }
    }
}

fn failed(code: Code, message: String) -> Outcome {
    Outcome::Failed { code: code.to_string(), message }
}

/// Finds out what the submissions whose names were taken stand for, and answers their message.
pub(crate) async fn resolve_duplicates<B: Bus, R: Records, C: Clock, J: Judge>(
    ports: Ports<B, R, C, J>,
    verdicts: Vec<Verdict>,
    reply: String,
    inputs: mpsc::Sender<Input>,
) {
    let mut answers = Vec::with_capacity(verdicts.len());
    for verdict in verdicts {
        let answer = match verdict {
            Verdict::Known(answer) => answer,
            Verdict::Doubtful(doubt) => resolve(&ports, *doubt, &inputs).await,
        };
        answers.push(AdmitAnswer { answer: Some(answer) });
    }
    let body = AdmitReply { answers, problem: None }.encode_to_vec();
    if let Err(error) = ports.bus.publish(&reply, Headers::new(), body.into()).await {
        tracing::debug!(%error, "an answer was not sent");
    }
}

/// What a submission is answered that may be a repetition. Where the key passes to it, it is submitted again; somebody else can be
/// first then, so that it is looked at once more.
async fn resolve<B: Bus, R: Records, C: Clock, J: Judge>(
    ports: &Ports<B, R, C, J>,
    mut doubt: Doubt,
    inputs: &mpsc::Sender<Input>,
) -> admit_answer::Answer {
    loop {
        let revision = match existing(&ports.records, &doubt).await {
            Ok(Found::Answer(answer)) => return answer,
            Ok(Found::KeyPasses { revision }) => revision,
            Err(error) => {
                tracing::debug!(%error, "a duplicate is looked up again");
                ports.clock.sleep(READ_RETRY).await;
                continue;
            }
        };
        doubt.prepared.birth.key_revision = Some(revision);
        let (done, told) = oneshot::channel();
        let outcomes = vec![Ok(doubt.prepared.clone())];
        let admit = Admit { outcomes, origin: Origin::Task { done }, received: Instant::now() };
        let sent = inputs.send(Input::Admit(admit)).await;
        match told.await.ok().and_then(|mut verdicts| verdicts.pop()).filter(|_| sent.is_ok()) {
            Some(Verdict::Known(answer)) => return answer,
            Some(Verdict::Doubtful(again)) if again.otherwise.is_some() => return Verdict::Doubtful(again).refusal(),
            Some(Verdict::Doubtful(again)) => doubt = *again,
            None => {
                let detail = "this scheduler was replaced".to_owned();
                return admit_answer::Answer::Rejected(intake::problem(Code::SchedulerUnavailable, detail));
            }
        }
    }
}

/// What stands under the names of a submission.
enum Found {
    /// This is to be said.
    Answer(admit_answer::Answer),
    /// The job that its key stands for has ended without success, and the key passes to it.
    KeyPasses {
        /// The revision of the key's record.
        revision: u64,
    },
}

/// The job that a submission repeats, if it is the same submission or names the same idempotency key.
async fn existing<R: Records>(records: &R, doubt: &Doubt) -> Result<Found, StoreError> {
    let job = &doubt.prepared.job;
    let own = keys::job(job.id.as_str());
    if let Some(found) = read_job(records, own).await? {
        // Where the payload was redacted, the request lost its reference to it, and got another pointer behind it.
        let submitted = &doubt.prepared.submitted;
        let stands = found.request.starts_with(submitted) || found.request.starts_with(&envelope::without_context_ref(submitted));
        let same = found.tenant_id == job.tenant_id && stands;
        return Ok(Found::Answer(if same { admitted(&found) } else { duplicate(job) }));
    }
    let none = || Found::Answer(doubt.otherwise.clone().map_or_else(|| duplicate(job), admit_answer::Answer::Rejected));
    if job.plan.idempotency_key.is_empty() {
        return Ok(none());
    }
    let key = keys::idempotency(&job.tenant_id, &job.plan.idempotency_key);
    let Some(stored) = records.read(vec![key]).await?.pop().flatten() else { return Ok(none()) };
    let Ok(record) = IdempotencyRecord::decode(stored.value) else { return Ok(none()) };
    if admission::refuses_used_key(job) {
        return Ok(Found::Answer(admission::key_used(job, &record.job_id)));
    }
    let first = read_job(records, keys::job(&record.job_id)).await?;
    let passes = job.plan.idempotency_policy() == IdempotencyPolicy::AllowAfterFailure && doubt.otherwise.is_none();
    let failed = |first: &Job| first.end().is_some_and(|end| end.outcome != job::Outcome::Succeeded);
    Ok(match first {
        // A key whose job is forgotten stands for nothing, where that matters.
        None if passes => Found::KeyPasses { revision: stored.revision },
        Some(first) if passes && failed(&first) => Found::KeyPasses { revision: stored.revision },
        Some(first) => Found::Answer(admitted(&first)),
        None => none(),
    })
}

async fn read_job<R: Records>(records: &R, key: String) -> Result<Option<Job>, StoreError> {
    let stored = records.read(vec![key.clone()]).await?.pop().flatten();
    stored.map(|stored| Job::decode(&stored.value).map_err(|detail| StoreError::Corrupt { key, detail })).transpose()
}

fn admitted(job: &Job) -> admit_answer::Answer {
    admit_answer::Answer::Admitted(Admitted {
        job_id: job.id.to_string(),
        trace_id: job.trace_id.clone(),
        state: job.state.tag().into(),
        existing: true,
    })
}
