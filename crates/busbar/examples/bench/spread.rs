//! Repetitions in three numbers: the least, the middle one, the most.

use serde::Serialize;
use serde_json::Value;

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
