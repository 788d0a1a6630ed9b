//! Ranges of odd numbers, in chunks, checked against known values.

use busbar_api::{JobView, SubmitRequest};
use serde::{Deserialize, Serialize};

use super::Findings;
use super::collect::{Summary, run_all};
use crate::client::Client;
use crate::failure::Failure;
use crate::render::{framed, grouped, line};

const TOPIC: &str = "job.bpsw.main_odds";
const TASK_TYPE: &str = "main_odds";

/// A range and what is known about it. Both ends are inclusive.
struct Range {
    title: &'static str,
    mode: &'static str,
    from: u128,
    to: u128,
    /// Numbers of one job.
    chunk: u128,
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

#[derive(Debug, Serialize)]
struct Input<'a> {
    task_type: &'a str,
    from: String,
    to: String,
    mode: &'a str,
}

/// The members of a result that are added up.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
struct Found {
    checked: u64,
    primes: u64,
    #[serde(default)]
    spsp2: u64,
    #[serde(default)]
    slpsp: u64,
    counterexamples: Vec<serde_json::Value>,
}

pub(super) fn run(client: &Client, findings: &mut Findings) -> Result<(), Failure> {
    let mut requests = Vec::new();
    for range in &RANGES {
        for (from, to) in chunks(range) {
            let input = Input { task_type: TASK_TYPE, from: from.to_string(), to: to.to_string(), mode: range.mode };
            requests.push(SubmitRequest::new(TOPIC, &input).map_err(std::io::Error::from)?);
        }
    }
    let views = run_all(client, "primes", &requests)?;
    let mut rest = &views[..];
    let mut rows = Vec::new();
    for range in &RANGES {
        let (own, others) = rest.split_at(chunks(range).count());
        rest = others;
        rows.push(row(range, own, findings)?);
    }
    line(&framed(&["range", "mode", "odds", "primes", "known", "", "spsp(2) / slpsp", "jobs", "time", "worker"], rows))
}

fn row(range: &Range, views: &[JobView], findings: &mut Findings) -> Result<Vec<String>, Failure> {
    let found = add_up(views)?;
    let wrong = check(range, &found);
    let mark = if wrong.is_empty() { "✓" } else { "✗" };
    findings.extend(wrong);
    let pseudoprimes = range.pseudoprimes.map(|_| format!("{} / {}", found.spsp2, found.slpsp)).unwrap_or_default();
    let summary = Summary::of(views);
    Ok(vec![
        range.title.to_owned(),
        range.mode.to_owned(),
        grouped(found.checked),
        grouped(found.primes),
        grouped(range.primes),
        mark.to_owned(),
        pseudoprimes,
        views.len().to_string(),
        format!("{:.2} s", summary.elapsed.as_secs_f64()),
        summary.worker_names(),
    ])
}

fn add_up(views: &[JobView]) -> Result<Found, Failure> {
    let mut sum = Found::default();
    for view in views {
        let unreadable = |detail: String| Failure::Failed(format!("the result of the job {} cannot be read: {detail}", view.id));
        let text = view.result.as_ref().ok_or_else(|| unreadable("it has none".to_owned()))?;
        let found: Found = serde_json::from_str(text.get()).map_err(|error| unreadable(error.to_string()))?;
        sum.checked += found.checked;
        sum.primes += found.primes;
        sum.spsp2 += found.spsp2;
        sum.slpsp += found.slpsp;
        sum.counterexamples.extend(found.counterexamples);
    }
    Ok(sum)
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

/// The range in parts, both ends inclusive.
fn chunks(range: &Range) -> impl Iterator<Item = (u128, u128)> {
    let (to, chunk) = (range.to, range.chunk);
    let starts = std::iter::successors(Some(range.from), move |from| Some(from + chunk));
    starts.take_while(move |from| *from <= to).map(move |from| (from, to.min(from + chunk - 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_each_range_without_overlap() {
        for range in &RANGES {
            let mut next = range.from;
            let mut counted = 0;
            for (from, to) in chunks(range) {
                assert_eq!(from, next, "{}", range.title);
                assert!(to >= from && to <= range.to, "{}", range.title);
                next = to + 1;
                counted += odds(from, to);
            }
            assert_eq!((next, counted), (range.to + 1, odds(range.from, range.to)), "{}", range.title);
        }
    }

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
        let right = Found { checked: 499_999, primes: 78_497, spsp2: 46, slpsp: 58, counterexamples: Vec::new() };
        assert_eq!(check(range, &right), Vec::<String>::new());
        let wrong = Found { primes: 78_496, slpsp: 59, counterexamples: vec![serde_json::Value::Null], ..right };
        assert_eq!(check(range, &wrong).len(), 3);
    }
}
