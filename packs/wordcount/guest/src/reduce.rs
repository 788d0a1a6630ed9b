//! Adds up the counts of several parts: parts in the input, and parts that are artifacts.
//!
//! With a *shard*, only the words whose hash falls into it are added up: as many jobs as there are shards add up what no single one
//! could hold. Their sums have no word in common, so that the most frequent words of all are among the most frequent of each
//! (`outline`).

use std::fs::File;
use std::io::{self, Cursor, Read, Seek, Write};
use std::path::Path;

use serde::Serialize;

use crate::counts::{Counts, Ranked, rank};
use crate::files;
use crate::part::{self, Outline, PartError};
use crate::progress::Progress;
use crate::shard::Shard;
use crate::written::Sum;

/// The sum of parts without its counts.
#[derive(Debug, Serialize)]
pub(crate) struct Total {
    words: u64,
    distinct: u64,
    top: Vec<Ranked>,
}

/// Why parts cannot be added up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReduceError {
    #[error("{part}: {error}")]
    Part { part: String, error: PartError },
    #[error("input: artifact is not a name of one file: {0:?}")]
    Name(String),
    #[error("input: the sums do not fit 64 bits")]
    TooMany,
}

/// What is to be added up.
#[derive(Debug, Default)]
pub(crate) struct Parts<'a> {
    pub(crate) inline: Vec<&'a str>,
    pub(crate) artifacts: Vec<String>,
}

/// A part, wherever it is.
trait Bytes: Read + Seek {}

impl<T: Read + Seek> Bytes for T {}

/// The sum of the parts, or of their words of one shard, with the `top` most frequent words if asked for.
pub(crate) fn merge(parts: &Parts<'_>, folder: &Path, shard: Shard, top: Option<u32>) -> Result<Sum, ReduceError> {
    let mut counts = Counts::default();
    for_each_part(parts, folder, |part| part::add(part, shard, &mut counts))?;
    let top = top.map(|top| counts.top(top));
    Ok(Sum { counts, top })
}

/// The sum of parts that have no word in common, without their counts: each brings its own list of the most frequent words.
pub(crate) fn outline(parts: &Parts<'_>, folder: &Path, top: u32) -> Result<Total, ReduceError> {
    let mut outlines = Vec::new();
    for_each_part(parts, folder, |part| {
        outlines.push(part::outline(part, top)?);
        Ok(())
    })?;
    let sum = |of: fn(&Outline) -> u64| outlines.iter().map(of).try_fold(0_u64, u64::checked_add).ok_or(ReduceError::TooMany);
    let (words, distinct) = (sum(|part| part.words)?, sum(|part| part.distinct)?);
    let mut top_of_all: Vec<Ranked> = outlines.into_iter().flat_map(|part| part.top).collect();
    top_of_all.sort_unstable_by(|a, b| rank((&a.word, a.count), (&b.word, b.count)));
    top_of_all.truncate(usize::try_from(top).unwrap_or(usize::MAX));
    Ok(Total { words, distinct, top: top_of_all })
}

impl Total {
    /// Writes it as one JSON value.
    pub(crate) fn write(&self, mut to: impl Write) -> io::Result<()> {
        serde_json::to_writer(&mut to, self)?;
        to.flush()
    }
}

/// One part after the other: never more than one is in memory.
fn for_each_part(
    parts: &Parts<'_>,
    folder: &Path,
    mut visit: impl FnMut(&mut dyn Bytes) -> Result<(), PartError>,
) -> Result<(), ReduceError> {
    let total = (parts.inline.len() + parts.artifacts.len()) as u64;
    let mut progress = Progress::new();
    for (index, part) in parts.inline.iter().enumerate() {
        visit(&mut Cursor::new(part)).map_err(|error| ReduceError::Part { part: format!("input: parts[{index}]"), error })?;
    }
    for (done, artifact) in (parts.inline.len() as u64..).zip(&parts.artifacts) {
        progress.tell(done, total);
        let path = files::below(folder, artifact).ok_or_else(|| ReduceError::Name(artifact.to_owned()))?;
        let visited = File::open(path).map_err(PartError::from).and_then(|mut file| visit(&mut file));
        visited.map_err(|error| ReduceError::Part { part: format!("artifact {artifact}"), error })?;
    }
    progress.tell(1, 1);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const ALL: Shard = Shard::ALL;

    fn sum(parts: &[&str], top: Option<u32>) -> Result<String, String> {
        let parts = Parts { inline: parts.to_vec(), artifacts: Vec::new() };
        let merged = merge(&parts, Path::new("/nonexistent"), ALL, top).map_err(|error| error.to_string())?;
        Ok(written(&merged))
    }

    fn written(sum: &Sum) -> String {
        let mut bytes = Vec::new();
        sum.write(&mut bytes).expect("memory");
        String::from_utf8(bytes).expect("JSON is text")
    }

    #[test]
    fn adds_up_and_ranks_with_ties_by_word() {
        let parts = [
            r#"{"words":3,"distinct":2,"counts":{"b":2,"c":1}}"#,
            r#"{"words":4,"distinct":2,"top":[{"word":"a","count":2}],"counts":{"a":2,"c":2}}"#,
        ];
        let whole =
            r#"{"words":7,"distinct":3,"top":[{"word":"c","count":3},{"word":"a","count":2}],"counts":{"a":2,"b":2,"c":3}}"#;
        assert_eq!(sum(&parts, Some(2)).as_deref(), Ok(whole));
        assert_eq!(sum(&[], None).as_deref(), Ok(r#"{"words":0,"distinct":0,"counts":{}}"#));
    }

    #[test]
    fn refuses_parts_that_contradict_themselves() {
        let refused = |parts: &[&str]| sum(parts, None).expect_err("refused");
        let wrong = refused(&[r#"{"counts":{},"words":0}"#, r#"{"counts":{"a":1},"words":2}"#]);
        assert!(wrong.starts_with("input: parts[1]: words is 2, but its counts add up to 1"), "{wrong}");
        let huge = format!(r#"{{"counts":{{"a":{0}}},"words":{0}}}"#, u64::MAX);
        assert!(refused(&[&huge, r#"{"counts":{"a":1},"words":1}"#]).contains("does not fit 64 bits"));
        assert!(refused(&[r#"{"counts":{}}"#]).contains("missing field `words`"));
        assert!(refused(&[r#"{"counts":{},"words":0,"what":1}"#]).contains("unknown field `what`"));
        assert!(refused(&[r#"{"counts":{"a":1,"a":1},"words":2"#]).starts_with("input: parts[0]: EOF"));
    }

    /// Of parts with an index and without, as they may come together.
    #[test]
    fn shards_share_the_words_and_their_outlines_give_the_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("written");
        let part = |from: u64, to: u64| {
            let mut counts = Counts::default();
            (from..to).for_each(|n| counts.add(format!("w{n:05}").into(), n % 7 + 1).expect("small"));
            written(&Sum { counts, top: None })
        };
        let (small, large) = (part(0, 300), part(200, 10_000));
        assert_eq!((small.contains(r#""index""#), large.contains(r#""index""#)), (false, true));
        write("a", &small);
        write("b", &large);
        let parts = Parts { inline: Vec::new(), artifacts: vec!["a".into(), "b".into()] };
        let whole = merge(&parts, folder.path(), ALL, Some(12)).expect("right");
        let names: Vec<String> = (0..5).map(|index| format!("shard-{index}")).collect();
        for (index, name) in (0..).zip(&names) {
            let shard = Shard::new(index, 5).expect("one of five");
            let sum = merge(&parts, folder.path(), shard, Some(12)).expect("right");
            assert!((1_800..2_200).contains(&sum.counts.distinct()), "{}", sum.counts.distinct());
            write(name, &written(&sum));
        }
        let sums = Parts { inline: Vec::new(), artifacts: names };
        let outline = outline(&sums, folder.path(), 12).expect("right");
        assert_eq!((outline.words, outline.distinct, Some(&outline.top)), (whole.counts.words(), 10_000, whole.top.as_ref()));
        assert_eq!(written(&merge(&sums, folder.path(), ALL, Some(12)).expect("right")), written(&whole), "and no other words");
    }

    #[test]
    fn a_list_that_is_too_short_is_no_outline() {
        let short = r#"{"words":3,"distinct":3,"top":[{"word":"a","count":1}],"counts":{}}"#;
        let parts = Parts { inline: vec![short], artifacts: Vec::new() };
        let told = outline(&parts, Path::new("/"), 2).expect_err("refused").to_string();
        assert!(told.starts_with("input: parts[0]: top lists 1 of 3 words"), "{told}");
    }
}
