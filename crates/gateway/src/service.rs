//! The gateway as a whole: what it starts, and how it ends.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use busbar_blobs::Blobs;
use busbar_protocol::ports::{Bus, BusError, Records, StoreError};
use busbar_service::{Metrics, Readiness, Shutdown, TaskError, TaskSet};
use tokio::net::TcpListener;

use crate::admit::Admitter;
use crate::app::App;
use crate::config::GatewayConfig;
use crate::metrics::GatewayMetrics;
use crate::packs::{self, Pack, PackError};
use crate::{routes, watch};

/// How long requests that are being answered may take after the shutdown was asked for.
const DRAIN: Duration = Duration::from_secs(10);
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
    /// A pack could not be loaded.
    #[error(transparent)]
    Pack(#[from] PackError),
}

/// What the process lends the gateway.
#[derive(Clone, Debug, Default)]
pub struct Kit {
    /// When to end.
    pub shutdown: Shutdown,
    /// Where the gateway says that it is ready: checks `gateway_bus`, `gateway_store` and `gateway_packs`.
    pub readiness: Readiness,
    /// Where it counts.
    pub metrics: Metrics,
}

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    address: SocketAddr,
    tasks: TaskSet,
}

impl Gateway {
    /// Starts to answer on the listener. Packs are loaded before; their policies follow as soon as a kernel answers, and the
    /// gateway is not ready until then.
    ///
    /// # Errors
    /// [`GatewayError`].
    pub async fn start<B: Bus, R: Records>(
        config: GatewayConfig,
        bus: B,
        records: R,
        blobs: Blobs,
        listener: TcpListener,
        kit: Kit,
    ) -> Result<Self, GatewayError> {
        let address = listener.local_addr()?;
        let packs = match &config.packs_dir {
            Some(dir) => packs::load_packs(dir, &bus, &records, &blobs).await?,
            None => Vec::new(),
        };
        for check in ["gateway_bus", "gateway_store", "gateway_packs"] {
            kit.readiness.set(check, false);
        }
        let (admitter, admitting) = Admitter::new(bus.clone(), records.clone());
        let counted = GatewayMetrics::register(&kit.metrics);
        let app = Arc::new(App::new(config, bus.clone(), records.clone(), blobs, admitter, kit.shutdown.clone()));
        let jobs = app.watch.clone();
        let router = routes::router(app, counted, kit.readiness.clone(), kit.metrics.clone());

        let mut tasks = TaskSet::new(kit.shutdown.clone());
        tasks.spawn("gateway http", serve(listener, router, kit.shutdown.clone()));
        tasks.spawn("gateway events", watch::follow(bus.clone(), jobs, kit.shutdown.clone()));
        // Ends when the last request has let go of it.
        tasks.spawn("gateway admit", async move {
            admitting.await;
            Ok::<(), io::Error>(())
        });
        tasks.spawn("gateway readiness", look(bus.clone(), records, kit.clone()));
        tasks.spawn("gateway packs", publish(packs, bus, kit));
        Ok(Self { address, tasks })
    }

    /// Where it answers.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
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
async fn serve(listener: TcpListener, router: Router, shutdown: Shutdown) -> io::Result<()> {
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
    loop {
        kit.readiness.set("gateway_bus", connection.borrow().connected);
        let store = tokio::time::timeout(LOOK_EVERY, records.time()).await;
        kit.readiness.set("gateway_store", matches!(store, Ok(Ok(_))));
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = kit.shutdown.triggered() => return Ok(()),
        }
    }
}

async fn publish<B: Bus>(packs: Vec<Pack>, bus: B, kit: Kit) -> Result<(), PackError> {
    packs::publish_policies(&packs, &bus, &kit.shutdown).await?;
    kit.readiness.set("gateway_packs", true);
    kit.shutdown.triggered().await;
    Ok(())
}
