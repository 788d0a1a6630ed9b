//! The live stream: one hub reads the logs and listens on the bus, every client reads the hub at its own pace.
//!
//! ```text
//!  busbar.job.event, busbar.run.event ─ wake ─► follow ─ ev:jobs, ev:runs ─► ring ────┐
//!  sys.job.progress, .result, sys.heartbeat, sys.alert ─► listen ───────────► latest ─┤
//!  busbar.scheduler.workers, once a second ─────────────► workers ──────────► latest ─┤
//!                                                                                     ▼
//!  WebSocket (socket), text/event-stream (events) ◄─ frames ◄─ session ◄─ filter ◄─ board
//! ```
//!
//! Events on the bus only wake: the log is the truth, so a lost, late or repeated event changes nothing. While nobody is
//! connected nothing is read and nothing is heard. A slow client costs a cursor: when the ring has left it behind it reads the log itself, and
//! when the log was trimmed it is told to begin anew.

mod follow;
mod listen;
mod present;
mod session;
mod socket;
mod workers;

pub(crate) mod events;

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use busbar_api::Problem;
use busbar_protocol::codes::Code;
use busbar_protocol::cursor::LogCursor;
use busbar_protocol::ports::{Bus, Records, StoreError};
use busbar_service::telemetry::Gauges;
use busbar_service::{Metrics, Shutdown, TaskSet};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};

use crate::core::stream::cursor::{Cursor, Log};
use crate::core::stream::latest::Latest;
use crate::core::stream::owners::Owners;
use crate::core::stream::ring::Ring;

pub(crate) use session::{Opening, Session};
pub(crate) use socket::{MESSAGE_BYTES_MAX, serve as serve_socket};

/// How many committed changes the ring holds.
const RING_ENTRIES: usize = 4_096;
/// How many newest values are held.
const LATEST_VALUES: usize = 8_192;
/// Of how many jobs it is remembered whose they are.
const OWNERS: usize = 65_536;
/// How many clients read from the store at a time.
const READERS: usize = 8;
/// How long the clients have to take their last word.
const PARTING: Duration = Duration::from_secs(5);
/// All clients are woken at once. The more there are, the rarer: once a millisecond for so many.
const CLIENTS_PER_MILLISECOND: usize = 100;
/// How long a client waits at most until the bus is heard, which it is not while no client is there.
const LISTENING_WITHIN: Duration = Duration::from_secs(1);
/// When a client should ask again that found no seat.
const FULL_RETRY_MS: u64 = 5_000;

/// What all clients read.
struct Board {
    ring: Ring,
    latest: Latest,
    owners: Owners,
}

/// The stream of one gateway.
pub(crate) struct Hub<B, R> {
    bus: B,
    records: R,
    board: Mutex<Board>,
    /// Rises whenever the board changes.
    changed: watch::Sender<u64>,
    /// There may be something new in the log of jobs.
    wake_jobs: Notify,
    /// There may be something new in the log of runs.
    wake_runs: Notify,
    /// Somebody has come.
    came: Notify,
    /// Whether the bus is heard.
    listening: watch::Sender<bool>,
    seats: Arc<Semaphore>,
    seats_max: usize,
    readers: Semaphore,
    clients: Gauges,
    shutdown: Shutdown,
}

impl<B, R> std::fmt::Debug for Hub<B, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").field("seats_max", &self.seats_max).finish_non_exhaustive()
    }
}

/// How a client is connected.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    WebSocket,
    Events,
}

/// A client's seat, given back when dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    _permit: OwnedSemaphorePermit,
    clients: Gauges,
    way: Way,
}

impl Seat {
    fn take(permit: OwnedSemaphorePermit, clients: Gauges, way: Way) -> Self {
        clients.get_or_create(&labels(way)).inc();
        Self { _permit: permit, clients, way }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.clients.get_or_create(&labels(self.way)).dec();
    }
}

fn labels(way: Way) -> Vec<(&'static str, String)> {
    let name = match way {
        Way::WebSocket => "websocket",
        Way::Events => "sse",
    };
    vec![("transport", name.to_owned())]
}

impl<B: Bus, R: Records> Hub<B, R> {
    pub(crate) fn new(bus: B, records: R, clients_max: usize, metrics: &Metrics, shutdown: Shutdown) -> Self {
        let board = Board {
            ring: Ring::new(Cursor::default(), RING_ENTRIES),
            latest: Latest::new(LATEST_VALUES),
            owners: Owners::new(OWNERS),
        };
        let seats_max = clients_max.min(Semaphore::MAX_PERMITS);
        Self {
            bus,
            records,
            board: Mutex::new(board),
            changed: watch::Sender::new(0),
            wake_jobs: Notify::new(),
            wake_runs: Notify::new(),
            came: Notify::new(),
            listening: watch::Sender::new(false),
            seats: Arc::new(Semaphore::new(seats_max)),
            seats_max,
            readers: Semaphore::new(READERS),
            clients: metrics.gauges("gateway_stream_clients", "Clients of the live stream"),
            shutdown,
        }
    }

    /// Starts everything that fills the board.
    pub(crate) fn start(hub: &Arc<Self>, tasks: &mut TaskSet) {
        tasks.spawn("gateway stream log", follow::follow(hub.clone()));
        tasks.spawn("gateway stream bus", listen::listen(hub.clone()));
        tasks.spawn("gateway stream workers", workers::follow(hub.clone()));
        tasks.spawn("gateway stream clients", part(hub.clone()));
    }

    /// There may be something new in both logs.
    fn wake_all(&self) {
        self.wake_jobs.notify_one();
        self.wake_runs.notify_one();
    }

    /// A seat for a client.
    pub(crate) fn seat(&self, way: Way) -> Result<Seat, Problem> {
        let permit = self.seats.clone().try_acquire_owned().map_err(|_| {
            let detail = format!("all {} places of the stream are taken", self.seats_max);
            Problem::new(Code::StreamFull, detail).retry_after_ms(FULL_RETRY_MS)
        })?;
        let seat = Seat::take(permit, self.clients.clone(), way);
        self.wake_all();
        self.came.notify_one();
        Ok(seat)
    }

    /// Whether anybody is connected.
    fn is_watched(&self) -> bool {
        self.seats.available_permits() < self.seats_max
    }

    async fn until_watched(&self) {
        while !self.is_watched() {
            self.came.notified().await;
        }
    }

    /// Waits until the bus is heard, a moment at most: one that is away keeps nobody from what the logs tell.
    async fn until_listening(&self) {
        let mut listening = self.listening.subscribe();
        let _ = tokio::time::timeout(LISTENING_WITHIN, listening.wait_for(|listening| *listening)).await;
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits so long that waking all clients again does not keep the machine busy.
    async fn pace(&self) {
        let clients = self.seats_max - self.seats.available_permits().min(self.seats_max);
        let millis = u64::try_from(clients / CLIENTS_PER_MILLISECOND).unwrap_or(u64::MAX);
        if millis > 0 {
            tokio::time::sleep(Duration::from_millis(millis)).await;
        }
    }

    fn tell(&self) {
        self.changed.send_modify(|version| *version += 1);
    }

    /// How far the logs reach.
    async fn ends(&self) -> Result<Cursor, StoreError> {
        let (jobs, runs) = tokio::join!(self.end(Log::Jobs), self.end(Log::Runs));
        Ok(Cursor { jobs: jobs?, runs: runs? })
    }

    async fn end(&self, log: Log) -> Result<LogCursor, StoreError> {
        let end = self.records.log_end(log.key()).await?;
        position(log, &end)
    }
}

/// What the store calls a place, read.
fn position(log: Log, cursor: &str) -> Result<LogCursor, StoreError> {
    let corrupt = || StoreError::Corrupt { key: log.key().to_owned(), detail: format!("{cursor:?} is no place in a log") };
    LogCursor::parse(cursor).ok_or_else(corrupt)
}

/// At the end, waits until every client has had its last word.
async fn part<B: Bus, R: Records>(hub: Arc<Hub<B, R>>) -> Result<(), Infallible> {
    hub.shutdown.triggered().await;
    let all = u32::try_from(hub.seats_max).unwrap_or(u32::MAX);
    if tokio::time::timeout(PARTING, hub.seats.acquire_many(all)).await.is_err() {
        tracing::debug!("clients of the stream did not take their last word");
    }
    Ok(())
}
