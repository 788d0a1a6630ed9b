//! Counting words by ourselves: the same rules as the `wordcount` pack states, written a second time, to check its answer.
//!
//! A word is a longest run of letters, digits and combining accents, with single apostrophes between two of these; in lower case, with
//! `’` as `'`, cut after 256 characters. Runs without a letter or digit are no words. Bytes that are not UTF-8 separate words.

use std::collections::BTreeMap;

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
        let mut word: Vec<char> = Vec::new();
        let mut apostrophe = false;
        // What is not UTF-8 becomes a character that is no part of any word.
        for c in String::from_utf8_lossy(bytes).chars() {
            if c.is_alphanumeric() || is_combining(c) {
                if std::mem::take(&mut apostrophe) {
                    word.push('\'');
                }
                word.push(c);
            } else if matches!(c, '\'' | '’') && !word.is_empty() && !apostrophe {
                apostrophe = true;
            } else {
                apostrophe = false;
                self.take(&mut word);
            }
        }
        self.take(&mut word);
    }

    fn take(&mut self, word: &mut Vec<char>) {
        word.truncate(WORD_CHARACTERS_MAX);
        let text: String = word.drain(..).collect();
        let text = text.to_lowercase();
        if text.chars().any(char::is_alphanumeric) {
            self.words += 1;
            *self.by_word.entry(text).or_default() += 1;
        }
    }

    /// The most frequent words; equally frequent ones sorted by word.
    pub(super) fn top(&self, n: usize) -> Vec<(String, u64)> {
        let mut all: Vec<(&String, &u64)> = self.by_word.iter().collect();
        all.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
        all.into_iter().take(n).map(|(word, count)| (word.clone(), *count)).collect()
    }
}

fn is_combining(c: char) -> bool {
    let blocks = [0x300..=0x36f, 0x1ab0..=0x1aff, 0x1dc0..=0x1dff, 0x20d0..=0x20ff, 0xfe20..=0xfe2f];
    blocks.iter().any(|block| block.contains(&u32::from(c)))
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
        assert_eq!(words("The CAT's 'quoted' o\u{2019}clock"), ["cat's", "o'clock", "quoted", "the"]);
        assert_eq!(words("snake_case well-known x''y a' b"), ["a", "b", "case", "known", "snake", "well", "x", "y"]);
        assert_eq!(words("Été e\u{301}te \u{301}"), ["e\u{301}te", "été"]);
        assert_eq!(count(b"a\xffb a"), [("a".to_owned(), 2), ("b".to_owned(), 1)]);
        assert_eq!(words(&"x".repeat(300)), ["x".repeat(256)]);
        assert!(words("... --- '").is_empty());
    }

    #[test]
    fn equally_frequent_words_are_sorted() {
        let mut counts = Counts::default();
        counts.add(b"b a c a b d");
        assert_eq!(counts.top(3), [("a".to_owned(), 2), ("b".to_owned(), 2), ("c".to_owned(), 1)]);
        assert_eq!(counts.words, 6);
    }
}
