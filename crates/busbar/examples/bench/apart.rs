//! Roles as processes of their own: those that matter to a scheduler, whose figures are not mixed with those of a gateway; or all that jobs
//! need, where `busbar dev` has them in one.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use busbar_protocol::busbar::{SchedulerStatus, WorkersReply, WorkersRequest};
use busbar_protocol::ports::{Bus as _, Headers};
use busbar_protocol::prost::Message as _;
use busbar_protocol::subjects;
use busbar_servers::{Companion, CompanionOptions, Durability, Stack, StackOptions, free_port};
use serde_json::Value;

use crate::Outcome;
use crate::dev::{Dev, Endpoints, World, program, start_worker};
use crate::http::Http;
use crate::usage::Process;

const READY_WITHIN: Duration = Duration::from_secs(120);
const ASK_WITHIN: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How servers and roles are kept.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Keeping {
    /// Whatever dies is started again.
    pub(crate) supervised: bool,
    pub(crate) durability: Durability,
}

/// Two servers and a safety kernel. Dropping it kills them.
pub(crate) struct Apart {
    dir: PathBuf,
    keeping: Keeping,
    kernel_address: String,
    blobs: String,
    _kernel: Companion,
    stack: Stack,
}

impl Apart {
    /// Starts them on a folder in which a `dev` has installed the packs, and is gone again.
    pub(crate) async fn start(dir: &Path) -> Outcome<Self> {
        Self::start_with(dir, Keeping::default()).await
    }

    /// The same, kept otherwise.
    pub(crate) async fn start_with(dir: &Path, keeping: Keeping) -> Outcome<Self> {
        let dev = Dev::start(dir, 0, 1).await?;
        let blobs = dev.endpoints.blobs.clone();
        dev.stop().await?;
        let Keeping { supervised, durability } = keeping;
        let options = StackOptions { supervised, durability, ..StackOptions::new(dir.join("data")) };
        let stack = tokio::task::spawn_blocking(move || Stack::start(&options)).await??;
        let kernel_address = format!("127.0.0.1:{}", free_port()?);
        let set = [format!("safety_kernel.addr={kernel_address}")];
        let kernel = start(&stack, &blobs, "safety-kernel", dir.join("kernel"), &set, supervised)?;
        Ok(Self { dir: dir.to_owned(), keeping, kernel_address, blobs, _kernel: kernel, stack })
    }

    /// Starts a scheduler that takes so many jobs.
    pub(crate) fn scheduler(&self, name: &str, jobs_max: usize) -> Outcome<Companion> {
        let set = [format!("safety_kernel.addr={}", self.kernel_address), format!("scheduler.live_jobs_max={jobs_max}")];
        start(&self.stack, &self.blobs, "scheduler", self.dir.join(name), &set, self.keeping.supervised)
    }

    pub(crate) fn nats(&self) -> String {
        self.stack.nats.url()
    }

    pub(crate) fn redis(&self) -> String {
        self.stack.redis.url()
    }

    /// Where the safety kernel listens.
    pub(crate) fn kernel_address(&self) -> &str {
        &self.kernel_address
    }

    pub(crate) fn blobs(&self) -> &str {
        &self.blobs
    }

    /// The servers.
    pub(crate) fn servers(&self) -> Outcome<[Process; 2]> {
        servers(&self.stack)
    }

    /// Connections of our own to the servers.
    pub(crate) async fn world(&self) -> Outcome<World> {
        World::connect(&self.nats(), &self.redis()).await
    }
}

/// Busbar on servers that are there, and a worker. Dropping it kills both.
pub(crate) enum Busbar {
    /// As `busbar dev`: all roles in one process.
    Together(Dev),
    /// As in production: each role that jobs need in a process of its own.
    Apart(Roles),
}

/// Safety kernel, scheduler, gateway and worker.
pub(crate) struct Roles {
    endpoints: Endpoints,
    running: Vec<(&'static str, Companion)>,
    servers: [Process; 2],
}

impl Busbar {
    /// Starts `busbar dev` with a worker on these servers, which stand in `folder`; or, `apart`, lets it set up what stays in the servers and
    /// starts each role and the worker by itself.
    pub(crate) async fn start_on(dir: &Path, apart: bool, slots: u16, stack: &Stack, folder: &Path) -> Outcome<Self> {
        let workers = u16::from(!apart);
        let dev = Dev::start_on(dir, workers, slots, stack, folder).await?;
        if !apart {
            return Ok(Self::Together(dev));
        }
        // The packs and the key stay in the servers.
        let endpoints = dev.endpoints.clone();
        dev.stop().await?;
        Ok(Self::Apart(Roles::start(dir, slots, stack, &endpoints).await?))
    }

    pub(crate) fn endpoints(&self) -> &Endpoints {
        match self {
            Self::Together(dev) => &dev.endpoints,
            Self::Apart(roles) => &roles.endpoints,
        }
    }

    /// Itself, its worker and the servers.
    pub(crate) fn processes(&self) -> Outcome<Vec<Process>> {
        match self {
            Self::Together(dev) => dev.processes(),
            Self::Apart(roles) => {
                let of = |(name, role): &(&'static str, Companion)| process(name, role.pid());
                roles.running.iter().map(of).chain(roles.servers.map(Ok)).collect()
            }
        }
    }

    /// Ends it in order.
    pub(crate) async fn stop(self) -> Outcome<()> {
        match self {
            Self::Together(dev) => dev.stop().await,
            Self::Apart(roles) => {
                let stop = move || roles.running.into_iter().rev().for_each(|(_, role)| role.stop());
                Ok(tokio::task::spawn_blocking(stop).await?)
            }
        }
    }
}

impl Roles {
    async fn start(dir: &Path, slots: u16, stack: &Stack, before: &Endpoints) -> Outcome<Self> {
        let [kernel, http] = [free_port()?, free_port()?].map(|port| format!("127.0.0.1:{port}"));
        let (to_kernel, listen) = (format!("safety_kernel.addr={kernel}"), format!("http.listen={http}"));
        let role = |name: &'static str, set: &[String]| {
            start(stack, &before.blobs, name, dir.join(name), set, true).map(|running| (name, running))
        };
        let worker = start_worker("bench-worker", &before.nats, &before.redis, &before.blobs, slots, dir.join("worker"))?;
        let running = vec![
            role("safety-kernel", std::slice::from_ref(&to_kernel))?,
            role("scheduler", &[to_kernel])?,
            role("gateway", &[listen, "grpc.listen=127.0.0.1:0".to_owned()])?,
            ("worker", worker),
        ];
        let mut endpoints = before.clone();
        endpoints.http = format!("http://{http}");
        until_workers(&endpoints.world().await?, 1).await?;
        until_answered(&endpoints).await?;
        Ok(Self { endpoints, running, servers: servers(stack)? })
    }
}

/// Waits until a gateway answers.
async fn until_answered(endpoints: &Endpoints) -> Outcome<()> {
    let http = Http::new(endpoints);
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        let asking = http.clone();
        match tokio::task::spawn_blocking(move || asking.get::<Value>("/api/v1/status")).await? {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

fn servers(stack: &Stack) -> Outcome<[Process; 2]> {
    Ok([process("nats-server", stack.nats.pid())?, process("redis-server", stack.redis.pid())?])
}

fn process(name: &'static str, pid: Option<u32>) -> Outcome<Process> {
    Ok(pid.map(|pid| Process { name, pid }).ok_or_else(|| format!("{name} is gone"))?)
}

/// A role with its settings. Unless it is supervised, it is not started again when it dies: some are killed on purpose.
fn start(stack: &Stack, blobs: &str, role: &'static str, dir: PathBuf, set: &[String], supervised: bool) -> Outcome<Companion> {
    let mut args = vec![OsString::from(role)];
    for (name, value) in [("--nats", stack.nats.url()), ("--redis", stack.redis.url()), ("--blobs", blobs.to_owned())] {
        args.extend([OsString::from(name), value.into()]);
    }
    for setting in ["health.listen=127.0.0.1:0", "log.filter=warn"].into_iter().chain(set.iter().map(String::as_str)) {
        args.extend([OsString::from("--set"), setting.into()]);
    }
    let options = CompanionOptions { program: role, binary: program("busbar")?, args, env: None, dir, supervised };
    Ok(Companion::start(options)?)
}

/// Waits until the active scheduler is as wanted.
pub(crate) async fn until(world: &World, wanted: impl Fn(&SchedulerStatus) -> bool) -> Outcome<SchedulerStatus> {
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        match status(world).await {
            Some(status) if wanted(&status) => return Ok(status),
            seen if Instant::now() > deadline => {
                return Err(format!("no scheduler is as wanted after {READY_WITHIN:?}; the last one seen: {seen:?}").into());
            }
            _ => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

/// Waits until the active scheduler knows so many workers.
pub(crate) async fn until_workers(world: &World, count: usize) -> Outcome<()> {
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        let known = ask(world).await.map_or(0, |reply| reply.workers.len());
        if known >= count {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("{known} of {count} workers are known after {READY_WITHIN:?}").into());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What the active scheduler says of itself, if it answers.
async fn status(world: &World) -> Option<SchedulerStatus> {
    ask(world).await?.scheduler
}

async fn ask(world: &World) -> Option<WorkersReply> {
    let ask = WorkersRequest::default().encode_to_vec().into();
    let answer = world.bus.request(subjects::SCHEDULER_WORKERS, Headers::new(), ask, ASK_WITHIN).await.ok()?;
    WorkersReply::decode(answer.payload).ok()
}

/// Which process the active scheduler is: the owner of the lease is named `host/pid/start`.
pub(crate) fn process_of(status: &SchedulerStatus) -> Outcome<Process> {
    let pid = status.owner.split('/').nth(1).and_then(|pid| pid.parse().ok());
    Ok(Process { name: "scheduler", pid: pid.ok_or("an odd owner of the lease")? })
}
