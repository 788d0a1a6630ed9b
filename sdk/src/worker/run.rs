//! The worker's loop: what arrives is decided by the ledger and done by tasks.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use busbar_protocol::cap::bus_packet::Payload;
use busbar_protocol::cap::{ComponentRole, Handshake};
use busbar_protocol::envelope;
use busbar_protocol::ports::{Bus, Clock, Headers, Message, Records, SystemClock, Tracer};
use busbar_protocol::{ids, subjects};
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use tokio::sync::{AcquireError, Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use super::beats::{Beats, SDK_VERSION};
use super::results::{self, Results, Told};
use super::{Worker, WorkerError, WorkerOptions, attempt};
use crate::context::{CancelFlag, Stop};
use crate::core::dispatch::{self, Dispatch, NotADispatch, Reader};
use crate::core::ledger::{Ledger, Verdict};
use crate::handler::Routes;
use crate::payloads::Payloads;

/// How long handlers may take to heed the cancellation at the end of a drain that took too long.
const GIVE_UP_WITHIN: Duration = Duration::from_secs(2);

/// What the loop, the attempts and the beats share.
pub(super) struct Desk {
    ledger: Mutex<Ledger<CancelFlag, Told>>,
    /// Asks for a beat soon.
    pub(super) changed: Notify,
    /// The topics that the worker announces.
    pub(super) topics: Vec<String>,
    /// Names this start of the process.
    pub(super) incarnation: String,
}

impl Desk {
    fn new(options: &WorkerOptions, routes: &Routes) -> Self {
        Self {
            ledger: Mutex::new(Ledger::new(options.max_parallel, options.prefetched())),
            changed: Notify::new(),
            topics: options.topics.clone().unwrap_or_else(|| routes.patterns()),
            incarnation: ids::generate(),
        }
    }

    /// The ledger, for a moment: nobody waits while holding it.
    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger<CancelFlag, Told>> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for a slot.
pub(super) type Slot = BoxFuture<'static, Result<OwnedSemaphorePermit, AcquireError>>;

/// What every attempt needs.
pub(super) struct Shared<B, R> {
    pub(super) worker_id: String,
    pub(super) results: Results<B>,
    pub(super) bus: B,
    pub(super) payloads: Payloads<R>,
    pub(super) routes: Routes,
    pub(super) slots: Arc<Semaphore>,
    pub(super) desk: Arc<Desk>,
    pub(super) clock: SystemClock,
    pub(super) tracer: Tracer,
}

impl<B, R> Shared<B, R> {
    fn reader(&self) -> Reader<'_> {
        Reader { worker_id: &self.worker_id, incarnation: &self.desk.incarnation }
    }
}

impl<B: Bus, R: Records> Worker<B, R> {
    /// Takes jobs until `shutdown` is ready, then drains: takes nothing new, hands back what has not begun, finishes the rest, says
    /// good-bye.
    ///
    /// Dropping the future instead abandons what is held; the scheduler finds out by the missing beats.
    ///
    /// # Errors
    /// [`WorkerError`]: the bus could not be used at the start or was closed, or the drain took too long.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), WorkerError> {
        let Self { options, bus, payloads, beats, routes, tracer } = self;
        let desk = Arc::new(Desk::new(&options, &routes));
        let shared = Arc::new(Shared {
            worker_id: options.id.clone(),
            results: Results::start(bus.clone()),
            bus,
            payloads,
            routes,
            slots: Arc::new(Semaphore::new(options.max_parallel.min(Semaphore::MAX_PERMITS))),
            desk: Arc::clone(&desk),
            clock: SystemClock::start(),
            tracer,
        });
        let mut jobs = shared.bus.subscribe(&subjects::worker_jobs(&options.id), None).await?;
        let mut batches = shared.bus.subscribe(&subjects::worker_batches(&options.id), None).await?;
        let mut cancels = shared.bus.subscribe(subjects::CANCEL, None).await?;
        let mut beats = Beats::start(beats, desk, &options).await?;
        let _announcing = AbortOnDropHandle::new(tokio::spawn(announce(Arc::clone(&shared))));
        let (slots, prefetch) = (options.max_parallel, options.prefetched());
        tracing::info!(worker_id = options.id, pool = options.pool, slots, prefetch, "taking jobs");

        let mut floor = Floor { shared, tasks: JoinSet::new(), phase: Phase::Open };
        let mut shutdown = pin!(shutdown);
        while !floor.is_done() {
            // Jobs before cancellations: the scheduler sends a cancellation after its dispatch, and the bus keeps that order.
            tokio::select! {
                biased;
                () = &mut shutdown, if floor.phase == Phase::Open => floor.drain(options.drain_within),
                () = floor.phase.over() => if let Some(held) = floor.give_up() {
                    // What is still held is lost, but not because the worker died: the good-bye says so.
                    floor.tasks.abort_all();
                    beats.leave().await;
                    return Err(WorkerError::DrainTimedOut { held, within: options.drain_within });
                },
                () = beats.ended() => return Err(WorkerError::Beats { detail: "it ended while the worker ran".to_owned() }),
                message = jobs.next() => floor.dispatched(&message.ok_or(WorkerError::Closed)?),
                message = batches.next() => floor.dispatched_together(&message.ok_or(WorkerError::Closed)?),
                message = cancels.next() => floor.cancelled(&message.ok_or(WorkerError::Closed)?),
                Some(ended) = floor.tasks.join_next() => report_panic(ended),
            }
        }
        beats.leave().await;
        tracing::info!(worker_id = options.id, "left in good order");
        Ok(())
    }
}

/// How far the worker is from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    Draining { until: Instant },
    GivingUp { until: Instant },
}

impl Phase {
    /// Waits for the end of a phase that has one.
    async fn over(self) {
        match self {
            Self::Open => std::future::pending().await,
            Self::Draining { until } | Self::GivingUp { until } => sleep_until(until).await,
        }
    }
}

/// The attempts at work.
struct Floor<B, R> {
    shared: Arc<Shared<B, R>>,
    tasks: JoinSet<()>,
    phase: Phase,
}

impl<B: Bus, R: Records> Floor<B, R> {
    fn is_done(&self) -> bool {
        self.phase != Phase::Open && self.tasks.is_empty()
    }

    fn dispatched(&mut self, message: &Message) {
        let shared = Arc::clone(&self.shared);
        self.take(dispatch::read(message, shared.reader()));
    }

    fn dispatched_together(&mut self, message: &Message) {
        let shared = Arc::clone(&self.shared);
        match dispatch::read_batch(message, shared.reader()) {
            Ok(dispatches) => dispatches.for_each(|dispatch| self.take(dispatch)),
            Err(error) => tracing::warn!(%error, "a message that is no batch of dispatches was ignored"),
        }
    }

    fn take(&mut self, dispatch: Result<Dispatch, NotADispatch>) {
        match dispatch {
            Ok(dispatch) => self.receive(dispatch),
            Err(error) => tracing::warn!(%error, "what is no dispatch to this worker was ignored"),
        }
    }

    fn receive(&mut self, dispatch: Dispatch) {
        let (job_id, attempt) = (dispatch.key.job_id.clone(), dispatch.key.attempt);
        let cancel = CancelFlag::new();
        let verdict = self.shared.desk.ledger().receive(dispatch.key.clone(), &dispatch.dispatch_id, cancel.clone());
        match verdict {
            Verdict::Accepted { superseded } => {
                let stop = Stop::Cancelled("a later attempt of the job was dispatched".to_owned());
                superseded.iter().for_each(|earlier| earlier.set(stop.clone()));
                let slot = self.queue();
                self.tasks.spawn(attempt::work(Arc::clone(&self.shared), Box::new(dispatch), cancel, slot));
            }
            Verdict::Duplicate => tracing::debug!(job_id, attempt, "a dispatch of an attempt that is held was dropped"),
            Verdict::Finished { result, repeat } => {
                tracing::debug!(job_id, attempt, repeat, "the result of an attempt that has ended is told again");
                // Under an id of its own: whoever asks again has lost the first one, which the stream would still know.
                let id = format!("{job_id}/{attempt}/result/{repeat}");
                let shared = Arc::clone(&self.shared);
                self.tasks.spawn(async move { shared.results.store(&id, &result).await });
            }
            Verdict::Stale => tracing::debug!(job_id, attempt, "a dispatch of an attempt that is over was dropped"),
            Verdict::Full => tracing::warn!(job_id, attempt, "a dispatch was ignored: no more is held than was promised"),
            Verdict::HandBack => {
                tracing::debug!(job_id, attempt, "a dispatch is handed back: the worker drains");
                cancel.set(Stop::WorkerLeaves);
                let never = std::future::pending().boxed();
                self.tasks.spawn(attempt::work(Arc::clone(&self.shared), Box::new(dispatch), cancel, never));
            }
        }
        self.shared.desk.changed.notify_one();
    }

    /// Queues for a slot. The place in the queue is taken now, so that attempts start in the order in which they came.
    fn queue(&self) -> Slot {
        let mut slot = Arc::clone(&self.shared.slots).acquire_owned().boxed();
        match (&mut slot).now_or_never() {
            Some(slot) => std::future::ready(slot).boxed(),
            None => slot,
        }
    }

    fn cancelled(&self, message: &Message) {
        let Ok(decoded) = envelope::decode(&message.payload) else {
            return tracing::debug!("a message that is no cancellation was ignored");
        };
        let Payload::JobCancel(cancel) = decoded.payload else { return };
        // An attempt that no number of ours can name is none that we hold.
        let attempt = cancel.dispatch.map(|dispatch| u32::try_from(dispatch.attempt).unwrap_or(u32::MAX));
        let reached = self.shared.desk.ledger().reach(&cancel.job_id, attempt);
        reached.iter().for_each(|flag| flag.set(Stop::Cancelled(cancel.reason.clone())));
    }

    fn drain(&mut self, within: Duration) {
        tracing::info!(worker_id = self.shared.worker_id, held = self.tasks.len(), "draining");
        self.phase = Phase::Draining { until: Instant::now() + within };
        let waiting = self.shared.desk.ledger().drain();
        waiting.iter().for_each(|flag| flag.set(Stop::WorkerLeaves));
        self.shared.desk.changed.notify_one();
    }

    /// Tells the handlers to stop; the second time, how many attempts are held all the same.
    fn give_up(&mut self) -> Option<usize> {
        let ledger = self.shared.desk.ledger();
        if matches!(self.phase, Phase::GivingUp { .. }) {
            return Some(ledger.held_count());
        }
        ledger.reach_all().iter().for_each(|flag| flag.set(Stop::WorkerLeaves));
        self.phase = Phase::GivingUp { until: Instant::now() + GIVE_UP_WITHIN };
        None
    }
}

fn report_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "the worker made a mistake: an attempt stays held until it restarts");
    }
}

/// Announces the worker, once: a second handshake would say that it restarted.
async fn announce<B: Bus, R: Records>(shared: Arc<Shared<B, R>>) {
    let id = &shared.worker_id;
    let capabilities = ["cancel", "error_codes", "heartbeats", "progress"];
    let handshake = Handshake {
        component_id: id.clone(),
        role: ComponentRole::Worker.into(),
        supported_versions: vec![envelope::PROTOCOL_VERSION],
        capabilities: capabilities.iter().map(|name| ((*name).to_owned(), true)).collect(),
        sdk_version: SDK_VERSION.to_owned(),
        ready_topics: shared.desk.topics.clone(),
        ..Handshake::default()
    };
    let packet = envelope::packet(&ids::generate_trace(), id, shared.clock.now(), Payload::Handshake(handshake));
    let message_id = format!("{id}/{}/handshake", ids::generate());
    results::insist(&shared.bus, subjects::HANDSHAKE, &message_id, &Headers::new(), &packet).await;
}
