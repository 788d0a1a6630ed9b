//! The roles that matter to a scheduler as processes of their own: its figures are not mixed with those of a gateway.

use std::ffi::OsString;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use busbar_protocol::busbar::{SchedulerStatus, WorkersReply, WorkersRequest};
use busbar_protocol::ports::{Bus as _, Headers};
use busbar_protocol::prost::Message as _;
use busbar_protocol::subjects;
use busbar_servers::{Companion, CompanionOptions, Durability, Stack, StackOptions};

use crate::Outcome;
use crate::dev::{Dev, World, program};
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
        let kernel_address = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.to_string();
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
        let of = |name, pid: Option<u32>| pid.map(|pid| Process { name, pid }).ok_or_else(|| format!("{name} is gone"));
        Ok([of("nats-server", self.stack.nats.pid())?, of("redis-server", self.stack.redis.pid())?])
    }

    /// Connections of our own to the servers.
    pub(crate) async fn world(&self) -> Outcome<World> {
        World::connect(&self.nats(), &self.redis()).await
    }
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
