//! The gateway as a whole: what it starts, and how it ends.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use busbar_blobs::Blobs;
use busbar_protocol::ports::{Bus, BusError, Records, StoreError, SystemClock, Tracer};
use busbar_rpc::Tls;
use busbar_service::telemetry::Connections;
use busbar_service::{Metrics, Readiness, Shutdown, TaskError, TaskSet};
use tokio::net::TcpListener;

use crate::admit::Admitter;
use crate::app::{App, Outside};
use crate::config::GatewayConfig;
use crate::listener::PatientListener;
use crate::metrics::GatewayMetrics;
use crate::packs::Packs;
use crate::stream::Hub;
use crate::{grpc, keyring, routes, sweep, watch};

/// How long requests that are being answered may take after the shutdown was asked for.
pub(crate) const DRAIN: Duration = Duration::from_secs(10);
/// How much longer than that everything else gets.
const GRACE: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why the gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The address cannot be told.
    #[error("the gateway's listener is of no use")]
    Listener(#[from] io::Error),
    /// The bus did not answer.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What the process lends the gateway.
#[derive(Clone, Debug, Default)]
pub struct Kit {
    /// When to end.
    pub shutdown: Shutdown,
    /// Where the gateway says that it is ready: checks `gateway_bus` and `gateway_store`.
    pub readiness: Readiness,
    /// Where it counts.
    pub metrics: Metrics,
    /// Where the spans of requests go.
    pub tracer: Tracer,
}

/// Where the gateway answers.
#[derive(Debug)]
pub struct Listeners {
    /// HTTP.
    pub http: TcpListener,
    /// gRPC, where it is wanted.
    pub grpc: Option<Grpc>,
}

/// Where and how the gateway answers over gRPC.
#[derive(Debug)]
pub struct Grpc {
    /// Where.
    pub listener: TcpListener,
    /// With TLS, or in plain text.
    pub tls: Option<Tls>,
}

impl From<TcpListener> for Listeners {
    fn from(http: TcpListener) -> Self {
        Self { http, grpc: None }
    }
}

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    address: SocketAddr,
    grpc_address: Option<SocketAddr>,
    tasks: TaskSet,
}

impl Gateway {
    /// Starts to answer on the listeners.
    ///
    /// # Errors
    /// [`GatewayError`].
    pub async fn start<B: Bus, R: Records>(
        config: GatewayConfig,
        bus: B,
        records: R,
        blobs: Blobs,
        listeners: impl Into<Listeners>,
        kit: Kit,
    ) -> Result<Self, GatewayError> {
        let Listeners { http, grpc } = listeners.into();
        let address = http.local_addr()?;
        let grpc_address = grpc.as_ref().map(|grpc| grpc.listener.local_addr()).transpose()?;
        keyring::keep_bootstrap_key(&records, &config.bootstrap_key).await?;
        let clock = SystemClock::anchored(records.time().await?);
        for check in ["gateway_bus", "gateway_store"] {
            kit.readiness.set(check, false);
        }
        let (admitter, admitting) = Admitter::new(bus.clone(), records.clone());
        let counted = GatewayMetrics::register(&kit.metrics);
        let http = PatientListener { inner: http, patience: Duration::from_millis(config.write_stall_ms) };
        let clients_max = config.stream_clients_max;
        let hub = Arc::new(Hub::new(bus.clone(), records.clone(), clients_max, &kit.metrics, kit.shutdown.clone()));
        let age = Duration::from_secs(config.unnamed_blob_ttl_seconds);
        let sweeping = sweep::run(records.clone(), blobs.clone(), age, kit.shutdown.clone());
        let outside = Outside { bus: bus.clone(), records: records.clone(), blobs, clock };
        let app = Arc::new(App::new(config, outside, admitter, hub.clone(), &kit));
        let (jobs, runs, progress, packs) = (app.jobs.clone(), app.runs.clone(), app.progress.clone(), app.packs.clone());
        let over_grpc = grpc.map(|grpc| grpc::serve(grpc, app.clone(), counted.clone(), kit.clone()));
        let router = routes::router(app, counted, kit.readiness.clone(), kit.metrics.clone());

        let mut tasks = TaskSet::new(kit.shutdown.clone());
        tasks.spawn("gateway http", serve(http, router, kit.shutdown.clone()));
        if let Some(serving) = over_grpc {
            tasks.spawn("gateway grpc", serving);
        }
        Hub::start(&hub, &mut tasks);
        tasks.spawn("gateway job events", watch::follow(bus.clone(), jobs, kit.shutdown.clone()));
        tasks.spawn("gateway run events", watch::follow(bus.clone(), runs, kit.shutdown.clone()));
        tasks.spawn("gateway progress", watch::follow_progress(bus.clone(), progress, kit.shutdown.clone()));
        // Ends when the last request has let go of it.
        tasks.spawn("gateway admit", async move {
            admitting.await;
            Ok::<(), io::Error>(())
        });
        tasks.spawn("gateway readiness", look(bus.clone(), records, kit.clone()));
        tasks.spawn("gateway blobs", sweeping);
        tasks.spawn("gateway packs", tend(packs, kit.shutdown));
        Ok(Self { address, grpc_address, tasks })
    }

    /// Where it answers over HTTP.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it answers over gRPC, if it does.
    #[must_use]
    pub const fn grpc_address(&self) -> Option<SocketAddr> {
        self.grpc_address
    }

    /// Waits for the end: after the shutdown, or when a part of the gateway failed, which causes the shutdown.
    ///
    /// # Errors
    /// [`TaskError`]: the first thing that went wrong.
    pub async fn join(self) -> Result<(), TaskError> {
        self.tasks.join(GRACE).await
    }
}

/// Answers until the shutdown, then finishes what is being answered.
async fn serve(listener: PatientListener, router: Router, shutdown: Shutdown) -> io::Result<()> {
    let graceful = shutdown.clone();
    let server = axum::serve(listener, router).with_graceful_shutdown(async move { graceful.triggered().await });
    tokio::select! {
        ended = async { server.await } => ended,
        // A client that keeps its connection busy must not hold up the end.
        () = async { shutdown.triggered().await; tokio::time::sleep(DRAIN).await } => Ok(()),
    }
}

/// Keeps the readiness checks true to the world.
async fn look<B: Bus, R: Records>(bus: B, records: R, kit: Kit) -> io::Result<()> {
    let connection = bus.connection();
    let told = Connections::register(&kit.metrics, "gateway");
    loop {
        let now = *connection.borrow();
        kit.readiness.set("gateway_bus", now.connected);
        told.bus(now.connected, now.generation);
        let asked = Instant::now();
        let store = tokio::time::timeout(LOOK_EVERY, records.time()).await;
        let answered = matches!(store, Ok(Ok(_)));
        kit.readiness.set("gateway_store", answered);
        told.store(answered.then(|| asked.elapsed()));
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = kit.shutdown.triggered() => return Ok(()),
        }
    }
}

async fn tend<B: Bus, R: Records>(packs: Packs<B, R>, shutdown: Shutdown) -> io::Result<()> {
    tokio::select! {
        () = packs.tend() => {}
        () = shutdown.triggered() => {}
    }
    Ok(())
}
