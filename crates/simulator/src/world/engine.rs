//! Two replicas of the real workflow engine.

use busbar_service::Telemetry;
use busbar_workflow_engine::{EngineConfig, Ports, run};
use tokio::task::JoinSet;

use super::World;
use super::process::{Role, keep_running};
use crate::gate::{Gate, Gated};

const ROLE: Role = Role { name: "engine", crash_per_mille: 3 };
const REPLICAS: usize = 2;

/// Starts the replicas.
pub(crate) fn spawn(world: &World, tasks: &mut JoinSet<()>) {
    for replica in 0..REPLICAS {
        let world = world.clone();
        tasks
            .spawn(async move { keep_running(world.clone(), ROLE, replica, |name, gate| live(world.clone(), name, gate)).await });
    }
}

async fn live(world: World, name: String, gate: Gate) {
    let ports = Ports {
        bus: Gated::new(world.bus.client(&name), gate.clone()),
        records: Gated::new(world.store.clone(), gate),
        clock: world.clock,
    };
    if let Err(error) = run(EngineConfig::new(name), ports, Telemetry::default(), std::future::pending()).await {
        tracing::error!(%error, "an engine ended");
    }
}
