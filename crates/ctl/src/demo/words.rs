//! Counting words by ourselves: the rules that the `wordcount` pack states, written a second time and without any parts, to check its answer.
//!
//! A word is a segment between two word boundaries of UAX #29 with at least one letter or digit; in lower case, without white space before
//! it, cut after 256 characters. Bytes that are not UTF-8 separate words.

use std::collections::BTreeMap;

use unicode_segmentation::UnicodeSegmentation as _;

const WORD_CHARACTERS_MAX: usize = 256;

/// How often each word occurs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) words: u64,
    pub(super) by_word: BTreeMap<String, u64>,
}

impl Counts {
    /// Counts the words of one text.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        let segments = bytes.utf8_chunks().flat_map(|chunk| chunk.valid().split_word_bounds());
        for segment in segments.filter(|segment| segment.contains(char::is_alphanumeric)) {
            let first: String = segment.trim_ascii_start().chars().take(WORD_CHARACTERS_MAX).collect();
            self.words += 1;
            *self.by_word.entry(first.to_lowercase()).or_default() += 1;
        }
    }

    /// The most frequent words; equally frequent ones sorted by word.
    pub(super) fn top(&self, n: usize) -> Vec<(String, u64)> {
        let mut all: Vec<(&String, &u64)> = self.by_word.iter().collect();
        all.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
        all.into_iter().take(n).map(|(word, count)| (word.clone(), *count)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(text: &[u8]) -> Vec<(String, u64)> {
        let mut counts = Counts::default();
        counts.add(text);
        counts.by_word.into_iter().collect()
    }

    fn words(text: &str) -> Vec<String> {
        count(text.as_bytes()).into_iter().map(|(word, _)| word).collect()
    }

    #[test]
    fn the_rules_of_the_pack() {
        assert_eq!(words("The CAT's 'quoted' o'clock"), ["cat's", "o'clock", "quoted", "the"]);
        assert_eq!(words("snake_case well-known x''y a' 3.14"), ["3.14", "a", "known", "snake_case", "well", "x", "y"]);
        assert_eq!(words("Été e\u{301}te \u{301} \u{901}"), ["e\u{301}te", "été", "\u{901}"]);
        assert_eq!(count(b"a\xffb a"), [("a".to_owned(), 2), ("b".to_owned(), 1)]);
        assert_eq!(words(&"x".repeat(300)), ["x".repeat(256)]);
        assert!(words("... --- ' _").is_empty());
    }

    #[test]
    fn equally_frequent_words_are_sorted() {
        let mut counts = Counts::default();
        counts.add(b"b a c a b d");
        assert_eq!(counts.top(3), [("a".to_owned(), 2), ("b".to_owned(), 2), ("c".to_owned(), 1)]);
        assert_eq!(counts.words, 6);
    }
}
