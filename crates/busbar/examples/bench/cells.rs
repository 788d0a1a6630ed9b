//! `bench cells`: whole cells side by side on one machine, all at work together and one alone.
//!
//! ```text
//!  cell 1   nats-server, redis-server, busbar dev, worker ─┐
//!  cell 2   nats-server, redis-server, busbar dev, worker ─┴─ in turn: one of them has a bulk of jobs · each has one at the same time
//! ```
//!
//! Cells share nothing but the machine. On one machine more of them carry more only while there are idle processors; what is checked is that a job
//! costs the same beside another cell as alone, so that machines can be added.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use futures::future::try_join_all;
use serde::Serialize;
use serde_json::{Value, json};

use crate::document::{Delivery, Durable, Figure};
use crate::figures::{Table, median, rounded};
use crate::jobs::per_second;
use crate::peers::{Ours, SETTINGS};
use crate::usage::Process;
use crate::{Outcome, Report, machine, say};

const WARM_UP: u64 = 2_000;
const CHECKED: &str = "committed ends by job, in each cell";

/// Cells.
#[derive(Clone, Debug, Args, Serialize)]
pub(crate) struct CellsArgs {
    /// How many cells there are.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=8))]
    cells: u16,
    /// How many jobs each gets.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..))]
    jobs: u64,
    /// How many runs; figures are medians of them.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// What an acknowledged write survives.
    #[arg(long, value_enum, default_value_t = Durable::Safe)]
    durability: Durable,
    /// Also write everything, raw figures included, to this file.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub(crate) json: Option<PathBuf>,
}

/// What some cells did in one go.
#[derive(Clone, Debug, Serialize)]
struct Take {
    cells: usize,
    jobs: u64,
    seconds: f64,
    jobs_per_second: f64,
    /// Of all processes of these cells, and of the client.
    cpu_us_per_job: f64,
}

/// Measures.
pub(crate) async fn measure(args: &CellsArgs) -> Outcome<Report> {
    let machine = machine::with_durability(machine::describe()?, args.durability);
    let temp = tempfile::Builder::new().prefix("busbar-bench-").tempdir()?;
    let mut cells = Vec::new();
    for number in 1..=args.cells {
        say(&format!("starting cell {number} of {}", args.cells));
        let dir = temp.path().join(format!("cell-{number}"));
        std::fs::create_dir(&dir)?;
        let mut cell = Ours::start(&SETTINGS[0], &dir, args.durability.for_servers()).await?;
        cell.bulk(WARM_UP).await?;
        cells.push(cell);
    }
    let mut takes = Vec::new();
    for run in 0..usize::from(args.runs) {
        let alone = run % cells.len();
        // Each run begins with the other one, so that neither is always the one on a warm or tired machine.
        for turn in [run % 2 == 0, run % 2 != 0] {
            let these = if turn { &mut cells[alone..=alone] } else { &mut cells[..] };
            say(&format!("run {} of {}: {} jobs in each of {} cells", run + 1, args.runs, args.jobs, these.len()));
            takes.push(take(these, args.jobs).await?);
        }
    }
    let mut deliveries = Vec::new();
    for cell in cells {
        deliveries.push(cell.stop().await?);
    }
    Ok(report(args, &machine, &takes, &deliveries))
}

/// Has some cells do a bulk of jobs each, at the same time.
async fn take(cells: &mut [Ours], jobs_each: u64) -> Outcome<Take> {
    let client = Process::own("client");
    let used = |cells: &[Ours]| -> Outcome<f64> {
        // Every cell counts the one client with its own processes.
        let counted_again = client.cpu_seconds()? * per_second(cells.len() - 1, 1.0);
        Ok(cells.iter().map(Ours::cpu_seconds).sum::<Outcome<f64>>()? - counted_again)
    };
    let before = used(cells)?;
    let started = Instant::now();
    let bulks = try_join_all(cells.iter_mut().map(|cell| cell.bulk(jobs_each))).await?;
    let cpu = used(cells)? - before;
    let ended = bulks.iter().map(|bulk| bulk.ended).max().unwrap_or(started);
    let (count, seconds) = (cells.len(), (ended - started).as_secs_f64());
    let jobs = jobs_each * count as u64;
    let rate = per_second(usize::try_from(jobs)?, seconds);
    let cpu_us_per_job = rounded(1e6 * cpu / per_second(usize::try_from(jobs)?, 1.0));
    Ok(Take { cells: count, jobs, seconds: rounded(seconds), jobs_per_second: rounded(rate), cpu_us_per_job })
}

fn report(args: &CellsArgs, machine: &Value, takes: &[Take], deliveries: &[Delivery]) -> Report {
    let all = usize::from(args.cells);
    let counts = if all == 1 { vec![1] } else { vec![1, all] };
    let samples =
        |cells: usize, of: fn(&Take) -> f64| -> Vec<f64> { takes.iter().filter(|take| take.cells == cells).map(of).collect() };
    let figures: Vec<Figure> = counts
        .iter()
        .flat_map(|cells| {
            let of = name(*cells);
            [
                Figure::of(&of, "jobs in bulk", "jobs/s", &samples(*cells, |take| take.jobs_per_second)),
                Figure::of(&of, "processor time in bulk", "µs/job", &samples(*cells, |take| take.cpu_us_per_job)),
            ]
        })
        .collect();
    let ratio = |of: fn(&Take) -> f64| rounded(median(&samples(all, of)) / median(&samples(1, of)).max(1e-9));
    let (throughput, cost) = (ratio(|take| take.jobs_per_second), ratio(|take| take.cpu_us_per_job));
    let mut table = Table::with_head(&["", "", "min", "median", "max", ""]);
    for figure in &figures {
        let cells = [figure.min, figure.median, figure.max].map(|value| format!("{value:.0}"));
        table.line([figure.of.clone(), figure.name.clone()].into_iter().chain(cells).chain([figure.unit.clone()]));
    }
    let table = format!(
        "{}\n{} echo jobs a cell and run, {} runs\n\n{}\ntogether beside alone: {throughput:.2} times the jobs a second, {cost:.2} times the processor \
         time of a job\n",
        machine::line(machine),
        args.jobs,
        args.runs,
        table.show()
    );
    let summary = json!({
        "bench": "cells", "machine": machine, "durability": args.durability.name(), "repetitions": args.runs,
        "exact_delivery": Delivery::sum(CHECKED, deliveries.iter()), "figures": figures,
        "together_beside_alone": { "jobs_per_second": throughput, "cpu_per_job": cost },
    });
    Report { table, summary, raw: json!({ "takes": takes }) }
}

fn name(cells: usize) -> String {
    if cells == 1 { "one cell alone".to_owned() } else { format!("{cells} cells together") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_together_stand_beside_one_alone() {
        let take =
            |cells, jobs_per_second, cpu_us_per_job| Take { cells, jobs: 1, seconds: 1.0, jobs_per_second, cpu_us_per_job };
        let takes = [take(1, 100.0, 10.0), take(2, 150.0, 11.0), take(1, 120.0, 12.0), take(2, 180.0, 11.0)];
        let args = CellsArgs { cells: 2, jobs: 1, runs: 2, durability: Durable::Fast, json: None };
        let report = report(&args, &json!({}), &takes, &[]);
        assert_eq!(report.summary["together_beside_alone"], json!({ "jobs_per_second": 1.5, "cpu_per_job": 1.0 }));
        assert!(report.table.contains("2 cells together"), "{}", report.table);
    }
}
