//! Model workers: native ones that keep to the protocol of our SDK, an announced and a silent one as CAP SDKs make them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use busbar_protocol::busbar::{HeldAttempt, WorkerBeat};
use busbar_protocol::cap::bus_packet::Payload;
use busbar_protocol::cap::{Handshake, Heartbeat, JobProgress, JobRequest, JobResult, JobStatus, ResourceRef};
use busbar_protocol::envelope;
use busbar_protocol::inline;
use busbar_protocol::pointers::Sha256Hex;
use busbar_protocol::ports::{Bus as _, Clock as _, Headers, INCARNATION, Message, Records as _};
use busbar_protocol::prost::Message as _;
use busbar_protocol::{keys, subjects};
use bytes::Bytes;
use serde_json::{Value, json};

use super::{World, judge, rules, workflows};
use crate::model_bus::ModelClient;
use crate::model_store::Content;

const NATIVE: usize = 2;
/// Who does not always tell the truth where results are compared.
const LIAR: &str = "native-1";
/// What an honest worker gives.
pub(crate) const DONE: &[u8] = b"\"done\"";
/// What native workers serve.
const SERVED: [&str; 13] = [
    "job.native",
    "job.fragile",
    "job.slow",
    "job.mute",
    "job.poison",
    "job.single",
    "job.latest",
    "job.denied",
    "job.throttled",
    "job.approval",
    rules::AGREED,
    rules::PROVED,
    rules::CHECK,
];
const CAPACITY: u32 = 2;
const PREFETCH: u32 = 2;
const ANNOUNCED_CAPACITY: u32 = 2;

/// How many attempts a worker takes at once.
pub(crate) fn takes(id: &str) -> Option<usize> {
    let capacity = match id {
        "announced" => ANNOUNCED_CAPACITY,
        id if id.starts_with("native-") => CAPACITY + prefetches(id),
        _ => return None,
    };
    usize::try_from(capacity).ok()
}

/// How many attempts a native worker takes beyond its capacity.
fn prefetches(id: &str) -> u32 {
    if id == "native-1" { PREFETCH } else { 0 }
}

/// Starts all workers.
pub(crate) fn spawn(world: &World, tasks: &mut JoinSet<()>) {
    for number in 0..NATIVE {
        tasks.spawn(keep_native(world.clone(), format!("native-{number}")));
    }
    tasks.spawn(announced(world.clone()));
    tasks.spawn(silent(world.clone()));
}

/// One native worker, killed now and then while there is trouble and started again.
async fn keep_native(world: World, id: String) {
    let mut start: u32 = 0;
    loop {
        start += 1;
        let given = watch::Sender::new(BTreeSet::new());
        let poisoned = Arc::<Notify>::default();
        let worker = Native {
            world: world.clone(),
            bus: world.bus.client(&id),
            id: id.clone(),
            incarnation: format!("{start:08}"),
            held: watch::Sender::new(BTreeSet::new()),
            given: given.clone(),
            poisoned: Arc::clone(&poisoned),
        };
        let mut process = JoinSet::new();
        process.spawn(worker.live());
        let leaves = tokio::select! {
            biased;
            _ = process.join_next() => false,
            () = poisoned.notified() => false,
            leaves = end_of_life(&world) => leaves,
        };
        drop(process);
        world.monitor.disturb();
        if leaves {
            say_goodbye(&world, &id, start).await;
        }
        world.bus.kill(&id);
        count_held(&world, &given.borrow());
        tokio::time::sleep(world.pause(Duration::from_secs(8))).await;
    }
}

/// Waits for the end of a worker's process, which does not come in peace; whether it leaves in good order.
async fn end_of_life(world: &World) -> bool {
    tokio::time::sleep(Duration::from_secs(3 + world.chaos.below(25))).await;
    if !world.troubled() {
        std::future::pending::<()>().await;
    }
    world.chaos.chance(300)
}

/// The last beat of a worker that leaves in good order, and gives back what it holds.
async fn say_goodbye(world: &World, id: &str, start: u32) {
    let beat = WorkerBeat {
        worker_id: id.to_owned(),
        incarnation: format!("{start:08}"),
        sequence: u64::MAX,
        pool: "default".to_owned(),
        capacity: CAPACITY,
        leaving: true,
        ..WorkerBeat::default()
    };
    let _ = world.bus.client(id).publish(subjects::BEAT, Headers::new(), beat.encode_to_vec().into()).await;
}

type Attempt = (String, u32);

/// Remembers which attempts died with a worker: those that it was given and whose result nobody has taken notice of yet.
fn count_held(world: &World, given: &BTreeSet<Attempt>) {
    let mut lost = Vec::new();
    for (job, attempt) in given {
        if world.job(job).is_some_and(|present| present.end().is_none() && present.attempt == *attempt) {
            lost.push(job.clone());
        }
    }
    let mut ledger = world.ledger();
    ledger.faults += 1;
    for job in lost {
        *ledger.held_at_kill.entry(job).or_default() += 1;
    }
}

struct Native {
    world: World,
    bus: ModelClient,
    id: String,
    incarnation: String,
    held: watch::Sender<BTreeSet<Attempt>>,
    /// Everything that this start of the worker was ever given.
    given: watch::Sender<BTreeSet<Attempt>>,
    /// A job kills the process.
    poisoned: Arc<Notify>,
}

/// An attempt that is under way.
struct Running {
    cancel: watch::Sender<bool>,
}

impl Native {
    async fn live(self) {
        let Ok(jobs) = self.bus.subscribe(&subjects::worker_jobs(&self.id), None).await else { return };
        let Ok(cancels) = self.bus.subscribe(subjects::CANCEL, None).await else { return };
        let Ok(calls) = self.bus.subscribe(subjects::CALL, None).await else { return };
        let mut calls = calls.fuse();
        let mut jobs = jobs.fuse();
        let mut cancels = cancels.fuse();
        let mut running: BTreeMap<Attempt, Running> = BTreeMap::new();
        let mut finished: BTreeMap<Attempt, Told> = BTreeMap::new();
        let mut work: JoinSet<(Attempt, Told)> = JoinSet::new();
        let mut sequence = 0;
        let mut next_beat = tokio::time::Instant::now();
        loop {
            tokio::select! {
                biased;
                message = jobs.next() => {
                    let Some(message) = message else { return };
                    self.receive(&message, &mut running, &finished, &mut work);
                }
                message = cancels.next() => {
                    let Some(message) = message else { return };
                    cancel(&message, &running);
                }
                Some(Ok((attempt, result))) = work.join_next() => {
                    running.remove(&attempt);
                    self.held.send_modify(|held| { held.remove(&attempt); });
                    finished.insert(attempt, result);
                }
                message = calls.next() => if message.is_none() { return },
                () = tokio::time::sleep_until(next_beat) => {
                    sequence += 1;
                    let next = self.beat(sequence).await;
                    next_beat = tokio::time::Instant::now() + next;
                    continue;
                }
            }
            // A beat follows soon after every change.
            next_beat = next_beat.min(tokio::time::Instant::now() + Duration::from_millis(50));
        }
    }

    /// Beats; tells when the next one is due.
    async fn beat(&self, sequence: u64) -> Duration {
        let shown = self.held.borrow().clone();
        let held = shown.iter().map(|(job, attempt)| HeldAttempt {
            job_id: job.clone(),
            attempt: *attempt,
            dispatch_id: format!("{job}/{attempt}"),
        });
        let beat = WorkerBeat {
            worker_id: self.id.clone(),
            incarnation: self.incarnation.clone(),
            sequence,
            pool: "default".to_owned(),
            capacity: CAPACITY,
            held: held.collect(),
            prefetch: prefetches(&self.id),
            next_ms: if shown.is_empty() { 10_000 } else { 1_000 },
            topics: SERVED.map(str::to_owned).to_vec(),
            ..WorkerBeat::default()
        };
        let _ = self.bus.publish(subjects::BEAT, Headers::new(), beat.encode_to_vec().into()).await;
        Duration::from_millis(beat.next_ms.into())
    }

    fn receive(
        &self,
        message: &Message,
        running: &mut BTreeMap<Attempt, Running>,
        finished: &BTreeMap<Attempt, Told>,
        work: &mut JoinSet<(Attempt, Told)>,
    ) {
        let Some((trace, request)) = request(message) else {
            self.world.ledger().broken.push("a dispatch breaks the rules of the envelope".to_owned());
            return;
        };
        if message.headers.get(INCARNATION).is_some_and(|start| *start != self.incarnation) {
            // It is for an earlier start.
            return;
        }
        let dispatch = request.dispatch.clone().unwrap_or_default();
        let number = u32::try_from(dispatch.attempt).unwrap_or(0);
        let attempt = (request.job_id.clone(), number);
        if running.contains_key(&attempt) {
            return;
        }
        let newer = |(job, n): &&Attempt| *job == attempt.0 && *n > number;
        if running.keys().find(newer).is_some() || finished.keys().find(newer).is_some() {
            return;
        }
        if dispatch.assigned_worker_id != self.id {
            self.world.ledger().broken.push(format!("{} got an attempt of {}", self.id, dispatch.assigned_worker_id));
        }
        let (cancel, cancelled) = watch::channel(false);
        running.insert(attempt.clone(), Running { cancel });
        self.held.send_modify(|held| {
            held.insert(attempt.clone());
        });
        let dropped = self.world.bus.counters().dropped;
        // What has been done takes no room, though its result is still on its way.
        let busy = {
            let ledger = self.world.ledger();
            running.keys().filter(|attempt| !ledger.reported.contains_key(*attempt)).count()
        };
        self.world.monitor.holds(&self.id, busy, takes(&self.id).unwrap_or(0), dropped);
        self.given.send_modify(|given| {
            given.insert(attempt.clone());
        });
        let known = finished.get(&attempt).cloned();
        let job = Execution {
            world: self.world.clone(),
            bus: self.bus.clone(),
            worker: self.id.clone(),
            poisoned: Arc::clone(&self.poisoned),
            trace,
            carried: carried(&self.world, message),
            may_carry: message.headers.contains_key(inline::OUTPUT_BYTES_MAX),
            request,
            attempt,
        };
        if known.is_none() {
            let key = (job.attempt.0.clone(), number, self.incarnation.clone());
            let mut ledger = self.world.ledger();
            let count = ledger.executed.entry(key).or_default();
            *count += 1;
        }
        work.spawn(job.run(known, cancelled));
    }
}

fn cancel(message: &Message, running: &BTreeMap<Attempt, Running>) {
    let Ok(decoded) = envelope::decode(&message.payload) else { return };
    let Payload::JobCancel(cancel) = decoded.payload else { return };
    let named = cancel.dispatch.and_then(|dispatch| u32::try_from(dispatch.attempt).ok());
    for ((job, attempt), running) in running {
        if *job == cancel.job_id && named.is_none_or(|named| named == *attempt) {
            running.cancel.send_replace(true);
        }
    }
}

fn request(message: &Message) -> Option<(String, JobRequest)> {
    let decoded = envelope::decode(&message.payload).ok()?;
    match decoded.payload {
        Payload::JobRequest(request) => Some((decoded.packet.trace_id, request)),
        _ => None,
    }
}

/// The input that came with a dispatch.
fn carried(world: &World, message: &Message) -> Option<Bytes> {
    let input = inline::decode(message.headers.get(inline::INPUT)?);
    input.inspect_err(|error| world.breaks(format!("the input of a dispatch cannot be read: {error}"))).ok()
}

/// A result as it was told.
#[derive(Clone)]
struct Told {
    result: JobResult,
    headers: Headers,
}

impl From<JobResult> for Told {
    fn from(result: JobResult) -> Self {
        Self { result, headers: Headers::new() }
    }
}

/// One execution of one attempt.
struct Execution {
    world: World,
    bus: ModelClient,
    worker: String,
    poisoned: Arc<Notify>,
    trace: String,
    /// The input, where it came along.
    carried: Option<Bytes>,
    /// The output may go with the result.
    may_carry: bool,
    request: JobRequest,
    attempt: Attempt,
}

impl Execution {
    async fn run(self, known: Option<Told>, mut cancelled: watch::Receiver<bool>) -> (Attempt, Told) {
        let told = match known {
            Some(told) => told,
            None => self.execute(&mut cancelled).await,
        };
        self.world.ledger().reported.entry(self.attempt.clone()).or_default().insert(told.result.status());
        let id = format!("{}/{}/result", self.attempt.0, self.attempt.1);
        let payload = Payload::JobResult(told.result.clone());
        let packet = envelope::packet(&self.trace, &self.worker, self.world.clock.now(), payload);
        while self.bus.publish_durable(subjects::RESULT, &id, told.headers.clone(), packet.clone()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        (self.attempt, told)
    }

    async fn execute(&self, cancelled: &mut watch::Receiver<bool>) -> Told {
        let input = self.input();
        let slow = self.request.topic == "job.slow" && self.world.chaos.chance(500);
        let mute = self.request.topic == "job.mute";
        let length = match (slow, mute) {
            (true, _) => Duration::from_secs(5),
            (false, true) => Duration::from_secs(3),
            // Short ones are worth being fetched in advance.
            (false, false) if self.world.chaos.chance(500) => self.world.pause(Duration::from_millis(100)),
            (false, false) => self.world.pause(Duration::from_millis(800)),
        };
        if self.request.topic == "job.poison" && self.world.chaos.chance(800) {
            self.poisoned.notify_one();
            std::future::pending::<()>().await;
        }
        let reports = mute && self.world.chaos.chance(600);
        let heeds = self.world.chaos.chance(700);
        let mut status = JobStatus::Succeeded;
        tokio::select! {
            biased;
            _ = cancelled.wait_for(|cancelled| *cancelled && heeds) => status = JobStatus::Cancelled,
            () = tokio::time::sleep(length) => {}
            () = self.report(reports) => {}
        }
        if status == JobStatus::Succeeded && self.request.topic == "job.native" && self.world.chaos.chance(20) {
            return self.too_fast().into();
        }
        let fails = if self.request.topic == "job.fragile" { 600 } else { 60 };
        if status == JobStatus::Succeeded && self.world.chaos.chance(fails) {
            status = if self.world.chaos.chance(700) { JobStatus::FailedRetryable } else { JobStatus::Failed };
        }
        let told = JobResult {
            job_id: self.attempt.0.clone(),
            status: status.into(),
            worker_id: self.worker.clone(),
            execution_ms: i64::try_from(length.as_millis()).unwrap_or(0),
            dispatch: self.request.dispatch.clone(),
            ..JobResult::default()
        };
        if status == JobStatus::Succeeded { self.succeed(told, self.output(input.as_deref())).await } else { told.into() }
    }

    /// Stores an output, or lets it go with the result. Some send a header with it that says something else, which must not matter.
    async fn succeed(&self, result: JobResult, output: Bytes) -> Told {
        let key = keys::attempt_result(&self.attempt.0, self.attempt.1);
        let chaos = &self.world.chaos;
        let goes_along = self.may_carry && chaos.chance(700);
        let header = if goes_along {
            Some(inline::encode(&output))
        } else {
            chaos.chance(50).then(|| inline::encode(b"\"something else\""))
        };
        self.world.ledger().outputs.entry(self.attempt.clone()).or_default().insert(output.clone());
        let reference =
            ResourceRef { sha256: Sha256Hex::of(&output).to_bytes(), size_bytes: output.len() as u64, ..ResourceRef::default() };
        while !goes_along && self.world.store.put_payload(&key, output.clone(), None).await.is_err() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let result = JobResult { result_ptr: format!("redis://{key}"), result_ref: Some(reference), ..result };
        Told { result, headers: header.map(|header| (inline::OUTPUT.to_owned(), header)).into_iter().collect() }
    }
}

impl Execution {
    /// Tells of progress for ever, if it does at all.
    async fn report(&self, reports: bool) {
        if !reports {
            std::future::pending::<()>().await;
        }
        loop {
            let progress = JobProgress {
                job_id: self.attempt.0.clone(),
                percent: 50,
                dispatch: self.request.dispatch.clone(),
                ..JobProgress::default()
            };
            let packet = envelope::packet(&self.trace, &self.worker, self.world.clock.now(), Payload::JobProgress(progress));
            let _ = self.bus.publish(subjects::PROGRESS, Headers::new(), packet).await;
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
    }

    /// What the job needs takes nothing more for a while.
    fn too_fast(&self) -> JobResult {
        let scope = ["topic", "key", "tenant", "worker"][usize::try_from(self.world.chaos.below(4)).unwrap_or(0)];
        JobResult {
            job_id: self.attempt.0.clone(),
            status: JobStatus::FailedRetryable.into(),
            worker_id: self.worker.clone(),
            error_code: "RATE_LIMITED".to_owned(),
            error_message: format!("[pause {scope} 300ms] patience, please"),
            dispatch: self.request.dispatch.clone(),
            ..JobResult::default()
        }
    }

    /// What the job works on. It must be what it was submitted with, wherever it is; but not where it is a secret.
    fn input(&self) -> Option<Bytes> {
        let (job, attempt) = &self.attempt;
        let key = self.request.context_ptr.strip_prefix("redis://")?.to_owned();
        let live = self.world.job(job).is_some_and(|job| job.end().is_none() && job.attempt == *attempt);
        let there = self.world.store.contents(&key).into_iter().find(|(there, _, _)| *there == key);
        let stored = match there {
            Some((_, Content::Text(input), expires_at)) => {
                if live && expires_at.is_some() {
                    self.world.breaks(format!("{job} is live, and its input will expire"));
                }
                Some(input)
            }
            _ => {
                if live {
                    self.world.breaks(format!("{job} is live and has no input"));
                }
                None
            }
        };
        // A dead letter that is tried again has the input of the dead job.
        let first = job.strip_prefix("again-a-").or(job.strip_prefix("again-b-")).unwrap_or(job);
        // A replica has that of its job, under its own name.
        let (first, is_replica) = first.rsplit_once(".r").map_or((first, false), |(job, _)| (job, true));
        let ledger = self.world.ledger();
        let is_secret = ledger.secret.contains(first);
        let expected = if is_secret { Some(Bytes::from_static(judge::REDACTED)) } else { ledger.inputs.get(first).cloned() };
        drop(ledger);
        if is_secret && self.carried.is_some() {
            self.world.breaks(format!("the input of {job}, which is a secret, went along"));
        }
        if live && is_secret && !is_replica && key != judge::redacted(job) {
            self.world.breaks(format!("{job} is a secret, and its worker is sent to {key}"));
        }
        for input in self.carried.iter().chain(stored.iter().filter(|_| live)) {
            if expected.as_ref().is_some_and(|expected| expected != input) {
                self.world.breaks(format!("{job} was submitted with {expected:?}, and its worker got {input:?}"));
            }
        }
        self.carried.clone().or(stored)
    }

    /// What a verifier says of the result that it was given: it knows a lie when it sees one.
    fn judgement(&self, input: Option<&[u8]>) -> Bytes {
        let given: Value = input.map(|input| serde_json::from_slice(input).unwrap_or_default()).unwrap_or_default();
        let replica = given["artifact"].as_str().unwrap_or_default();
        let key = self.world.job(replica).and_then(|job| Some(job.end()?.result.as_ref()?.pointer.clone())).unwrap_or_default();
        let key = key.trim_start_matches("redis://").to_owned();
        let result = match self.world.store.contents(&key).into_iter().find(|(there, _, _)| *there == key) {
            Some((_, Content::Text(result), _)) => result,
            _ => {
                self.world.breaks(format!("{} is to check {replica}, which has no result", self.attempt.0));
                Bytes::new()
            }
        };
        let proves = self.world.chaos.chance(300);
        let verdict = if result != DONE {
            "wrong"
        } else if proves {
            "proven"
        } else {
            "plausible"
        };
        json!({"verdict": verdict, "canonical": "done"}).to_string().into()
    }

    /// What a job gives: that of a run follows from its input.
    fn output(&self, input: Option<&[u8]>) -> Bytes {
        let (job, attempt) = &self.attempt;
        let lies = || self.worker == LIAR && self.world.chaos.chance(300);
        match self.request.topic.as_str() {
            // No two lies are the same: nobody agrees with a liar.
            rules::AGREED | rules::PROVED if lies() => return format!("\"{job}/{attempt} is a lie\"").into(),
            rules::AGREED | rules::PROVED => return Bytes::from_static(DONE),
            rules::CHECK => return self.judgement(input),
            _ => {}
        }
        if self.request.workflow_id.is_empty() {
            return format!("\"{job} {attempt} {}\"", self.world.chaos.below(1 << 30)).into();
        }
        input.map_or_else(
            || Bytes::from_static(b"null"),
            |input| workflows::work(&serde_json::from_slice(input).unwrap_or_default()).to_string().into(),
        )
    }
}

/// A worker of a CAP SDK: handshake once, heartbeats, no beats, no memory of what it has seen.
async fn announced(world: World) {
    let id = "announced";
    let bus = world.bus.client(id);
    let Ok(direct) = bus.subscribe(&subjects::worker_jobs(id), None).await else { return };
    let Ok(topic) = bus.subscribe("job.announced", Some("job.announced")).await else { return };
    let shake = Handshake {
        component_id: id.to_owned(),
        role: busbar_protocol::cap::ComponentRole::Worker.into(),
        supported_versions: vec![1],
        ready_topics: vec!["job.announced".to_owned()],
        ..Handshake::default()
    };
    let packet = envelope::packet("hello", id, world.clock.now(), Payload::Handshake(shake));
    let _ = bus.publish(subjects::HANDSHAKE, Headers::new(), packet).await;
    let mut jobs = futures::stream::select(direct, topic);
    let mut work = JoinSet::new();
    let mut next_beat = tokio::time::Instant::now() + Duration::from_secs(5);
    loop {
        tokio::select! {
            biased;
            message = jobs.next() => {
                let Some(message) = message else { return };
                work.spawn(plain(world.clone(), bus.clone(), id.to_owned(), message));
            }
            Some(_) = work.join_next() => {}
            () = tokio::time::sleep_until(next_beat) => {
                next_beat += Duration::from_secs(5);
                let active_jobs = i32::try_from(work.len()).unwrap_or(0);
                let max_parallel_jobs = i32::try_from(ANNOUNCED_CAPACITY).unwrap_or(1);
                let beat = Heartbeat { worker_id: id.to_owned(), max_parallel_jobs, active_jobs, ..Heartbeat::default() };
                let packet = envelope::packet(id, id, world.clock.now(), Payload::Heartbeat(beat));
                let _ = bus.publish(subjects::HEARTBEAT, Headers::new(), packet).await;
            }
        }
    }
}

/// A worker that is only a member of a queue group, and not always there.
async fn silent(world: World) {
    tokio::time::sleep(world.pause(Duration::from_secs(5))).await;
    let bus = world.bus.client("silent");
    let Ok(mut jobs) = bus.subscribe("job.silent", Some("job.silent")).await else { return };
    let mut work = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            message = jobs.next() => {
                let Some(message) = message else { return };
                work.spawn(plain(world.clone(), bus.clone(), "silent".to_owned(), message));
            }
            Some(_) = work.join_next() => {}
        }
    }
}

/// How a CAP SDK runs a job: result under the job's name, published once, no word of the attempt.
async fn plain(world: World, bus: ModelClient, id: String, message: Message) {
    let Some((trace, request)) = request(&message) else { return };
    tokio::time::sleep(world.pause(Duration::from_millis(500))).await;
    let key = keys::result(&request.job_id);
    let stored = world.store.put_payload(&key, "\"done\"".into(), None).await;
    let status = if stored.is_ok() { JobStatus::Succeeded } else { JobStatus::Failed };
    let result = JobResult {
        job_id: request.job_id,
        status: status.into(),
        result_ptr: if stored.is_ok() { format!("redis://{key}") } else { String::new() },
        worker_id: id.clone(),
        ..JobResult::default()
    };
    let packet = envelope::packet(&trace, &id, world.clock.now(), Payload::JobResult(result));
    let _ = bus.publish(subjects::RESULT, Headers::new(), packet).await;
}
