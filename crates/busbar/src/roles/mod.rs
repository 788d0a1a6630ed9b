//! The roles: what each of them is made of, and how one alone runs.
//!
//! Each role has its own connections to the bus and the store, also where `dev` runs all of them in one process.

use std::net::SocketAddr;
use std::time::Duration;

use busbar_bus::NatsBus;
use busbar_protocol::ports::Bus as _;
use busbar_service::{HealthServer, Metrics, Readiness, Shutdown, TaskSet};
use busbar_store::Store;
use tokio::net::TcpListener;

use crate::config::Config;
use crate::failure::Failure;

pub(crate) mod gateway;
pub(crate) mod safety_kernel;
pub(crate) mod scheduler;

/// How long a role may take to end; the gateway's own bound, which is the longest, is shorter.
pub(crate) const GRACE: Duration = Duration::from_secs(20);
/// How often the connections are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A role of the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Scheduler,
    Gateway,
    SafetyKernel,
}

/// What the process lends a role.
#[derive(Clone, Debug)]
pub(crate) struct Kit {
    pub(crate) shutdown: Shutdown,
    pub(crate) readiness: Readiness,
    pub(crate) metrics: Metrics,
}

impl Kit {
    pub(crate) fn new(shutdown: Shutdown) -> Self {
        Self { shutdown, readiness: Readiness::new(), metrics: Metrics::new() }
    }
}

/// The world as a role needs it.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) bus: NatsBus,
    pub(crate) store: Store,
}

impl World {
    pub(crate) async fn connect(config: &Config, role: &'static str) -> Result<Self, Failure> {
        let bus = NatsBus::connect(config.bus(role)).await?;
        // Whoever publishes durably needs the streams, and nobody knows which role comes first.
        bus.ensure_streams().await.map_err(Failure::start(role))?;
        let store = Store::connect(config.store(role)).await?;
        Ok(Self { bus, store })
    }
}

/// Runs one role until a signal.
pub(crate) async fn run(role: Role, config: &Config) -> Result<(), Failure> {
    let shutdown = Shutdown::on_signals().map_err(Failure::Signals)?;
    let mut tasks = TaskSet::new(shutdown.clone());
    let kit = Kit::new(shutdown.clone());
    let start = async {
        match role {
            Role::Scheduler => scheduler::start(&mut tasks, config, kit).await,
            Role::Gateway => gateway::start(&mut tasks, config, kit).await.map(drop),
            Role::SafetyKernel => safety_kernel::start(&mut tasks, config, kit).await.map(drop),
        }
    };
    tokio::select! {
        started = start => started?,
        () = shutdown.triggered() => return Ok(()),
    }
    Ok(tasks.join(GRACE).await?)
}

/// Listens, or says who cannot listen where.
pub(crate) async fn listen(what: &'static str, address: &str) -> Result<(TcpListener, SocketAddr), Failure> {
    let failure = |source| Failure::Listen { what, address: address.to_owned(), source };
    let listener = TcpListener::bind(address).await.map_err(failure)?;
    let bound = listener.local_addr().map_err(failure)?;
    Ok((listener, bound))
}

/// Starts what a role without an HTTP server of its own has besides its work: the health server and the look at the world.
async fn start_health(tasks: &mut TaskSet, role: &'static str, config: &Config, kit: Kit, world: World) -> Result<(), Failure> {
    let address = config.health.listen;
    let failure = |source| Failure::Listen { what: "the health server", address: address.to_string(), source };
    let server = HealthServer::bind(address).await.map_err(failure)?;
    tracing::info!(role, address = %server.address(), "healthz, readyz and metrics");
    for check in ["bus", "store"] {
        kit.readiness.set(check, false);
    }
    tasks.spawn(format!("{role} readiness"), look(world, kit.readiness.clone(), kit.shutdown.clone()));
    tasks.spawn(format!("{role} health"), server.run(kit.readiness, kit.metrics, kit.shutdown));
    Ok(())
}

/// Keeps the readiness checks true to the world.
async fn look(world: World, readiness: Readiness, shutdown: Shutdown) -> Result<(), std::convert::Infallible> {
    let connection = world.bus.connection();
    loop {
        readiness.set("bus", connection.borrow().connected);
        let store = tokio::time::timeout(LOOK_EVERY, world.store.ping()).await;
        readiness.set("store", matches!(store, Ok(Ok(()))));
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = shutdown.triggered() => return Ok(()),
        }
    }
}
