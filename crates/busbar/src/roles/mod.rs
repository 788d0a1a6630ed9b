//! The roles: what each of them is made of, and how one alone runs.
//!
//! Each role has its own connections to the bus and the store, also where `dev` runs all of them in one process.

use std::net::SocketAddr;
use std::time::Duration;

use busbar_bus::NatsBus;
use busbar_service::telemetry::{Connections, Process, SpanExport};
use busbar_service::{HealthServer, Readiness, Shutdown, TaskSet, Telemetry};
use busbar_store::Store;
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::config::Config;
use crate::failure::Failure;

pub(crate) mod gateway;
mod look;
pub(crate) mod safety_kernel;
pub(crate) mod scheduler;
pub(crate) mod workflow_engine;

/// How long a role may take to end; the gateway's own bound, which is the longest, is shorter.
pub(crate) const GRACE: Duration = Duration::from_secs(20);

/// A role of the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Scheduler,
    Gateway,
    SafetyKernel,
    WorkflowEngine,
}

impl Role {
    /// Its name: in log lines, and behind `busbar-` the name of its service in traces.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Scheduler => scheduler::ROLE,
            Self::Gateway => gateway::ROLE,
            Self::SafetyKernel => safety_kernel::ROLE,
            Self::WorkflowEngine => workflow_engine::ROLE,
        }
    }
}

/// A program of ours in this role.
pub(crate) const fn process(role: &'static str) -> Process {
    Process { role, version: env!("CARGO_PKG_VERSION") }
}

/// What the process lends a role.
#[derive(Clone, Debug)]
pub(crate) struct Kit {
    pub(crate) shutdown: Shutdown,
    pub(crate) readiness: Readiness,
    pub(crate) telemetry: Telemetry,
}

impl Kit {
    pub(crate) fn new(shutdown: Shutdown, telemetry: Telemetry) -> Self {
        Self { shutdown, readiness: Readiness::new(), telemetry }
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
    let mut export = SpanExport::default();
    let tracer = export.tracer(&config.telemetry, process(role.name()))?;
    let kit = Kit::new(shutdown.clone(), Telemetry { tracer, ..Telemetry::default() });
    let start = async {
        match role {
            Role::Scheduler => scheduler::start(&mut tasks, config, kit, scheduler::Kernel::remote(config)?).await,
            Role::Gateway => gateway::start(&mut tasks, config, kit).await.map(drop),
            Role::SafetyKernel => safety_kernel::start(&mut tasks, config, kit).await.map(drop),
            Role::WorkflowEngine => workflow_engine::start(&mut tasks, config, kit).await,
        }
    };
    tokio::select! {
        started = start => started?,
        () = shutdown.triggered() => return Ok(()),
    }
    let ended = tasks.join(GRACE).await;
    export.finish().await;
    Ok(ended?)
}

/// Listens, or says who cannot listen where.
pub(crate) async fn listen(what: &'static str, address: &str) -> Result<(TcpListener, SocketAddr), Failure> {
    let failure = |source| Failure::Listen { what, address: address.to_owned(), source };
    let listener = TcpListener::bind(address).await.map_err(failure)?;
    let bound = listener.local_addr().map_err(failure)?;
    Ok((listener, bound))
}

/// Where this replica runs, for people, and which start of it this is.
fn owner() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{host}/{}/{}", std::process::id(), Uuid::now_v7().simple())
}

/// Who watches what, where a role has no HTTP server of its own.
struct Watched {
    role: &'static str,
    connections: Connections,
    fill: Option<look::Fill>,
}

/// Starts what such a role has besides its work: the health server and the look at the world.
async fn start_health(tasks: &mut TaskSet, watched: Watched, config: &Config, kit: Kit, world: World) -> Result<(), Failure> {
    let Watched { role, connections, fill } = watched;
    let address = config.health.listen;
    let failure = |source| Failure::Listen { what: "the health server", address: address.to_string(), source };
    let server = HealthServer::bind(address).await.map_err(failure)?;
    tracing::info!(role, address = %server.address(), "healthz, readyz and metrics");
    for check in ["bus", "store"] {
        kit.readiness.set(check, false);
    }
    tasks.spawn(format!("{role} readiness"), look::look(world, connections, fill, kit.readiness.clone(), kit.shutdown.clone()));
    tasks.spawn(format!("{role} health"), server.run(kit.readiness, kit.telemetry.metrics, kit.shutdown));
    Ok(())
}
