//! `ctl wordcount`: the words of files and folders of this machine, counted by the pack `wordcount`.
//!
//! ```text
//!  paths, folders, patterns ─► files ─► one stream ─► artifacts (uploaded) ─► parts ─► runs of wordcount.count ─► a table
//! ```
//!
//! Nothing here holds a file, or all words: what is counted stays with the jobs that counted it.

pub(crate) mod corpus;
pub(crate) mod count;
pub(crate) mod files;
mod partial;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use self::corpus::{Corpus, Source};
use self::count::{Counted, Options, Sum, TopWord, count, parts};
use crate::client::Client;
use crate::failure::Failure;
use crate::render::{Output, counted, framed, grouped};

/// The demonstration text, so many times.
const DEMO: &str = "Busbar orchestrates distributed compute with trust and verification. ";
const DEMO_TIMES: usize = 400;
/// As many as the workflow takes.
const STOP_WORDS_MAX: usize = 2_000;

#[derive(Debug, Args)]
pub(crate) struct WordcountArgs {
    /// Files, folders, and patterns such as `docs/**/*.md`.
    #[arg(required_unless_present = "demo", conflicts_with = "demo", value_name = "PATH|GLOB")]
    paths: Vec<PathBuf>,
    /// Count the demonstration text instead: 8 words, 400 times each.
    #[arg(long)]
    demo: bool,
    /// How many of the most frequent words to show.
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(..=1_000))]
    top: u32,
    /// A file with words that do not count, separated by white space.
    #[arg(long, value_name = "FILE")]
    stop_words: Option<PathBuf>,
    /// Words with fewer characters do not count.
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u32).range(..=256))]
    min_length: u32,
}

/// What was counted.
#[derive(Debug, Serialize)]
struct Report {
    files: u64,
    bytes: u64,
    words: u64,
    distinct: u64,
    top: Vec<TopWord>,
    /// All counts: the results of these jobs, a shard of the words each.
    sums: Vec<Sum>,
    runs: Vec<String>,
}

pub(crate) fn run(args: &WordcountArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    let options = options(args)?;
    let (sources, files) = sources(args)?;
    let artifacts = upload(client, Corpus::new(sources))?;
    let (total, runs) = count(client, &parts(&artifacts), &options, so_far)?;
    let report = Report {
        files,
        bytes: artifacts.iter().map(|(_, bytes)| bytes).sum(),
        words: total.words,
        distinct: total.distinct,
        top: total.top,
        sums: total.sums,
        runs: runs.into_iter().map(|run| run.run_id).collect(),
    };
    output.show(&report, || words(&report))
}

fn options(args: &WordcountArgs) -> Result<Options, Failure> {
    let stop_words = args.stop_words.as_deref().map(stop_words).transpose()?.unwrap_or_default();
    Ok(Options { top: args.top, stop_words, min_length: args.min_length })
}

fn stop_words(path: &Path) -> Result<Vec<String>, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| files::unreadable(path, &error))?;
    let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    if words.len() > STOP_WORDS_MAX {
        let told = format!("{} has {} words, and at most {STOP_WORDS_MAX} can be stop words", path.display(), words.len());
        return Err(Failure::Usage(told));
    }
    Ok(words)
}

/// What is to be counted, and how many files that is.
fn sources(args: &WordcountArgs) -> Result<(Vec<Source>, u64), Failure> {
    if args.demo {
        return Ok((vec![Source::Text(DEMO.repeat(DEMO_TIMES))], 0));
    }
    let found = files::find(&args.paths)?;
    let number = found.paths.len() as u64;
    let mut told = format!("{} in {}", counted(found.bytes, "byte"), counted(number, "file"));
    if found.passed_over > 0 {
        told = format!("{told}; passed over, as links or no text: {}", grouped(found.passed_over));
    }
    tell(&told);
    if found.not_utf8 > 0 {
        tell(&format!("not UTF-8: {}; bytes that are not belong to no word", counted(found.not_utf8, "file")));
    }
    Ok((found.paths.into_iter().map(Source::File).collect(), number))
}

/// Uploads everything; the artifacts, with their sizes.
pub(crate) fn upload(client: &Client, mut corpus: Corpus) -> Result<Vec<(String, u64)>, Failure> {
    let mut artifacts = Vec::new();
    loop {
        let broken = match corpus.next_artifact() {
            Ok(None) => return Ok(artifacts),
            Ok(Some(bytes)) => {
                let name = format!("wordcount-{}", artifacts.len() + 1);
                match client.upload(&name, bytes)? {
                    Ok(kept) => {
                        artifacts.push((kept.artifact_id, kept.size_bytes));
                        continue;
                    }
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        return Err(files::unreadable(Path::new(corpus.name()), &broken));
    }
}

/// A result that is exact for what was counted so far.
fn so_far(counted: &Counted<'_>) -> Result<(), Failure> {
    let percent = counted.bytes.saturating_mul(100) / counted.of.max(1);
    let top: Vec<String> = counted.total.top.iter().take(5).map(|top| format!("{} {}", top.word, grouped(top.count))).collect();
    tell(&format!(
        "  {percent:>3} %: {} words, {} different; {} (run {})",
        grouped(counted.total.words),
        grouped(counted.total.distinct),
        top.join(", "),
        counted.run.run_id,
    ));
    Ok(())
}

/// What is said on the way does not belong to the answer.
fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn words(report: &Report) -> String {
    let rows = report.top.iter().map(|top| vec![top.word.clone(), grouped(top.count)]);
    let table = if report.top.is_empty() { String::new() } else { framed(&["word", "count"], rows) + "\n" };
    let of = if report.files == 0 { "the demonstration text".to_owned() } else { counted(report.files, "file") };
    format!(
        "{table}  {}, {} different, in {of}\n  all counts: `{}`",
        counted(report.words, "word"),
        grouped(report.distinct),
        report.runs.last().map(|run| format!("ctl run output {run}")).unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demonstration_text_has_eight_words() {
        let text = DEMO.repeat(DEMO_TIMES);
        let distinct: std::collections::BTreeSet<&str> = text.split_whitespace().collect();
        assert_eq!((distinct.len(), text.split_whitespace().count()), (8, 3_200));
    }

    #[test]
    fn no_words_have_no_table() {
        let top = |words: &[&str]| words.iter().map(|word| TopWord { word: (*word).to_owned(), count: 1 }).collect();
        let told = |top| words(&Report { files: 1, bytes: 9, words: 0, distinct: 0, top, sums: Vec::new(), runs: Vec::new() });
        assert!(told(top(&[])).starts_with("  0 words, 0 different, in 1 file\n"));
        assert!(told(top(&["a"])).starts_with("┌"));
    }

    #[test]
    fn too_many_stop_words_are_refused() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "the and\nor").expect("written");
        assert_eq!(stop_words(file.path()).expect("few"), ["the", "and", "or"]);
        std::fs::write(file.path(), "a ".repeat(STOP_WORDS_MAX + 1)).expect("written");
        assert!(stop_words(file.path()).expect_err("many").to_string().contains("2001 words"));
    }
}
