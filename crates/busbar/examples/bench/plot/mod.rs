//! `bench plot`: takes results over into `docs/benchmarks` and makes a page with tables and plots of each.
//!
//! ```text
//!  result.json ─► docs/benchmarks/<bench>-<flags>-<durability>.json ─► <same name>.md, <same name>-<n>.svg, the list in README.md
//! ```
//!
//! Without files it draws what is there anew.

use std::ffi::OsStr;
use std::fs;
use std::iter;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use crate::document::{Document, FORMAT};
use crate::{Outcome, say};

mod bars;
mod page;

/// The list in the index stands between these.
const LIST_BEGINS: &str = "<!-- list: written by tools/bench plot -->";
const LIST_ENDS: &str = "<!-- end of the list -->";

/// Results to publish.
#[derive(Clone, Debug, Args, Serialize)]
pub(crate) struct PlotArgs {
    /// Files that --json wrote; each replaces the published one of the same kind.
    files: Vec<PathBuf>,
    /// Where results are published.
    #[arg(long, value_name = "DIR", default_value = "docs/benchmarks")]
    docs: PathBuf,
}

/// Takes the files over and draws everything.
pub(crate) fn publish(args: &PlotArgs) -> Outcome<()> {
    for file in &args.files {
        let document = read(file)?;
        let name = name(&document);
        fs::write(args.docs.join(&name).with_extension("json"), serde_json::to_string_pretty(&document)? + "\n")?;
    }
    let mut files: Vec<PathBuf> = fs::read_dir(&args.docs)?.map(|entry| Ok(entry?.path())).collect::<Outcome<_>>()?;
    files.retain(|file| file.extension() == Some(OsStr::new("json")));
    files.sort();
    let mut list = String::new();
    for file in files {
        let document = read(&file)?;
        draw(&document, &args.docs)?;
        list.push_str(&page::list_line(&name(&document), &document));
    }
    let index = args.docs.join("README.md");
    let text = fs::read_to_string(&index).map_err(|error| format!("{}: {error}", index.display()))?;
    fs::write(&index, with_list(&text, &list).ok_or_else(|| format!("{} has no place for the list", index.display()))?)?;
    say(&format!("written to {}", args.docs.display()));
    Ok(())
}

fn read(file: &Path) -> Outcome<Document> {
    let document: Document = serde_json::from_slice(&fs::read(file)?).map_err(|error| format!("{}: {error}", file.display()))?;
    match document.format {
        FORMAT => Ok(document),
        other => Err(format!("{} has format {other}, this program knows {FORMAT}", file.display()).into()),
    }
}

/// What its files are called.
fn name(document: &Document) -> String {
    // What was measured otherwise stands beside what was not.
    let settings = document.settings[&document.bench].as_object().into_iter().flatten();
    let flags = settings.filter(|(_, value)| **value == Value::Bool(true)).map(|(flag, _)| flag.as_str());
    let parts = iter::once(document.bench.as_str()).chain(flags).chain(document.durability.as_deref());
    parts.collect::<Vec<_>>().join("-")
}

fn draw(document: &Document, docs: &Path) -> Outcome<()> {
    let name = name(document);
    let charts = page::charts(document);
    for (number, chart) in charts.iter().enumerate().filter(|(_, chart)| chart.is_drawn()) {
        fs::write(docs.join(page::picture(&name, number)), bars::svg(chart)?)?;
    }
    fs::write(docs.join(&name).with_extension("md"), page::page(&name, document, &charts))?;
    Ok(())
}

/// The index with another list.
fn with_list(index: &str, list: &str) -> Option<String> {
    let (before, rest) = index.split_once(LIST_BEGINS)?;
    let (_, after) = rest.split_once(LIST_ENDS)?;
    Some(format!("{before}{LIST_BEGINS}\n{list}{LIST_ENDS}{after}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::document::Figure;

    #[test]
    fn the_list_is_replaced_and_all_else_stays() {
        let index = format!("before\n{LIST_BEGINS}\nold\n{LIST_ENDS}\nafter\n");
        assert_eq!(with_list(&index, "new\n").expect("a list"), format!("before\n{LIST_BEGINS}\nnew\n{LIST_ENDS}\nafter\n"));
        assert_eq!(with_list("none", "new\n"), None);
    }

    #[test]
    fn what_was_measured_otherwise_has_a_name_of_its_own() {
        let named = |settings: Value| {
            let document = json!({
                "format": FORMAT, "bench": "jobs", "commit": "abc", "taken_at": "2026-01-01T00:00:00Z", "machine": {},
                "settings": { "jobs": settings }, "durability": "safe", "repetitions": 3, "exact_delivery": null, "figures": [],
                "summary": {}, "raw": null,
            });
            name(&serde_json::from_value(document).expect("a document"))
        };
        assert_eq!(named(json!({ "apart": true, "runs": 3 })), "jobs-apart-safe");
        assert_eq!(named(json!({ "apart": false, "runs": 3 })), "jobs-safe");
    }

    #[test]
    fn a_result_becomes_a_page_with_its_pictures_and_a_line_of_the_index() {
        let temp = tempfile::tempdir().expect("tempdir");
        let figures = ["Busbar", "Other"].map(|of| Figure::of(of, "jobs in bulk", "jobs/s", &[1.0, 2.0, 4.0]));
        let notes = json!([{ "title": "Settings", "head": ["of", "says"], "lines": [["Other", "a|b"]] }]);
        let result = json!({
            "format": FORMAT, "bench": "peers", "commit": "abc", "taken_at": "2026-01-01T00:00:00Z", "machine": {},
            "settings": { "peers": { "jobs": 10, "only": [], "often": false, "spread": true } }, "durability": "fast", "repetitions": 3,
            "exact_delivery": { "checked": "all", "jobs": 10, "lost": 0, "repeated": 0 },
            "figures": figures, "summary": { "notes": notes }, "raw": null,
        });
        let (file, docs) = (temp.path().join("result.json"), temp.path().join("docs"));
        fs::create_dir(&docs).expect("made");
        fs::write(&file, result.to_string()).expect("written");
        fs::write(docs.join("README.md"), format!("{LIST_BEGINS}\n{LIST_ENDS}\n")).expect("written");
        publish(&PlotArgs { files: vec![file], docs: docs.clone() }).expect("published");
        let text = |name: &str| fs::read_to_string(docs.join(name)).expect(name);
        assert!(text("README.md").contains("[peers-spread-fast](peers-spread-fast.md)"));
        assert!(text("peers-spread-fast.md").contains("| Busbar | 1 | 2 | 4 | 3 |"), "{}", text("peers-spread-fast.md"));
        assert!(
            text("peers-spread-fast.md").contains("| Other | a\\|b |")
                && text("peers-spread-fast.md").contains("tools/bench peers --jobs 10 --spread")
        );
        assert!(text("peers-spread-fast-0.svg").contains("<rect"));
        assert!(docs.join("peers-spread-fast.json").exists());
    }
}
