//! The ceiling: what NATS, JetStream and Redis carry on this machine for a job, with no control plane at all. `docs/adr/0050-the-ceiling.md`
//! defines it; it changes only by a decision.
//!
//! ```text
//!  SET ─► request, reply ─► function call ─► function call ─► publish ─► publish to a stream, its word ─► function call ─► GET
//!
//!  ungrouped   512 jobs under way, each call carries one
//!  grouped     512 jobs under way, each call carries 256
//! ```

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use busbar_servers::{Durability, Stack, StackOptions};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde::Serialize;

use crate::Outcome;
use crate::usage::{Meter, Process};

pub(crate) mod beside;
mod reference;
mod steps;

pub(crate) use reference::Reference;
use steps::{JOB, Step, Steps};

/// How many jobs are under way.
const AT_ONCE: usize = 512;
/// So many jobs run before anything counts.
const WARM_UP: usize = 1_024;

/// How many jobs a call carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Grouping {
    Ungrouped,
    Grouped,
}

impl Grouping {
    pub(crate) const ALL: [Self; 2] = [Self::Ungrouped, Self::Grouped];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ungrouped => "ungrouped",
            Self::Grouped => "grouped",
        }
    }

    fn jobs_a_call(self) -> usize {
        match self {
            Self::Ungrouped => 1,
            Self::Grouped => 256,
        }
    }
}

/// One run.
#[derive(Debug, Serialize)]
pub(crate) struct CeilingRun {
    pub(crate) grouping: Grouping,
    pub(crate) jobs: usize,
    pub(crate) seconds: f64,
    pub(crate) jobs_per_second: f64,
    pub(crate) cpu_seconds: BTreeMap<&'static str, f64>,
}

/// Milliseconds, one call at a time: of each step, and of a job that takes them one after the other.
#[derive(Debug, Default, Serialize)]
pub(crate) struct CeilingIdle {
    pub(crate) job_ms: Vec<f64>,
    pub(crate) steps_ms: BTreeMap<&'static str, Vec<f64>>,
}

/// Servers of its own, and connections to them.
pub(crate) struct Ceiling {
    steps: Steps,
    processes: Vec<Process>,
    /// Every job has a number of its own.
    next: AtomicU64,
    stack: Stack,
}

impl Ceiling {
    /// Starts the servers, and warms them up.
    pub(crate) async fn start(dir: &Path, durability: Durability) -> Outcome<Self> {
        let options = StackOptions { durability, ..StackOptions::new(dir) };
        let stack = tokio::task::spawn_blocking(move || Stack::start(&options)).await??;
        let steps = Steps::connect(&stack.nats.url(), &stack.redis.url()).await?;
        let server = |name, pid: Option<u32>| pid.map(|pid| Process { name, pid }).ok_or_else(|| format!("{name} is gone"));
        let processes =
            vec![Process::own("client"), server("nats-server", stack.nats.pid())?, server("redis-server", stack.redis.pid())?];
        let ceiling = Self { steps, processes, next: AtomicU64::new(0), stack };
        for grouping in Grouping::ALL {
            ceiling.run(grouping, WARM_UP).await?;
        }
        Ok(ceiling)
    }

    /// Takes so many jobs through, rounded down to whole calls.
    pub(crate) async fn run(&self, grouping: Grouping, jobs: usize) -> Outcome<CeilingRun> {
        let size = grouping.jobs_a_call();
        let calls = (jobs / size).max(1);
        let jobs = calls * size;
        let first = self.next.fetch_add(jobs as u64, Ordering::Relaxed);
        let due = self.steps.heard() + calls as u64;
        let meter = Meter::start(&self.processes)?;
        let started = Instant::now();
        let group = |call: usize| {
            let from = first + (call * size) as u64;
            self.steps.jobs(from..from + size as u64)
        };
        stream::iter(0..calls).map(group).buffer_unordered(AT_ONCE / size).try_for_each(|()| async { Ok(()) }).await?;
        self.steps.until_heard(due).await?;
        let seconds = started.elapsed().as_secs_f64();
        let jobs_per_second = crate::jobs::per_second(jobs, seconds);
        Ok(CeilingRun { grouping, jobs, seconds, jobs_per_second, cpu_seconds: meter.stop()? })
    }

    /// Times so many jobs, one after the other.
    pub(crate) async fn idle(&self, probes: usize) -> Outcome<CeilingIdle> {
        let mut idle = CeilingIdle::default();
        for _ in 0..probes {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let begun = Instant::now();
            for step in JOB {
                let started = Instant::now();
                let due = self.steps.heard() + 1;
                self.steps.step(step, number..number + 1).await?;
                if step == Step::Publish {
                    self.steps.until_heard(due).await?;
                }
                idle.steps_ms.entry(step.name()).or_default().push(started.elapsed().as_secs_f64() * 1e3);
            }
            idle.job_ms.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        Ok(idle)
    }

    /// What `redis-benchmark` says of the same server; nothing if it is not installed.
    pub(crate) async fn reference(&self) -> Outcome<Vec<Reference>> {
        reference::measure(self.stack.redis.port()).await
    }

    pub(crate) async fn stop(self) -> Outcome<()> {
        let Self { steps, stack, .. } = self;
        drop(steps);
        Ok(tokio::task::spawn_blocking(move || stack.stop()).await?)
    }
}
