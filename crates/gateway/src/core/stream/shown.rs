//! What a snapshot has shown: changes that it knew already are not told again, so that no job seems to go back.

use std::collections::HashMap;

use busbar_protocol::cursor::LogCursor;

use super::cursor::{Cursor, Log};
use super::item::Item;

/// What a snapshot has shown, by job or run, with the time of its last change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shown {
    seen: HashMap<String, u64>,
    /// How far the logs reached once the snapshot had been read: what comes later is news for certain.
    until: Cursor,
}

impl Shown {
    pub(crate) fn see(&mut self, id: String, updated_ms: u64) {
        self.seen.insert(id, updated_ms);
    }

    pub(crate) fn settle(&mut self, until: Cursor) {
        self.until = until;
    }

    /// Whether the snapshot was newer than this change. Two changes of one millisecond cannot be told apart: the later one
    /// must not be lost, so both are told.
    pub(crate) fn repeats(&self, log: Log, position: LogCursor, item: &Item) -> bool {
        let id = match log {
            Log::Jobs => item.job_id.as_ref(),
            Log::Runs => item.run_id.as_ref(),
        };
        position <= self.until.at(log) && id.and_then(|id| self.seen.get(id)).is_some_and(|seen| item.at_ms < *seen)
    }

    /// Whether everything up to `cursor` has been told, so that this is of no more use.
    pub(crate) fn is_over(&self, cursor: Cursor) -> bool {
        Log::ALL.into_iter().all(|log| cursor.at(log) >= self.until.at(log))
    }
}

#[cfg(test)]
mod tests {
    use super::super::item::tests::job;
    use super::*;

    #[test]
    fn only_what_was_older_than_the_snapshot_is_left_out() {
        let place = |n: u64| LogCursor::parse(&format!("{n}-0")).expect("a place");
        let mut shown = Shown::default();
        shown.see("a".into(), 100);
        shown.settle(Cursor { jobs: place(9), runs: LogCursor::START });
        let repeats = |at: u64, id: &str, ms: u64| shown.repeats(Log::Jobs, place(at), &job("acme", id, "job.x", ms));
        assert!(repeats(5, "a", 99));
        assert!(!repeats(5, "a", 100));
        assert!(!repeats(5, "b", 99));
        // A clock that was set back must not hide anything that came after the snapshot.
        assert!(!repeats(10, "a", 99));
        assert!(!shown.is_over(Cursor { jobs: place(8), runs: LogCursor::START }));
        assert!(shown.is_over(Cursor { jobs: place(9), runs: LogCursor::START }));
    }
}
