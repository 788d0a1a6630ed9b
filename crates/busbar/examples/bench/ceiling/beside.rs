//! `bench jobs` beside the ceiling that the same run has measured: what part of it we carry, and how many times its latency we take.

use serde_json::{Value, json};

use super::{CeilingIdle, CeilingRun, Grouping};
use crate::Report;
use crate::document::{Figure, Note};
use crate::figures::{Table, percentile, rounded};
use crate::limits::{figures_of, idle_figures, rate};
use crate::ways::percentiles;

/// One of our ways.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ours<'a> {
    pub(crate) way: &'static str,
    pub(crate) jobs_per_second: f64,
    /// Milliseconds from submission to the result, one job at a time.
    pub(crate) idle_ms: &'a [f64],
}

/// Adds the ceiling to a report: its figures, the ratios, and lines for people.
pub(crate) fn add(report: &mut Report, ours: &[Ours<'_>], runs: &[CeilingRun], idle: &CeilingIdle) {
    let mut figures: Vec<Figure> = Grouping::ALL.into_iter().flat_map(|grouping| figures_of(runs, grouping)).collect();
    figures.extend(idle_figures(idle));
    if let Value::Array(all) = &mut report.summary["figures"] {
        all.extend(figures.iter().map(|figure| json!(figure)));
    }
    let ratios: Vec<Ratios> = ours.iter().map(|ours| Ratios::of(ours, runs, idle)).collect();
    report.summary["ceiling"] = json!({
        "ungrouped_jobs_per_second": rounded(rate(runs, Grouping::Ungrouped)),
        "grouped_jobs_per_second": rounded(rate(runs, Grouping::Grouped)),
        "latency_ms_idle": percentiles(&idle.job_ms),
    });
    let told = ratios.iter().map(|ratios| (ratios.way.to_owned(), ratios.json()));
    report.summary["beside_ceiling"] = Value::Object(told.collect());
    report.summary["notes"] = json!([note(&ratios)]);
    report.raw["ceiling"] = json!({ "runs": runs, "idle": idle });
    report.table.push_str(&format!("\n{}", table(&ratios, runs, idle)));
}

/// How one way stands.
#[derive(Clone, Copy, Debug)]
struct Ratios {
    way: &'static str,
    ungrouped: f64,
    grouped: f64,
    idle_p50: f64,
    idle_p99: f64,
}

impl Ratios {
    fn of(ours: &Ours<'_>, runs: &[CeilingRun], idle: &CeilingIdle) -> Self {
        let part = |grouping| rounded(ours.jobs_per_second / rate(runs, grouping).max(1e-9));
        let times = |percent| rounded(percentile(ours.idle_ms, percent) / percentile(&idle.job_ms, percent).max(1e-9));
        Self {
            way: ours.way,
            ungrouped: part(Grouping::Ungrouped),
            grouped: part(Grouping::Grouped),
            idle_p50: times(50),
            idle_p99: times(99),
        }
    }

    fn json(&self) -> Value {
        json!({
            "throughput_to_ungrouped": self.ungrouped, "throughput_to_grouped": self.grouped,
            "idle_p50_times": self.idle_p50, "idle_p99_times": self.idle_p99,
        })
    }
}

/// For the page that is made of a result.
fn note(ratios: &[Ratios]) -> Note {
    let line = |ratios: &Ratios| {
        let numbers = [ratios.ungrouped, ratios.grouped, ratios.idle_p50, ratios.idle_p99].map(|ratio| format!("{ratio:.2}"));
        std::iter::once(ratios.way.to_owned()).chain(numbers).collect()
    };
    let head = ["", "part of its jobs/s, ungrouped", "grouped", "times its latency when idle, p50", "p99"];
    Note::new("Beside the ceiling", &head, ratios.iter().map(line).collect())
}

fn table(ratios: &[Ratios], runs: &[CeilingRun], idle: &CeilingIdle) -> String {
    let mut head = vec!["beside the ceiling", "the ceiling"];
    head.extend(ratios.iter().map(|ratios| ratios.way));
    let mut table = Table::with_head(&head);
    let mut line = |name: &str, ceiling: String, of: fn(&Ratios) -> f64| {
        let cells = ratios.iter().map(|ratios| format!("{:.2}", of(ratios)));
        table.line([name.to_owned(), ceiling].into_iter().chain(cells));
    };
    line("ungrouped, jobs/s; our part of it", format!("{:.0}", rate(runs, Grouping::Ungrouped)), |ratios| ratios.ungrouped);
    line("grouped, jobs/s; our part of it", format!("{:.0}", rate(runs, Grouping::Grouped)), |ratios| ratios.grouped);
    line("idle, p50 ms; we take so many times it", format!("{:.2}", percentile(&idle.job_ms, 50)), |ratios| ratios.idle_p50);
    line("idle, p99 ms; we take so many times it", format!("{:.2}", percentile(&idle.job_ms, 99)), |ratios| ratios.idle_p99);
    table.show()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_report_gets_ratios_figures_and_a_table() {
        let cpu_seconds = BTreeMap::from([("client", 1.0), ("nats-server", 1.0), ("redis-server", 1.0)]);
        let run = |grouping, jobs_per_second| CeilingRun {
            grouping,
            jobs: 10,
            seconds: 1.0,
            jobs_per_second,
            cpu_seconds: cpu_seconds.clone(),
        };
        let runs = [run(Grouping::Ungrouped, 100.0), run(Grouping::Grouped, 400.0)];
        let idle = CeilingIdle { job_ms: vec![0.5, 1.0], steps_ms: BTreeMap::new() };
        let ours = Ours { way: "busbar_sdk", jobs_per_second: 60.0, idle_ms: &[1.0, 3.0] };
        let mut report = Report { table: String::new(), summary: json!({ "figures": [] }), raw: json!({}) };
        add(&mut report, &[ours], &runs, &idle);
        assert_eq!(
            report.summary["beside_ceiling"]["busbar_sdk"],
            json!({ "throughput_to_ungrouped": 0.6, "throughput_to_grouped": 0.15, "idle_p50_times": 2.0, "idle_p99_times": 3.0 })
        );
        assert!(report.summary["figures"].as_array().is_some_and(|figures| !figures.is_empty()));
        assert!(report.table.contains("0.60"), "{}", report.table);
    }
}
