//! Counts the words of a text, or of the words that start in a byte range of an artifact.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Component, Path};

use serde::Serialize;

use crate::progress::Progress;
use crate::words::{Span, for_each_word};

/// What a part of a text holds. Words are sorted, so that equal parts give equal bytes.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Counted {
    pub(crate) counts: BTreeMap<String, u64>,
    pub(crate) words: u64,
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

pub(crate) fn count_text(text: &str) -> Result<Counted, MapError> {
    count(text.as_bytes(), Span::new(0, text.len() as u64)).map_err(MapError::Text)
}

/// Counts the words that start from byte `start` (else the first) to before byte `end` (else the end) of an artifact.
pub(crate) fn count_artifact(folder: &Path, artifact: &str, start: Option<u64>, end: Option<u64>) -> Result<Counted, MapError> {
    let mut components = Path::new(artifact).components();
    let is_one_name = matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
    if !is_one_name {
        return Err(MapError::Name(artifact.to_owned()));
    }
    let unreadable = |error| MapError::Unreadable { artifact: artifact.to_owned(), error };
    let mut file = File::open(folder.join(artifact)).map_err(unreadable)?;
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
    count(file, span).map_err(unreadable)
}

fn count(reader: impl Read, span: Span) -> io::Result<Counted> {
    // Not the standard random state: equal work should take equal steps. The table is bounded by the memory limit.
    let mut counts: HashMap<String, u64, BuildHasherDefault<DefaultHasher>> = HashMap::default();
    let mut words = 0;
    let mut progress = Progress::new();
    let visit = |word: &str| {
        words += 1;
        match counts.get_mut(word) {
            Some(count) => *count += 1,
            None => {
                counts.insert(word.to_owned(), 1);
            }
        }
    };
    let length = span.end - span.first_read;
    for_each_word(reader, span, visit, |position| progress.tell(position - span.first_read, length))?;
    progress.tell(1, 1);
    Ok(Counted { counts: counts.into_iter().collect(), words })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of its own for one test, removed at the end.
    struct Artifact(std::path::PathBuf);

    impl Artifact {
        fn new(name: &str, content: &[u8]) -> Self {
            let path = std::env::temp_dir().join(format!("wordcount-{}-{name}", std::process::id()));
            std::fs::write(&path, content).expect("temporary folder");
            Self(path)
        }

        fn count(&self, start: Option<u64>, end: Option<u64>) -> Result<Counted, MapError> {
            let (folder, name) = (self.0.parent().expect("a folder"), self.0.file_name().expect("a name"));
            count_artifact(folder, name.to_str().expect("ASCII"), start, end)
        }
    }

    impl Drop for Artifact {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn ranges_of_a_file_add_up_to_the_whole() {
        let text = "Der Fluß fließt. L'été, c'est l'été! ".repeat(5_000);
        let artifact = Artifact::new("ranges", text.as_bytes());
        let whole = artifact.count(None, None).expect("readable");
        assert_eq!(whole, count_text(&text).expect("readable"));
        assert_eq!((whole.words, whole.counts["l'été"]), (30_000, 10_000));
        let size = text.len() as u64;
        let piece = 4_099;
        let mut counts = BTreeMap::new();
        for start in (0..size).step_by(piece) {
            let part = artifact.count(Some(start), Some((start + piece as u64).min(size))).expect("readable");
            part.counts.into_iter().for_each(|(word, count)| *counts.entry(word).or_insert(0) += count);
        }
        assert_eq!(counts, whole.counts);
    }

    #[test]
    fn wrong_ranges_and_names() {
        let artifact = Artifact::new("wrong", b"abc");
        assert_eq!(artifact.count(Some(3), Some(3)).expect("empty").words, 0);
        assert!(matches!(artifact.count(Some(2), Some(1)), Err(MapError::Reversed { start: 2, end: 1 })));
        assert!(matches!(artifact.count(None, Some(4)), Err(MapError::BehindEnd { end: 4, size: 3, .. })));
        for name in ["", ".", "..", "a/b", "/etc/passwd", "../x"] {
            assert!(matches!(count_artifact(Path::new("/in"), name, None, None), Err(MapError::Name(_))), "{name:?}");
        }
    }
}
