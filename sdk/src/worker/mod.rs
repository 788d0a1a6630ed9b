//! The worker: handlers in, a process that takes jobs out.
//!
//! [`Worker::run`] subscribes, starts the beats on their own thread, announces the worker, and then gives every dispatch to the
//! ledger and every accepted one to a task of its own ([`attempt`]). When its shutdown future is ready it drains: takes nothing
//! new, hands back what has not begun, finishes the rest, says good-bye.

mod attempt;
mod beats;
mod machine;
mod report;
mod results;
mod run;

use std::collections::BTreeMap;
use std::time::Duration;

use busbar_blobs::{BlobError, Blobs};
use busbar_bus::{BusConfig, ConnectError, NatsBus};
use busbar_protocol::ports::{Bus, BusError, Connection, Records, StoreError, Tracer};
use busbar_protocol::{ids, subjects};
use busbar_store::{Store, StoreConfig};
use bytes::Bytes;
use futures::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::artifacts::Artifacts;
use crate::checkpoints::Checkpoints;
use crate::context::Context;
use crate::failure::Failure;
use crate::handler::{self, Request, Routes};
use crate::payloads::Payloads;

/// Who the worker is and where it works. [`Default`] is a worker of the pool `default` on this machine's standard ports, with an
/// id of its own and as many slots as there are processors.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// Where NATS is.
    pub nats_url: String,
    /// Where Redis is.
    pub redis_url: String,
    /// Where blobs are; without it, results above 1 MiB fail.
    pub blobs_url: Option<String>,
    /// The worker's name: one token of a subject, and no other living worker's.
    pub id: String,
    /// The pool that it belongs to.
    pub pool: String,
    /// How many handlers run at once.
    pub max_parallel: usize,
    /// How many attempts beyond those it takes in advance, so that a slot that becomes free has work at once; they wait in the
    /// order in which they came. The scheduler makes use of it only for topics whose attempts are short. `None` takes as many as
    /// `max_parallel`; 0 takes none.
    pub prefetch: Option<usize>,
    /// What jobs may demand of their worker.
    pub labels: BTreeMap<String, String>,
    /// What it can do, as jobs require it.
    pub capabilities: Vec<String>,
    /// Where it runs; jobs can demand it with the label `placement.region`.
    pub region: String,
    /// What kind of machine or program it is; jobs can demand it with the label `placement.type`.
    pub worker_type: String,
    /// The topics that it announces. `None` announces the patterns of its handlers; an empty list stands for every topic of its
    /// pool.
    pub topics: Option<Vec<String>>,
    /// How long a drain may take; handlers that still run then are told to stop, and their jobs are tried again elsewhere.
    pub drain_within: Duration,
}

impl Default for WorkerOptions {
    fn default() -> Self {
        Self {
            nats_url: "nats://127.0.0.1:4222".to_owned(),
            redis_url: "redis://127.0.0.1:6379".to_owned(),
            blobs_url: None,
            id: format!("worker-{}", ids::generate()),
            pool: "default".to_owned(),
            max_parallel: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            prefetch: None,
            labels: BTreeMap::new(),
            capabilities: Vec::new(),
            region: String::new(),
            worker_type: String::new(),
            topics: None,
            drain_within: Duration::from_secs(300),
        }
    }
}

impl WorkerOptions {
    /// How many attempts beyond its capacity the worker takes.
    fn prefetched(&self) -> usize {
        self.prefetch.unwrap_or(self.max_parallel)
    }
}

/// Why a worker did not start, or ended otherwise than in good order.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The id can not stand in a subject.
    #[error("worker id {id:?} must be one token of visible ASCII characters without `.`, `*` and `>`")]
    Id {
        /// The id.
        id: String,
    },
    /// One of the servers could not be reached at the start, or is unfit.
    #[error("could not connect to {what}")]
    Connect {
        /// Which one.
        what: &'static str,
        /// What it said.
        #[source]
        source: BoxError,
    },
    /// The bus did not do its part at the start.
    #[error("the bus could not be used")]
    Bus(#[from] BusError),
    /// The thread for the beats could not be started, or has ended.
    #[error("the thread of the beats is gone: {detail}")]
    Beats {
        /// What happened.
        detail: String,
    },
    /// The bus was closed while the worker ran.
    #[error("the connection to the bus was closed")]
    Closed,
    /// The drain took longer than it may.
    #[error("{held} attempts were still held {within:?} after the drain began")]
    DrainTimedOut {
        /// How many attempts were given up.
        held: usize,
        /// How long the drain could take.
        within: Duration,
    },
}

impl WorkerError {
    /// Whether trying again, with nothing else changed, may help: a server is not there yet. Everything else needs a person.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Connect { source, .. } => {
                matches!(source.downcast_ref(), Some(ConnectError::Unreachable { .. }))
                    || matches!(source.downcast_ref(), Some(StoreError::Unavailable { .. }))
                    || matches!(source.downcast_ref(), Some(BlobError::Disk { .. }))
            }
            Self::Bus(_) => true,
            Self::Id { .. } | Self::Beats { .. } | Self::Closed | Self::DrainTimedOut { .. } => false,
        }
    }
}

/// Any error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Opens the connection of the beats; called on their own thread, inside their own runtime.
pub type BeatConnect<B> = Box<dyn FnOnce() -> BoxFuture<'static, Result<B, BoxError>> + Send>;

/// The world of a worker, where it is not plain NATS and Redis.
pub struct Ports<B, R> {
    /// The bus of dispatches and results.
    pub bus: B,
    /// The store of payloads.
    pub records: R,
    /// The blob store, if there is one.
    pub blobs: Option<Blobs>,
    /// The connection of the beats.
    pub beats: BeatConnect<B>,
}

/// A worker in the making. Register handlers, then [`Worker::run`].
pub struct Worker<B = NatsBus, R = Store> {
    options: WorkerOptions,
    bus: B,
    payloads: Payloads<R>,
    beats: BeatConnect<B>,
    routes: Routes,
    tracer: Tracer,
}

impl Worker {
    /// Connects to NATS, Redis and, where one is named, the blob store.
    ///
    /// # Errors
    /// [`WorkerError`] says which of them refused, or that the id is unfit.
    pub async fn connect(options: WorkerOptions) -> Result<Self, WorkerError> {
        check_id(&options.id)?;
        let bus = NatsBus::connect(bus_config(&options, "")).await.map_err(refused("NATS"))?;
        let store = StoreConfig { client_name: options.id.clone(), ..StoreConfig::new(&options.redis_url) };
        let records = Store::connect(store).await.map_err(refused("Redis"))?;
        let blobs = options.blobs_url.as_deref().map(Blobs::open).transpose().map_err(refused("the blob store"))?;
        let config = bus_config(&options, "-beats");
        let beats: BeatConnect<NatsBus> = Box::new(move || Box::pin(async move { Ok(NatsBus::connect(config).await?) }));
        Self::with_ports(options, Ports { bus, records, blobs, beats })
    }
}

fn check_id(id: &str) -> Result<(), WorkerError> {
    if subjects::is_addressable(id) { Ok(()) } else { Err(WorkerError::Id { id: id.to_owned() }) }
}

fn refused<E: Into<BoxError>>(what: &'static str) -> impl FnOnce(E) -> WorkerError {
    move |error| WorkerError::Connect { what, source: error.into() }
}

fn bus_config(options: &WorkerOptions, suffix: &str) -> BusConfig {
    BusConfig::new(&options.nats_url, format!("{}{suffix}", options.id))
}

impl<B: Bus, R: Records> Worker<B, R> {
    /// A worker on given ports; the URLs of the options are not used.
    ///
    /// # Errors
    /// [`WorkerError::Id`].
    pub fn with_ports(options: WorkerOptions, ports: Ports<B, R>) -> Result<Self, WorkerError> {
        check_id(&options.id)?;
        let options = WorkerOptions { max_parallel: options.max_parallel.max(1), ..options };
        let payloads = Payloads { records: ports.records, blobs: ports.blobs };
        Ok(Self { options, bus: ports.bus, payloads, beats: ports.beats, routes: Routes::default(), tracer: Tracer::off() })
    }

    /// Tells of every attempt as a span, below which handlers may tell more: [`Context::traceparent`] is its place.
    #[must_use]
    pub fn with_tracer(self, tracer: Tracer) -> Self {
        Self { tracer, ..self }
    }

    /// How the connection of dispatches and results is.
    #[must_use]
    pub fn connection(&self) -> watch::Receiver<Connection> {
        self.bus.connection()
    }

    /// Registers an async handler for a topic or pattern (`*` one token, `>` the rest). Input and output are JSON in types of
    /// the handler's choice. Of several patterns that cover a topic, the narrowest is meant.
    ///
    /// # Panics
    /// When the pattern is not one.
    pub fn handle<I, O, F, Fut>(&mut self, pattern: &str, handler: F) -> &mut Self
    where
        I: DeserializeOwned + Send + 'static,
        O: Serialize,
        F: Fn(Context, I) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<O, Failure>> + Send + 'static,
    {
        self.routes.add(pattern, handler::typed(handler));
        self
    }

    /// As [`Worker::handle`], for a handler that blocks or computes: it gets a thread of its own.
    ///
    /// # Panics
    /// When the pattern is not one.
    pub fn handle_blocking<I, O, F>(&mut self, pattern: &str, handler: F) -> &mut Self
    where
        I: DeserializeOwned,
        O: Serialize,
        F: Fn(Context, I) -> Result<O, Failure> + Send + Sync + 'static,
    {
        self.routes.add(pattern, handler::blocking(handler));
        self
    }

    /// As [`Worker::handle`], for a handler that sees the job's environment and the bytes of its input, and returns the bytes of
    /// one JSON value.
    ///
    /// # Panics
    /// When the pattern is not one.
    pub fn handle_any<F, Fut>(&mut self, pattern: &str, handler: F) -> &mut Self
    where
        F: Fn(Context, Request) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Bytes, Failure>> + Send + 'static,
    {
        self.routes.add(pattern, handler::raw(handler));
        self
    }

    /// As [`Worker::handle_any`], on a thread of its own.
    ///
    /// # Panics
    /// When the pattern is not one.
    pub fn handle_any_blocking<F>(&mut self, pattern: &str, handler: F) -> &mut Self
    where
        F: Fn(Context, Request) -> Result<Bytes, Failure> + Send + Sync + 'static,
    {
        self.routes.add(pattern, handler::raw_blocking(handler));
        self
    }

    /// The store that the worker uses, for handlers that read more than their input.
    #[must_use]
    pub fn records(&self) -> R {
        self.payloads.records.clone()
    }

    /// The blob store that the worker uses.
    #[must_use]
    pub fn blobs(&self) -> Option<Blobs> {
        self.payloads.blobs.clone()
    }

    /// The artifacts that jobs name in their inputs.
    #[must_use]
    pub fn artifacts(&self) -> Artifacts<R> {
        Artifacts::new(self.records(), self.blobs())
    }

    /// The checkpoints of jobs, for handlers that go on where an earlier attempt was.
    #[must_use]
    pub fn checkpoints(&self) -> Checkpoints<R> {
        Checkpoints::new(self.records())
    }
}
