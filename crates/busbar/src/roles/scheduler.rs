//! The scheduler.

use std::path::PathBuf;
use std::time::Duration;

use busbar_protocol::busbar::CheckBatchResponse;
use busbar_protocol::ports::{Judge, JudgeError, Question, Records as _};
use busbar_protocol::signing::{KeyError, PrivateKey};
use busbar_rpc::{KernelClient, KernelClientOptions};
use busbar_safety_kernel::LocalKernel;
use busbar_scheduler::core::cell::Settings;
use busbar_scheduler::core::commit::Retention;
use busbar_scheduler::{Ports, SchedulerConfig, TrustMode, Voice};
use busbar_service::TaskSet;
use busbar_service::clock::SystemClock;
use busbar_service::telemetry::Connections;

use super::look::Fill;
use super::{Kit, Watched, World, owner, start_health};
use crate::config::{Config, Demand};
use crate::failure::Failure;

pub(super) const ROLE: &str = "scheduler";

/// The safety kernel that a scheduler asks.
#[derive(Clone, Debug)]
pub(crate) enum Kernel {
    /// In a process of its own.
    Remote(KernelClient),
    /// In this process.
    Local(LocalKernel),
}

impl Kernel {
    /// The one that the configuration names.
    pub(crate) fn remote(config: &Config) -> Result<Self, Failure> {
        let client = KernelClient::new(&config.safety_kernel.addr, KernelClientOptions::default());
        client.map(Self::Remote).map_err(Failure::start("the scheduler"))
    }
}

impl Judge for Kernel {
    async fn check(&self, questions: Vec<Question>) -> Result<CheckBatchResponse, JudgeError> {
        match self {
            Self::Remote(kernel) => kernel.check(questions).await,
            Self::Local(kernel) => kernel.check(questions).await,
        }
    }
}

/// Connects and starts a replica.
pub(crate) async fn start(tasks: &mut TaskSet, config: &Config, kit: Kit, judge: Kernel) -> Result<(), Failure> {
    let world = World::connect(config, ROLE).await?;
    // Leases, backoffs and deadlines are measured against what the store says.
    let clock = SystemClock::anchored(world.store.time().await?);
    let ports = Ports { bus: world.bus.clone(), records: world.store.clone(), clock, judge };
    let shutdown = kit.shutdown.clone();
    let telemetry = kit.telemetry.clone();
    let metrics = &telemetry.metrics;
    let watched =
        Watched { role: ROLE, connections: Connections::register(metrics, ROLE), fill: Some(Fill::register(metrics, ROLE)) };
    start_health(tasks, watched, config, kit, world).await?;
    let config = SchedulerConfig { voice: voice(config)?, ..settings(config) };
    tasks.spawn(
        ROLE,
        async move { busbar_scheduler::run(config, ports, telemetry, async move { shutdown.triggered().await }).await },
    );
    Ok(())
}

/// Why the key that signs cannot be used.
#[derive(Debug, thiserror::Error)]
enum SigningKeyError {
    #[error("scheduler.signing_key_file {} cannot be read", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("scheduler.signing_key_file {} holds no key", path.display())]
    Key {
        path: PathBuf,
        #[source]
        source: KeyError,
    },
}

fn voice(config: &Config) -> Result<Voice, Failure> {
    let Some(path) = &config.scheduler.signing_key_file else { return Ok(Voice::default()) };
    let failed = Failure::start("the scheduler");
    let key = std::fs::read_to_string(path).map_err(|source| SigningKeyError::Read { path: path.clone(), source });
    let key =
        key.and_then(|text| PrivateKey::from_pem(&text).map_err(|source| SigningKeyError::Key { path: path.clone(), source }));
    key.map(|key| Voice::signing(config.scheduler.signing_key_id.clone(), key)).map_err(failed)
}

const fn mode(demand: Demand) -> TrustMode {
    match demand {
        Demand::Off => TrustMode::Off,
        Demand::Warn => TrustMode::Warn,
        Demand::Enforce => TrustMode::Enforce,
    }
}

fn settings(config: &Config) -> SchedulerConfig {
    let section = &config.scheduler;
    let defaults = SchedulerConfig::new(owner());
    let retention = Retention {
        jobs: Duration::from_secs(section.job_ttl_seconds),
        results: Duration::from_secs(section.result_ttl_seconds),
        dead_letters: Duration::from_secs(section.dead_letter_ttl_seconds),
        log_entries: section.log_entries_max,
        ..defaults.settings.retention
    };
    SchedulerConfig {
        lease_ttl: Duration::from_millis(section.lease_ttl_ms),
        lease_poll: Duration::from_millis(section.lease_poll_ms),
        live_jobs_max: section.live_jobs_max,
        inline_bytes_max: section.inline_bytes_max,
        worker_trust: mode(section.worker_trust),
        signatures: mode(section.signatures),
        settings: Settings { retention, ..defaults.settings },
        ..defaults
    }
}
