//! Places in a log.

use std::fmt;

/// A place in a log: after the entry of this id. Ordered as the log is.
///
/// Written `milliseconds-sequence`, as Redis names the entries of a stream; an empty log says `0`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogCursor {
    millis: u64,
    sequence: u64,
}

impl LogCursor {
    /// Reads a cursor; `None` where the text is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let number = |text: &str| text.parse::<u64>().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
        let (millis, sequence) = text.split_once('-').unwrap_or((text, "0"));
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
        write!(f, "{}-{}", self.millis, self.sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> LogCursor {
        LogCursor::parse(text).expect("a cursor")
    }

    #[test]
    fn cursors_are_ordered_as_the_log_is() {
        assert!(at("0") < at("5-0") && at("5-9") < at("5-10") && at("9-9") < at("10-0"));
        assert_eq!((at("0").to_string(), at("17-3").to_string()), ("0-0".to_owned(), "17-3".to_owned()));
        assert_eq!(at("1700000000123-4").millis(), 1_700_000_000_123);
        for bad in ["", "-", "x", "1-", "-1", "+1-0", "1-2-3", "1-x", "99999999999999999999-0", "(1-0"] {
            assert_eq!(LogCursor::parse(bad), None, "{bad:?}");
        }
    }
}
