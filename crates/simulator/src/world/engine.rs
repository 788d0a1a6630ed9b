//! Two replicas of the real workflow engine.

use busbar_service::Telemetry;
use busbar_workflow_engine::{EngineConfig, Ports, run};
use tokio::task::JoinSet;

use super::World;
use super::clock::ProcessClock;
use super::process::{Role, keep_running};
use crate::gate::{Gate, Gated};
use crate::sabotage::{Sabotaged, Saboteur};

const ROLE: Role = Role { name: "engine", crash_per_mille: 3, clock_jumps: false };
const REPLICAS: usize = 2;

/// Starts the replicas.
pub(crate) fn spawn(world: &World, tasks: &mut JoinSet<()>) {
    for replica in 0..REPLICAS {
        let world = world.clone();
        tasks.spawn(async move {
            keep_running(world.clone(), ROLE, replica, |name, gate, clock| live(world.clone(), name, gate, clock)).await;
        });
    }
}

async fn live(world: World, name: String, gate: Gate, clock: ProcessClock) {
    let saboteur = Saboteur::new(world.plant.filter(|plant| plant.is_of_engine()));
    let ports = Ports {
        bus: Sabotaged::new(Gated::new(world.bus.client(&name), gate.clone()), saboteur.clone()),
        records: Sabotaged::new(Gated::new(world.store.connect(), gate), saboteur),
        clock,
    };
    if let Err(error) = run(EngineConfig::new(name), ports, Telemetry::default(), std::future::pending()).await {
        tracing::error!(%error, "an engine ended");
    }
}
