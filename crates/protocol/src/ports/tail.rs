//! The tail of a log: what its only writer has just appended, for the relay that would otherwise read it again.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use super::{Answer, LogEntry, Unit, Write};
use crate::cursor::LogCursor;

/// So many entries are kept for a relay that does not come; then it has to read them.
const ENTRIES_MAX: usize = 4096;
/// The same in bytes.
const BYTES_MAX: usize = 8 << 20;

/// What was appended in one term of an owner. It is whole from the last [`LogTail::take`] on, or torn: then the log has to be read.
#[derive(Debug, Default)]
pub struct LogTail {
    kept: Mutex<Kept>,
    grown: Notify,
}

#[derive(Debug, Default)]
struct Kept {
    entries: Vec<LogEntry>,
    bytes: usize,
    /// The place of the last one that came.
    last: LogCursor,
    /// Something is missing.
    is_torn: bool,
}

impl LogTail {
    /// Units were committed, in this order: what each of them appends, if it does, and what the store said. The relay learns of it when
    /// the owner [announces](Self::announce) it.
    pub fn committed<'a>(
        &self,
        appends: impl IntoIterator<Item = Vec<Bytes>>,
        answers: impl IntoIterator<Item = &'a Option<Answer>>,
    ) {
        let mut kept = self.kept();
        for (values, answer) in appends.into_iter().zip(answers) {
            match (&values[..], answer) {
                ([], _) => {}
                ([value], Some(Answer::Applied { appended: Some(cursor) })) => kept.push(cursor, value.clone()),
                // They are in the log, and nobody has said where: before what came earlier, perhaps, if they were sent again.
                (_, Some(Answer::Already | Answer::Applied { .. })) => kept.tear(),
                (_, Some(Answer::Conflict { .. } | Answer::GuardFailed { .. }) | None) => {}
            }
        }
    }

    /// Wakes the relay: at the end of the owner's turn, so that what the owner sends and what the relay sends leave in one write.
    pub fn announce(&self) {
        self.grown.notify_one();
    }

    /// All that was appended since the last call; `None` if that is not known, and from then on it is.
    pub(super) fn take(&self) -> Option<Vec<LogEntry>> {
        let mut kept = self.kept();
        kept.bytes = 0;
        let entries = std::mem::take(&mut kept.entries);
        if std::mem::take(&mut kept.is_torn) { None } else { Some(entries) }
    }

    /// Waits until the owner has announced something.
    pub(super) async fn grown(&self) {
        self.grown.notified().await;
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn push(&mut self, cursor: &str, value: Bytes) {
        match LogCursor::parse(cursor) {
            Some(at) if at > self.last => self.last = at,
            // Not in the order of the log, so that something else may be missing as well.
            _ => return self.tear(),
        }
        self.bytes += value.len();
        if self.entries.len() >= ENTRIES_MAX || self.bytes > BYTES_MAX {
            self.tear();
        } else if !self.is_torn {
            self.entries.push(LogEntry { cursor: cursor.to_owned(), value });
        }
    }

    fn tear(&mut self) {
        self.is_torn = true;
        self.entries = Vec::new();
        self.bytes = 0;
    }
}

/// What the unit appends to this log, which is the last that it appends to: its answer names the place of its last entry.
#[must_use]
pub fn appended(unit: &Unit, to: &str) -> Vec<Bytes> {
    let appends = unit.writes.iter().filter_map(|write| match write {
        Write::Append { log, value, .. } => Some((log, value)),
        _ => None,
    });
    appends.filter(|(log, _)| *log == to).map(|(_, value)| value.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(cursor: &str) -> Option<Answer> {
        Some(Answer::Applied { appended: Some(cursor.to_owned()) })
    }

    fn commit(tail: &LogTail, answers: &[Option<Answer>]) {
        tail.committed(answers.iter().map(|_| vec![Bytes::from_static(b"x")]), answers);
    }

    fn taken(tail: &LogTail) -> Option<Vec<String>> {
        tail.take().map(|entries| entries.into_iter().map(|entry| entry.cursor).collect())
    }

    #[test]
    fn what_was_appended_is_there_once_and_in_order() {
        let tail = LogTail::default();
        commit(&tail, &[applied("1-0"), Some(Answer::GuardFailed { guard: 0 }), None, applied("1-1")]);
        tail.committed([vec![]], &[Some(Answer::Applied { appended: None })]);
        commit(&tail, &[applied("2-0")]);
        assert_eq!(taken(&tail), Some(["1-0", "1-1", "2-0"].map(str::to_owned).to_vec()));
        assert_eq!(taken(&tail), Some(vec![]));
    }

    #[test]
    fn what_may_be_missing_tears_it_until_somebody_has_heard_of_that() {
        for torn in [Some(Answer::Already), Some(Answer::Applied { appended: None }), applied("1-0"), applied("strange")] {
            let tail = LogTail::default();
            commit(&tail, &[applied("2-0"), torn, applied("3-0")]);
            commit(&tail, &[applied("4-0")]);
            assert_eq!(taken(&tail), None);
            commit(&tail, &[applied("5-0")]);
            assert_eq!(taken(&tail), Some(vec!["5-0".to_owned()]));
        }
    }

    #[test]
    fn nobody_who_takes_costs_no_memory() {
        let tail = LogTail::default();
        for n in 0..=ENTRIES_MAX {
            commit(&tail, &[applied(&format!("1-{}", n + 1))]);
        }
        let kept = tail.kept().entries.len();
        assert_eq!((kept, taken(&tail)), (0, None));
        commit(&tail, &[applied("2-0")]);
        tail.committed([vec![vec![0; BYTES_MAX].into()]], &[applied("2-1")]);
        assert_eq!(taken(&tail), None);
    }

    #[test]
    fn of_several_entries_nobody_knows_the_places() {
        let tail = LogTail::default();
        tail.committed([vec![Bytes::from_static(b"x"); 2]], &[applied("1-1")]);
        assert_eq!(taken(&tail), None);
    }

    #[test]
    fn only_one_log_of_a_unit_counts() {
        let append = |log: &str| Write::Append { log: log.to_owned(), value: Bytes::from(log.to_owned()), keep: 1 };
        let unit = |writes: Vec<Write>| Unit { id: super::super::CommitId::generate(), guards: vec![], writes };
        let told = |unit: &Unit| appended(unit, "b").len();
        assert_eq!(told(&unit(vec![append("a"), append("b")])), 1);
        assert_eq!(told(&unit(vec![append("a"), append("b"), append("a"), append("b")])), 2);
        assert_eq!(told(&unit(vec![append("a")])), 0);
    }
}
