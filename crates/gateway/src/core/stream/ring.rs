//! The last committed changes of both logs, in the order in which they were read; every reader has a place of its own.

use std::collections::VecDeque;
use std::sync::Arc;

use busbar_protocol::cursor::LogCursor;

use super::cursor::{Cursor, Log};
use super::item::Item;

/// One committed change.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) log: Log,
    pub(crate) position: LogCursor,
    /// None where the entry cannot be read: it is passed over.
    pub(crate) item: Option<Item>,
}

/// The last committed changes.
#[derive(Debug)]
pub(crate) struct Ring {
    /// Everything up to here came before the first entry.
    before: Cursor,
    /// How far the logs were read.
    end: Cursor,
    entries: VecDeque<Arc<Entry>>,
    /// The number of the first entry; numbers are never used twice.
    first: u64,
    max: usize,
}

/// A reader's place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reader {
    pub(crate) cursor: Cursor,
    /// The number of the next entry, where the cursor was found in the ring.
    next: Option<u64>,
}

impl Reader {
    pub(crate) const fn at(cursor: Cursor) -> Self {
        Self { cursor, next: None }
    }
}

/// What a reader finds.
#[derive(Clone, Debug)]
pub(crate) enum Found {
    /// What comes next; nothing at the end.
    Entries(Vec<Arc<Entry>>),
    /// The ring does not reach back so far: this log has to be read.
    Behind(Log),
}

impl Ring {
    pub(crate) fn new(at: Cursor, max: usize) -> Self {
        Self { before: at, end: at, entries: VecDeque::new(), first: 0, max }
    }

    /// How far the logs were read.
    pub(crate) const fn end(&self) -> Cursor {
        self.end
    }

    /// Begins anew somewhere else.
    pub(crate) fn restart(&mut self, at: Cursor) {
        self.first += self.entries.len() as u64 + 1;
        self.entries.clear();
        (self.before, self.end) = (at, at);
    }

    /// Takes the next entry of its log in; one that is there already is passed over.
    pub(crate) fn push(&mut self, entry: Entry) {
        if entry.position <= self.end.at(entry.log) {
            return;
        }
        self.end.advance(entry.log, entry.position);
        self.entries.push_back(Arc::new(entry));
        while self.entries.len() > self.max {
            if let Some(oldest) = self.entries.pop_front() {
                self.before.advance(oldest.log, oldest.position);
                self.first += 1;
            }
        }
    }

    /// What comes after the reader's place, at most `max` entries; the reader goes forward.
    pub(crate) fn read(&self, reader: &mut Reader, max: usize) -> Found {
        let from = match reader.next.filter(|next| *next >= self.first) {
            Some(next) => next,
            None => match Log::ALL.into_iter().find(|log| reader.cursor.at(*log) < self.before.at(*log)) {
                Some(log) => {
                    reader.next = None;
                    return Found::Behind(log);
                }
                None => self.first,
            },
        };
        let skip = usize::try_from(from - self.first).unwrap_or(usize::MAX);
        let (mut next, mut entries) = (from, Vec::new());
        for entry in self.entries.iter().skip(skip) {
            if entries.len() == max {
                break;
            }
            next += 1;
            if entry.position > reader.cursor.at(entry.log) {
                reader.cursor.advance(entry.log, entry.position);
                entries.push(entry.clone());
            }
        }
        reader.next = Some(next);
        Found::Entries(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(n: u64) -> LogCursor {
        LogCursor::parse(&format!("{n}-0")).expect("a place")
    }

    fn cursor(jobs: u64, runs: u64) -> Cursor {
        Cursor { jobs: place(jobs), runs: place(runs) }
    }

    fn push(ring: &mut Ring, log: Log, at: impl IntoIterator<Item = u64>) {
        at.into_iter().for_each(|n| ring.push(Entry { log, position: place(n), item: None }));
    }

    fn read(ring: &Ring, reader: &mut Reader, max: usize) -> Vec<(Log, LogCursor)> {
        match ring.read(reader, max) {
            Found::Entries(entries) => entries.iter().map(|entry| (entry.log, entry.position)).collect(),
            Found::Behind(log) => panic!("behind in {log:?}"),
        }
    }

    fn is_behind(ring: &Ring, at: Cursor) -> Option<Log> {
        match ring.read(&mut Reader::at(at), 10) {
            Found::Behind(log) => Some(log),
            Found::Entries(_) => None,
        }
    }

    #[test]
    fn every_reader_sees_everything_after_its_cursor_once() {
        let mut ring = Ring::new(cursor(1, 1), 100);
        push(&mut ring, Log::Jobs, [2, 3]);
        push(&mut ring, Log::Runs, [2]);
        push(&mut ring, Log::Jobs, [3, 4]);
        let mut first = Reader::at(cursor(1, 1));
        assert_eq!(read(&ring, &mut first, 2), [(Log::Jobs, place(2)), (Log::Jobs, place(3))]);
        assert_eq!(read(&ring, &mut first, 9), [(Log::Runs, place(2)), (Log::Jobs, place(4))]);
        assert_eq!(read(&ring, &mut first, 9), []);
        assert_eq!(first.cursor, ring.end());
        let mut second = Reader::at(cursor(3, 1));
        assert_eq!(read(&ring, &mut second, 9), [(Log::Runs, place(2)), (Log::Jobs, place(4))]);
        // One that is ahead of the ring waits until the ring has caught up.
        let mut ahead = Reader::at(cursor(6, 1));
        assert_eq!(read(&ring, &mut ahead, 9), [(Log::Runs, place(2))]);
        push(&mut ring, Log::Jobs, [5, 6, 7]);
        assert_eq!(read(&ring, &mut ahead, 9), [(Log::Jobs, place(7))]);
    }

    #[test]
    fn a_reader_that_fell_behind_is_told_and_comes_back_by_its_cursor() {
        let mut ring = Ring::new(cursor(1, 1), 4);
        let mut slow = Reader::at(cursor(1, 1));
        push(&mut ring, Log::Jobs, [2, 3]);
        assert_eq!(read(&ring, &mut slow, 1).len(), 1);
        push(&mut ring, Log::Jobs, 4..=20);
        assert_eq!(ring.entries.len(), 4);
        assert!(matches!(ring.read(&mut slow, 9), Found::Behind(Log::Jobs)));
        assert_eq!(slow.cursor, cursor(2, 1));
        // It has read the log meanwhile, half into the ring.
        slow.cursor.advance(Log::Jobs, place(18));
        assert_eq!(read(&ring, &mut slow, 9), [(Log::Jobs, place(19)), (Log::Jobs, place(20))]);
    }

    #[test]
    fn each_log_is_behind_for_itself() {
        let ring = Ring::new(cursor(5, 7), 4);
        assert_eq!(is_behind(&ring, cursor(5, 7)), None);
        assert_eq!(is_behind(&ring, cursor(4, 7)), Some(Log::Jobs));
        assert_eq!(is_behind(&ring, cursor(9, 6)), Some(Log::Runs));
    }

    #[test]
    fn after_a_restart_nobody_reads_by_an_old_number() {
        let mut ring = Ring::new(cursor(1, 1), 10);
        push(&mut ring, Log::Jobs, [2, 3]);
        let mut reader = Reader::at(cursor(1, 1));
        assert_eq!(read(&ring, &mut reader, 9).len(), 2);
        ring.restart(cursor(50, 1));
        push(&mut ring, Log::Jobs, [51]);
        assert!(matches!(ring.read(&mut reader, 9), Found::Behind(Log::Jobs)));
        reader.cursor.advance(Log::Jobs, place(50));
        assert_eq!(read(&ring, &mut reader, 9), [(Log::Jobs, place(51))]);
    }
}
