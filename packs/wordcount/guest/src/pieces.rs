//! Cuts a stream of bytes where no word can be torn apart, and says which pieces belong to a range.
//!
//! A *cut* is a place that a piece may end at:
//!
//! - behind any ASCII white space. No rule of UAX #29 looks across it, so that what is on one side does not bear on the words of the
//!   other. A mark that follows it directly belongs to its segment (rule WB4); `words` drops the white space there;
//! - at a multiple of `BLOCK`, where the whole block before it has no ASCII white space, or up to three bytes behind it so that no
//!   character is torn apart. A word that goes on there is two words. This is what bounds memory, and how far a range looks.
//!
//! Both depend on positions and on at most a block before, never on where the reading began. A range owns what lies between the first cut
//! at or behind its start and the first cut at or behind its end: ranges that follow one another own everything, and nothing twice.

use std::io::{self, Read};

/// Runs without white space are cut at multiples of this.
pub(crate) const BLOCK: u64 = 64 * 1024;
/// A character has at most so many bytes behind its first.
const TAIL_BYTES_MAX: usize = 3;

/// A range of bytes, and the position from which bytes must be delivered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) first_read: u64,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

impl Span {
    /// The range from `start` to before `end`.
    pub(crate) fn new(start: u64, end: u64) -> Self {
        // The block before each cut that may lie at the start or behind it. Cuts up to the three bytes behind this are not seen, and
        // lie before the start.
        let first_read = start.saturating_sub(TAIL_BYTES_MAX as u64 + 1) / BLOCK * BLOCK;
        Self { first_read, start, end }
    }
}

/// Calls `visit` with the pieces that the span owns, in order, and `progress` with each position reached. `reader` delivers the bytes
/// from `span.first_read` on, also those behind the span.
pub(crate) fn for_each_piece(
    mut reader: impl Read,
    span: Span,
    mut visit: impl FnMut(&[u8]),
    mut progress: impl FnMut(u64),
) -> io::Result<()> {
    let mut held = Held { bytes: Vec::new(), position: span.first_read };
    // Whether the block before had white space. What is before the first one does not matter: cuts there lie before the start.
    let mut spaced = true;
    while held.position < span.end {
        let mut from = held.bytes.len();
        let read = reader.by_ref().take(BLOCK).read_to_end(&mut held.bytes)?;
        if !spaced {
            let cut = from + tail(&held.bytes[from..]);
            from = 0;
            held.release(cut, span, &mut visit);
        }
        if (read as u64) < BLOCK {
            held.release(held.bytes.len(), span, &mut visit);
            break;
        }
        let last = held.bytes[from..].iter().rposition(|byte| is_space(*byte));
        spaced = last.is_some();
        if let Some(last) = last {
            held.release(from + last + 1, span, &mut visit);
        }
        progress(held.position);
    }
    Ok(())
}

/// Tab, line feed, vertical tab, form feed, carriage return, space.
pub(crate) fn is_space(byte: u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | b' ')
}

/// How many bytes at the beginning may belong to a character before.
fn tail(bytes: &[u8]) -> usize {
    bytes.iter().take(TAIL_BYTES_MAX).take_while(|byte| **byte & 0xc0 == 0x80).count()
}

/// What was read behind the last cut.
struct Held {
    bytes: Vec<u8>,
    position: u64,
}

impl Held {
    /// Hands out the bytes before the cut, as far as the span owns them.
    fn release(&mut self, cut: usize, span: Span, visit: &mut impl FnMut(&[u8])) {
        let bytes = &self.bytes[..cut];
        let owned = &bytes[self.first_cut(bytes, span.start)..self.first_cut(bytes, span.end)];
        if !owned.is_empty() {
            visit(owned);
        }
        self.bytes.drain(..cut);
        self.position += cut as u64;
    }

    /// The first cut at a position or behind it, within bytes that begin and end at cuts.
    fn first_cut(&self, bytes: &[u8], position: u64) -> usize {
        let Some(skipped) = position.checked_sub(self.position + 1) else { return 0 };
        let skipped = usize::try_from(skipped).unwrap_or(usize::MAX).min(bytes.len());
        bytes[skipped..].iter().position(|byte| is_space(*byte)).map_or(bytes.len(), |space| skipped + space + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(text: &[u8], start: usize, end: usize) -> Vec<Vec<u8>> {
        let span = Span::new(start as u64, end as u64);
        let first = usize::try_from(span.first_read).expect("small");
        let mut found = Vec::new();
        for_each_piece(&text[first..], span, |piece| found.push(piece.to_vec()), |_| {}).expect("a slice can be read");
        found
    }

    #[test]
    fn ranges_own_everything_once() {
        let block = usize::try_from(BLOCK).expect("small");
        let long = "東".repeat(block);
        let texts = [
            "a bc  def\n\tg".to_owned(),
            format!("ab {long} cd {long}"),
            long,
            format!("{}{}", "x".repeat(block - 1), "é".repeat(2 * block)),
            format!("{} {}", "x".repeat(block - 1), "y".repeat(block)),
        ];
        for text in &texts {
            let bytes = text.as_bytes();
            let near = [0, 1, 2, 3, 4, 5].into_iter().chain((1..4).flat_map(|n| (n * block - 5)..=(n * block + 5)));
            for cut in near.chain([bytes.len() - 1]).filter(|cut| *cut <= bytes.len()) {
                let (left, right) = (pieces(bytes, 0, cut).concat(), pieces(bytes, cut, bytes.len()).concat());
                assert_eq!([left, right].concat(), bytes, "cut at {cut} of {}", bytes.len());
            }
        }
    }

    #[test]
    fn pieces_end_behind_white_space_or_at_whole_characters() {
        let text = format!("ab {} cd", "東".repeat(100_000));
        let found = pieces(text.as_bytes(), 0, text.len());
        assert!(found.len() > 3);
        for piece in &found {
            assert!(str::from_utf8(piece).is_ok() && piece.len() as u64 <= 2 * BLOCK + 3, "{}", piece.len());
        }
        // An inner range owns what begins in it.
        assert_eq!(pieces(b"one two three", 1, 5), [b"two ".to_vec()]);
        assert_eq!(pieces(b"one two three", 5, 7), Vec::<Vec<u8>>::new());
    }
}
