//! Model workers. Here are native ones, which keep to the protocol of our SDK: their life, their beats, and what they hold.

mod execution;
mod foreign;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use busbar_protocol::busbar::{HeldAttempt, WorkerBeat};
use busbar_protocol::cap::JobRequest;
use busbar_protocol::cap::bus_packet::Payload;
use busbar_protocol::envelope;
use busbar_protocol::inline;
use busbar_protocol::ports::{Bus as _, Headers, INCARNATION, Message};
use busbar_protocol::prost::Message as _;
use busbar_protocol::subjects;
use bytes::Bytes;

use super::{World, rules};
use crate::batch;
use crate::model_bus::ModelClient;

use execution::{Execution, Told};

pub(crate) use execution::DONE;

const NATIVE: usize = 2;
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

/// Whether a native worker takes many attempts in one message.
fn takes_batches(id: &str) -> bool {
    id == "native-1"
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
    tasks.spawn(foreign::announced(world.clone()));
    tasks.spawn(foreign::silent(world.clone()));
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
        let Ok(batches) = self.bus.subscribe(&subjects::worker_batches(&self.id), None).await else { return };
        let Ok(cancels) = self.bus.subscribe(subjects::CANCEL, None).await else { return };
        let Ok(calls) = self.bus.subscribe(subjects::CALL, None).await else { return };
        let mut calls = calls.fuse();
        let mut jobs = jobs.fuse();
        let mut batches = batches.fuse();
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
                message = batches.next() => {
                    let Some(message) = message else { return };
                    let Some(messages) = batch::apart(&message) else {
                        self.world.breaks("a batch of dispatches cannot be read".to_owned());
                        continue;
                    };
                    for message in messages {
                        self.receive(&message, &mut running, &finished, &mut work);
                    }
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
        let held: Vec<HeldAttempt> = {
            let ledger = self.world.ledger();
            let held = shown.iter().map(|attempt| HeldAttempt {
                job_id: attempt.0.clone(),
                attempt: attempt.1,
                dispatch_id: format!("{}/{}", attempt.0, attempt.1),
                ended: ledger.reported.contains_key(attempt),
            });
            held.collect()
        };
        let beat = WorkerBeat {
            worker_id: self.id.clone(),
            incarnation: self.incarnation.clone(),
            sequence,
            pool: "default".to_owned(),
            capacity: CAPACITY,
            held,
            prefetch: prefetches(&self.id),
            takes_batches: takes_batches(&self.id),
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
