//! Puts what `wire` and `work` have measured into the published form of results, so that it can be drawn, listed and compared. The programs
//! belong to crates that know nothing of benchmarks on servers, and write what they saw in forms of their own; `tools/bench` calls this.

use std::fs;
use std::path::PathBuf;
use std::thread;

use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use crate::figure::Figure;

/// `tools/bench` puts the commit there that it has built.
const COMMIT: &str = "BUSBAR_BENCH_COMMIT";

/// What to convert.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Whose form it has.
    #[arg(long, value_enum)]
    bench: Bench,
    /// What the program wrote.
    #[arg(long, value_name = "FILE")]
    raw: PathBuf,
    /// Where the result goes.
    #[arg(long, value_name = "FILE")]
    json: PathBuf,
    /// When it was taken, RFC 3339.
    #[arg(long, value_name = "TIME")]
    taken_at: String,
    /// The options that the program was given.
    #[arg(last = true)]
    options: Vec<String>,
}

/// Programs with forms of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Bench {
    Wire,
    Work,
}

impl Bench {
    fn name(self) -> &'static str {
        match self {
            Self::Wire => "wire",
            Self::Work => "work",
        }
    }
}

/// What a program's own form holds.
#[derive(Debug, Default, PartialEq)]
struct Content {
    figures: Vec<Figure>,
    /// Who was left out, and why.
    skipped: Vec<(String, String)>,
}

/// Converts.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let Arguments { bench, raw, json: file, taken_at, options } = arguments;
    let raw: Value = serde_json::from_slice(&fs::read(raw)?).map_err(|error| format!("{}: {error}", raw.display()))?;
    let content = match bench {
        Bench::Wire => wire(&raw),
        Bench::Work => work(&raw),
    };
    if content.figures.is_empty() {
        return Err(format!("{} has no figures of {}", arguments.raw.display(), bench.name()).into());
    }
    let document = document(*bench, &content, &raw, taken_at, options);
    fs::write(file, serde_json::to_string_pretty(&document)? + "\n")?;
    eprintln!("raw figures: {}", file.display());
    Ok(())
}

fn document(bench: Bench, content: &Content, raw: &Value, taken_at: &str, options: &[String]) -> Value {
    let lines: Vec<Value> = content.skipped.iter().map(|(who, why)| json!([who, why])).collect();
    let notes = json!([{ "title": "What could not be measured", "head": ["", "why"], "lines": lines }]);
    let settings: Map<String, Value> = [(bench.name().to_owned(), settings(options))].into_iter().collect();
    json!({
        "format": 1, "bench": bench.name(), "commit": std::env::var(COMMIT).ok().filter(|commit| !commit.is_empty()),
        "taken_at": taken_at, "machine": machine(), "settings": settings, "durability": null, "repetitions": null,
        "exact_delivery": null, "figures": content.figures,
        "summary": { "bench": bench.name(), "notes": if lines_are_there(&notes) { notes } else { json!([]) } },
        "raw": raw,
    })
}

fn lines_are_there(notes: &Value) -> bool {
    notes[0]["lines"].as_array().is_some_and(|lines| !lines.is_empty())
}

/// `--runs 3 --rounds=5` as an object. Where the result goes makes no difference to it.
fn settings(options: &[String]) -> Value {
    let mut settings = Map::new();
    let mut name: Option<String> = None;
    for option in options {
        match (option.strip_prefix("--"), name.take()) {
            (Some(next), _) => match next.split_once('=') {
                Some((next, value)) => drop(settings.insert(next.to_owned(), json!(value))),
                None => name = Some(next.to_owned()),
            },
            (None, Some(name)) => drop(settings.insert(name, json!(option))),
            (None, None) => {}
        }
    }
    settings.remove("json");
    Value::Object(settings)
}

fn machine() -> Value {
    let field = |path: &str, name: &str| {
        let text = fs::read_to_string(path).ok()?;
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    json!({
        "processors": thread::available_parallelism().map_or(1, usize::from),
        "processor": field("/proc/cpuinfo", "model name"),
        "memory": field("/proc/meminfo", "MemTotal"),
        "kernel": fs::read_to_string("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned()).ok(),
        "build": "release",
    })
}

/// A list of names with two times each.
fn wire(raw: &Value) -> Content {
    let mut content = Content::default();
    for row in raw.as_array().into_iter().flatten() {
        let name = row["name"].as_str().unwrap_or_default();
        for (of, key) in [("ours", "ours_ns"), ("the bare libraries", "bare_ns")] {
            if let Some(time) = row[key].as_f64() {
                content.figures.push(Figure::of(of, name, "ns", &[time]));
            }
        }
    }
    content
}

/// Rows, and contests that have rows of their own below a title.
fn work(raw: &Value) -> Content {
    let mut content = Content::default();
    for row in raw["rows"].as_array().into_iter().flatten() {
        match row["title"].as_str() {
            Some(title) => row["rows"].as_array().into_iter().flatten().for_each(|inner| content.take(inner, title)),
            None => content.take(row, "the sandbox"),
        }
    }
    content
}

impl Content {
    /// In a contest everybody did the same; elsewhere a row is about something of its own.
    fn take(&mut self, row: &Value, title: &str) {
        let what = row["what"].as_str().unwrap_or_default().trim();
        if let Some(why) = row["skipped"].as_str() {
            self.skipped.push((format!("{title}: {what}"), why.to_owned()));
            return;
        }
        let samples: Vec<f64> = row["raw"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
        let Some(unit) = row["unit"].as_str().filter(|_| !samples.is_empty()) else { return };
        self.figures.push(Figure::of(what, title, unit, &samples));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_of_wire_are_figures() {
        let content = wire(&json!([{ "name": "decode", "bare_ns": 2.0, "ours_ns": 3.0, "times": 1.5 }]));
        let told: Vec<_> =
            content.figures.iter().map(|figure| (figure.of.as_str(), figure.name.as_str(), figure.median)).collect();
        assert_eq!(told, [("ours", "decode", 3.0), ("the bare libraries", "decode", 2.0)]);
    }

    #[test]
    fn rows_and_contests_of_work_are_figures_and_the_absent_are_told() {
        let raw = json!({ "rows": [
            { "what": "cold start", "unit": "ms", "median": 2.0, "raw": [3.0, 1.0, 2.0] },
            { "title": "hunt", "counted": 5, "rows": [
                { "what": "guest", "unit": "M/s", "median": 4.0, "raw": [4.0] },
                { "what": "PARI/GP", "skipped": "it is not installed" },
            ] },
        ] });
        let content = work(&raw);
        assert_eq!(content.figures[0], Figure::of("cold start", "the sandbox", "ms", &[1.0, 2.0, 3.0]));
        assert_eq!((content.figures[1].of.as_str(), content.figures[1].name.as_str()), ("guest", "hunt"));
        assert_eq!(content.skipped, [("hunt: PARI/GP".to_owned(), "it is not installed".to_owned())]);
        let document = document(Bench::Work, &content, &raw, "2026-01-01T00:00:00Z", &["--runs".to_owned(), "3".to_owned()]);
        assert_eq!(document["settings"], json!({ "work": { "runs": "3" } }));
        assert_eq!(document["summary"]["notes"][0]["lines"][0][0], "hunt: PARI/GP");
    }

    #[test]
    fn options_become_settings() {
        let options = ["--runs", "3", "--rounds=5", "--quiet", "--last", "x", "--json", "f"].map(str::to_owned);
        assert_eq!(settings(&options), json!({ "runs": "3", "rounds": "5", "last": "x" }));
    }
}
