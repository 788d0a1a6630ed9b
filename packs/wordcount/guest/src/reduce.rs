//! Adds up the counts of several parts.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

/// One part: what map gave, or what an earlier reduce gave.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Part {
    counts: BTreeMap<String, u64>,
    words: u64,
    /// The list of an earlier reduce: of no use here, but no reason to refuse its result either.
    #[serde(default, rename = "top")]
    _top: Option<IgnoredAny>,
}

/// The sum of all parts.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Merged {
    counts: BTreeMap<String, u64>,
    words: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    top: Option<Vec<Ranked>>,
}

/// One line of the list of most frequent words.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Ranked {
    word: String,
    count: u64,
}

/// Why parts cannot be added up.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReduceError {
    #[error("parts[{index}]: words is {words}, but its counts do not add up to that")]
    Inconsistent { index: usize, words: u64 },
    #[error("parts[{index}]: the sum of all counts does not fit 64 bits")]
    Overflow { index: usize },
}

/// The sum of `parts`, with the `top` most frequent words if asked for; equally frequent ones are sorted by word.
pub(crate) fn merge(parts: Vec<Part>, top: Option<u32>) -> Result<Merged, ReduceError> {
    let mut merged = Merged { counts: BTreeMap::new(), words: 0, top: None };
    for (index, part) in parts.into_iter().enumerate() {
        let sum = part.counts.values().try_fold(0u64, |sum, count| sum.checked_add(*count));
        if sum != Some(part.words) {
            return Err(ReduceError::Inconsistent { index, words: part.words });
        }
        // Every count is at most the sum, so only the sum can overflow.
        merged.words = merged.words.checked_add(part.words).ok_or(ReduceError::Overflow { index })?;
        part.counts.into_iter().for_each(|(word, count)| *merged.counts.entry(word).or_insert(0) += count);
    }
    merged.top = top.map(|top| most_frequent(&merged.counts, top));
    Ok(merged)
}

fn most_frequent(counts: &BTreeMap<String, u64>, top: u32) -> Vec<Ranked> {
    let mut ranked: Vec<(&String, u64)> = counts.iter().map(|(word, count)| (word, *count)).collect();
    // The map is sorted by word and the sort is stable.
    ranked.sort_by_key(|(_, count)| Reverse(*count));
    ranked.truncate(usize::try_from(top).unwrap_or(usize::MAX));
    ranked.into_iter().map(|(word, count)| Ranked { word: word.clone(), count }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(json: &str) -> Vec<Part> {
        serde_json::from_str(json).expect("parts")
    }

    #[test]
    fn adds_up_and_ranks_with_ties_by_word() {
        let json = r#"[{"counts":{"b":2,"c":1},"words":3},{"counts":{"a":2,"c":2},"words":4,"top":[{"word":"a","count":2}]}]"#;
        let merged = merge(parts(json), Some(2)).expect("right");
        assert_eq!((merged.words, merged.counts["c"]), (7, 3));
        let top: Vec<(String, u64)> = merged.top.expect("asked").into_iter().map(|r| (r.word, r.count)).collect();
        assert_eq!(top, [("c".to_owned(), 3), ("a".to_owned(), 2)]);
        assert_eq!(merge(parts(json), None).expect("right").top, None);
        assert_eq!(merge(parts(json), Some(99)).expect("right").top.expect("asked").len(), 3);
    }

    #[test]
    fn refuses_parts_that_contradict_themselves() {
        let wrong = parts(r#"[{"counts":{},"words":0},{"counts":{"a":1},"words":2}]"#);
        assert_eq!(merge(wrong, None), Err(ReduceError::Inconsistent { index: 1, words: 2 }));
        let half = u64::MAX / 2 + 1;
        let huge = format!(r#"{{"counts":{{"a":{half}}},"words":{half}}}"#);
        assert_eq!(merge(parts(&format!("[{huge},{huge}]")), None), Err(ReduceError::Overflow { index: 1 }));
        let twice = format!(r#"[{{"counts":{{"a":{half},"b":{half}}},"words":0}}]"#);
        assert_eq!(merge(parts(&twice), None), Err(ReduceError::Inconsistent { index: 0, words: 0 }));
    }
}
