//! A figure of the published form: one number about one thing, from all its samples.

use serde::Serialize;

/// One number about one thing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Figure {
    pub(crate) of: String,
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
        Self { of, name, unit, min: least(samples), median: median(samples), max: most(samples), samples: samples.len() }
    }
}

pub(crate) fn least(all: &[f64]) -> f64 {
    all.iter().copied().fold(f64::INFINITY, f64::min)
}

pub(crate) fn most(all: &[f64]) -> f64 {
    all.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

/// The middle one, or the mean of the two in the middle.
pub(crate) fn median(all: &[f64]) -> f64 {
    let mut sorted = all.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        even if even % 2 == 0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
        _ => sorted[middle],
    }
}
