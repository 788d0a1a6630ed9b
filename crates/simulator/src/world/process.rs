//! A process that holds one replica of a service: it crashes, freezes and comes back.

use std::future::Future;
use std::time::Duration;

use super::World;
use super::clock::ProcessClock;
use crate::gate::Gate;

/// What replicas have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Role {
    /// Its name, in crash points and in names of processes.
    pub name: &'static str,
    /// How many of a thousand effects are a crash, in every second process: the fewer effects a role has, the more.
    pub crash_per_mille: u32,
    /// Whether its clocks may be wrong.
    pub clock_jumps: bool,
}

/// Keeps one replica of a role going: `live` is what its process does, under a name of its own each time. It is started again
/// whenever it has died.
pub(crate) async fn keep_running<L>(world: World, role: Role, replica: usize, live: impl Fn(String, Gate, ProcessClock) -> L)
where
    L: Future<Output = ()> + Send + 'static,
{
    let mut start = 0;
    loop {
        start += 1;
        let name = format!("{}-{replica}-{start}", role.name);
        let gate = Gate::new(world.chaos.clone(), role.name, world.points.clone());
        if world.troubled() {
            gate.set_crashes(role.crash_per_mille * u32::from(world.chaos.chance(500)));
        }
        let clock = clock(&world, role);
        world.monitor.disturb();
        let mut process = tokio::task::JoinSet::new();
        process.spawn(live(name.clone(), gate.clone(), clock.clone()));
        tokio::select! {
            biased;
            () = gate.crashed() => world.ledger().faults += 1,
            () = peace(&world, role, &gate, &clock) => {}
            _ = process.join_next() => world.ledger().broken.push(format!("{name} gave up by itself")),
        }
        drop(process);
        world.monitor.disturb();
        world.bus.kill(&name);
        tokio::time::sleep(world.pause(Duration::from_secs(4))).await;
    }
}

fn count_freeze(world: &World, role: &'static str) {
    let mut ledger = world.ledger();
    ledger.faults += 1;
    *ledger.frozen.entry(role).or_default() += 1;
}

/// The clock of a new process: in some seeds it is wrong.
fn clock(world: &World, role: Role) -> ProcessClock {
    let most = if role.clock_jumps { world.jumps_ms } else { 0 };
    let ahead = i64::try_from(world.chaos.below(2 * most + 1)).unwrap_or(0) - i64::try_from(most).unwrap_or(0);
    world.ledger().jumps += u64::from(ahead != 0);
    ProcessClock::new(world.clock, ahead)
}

/// Freezes the process now and then while there is trouble, or lets its clock leap; afterwards lets it live for ever.
async fn peace(world: &World, role: Role, gate: &Gate, clock: &ProcessClock) {
    while world.troubled() {
        tokio::time::sleep(world.pause(Duration::from_secs(8))).await;
        if world.troubled() && role.clock_jumps && world.jumps_ms > 0 && world.chaos.chance(400) {
            clock.leap(world.chaos.below(world.jumps_ms), world.jumps_ms);
            let mut ledger = world.ledger();
            (ledger.faults, ledger.jumps) = (ledger.faults + 1, ledger.jumps + 1);
            world.monitor.disturb();
        }
        if world.troubled() && world.chaos.chance(300) {
            count_freeze(world, role.name);
            gate.freeze(true);
            tokio::time::sleep(world.pause(Duration::from_secs(6))).await;
            gate.freeze(false);
            world.monitor.disturb();
        }
    }
    gate.set_crashes(0);
    std::future::pending::<()>().await;
}
