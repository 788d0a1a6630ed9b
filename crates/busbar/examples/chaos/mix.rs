//! The run: a cell, a load, faults by plan; then rest, and the verdict.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use busbar_bus::{BusConfig, NatsBus};
use busbar_protocol::busbar::{JobRecord, WorkersReply};
use busbar_protocol::ports::{Bus as _, Headers, Records as _};
use busbar_protocol::prost::Message as _;
use busbar_protocol::{keys, subjects};
use busbar_store::{Store, StoreConfig};
use bytes::Bytes;
use clap::Args;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::admit::Tenant;
use crate::cell::Cell;
use crate::chance::Chance;
use crate::ledger::Ledger;
use crate::load::{Load, on_the_bus, over_http};
use crate::verdict::{Executions, Verdict};
use crate::watch::{Jobs, Watch};
use crate::{Outcome, faults, say};

const TENANTS: [&str; 3] = ["alpha", "beta", "gamma"];
const LOOK_EVERY: Duration = Duration::from_millis(200);
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// How long the rest without faults may take to come; far more than it takes.
const REST_WITHIN: Duration = Duration::from_secs(240);

#[derive(Clone, Debug, Args)]
pub(crate) struct MixArgs {
    /// How long faults and load go on.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Fixes the faults and the kinds of jobs; without it, one is made up and printed.
    #[arg(long)]
    seed: Option<u64>,
    /// How many workers there are.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: u16,
    /// How many jobs each of them takes at once.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    slots: u16,
    /// Keep the folder with all logs.
    #[arg(long)]
    keep: bool,
}

/// Runs, prints the table, and says whether every promise was kept.
pub(crate) async fn run(args: &MixArgs) -> Outcome<bool> {
    let seed = args.seed.unwrap_or_else(made_up);
    let mut temp = tempfile::Builder::new().prefix("busbar-chaos-").tempdir()?;
    say(&format!("seed {seed}; logs in {}", temp.path().display()));
    let cell = Cell::start(temp.path(), args.workers, args.slots).await?;
    let verdict = break_and_count(&cell, args, seed).await;
    // Logs tell why.
    if args.keep || !verdict.as_ref().is_ok_and(Verdict::is_good) {
        temp.disable_cleanup(true);
        say(&format!("seed {seed}; logs are kept in {}", temp.path().display()));
    }
    let verdict = verdict?;
    write!(std::io::stdout().lock(), "{verdict}")?;
    Ok(verdict.is_good())
}

async fn break_and_count(cell: &Cell, args: &MixArgs, seed: u64) -> Outcome<Verdict> {
    let store = Store::connect(StoreConfig { client_name: "chaos".into(), ..StoreConfig::new(cell.redis()) }).await?;
    let bus = NatsBus::connect(BusConfig::new(cell.nats(), "chaos")).await?;
    // One more announces itself.
    until_online(&bus, args.workers + 1).await?;

    let (stop, stopping) = watch::channel(false);
    let load = Arc::new(Load { ledger: Ledger::default(), ended: AtomicU64::new(0), stop: stopping });
    let seen = Watch::default();
    let following = tokio::spawn(seen.clone().follow(store.clone(), Arc::clone(&load)));
    let mut submitters = JoinSet::new();
    for (number, name) in (10..).zip(TENANTS) {
        let tenant = Tenant::connect(&cell.nats(), &cell.redis(), name).await?;
        submitters.spawn(on_the_bus(Arc::clone(&load), tenant, Chance::new(seed, number)));
    }
    submitters.spawn(over_http(Arc::clone(&load), cell.http.clone(), Chance::new(seed, 2)));

    let plan = faults::plan(seed, args.seconds, &cell.targets());
    let started = Instant::now();
    let counts = faults::inflict(cell, &plan, started).await;
    tokio::time::sleep_until(started + Duration::from_secs(args.seconds)).await;
    stop.send_replace(true);
    say("the faults are over; what was begun is finished");
    while let Some(ended) = submitters.join_next().await {
        ended??;
    }
    let rested = Instant::now();
    let slots_taken = rest(&bus, &store, &load, &seen).await;
    say(&format!("rest after {:.1} s", rested.elapsed().as_secs_f64()));
    following.abort();

    let executions = Executions::read(&std::fs::read_to_string(&cell.file)?);
    let jobs = seen.jobs();
    let mut verdict = Verdict::new(seed, &load.ledger.lists(), &jobs, &executions, counts);
    verdict.slots_taken = slots_taken;
    verdict.untold = u64::from(!all_told(&store).await);
    for id in verdict.lost.iter().chain(&verdict.stuck).take(10) {
        say(&format!("{id}: {}", in_the_store(&store, id).await));
    }
    Ok(verdict)
}

/// Waits until nothing is under way, for as long as that may take; returns how many slots are still taken then.
async fn rest(bus: &NatsBus, store: &Store, load: &Load, seen: &Watch) -> u64 {
    let deadline = Instant::now() + REST_WITHIN;
    let mut slots_taken = 0;
    loop {
        if let Some(reply) = workers(bus).await {
            let live: u64 = reply.scheduler.map_or(1, |scheduler| scheduler.live.values().sum());
            slots_taken = reply.workers.iter().map(|worker| u64::from(worker.in_flight)).sum();
            if live == 0 && slots_taken == 0 && all_ended(load, &seen.jobs()) && all_told(store).await {
                return 0;
            }
        }
        if Instant::now() > deadline {
            return slots_taken;
        }
        sleep(LOOK_EVERY).await;
    }
}

fn all_ended(load: &Load, jobs: &Jobs) -> bool {
    let ended = |id: &String| jobs.get(id).is_some_and(|told| !told.ends.is_empty());
    load.ledger.lists().acknowledged.keys().all(ended)
}

/// Whether the relay has told all of the log.
async fn all_told(store: &Store) -> bool {
    let told = store.read(vec![keys::LOG_JOBS_RELAYED.to_owned()]).await;
    let told = told.ok().and_then(|mut read| read.pop().flatten()).map(|stored| stored.value);
    let end = store.log_end(keys::LOG_JOBS).await.ok().map(Bytes::from);
    told.is_some() && told == end
}

async fn until_online(bus: &NatsBus, count: u16) -> Outcome<()> {
    let deadline = Instant::now() + REST_WITHIN;
    loop {
        let online =
            workers(bus).await.map_or(0, |reply| reply.workers.iter().filter(|worker| worker.status == "online").count());
        if online >= usize::from(count) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("{online} of {count} workers are online").into());
        }
        sleep(LOOK_EVERY).await;
    }
}

/// What the active scheduler says of itself and of the workers.
async fn workers(bus: &NatsBus) -> Option<WorkersReply> {
    let told = bus.request(subjects::SCHEDULER_WORKERS, Headers::new(), Bytes::new(), ANSWER_WITHIN).await.ok()?;
    WorkersReply::decode(told.payload).ok().filter(|reply| reply.problem.is_none())
}

/// What the record of a job says: why it is stuck.
async fn in_the_store(store: &Store, job_id: &str) -> String {
    let read = store.read(vec![keys::job(job_id)]).await;
    match read.map(|mut found| found.pop().flatten()) {
        Ok(Some(stored)) => match JobRecord::decode(stored.value) {
            Ok(record) => format!("attempt {} of topic {}, {:?}", record.attempt, record.topic, record.state),
            Err(error) => error.to_string(),
        },
        Ok(None) => "there is no record".to_owned(),
        Err(error) => error.to_string(),
    }
}

fn made_up() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::from(now.subsec_nanos()) ^ (now.as_secs() << 20)
}
