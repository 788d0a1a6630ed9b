//! What the routes share.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use busbar_api::Problem;
use busbar_blobs::Blobs;
use busbar_protocol::ports::{Bus, BusError, Headers, Records, SystemClock, Tracer};
use busbar_protocol::prost::{DecodeError, Message};
use busbar_service::Shutdown;
use tokio::sync::Semaphore;

use crate::admit::Admitter;
use crate::config::GatewayConfig;
use crate::core::role::Need;
use crate::error::{Refusal, internal, of_bus};
use crate::keys::{Keys, Principal};
use crate::packs::Packs;
use crate::service::Kit;
use crate::stream::Hub;
use crate::traces;
use crate::watch::{JobWatch, ProgressWatch, RunWatch};

/// How many batches are read and submitted at once: each may have a body of 64 MiB.
const BATCHES_AT_ONCE: usize = 4;
/// How many calls may watch jobs at once: each looks at every change.
const WATCHES_AT_ONCE: usize = 1024;
const PAUSE: Duration = Duration::from_millis(50);

/// What the routes share.
#[derive(Debug)]
pub(crate) struct App<B, R> {
    pub(crate) config: GatewayConfig,
    pub(crate) bus: B,
    pub(crate) records: R,
    pub(crate) blobs: Blobs,
    pub(crate) keys: Keys<R>,
    pub(crate) admitter: Admitter,
    pub(crate) jobs: JobWatch,
    pub(crate) runs: RunWatch,
    pub(crate) stream: Arc<Hub<B, R>>,
    pub(crate) packs: Packs<B, R>,
    pub(crate) progress: ProgressWatch,
    pub(crate) batches: Arc<Semaphore>,
    /// Places for calls that watch jobs.
    pub(crate) watches: Arc<Semaphore>,
    pub(crate) shutdown: Shutdown,
    pub(crate) tracer: Tracer,
    /// The store's time, by which the scheduler goes as well.
    pub(crate) clock: SystemClock,
    pub(crate) started: Instant,
}

/// The state of the routes.
pub(crate) type Shared<B, R> = Arc<App<B, R>>;

/// What lies outside of the process.
#[derive(Clone, Debug)]
pub(crate) struct Outside<B, R> {
    pub(crate) bus: B,
    pub(crate) records: R,
    pub(crate) blobs: Blobs,
    /// The store's time.
    pub(crate) clock: SystemClock,
}

impl<B: Bus, R: Records> App<B, R> {
    pub(crate) fn new(
        config: GatewayConfig,
        outside: Outside<B, R>,
        admitter: Admitter,
        stream: Arc<Hub<B, R>>,
        kit: &Kit,
    ) -> Self {
        let Outside { bus, records, blobs, clock } = outside;
        Self {
            keys: Keys::new(records.clone(), Duration::from_millis(config.key_cache_ms)),
            jobs: JobWatch::default(),
            runs: RunWatch::default(),
            stream,
            packs: Packs::new(bus.clone(), records.clone(), blobs.clone(), Duration::from_millis(config.pack_lease_ms)),
            progress: ProgressWatch::default(),
            batches: Arc::new(Semaphore::new(BATCHES_AT_ONCE)),
            watches: Arc::new(Semaphore::new(WATCHES_AT_ONCE)),
            started: Instant::now(),
            config,
            bus,
            records,
            blobs,
            admitter,
            shutdown: kit.shutdown.clone(),
            tracer: kit.tracer.clone(),
            clock,
        }
    }

    /// Asks the scheduler, again and again while nobody listens, until `patience` is over.
    pub(crate) async fn ask<Q: Message, A: Message + Default>(
        &self,
        subject: &str,
        question: &Q,
        patience: Duration,
    ) -> Result<A, Problem> {
        ask(&self.bus, subject, question, patience).await.map_err(|error| match error {
            AskError::Bus(error) => of_bus(&error),
            AskError::Reply(error) => internal(&error),
        })
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum AskError {
    /// Nobody answered.
    Bus(BusError),
    /// The answer cannot be read.
    Reply(DecodeError),
}

/// Asks another service, again and again while nobody listens, until `patience` is over.
pub(crate) async fn ask<B: Bus, Q: Message, A: Message + Default>(
    bus: &B,
    subject: &str,
    question: &Q,
    patience: Duration,
) -> Result<A, AskError> {
    let payload: bytes::Bytes = question.encode_to_vec().into();
    let until = Instant::now() + patience;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match bus.request(subject, Headers::new(), payload.clone(), left).await {
            Ok(message) => return A::decode(message.payload).map_err(AskError::Reply),
            Err(BusError::NoResponders { .. } | BusError::Unavailable { .. }) if left > PAUSE => {
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(AskError::Bus(error)),
        }
    }
}

/// Who calls: the first thing that every route under `/api` asks.
#[derive(Clone, Debug)]
pub(crate) struct Caller(pub(crate) Arc<Principal>);

impl Caller {
    pub(crate) fn require(&self, need: Need) -> Result<(), Problem> {
        self.0.require(need)
    }

    pub(crate) fn tenant_id(&self) -> &str {
        &self.0.tenant_id
    }

    pub(crate) fn name(&self) -> &str {
        &self.0.name
    }
}

impl<B: Bus, R: Records> FromRequestParts<Shared<B, R>> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &Shared<B, R>) -> Result<Self, Refusal> {
        let caller = app.keys.authenticate(&parts.headers).await?;
        traces::note("tenant_id", &caller.tenant_id);
        Ok(Self(caller))
    }
}
