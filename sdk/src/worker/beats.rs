//! The signs of life, on a thread of their own with a runtime and a connection of their own, so that no handler, however busy,
//! delays them.
//!
//! ```text
//!  every second, or every fourteen while nothing is held; on a change (at most every 50 ms, with much in hand every 500); soon after a new connection and
//!  after a scheduler called ──► busbar.worker.beat
//!  as often ──► sys.heartbeat, for whoever knows only CAP
//!  at the end of a drain ──► busbar.worker.beat with `leaving`
//! ```

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use busbar_protocol::busbar::{HeldAttempt, WorkerBeat};
use busbar_protocol::cap::Heartbeat;
use busbar_protocol::cap::bus_packet::Payload;
use busbar_protocol::envelope;
use busbar_protocol::ports::{Bus, Clock, Headers, SystemClock};
use busbar_protocol::prost::Message as _;
use busbar_protocol::subjects;
use futures::{StreamExt as _, stream};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::machine::Load;
use super::run::Desk;
use super::{BeatConnect, BoxError, WorkerError, WorkerOptions, refused};
use crate::backoff::part_of;

/// How often a worker beats that holds something.
const BEAT_EVERY: Duration = Duration::from_secs(1);
/// How often one that holds nothing does, which says so: a thousand of those should cost next to nothing.
const REST_EVERY: Duration = Duration::from_secs(14);
/// Between two beats, where much changes; each attempt that is held adds to it, since each beat names all of them.
const BEAT_GAP: Duration = Duration::from_millis(50);
const BEAT_GAP_FOR_EACH: Duration = Duration::from_micros(200);
const BEAT_GAP_MAX: Duration = Duration::from_millis(500);
/// Within this comes the first beat, the first one on a new connection, and the one that a scheduler called for: some at once and some later, so that a thousand workers
/// that start together, or lost the same server, do not all speak in the same instant.
const SPREAD: Duration = Duration::from_millis(250);
const HEARTBEAT_EVERY: Duration = Duration::from_secs(2);
/// CAP's heartbeat of a worker that holds nothing: those who go by it wait for thirty seconds, so that one of them may be lost.
const HEARTBEAT_AT_REST: Duration = REST_EVERY;
/// A beat that the connection does not take within this is left out: the next one says more.
const PUBLISH_WITHIN: Duration = Duration::from_millis(500);
/// How long the good-bye may take.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);

/// The version that workers announce.
pub(super) const SDK_VERSION: &str = concat!("busbar-rust/", env!("CARGO_PKG_VERSION"));

/// The running thread of the beats. Dropping it ends the beats without a good-bye.
pub(super) struct Beats {
    leave: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

impl Beats {
    /// Starts the thread and returns when the first beat has reached the server.
    pub(super) async fn start<B: Bus>(
        connect: BeatConnect<B>,
        desk: Arc<Desk>,
        options: &WorkerOptions,
    ) -> Result<Self, WorkerError> {
        let (leave, leaving) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let (ready, first) = oneshot::channel();
        let about = about(options, &desk);
        let run = move || {
            // Dropped when the thread ends, in whichever way.
            let _end: oneshot::Sender<()> = end;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match runtime {
                Ok(runtime) => runtime.block_on(beat(connect, desk, about, ready, leaving)),
                Err(error) => drop(ready.send(Err(error.into()))),
            }
        };
        let spawned = thread::Builder::new().name("busbar-beats".to_owned()).spawn(run);
        spawned.map_err(|error| WorkerError::Beats { detail: error.to_string() })?;
        let first = first.await.map_err(|_| WorkerError::Beats { detail: "it ended before its first beat".to_owned() })?;
        first.map_err(refused("NATS for the beats"))?;
        Ok(Self { leave, ended })
    }

    /// Waits until the thread has ended by itself, which it should not.
    pub(super) async fn ended(&mut self) {
        let _ = (&mut self.ended).await;
    }

    /// Says good-bye and ends the thread.
    pub(super) async fn leave(self) {
        let _ = self.leave.send(());
        let _ = self.ended.await;
    }
}

/// What every beat says alike.
fn about(options: &WorkerOptions, desk: &Desk) -> WorkerBeat {
    WorkerBeat {
        worker_id: options.id.clone(),
        incarnation: desk.incarnation.clone(),
        pool: options.pool.clone(),
        capacity: u32::try_from(options.max_parallel).unwrap_or(u32::MAX),
        prefetch: u32::try_from(options.prefetched()).unwrap_or(u32::MAX),
        worker_type: options.worker_type.clone(),
        topics: desk.topics.clone(),
        labels: options.labels.clone(),
        region: options.region.clone(),
        capabilities: options.capabilities.clone(),
        sdk_version: SDK_VERSION.to_owned(),
        takes_batches: true,
        ..WorkerBeat::default()
    }
}

async fn beat<B: Bus>(
    connect: BeatConnect<B>,
    desk: Arc<Desk>,
    about: WorkerBeat,
    ready: oneshot::Sender<Result<(), BoxError>>,
    mut leaving: oneshot::Receiver<()>,
) {
    let bus = match connect().await {
        Ok(bus) => bus,
        Err(error) => return drop(ready.send(Err(error))),
    };
    let mut sender = Sender { bus, desk, about, sequence: 0, clock: SystemClock::start() };
    sleep(part_of(SPREAD)).await;
    sender.beat(false).await;
    if ready.send(sender.bus.round_trip().await.map_err(BoxError::from)).is_err() {
        return;
    }
    // Without it, a new scheduler waits for our next beat by itself.
    let mut calls = match sender.bus.subscribe(subjects::CALL, None).await {
        Ok(calls) => calls.boxed(),
        Err(_) => stream::pending().boxed(),
    };
    let mut connection = sender.bus.connection();
    let mut heartbeat_at = Instant::now();
    let mut beaten_at = Instant::now();
    let mut beat_at = beaten_at + BEAT_EVERY;
    loop {
        tokio::select! {
            biased;
            told = &mut leaving => {
                // The other end is dropped, not told, when the worker is abandoned: then it has not left in good order.
                if told.is_ok() {
                    sender.leave().await;
                }
                return;
            }
            () = sleep_until(heartbeat_at) => {
                heartbeat_at = Instant::now() + if sender.is_at_rest() { HEARTBEAT_AT_REST } else { HEARTBEAT_EVERY };
                sender.heartbeat().await;
            }
            () = sleep_until(beat_at) => {}
            () = changed(&sender.desk, beaten_at) => {}
            Some(_) = calls.next() => {
                beat_at = beat_at.min(Instant::now() + part_of(SPREAD));
                continue;
            }
            Ok(()) = connection.changed() => {
                beat_at = beat_at.min(Instant::now() + part_of(SPREAD));
                continue;
            }
        }
        let next = sender.beat(false).await;
        beaten_at = Instant::now();
        beat_at = beaten_at + next;
    }
}

/// Waits until something has changed and the next beat may follow the last one.
async fn changed(desk: &Desk, beaten_at: Instant) {
    desk.changed.notified().await;
    let held = u32::try_from(desk.ledger().held_count()).unwrap_or(u32::MAX);
    let gap = BEAT_GAP.saturating_add(BEAT_GAP_FOR_EACH.saturating_mul(held)).min(BEAT_GAP_MAX);
    sleep_until(beaten_at + gap).await;
}

struct Sender<B> {
    bus: B,
    desk: Arc<Desk>,
    about: WorkerBeat,
    sequence: u64,
    clock: SystemClock,
}

impl<B: Bus> Sender<B> {
    /// Beats; tells when the next one is due.
    async fn beat(&mut self, leaving: bool) -> Duration {
        self.sequence += 1;
        let beat = self.compose(leaving);
        self.publish(subjects::BEAT, beat.encode_to_vec()).await;
        Duration::from_millis(beat.next_ms.into())
    }

    fn is_at_rest(&self) -> bool {
        self.desk.ledger().held_count() == 0
    }

    fn compose(&self, leaving: bool) -> WorkerBeat {
        let load = Load::of_the_machine();
        let ledger = self.desk.ledger();
        let held = ledger.held().map(|(key, dispatch_id, ended)| HeldAttempt {
            job_id: key.job_id.clone(),
            attempt: key.attempt,
            dispatch_id: dispatch_id.to_owned(),
            ended,
        });
        WorkerBeat {
            sequence: self.sequence,
            draining: ledger.is_draining(),
            next_ms: millis(if ledger.held_count() == 0 { REST_EVERY } else { BEAT_EVERY }),
            held: held.collect(),
            cpu_load: load.processors,
            memory_load: load.memory,
            leaving,
            ..self.about.clone()
        }
    }

    async fn heartbeat(&self) {
        let load = Load::of_the_machine();
        let running = self.desk.ledger().running_count();
        let heartbeat = Heartbeat {
            worker_id: self.about.worker_id.clone(),
            region: self.about.region.clone(),
            r#type: self.about.worker_type.clone(),
            cpu_load: load.processors,
            memory_load: load.memory,
            active_jobs: i32::try_from(running).unwrap_or(i32::MAX),
            capabilities: self.about.capabilities.clone(),
            pool: self.about.pool.clone(),
            max_parallel_jobs: i32::try_from(self.about.capacity).unwrap_or(i32::MAX),
            labels: self.about.labels.clone(),
            ..Heartbeat::default()
        };
        let id = &self.about.worker_id;
        let packet = envelope::packet(id, id, self.clock.now(), Payload::Heartbeat(heartbeat));
        self.publish(subjects::HEARTBEAT, packet).await;
    }

    async fn leave(&mut self) {
        self.beat(true).await;
        if !matches!(timeout(LEAVE_WITHIN, self.bus.round_trip()).await, Ok(Ok(()))) {
            tracing::warn!(worker_id = self.about.worker_id, "the good-bye may not have arrived");
        }
    }

    /// Publishes if there is a connection: what would wait for one is old when it comes.
    async fn publish(&self, subject: &str, body: impl Into<bytes::Bytes>) {
        if !self.bus.connection().borrow().connected {
            return;
        }
        let sent = timeout(PUBLISH_WITHIN, self.bus.publish(subject, Headers::new(), body.into())).await;
        if !matches!(sent, Ok(Ok(()))) {
            tracing::debug!(worker_id = self.about.worker_id, subject, "a sign of life was not sent");
        }
    }
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
