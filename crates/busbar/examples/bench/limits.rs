//! `bench limits`: the ceiling, grouped and ungrouped, when busy and when idle, beside `redis-benchmark` of the same minute.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};

use crate::ceiling::{Ceiling, CeilingIdle, CeilingRun, Grouping, Reference};
use crate::document::{Durable, Figure};
use crate::figures::{Table, median, percentile};
use crate::{Outcome, Report, machine, say};

/// The ceiling.
#[derive(Clone, Debug, Args, Serialize)]
pub(crate) struct LimitsArgs {
    /// How many jobs one run takes through.
    #[arg(long, default_value_t = 20_000)]
    jobs: usize,
    /// How many runs; figures are medians of them.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// How many single jobs are timed.
    #[arg(long, default_value_t = 300)]
    probes: usize,
    /// What an acknowledged write survives.
    #[arg(long, value_enum, default_value_t = Durable::Safe)]
    durability: Durable,
    /// Also write everything, raw figures included, to this file.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub(crate) json: Option<PathBuf>,
}

/// Measures.
pub(crate) async fn measure(args: &LimitsArgs) -> Outcome<Report> {
    let machine = machine::with_durability(machine::describe()?, args.durability);
    let temp = tempfile::Builder::new().prefix("busbar-bench-").tempdir()?;
    let ceiling = Ceiling::start(temp.path(), args.durability.for_servers()).await?;
    say(&format!("{} jobs, one at a time", args.probes));
    let idle = ceiling.idle(args.probes).await?;
    let (mut runs, mut references) = (Vec::new(), Vec::new());
    for run in 0..usize::from(args.runs) {
        for turn in 0..Grouping::ALL.len() {
            // Each run begins with another one, so that none is always the one on a warm or tired machine.
            let grouping = Grouping::ALL[(run + turn) % Grouping::ALL.len()];
            say(&format!("run {} of {}: {} jobs, {}", run + 1, args.runs, args.jobs, grouping.name()));
            runs.push(ceiling.run(grouping, args.jobs).await?);
        }
        references.extend(ceiling.reference().await?);
    }
    ceiling.stop().await?;
    Ok(report(args, &machine, &runs, &idle, &references))
}

fn report(args: &LimitsArgs, machine: &Value, runs: &[CeilingRun], idle: &CeilingIdle, references: &[Reference]) -> Report {
    let mut figures: Vec<Figure> = Grouping::ALL.into_iter().flat_map(|grouping| figures_of(runs, grouping)).collect();
    figures.extend(idle_figures(idle));
    figures.extend(reference_figures(references));
    let summary = json!({
        "bench": "limits", "machine": machine, "durability": args.durability.name(), "repetitions": args.runs,
        "figures": figures, "redis_benchmark": !references.is_empty(),
    });
    let raw = json!({ "runs": runs, "idle": idle, "redis_benchmark": references });
    Report { table: table(args, machine, &figures, references.is_empty()), summary, raw }
}

/// What a grouping came to: its rate, and the processor time of each process.
pub(crate) fn figures_of(runs: &[CeilingRun], grouping: Grouping) -> Vec<Figure> {
    let of = format!("ceiling, {}", grouping.name());
    let runs: Vec<&CeilingRun> = runs.iter().filter(|run| run.grouping == grouping).collect();
    let rates: Vec<f64> = runs.iter().map(|run| run.jobs_per_second).collect();
    let micros = |run: &CeilingRun, seconds: f64| 1e6 * seconds / crate::jobs::per_second(run.jobs, 1.0);
    let all = runs.iter().map(|run| micros(run, run.cpu_seconds.values().sum())).collect::<Vec<f64>>();
    let mut figures =
        vec![Figure::of(&of, "jobs in bulk", "jobs/s", &rates), Figure::of(&of, "processor time in bulk", "µs/job", &all)];
    for process in ["client", "nats-server", "redis-server"] {
        let samples: Vec<f64> = runs.iter().map(|run| micros(run, run.cpu_seconds[process])).collect();
        figures.push(Figure::of(&format!("{of}: {process}"), "processor time in bulk by process", "µs/job", &samples));
    }
    figures
}

/// Latencies, of a job and of its steps.
pub(crate) fn idle_figures(idle: &CeilingIdle) -> Vec<Figure> {
    let steps = idle.steps_ms.iter().map(|(step, samples)| (format!("one {step}"), samples));
    let all = std::iter::once(("ceiling, a job".to_owned(), &idle.job_ms)).chain(steps);
    all.flat_map(|(of, samples)| {
        [("p50", 50), ("p99", 99)].map(|(name, percent)| {
            let at = if samples.is_empty() { Vec::new() } else { vec![percentile(samples, percent)] };
            Figure::of(&of, &format!("latency when idle, {name}"), "ms", &at)
        })
    })
    .collect()
}

fn reference_figures(references: &[Reference]) -> Vec<Figure> {
    let mut figures: Vec<(String, Vec<f64>)> = Vec::new();
    for reference in references {
        let of = format!("redis-benchmark, {} -P {}", reference.command, reference.pipeline);
        match figures.iter_mut().find(|(name, _)| *name == of) {
            Some((_, samples)) => samples.push(reference.per_second),
            None => figures.push((of, vec![reference.per_second])),
        }
    }
    figures.iter().map(|(of, samples)| Figure::of(of, "commands of 256 bytes", "commands/s", samples)).collect()
}

/// The middle rate of a grouping.
pub(crate) fn rate(runs: &[CeilingRun], grouping: Grouping) -> f64 {
    median(&runs.iter().filter(|run| run.grouping == grouping).map(|run| run.jobs_per_second).collect::<Vec<f64>>())
}

fn table(args: &LimitsArgs, machine: &Value, figures: &[Figure], no_reference: bool) -> String {
    let mut table = Table::with_head(&["", "", "min", "median", "max", ""]);
    for figure in figures {
        let places = if figure.unit == "ms" { 3 } else { 0 };
        let cells = [figure.min, figure.median, figure.max].map(|value| format!("{value:.places$}"));
        let cells = [figure.of.clone(), figure.name.clone()].into_iter().chain(cells).chain([figure.unit.clone()]);
        table.line(cells);
    }
    let absent = if no_reference { "redis-benchmark is not installed, and was left out\n" } else { "" };
    format!("{}\n{} jobs a run, {} runs\n\n{}{absent}", machine::line(machine), args.jobs, args.runs, table.show())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn run(grouping: Grouping, jobs_per_second: f64) -> CeilingRun {
        let cpu_seconds = BTreeMap::from([("client", 1.0), ("nats-server", 2.0), ("redis-server", 3.0)]);
        CeilingRun { grouping, jobs: 1_000_000, seconds: 1.0, jobs_per_second, cpu_seconds }
    }

    #[test]
    fn groupings_are_told_apart_and_processes_add_up() {
        let runs = [run(Grouping::Ungrouped, 10.0), run(Grouping::Grouped, 50.0), run(Grouping::Ungrouped, 20.0)];
        assert!((rate(&runs, Grouping::Ungrouped) - 15.0).abs() < 1e-9 && (rate(&runs, Grouping::Grouped) - 50.0).abs() < 1e-9);
        let figures = figures_of(&runs, Grouping::Ungrouped);
        let medians: Vec<f64> = figures.iter().map(|figure| figure.median).collect();
        assert_eq!(medians, [15.0, 6.0, 1.0, 2.0, 3.0]);
        assert_eq!(figures[0].samples, 2);
    }

    #[test]
    fn what_redis_benchmark_says_is_gathered_by_command_and_pipeline() {
        let of = |pipeline, per_second| Reference { command: "SET".to_owned(), pipeline, per_second };
        let figures = reference_figures(&[of(1, 1.0), of(16, 9.0), of(1, 3.0)]);
        assert_eq!(figures.iter().map(|figure| (figure.median, figure.samples)).collect::<Vec<_>>(), [(2.0, 2), (9.0, 1)]);
    }
}
