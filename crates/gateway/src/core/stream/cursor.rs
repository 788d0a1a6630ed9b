//! The two logs, and the opaque cursor that clients resume by.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use busbar_api::Problem;
use busbar_protocol::codes::Code;
use busbar_protocol::cursor::LogCursor;
use busbar_protocol::keys;

/// A log of committed changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Log {
    Jobs,
    Runs,
}

impl Log {
    pub(crate) const ALL: [Self; 2] = [Self::Jobs, Self::Runs];

    /// Its name in the store.
    pub(crate) const fn key(self) -> &'static str {
        match self {
            Self::Jobs => keys::LOG_JOBS,
            Self::Runs => keys::LOG_RUNS,
        }
    }
}

/// How far a reader has come in both logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) jobs: LogCursor,
    pub(crate) runs: LogCursor,
}

impl Cursor {
    pub(crate) const fn at(&self, log: Log) -> LogCursor {
        match log {
            Log::Jobs => self.jobs,
            Log::Runs => self.runs,
        }
    }

    /// Goes forward, never back.
    pub(crate) fn advance(&mut self, log: Log, to: LogCursor) {
        let at = match log {
            Log::Jobs => &mut self.jobs,
            Log::Runs => &mut self.runs,
        };
        *at = to.max(*at);
    }

    /// The opaque form.
    pub(crate) fn opaque(&self) -> String {
        URL_SAFE_NO_PAD.encode(format!("s1:{}:{}", self.jobs, self.runs))
    }

    /// Reads the opaque form.
    pub(crate) fn parse(cursor: &str) -> Result<Self, Problem> {
        Self::decode(cursor).ok_or_else(|| Problem::new(Code::CursorInvalid, "cursor: this is none that a stream gave out"))
    }

    fn decode(cursor: &str) -> Option<Self> {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
        let (jobs, runs) = text.strip_prefix("s1:")?.split_once(':')?;
        Some(Self { jobs: LogCursor::parse(jobs)?, runs: LogCursor::parse(runs)? })
    }
}

/// A log with fewer entries than this was never trimmed: logs are kept far longer.
const NEVER_TRIMMED: u64 = 20_000;

/// How many entries must be read after a place to tell whether the log still holds everything that came after it, if `page` are
/// wanted.
pub(crate) fn entries_to_read(place: LogCursor, page: u64) -> u64 {
    if place == LogCursor::START { NEVER_TRIMMED } else { page }
}

/// Whether a log still holds everything that came after a place, as far as that can be proved.
///
/// `read` is how many entries came when [`entries_to_read`] were asked for; `first` is the log's first entry, looked up after
/// that. From the place before the first entry nobody can see whether something was trimmed, so that the log must be short.
pub(crate) fn holds_all_after(place: LogCursor, first: Option<LogCursor>, read: usize) -> bool {
    if place == LogCursor::START { (read as u64) < NEVER_TRIMMED } else { first.is_some_and(|first| first <= place) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> LogCursor {
        LogCursor::parse(text).expect("a place")
    }

    #[test]
    fn cursors_read_back_and_garbage_is_refused() {
        for cursor in [Cursor::default(), Cursor { jobs: at("1700000000000-12"), runs: LogCursor::START }] {
            assert_eq!(Cursor::parse(&cursor.opaque()), Ok(cursor));
        }
        let of = |text: &str| URL_SAFE_NO_PAD.encode(text);
        for bad in ["", "!", "x", &of("s1:1-1"), &of("s2:0:0"), &of("s1:0:0:0"), &of("1:0:0")] {
            assert_eq!(Cursor::parse(bad).map_err(|p| p.code), Err("cursor_invalid".into()), "{bad:?}");
        }
    }

    #[test]
    fn a_cursor_never_goes_back() {
        let mut cursor = Cursor::default();
        cursor.advance(Log::Runs, at("7-0"));
        cursor.advance(Log::Runs, at("6-9"));
        assert_eq!((cursor.at(Log::Jobs), cursor.at(Log::Runs)), (LogCursor::START, at("7-0")));
    }

    #[test]
    fn what_was_trimmed_is_noticed() {
        assert!(holds_all_after(at("5-0"), Some(at("5-0")), 0));
        assert!(holds_all_after(at("5-0"), Some(at("4-0")), 10));
        assert!(!holds_all_after(at("5-0"), Some(at("5-1")), 10));
        assert!(!holds_all_after(at("5-0"), None, 0));
        let (most, all) = (usize::try_from(NEVER_TRIMMED).expect("few"), entries_to_read(LogCursor::START, 10));
        assert_eq!((all, entries_to_read(at("5-0"), 10)), (NEVER_TRIMMED, 10));
        assert!(holds_all_after(LogCursor::START, None, 0));
        assert!(holds_all_after(LogCursor::START, Some(at("1-0")), most - 1));
        assert!(!holds_all_after(LogCursor::START, Some(at("1-0")), most));
    }
}
