//! `tools/simulate --seeds N [--seed S]`: runs many seeds, on every core, and says what they covered.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use busbar_simulator::world::{Broken, EXPECTED, EXPECTED_OF_RUNS, Story, simulate};
use clap::Parser;

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
    /// How many seeds.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first one.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Default)]
struct Totals {
    story: Story,
    broken: Vec<Broken>,
}

#[expect(clippy::print_stdout, reason = "this program reports on its standard output")]
fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let started = Instant::now();
    let next = AtomicU64::new(arguments.seed);
    let end = arguments.seed.saturating_add(arguments.seeds);
    let totals = Mutex::new(Totals::default());
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| work(&next, end, &totals));
        }
    });
    let totals = totals.into_inner().unwrap_or_else(PoisonError::into_inner);
    report(&totals.story, arguments.seeds, started.elapsed().as_secs_f64());
    for broken in &totals.broken {
        println!("{broken}");
    }
    let missed = if arguments.seeds >= COVERING { missed(&totals.story) } else { Vec::new() };
    for name in &missed {
        println!("never happened: {name}");
    }
    if totals.broken.is_empty() && missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
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

fn work(next: &AtomicU64, end: u64, totals: &Mutex<Totals>) {
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return;
        }
        let outcome = simulate(seed);
        let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(story) => add(&mut totals.story, story),
            Err(broken) => totals.broken.push(broken),
        }
    }
}

fn add(sum: &mut Story, story: Story) {
    sum.events += story.events;
    sum.faults += story.faults;
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
fn report(story: &Story, seeds: u64, seconds: f64) {
    let Story { events, faults, jobs, runs, .. } = story;
    println!("{seeds} seeds in {seconds:.1} s: {events} events, {faults} faults, {jobs} jobs, {runs} runs");
    let list = |title: &str, counts: &BTreeMap<String, u64>| {
        println!("{title}:");
        for (name, count) in counts {
            println!("  {name:<40} {count}");
        }
    };
    list("changes of state", &story.transitions);
    list("crashes", &story.crash_points);
}
