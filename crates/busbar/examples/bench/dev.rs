//! A real `busbar dev` with its servers and workers, in a folder of its own; and a worker beside it.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use busbar_bus::{BusConfig, NatsBus};
use busbar_sdk::{Client, ClientOptions};
use busbar_servers::{Companion, CompanionOptions, Stack};
use busbar_store::{Store, StoreConfig};
use serde::Deserialize;

use crate::Outcome;
use crate::follower::Follower;
use crate::usage::Process;

const READY_WITHIN: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What `endpoints.json` says.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Endpoints {
    pub(crate) http: String,
    pub(crate) nats: String,
    pub(crate) redis: String,
    pub(crate) blobs: String,
    pub(crate) api_key: String,
    pid: u32,
}

impl Endpoints {
    /// Connections of our own to the servers.
    pub(crate) async fn world(&self) -> Outcome<World> {
        World::connect(&self.nats, &self.redis).await
    }

    /// A client as users have it.
    pub(crate) async fn client(&self) -> Outcome<Client> {
        let (nats_url, redis_url) = (self.nats.clone(), self.redis.clone());
        Ok(Client::connect(ClientOptions { nats_url, redis_url, ..ClientOptions::default() }).await?)
    }
}

/// A running `busbar dev`. Dropping it kills it, and its children with it.
pub(crate) struct Dev {
    companion: Companion,
    pub(crate) endpoints: Endpoints,
    data: PathBuf,
    /// The folder of its servers: its own, or that of whoever gave it some.
    servers: PathBuf,
}

impl Dev {
    /// Starts it on a folder, which may hold what an earlier one left, and waits until it is ready.
    pub(crate) async fn start(dir: &Path, workers: u16, slots: u16) -> Outcome<Self> {
        Self::start_with(dir, workers, slots, dir.join("data"), &[]).await
    }

    /// The same on servers that stand in a folder and are as durable as wanted.
    pub(crate) async fn start_on(dir: &Path, workers: u16, slots: u16, stack: &Stack, servers: &Path) -> Outcome<Self> {
        let urls = [("--nats", stack.nats.url()), ("--redis", stack.redis.url())];
        Self::start_with(dir, workers, slots, servers.to_owned(), &urls).await
    }

    async fn start_with(dir: &Path, workers: u16, slots: u16, servers: PathBuf, urls: &[(&str, String)]) -> Outcome<Self> {
        let data = dir.join("data");
        let mut args: Vec<OsString> = ["dev", "--ports", "auto", "--log", "warn", "--data-dir"].map(OsString::from).into();
        args.push(data.clone().into());
        args.extend(["--workers", &workers.to_string(), "--max-parallel", &slots.to_string()].map(OsString::from));
        args.extend(urls.iter().flat_map(|(name, url)| [OsString::from(name), url.into()]));
        let options = CompanionOptions {
            program: "busbar",
            binary: program("busbar")?,
            args,
            env: None,
            dir: dir.join("dev"),
            supervised: true,
        };
        let companion = Companion::start(options)?;
        let endpoints = ready(&companion, &data.join("endpoints.json")).await?;
        Ok(Self { companion, endpoints, data, servers })
    }

    /// Itself and its servers, and its worker if it has one.
    pub(crate) fn processes(&self) -> Outcome<Vec<Process>> {
        let server = |name, file: &str| Process::of_file(name, &self.servers.join(file));
        let mut processes = vec![
            Process { name: "busbar", pid: self.endpoints.pid },
            server("nats-server", "nats/nats-server.pid")?,
            server("redis-server", "redis/redis-server.pid")?,
        ];
        let worker = self.data.join("workers/dev-worker-1/worker.pid");
        if worker.exists() {
            processes.push(Process::of_file("worker", &worker)?);
        }
        Ok(processes)
    }

    /// Ends it in order.
    pub(crate) async fn stop(self) -> Outcome<()> {
        Ok(tokio::task::spawn_blocking(move || self.companion.stop()).await?)
    }

    /// Kills it with SIGKILL.
    pub(crate) async fn kill(self) -> Outcome<()> {
        Ok(tokio::task::spawn_blocking(move || drop(self.companion)).await?)
    }
}

/// Our own connections.
pub(crate) struct World {
    pub(crate) bus: NatsBus,
    pub(crate) store: Store,
    pub(crate) follower: Follower,
}

impl World {
    pub(crate) async fn connect(nats: &str, redis: &str) -> Outcome<Self> {
        let bus = NatsBus::connect(BusConfig::new(nats, "bench")).await?;
        let store = Store::connect(StoreConfig { client_name: "bench".into(), ..StoreConfig::new(redis) }).await?;
        let follower = Follower::start(&bus, &store).await?;
        Ok(Self { bus, store, follower })
    }
}

/// The `worker` program on given servers. That it is there, only its beats tell.
pub(crate) fn start_worker(id: &str, nats: &str, redis: &str, blobs: &str, slots: u16, dir: PathBuf) -> Outcome<Companion> {
    let slots = slots.to_string();
    let pairs =
        [("--nats", nats), ("--redis", redis), ("--blobs", blobs), ("--id", id), ("--max-parallel", &slots), ("--log", "warn")];
    let args = pairs.into_iter().flat_map(|(name, value)| [OsString::from(name), value.into()]).collect();
    Ok(Companion::start(CompanionOptions {
        program: "worker",
        binary: program("worker")?,
        args,
        env: None,
        dir,
        supervised: true,
    })?)
}

/// A program of ours: examples are built into a folder below the others.
pub(crate) fn program(name: &str) -> Outcome<PathBuf> {
    let own = std::env::current_exe()?.canonicalize()?;
    // The folder above first: an example of the SDK is called `worker`, too.
    let folders: Vec<_> = own.ancestors().skip(1).take(2).collect();
    let beside = folders.iter().rev().map(|folder| folder.join(name)).find(|path| path.is_file());
    beside.ok_or_else(|| format!("there is no program {name} beside {}; tools/bench builds it", own.display()).into())
}

async fn ready(companion: &Companion, file: &Path) -> Outcome<Endpoints> {
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        let told = fs::read(file).ok().and_then(|text| serde_json::from_slice::<Endpoints>(&text).ok());
        // A killed predecessor leaves its own behind.
        if let Some(endpoints) = told.filter(|told| companion.pid() == Some(told.pid)) {
            return Ok(endpoints);
        }
        if Instant::now() > deadline {
            let log = fs::read_to_string(companion.log_path()).unwrap_or_default();
            return Err(format!("busbar dev is not ready after {READY_WITHIN:?}; it said:\n{log}").into());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
