//! Counts of words.

use std::borrow::Cow;
use std::cmp::Ordering;

use rustc_hash::FxHashMap;
use serde::Serialize;

/// How often each word occurs. The hash has no random state: equal work takes equal steps.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    by_word: FxHashMap<Box<str>, u64>,
    words: u64,
}

/// One line of the list of most frequent words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ranked {
    pub(crate) word: String,
    pub(crate) count: u64,
}

/// The sum of all counts does not fit 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooMany;

impl Counts {
    pub(crate) fn add(&mut self, word: Cow<'_, str>, count: u64) -> Result<(), TooMany> {
        // Every count is at most the sum, so only the sum can overflow.
        self.words = self.words.checked_add(count).ok_or(TooMany)?;
        match self.by_word.get_mut(word.as_ref()) {
            Some(known) => *known += count,
            None => {
                self.by_word.insert(word.into_owned().into_boxed_str(), count);
            }
        }
        Ok(())
    }

    /// All words together.
    pub(crate) fn words(&self) -> u64 {
        self.words
    }

    /// How many different ones.
    pub(crate) fn distinct(&self) -> u64 {
        self.by_word.len() as u64
    }

    /// All words with their counts, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.by_word.iter().map(|(word, count)| (word.as_ref(), *count))
    }

    /// The most frequent words; equally frequent ones sorted by word.
    pub(crate) fn top(&self, top: u32) -> Vec<Ranked> {
        let mut all: Vec<(&str, u64)> = self.iter().collect();
        let top = usize::try_from(top).unwrap_or(usize::MAX);
        if top < all.len() {
            all.select_nth_unstable_by(top, |a, b| rank(*a, *b));
            all.truncate(top);
        }
        all.sort_unstable_by(|a, b| rank(*a, *b));
        all.into_iter().map(|(word, count)| Ranked { word: word.to_owned(), count }).collect()
    }
}

/// More frequent ones first, then by word.
pub(crate) fn rank(a: (&str, u64), b: (&str, u64)) -> Ordering {
    b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counted_and_ranked() {
        let mut counts = Counts::default();
        for (word, count) in [("b", 2), ("c", 1), ("a", 2), ("c", 2)] {
            counts.add(word.into(), count).expect("small");
        }
        assert_eq!((counts.words(), counts.distinct()), (7, 3));
        let top = |n| counts.top(n).into_iter().map(|ranked| ranked.word).collect::<Vec<_>>();
        assert_eq!(
            (top(0), top(2), top(9)),
            (vec![], vec!["c".to_owned(), "a".to_owned()], vec!["c".into(), "a".into(), "b".into()])
        );
        assert_eq!(counts.add("x".into(), u64::MAX), Err(TooMany));
    }
}
