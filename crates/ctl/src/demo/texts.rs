//! The words of real files: uploaded as artifacts, counted in parts on the workers, compared with a count of our own.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Findings;
use super::runs::{Wanted, elapsed, output, run_all};
use super::words::Counts;
use crate::client::Client;
use crate::failure::Failure;
use crate::render::{counted, framed, grouped, line};

const WORKFLOW: &str = "wordcount.count";
/// Bytes that one job counts.
const CHUNK: u64 = 128 * 1024;
const TOP: u32 = 10;
const FILES_MAX: usize = 2_000;
const BYTES_MAX: u64 = 256 * 1024 * 1024;
/// A file with a zero byte among its first ones is no text.
const PROBE: u64 = 8 * 1024;

/// A text file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TextFile {
    path: PathBuf,
    name: String,
}

#[derive(Debug, Serialize)]
struct Part {
    artifact: String,
    start: u64,
    end: u64,
}

/// What the run gives back.
#[derive(Debug, Deserialize)]
struct Total {
    words: u64,
    counts: BTreeMap<String, u64>,
    top: Vec<TopWord>,
}

#[derive(Debug, Deserialize)]
struct TopWord {
    word: String,
    count: u64,
}

/// The text files below a folder, by name. Hidden ones and links are passed over.
pub(super) fn find(dir: &Path) -> Result<Vec<TextFile>, Failure> {
    let mut files = Vec::new();
    let mut bytes = 0;
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        let mut entries = fs::read_dir(&folder)
            .and_then(Iterator::collect::<io::Result<Vec<_>>>)
            .map_err(|error| unreadable(&folder, &error))?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            let kind = entry.file_type().map_err(|error| unreadable(&path, &error))?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() && is_text(&path).map_err(|error| unreadable(&path, &error))? {
                bytes += entry.metadata().map_err(|error| unreadable(&path, &error))?.len();
                let name = path.strip_prefix(dir).unwrap_or(&path).display().to_string();
                files.push(TextFile { path, name });
            }
        }
    }
    if files.is_empty() {
        return Err(Failure::Usage(format!("there are no text files in {}: name a folder with --text DIR", dir.display())));
    }
    if files.len() > FILES_MAX || bytes > BYTES_MAX {
        let told =
            format!("{} holds more than {FILES_MAX} text files or {BYTES_MAX} bytes: name a smaller folder", dir.display());
        return Err(Failure::Usage(told));
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

pub(super) fn run(client: &Client, files: &[TextFile], findings: &mut Findings) -> Result<(), Failure> {
    let mut own = Counts::default();
    let mut parts = Vec::new();
    let mut bytes = 0;
    for file in files {
        let content = fs::read(&file.path).map_err(|error| unreadable(&file.path, &error))?;
        own.add(&content);
        let artifact = client.upload(&file.name, File::open(&file.path).map_err(|error| unreadable(&file.path, &error))?)?;
        if artifact.size_bytes != content.len() as u64 {
            return Err(Failure::Failed(format!("{} changed while it was read", file.path.display())));
        }
        bytes += artifact.size_bytes;
        let id = &artifact.artifact_id;
        parts.extend(ranges(artifact.size_bytes).map(|(start, end)| Part { artifact: id.clone(), start, end }));
    }
    let wanted = Wanted { workflow: WORKFLOW, input: json!({"parts": parts, "top": TOP}) };
    let runs = run_all(client, "words", &[wanted])?;
    for run in &runs {
        let total: Total = output(client, run)?;
        let wrong = check(&total, &own);
        let mark = if wrong.is_empty() { "✓" } else { "✗" };
        findings.extend(wrong);
        line(&framed(&["word", "count", "counted here", ""], total.top.iter().map(|top| row(top, &own))))?;
        let groups = run.steps.iter().find(|step| step.id == "reduce").and_then(|step| step.items).map_or(0, |items| items.total);
        line(&format!(
            "  {}, {} different, in {} of {} {mark}\n  {}, {}, {:.2} s: `ctl run timeline {}`",
            counted(total.words, "word"),
            grouped(total.counts.len() as u64),
            counted(files.len() as u64, "file"),
            counted(bytes, "byte"),
            counted(parts.len() as u64, "map job"),
            // Those that add up the parts, and the one that adds up the sums.
            counted(u64::from(groups) + 1, "reduce job"),
            elapsed(run).as_secs_f64(),
            run.run_id,
        ))?;
    }
    Ok(())
}

fn row(top: &TopWord, own: &Counts) -> Vec<String> {
    let counted = own.by_word.get(&top.word).copied().unwrap_or(0);
    let mark = if counted == top.count { "✓" } else { "✗" };
    vec![top.word.clone(), grouped(top.count), grouped(counted), mark.to_owned()]
}

/// What the workers counted otherwise than we did.
fn check(total: &Total, own: &Counts) -> Findings {
    let mut wrong = Findings::new();
    if total.words != own.words {
        wrong.push(format!("the workers counted {} words, we {}", total.words, own.words));
    }
    if total.counts != own.by_word {
        let word = total.counts.keys().chain(own.by_word.keys()).find(|word| total.counts.get(*word) != own.by_word.get(*word));
        wrong.push(format!("the workers counted the word {:?} otherwise than we did", word.map_or("", String::as_str)));
    }
    let top: Vec<(String, u64)> = total.top.iter().map(|top| (top.word.clone(), top.count)).collect();
    if top != own.top(TOP as usize) {
        wrong.push("the workers' list of the most frequent words is not ours".to_owned());
    }
    wrong
}

/// A file in parts: bytes, the end not included.
fn ranges(size: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..size.div_ceil(CHUNK)).map(move |part| (part * CHUNK, size.min((part + 1) * CHUNK)))
}

fn is_text(path: &Path) -> io::Result<bool> {
    let mut head = Vec::new();
    File::open(path)?.take(PROBE).read_to_end(&mut head)?;
    Ok(!head.is_empty() && !head.contains(&0))
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::Usage(format!("{} cannot be read: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cover_a_file() {
        assert_eq!(ranges(0).count(), 0);
        assert_eq!(ranges(10).collect::<Vec<_>>(), [(0, 10)]);
        assert_eq!(ranges(CHUNK + 1).collect::<Vec<_>>(), [(0, CHUNK), (CHUNK, CHUNK + 1)]);
    }

    #[test]
    fn only_texts_are_found() {
        let dir = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(dir.path().join("b/.git")).expect("made");
        for (name, content) in
            [("z.md", &b"text"[..]), ("b/a.txt", b"more"), ("b/.git/x", b"hidden"), ("bin", b"a\0b"), ("empty", b"")]
        {
            fs::write(dir.path().join(name), content).expect("written");
        }
        let names: Vec<String> = find(dir.path()).expect("texts").into_iter().map(|file| file.name).collect();
        assert_eq!(names, ["b/a.txt", "z.md"]);
        assert!(matches!(find(&dir.path().join("b/.git/..").join("none")), Err(Failure::Usage(_))));
    }

    #[test]
    fn a_difference_is_told() {
        let mut own = Counts::default();
        own.add(b"a b a");
        let total = |a: u64, words: u64| Total {
            words,
            counts: [("a".to_owned(), a), ("b".to_owned(), 1)].into(),
            top: vec![TopWord { word: "a".into(), count: a }, TopWord { word: "b".into(), count: 1 }],
        };
        assert!(check(&total(2, 3), &own).is_empty());
        assert_eq!(check(&total(3, 4), &own).len(), 3);
    }
}
