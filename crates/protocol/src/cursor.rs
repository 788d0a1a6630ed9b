//! Places in a log.

use std::fmt;

/// A place in a log: that of an entry, or the one before the first. Ordered as the log is.
///
/// Written `milliseconds-sequence`, as Redis names the entries of a stream; before the first one it is `0`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogCursor {
    millis: u64,
    sequence: u64,
}

impl LogCursor {
    /// Before the first entry.
    pub const START: Self = Self { millis: 0, sequence: 0 };

    /// Reads a cursor in the form that the store gives out; `None` where the text is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let number = |text: &str| text.parse::<u64>().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
        if text == "0" {
            return Some(Self::START);
        }
        let (millis, sequence) = text.split_once('-')?;
        Some(Self { millis: number(millis)?, sequence: number(sequence)? })
    }

    /// When the entry was written, in milliseconds since 1970, by the clock of the store.
    #[must_use]
    pub const fn millis(self) -> u64 {
        self.millis
    }
}

impl fmt::Display for LogCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::START { f.write_str("0") } else { write!(f, "{}-{}", self.millis, self.sequence) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> LogCursor {
        LogCursor::parse(text).expect("a cursor")
    }

    #[test]
    fn cursors_are_ordered_as_the_log_is_and_read_back() {
        let places = ["0", "5-0", "5-9", "5-10", "40-0", "1700000000123-4"].map(at);
        assert!(places.is_sorted());
        for place in places {
            assert_eq!(at(&place.to_string()), place);
        }
        assert_eq!((at("0"), at("0-0")), (LogCursor::START, LogCursor::START));
        assert_eq!(at("1700000000123-4").millis(), 1_700_000_000_123);
        for bad in ["", "5", "-", "x", "5-", "-5", "+5-1", "5-1-1", "5-x", "99999999999999999999-0", "(1-0"] {
            assert_eq!(LogCursor::parse(bad), None, "{bad:?}");
        }
    }
}
