//! Busbar's own turns: the same jobs through the SDK or the gateway of a `busbar dev`, on servers as durable as everybody else's.

use std::path::Path;
use std::time::{Duration, Instant};

use busbar_servers::{Durability, Stack, StackOptions};
use serde_json::{Value, json};

use super::turn::Bulk;
use crate::Outcome;
use crate::dev::{Dev, World};
use crate::document::Delivery;
use crate::http::Http;
use crate::usage::Process;
use crate::ways::Way;

const WITHIN: Duration = Duration::from_secs(180);

/// One way to run it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OurSetting {
    pub(crate) name: &'static str,
    pub(crate) says: &'static str,
    slots: u16,
    http: bool,
}

/// Three, as everybody has.
pub(crate) static SETTINGS: [OurSetting; 3] = [
    OurSetting {
        name: "SDK, 256 slots",
        says: "busbar dev, one worker with 256 slots, submit_many of the SDK",
        slots: 256,
        http: false,
    },
    OurSetting {
        name: "SDK, 1024 slots",
        says: "busbar dev, one worker with 1,024 slots, submit_many of the SDK",
        slots: 1024,
        http: false,
    },
    OurSetting {
        name: "HTTP, 256 slots",
        says: "busbar dev, one worker with 256 slots, batches of 2,000 over HTTP",
        slots: 256,
        http: true,
    },
];

impl OurSetting {
    pub(crate) fn told(&self) -> Value {
        json!({ "name": self.name, "says": self.says, "options": { "slots": self.slots, "http": self.http } })
    }
}

/// A running stack.
pub(crate) struct Ours {
    way: Way,
    world: World,
    processes: Vec<Process>,
    submitted: u64,
    /// How often each job that is no longer in the follower's memory was executed, as far as its ends tell.
    times: Vec<(String, u64)>,
    /// How many ends the follower shall have seen since it began.
    due: usize,
    dev: Dev,
    stack: Stack,
}

impl Ours {
    pub(crate) async fn start(setting: &OurSetting, dir: &Path, durability: Durability) -> Outcome<Self> {
        let servers = dir.join("servers");
        let options = StackOptions { durability, ..StackOptions::new(&servers) };
        let stack = tokio::task::spawn_blocking(move || Stack::start(&options)).await??;
        let dev = Dev::start_on(dir, 1, setting.slots, &stack, &servers).await?;
        let world = World::connect(&stack.nats.url(), &stack.redis.url()).await?;
        let way = if setting.http { Way::Http(Http::new(&dev.endpoints)) } else { Way::Sdk(dev.endpoints.client().await?) };
        let mut processes = vec![Process::own("client")];
        processes.extend(dev.processes()?);
        Ok(Self { way, world, processes, submitted: 0, times: Vec::new(), due: 0, dev, stack })
    }

    pub(crate) async fn bulk(&mut self, jobs: u64) -> Outcome<Bulk> {
        self.count_ends().await?;
        self.due = usize::try_from(jobs)?;
        self.submitted += jobs;
        let started = Instant::now();
        self.way.submit(self.due).await?;
        let submitted = Instant::now();
        let ends = self.world.follower.ends(self.due, WITHIN).await?;
        Ok(Bulk { jobs, started, submitted, ended: ends.last().copied().unwrap_or(submitted) })
    }

    pub(crate) async fn probe(&mut self, jobs: u64) -> Outcome<Vec<f64>> {
        let count = usize::try_from(jobs)?;
        self.due += count;
        self.submitted += jobs;
        self.way.probe(count).await
    }

    pub(crate) fn cpu_seconds(&self) -> Outcome<f64> {
        self.processes.iter().map(Process::cpu_seconds).sum()
    }

    pub(crate) async fn stop(mut self) -> Outcome<Delivery> {
        self.count_ends().await?;
        let Self { way, world, dev, stack, times, submitted, .. } = self;
        drop((way, world));
        dev.stop().await?;
        tokio::task::spawn_blocking(move || stack.stop()).await?;
        Ok(Delivery::of("committed ends by job, and the attempts that each took", submitted, times))
    }

    /// Takes note of the ends that were seen, once all that are due were.
    async fn count_ends(&mut self) -> Outcome<()> {
        self.world.follower.ends(self.due, WITHIN).await?;
        let ended = self.world.follower.ended().into_iter();
        self.times.extend(ended.map(|(job, attempts)| (job, u64::from(attempts.max(1)))));
        self.world.follower.begin();
        self.due = 0;
        Ok(())
    }
}
