//! Counts the words of a text, or of the words that a byte range of an artifact owns.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use rustc_hash::FxHashSet;

use crate::counts::Counts;
use crate::files;
use crate::pieces::Span;
use crate::progress::Progress;
use crate::words::{for_each_word, normal};

/// Which words count.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    stop_words: FxHashSet<String>,
    characters_min: usize,
}

impl Wanted {
    /// Not the stop words, whatever their case, and none of fewer characters.
    pub(crate) fn new(stop_words: &[String], characters_min: u32) -> Self {
        let stop_words = stop_words.iter().map(|word| normal(word)).collect();
        Self { stop_words, characters_min: usize::try_from(characters_min).unwrap_or(usize::MAX) }
    }

    fn accepts(&self, word: &str) -> bool {
        // The number of bytes is at least that of characters: mostly that decides.
        let long_enough =
            self.characters_min <= 1 || (word.len() >= self.characters_min && word.chars().count() >= self.characters_min);
        long_enough && (self.stop_words.is_empty() || !self.stop_words.contains(word))
    }
}

/// Why a part could not be counted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MapError {
    #[error("input: artifact is not a name of one file: {0:?}")]
    Name(String),
    #[error("input: start {start} is after end {end}")]
    Reversed { start: u64, end: u64 },
    #[error("input: end {end} is behind the end of artifact {artifact}, which has {size} bytes")]
    BehindEnd { artifact: String, end: u64, size: u64 },
    #[error("artifact {artifact}: {error}")]
    Unreadable { artifact: String, error: io::Error },
    #[error("text: {0}")]
    Text(io::Error),
}

pub(crate) fn count_text(text: &str, wanted: &Wanted) -> Result<Counts, MapError> {
    count(text.as_bytes(), Span::new(0, text.len() as u64), wanted).map_err(MapError::Text)
}

/// Counts the words from byte `start` (else the first) to before byte `end` (else the end) of an artifact.
pub(crate) fn count_artifact(
    folder: &Path,
    artifact: &str,
    (start, end): (Option<u64>, Option<u64>),
    wanted: &Wanted,
) -> Result<Counts, MapError> {
    let path = files::below(folder, artifact).ok_or_else(|| MapError::Name(artifact.to_owned()))?;
    let unreadable = |error| MapError::Unreadable { artifact: artifact.to_owned(), error };
    let mut file = File::open(path).map_err(unreadable)?;
    let size = file.metadata().map_err(unreadable)?.len();
    let (start, end) = (start.unwrap_or(0), end.unwrap_or(size));
    if end > size {
        return Err(MapError::BehindEnd { artifact: artifact.to_owned(), end, size });
    }
    if start > end {
        return Err(MapError::Reversed { start, end });
    }
    let span = Span::new(start, end);
    file.seek(SeekFrom::Start(span.first_read)).map_err(unreadable)?;
    count(file, span, wanted).map_err(unreadable)
}

fn count(reader: impl Read, span: Span, wanted: &Wanted) -> io::Result<Counts> {
    let mut counts = Counts::default();
    let mut progress = Progress::new();
    let visit = |word: &str| {
        if wanted.accepts(word) {
            // There are fewer words than bytes, whose number fits.
            let _ = counts.add(word.into(), 1);
        }
    };
    let length = span.end - span.first_read;
    for_each_word(reader, span, visit, |position| progress.tell(position - span.first_read, length))?;
    progress.tell(1, 1);
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn by_word(counts: &Counts) -> BTreeMap<String, u64> {
        counts.iter().map(|(word, count)| (word.to_owned(), count)).collect()
    }

    fn folder(content: &[u8]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("temporary folder");
        std::fs::write(folder.path().join("a"), content).expect("written");
        folder
    }

    #[test]
    fn ranges_of_a_file_add_up_to_the_whole() {
        let text = "Der Fluß fließt. L'été, c'est l'été! ".repeat(5_000);
        let folder = folder(text.as_bytes());
        let count = |start, end| count_artifact(folder.path(), "a", (start, end), &Wanted::default()).expect("readable");
        let whole = count(None, None);
        assert_eq!(by_word(&whole), by_word(&count_text(&text, &Wanted::default()).expect("readable")));
        assert_eq!((whole.words(), whole.distinct(), by_word(&whole)["l'été"]), (30_000, 5, 10_000));
        let size = text.len() as u64;
        let mut counts = BTreeMap::new();
        for start in (0..size).step_by(4_099) {
            let part = count(Some(start), Some((start + 4_099).min(size)));
            by_word(&part).into_iter().for_each(|(word, count)| *counts.entry(word).or_insert(0) += count);
        }
        assert_eq!(counts, by_word(&whole));
    }

    #[test]
    fn stop_words_and_short_words_do_not_count() {
        let count = |stop: &[&str], min| {
            let stop: Vec<String> = stop.iter().map(|word| (*word).to_owned()).collect();
            by_word(&count_text("The cat and THE élan 東", &Wanted::new(&stop, min)).expect("readable"))
                .into_keys()
                .collect::<Vec<_>>()
        };
        assert_eq!(count(&["The", "AND"], 0), ["cat", "élan", "東"]);
        assert_eq!(count(&[], 4), ["élan"], "characters, not bytes");
    }

    #[test]
    fn wrong_ranges_and_names() {
        let folder = folder(b"abc");
        let count = |start, end| count_artifact(folder.path(), "a", (start, end), &Wanted::default());
        assert_eq!(count(Some(3), Some(3)).expect("empty").words(), 0);
        assert!(matches!(count(Some(2), Some(1)), Err(MapError::Reversed { start: 2, end: 1 })));
        assert!(matches!(count(None, Some(4)), Err(MapError::BehindEnd { end: 4, size: 3, .. })));
        for name in ["", ".", "..", "a/b", "/etc/passwd", "../x"] {
            let counted = count_artifact(folder.path(), name, (None, None), &Wanted::default());
            assert!(matches!(counted, Err(MapError::Name(_))), "{name:?}");
        }
    }
}
