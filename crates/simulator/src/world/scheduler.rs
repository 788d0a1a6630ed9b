//! Two replicas of the real scheduler, each in a process that crashes, freezes and comes back.

use std::time::Duration;

use busbar_scheduler::{Ports, SchedulerConfig, run};
use tokio::task::JoinSet;

use super::World;
use super::judge::ModelJudge;
use crate::gate::{Gate, Gated};

const REPLICAS: usize = 2;

/// Starts the replicas.
pub(crate) fn spawn(world: &World, tasks: &mut JoinSet<()>) {
    for replica in 0..REPLICAS {
        tasks.spawn(keep_running(world.clone(), replica));
    }
}

/// One replica, started again whenever it has died.
async fn keep_running(world: World, replica: usize) {
    let mut start = 0;
    loop {
        start += 1;
        let name = format!("scheduler-{replica}-{start}");
        let gate = Gate::new(world.chaos.clone(), world.points.clone());
        if world.troubled() {
            gate.set_crashes(u32::from(world.chaos.chance(500)));
        }
        let mut process = JoinSet::new();
        process.spawn(live(world.clone(), name.clone(), gate.clone()));
        tokio::select! {
            biased;
            () = gate.crashed() => world.ledger().faults += 1,
            () = peace(&world, &gate) => {}
            _ = process.join_next() => world.ledger().broken.push(format!("{name} gave up by itself")),
        }
        drop(process);
        world.bus.kill(&name);
        tokio::time::sleep(world.pause(Duration::from_secs(4))).await;
    }
}

async fn live(world: World, name: String, gate: Gate) {
    let ports = Ports {
        bus: Gated::new(world.bus.client(&name), gate.clone()),
        records: Gated::new(world.store.clone(), gate),
        clock: world.clock,
        judge: ModelJudge { world },
    };
    if let Err(error) = run(SchedulerConfig::new(name), ports, std::future::pending()).await {
        tracing::error!(%error, "a scheduler ended");
    }
}

fn count_freeze(world: &World) {
    let mut ledger = world.ledger();
    ledger.faults += 1;
    ledger.frozen += 1;
}

/// Freezes the process now and then while there is trouble; afterwards lets it live for ever.
async fn peace(world: &World, gate: &Gate) {
    while world.troubled() {
        tokio::time::sleep(world.pause(Duration::from_secs(8))).await;
        if world.troubled() && world.chaos.chance(300) {
            count_freeze(world);
            gate.freeze(true);
            tokio::time::sleep(world.pause(Duration::from_secs(6))).await;
            gate.freeze(false);
        }
    }
    gate.set_crashes(0);
    std::future::pending::<()>().await;
}
