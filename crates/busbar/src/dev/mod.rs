//! `busbar dev`: everything on this machine, through the same code paths as production.
//!
//! ```text
//!  lock the folder ─► servers ─► safety kernel ─► scheduler ─► gateway ─► key ─► packs ─► workers ─► /readyz ─► endpoints.json
//!                                                                                                                 │
//!  end:  endpoints.json goes ◄─ servers end ◄─ roles end ◄─ workers drain ◄────────────── signal, or a role failed ┘
//! ```
//!
//! Nothing here is remembered but what stands in the folder: a start after a kill is an ordinary start.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use busbar_service::telemetry::SpanExport;
use busbar_service::{Metrics, Shutdown, TaskError, TaskSet, Telemetry};
use tokio::task::{JoinError, JoinHandle};

use crate::cli::{DevArgs, Ports};
use crate::config::{Config, ServerUrl};
use crate::failure::Failure;
use crate::probe::ProbeUrl;
use crate::roles::gateway::Addresses;
use crate::roles::{self, GRACE, Kit, Role, World};

mod endpoints;
mod error;
mod folder;
mod http;
mod key;
mod packs;
mod ready;
mod servers;
mod workers;

pub(crate) use error::DevError;

use endpoints::{Endpoints, Summary};
use folder::DataFolder;
use servers::Servers;
use workers::Workers;

/// Everything that runs. Dropping it ends everything at once.
struct Running {
    workers: Workers,
    roles: JoinHandle<Result<(), TaskError>>,
    roles_shutdown: Shutdown,
    servers: Servers,
    endpoints: Endpoints,
    /// The packs that were installed, with their versions.
    packs: Vec<String>,
    export: SpanExport,
}

/// Runs everything until a signal comes or a role fails.
pub(crate) async fn run(args: &DevArgs, config: Config) -> Result<(), Failure> {
    let shutdown = Shutdown::on_signals().map_err(Failure::Signals)?;
    let folder = DataFolder::open(args.data_dir.as_deref())?;
    let running = tokio::select! {
        started = start(args, config, folder.dir()) => started?,
        () = shutdown.triggered() => return Ok(()),
    };
    folder.publish(&running.endpoints)?;
    let summary = Summary { dir: folder.dir(), workers: running.workers.count(), packs: &running.packs };
    endpoints::tell(&running.endpoints, &summary).map_err(Failure::Output)?;
    let ended = tokio::select! {
        ended = live(running, &shutdown) => ended,
        () = shutdown.immediate() => Ok(()),
    };
    folder.withdraw();
    ended
}

async fn start(args: &DevArgs, mut config: Config, dir: &Path) -> Result<Running, Failure> {
    let worker_binary = workers::binary(args.workers)?;
    let packs = packs::find(args.packs.as_deref())?;
    let servers = servers::start(dir, args.ports, &config).await?;
    adapt(&mut config, args.ports, dir, &servers);

    let roles_shutdown = Shutdown::new();
    let mut tasks = TaskSet::new(roles_shutdown.clone());
    let mut export = SpanExport::default();
    let gateway = start_roles(&mut tasks, &mut config, &roles_shutdown, &mut export).await?;
    let mut roles = tokio::spawn(tasks.join(GRACE));
    let guard = EndRoles(Some(roles_shutdown.clone()));

    let world = World::connect(&config, "dev").await?;
    let endpoints = Endpoints {
        http: format!("http://{}", gateway.http),
        grpc: Some(gateway.grpc.to_string()),
        nats: servers.nats_url().to_owned(),
        redis: servers.redis_url().to_owned(),
        blobs: config.blobs.url.clone().unwrap_or_default(),
        api_key: key::ensure(dir, &world.store).await?,
        pid: std::process::id(),
    };
    let pools = packs::pools(&packs);
    let packs = tokio::select! {
        installed = packs::install(gateway.http, &endpoints.api_key, &packs) => installed?,
        ended = &mut roles => return Err(why(ended)),
    };
    let workers = Workers::start(worker_binary, workers::plan(args, &pools), dir, &endpoints, &config).await?;
    let readyz = ProbeUrl::of(gateway.http, "/readyz");
    tokio::select! {
        ready = ready::wait(&readyz, &workers, &world) => ready?,
        ended = &mut roles => return Err(why(ended)),
    }
    guard.defuse();
    Ok(Running { workers, roles, roles_shutdown, servers, endpoints, packs, export })
}

/// Each role is started when what it needs is there, and finds it where it really listens.
///
/// All count in the same place, so that the gateway's `/metrics` tells of every role.
async fn start_roles(
    tasks: &mut TaskSet,
    config: &mut Config,
    shutdown: &Shutdown,
    export: &mut SpanExport,
) -> Result<Addresses, Failure> {
    let (metrics, traces) = (Metrics::new(), config.telemetry.clone());
    let mut kit = |role: Role| -> Result<Kit, Failure> {
        let tracer = export.tracer(&traces, roles::process(role.name()))?;
        Ok(Kit::new(shutdown.clone(), Telemetry { metrics: metrics.clone(), tracer }))
    };
    let (address, kernel) = roles::safety_kernel::start(tasks, config, kit(Role::SafetyKernel)?).await?;
    config.safety_kernel.addr = address.to_string();
    let kernel = roles::scheduler::Kernel::Local(kernel);
    roles::scheduler::start(tasks, config, kit(Role::Scheduler)?, kernel).await?;
    roles::workflow_engine::start(tasks, config, kit(Role::WorkflowEngine)?).await?;
    roles::gateway::start(tasks, config, kit(Role::Gateway)?).await
}

/// What differs from production: where things are.
fn adapt(config: &mut Config, ports: Ports, dir: &Path, servers: &Servers) {
    let free = SocketAddr::from(([127, 0, 0, 1], 0));
    config.nats.url = Some(ServerUrl::new(servers.nats_url()));
    config.redis.url = Some(ServerUrl::new(servers.redis_url()));
    config.blobs.url.get_or_insert_with(|| busbar_blobs::url_of(&dir.join("blobs")));
    config.health.listen = free;
    config.safety_kernel.listen = Some(free.to_string());
    if ports == Ports::Auto {
        config.http.listen = free;
        config.grpc.listen = free.to_string();
    }
}

/// Waits for the end and carries it out in order: whoever needs another ends before it.
async fn live(running: Running, shutdown: &Shutdown) -> Result<(), Failure> {
    let Running { workers, mut roles, roles_shutdown, servers, endpoints: _, packs: _, export } = running;
    let failed = tokio::select! {
        () = shutdown.triggered() => None,
        ended = &mut roles => Some(ended),
    };
    workers.stop().await;
    roles_shutdown.trigger();
    let ended = match failed {
        Some(ended) => Err(why(ended)),
        None => roles.await.map_or_else(|panic| Err(panicked(&panic)), |ended| Ok(ended?)),
    };
    export.finish().await;
    servers.stop().await;
    ended
}

/// Why the roles ended although nobody asked them to.
fn why(ended: Result<Result<(), TaskError>, JoinError>) -> Failure {
    match ended {
        Ok(Err(error)) => error.into(),
        Ok(Ok(())) => TaskError::EndedEarly { task: "every role".into() }.into(),
        Err(panic) => panicked(&panic),
    }
}

fn panicked(panic: &JoinError) -> Failure {
    DevError::Panicked { detail: panic.to_string() }.into()
}

/// Ends the roles when the start does not come to its end.
struct EndRoles(Option<Shutdown>);

impl EndRoles {
    fn defuse(mut self) {
        self.0 = None;
    }
}

impl Drop for EndRoles {
    fn drop(&mut self) {
        if let Some(shutdown) = self.0.take() {
            shutdown.trigger_now();
        }
    }
}

/// Runs what blocks where it holds up nobody.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, DevError> {
    tokio::task::spawn_blocking(work).await.map_err(|panic| DevError::Panicked { detail: panic.to_string() })
}

/// The folder of this program, beside which others of ours stand.
fn program_dir() -> Result<PathBuf, DevError> {
    let program = std::env::current_exe().and_then(|program| program.canonicalize());
    let program = program.map_err(|source| DevError::File { doing: "find", path: "this program".into(), source })?;
    Ok(program.parent().map(Path::to_path_buf).unwrap_or_default())
}
