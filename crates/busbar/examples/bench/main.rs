//! `tools/bench jobs|limits|fill|cells|queue|idle|crash|workflows|policy|stream|peers`: measures a real Busbar on real servers and tells what it saw; it judges
//! nothing.
//!
//! ```text
//!  jobs     busbar dev + worker  ┐ in turn, on the same kinds of server     jobs a second, microseconds of processor a job,
//!           plain program + worker ┘                                       submit-to-result latency idle and under load
//!  limits   raw NATS, JetStream and Redis: the ceiling, which no control plane can exceed
//!  fill     busbar dev, no worker: fill it, kill it, start it again, drain it
//!  cells    whole cells side by side, all at work and one alone
//!  queue    a scheduler and its standby, a very long queue: memory, kill, drain
//!  crash    the same bulk of jobs again and again, with a kill -9 in its middle or without one
//!  workflows  runs a second, steps a second, a chain when nothing else happens
//!  policy   decisions a second of the safety kernel, by itself and over gRPC
//!  stream   what many dashboards see, and how late; and what a slow one costs them
//!  idle     a scheduler and workers that have nothing to do
//!  peers    the same echo job on what a user could pick instead, in turn with ours
//!  plot     draws and lists what was published in docs/benchmarks
//! ```
//!
//! The table is for people, the JSON line below it for programs; `--json FILE` keeps every raw figure in the published form.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use busbar_protocol::time::Timestamp;
use clap::{Args, Parser, Subcommand};
use serde::Serialize;
use serde_json::Value;

mod acceptance;
mod apart;
mod budget;
mod ceiling;
mod cells;
mod crash;
mod dev;
mod document;
mod executions;
mod figures;
mod fill;
mod follower;
mod http;
mod idle;
mod jobs;
mod limits;
mod loads;
mod machine;
mod peers;
mod plain;
mod plot;
mod policy;
mod queue;
mod spread;
mod stream;
mod usage;
mod ways;
mod workflows;

/// Whatever stops a measurement.
type Failure = Box<dyn std::error::Error + Send + Sync>;
type Outcome<T> = Result<T, Failure>;

/// Measures Busbar on this machine.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Serialize, Subcommand)]
#[serde(rename_all = "lowercase")]
enum What {
    /// Echo jobs: throughput and latency, against the same messages and Redis steps without a control plane.
    Jobs(JobsArgs),
    /// What raw NATS, JetStream and Redis carry on this machine: the ceiling.
    Limits(limits::LimitsArgs),
    /// How much the cell holds, and how it behaves when it is full.
    Fill(FillArgs),
    /// Whole cells side by side on this machine.
    Cells(cells::CellsArgs),
    /// A scheduler with a very long queue: memory, speed from end to end, and a kill.
    Queue(QueueArgs),
    /// A bulk of jobs with a kill -9 in its middle: what that costs, and what is left.
    Crash(crash::CrashArgs),
    /// Workflows of echo jobs.
    Workflows(workflows::WorkflowsArgs),
    /// The safety kernel.
    Policy(policy::PolicyArgs),
    /// The live stream.
    Stream(stream::StreamArgs),
    /// The worker of `crash`, which writes down what it executes.
    #[command(hide = true)]
    CrashWorker(executions::WorkerArgs),
    /// What workers and a scheduler use that have nothing to do.
    Idle(IdleArgs),
    /// Echo jobs on what a user could pick instead, in turn with ours.
    Peers(peers::PeersArgs),
    /// Draws what was published.
    Plot(plot::PlotArgs),
}

/// Echo jobs.
#[derive(Clone, Debug, Args, Serialize)]
struct JobsArgs {
    /// Gateway, scheduler and safety kernel as processes of their own, as in production, and not as `busbar dev`.
    #[arg(long)]
    apart: bool,
    /// How many jobs one run submits.
    #[arg(long, default_value_t = 20_000)]
    jobs: usize,
    /// How many runs; figures are medians of them.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// How many jobs the worker takes at once.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u16).range(1..=1024))]
    slots: u16,
    /// How many single jobs are timed for each latency.
    #[arg(long, default_value_t = 300)]
    probes: usize,
    /// What an acknowledged write survives.
    #[arg(long, value_enum, default_value_t = document::Durable::Safe)]
    durability: document::Durable,
    /// Also write everything, raw figures included, to this file.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    json: Option<PathBuf>,
}

/// A full cell.
#[derive(Clone, Debug, Args, Serialize)]
struct FillArgs {
    /// How many jobs are queued.
    #[arg(long, default_value_t = 100_000)]
    jobs: usize,
    /// How many of them one HTTP call submits at first.
    #[arg(long, default_value_t = 10_000)]
    batch: usize,
    /// How many jobs the worker that drains the queue takes at once.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=1024))]
    slots: u16,
    /// Also write everything, raw figures included, to this file.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    json: Option<PathBuf>,
}

/// A very long queue.
#[derive(Clone, Debug, Args, Serialize)]
struct QueueArgs {
    /// How many jobs are queued.
    #[arg(long, default_value_t = 1_000_000, value_parser = at_least_a_thousand)]
    jobs: usize,
    /// How many jobs the worker that drains the queue takes at once.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=1024))]
    slots: u16,
    /// The jobs belong to another one, so that the scheduler keeps them whole in memory.
    #[arg(long)]
    children: bool,
    /// Also write everything, raw figures included, to this file.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    json: Option<PathBuf>,
}

/// Fewer would be drained before there is anything to see.
fn at_least_a_thousand(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|jobs| *jobs >= 1_000).ok_or_else(|| "a number of 1000 or more is expected".to_owned())
}

/// Nothing to do.
#[derive(Clone, Debug, Args, Serialize)]
struct IdleArgs {
    /// How many workers there are.
    #[arg(long, default_value_t = 1_000)]
    workers: usize,
    /// For how many seconds it is looked.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Also write everything, raw figures included, to this file.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    json: Option<PathBuf>,
}

/// What a measurement hands back.
struct Report {
    /// For people.
    table: String,
    /// For programs.
    summary: Value,
    /// Everything that was seen.
    raw: Value,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // When stderr is gone there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "bench: {}", in_full(failure.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (settings, taken_at) = (serde_json::to_value(&cli.what)?, Timestamp::wall_clock().to_string());
    let (report, file) = match cli.what {
        What::Jobs(args) => (runtime.block_on(jobs::measure(&args))?, args.json),
        What::Limits(args) => (runtime.block_on(limits::measure(&args))?, args.json),
        What::Fill(args) => (runtime.block_on(fill::measure(&args))?, args.json),
        What::Cells(args) => (runtime.block_on(cells::measure(&args))?, args.json),
        What::Queue(args) => (runtime.block_on(queue::measure(&args))?, args.json),
        What::Crash(args) => (runtime.block_on(crash::measure(&args))?, args.json),
        What::Workflows(args) => (runtime.block_on(workflows::measure(&args))?, args.json),
        What::Policy(args) => (runtime.block_on(policy::measure(&args))?, args.json),
        What::Stream(args) => (runtime.block_on(stream::measure(&args))?, args.json),
        What::CrashWorker(args) => return runtime.block_on(executions::run(args)),
        What::Idle(args) => (runtime.block_on(idle::measure(&args))?, args.json),
        What::Peers(args) => (runtime.block_on(peers::measure(&args))?, args.json),
        What::Plot(args) => return plot::publish(&args),
    };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}\n{}", report.table, report.summary)?;
    if let Some(file) = file {
        let everything = document::document(&report, settings, taken_at)?;
        fs::write(&file, serde_json::to_string_pretty(&everything)? + "\n")?;
        writeln!(out, "raw figures: {}", file.display())?;
    }
    Ok(())
}

/// Says on stderr what is being done: a measurement takes minutes.
fn say(what: &str) {
    // When stderr is gone there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "bench: {what}");
}

fn in_full(failure: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(failure.source(), |cause| cause.source());
    causes.fold(failure.to_string(), |text, cause| format!("{text}: {cause}"))
}
