//! Ranges of odd numbers, a run for each, checked against known values.

use busbar_api::RunView;
use serde::Deserialize;
use serde_json::json;

use super::Findings;
use crate::client::Client;
use crate::failure::Failure;
use crate::render::{framed, grouped, line};
use crate::runs::{Wanted, elapsed, output, run_all};

const WORKFLOW: &str = "bpsw.search";

/// A range and what is known about it. Both ends are inclusive.
struct Range {
    title: &'static str,
    mode: &'static str,
    from: u128,
    to: u128,
    /// Numbers of one job.
    chunk: u64,
    primes: u64,
    /// Composites that pass the strong base-2 test and the strong Lucas test: known of a census only.
    pseudoprimes: Option<(u64, u64)>,
}

const MILLION: u128 = 1_000_000;

const RANGES: [Range; 6] = [
    Range {
        title: "[3, 10^6]",
        mode: "census",
        from: 3,
        to: MILLION,
        chunk: 50_000,
        primes: 78_497,
        pseudoprimes: Some((46, 58)),
    },
    hunt("[10^12, +10^6]", 1_000_000_000_000, 36_249),
    hunt("[10^15, +10^6]", 1_000_000_000_000_000, 28_845),
    hunt("[10^18, +10^6]", 1_000_000_000_000_000_000, 24_280),
    hunt("[2^63, +10^6]", 1 << 63, 22_920),
    Range {
        title: "10,000 odds from 10^20+1",
        mode: "hunt",
        from: 100_000_000_000_000_000_001,
        to: 100_000_000_000_000_019_999,
        chunk: 2_500,
        primes: 419,
        pseudoprimes: None,
    },
];

const fn hunt(title: &'static str, from: u128, primes: u64) -> Range {
    // Both ends count, so that twenty equal parts have one number more than 50,000.
    Range { title, mode: "hunt", from, to: from + MILLION, chunk: 50_001, primes, pseudoprimes: None }
}

/// What a run has found, all parts together.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
struct Found {
    parts: u64,
    checked: u64,
    primes: u64,
    spsp2: u64,
    slpsp: u64,
    counterexamples: Vec<serde_json::Value>,
}

pub(super) fn run(client: &Client, findings: &mut Findings) -> Result<(), Failure> {
    let wanted: Vec<Wanted> = RANGES.iter().map(wanted).collect();
    let runs = run_all(client, "primes", &wanted)?;
    let rows: Result<Vec<_>, Failure> = RANGES.iter().zip(&runs).map(|(range, run)| row(client, range, run, findings)).collect();
    line(&framed(&["range", "mode", "odds", "primes", "known", "", "spsp(2) / slpsp", "jobs", "time"], rows?))
}

fn wanted(range: &Range) -> Wanted {
    let Range { from, to, mode, chunk, .. } = range;
    Wanted { workflow: WORKFLOW, input: json!({"from": from.to_string(), "to": to.to_string(), "mode": mode, "chunk": chunk}) }
}

fn row(client: &Client, range: &Range, run: &RunView, findings: &mut Findings) -> Result<Vec<String>, Failure> {
    let found: Found = output(client, run)?;
    let wrong = check(range, &found);
    let mark = if wrong.is_empty() { "✓" } else { "✗" };
    findings.extend(wrong);
    let pseudoprimes = range.pseudoprimes.map(|_| format!("{} / {}", found.spsp2, found.slpsp)).unwrap_or_default();
    Ok(vec![
        range.title.to_owned(),
        range.mode.to_owned(),
        grouped(found.checked),
        grouped(found.primes),
        grouped(range.primes),
        mark.to_owned(),
        pseudoprimes,
        // The parts, and the job that made them.
        (found.parts + 1).to_string(),
        format!("{:.2} s", elapsed(run).as_secs_f64()),
    ])
}

/// What is not as it is known to be.
fn check(range: &Range, found: &Found) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut demand = |what: &str, seen: u64, known: u64| {
        if seen != known {
            wrong.push(format!("{}: {what} should be {}, not {}", range.title, grouped(known), grouped(seen)));
        }
    };
    // The first range begins at 3, so that every odd number of it counts.
    demand("odd numbers", found.checked, odds(range.from, range.to));
    demand("primes", found.primes, range.primes);
    if let Some((spsp2, slpsp)) = range.pseudoprimes {
        demand("strong base-2 pseudoprimes", found.spsp2, spsp2);
        demand("strong Lucas pseudoprimes", found.slpsp, slpsp);
    }
    demand("counterexamples", found.counterexamples.len() as u64, 0);
    wrong
}

fn odds(from: u128, to: u128) -> u64 {
    u64::try_from(to.div_ceil(2) - from / 2).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_odds_of_the_ranges_are_as_many_as_they_should_be() {
        assert_eq!(odds(3, 10), 4);
        assert_eq!(odds(3, 3), 1);
        assert_eq!(odds(4, 4), 0);
        assert_eq!(odds(RANGES[5].from, RANGES[5].to), 10_000);
        assert_eq!(odds(RANGES[1].from, RANGES[1].to), 500_000);
    }

    #[test]
    fn every_deviation_is_told() {
        let range = &RANGES[0];
        let right = Found { parts: 20, checked: 499_999, primes: 78_497, spsp2: 46, slpsp: 58, counterexamples: Vec::new() };
        assert_eq!(check(range, &right), Vec::<String>::new());
        let wrong = Found { primes: 78_496, slpsp: 59, counterexamples: vec![serde_json::Value::Null], ..right };
        assert_eq!(check(range, &wrong).len(), 3);
    }
}
