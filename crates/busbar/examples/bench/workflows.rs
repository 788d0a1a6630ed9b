//! `bench workflows`: runs a second of a small workflow, steps a second of a wide one, and how long a chain takes when nothing else happens.
//!
//! ```text
//!  busbar dev + worker ◄─ small: two echo jobs, one after the other   many at once: runs a second
//!                      ◄─ wide:  for_each of many echo jobs           one at a time: steps a second
//!                      ◄─ chain: three echo jobs in a row             one at a time: milliseconds from start to end
//! ```

use std::path::PathBuf;
use std::time::Instant;

use busbar_api::{RunState, RunView, StartReply};
use clap::Args;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde::Serialize;
use serde_json::{Value, json};

use crate::dev::Dev;
use crate::document::{Delivery, Figure, Note};
use crate::figures::{Table, percentile, rounded};
use crate::http::{ECHO, Http};
use crate::jobs::per_second;
use crate::spread::Spread;
use crate::ways::percentiles;
use crate::{Outcome, Report, machine, say};

const SMALL: &str = "bench-small";
const WIDE: &str = "bench-wide";
const CHAIN: &str = "bench-chain";
const WARM_UP: usize = 20;
/// As many as one step may have under way.
const PARALLEL: u32 = 256;

/// Workflows of echo jobs.
#[derive(Clone, Debug, Args, Serialize)]
pub(crate) struct WorkflowsArgs {
    /// How many small workflows one repetition starts.
    #[arg(long, default_value_t = 500)]
    starts: usize,
    /// How many of them are under way at once.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    concurrency: u16,
    /// How many items the wide workflow has.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    items: u32,
    /// How many chains are timed.
    #[arg(long, default_value_t = 100)]
    probes: usize,
    /// How often everything is repeated.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// How many jobs the worker takes at once.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=1024))]
    slots: u16,
    /// Also write everything, raw figures included, to this file.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub(crate) json: Option<PathBuf>,
}

/// What the repetitions gave.
#[derive(Debug, Default, Serialize)]
struct Seen {
    small_runs_per_second: Vec<f64>,
    wide_steps_per_second: Vec<f64>,
    chain_ms: Vec<f64>,
    /// Runs that ended with success and the output that they should have. Others end the measurement.
    exact_runs: usize,
}

/// Measures.
pub(crate) async fn measure(args: &WorkflowsArgs) -> Outcome<Report> {
    let machine = machine::describe()?;
    let temp = tempfile::Builder::new().prefix("busbar-bench-").tempdir()?;
    say("starting busbar dev with a worker");
    let dev = Dev::start(temp.path(), 1, args.slots).await?;
    let http = Http::new(&dev.endpoints);
    for document in [document(SMALL, &chain(2)), document(CHAIN, &chain(3)), wide()] {
        let http = http.clone();
        tokio::task::spawn_blocking(move || http.post::<Value>("/api/v1/workflows", &document)).await??;
    }
    run_many(&http, WARM_UP, 4).await?;
    let mut seen = Seen::default();
    for repetition in 1..=args.runs {
        say(&format!("repetition {repetition} of {}", args.runs));
        repeat(args, &http, &mut seen).await?;
    }
    dev.stop().await?;
    Ok(report(args, &machine, &seen))
}

async fn repeat(args: &WorkflowsArgs, http: &Http, seen: &mut Seen) -> Outcome<()> {
    let started = Instant::now();
    run_many(http, args.starts, args.concurrency.into()).await?;
    seen.small_runs_per_second.push(per_second(args.starts, started.elapsed().as_secs_f64()));

    let items: Vec<u32> = (0..args.items).collect();
    let started = Instant::now();
    run(http, WIDE, json!({ "items": items }), json!({ "made": args.items })).await?;
    seen.wide_steps_per_second.push(per_second(items.len(), started.elapsed().as_secs_f64()));

    for number in 0..args.probes {
        let started = Instant::now();
        run(http, CHAIN, json!({ "number": number }), json!({ "number": number })).await?;
        seen.chain_ms.push(started.elapsed().as_secs_f64() * 1e3);
    }
    seen.exact_runs += args.starts + 1 + args.probes;
    Ok(())
}

/// Runs so many small workflows, so many at once.
async fn run_many(http: &Http, count: usize, at_once: usize) -> Outcome<()> {
    let one = |number: usize| run(http, SMALL, json!({ "number": number }), json!({ "number": number }));
    stream::iter(0..count).map(one).buffer_unordered(at_once).try_for_each(|()| async { Ok(()) }).await
}

/// Starts a run, waits for its end, and looks at its output.
async fn run(http: &Http, workflow: &'static str, input: Value, wanted: Value) -> Outcome<()> {
    let http = http.clone();
    tokio::task::spawn_blocking(move || {
        let started: StartReply = http.post(&format!("/api/v1/workflows/{workflow}/runs"), &input)?;
        let view: RunView = http.get(&format!("/api/v1/workflow-runs/{}?wait=60s", started.run_id))?;
        let output = view.output.as_ref().map(|output| serde_json::from_str::<Value>(output.get())).transpose()?;
        if view.state == RunState::Succeeded && output.as_ref() == Some(&wanted) {
            return Ok(());
        }
        let error = view.error.map(|error| error.message).unwrap_or_default();
        Err(format!("the run {} of {workflow} is {} after 60 s: {error} {output:?}", view.run_id, view.state).into())
    })
    .await?
}

/// So many echo jobs, each with the output of the one before, and the last one's output.
fn chain(length: usize) -> (Value, Value) {
    let mut steps = serde_json::Map::new();
    for number in 1..=length {
        let step = match number {
            1 => json!({ "type": "job", "topic": ECHO, "input": "${input}" }),
            _ => {
                let before = format!("s{}", number - 1);
                json!({ "type": "job", "topic": ECHO, "depends_on": [before], "input": format!("${{steps.{before}.output}}") })
            }
        };
        steps.insert(format!("s{number}"), step);
    }
    (steps.into(), format!("${{steps.s{length}.output}}").into())
}

fn document(id: &str, (steps, output): &(Value, Value)) -> Value {
    json!({ "apiVersion": "busbar/v1", "kind": "Workflow", "id": id, "steps": steps, "output": output })
}

fn wide() -> Value {
    let each = json!({ "type": "for_each", "items": "input.items", "max_parallel": PARALLEL, "topic": ECHO });
    document(WIDE, &(json!({ "each": each }), json!({ "made": "${size(steps.each.output)}" })))
}

fn report(args: &WorkflowsArgs, machine: &Value, seen: &Seen) -> Report {
    let small = Spread::of(seen.small_runs_per_second.iter().copied());
    let wide = Spread::of(seen.wide_steps_per_second.iter().copied());
    let summary = json!({
        "bench": "workflows", "machine": machine, "runs": args.runs, "slots": args.slots,
        "small": { "starts": args.starts, "concurrency": args.concurrency, "runs_per_second": small },
        "wide": { "items": args.items, "max_parallel": PARALLEL, "steps_per_second": wide },
        "chain": { "steps": 3, "latency_ms": percentiles(&seen.chain_ms) },
        "durability": "safe", "repetitions": args.runs,
        // A run that is lost, or has another output, ends the measurement.
        "exact_delivery": Delivery::counted("ends and outputs of runs", seen.exact_runs, 0, 0),
        "figures": [
            Figure::of("small", "runs of two jobs", "runs/s", &seen.small_runs_per_second),
            Figure::of("wide", &format!("steps of a for_each of {}", args.items), "steps/s", &seen.wide_steps_per_second),
            Figure::of("chain", "three jobs in a row when idle", "ms", &seen.chain_ms),
        ],
        "notes": [Note::of_latencies("From start to end of a run", [("three jobs in a row when idle".to_owned(), &seen.chain_ms)])],
    });
    let mut table = Table::with_head(&["", "min / median / max"]);
    table.line([format!("runs a second of two jobs, {} at once", args.concurrency), small.words(0)]);
    table.line([format!("steps a second of a for_each of {}", args.items), wide.words(0)]);
    let at = |percent| rounded(percentile(&seen.chain_ms, percent));
    let text = format!(
        "{}\n{} repetitions, one worker with {} slots; all {} runs ended once with the output that they should have\n\n{}\n\
         three jobs in a row, nothing else: p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms of {} runs\n",
        machine::line(machine),
        args.runs,
        args.slots,
        seen.exact_runs,
        table.show(),
        at(50),
        at(90),
        at(99),
        seen.chain_ms.len(),
    );
    Report { table: text, raw: json!(seen), summary }
}
