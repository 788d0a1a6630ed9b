//! Compares results of `tools/bench` of two commits that were taken in turn: medians, their ratio, and whether they differ by more than the
//! results of one commit differ among themselves. `tools/bench compare` builds the commits and calls it.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::figure::{Figure, least, median, most};

/// So many results of each are the least from which anything can be concluded: three against three lie apart by chance once in ten times,
/// four against four once in 35.
const SAMPLES_MIN: usize = 3;

/// What to compare.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Results of the first commit, which the other is compared with.
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    a: Vec<PathBuf>,
    /// Results of the second commit.
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    b: Vec<PathBuf>,
    /// Also write everything to this file, in the published form.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// The members of a result that matter here.
#[derive(Clone, Debug, Deserialize)]
struct Taken {
    bench: String,
    commit: Option<String>,
    taken_at: String,
    machine: Value,
    settings: Value,
    durability: Option<String>,
    exact_delivery: Option<Value>,
    figures: Vec<TakenFigure>,
}

/// A figure as one result has it.
#[derive(Clone, Debug, Deserialize)]
struct TakenFigure {
    of: String,
    name: String,
    unit: String,
    median: f64,
}

/// How two samples lie to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Every result of one is beyond every result of the other.
    Beyond,
    /// They overlap.
    Within,
    /// There are too few to say.
    TooFew,
}

impl Verdict {
    fn of(a: &[f64], b: &[f64]) -> Self {
        if a.len().min(b.len()) < SAMPLES_MIN {
            return Self::TooFew;
        }
        if least(a) > most(b) || least(b) > most(a) { Self::Beyond } else { Self::Within }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Beyond => "beyond the spread",
            Self::Within => "within the spread",
            Self::TooFew => "too few to say",
        }
    }
}

/// One figure of both commits.
#[derive(Clone, Debug)]
struct Pair {
    of: String,
    name: String,
    unit: String,
    a: Vec<f64>,
    b: Vec<f64>,
}

impl Pair {
    fn ratio(&self) -> f64 {
        median(&self.b) / median(&self.a)
    }

    fn line(&self) -> String {
        let cells = [&self.a, &self.b].map(|all| format!("{} [{}–{}]", short(median(all)), short(least(all)), short(most(all))));
        let verdict = Verdict::of(&self.a, &self.b).words();
        let what = format!("{}, {}, {}", self.of, self.name, self.unit);
        format!("{what:<64}  {:>26}  {:>26}  {:>7.3}  {verdict}", cells[0], cells[1], self.ratio())
    }

    fn figures(&self, commits: [&str; 2]) -> [Figure; 2] {
        let figure = |commit: &str, all: &[f64]| Figure::of(&format!("{commit}: {}", self.of), &self.name, &self.unit, all);
        [figure(commits[0], &self.a), figure(commits[1], &self.b)]
    }
}

/// Compares, and prints what came out.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let read = |files: &[PathBuf]| files.iter().map(|file| taken(file)).collect::<Result<Vec<Taken>, _>>();
    let (a, b) = (read(&arguments.a)?, read(&arguments.b)?);
    same_settings(a.iter().chain(&b))?;
    let pairs = pairs(&a, &b);
    if pairs.is_empty() {
        return Err("the results have no figure in common".into());
    }
    let commits = [commit(&a), commit(&b)];
    let head = format!("{:<64}  {:>26}  {:>26}  {:>7}", "median [least–most]", commits[0], commits[1], "ratio");
    let lines: Vec<String> = pairs.iter().map(Pair::line).collect();
    #[expect(clippy::print_stdout, reason = "this is what it was asked for")]
    {
        println!("{head}\n{}", lines.join("\n"));
    }
    if let Some(file) = &arguments.json {
        fs::write(file, serde_json::to_string_pretty(&document(&a, &b, &pairs))? + "\n")?;
    }
    Ok(())
}

fn taken(file: &Path) -> Result<Taken, Box<dyn std::error::Error>> {
    Ok(serde_json::from_slice(&fs::read(file)?).map_err(|error| format!("{}: {error}", file.display()))?)
}

/// Figures of other settings are figures of something else.
fn same_settings<'a>(mut all: impl Iterator<Item = &'a Taken>) -> Result<(), String> {
    let Some(first) = all.next() else { return Ok(()) };
    let same = |other: &Taken| other.bench == first.bench && other.durability == first.durability;
    match all.find(|other| !same(other)) {
        None => Ok(()),
        Some(other) => {
            Err(format!("{} at {} was taken otherwise than {} at {}", other.bench, other.taken_at, first.bench, first.taken_at))
        }
    }
}

fn commit(all: &[Taken]) -> &str {
    all.first().and_then(|taken| taken.commit.as_deref()).unwrap_or("an unknown commit")
}

/// The figures that every result of both has, in the order of the first.
fn pairs(a: &[Taken], b: &[Taken]) -> Vec<Pair> {
    let samples = |all: &[Taken], wanted: &TakenFigure| -> Option<Vec<f64>> {
        let same = |figure: &&TakenFigure| figure.of == wanted.of && figure.name == wanted.name && figure.unit == wanted.unit;
        all.iter().map(|taken| taken.figures.iter().find(same).map(|figure| figure.median)).collect()
    };
    let wanted = a.first().map_or(&[][..], |first| &first.figures);
    let pair = |figure: &TakenFigure| {
        let (a, b) = (samples(a, figure)?, samples(b, figure)?);
        Some(Pair { of: figure.of.clone(), name: figure.name.clone(), unit: figure.unit.clone(), a, b })
    };
    wanted.iter().filter_map(pair).collect()
}

/// The published form: figures of both, and what is said of them.
fn document(a: &[Taken], b: &[Taken], pairs: &[Pair]) -> Value {
    let commits = [commit(a), commit(b)];
    let first = a.first();
    let judged = |pair: &Pair| {
        json!({
            "of": pair.of, "name": pair.name, "unit": pair.unit, "ratio": pair.ratio(),
            "verdict": Verdict::of(&pair.a, &pair.b).words(), "a": pair.a, "b": pair.b,
        })
    };
    let lines: Vec<Value> = pairs
        .iter()
        .map(|pair| json!([format!("{}, {}", pair.of, pair.name), short(pair.ratio()), Verdict::of(&pair.a, &pair.b).words()]))
        .collect();
    let title = format!("{} divided by {}", commits[1], commits[0]);
    json!({
        "format": 1, "bench": "compare", "commit": format!("{} and {}", commits[0], commits[1]),
        "taken_at": first.map(|taken| taken.taken_at.clone()), "machine": first.map(|taken| taken.machine.clone()),
        "settings": { "compare": words(a, b) },
        "durability": first.and_then(|taken| taken.durability.clone()), "repetitions": a.len().min(b.len()),
        "exact_delivery": delivery(a.iter().chain(b)),
        "figures": pairs.iter().flat_map(|pair| pair.figures(commits)).collect::<Vec<_>>(),
        "summary": { "bench": "compare", "notes": [{ "title": title, "head": ["", "ratio", ""], "lines": lines }] },
        "raw": pairs.iter().map(judged).collect::<Vec<_>>(),
    })
}

/// The words after `tools/bench compare` with which it can be repeated.
fn words(a: &[Taken], b: &[Taken]) -> Vec<String> {
    let mut words = vec!["--rounds".to_owned(), a.len().min(b.len()).to_string(), commit(a).to_owned(), commit(b).to_owned()];
    words.push("--".to_owned());
    let settings = a.first().and_then(|taken| taken.settings[taken.bench.as_str()].as_object());
    // Each result is of one run: that is how they come in turn.
    for (name, value) in settings.into_iter().flatten().filter(|(name, _)| *name != "runs") {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        words.extend([format!("--{}", name.replace('_', "-")), value]);
    }
    words
}

/// All jobs of all results together; nothing if one does not say.
fn delivery<'a>(all: impl Iterator<Item = &'a Taken>) -> Option<Value> {
    let all: Vec<&Value> = all.map(|taken| taken.exact_delivery.as_ref()).collect::<Option<_>>()?;
    let sum = |name: &str| all.iter().filter_map(|one| one[name].as_u64()).sum::<u64>();
    let checked = &all.first()?["checked"];
    Some(json!({ "checked": checked, "jobs": sum("jobs"), "lost": sum("lost"), "repeated": sum("repeated") }))
}

/// As many places as matter.
fn short(value: f64) -> String {
    let places = if value.abs() >= 100.0 { 0 } else { 2 };
    format!("{value:.places$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(commit: &str, rate: f64, durability: &str, more: &[(&str, f64)]) -> Taken {
        let figure = |of: &str, median: f64| json!({ "of": of, "name": "jobs in bulk", "unit": "jobs/s", "median": median });
        let figures: Vec<Value> =
            std::iter::once(figure("busbar_sdk", rate)).chain(more.iter().map(|(of, median)| figure(of, *median))).collect();
        serde_json::from_value(json!({
            "bench": "jobs", "commit": commit, "taken_at": "2026-01-01T00:00:00Z", "machine": {}, "settings": { "jobs": { "jobs": 5 } },
            "durability": durability, "exact_delivery": { "checked": "ends", "jobs": 10, "lost": 0, "repeated": 1 }, "figures": figures,
        }))
        .expect("a result")
    }

    #[test]
    fn only_samples_that_lie_apart_differ() {
        assert_eq!(Verdict::of(&[1.0, 2.0, 3.0], &[3.1, 4.0, 5.0]), Verdict::Beyond);
        assert_eq!(Verdict::of(&[3.1, 4.0, 5.0], &[1.0, 2.0, 3.0]), Verdict::Beyond);
        assert_eq!(Verdict::of(&[1.0, 2.0, 3.5], &[3.1, 4.0, 5.0]), Verdict::Within);
        assert_eq!(Verdict::of(&[1.0, 2.0], &[3.1, 4.0, 5.0]), Verdict::TooFew);
    }

    #[test]
    fn figures_that_one_result_lacks_are_left_out() {
        let a = [result("a", 100.0, "fast", &[("gone", 1.0)]), result("a", 200.0, "fast", &[("gone", 1.0)])];
        let b = [result("b", 300.0, "fast", &[("new", 1.0)]), result("b", 400.0, "fast", &[])];
        let pairs = pairs(&a, &b);
        assert_eq!(pairs.len(), 1);
        assert!((pairs[0].ratio() - 350.0 / 150.0).abs() < 1e-9);
        let document = document(&a, &b, &pairs);
        assert_eq!(document["exact_delivery"], json!({ "checked": "ends", "jobs": 40, "lost": 0, "repeated": 4 }));
        assert_eq!(document["figures"][1]["of"], "b: busbar_sdk");
        assert_eq!(document["settings"]["compare"], json!(["--rounds", "2", "a", "b", "--", "--jobs", "5"]));
    }

    #[test]
    fn results_of_other_settings_are_refused() {
        let all = [result("a", 1.0, "fast", &[]), result("b", 1.0, "safe", &[])];
        assert!(same_settings(all.iter()).is_err());
        assert!(same_settings(all[..1].iter()).is_ok());
    }
}
