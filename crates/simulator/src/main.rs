//! `tools/simulate --seeds N [--from S]`: runs many seeds, on every core, and says what they covered. `--plant NAME` and `--plants`
//! plant faults, which must be found.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use busbar_simulator::plant::Plant;
use busbar_simulator::world::{Broken, EXPECTED, EXPECTED_OF_RUNS, Story, simulate};
use clap::Parser;

/// How many seeds run where nobody says how many.
const SEEDS: u64 = 1_000;
/// In how many seeds a planted fault must be found.
const SEARCHED: u64 = 10_000;

/// A run of so many seeds must have seen every change of state and a crash at every effect, or it proves too little.
const COVERING: u64 = 5_000;

/// The effects at which a scheduler or an engine must have crashed.
const CRASH_POINTS: &[&str] = &[
    "engine bus.publish",
    "engine bus.request",
    "engine bus.round_trip",
    "engine bus.subscribe",
    "engine store.commit",
    "engine store.index",
    "engine store.lease",
    "engine store.log_after",
    "engine store.payloads",
    "engine store.put_payload",
    "engine store.read",
    "scheduler bus.consume",
    "scheduler bus.publish",
    "scheduler bus.publish_durable",
    "scheduler bus.publish_with_reply",
    "scheduler bus.round_trip",
    "scheduler bus.settle",
    "scheduler bus.subscribe",
    "scheduler store.commit",
    "scheduler store.index",
    "scheduler store.lease",
    "scheduler store.log_after",
    "scheduler store.payloads",
    "scheduler store.read",
];

/// Runs the real scheduler and workflow engine against seeded models of the bus and the store.
#[derive(Parser)]
struct Arguments {
    /// How many seeds; with planted faults, at most so many for each. Without it 1,000, and 10,000 with planted faults.
    #[arg(long)]
    seeds: Option<u64>,
    /// The first one.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Plants a fault, which must be found.
    #[arg(long, value_parser = plant, conflicts_with = "plants")]
    plant: Option<Plant>,
    /// Plants all faults, one after the other; each must be found.
    #[arg(long)]
    plants: bool,
}

fn plant(name: &str) -> Result<Plant, String> {
    Plant::parse(name).ok_or_else(|| {
        let names: Vec<&str> = Plant::ALL.iter().map(|plant| plant.name()).collect();
        format!("there is no such fault; there are {}", names.join(", "))
    })
}

#[derive(Default)]
struct Totals {
    story: Story,
    broken: Vec<Broken>,
    seeds: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match (arguments.plant, arguments.plants) {
        (Some(plant), _) => search(&[plant], &arguments),
        (None, true) => search(Plant::ALL, &arguments),
        (None, false) => prove(&arguments),
    }
}

/// Runs all seeds; none may break a promise.
#[expect(clippy::print_stdout, reason = "this program reports on its standard output")]
fn prove(arguments: &Arguments) -> ExitCode {
    let started = Instant::now();
    let totals = run(arguments, None);
    report(&totals, started.elapsed().as_secs_f64());
    for broken in &totals.broken {
        println!("{broken}");
    }
    let missed = if totals.seeds >= COVERING { missed(&totals.story) } else { Vec::new() };
    for name in &missed {
        println!("never happened: {name}");
    }
    if totals.broken.is_empty() && missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Plants each fault and runs seeds until it is found.
#[expect(clippy::print_stdout, reason = "this program reports on its standard output")]
fn search(plants: &[Plant], arguments: &Arguments) -> ExitCode {
    // A shell that meets the impossible may panic, which ends its process like a crash and is told as such.
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = 0;
    for plant in plants {
        let started = Instant::now();
        let totals = run(arguments, Some(*plant));
        let (name, seconds) = (plant.name(), started.elapsed().as_secs_f64());
        match totals.broken.iter().min_by_key(|broken| broken.seed) {
            Some(broken) => {
                let first = broken.what.first().map_or("", String::as_str);
                println!("{name:<26} found by seed {}, {} seeds in {seconds:.1} s: {first}", broken.seed, totals.seeds);
            }
            None => println!("{name:<26} NOT FOUND by {} seeds in {seconds:.1} s", totals.seeds),
        }
        missed += u32::from(totals.broken.is_empty());
    }
    println!("{} faults planted, {missed} not found", plants.len());
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs seeds on every core: all of them, or with a planted fault until one of them finds it.
fn run(arguments: &Arguments, plant: Option<Plant>) -> Totals {
    let next = AtomicU64::new(arguments.from);
    let seeds = arguments.seeds.unwrap_or(if plant.is_some() { SEARCHED } else { SEEDS });
    let end = arguments.from.saturating_add(seeds);
    let totals = Mutex::new(Totals::default());
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| work(&next, end, plant, &totals));
        }
    });
    totals.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// What a covering run should have seen and has not.
fn missed(story: &Story) -> Vec<String> {
    let changes = EXPECTED
        .iter()
        .chain(EXPECTED_OF_RUNS)
        .filter(|name| !story.transitions.contains_key(**name))
        .map(|name| (*name).to_owned());
    let points = CRASH_POINTS.iter().flat_map(|point| ["before", "after"].map(|side| format!("{point} {side}")));
    changes.chain(points.filter(|point| !story.crash_points.contains_key(point))).collect()
}

fn work(next: &AtomicU64, end: u64, plant: Option<Plant>, totals: &Mutex<Totals>) {
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return;
        }
        let outcome = simulate(seed, plant);
        let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
        totals.seeds += 1;
        match outcome {
            Ok(story) => add(&mut totals.story, story),
            Err(broken) => totals.broken.push(broken),
        }
        if plant.is_some() && !totals.broken.is_empty() {
            return;
        }
    }
}

fn add(sum: &mut Story, story: Story) {
    sum.events += story.events;
    sum.faults += story.faults;
    sum.calm += story.calm;
    sum.least = match (sum.least, story.least) {
        (Some(sum), Some(one)) => Some((sum.0.min(one.0), sum.1.min(one.1))),
        (sum, one) => sum.or(one),
    };
    sum.reordered += story.reordered;
    sum.disconnects += story.disconnects;
    sum.freezes += story.freezes;
    sum.jumps += story.jumps;
    sum.jobs += story.jobs;
    sum.runs += story.runs;
    for (name, count) in story.transitions {
        *sum.transitions.entry(name).or_default() += count;
    }
    for (name, count) in story.crash_points {
        *sum.crash_points.entry(name).or_default() += count;
    }
}

#[expect(clippy::print_stdout, reason = "this program reports on its standard output")]
fn report(totals: &Totals, seconds: f64) {
    let Totals { story, seeds, .. } = totals;
    let Story { events, faults, calm, jobs, runs, .. } = story;
    println!("{seeds} seeds in {seconds:.1} s: {events} events, {faults} faults, {jobs} jobs, {runs} runs");
    let (least_events, least_faults) = story.least.unwrap_or_default();
    println!("{calm} seeds were calm; each other one had at least {least_events} events and {least_faults} faults");
    let Story { reordered, disconnects, freezes, jumps, .. } = story;
    let crashes: u64 = story.crash_points.values().sum();
    println!("reordered {reordered}, disconnects {disconnects}, freezes {freezes}, crashes {crashes}, clocks wrong {jumps}");
    let list = |title: &str, counts: &BTreeMap<String, u64>| {
        println!("{title}:");
        for (name, count) in counts {
            println!("  {name:<40} {count}");
        }
    };
    list("changes of state", &story.transitions);
    list("crashes", &story.crash_points);
}
