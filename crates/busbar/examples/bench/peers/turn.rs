//! One turn: a contestant is started on a server of its own, warmed up, measured, and ended.

use std::path::Path;
use std::time::{Duration, Instant};

use busbar_servers::Durability;
use serde::Serialize;
use serde_json::Value;

use super::adapter::{self, Adapter};
use super::manifest::{Peer, Setting};
use super::ours::{OurSetting, Ours};
use super::record::Record;
use super::store::Store;
use super::tree;
use crate::Outcome;
use crate::document::Delivery;
use crate::jobs::per_second;

const WITHIN: Duration = Duration::from_secs(180);
/// The first jobs wait until the workers are there; the next ones tell how many make a measurement of the wanted length.
const WARM_UP: u64 = 100;
const RATED: u64 = 300;
const JOBS_MIN: u64 = 500;
/// The same for jobs one by one.
const PROBES_RATED: u64 = 5;
const PROBES_MIN: u64 = 10;

/// How long and how large a measurement shall be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) seconds: f64,
    pub(crate) jobs_max: u64,
    pub(crate) probes_max: u64,
    pub(crate) durability: Durability,
}

/// Who takes part.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Contestant<'a> {
    Busbar(&'a OurSetting),
    Peer(&'a Peer, &'a Setting),
}

/// A portion of jobs that were submitted together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bulk {
    pub(crate) jobs: u64,
    pub(crate) started: Instant,
    pub(crate) submitted: Instant,
    pub(crate) ended: Instant,
}

/// What a turn has shown.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Turn {
    pub(crate) of: String,
    pub(crate) setting: String,
    pub(crate) round: u64,
    pub(crate) versions: String,
    pub(crate) jobs: u64,
    pub(crate) submit_seconds: f64,
    pub(crate) seconds: f64,
    pub(crate) jobs_per_second: f64,
    /// Of all processes: client, workers, servers.
    pub(crate) cpu_us_per_job: f64,
    /// From submission to the result, one job at a time.
    pub(crate) idle_ms: Vec<f64>,
    pub(crate) delivery: Delivery,
}

impl Contestant<'_> {
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Busbar(_) => "Busbar",
            Self::Peer(peer, _) => &peer.manifest.name,
        }
    }

    pub(crate) fn setting(&self) -> &str {
        match self {
            Self::Busbar(setting) => setting.name,
            Self::Peer(_, setting) => &setting.name,
        }
    }

    pub(crate) fn told(&self) -> Value {
        match self {
            Self::Busbar(setting) => setting.told(),
            Self::Peer(_, setting) => adapter::told(setting),
        }
    }

    /// Runs one turn in a folder of its own.
    pub(crate) async fn turn(&self, plan: &Plan, round: u64, dir: &Path) -> Outcome<Turn> {
        let mut running = Running::start(self, plan.durability, dir).await?;
        let versions = running.versions();
        running.bulk(WARM_UP).await?;
        let rated = running.bulk(RATED).await?;
        let jobs = within(rated.jobs as f64 / seconds(rated.started, rated.ended), plan.seconds, JOBS_MIN, plan.jobs_max);
        let before = running.cpu_seconds()?;
        let bulk = running.bulk(jobs).await?;
        let used = running.cpu_seconds()? - before;
        let rated = Instant::now();
        running.probe(PROBES_RATED.min(plan.probes_max)).await?;
        let rate = PROBES_RATED as f64 / seconds(rated, Instant::now());
        let idle_ms = running.probe(within(rate, plan.seconds, PROBES_MIN.min(plan.probes_max), plan.probes_max)).await?;
        let delivery = running.stop().await?;
        let seconds = seconds(bulk.started, bulk.ended);
        Ok(Turn {
            of: self.name().to_owned(),
            setting: self.setting().to_owned(),
            round,
            versions,
            jobs,
            submit_seconds: (bulk.submitted - bulk.started).as_secs_f64(),
            seconds,
            jobs_per_second: per_second(usize::try_from(jobs)?, seconds),
            cpu_us_per_job: 1e6 * used / jobs as f64,
            idle_ms,
            delivery,
        })
    }
}

fn seconds(from: Instant, to: Instant) -> f64 {
    (to - from).as_secs_f64().max(1e-6)
}

/// As many as fit into so many seconds at a rate, between bounds.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive number that is bounded right away")]
fn within(rate: f64, seconds: f64, min: u64, max: u64) -> u64 {
    ((rate * seconds) as u64).clamp(min.min(max), max)
}

/// A contestant that runs.
enum Running {
    Ours(Box<Ours>),
    Theirs(Box<Theirs>),
}

/// A peer that runs.
struct Theirs {
    adapter: Adapter,
    store: Store,
    record: Record,
    submitted: u64,
}

impl Running {
    async fn start(contestant: &Contestant<'_>, durability: Durability, dir: &Path) -> Outcome<Self> {
        match contestant {
            Contestant::Busbar(setting) => Ok(Self::Ours(Box::new(Ours::start(setting, dir, durability).await?))),
            Contestant::Peer(peer, setting) => Ok(Self::Theirs(Box::new(Theirs::start(peer, setting, dir, durability).await?))),
        }
    }

    fn versions(&self) -> String {
        match self {
            Self::Ours(_) => format!("busbar {}", env!("CARGO_PKG_VERSION")),
            Self::Theirs(theirs) => theirs.adapter.says.clone(),
        }
    }

    async fn bulk(&mut self, jobs: u64) -> Outcome<Bulk> {
        match self {
            Self::Ours(ours) => ours.bulk(jobs).await,
            Self::Theirs(theirs) => theirs.bulk(jobs).await,
        }
    }

    async fn probe(&mut self, jobs: u64) -> Outcome<Vec<f64>> {
        match self {
            Self::Ours(ours) => ours.probe(jobs).await,
            Self::Theirs(theirs) => theirs.probe(jobs).await,
        }
    }

    fn cpu_seconds(&self) -> Outcome<f64> {
        match self {
            Self::Ours(ours) => ours.cpu_seconds(),
            Self::Theirs(theirs) => {
                let roots: Vec<u32> = std::iter::once(theirs.adapter.pid()).chain(theirs.store.pid()).collect();
                tree::cpu_seconds(&roots)
            }
        }
    }

    async fn stop(self) -> Outcome<Delivery> {
        match self {
            Self::Ours(ours) => ours.stop().await,
            Self::Theirs(theirs) => theirs.stop().await,
        }
    }
}

impl Theirs {
    async fn start(peer: &Peer, setting: &Setting, dir: &Path, durability: Durability) -> Outcome<Self> {
        let record = Record::new(dir.join("done"))?;
        let store = Store::start(peer.manifest.store, dir, durability, &peer.folder.with_file_name("lib")).await?;
        let adapter = Adapter::start(peer, setting, dir, store.address()).await?;
        Ok(Self { adapter, store, record, submitted: 0 })
    }

    async fn bulk(&mut self, jobs: u64) -> Outcome<Bulk> {
        let first = self.submitted;
        self.submitted += jobs;
        let started = Instant::now();
        self.adapter.submit(first, jobs).await?;
        let submitted = Instant::now();
        let ended = self.record.until(self.submitted, WITHIN).await?;
        Ok(Bulk { jobs, started, submitted, ended })
    }

    async fn probe(&mut self, jobs: u64) -> Outcome<Vec<f64>> {
        let first = self.submitted;
        self.submitted += jobs;
        self.adapter.probe(first, jobs).await
    }

    async fn stop(self) -> Outcome<Delivery> {
        let Self { adapter, store, mut record, submitted } = self;
        adapter.stop().await?;
        store.stop().await?;
        record.look()?;
        Ok(record.delivery(submitted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_is_as_long_as_wanted_within_bounds() {
        assert_eq!(within(1000.0, 5.0, 500, 20_000), 5000);
        assert_eq!(within(1.0, 5.0, 500, 20_000), 500);
        assert_eq!(within(1e9, 5.0, 500, 20_000), 20_000);
        assert_eq!(within(1.0, 5.0, 500, 50), 50);
    }
}
