//! What a word is, and which words start in a range of bytes.
//!
//! A word is a longest run of word characters: Unicode letters and digits (`char::is_alphanumeric`), combining accents, and
//! single apostrophes (' or U+2019) between two of these. Runs without any letter or digit are not words. Words are
//! counted in lower case, U+2019 as a plain apostrophe, and cut after 256 characters. Bytes that are not UTF-8 separate.
//!
//! A word belongs to the range in which its first byte lies. Whether a character starts a word depends on the two
//! characters before it and on nothing else, so that any way of cutting a text into ranges gives the same totals.

use std::io::{self, Read};

/// Bytes before a range that must be seen: two characters, and the rest of one that the first byte may lie in.
pub(crate) const LOOK_BACK: u64 = 11;
/// Longer words are counted under their first 256 characters, so that no input can make one key huge.
const WORD_CHARS_MAX: usize = 256;
/// Bytes read at a time.
const BUFFER: usize = 64 * 1024;

/// A range of bytes, and the position from which bytes are delivered (at most `LOOK_BACK` before the start).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) first_read: u64,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

impl Span {
    /// The range from `start` to before `end`, read from far enough before it.
    pub(crate) fn new(start: u64, end: u64) -> Self {
        Self { first_read: start.saturating_sub(LOOK_BACK), start, end }
    }
}

/// Calls `visit` with every word that starts in `span`, in lower case, and `progress` now and then with the position
/// reached. `reader` delivers the bytes from `span.first_read` on, also those behind the span: the last word may end there.
pub(crate) fn for_each_word(
    reader: impl Read,
    span: Span,
    mut visit: impl FnMut(&str),
    mut progress: impl FnMut(u64),
) -> io::Result<()> {
    let mut characters = Characters::new(reader, span.first_read);
    let mut word = Collector::default();
    let mut before = [Class::Other; 2];
    while let Some((position, character)) = characters.next(&mut progress)? {
        let class = Class::of(character);
        let continues = before[1] == Class::Word || before == [Class::Word, Class::Apostrophe];
        if class == Class::Word && continues {
            word.extend(character, before[1] == Class::Apostrophe);
        } else if class == Class::Word {
            word.finish(&mut visit);
            word.start(character, position >= span.start && position < span.end);
        }
        before = [before[1], class];
        // Behind the end, only the rest of a word that started before it is still of interest.
        if position >= span.end && (!word.wants_more() || before[1] == Class::Other) {
            break;
        }
    }
    word.finish(&mut visit);
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Word,
    Apostrophe,
    Other,
}

impl Class {
    /// `None` stands for a byte that is not UTF-8.
    fn of(character: Option<char>) -> Self {
        match character {
            Some('\'' | '\u{2019}') => Self::Apostrophe,
            Some(c) if c.is_alphanumeric() || is_combining(c) => Self::Word,
            _ => Self::Other,
        }
    }
}

/// The blocks of combining accents: a letter and its accent, written as two characters, must not be torn apart.
fn is_combining(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36f}' | '\u{1ab0}'..='\u{1aff}' | '\u{1dc0}'..='\u{1dff}' | '\u{20d0}'..='\u{20ff}' | '\u{fe20}'..='\u{fe2f}')
}

/// The word being read. One that starts outside the span is followed but not collected.
#[derive(Default)]
struct Collector {
    text: String,
    chars: usize,
    collecting: bool,
}

impl Collector {
    fn start(&mut self, character: Option<char>, collecting: bool) {
        self.collecting = collecting;
        self.extend(character, false);
    }

    fn extend(&mut self, character: Option<char>, apostrophe: bool) {
        if apostrophe {
            self.push('\'');
        }
        if let Some(character) = character {
            self.push(character);
        }
    }

    fn push(&mut self, character: char) {
        if self.wants_more() {
            self.text.push(character);
            self.chars += 1;
        }
    }

    fn wants_more(&self) -> bool {
        self.collecting && self.chars < WORD_CHARS_MAX
    }

    fn finish(&mut self, visit: &mut impl FnMut(&str)) {
        if self.text.is_ascii() {
            self.text.make_ascii_lowercase();
        } else {
            self.text = self.text.to_lowercase();
        }
        if self.text.chars().any(char::is_alphanumeric) {
            visit(&self.text);
        }
        self.text.clear();
        self.chars = 0;
        self.collecting = false;
    }
}

/// Decodes UTF-8 wherever it is valid. A valid sequence begins with a byte that occurs at no other place of any, so the
/// characters found do not depend on where the reading began.
struct Characters<R> {
    reader: R,
    buffer: Vec<u8>,
    /// The next byte of the buffer.
    next: usize,
    /// The position of the buffer's first byte.
    position: u64,
    ended: bool,
}

impl<R: Read> Characters<R> {
    fn new(reader: R, position: u64) -> Self {
        Self { reader, buffer: Vec::new(), next: 0, position, ended: false }
    }

    /// The next character with its position; `None` in its place for a byte that is not part of one.
    fn next(&mut self, progress: &mut impl FnMut(u64)) -> io::Result<Option<(u64, Option<char>)>> {
        const LONGEST: usize = 4;
        if self.buffer.len() - self.next < LONGEST && !self.ended {
            self.fill()?;
            progress(self.position);
        }
        let rest = &self.buffer[self.next..];
        let Some(lead) = rest.first() else { return Ok(None) };
        let length = match lead {
            0..=0x7f => 1,
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => 0,
        };
        let decoded = rest.get(..length).and_then(|bytes| str::from_utf8(bytes).ok()).and_then(|text| text.chars().next());
        let position = self.position + self.next as u64;
        self.next += decoded.map_or(1, char::len_utf8);
        Ok(Some((position, decoded)))
    }

    fn fill(&mut self) -> io::Result<()> {
        self.buffer.drain(..self.next);
        self.position += self.next as u64;
        self.next = 0;
        let wanted = BUFFER - self.buffer.len();
        self.ended = self.reader.by_ref().take(wanted as u64).read_to_end(&mut self.buffer)? < wanted;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn what_a_word_is() {
        assert_eq!(all("Hello, World! It's 2 o'clock."), ["hello", "world", "it's", "2", "o'clock"]);
        assert_eq!(all("don\u{2019}t 'quoted' rock'n'roll a''b '' x'"), ["don't", "quoted", "rock'n'roll", "a", "b", "x"]);
        assert_eq!(all("snake_case well-known a.b"), ["snake", "case", "well", "known", "a", "b"]);
        assert_eq!(
            all("STRASSE Straße ÉCOLE ΟΔΟΣ Привет 東京 x²"),
            ["strasse", "straße", "école", "οδος", "привет", "東京", "x²"]
        );
        assert_eq!(all("e\u{301}te\u{301} \u{301}\u{301} \u{301}a"), ["e\u{301}te\u{301}", "\u{301}a"]);
        assert!(all(" \t\r\n--'' \u{1f600}").is_empty());
    }

    #[test]
    fn bytes_that_are_not_utf8_separate() {
        assert_eq!(words(b"ab\xffcd \xe4\xb8x \xf0\x9f", 0, 14), ["ab", "cd", "x"]);
        // A surrogate and an overlong form are not UTF-8 either.
        assert_eq!(words(b"a\xed\xa0\x80b\xc0\x80c", 0, 8), ["a", "b", "c"]);
    }

    #[test]
    fn any_cut_gives_the_same_words() {
        let mut text =
            "It's o\u{2019}clock — \u{2019}tis ÉCOLE e\u{301}\u{301}\u{301}té 'a'b''c' 東京 𝒳𝒴'𝒵 x".as_bytes().to_vec();
        text.extend_from_slice(b"\xff\xe4\xb8'end' \xf0\x9f\x98 a\xc3");
        let whole = words(&text, 0, text.len());
        for cut in 0..=text.len() {
            let parts = [words(&text, 0, cut), words(&text, cut, text.len())].concat();
            assert_eq!(parts, whole, "cut at {cut}");
        }
        for size in 1..text.len() {
            let starts = (0..text.len()).step_by(size);
            let parts: Vec<String> = starts.flat_map(|at| words(&text, at, (at + size).min(text.len()))).collect();
            assert_eq!(parts, whole, "pieces of {size}");
        }
    }

    #[test]
    fn long_words_are_cut_and_counted_once() {
        let text = format!("{} end", "aé".repeat(100_000));
        let whole = all(&text);
        assert_eq!(whole, ["aé".repeat(128), "end".to_owned()]);
        let (left, right) = (words(text.as_bytes(), 0, 1000), words(text.as_bytes(), 1000, text.len()));
        assert_eq!([left, right].concat(), whole);
    }

    #[test]
    fn characters_across_the_ends_of_buffers() {
        for shift in 0..4 {
            let text = format!("{}{}", "x".repeat(shift), "東 ".repeat(50_000));
            let found = all(&text);
            assert_eq!(found.len(), 50_000);
            assert!(found[1..].iter().all(|word| word == "東"));
        }
    }
}
