//! What a word is, and how it is counted.
//!
//! A word is a segment between two word boundaries of UAX #29 that has at least one letter or digit (`char::is_alphanumeric`), in lower
//! case, without ASCII white space, cut after 256 characters. Bytes that are not UTF-8 belong to no word and end the one before them.
//!
//! White space is in a segment only before a mark that follows it directly (rule WB4), and some marks are letters to Unicode.

use std::borrow::Cow;
use std::io::{self, Read};

use unicode_segmentation::UnicodeSegmentation as _;

use crate::pieces::{Span, for_each_piece, is_space};

/// Longer words are counted under their first 256 characters, so that no input can make one key huge.
const WORD_CHARS_MAX: usize = 256;

/// Calls `visit` with every word that the span owns, in lower case, and `progress` now and then with the position reached.
pub(crate) fn for_each_word(
    reader: impl Read,
    span: Span,
    mut visit: impl FnMut(&str),
    progress: impl FnMut(u64),
) -> io::Result<()> {
    let mut buffer = String::new();
    let of_piece = |piece: &[u8]| {
        for chunk in piece.utf8_chunks() {
            chunk.valid().unicode_words().for_each(|word| visit(counted_as(word, &mut buffer).as_ref()));
        }
    };
    for_each_piece(reader, span, of_piece, progress)
}

/// The form under which a word is counted. Nearly all words are ASCII: those cost no allocation.
fn counted_as<'a>(word: &'a str, buffer: &'a mut String) -> Cow<'a, str> {
    let word = cut(word.trim_start_matches(|c: char| u8::try_from(c).is_ok_and(is_space)));
    if !word.is_ascii() {
        return Cow::Owned(word.to_lowercase());
    }
    if !word.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Cow::Borrowed(word);
    }
    buffer.clear();
    buffer.push_str(word);
    buffer.make_ascii_lowercase();
    Cow::Borrowed(buffer)
}

/// The form under which somebody else's word would be counted.
pub(crate) fn normal(word: &str) -> String {
    counted_as(word, &mut String::new()).into_owned()
}

fn cut(word: &str) -> &str {
    if word.len() <= WORD_CHARS_MAX {
        return word;
    }
    word.char_indices().nth(WORD_CHARS_MAX).map_or(word, |(end, _)| &word[..end])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pieces::BLOCK;

    /// The words of a part of a text, as a range of a file would give them.
    fn words(text: &[u8], start: usize, end: usize) -> Vec<String> {
        let span = Span::new(start as u64, end as u64);
        let first = usize::try_from(span.first_read).expect("small");
        let mut found = Vec::new();
        for_each_word(&text[first..], span, |word| found.push(word.to_owned()), |_| {}).expect("a slice can be read");
        found
    }

    fn all(text: &str) -> Vec<String> {
        words(text.as_bytes(), 0, text.len())
    }

    /// By the library alone, without pieces.
    fn whole(text: &str) -> Vec<String> {
        text.unicode_words().map(normal).collect()
    }

    #[test]
    fn what_a_word_is() {
        assert_eq!(all("Hello, World! It's 2 o'clock."), ["hello", "world", "it's", "2", "o'clock"]);
        assert_eq!(all("don\u{2019}t 'quoted' rock'n'roll a''b"), ["don\u{2019}t", "quoted", "rock'n'roll", "a", "b"]);
        assert_eq!(all("snake_case well-known 3.14 1,000 e.g."), ["snake_case", "well", "known", "3.14", "1,000", "e.g"]);
        assert_eq!(all("STRASSE Straße ΟΔΟΣ Привет"), ["strasse", "straße", "οδος", "привет"]);
        assert_eq!(all("東京 カタカナ e\u{301}te\u{301}"), ["東", "京", "カタカナ", "e\u{301}te\u{301}"]);
        assert_eq!(all("a \u{901}\u{301}b \t\u{901}"), ["a", "\u{901}\u{301}", "b", "\u{901}"]);
        assert!(all(" \t\r\n--'' _ \u{1f600} \u{301}").is_empty());
    }

    #[test]
    fn bytes_that_are_not_utf8_separate() {
        assert_eq!(words(b"ab\xffcd \xe4\xb8x \xf0\x9f", 0, 14), ["ab", "cd", "x"]);
        // A surrogate and an overlong form are not UTF-8 either.
        assert_eq!(words(b"a\xed\xa0\x80b\xc0\x80c", 0, 8), ["a", "b", "c"]);
    }

    #[test]
    fn long_words_are_cut_and_counted_once() {
        let text = format!("{} end", "aé".repeat(10_000));
        assert_eq!(all(&text), ["aé".repeat(128), "end".to_owned()]);
        let (left, right) = (words(text.as_bytes(), 0, 1000), words(text.as_bytes(), 1000, text.len()));
        assert_eq!([left, right].concat(), all(&text));
    }

    #[test]
    fn runs_without_white_space_are_cut_where_no_range_matters() {
        let block = usize::try_from(BLOCK).expect("small");
        let text = format!("start {} {}", "long,".repeat(block), "東京".repeat(block));
        let found = all(&text);
        for size in [block / 3, block - 1, block, block + 1, 3 * block + 7] {
            let starts = (0..text.len()).step_by(size);
            let parts: Vec<String> = starts.flat_map(|at| words(text.as_bytes(), at, (at + size).min(text.len()))).collect();
            assert_eq!(parts, found, "pieces of {size}");
        }
    }

    /// Characters of every class that UAX #29 distinguishes, white space of all kinds, and what lower case changes.
    const ALPHABET: &str =
        "[aZ9é_'’.,:;·\u{301}\u{901}\u{200d}\u{ad}\u{5d0}\"ΣßİカナひらA東京ไทย🇩🇪👩🏽\u{a0}\u{3000}\u{2028} \t\r\n-]{0,60}";

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn pieces_change_no_word(text in ALPHABET) {
            prop_assert_eq!(all(&text), whole(&text));
        }

        #[test]
        fn any_two_cuts_give_the_same_words(text in ALPHABET, a in 0..300_usize, b in 0..300_usize) {
            let (a, b) = (a.min(b).min(text.len()), a.max(b).min(text.len()));
            let bytes = text.as_bytes();
            let parts = [words(bytes, 0, a), words(bytes, a, b), words(bytes, b, bytes.len())].concat();
            prop_assert_eq!(parts, whole(&text));
        }

        #[test]
        fn any_bytes_in_any_ranges_add_up(
            bytes in prop::collection::vec(prop_oneof![Just(b' '), Just(b'a'), Just(0xcc), Just(0x81), any::<u8>()], 0..200),
            size in 1..50_usize,
        ) {
            let starts = (0..bytes.len()).step_by(size);
            let parts: Vec<String> = starts.flat_map(|at| words(&bytes, at, (at + size).min(bytes.len()))).collect();
            prop_assert_eq!(parts, words(&bytes, 0, bytes.len()));
        }

    }

    proptest! {
        // Texts of several blocks.
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 48, ..ProptestConfig::default() })]

        /// White space is rare, so that blocks without any occur; ranges begin anywhere near their ends.
        #[test]
        fn blocks_without_white_space_add_up(
            runs in prop::collection::vec(("[a東é'.]{1,7}", 1..60_000_usize), 1..5),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 1..4),
        ) {
            let text = runs.iter().map(|(run, times)| run.repeat(*times)).collect::<Vec<_>>().join(" ");
            let bytes = text.as_bytes();
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).chain([0, bytes.len()]).collect();
            at.sort_unstable();
            let parts: Vec<String> = at.windows(2).flat_map(|pair| words(bytes, pair[0], pair[1])).collect();
            prop_assert_eq!(parts, words(bytes, 0, bytes.len()));
        }
    }
}
