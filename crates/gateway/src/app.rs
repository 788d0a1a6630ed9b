//! What the routes share.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use busbar_api::Problem;
use busbar_blobs::Blobs;
use busbar_protocol::ports::{Bus, BusError, Headers, Records};
use busbar_protocol::prost::Message;
use busbar_service::Shutdown;
use tokio::sync::Semaphore;

use crate::admit::Admitter;
use crate::config::GatewayConfig;
use crate::core::role::Need;
use crate::error::{Refusal, internal, of_bus};
use crate::keys::{Keys, Principal};
use crate::watch::JobWatch;

/// How many batches are read and submitted at once: each may have a body of 64 MiB.
const BATCHES_AT_ONCE: usize = 4;
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
    pub(crate) watch: JobWatch,
    pub(crate) batches: Semaphore,
    pub(crate) shutdown: Shutdown,
    pub(crate) started: Instant,
}

/// The state of the routes.
pub(crate) type Shared<B, R> = Arc<App<B, R>>;

impl<B: Bus, R: Records> App<B, R> {
    pub(crate) fn new(config: GatewayConfig, bus: B, records: R, blobs: Blobs, admitter: Admitter, shutdown: Shutdown) -> Self {
        Self {
            keys: Keys::new(records.clone(), Duration::from_millis(config.key_cache_ms)),
            watch: JobWatch::default(),
            batches: Semaphore::new(BATCHES_AT_ONCE),
            started: Instant::now(),
            config,
            bus,
            records,
            blobs,
            admitter,
            shutdown,
        }
    }

    /// Asks another service, again and again while nobody listens, until `patience` is over.
    pub(crate) async fn ask<Q: Message, A: Message + Default>(
        &self,
        subject: &str,
        question: &Q,
        patience: Duration,
    ) -> Result<A, Problem> {
        let payload: bytes::Bytes = question.encode_to_vec().into();
        let until = Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.bus.request(subject, Headers::new(), payload.clone(), left).await {
                Ok(message) => return A::decode(message.payload).map_err(|error| internal(&error)),
                Err(BusError::NoResponders { .. } | BusError::Unavailable { .. }) if left > PAUSE => {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(of_bus(&error)),
            }
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
        Ok(Self(app.keys.authenticate(&parts.headers).await?))
    }
}
