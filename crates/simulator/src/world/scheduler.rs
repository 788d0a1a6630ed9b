//! Two replicas of the real scheduler.

use busbar_scheduler::core::queue::WholeRoom;
use busbar_scheduler::{Ports, SchedulerConfig, run};
use busbar_service::Telemetry;
use tokio::task::JoinSet;

use super::World;
use super::clock::ProcessClock;
use super::judge::ModelJudge;
use super::process::{Role, keep_running};
use crate::gate::{Gate, Gated};
use crate::sabotage::{Sabotaged, Saboteur};

/// What schedulers have in common.
const ROLE: Role = Role { name: "scheduler", crash_per_mille: 1, clock_jumps: true };
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
    let saboteur = Saboteur::new(world.plant.filter(|plant| !plant.is_of_engine()));
    let ports = Ports {
        bus: Sabotaged::new(Gated::new(world.bus.client(&name), gate.clone()), saboteur.clone()),
        records: Sabotaged::new(Gated::new(world.store.connect(), gate), saboteur),
        clock,
        judge: ModelJudge { world: world.clone() },
    };
    let mut config = SchedulerConfig::new(name);
    config.follows_from = 2;
    if world.cramped {
        config.settings.whole = WholeRoom { cell: 3, lane: 2 };
        (config.load_page, config.load_first) = (3, 1);
    }
    if let Err(error) = run(config, ports, Telemetry::default(), std::future::pending()).await {
        tracing::error!(%error, "a scheduler ended");
    }
}
