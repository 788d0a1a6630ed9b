//! Repetitions in three figures: the least, the middle one, the most; and the form in which results are published.

use serde::Serialize;
use serde_json::{Value, json};

use crate::figures::{median, rounded};

/// What repetitions of one measurement came to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Zeros without samples.
    pub(crate) fn of(samples: impl IntoIterator<Item = f64>) -> Self {
        let samples: Vec<f64> = samples.into_iter().collect();
        let edge = |pick: fn(f64, f64) -> f64| samples.iter().copied().reduce(pick).unwrap_or_default();
        Self { min: rounded(edge(f64::min)), median: rounded(median(&samples)), max: rounded(edge(f64::max)) }
    }

    /// What [`Spread::of`] made, from its JSON.
    pub(crate) fn read(value: &Value) -> Self {
        let part = |name: &str| value[name].as_f64().unwrap_or_default();
        Self { min: part("min"), median: part("median"), max: part("max") }
    }

    /// `min / median / max`, with so many places after the point.
    pub(crate) fn words(&self, places: usize) -> String {
        format!("{:.places$} / {:.places$} / {:.places$}", self.min, self.median, self.max)
    }
}

/// One number about one thing, as often as it was measured: what results of all benchmarks have in common.
pub(crate) fn figure(of: &str, name: &str, unit: &str, samples: &[f64]) -> Value {
    let Spread { min, median, max } = Spread::of(samples.iter().copied());
    json!({ "of": of, "name": name, "unit": unit, "min": min, "median": median, "max": max, "samples": samples.len() })
}

/// Whether everything was done exactly once, in the same form.
pub(crate) fn delivery(checked: &str, jobs: usize, lost: usize, repeated: usize) -> Value {
    json!({ "checked": checked, "jobs": jobs, "lost": lost, "repeated": repeated })
}

/// The value that so many thousandths of the samples do not exceed (nearest rank); 0 without samples.
pub(crate) fn permille(samples: &[f64], permille: usize) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * permille).div_ceil(1000).max(1);
    rounded(sorted.get(rank - 1).copied().unwrap_or_default())
}
