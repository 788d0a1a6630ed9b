//! The workflow engine.

use std::time::Duration;

use busbar_protocol::ports::Records as _;
use busbar_service::TaskSet;
use busbar_service::clock::SystemClock;
use busbar_service::telemetry::Connections;
use busbar_workflow_engine::{EngineConfig, Ports};

use super::{Kit, Watched, World, owner, start_health};
use crate::config::Config;
use crate::failure::Failure;

pub(super) const ROLE: &str = "workflow-engine";

/// Connects and starts a replica.
pub(crate) async fn start(tasks: &mut TaskSet, config: &Config, kit: Kit) -> Result<(), Failure> {
    let world = World::connect(config, ROLE).await?;
    // Leases, backoffs and deadlines are measured against what the store says.
    let clock = SystemClock::anchored(world.store.time().await?);
    let ports = Ports { bus: world.bus.clone(), records: world.store.clone(), clock };
    let shutdown = kit.shutdown.clone();
    let telemetry = kit.telemetry.clone();
    let connections = Connections::register(&kit.telemetry.metrics, "engine");
    let watched = Watched { role: ROLE, connections, fill: None };
    start_health(tasks, watched, config, kit, world).await?;
    let config = settings(config);
    tasks.spawn(ROLE, async move {
        busbar_workflow_engine::run(config, ports, telemetry, async move { shutdown.triggered().await }).await
    });
    Ok(())
}

fn settings(config: &Config) -> EngineConfig {
    let section = &config.workflow_engine;
    EngineConfig {
        lease_ttl: Duration::from_millis(section.lease_ttl_ms),
        lease_poll: Duration::from_millis(section.lease_poll_ms),
        live_runs_max: section.live_runs_max,
        ..EngineConfig::new(owner())
    }
}
