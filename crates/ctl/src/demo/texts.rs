//! The words of real files: uploaded as artifacts, counted in parts on the workers, compared with a count of our own.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::Findings;
use super::words::Counts;
use crate::client::{Client, encode};
use crate::failure::Failure;
use crate::render::{counted, framed, grouped, line};
use crate::runs::elapsed;
use crate::wordcount::corpus::{Corpus, Source};
use crate::wordcount::count::{Options, TopWord, Total, count, parts};
use crate::wordcount::{files, upload};

const TOP: u32 = 10;
const FILES_MAX: usize = 2_000;
/// They are counted here, too, and in memory.
const BYTES_MAX: u64 = 256 * 1024 * 1024;

/// The counts of one shard.
#[derive(Debug, Deserialize)]
struct Shard {
    counts: BTreeMap<String, u64>,
}

/// The text files below a folder, by name. Hidden ones and links are passed over.
pub(super) fn find(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let found = files::find(&[dir.to_owned()])?;
    if found.paths.len() > FILES_MAX || found.bytes > BYTES_MAX {
        let told =
            format!("{} holds more than {FILES_MAX} text files or {BYTES_MAX} bytes: name a smaller folder", dir.display());
        return Err(Failure::Usage(told));
    }
    Ok(found.paths)
}

pub(super) fn run(client: &Client, files: &[PathBuf], findings: &mut Findings) -> Result<(), Failure> {
    let mut own = Counts::default();
    for path in files {
        own.add(&fs::read(path).map_err(|error| files::unreadable(path, &error))?);
    }
    let artifacts = upload(client, Corpus::new(files.iter().cloned().map(Source::File)))?;
    let parts = parts(&artifacts);
    let options = Options { top: TOP, ..Options::default() };
    let (total, runs) = count(client, &parts, &options, |_| Ok(()))?;
    let counts = all_counts(client, &total)?;
    let wrong = check(&total, &counts, &own);
    let mark = if wrong.is_empty() { "✓" } else { "✗" };
    findings.extend(wrong);
    line(&framed(&["word", "count", "counted here", ""], total.top.iter().map(|top| row(top, &own))))?;
    line(&format!(
        "  {}, {} different, in {} of {} {mark}\n  {} in {}, {:.2} s: `ctl run timeline {}`",
        counted(total.words, "word"),
        grouped(total.distinct),
        counted(files.len() as u64, "file"),
        counted(artifacts.iter().map(|(_, bytes)| bytes).sum(), "byte"),
        counted(parts.len() as u64, "map job"),
        counted(runs.len() as u64, "run"),
        runs.iter().map(elapsed).sum::<std::time::Duration>().as_secs_f64(),
        runs.last().map(|run| run.run_id.as_str()).unwrap_or_default(),
    ))
}

/// Every word, from the jobs that added them up.
fn all_counts(client: &Client, total: &Total) -> Result<BTreeMap<String, u64>, Failure> {
    let mut counts = BTreeMap::new();
    for sum in &total.sums {
        let path = format!("/api/v1/jobs/{}/result", encode(&sum.artifact));
        let shard: Shard = client.get(&path)?;
        counts.extend(shard.counts);
    }
    Ok(counts)
}

fn row(top: &TopWord, own: &Counts) -> Vec<String> {
    let counted = own.by_word.get(&top.word).copied().unwrap_or(0);
    let mark = if counted == top.count { "✓" } else { "✗" };
    vec![top.word.clone(), grouped(top.count), grouped(counted), mark.to_owned()]
}

/// What the workers counted otherwise than we did.
fn check(total: &Total, counts: &BTreeMap<String, u64>, own: &Counts) -> Findings {
    let mut wrong = Findings::new();
    if total.words != own.words {
        wrong.push(format!("the workers counted {} words, we {}", total.words, own.words));
    }
    if *counts != own.by_word {
        let word = counts.keys().chain(own.by_word.keys()).find(|word| counts.get(*word) != own.by_word.get(*word));
        wrong.push(format!("the workers counted the word {:?} otherwise than we did", word.map_or("", String::as_str)));
    }
    let top: Vec<(String, u64)> = total.top.iter().map(|top| (top.word.clone(), top.count)).collect();
    if top != own.top(TOP as usize) {
        wrong.push("the workers' list of the most frequent words is not ours".to_owned());
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_told() {
        let mut own = Counts::default();
        own.add(b"a b a");
        let checked = |a: u64, words: u64| {
            let top = vec![TopWord { word: "a".into(), count: a }, TopWord { word: "b".into(), count: 1 }];
            let total = Total { words, distinct: 2, top, sums: Vec::new() };
            check(&total, &[("a".to_owned(), a), ("b".to_owned(), 1)].into(), &own)
        };
        assert!(checked(2, 3).is_empty());
        assert_eq!(checked(3, 4).len(), 3);
    }
}
