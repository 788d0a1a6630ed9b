//! The published form of a result: the same few members whatever was measured, so that results can be drawn, listed and compared.
//!
//! Who measures puts `durability`, `repetitions`, `exact_delivery`, `figures` and `notes` into its summary; what it cannot say is null here.

use std::collections::BTreeMap;

use busbar_servers::Durability;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::figures::{median, percentile, permille, rounded};
use crate::{Outcome, Report};

/// Raised when a member changes its meaning.
pub(crate) const FORMAT: u32 = 1;
/// `tools/bench` puts the commit there that it has built, with a mark if the sources differ from it.
const COMMIT: &str = "BUSBAR_BENCH_COMMIT";

/// One result.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Document {
    pub(crate) format: u32,
    /// The subcommand.
    pub(crate) bench: String,
    pub(crate) commit: Option<String>,
    /// RFC 3339, UTC.
    pub(crate) taken_at: String,
    pub(crate) machine: Value,
    /// Every option, those that were not given included.
    pub(crate) settings: Value,
    /// `fast`: written to disk each second; `safe`: written before the reply.
    pub(crate) durability: Option<String>,
    pub(crate) repetitions: Option<u64>,
    pub(crate) exact_delivery: Option<Delivery>,
    pub(crate) figures: Vec<Figure>,
    pub(crate) summary: Value,
    pub(crate) raw: Value,
}

/// What an acknowledged write survives, the same for everybody in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Durable {
    /// Redis: appendfsync everysec. PostgreSQL: synchronous_commit off.
    Fast,
    /// Redis: appendfsync always. PostgreSQL: synchronous_commit on.
    Safe,
}

impl Durable {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Safe => "safe",
        }
    }

    pub(crate) fn for_servers(self) -> Durability {
        match self {
            Self::Fast => Durability::Fast,
            Self::Safe => Durability::Safe,
        }
    }
}

/// Whether each job was done exactly once, where jobs were done.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Delivery {
    /// What was compared with what.
    pub(crate) checked: String,
    pub(crate) jobs: u64,
    pub(crate) lost: u64,
    pub(crate) repeated: u64,
}

impl Delivery {
    /// From how often each job was seen to be done; a job may be named several times.
    pub(crate) fn of(checked: &str, jobs: u64, seen: impl IntoIterator<Item = (String, u64)>) -> Self {
        let mut times: BTreeMap<String, u64> = BTreeMap::new();
        for (job, more) in seen {
            *times.entry(job).or_default() += more;
        }
        let repeated = times.values().filter(|times| **times > 1).count() as u64;
        Self { checked: checked.to_owned(), jobs, lost: jobs.saturating_sub(times.len() as u64), repeated }
    }

    /// From counts that somebody else made.
    pub(crate) fn counted(checked: &str, jobs: usize, lost: usize, repeated: usize) -> Self {
        let [jobs, lost, repeated] = [jobs, lost, repeated].map(|count| count as u64);
        Self { checked: checked.to_owned(), jobs, lost, repeated }
    }

    /// From the ends that a follower has seen: each job must have one.
    pub(crate) fn of_ends(jobs: usize, ended: Vec<(String, u32)>) -> Self {
        Self::of("committed ends by job", jobs as u64, ended.into_iter().map(|(job, _)| (job, 1)))
    }

    /// Several of the same kind as one.
    pub(crate) fn sum<'a>(checked: &str, deliveries: impl Iterator<Item = &'a Self>) -> Self {
        deliveries.fold(Self::counted(checked, 0, 0, 0), |sum, next| Self {
            checked: sum.checked,
            jobs: sum.jobs + next.jobs,
            lost: sum.lost + next.lost,
            repeated: sum.repeated + next.repeated,
        })
    }
}

/// One number about one thing, as often as it was measured.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Figure {
    /// What was measured: a way, a process, a peer and its setting.
    pub(crate) of: String,
    /// What the number means.
    pub(crate) name: String,
    pub(crate) unit: String,
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
    pub(crate) samples: usize,
}

impl Figure {
    pub(crate) fn of(of: &str, name: &str, unit: &str, samples: &[f64]) -> Self {
        let (of, name, unit) = (of.to_owned(), name.to_owned(), unit.to_owned());
        let (min, middle, max) = (percentile(samples, 0), median(samples), percentile(samples, 100));
        Self { of, name, unit, min: rounded(min), median: rounded(middle), max: rounded(max), samples: samples.len() }
    }

    /// A number of a summary, which was measured once.
    pub(crate) fn once(of: &str, name: &str, unit: &str, value: &Value) -> Self {
        Self::of(of, name, unit, &value.as_f64().into_iter().collect::<Vec<f64>>())
    }
}

/// A table that a page shows below the figures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Note {
    pub(crate) title: String,
    pub(crate) head: Vec<String>,
    pub(crate) lines: Vec<Vec<String>>,
}

impl Note {
    pub(crate) fn new(title: &str, head: &[&str], lines: Vec<Vec<String>>) -> Self {
        Self { title: title.to_owned(), head: head.iter().map(|name| (*name).to_owned()).collect(), lines }
    }

    /// How late single things were, in milliseconds: the few that were latest are what users remember.
    pub(crate) fn of_latencies<S: AsRef<[f64]>>(title: &str, rows: impl IntoIterator<Item = (String, S)>) -> Self {
        let line = |(of, samples): (String, S)| {
            let samples = samples.as_ref();
            let at = [500, 900, 990, 999, 1000].map(|thousandths| format!("{:.1}", permille(samples, thousandths)));
            [of, samples.len().to_string()].into_iter().chain(at).collect()
        };
        let head = ["ms", "samples", "p50", "p90", "p99", "p99.9", "most"];
        Self::new(title, &head, rows.into_iter().map(line).collect())
    }
}

/// Puts a report into its published form.
pub(crate) fn document(report: &Report, settings: Value, taken_at: String) -> Outcome<Document> {
    let summary = report.summary.clone();
    Ok(Document {
        format: FORMAT,
        bench: summary["bench"].as_str().unwrap_or_default().to_owned(),
        commit: std::env::var(COMMIT).ok().filter(|commit| !commit.is_empty()),
        taken_at,
        machine: summary["machine"].clone(),
        settings,
        durability: serde_json::from_value(summary["durability"].clone())?,
        repetitions: serde_json::from_value(summary["repetitions"].clone())?,
        exact_delivery: serde_json::from_value(summary["exact_delivery"].clone())?,
        figures: match &summary["figures"] {
            Value::Null => Vec::new(),
            figures => serde_json::from_value(figures.clone())?,
        },
        summary,
        raw: report.raw.clone(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_report_that_says_little_is_still_a_document() {
        let summary = json!({ "bench": "idle", "machine": { "processors": 2 } });
        let report = Report { table: String::new(), raw: Value::Null, summary };
        let document = document(&report, json!({ "workers": 3 }), "2026-01-01T00:00:00Z".into()).expect("made");
        assert_eq!((document.bench.as_str(), document.durability, document.figures), ("idle", None, Vec::new()));
    }

    #[test]
    fn jobs_that_are_missing_or_done_twice_are_told() {
        let ended = |job: &str| (job.to_owned(), 1);
        let delivery = Delivery::of_ends(4, vec![ended("a"), ended("b"), ended("a")]);
        assert_eq!((delivery.jobs, delivery.lost, delivery.repeated), (4, 2, 1));
        let sum = Delivery::sum("all", [delivery.clone(), delivery].iter());
        assert_eq!((sum.jobs, sum.lost, sum.repeated), (8, 4, 2));
    }

    #[test]
    fn latencies_are_told_by_how_many_are_not_later() {
        let samples: Vec<f64> = (1..=1000).map(f64::from).collect();
        let note = Note::of_latencies("Late", [("idle".to_owned(), samples), ("never".to_owned(), Vec::new())]);
        assert_eq!(note.lines[0], ["idle", "1000", "500.0", "900.0", "990.0", "999.0", "1000.0"]);
        assert_eq!(note.lines[1], ["never", "0", "0.0", "0.0", "0.0", "0.0", "0.0"]);
    }

    #[test]
    fn figures_of_a_summary_come_into_the_document() {
        let figure = Figure::of("busbar", "jobs a second", "1/s", &[3.0, 1.0, 2.0]);
        assert_eq!((figure.min, figure.median, figure.max, figure.samples), (1.0, 2.0, 3.0, 3));
        let delivery = json!({ "checked": "ends", "jobs": 3, "lost": 0, "repeated": 0 });
        let summary = json!({ "bench": "jobs", "figures": [figure], "durability": "safe", "exact_delivery": delivery });
        let report = Report { table: String::new(), raw: Value::Null, summary };
        let made = document(&report, Value::Null, String::new()).expect("made");
        assert_eq!((made.figures, made.durability.as_deref()), (vec![figure], Some("safe")));
        assert_eq!(made.exact_delivery.map(|delivery| delivery.jobs), Some(3));
    }
}
