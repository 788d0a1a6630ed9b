//! The simulated world: real schedulers and, for some seeds, workflow engines; model workers, clients, a model kernel; faults
//! for a while, then peace, then judgement.

mod client;
mod clock;
mod engine;
mod invariants;
mod judge;
mod monitor;
mod operator;
mod process;
mod rules;
mod run_invariants;
mod scheduler;
mod starter;
mod vandal;
mod worker;
mod workflows;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use busbar_protocol::busbar::{QuorumSecret, RunState, TopicDocuments};
use busbar_protocol::cap::JobStatus;
use busbar_protocol::keys;
use busbar_protocol::ports::{CommitClass, CommitId, Guard, Records as _, Unit, Write};
use busbar_protocol::prost::Message as _;
use busbar_protocol::time::Timestamp;
use busbar_scheduler::core::job::Job;
use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::chaos::Chaos;
use crate::gate::CrashPoints;
use crate::model_bus::{BusFaults, ModelBus};
use crate::model_store::{ModelStore, StoreFaults};
use crate::plant::Plant;
use monitor::Monitor;

pub use clock::SimClock;
pub use invariants::EXPECTED;
pub use run_invariants::EXPECTED as EXPECTED_OF_RUNS;

/// The time at which every simulation begins.
pub const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// How long faults go on, in virtual time.
const TROUBLE: Duration = Duration::from_secs(12);

/// How long the world has afterwards to come to rest, in virtual time.
const PEACE: Duration = Duration::from_secs(30 * 60);

/// One seed of so many has processes whose clocks are wrong and jump.
const JUMPS_EVERY: u64 = 10;

/// By how much clocks are wrong, in milliseconds: one of these.
const JUMPS_MS: [u64; 3] = [3_000, 60_000, 3_600_000];

/// A seed with faults has at least so many events and faults, or it proves nothing.
const EVENTS_MIN: u64 = 200;
const FAULTS_MIN: u64 = 3;

/// One seed of so many has workflow engines and runs beside everything else.
const RUNS_EVERY: u64 = 7;

/// One seed of so many has schedulers with room for all their jobs in memory.
const ROOMY_EVERY: u64 = 3;

/// What one simulation did.
#[derive(Clone, Debug, Default)]
pub struct Story {
    /// Messages and commits.
    pub events: u64,
    /// Faults that happened.
    pub faults: u64,
    /// Seeds that were calm.
    pub calm: u64,
    /// The fewest events and the fewest faults of a seed that was not.
    pub least: Option<(u64, u64)>,
    /// Messages that arrived after one that was sent later.
    pub reordered: u64,
    /// Times that a connection was cut.
    pub disconnects: u64,
    /// Times that a process was frozen.
    pub freezes: u64,
    /// Clocks that were wrong or jumped.
    pub jumps: u64,
    /// Jobs that were acknowledged.
    pub jobs: usize,
    /// Runs that were acknowledged.
    pub runs: usize,
    /// Changes of state that were committed, as `from>to`, with their number.
    pub transitions: BTreeMap<String, u64>,
    /// Where schedulers and engines crashed.
    pub crash_points: CrashPoints,
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The seed that shows it.
    pub seed: u64,
    /// The fault that was planted.
    pub plant: Option<Plant>,
    /// What is wrong.
    pub what: Vec<String>,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {} breaks a promise:", self.seed)?;
        for line in &self.what {
            writeln!(f, "  - {line}")?;
        }
        write!(f, "run it again with: tools/simulate --seeds 1 --from {}", self.seed)?;
        self.plant.map_or(Ok(()), |plant| write!(f, " --plant {}", plant.name()))
    }
}

/// What the world remembers to judge itself by.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Jobs whose submission was acknowledged, by the id that the sender was told.
    pub acknowledged: BTreeSet<String>,
    /// Executions by native workers: job, attempt, start of the worker's process.
    pub executed: BTreeMap<(String, u32, String), u32>,
    /// What native workers have said of attempts.
    pub reported: BTreeMap<(String, u32), BTreeSet<JobStatus>>,
    /// What native workers gave of attempts that succeeded.
    pub outputs: BTreeMap<(String, u32), BTreeSet<Bytes>>,
    /// What jobs were submitted with.
    pub inputs: BTreeMap<String, Bytes>,
    /// Jobs whose workers must not see what they were submitted with.
    pub secret: BTreeSet<String>,
    /// Which jobs were told for an idempotency key.
    pub keyed_jobs: BTreeMap<String, BTreeSet<String>>,
    /// Which jobs were told for a dead letter that was tried again.
    pub redriven: BTreeMap<String, BTreeSet<String>>,
    /// Attempts that native workers held when they were killed, by job.
    pub held_at_kill: BTreeMap<String, u32>,
    /// What went wrong while it ran.
    pub broken: Vec<String>,
    /// How often a process of a role was stopped and went on later.
    pub frozen: BTreeMap<&'static str, u32>,
    /// Runs whose start was acknowledged, by the id that the client was told.
    pub started: BTreeSet<String>,
    /// Which runs were told for an idempotency key.
    pub keyed: BTreeMap<String, BTreeSet<String>>,
    /// Cursors of what was told of runs.
    pub told: BTreeSet<String>,
    /// Runs whose cancellation was acknowledged, and the state that was told.
    pub cancelled: BTreeMap<String, RunState>,
    /// Faults that the world itself did.
    pub faults: u64,
    /// Times that a connection was cut.
    pub disconnects: u64,
    /// Clocks that were wrong or jumped.
    pub jumps: u64,
    /// There were no faults of bus and store.
    pub calm: bool,
}

/// What everything in the world shares.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub chaos: Chaos,
    pub bus: ModelBus,
    pub store: ModelStore,
    pub clock: SimClock,
    pub monitor: Monitor,
    /// The fault that was planted.
    pub plant: Option<Plant>,
    /// By how much clocks of processes are wrong at most, in milliseconds.
    pub jumps_ms: u64,
    /// Whether there are workflow engines and runs.
    pub with_runs: bool,
    /// Whether schedulers have room for few jobs in memory and read a few at a time.
    pub cramped: bool,
    pub points: Arc<Mutex<CrashPoints>>,
    ledger: Arc<Mutex<Ledger>>,
    trouble: Arc<tokio::sync::watch::Sender<bool>>,
}

impl World {
    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A promise was broken while it ran.
    pub(crate) fn breaks(&self, what: String) {
        self.ledger().broken.push(what);
    }

    /// A job as its last commit has left it.
    pub(crate) fn job(&self, job_id: &str) -> Option<Job> {
        self.monitor.job(job_id)
    }

    /// Whether faults happen now.
    pub(crate) fn troubled(&self) -> bool {
        *self.trouble.borrow()
    }

    /// A time between zero and `most`.
    pub(crate) fn pause(&self, most: Duration) -> Duration {
        Duration::from_millis(self.chaos.below(u64::try_from(most.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// Runs one seed, with a planted fault or without.
///
/// # Errors
/// [`Broken`] when a promise does not hold.
///
/// # Panics
/// When the runtime cannot be made.
pub fn simulate(seed: u64, plant: Option<Plant>) -> Result<Story, Broken> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O needs nothing from the system");
    let outcome = runtime.block_on(run(seed, plant));
    outcome.map_err(|what| Broken { seed, plant, what })
}

async fn run(seed: u64, plant: Option<Plant>) -> Result<Story, Vec<String>> {
    let world = make(seed, plant).await;
    let mut tasks = JoinSet::new();
    scheduler::spawn(&world, &mut tasks);
    worker::spawn(&world, &mut tasks);
    tasks.spawn(vandal::rage(world.clone()));
    tasks.spawn(trouble(world.clone()));
    let mut clients = client::spawn(&world);
    clients.spawn(operator::hold(world.clone()));
    for number in 0..2 {
        clients.spawn(operator::redrive(world.clone(), number));
    }
    if world.with_runs {
        engine::spawn(&world, &mut tasks);
        tasks.spawn(starter::listen(world.clone()));
        starter::spawn(&world, &mut clients);
    }

    // What a process has put off whose clock was ahead, another one does whose clock is behind.
    let end = Instant::now() + TROUBLE + PEACE + 2 * Duration::from_millis(world.jumps_ms);
    while tokio::time::timeout_at(end, clients.join_next()).await.is_ok_and(|joined| joined.is_some()) {}
    let rested = invariants::come_to_rest(&world, end).await;
    let mut broken = std::mem::take(&mut world.ledger().broken);
    broken.extend(world.monitor.take_broken());
    if let Err(why) = rested {
        broken.push(why);
    }
    let mut story = Story::default();
    invariants::judge(&world, &mut story, &mut broken);
    run_invariants::judge(&world, &mut story, &mut broken);
    if story.calm == 0 && (story.events < EVENTS_MIN || story.faults < FAULTS_MIN) {
        broken.push(format!("it saw only {} events and {} faults", story.events, story.faults));
    }
    tasks.abort_all();
    if broken.is_empty() { Ok(story) } else { Err(broken) }
}

async fn make(seed: u64, plant: Option<Plant>) -> World {
    let chaos = Chaos::new(seed);
    let store = ModelStore::new(chaos.clone(), START);
    let topics = TopicDocuments { version: 1, topics: rules::topics() }.encode_to_vec();
    // The same world must draw the same.
    let secret = QuorumSecret { version: 1, secret: vec![7; 32].into() }.encode_to_vec();
    let limits = rules::limits().encode_to_vec();
    for (number, key, value) in [(1, keys::TOPICS, topics), (2, keys::LIMITS, limits), (3, keys::QUORUM_SECRET, secret)] {
        let key = key.to_owned();
        let put = Write::Put { key: key.clone(), revision: 1, value: value.into(), expire: None };
        let unit = Unit { id: CommitId::of_term(0, 0, number), guards: vec![Guard::Absent { key }], writes: vec![put] };
        store.commit(CommitClass::Admit, vec![unit]).await.expect("there are no faults yet");
    }
    let bus = ModelBus::new(chaos.clone());
    let jumps_ms = if chaos.below(JUMPS_EVERY) == 0 { JUMPS_MS[index(chaos.below(3))] } else { 0 };
    let monitor = Monitor::new(rules::limits(), jumps_ms == 0);
    store.watch(Arc::new(monitor.clone()));
    bus.watch(Arc::new(monitor.clone()));
    World {
        bus,
        store,
        chaos,
        clock: SimClock::start(),
        monitor,
        plant,
        jumps_ms,
        with_runs: seed.is_multiple_of(RUNS_EVERY),
        cramped: !seed.is_multiple_of(ROOMY_EVERY),
        points: Arc::default(),
        ledger: Arc::default(),
        trouble: Arc::new(tokio::sync::watch::channel(true).0),
    }
}

/// Faults until peace begins: some seeds are calm, most are not.
async fn trouble(world: World) {
    let calm = world.chaos.chance(50);
    world.ledger().calm = calm;
    if !calm {
        world.bus.set_faults(BusFaults {
            drop_per_mille: pick(&world, &[0, 5, 50, 200]),
            duplicate_per_mille: pick(&world, &[0, 20, 100]),
            delay_ms_max: u64::from(pick(&world, &[0, 5, 50, 400])),
            lose_ack_per_mille: pick(&world, &[0, 50]),
            forget_id_per_mille: pick(&world, &[0, 50]),
            refuse_durable_per_mille: pick(&world, &[0, 50]),
        });
        world.store.set_faults(StoreFaults {
            unavailable_before_per_mille: pick(&world, &[0, 10, 50]),
            unavailable_after_per_mille: pick(&world, &[0, 10, 50]),
            delay_ms_max: u64::from(pick(&world, &[0, 2, 20])),
            memory_short: false,
        });
    }
    let end = Instant::now() + TROUBLE;
    // Where bus and store are kind and the blows rare, trouble lasts until there were enough of them.
    while !calm && (Instant::now() < end || faults(&world) < FAULTS_MIN) {
        tokio::time::sleep(world.pause(Duration::from_secs(6))).await;
        strike(&world).await;
    }
    tokio::time::sleep_until(end).await;
    world.trouble.send_replace(false);
    world.bus.set_faults(BusFaults::default());
    world.store.set_faults(StoreFaults::default());
    world.store.outage(false);
    world.bus.reconnect_all();
}

/// How many faults there were so far.
fn faults(world: &World) -> u64 {
    let counters = world.bus.counters();
    world.ledger().faults + counters.dropped + counters.duplicated + counters.acks_lost
}

/// One large fault.
async fn strike(world: &World) {
    world.ledger().faults += 1;
    world.monitor.disturb();
    let length = world.pause(Duration::from_secs(4));
    match world.chaos.below(5) {
        0 => {
            world.store.outage(true);
            tokio::time::sleep(length).await;
            world.store.outage(false);
        }
        1 => {
            world.ledger().disconnects += 1;
            world.bus.disconnect_all();
            tokio::time::sleep(length).await;
            world.bus.reconnect_all();
        }
        2 => {
            let faults = world.store.faults();
            world.store.set_faults(StoreFaults { memory_short: true, ..faults });
            tokio::time::sleep(length).await;
            world.store.set_faults(faults);
        }
        which => {
            let name = if which == 3 { "native-0" } else { "native-1" };
            world.ledger().disconnects += 1;
            world.bus.disconnect(name);
            tokio::time::sleep(length).await;
            world.bus.reconnect(name);
        }
    }
    world.monitor.disturb();
}

fn pick(world: &World, choices: &[u32]) -> u32 {
    choices[index(world.chaos.below(choices.len() as u64))]
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(0)
}
