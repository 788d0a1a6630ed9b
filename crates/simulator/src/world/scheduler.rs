//! Two replicas of the real scheduler.

use busbar_scheduler::{Ports, SchedulerConfig, run};
use busbar_service::Telemetry;
use tokio::task::JoinSet;

use super::World;
use super::judge::ModelJudge;
use super::process::{Role, keep_running};
use crate::gate::{Gate, Gated};

/// What schedulers have in common.
pub(crate) const ROLE: Role = Role { name: "scheduler", crash_per_mille: 1 };
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
        judge: ModelJudge { world },
    };
    if let Err(error) = run(SchedulerConfig::new(name), ports, Telemetry::default(), std::future::pending()).await {
        tracing::error!(%error, "a scheduler ended");
    }
}
