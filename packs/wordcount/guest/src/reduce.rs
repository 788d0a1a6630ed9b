//! Adds up the counts of several parts: parts in the input, and parts that are artifacts.
//!
//! With a *shard*, only the words whose hash falls into it are added up: as many jobs as there are shards add up what no single one
//! could hold. Their sums have no word in common, so that the most frequent words of all are among the most frequent of each
//! (`outline`).

use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeSeed as _;

use crate::counts::{Counts, Ranked, rank};
use crate::files;
use crate::part::{Outline, PartSeed, Shard};
use crate::progress::Progress;

/// The largest part that is read from an artifact: as much as a guest can write.
const PART_BYTES_MAX: u64 = 64 << 20;

/// The sum of all parts.
#[derive(Debug, Serialize)]
pub(crate) struct Merged {
    words: u64,
    distinct: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    top: Option<Vec<Ranked>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    counts: Option<Counts>,
}

/// Why parts cannot be added up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReduceError {
    #[error("input: {part}: {error}")]
    Part { part: String, error: serde_json::Error },
    #[error("input: artifact is not a name of one file: {0:?}")]
    Name(String),
    #[error("artifact {artifact}: {error}")]
    Unreadable { artifact: String, error: io::Error },
    #[error("artifact {artifact}: its {size} bytes are more than the {PART_BYTES_MAX} that are read")]
    TooLarge { artifact: String, size: u64 },
    #[error("input: the sums do not fit 64 bits")]
    TooMany,
}

/// What is to be added up.
#[derive(Debug, Default)]
pub(crate) struct Parts<'a> {
    pub(crate) inline: Vec<&'a str>,
    pub(crate) artifacts: Vec<String>,
}

/// The sum of the parts, or of their words of one shard, with the `top` most frequent words if asked for.
pub(crate) fn merge(parts: &Parts<'_>, folder: &Path, shard: Shard, top: Option<u32>) -> Result<Merged, ReduceError> {
    let mut counts = Counts::default();
    for_each_part(parts, folder, |name, json| {
        let failed = |error| ReduceError::Part { part: name.to_owned(), error };
        let mut json = serde_json::Deserializer::from_slice(json);
        PartSeed { counts: &mut counts, shard }.deserialize(&mut json).map_err(failed)?;
        json.end().map_err(failed)
    })?;
    let top = top.map(|top| counts.top(top));
    Ok(Merged { words: counts.words(), distinct: counts.distinct(), top, counts: Some(counts) })
}

/// The sum of parts that have no word in common, without their counts: each brings its own list of the most frequent words.
pub(crate) fn outline(parts: &Parts<'_>, folder: &Path, top: u32) -> Result<Merged, ReduceError> {
    let (mut words, mut distinct, mut all) = (0_u64, 0_u64, Vec::new());
    for_each_part(parts, folder, |name, json| {
        let part = Outline::parse(json, top).map_err(|error| ReduceError::Part { part: name.to_owned(), error })?;
        words = words.checked_add(part.words).ok_or(ReduceError::TooMany)?;
        distinct = distinct.checked_add(part.distinct).ok_or(ReduceError::TooMany)?;
        all.extend(part.top);
        Ok(())
    })?;
    all.sort_unstable_by(|a: &Ranked, b| rank((&a.word, a.count), (&b.word, b.count)));
    all.truncate(usize::try_from(top).unwrap_or(usize::MAX));
    Ok(Merged { words, distinct, top: Some(all), counts: None })
}

/// One part after the other: never more than one is in memory.
fn for_each_part(
    parts: &Parts<'_>,
    folder: &Path,
    mut visit: impl FnMut(&str, &[u8]) -> Result<(), ReduceError>,
) -> Result<(), ReduceError> {
    let total = (parts.inline.len() + parts.artifacts.len()) as u64;
    let mut progress = Progress::new();
    for (index, part) in parts.inline.iter().enumerate() {
        visit(&format!("parts[{index}]"), part.as_bytes())?;
    }
    for (done, artifact) in (parts.inline.len() as u64..).zip(&parts.artifacts) {
        progress.tell(done, total);
        visit(&format!("artifact {artifact}"), &read(folder, artifact)?)?;
    }
    progress.tell(1, 1);
    Ok(())
}

fn read(folder: &Path, artifact: &str) -> Result<Vec<u8>, ReduceError> {
    let path = files::below(folder, artifact).ok_or_else(|| ReduceError::Name(artifact.to_owned()))?;
    let unreadable = |error| ReduceError::Unreadable { artifact: artifact.to_owned(), error };
    let size = fs::metadata(&path).map_err(unreadable)?.len();
    if size > PART_BYTES_MAX {
        return Err(ReduceError::TooLarge { artifact: artifact.to_owned(), size });
    }
    fs::read(path).map_err(unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Shard = Shard::ALL;

    fn sum(parts: &[&str], top: Option<u32>) -> Result<String, String> {
        let parts = Parts { inline: parts.to_vec(), artifacts: Vec::new() };
        let merged = merge(&parts, Path::new("/nonexistent"), ALL, top).map_err(|error| error.to_string())?;
        Ok(serde_json::to_string(&merged).expect("JSON"))
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

    #[test]
    fn shards_share_the_words_and_their_outlines_give_the_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("written");
        let part = |from: u64, to: u64| {
            let counts: Vec<String> = (from..to).map(|n| format!(r#""w{n:03}":{}"#, n % 7 + 1)).collect();
            let words: u64 = (from..to).map(|n| n % 7 + 1).sum();
            format!(r#"{{"words":{words},"distinct":{},"counts":{{{}}}}}"#, to - from, counts.join(","))
        };
        write("a", &part(0, 300));
        write("b", &part(200, 500));
        let parts = Parts { inline: Vec::new(), artifacts: vec!["a".into(), "b".into()] };
        let whole = merge(&parts, folder.path(), ALL, Some(12)).expect("right");
        let names: Vec<String> = (0..5).map(|index| format!("shard-{index}")).collect();
        let mut distinct = 0;
        for (index, name) in (0..).zip(&names) {
            let shard = Shard::new(index, 5).expect("one of five");
            let sum = merge(&parts, folder.path(), shard, Some(12)).expect("right");
            assert!(sum.distinct > 0);
            distinct += sum.distinct;
            write(name, &serde_json::to_string(&sum).expect("JSON"));
        }
        let outline = outline(&Parts { inline: Vec::new(), artifacts: names }, folder.path(), 12).expect("right");
        assert_eq!((outline.words, outline.distinct, &outline.top), (whole.words, distinct, &whole.top));
        assert_eq!(whole.distinct, 500);
    }

    #[test]
    fn a_list_that_is_too_short_is_no_outline() {
        let short = r#"{"words":3,"distinct":3,"top":[{"word":"a","count":1}],"counts":{}}"#;
        let parts = Parts { inline: vec![short], artifacts: Vec::new() };
        let told = outline(&parts, Path::new("/"), 2).expect_err("refused").to_string();
        assert!(told.starts_with("input: parts[0]: top lists 1 of 3 words"), "{told}");
    }
}
