//! The relay: tells on the bus, in order and at least once, what the log of an owner holds.
//!
//! ```text
//! log ──read after the cursor──▶ Teller ──▶ the bus
//!     ◀──cursor, once a round trip over the same connection has shown that the server has it all──
//! ```
//!
//! What the owner has just written it hands over ([`LogTail`]), and nobody reads it. The log is read at the beginning, after a mishap,
//! where the tail is torn, and now and then.
//!
//! How an entry is told, and what is measured of it, is the owner's; when a cursor may be saved is the same for all.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::{self, Either};

use super::{Answer, Bus, BusError, Clock, CommitClass, CommitId, Guard, LogEntry, LogTail, Records, StoreError, Unit, Write};
use crate::cursor::LogCursor;
use crate::time::Timestamp;

/// The most entries that are read, and told, at once.
const BATCH: usize = 256;
/// The most bytes of entries that are told at once: a message holds 1 MiB.
const BATCH_BYTES: usize = 512 << 10;
/// How long the relay waits for the tail to grow; then it looks whether the log holds anything else.
const IDLE: Duration = Duration::from_millis(500);
/// How long it waits after a mishap.
const PAUSE: Duration = Duration::from_millis(100);
/// The cursor is saved after so many entries; or so long after the first that it does not cover, when there is nothing to tell, or else
/// later. Not with each: it takes a round trip and a commit, for which the next entry would wait, and what is told twice after a crash is
/// told apart by its cursor.
const SAVE_EVERY: usize = 4096;
const SAVE_AFTER: Duration = Duration::from_millis(500);
const SAVE_LATEST: Duration = Duration::from_secs(2);

/// Why the relay pauses. It begins again where the saved cursor stands.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The store did not do its part.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The bus did not do its part.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The connection was made again.
    #[error("the connection was made again: what was told before may not have arrived")]
    Reconnected,
    /// Another term has begun.
    #[error("somebody else has saved a cursor, or is active")]
    Overtaken,
}

/// What an owner does with the entries of its log.
pub trait Teller: Send + Sync {
    /// Tells entries, in order; `after` is the cursor before the first.
    ///
    /// # Errors
    /// [`BusError`]: all of them are told again.
    fn tell(&self, after: &str, entries: &[LogEntry]) -> impl Future<Output = Result<(), BusError>> + Send;

    /// Entries were told; the ages say how long ago each was written.
    fn told(&self, ages: impl Iterator<Item = Duration>);

    /// The relay pauses, and will tell again what it is not sure of.
    fn paused(&self, error: &RelayError);
}

/// Which log is relayed, and whose it is.
#[derive(Clone, Copy, Debug)]
pub struct RelayedLog {
    /// The log.
    pub log: &'static str,
    /// The record of how far it was told.
    pub cursor: &'static str,
    /// The lease of its owner.
    pub lock: &'static str,
}

/// A relay for one term of an owner.
pub struct Relay<B, R, C, T> {
    /// Where it is told.
    pub bus: B,
    /// Where the log is.
    pub records: R,
    /// Times its pauses.
    pub clock: C,
    /// How it is told.
    pub teller: T,
    /// What is told.
    pub of: RelayedLog,
    /// The epoch of the term.
    pub epoch: u64,
    /// What its owner has just written.
    pub tail: Arc<LogTail>,
    /// How far it is.
    pub progress: Arc<RelayProgress>,
}

/// How far the log was told in this term.
struct Position {
    cursor: String,
    /// The revision of the saved cursor.
    revision: u64,
    /// How many entries were told after the saved cursor.
    unsaved: usize,
    /// The connection over which the first of them was told.
    generation: u64,
    /// When that was.
    since: Timestamp,
}

impl Position {
    fn is_due(&self, now: Timestamp, is_quiet: bool) -> bool {
        let after = if is_quiet { SAVE_AFTER } else { SAVE_LATEST };
        self.unsaved >= SAVE_EVERY || (self.unsaved > 0 && now.since(self.since) >= after)
    }
}

impl<B: Bus, R: Records, C: Clock, T: Teller> Relay<B, R, C, T> {
    /// Relays for ever.
    pub async fn run(self) {
        let mut position = None;
        // Whether the log may hold what its tail does not.
        let mut reads = true;
        loop {
            if let Err(error) = self.relay(&mut position, reads).await {
                self.teller.paused(&error);
                (position, reads) = (None, true);
                self.clock.sleep(PAUSE).await;
                continue;
            }
            reads = matches!(future::select(pin!(self.tail.grown()), pin!(self.clock.sleep(IDLE))).await, Either::Right(_));
        }
    }

    async fn relay(&self, position: &mut Option<Position>, reads: bool) -> Result<(), RelayError> {
        let at = match position {
            Some(at) => at,
            None => position.insert(self.load().await?),
        };
        if !reads && let Some(entries) = self.tail.take() {
            return self.tell_tail(at, entries).await;
        }
        self.catch_up(at).await
    }

    /// Relays what was just written. Everything before has been told, or read: the log was read to its end after the tail was whole.
    async fn tell_tail(&self, at: &mut Position, mut entries: Vec<LogEntry>) -> Result<(), RelayError> {
        let here = LogCursor::parse(&at.cursor);
        entries.retain(|entry| LogCursor::parse(&entry.cursor) > here);
        for some in batches(&entries) {
            self.tell(at, some).await?;
        }
        if at.is_due(self.clock.now(), false) { self.save(at).await } else { Ok(()) }
    }

    /// Relays until the end of the log.
    async fn catch_up(&self, at: &mut Position) -> Result<(), RelayError> {
        loop {
            let (mark, now) = (self.progress.mark(), self.clock.now());
            let entries = self.records.log_after(self.of.log, &at.cursor, BATCH as u64).await?;
            for some in batches(&entries) {
                self.tell(at, some).await?;
            }
            if at.is_due(now, entries.is_empty()) {
                self.save(at).await?;
            }
            if entries.len() < BATCH {
                self.progress.caught_up(mark, now);
                return Ok(());
            }
        }
    }

    /// Where a predecessor, or we before a mishap, left off.
    async fn load(&self) -> Result<Position, RelayError> {
        let stored = self.records.read(vec![self.of.cursor.to_owned()]).await?.pop().flatten();
        let (cursor, revision) = match stored {
            None => ("0".to_owned(), 0),
            Some(stored) => (String::from_utf8_lossy(&stored.value).into_owned(), stored.revision),
        };
        Ok(Position { cursor, revision, unsaved: 0, generation: 0, since: Timestamp::default() })
    }

    async fn tell(&self, at: &mut Position, entries: &[LogEntry]) -> Result<(), RelayError> {
        let Some(last) = entries.last() else { return Ok(()) };
        if at.unsaved == 0 {
            at.generation = self.generation();
            at.since = self.clock.now();
        }
        self.teller.tell(&at.cursor, entries).await?;
        let now = self.clock.now();
        self.teller.told(entries.iter().map(|entry| now.since(written(&entry.cursor))));
        self.progress.told(entries.len(), written(&last.cursor));
        at.cursor.clone_from(&last.cursor);
        at.unsaved += entries.len();
        Ok(())
    }

    fn generation(&self) -> u64 {
        self.bus.connection().borrow().generation
    }

    /// Saves the cursor, once a round trip has shown that everything before has arrived: which it shows only if everything went
    /// over the connection that is there now.
    async fn save(&self, at: &mut Position) -> Result<(), RelayError> {
        self.bus.round_trip().await?;
        if self.generation() != at.generation {
            return Err(RelayError::Reconnected);
        }
        let key = self.of.cursor.to_owned();
        let own = Guard::Epoch { lock: self.of.lock.to_owned(), epoch: self.epoch };
        let present = match at.revision {
            0 => Guard::Absent { key: key.clone() },
            revision => Guard::Revision { key: key.clone(), revision },
        };
        let value = at.cursor.clone().into_bytes().into();
        let put = Write::Put { key, revision: at.revision + 1, value, expire: None };
        let unit = Unit { id: CommitId::generate(), guards: vec![own, present], writes: vec![put] };
        let answers = self.records.commit(CommitClass::Advance, vec![unit]).await?;
        if !matches!(answers.first(), Some(Answer::Applied { .. } | Answer::Already)) {
            return Err(RelayError::Overtaken);
        }
        at.revision += 1;
        at.unsaved = 0;
        Ok(())
    }
}

/// Entries in parts that fit into one message, in order. An entry that is too large for any has a part of its own.
fn batches(mut entries: &[LogEntry]) -> Vec<&[LogEntry]> {
    let mut batches = Vec::new();
    while !entries.is_empty() {
        let mut bytes = 0;
        let fit = entries.iter().take(BATCH).take_while(|entry| {
            bytes += entry.value.len();
            bytes <= BATCH_BYTES
        });
        let (batch, rest) = entries.split_at(fit.count().max(1));
        batches.push(batch);
        entries = rest;
    }
    batches
}

/// When an entry was written.
fn written(cursor: &str) -> Timestamp {
    Timestamp::from_millis(LogCursor::parse(cursor).map_or(0, LogCursor::millis))
}

/// How far a relay is: told by the owner that writes the log and by the relay, read by whoever measures.
#[derive(Debug, Default)]
pub struct RelayProgress {
    written: AtomicU64,
    told: AtomicU64,
    told_until_ms: AtomicU64,
}

impl RelayProgress {
    /// Entries were written to the log.
    pub fn written(&self, entries: usize) {
        self.written.fetch_add(entries as u64, Ordering::Relaxed);
    }

    /// Entries were told; the last one was written at this time.
    fn told(&self, entries: usize, until: Timestamp) {
        self.told.fetch_add(entries as u64, Ordering::Relaxed);
        self.told_until_ms.store(until.millis(), Ordering::Relaxed);
    }

    /// How many entries have been counted as written by now: for [`RelayProgress::caught_up`], before the log is read.
    fn mark(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// The log was read after the mark, at this time, and held nothing more. What was told twice, or was left by an earlier term,
    /// is put right by this.
    fn caught_up(&self, mark: u64, at: Timestamp) {
        self.told.store(mark, Ordering::Relaxed);
        self.told_until_ms.store(at.millis(), Ordering::Relaxed);
    }

    /// How many entries, and how much time, lie between the log and what was told of it.
    #[must_use]
    pub fn lag(&self, now: Timestamp) -> (u64, Duration) {
        let entries = self.written.load(Ordering::Relaxed).saturating_sub(self.told.load(Ordering::Relaxed));
        let until = Timestamp::from_millis(self.told_until_ms.load(Ordering::Relaxed));
        (entries, if entries == 0 { Duration::ZERO } else { now.since(until) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_relay_is_behind_by_what_was_written_and_not_told() {
        let progress = RelayProgress::default();
        let at = Timestamp::from_millis;
        assert_eq!(progress.lag(at(5000)), (0, Duration::ZERO));
        progress.written(3);
        progress.told(1, at(4000));
        assert_eq!(progress.lag(at(5000)), (2, Duration::from_secs(1)));
        // The last entry is told twice, and nothing is there any more.
        progress.told(3, at(4500));
        let mark = progress.mark();
        progress.caught_up(mark, at(9000));
        assert_eq!(progress.lag(at(9000)), (0, Duration::ZERO));
        progress.written(1);
        assert_eq!(progress.lag(at(9500)), (1, Duration::from_millis(500)));
    }

    #[test]
    fn what_is_told_at_once_fits_into_a_message() {
        let entry = |bytes: usize| LogEntry { cursor: "1-0".to_owned(), value: vec![0; bytes].into() };
        let sizes = |entries: &[LogEntry]| batches(entries).iter().map(|batch| batch.len()).collect::<Vec<_>>();
        assert_eq!(sizes(&vec![entry(10); BATCH]), [BATCH]);
        assert_eq!(sizes(&vec![entry(10); BATCH + 1]), [BATCH, 1]);
        assert_eq!(sizes(&vec![entry(200 << 10); 5]), [2, 2, 1]);
        assert_eq!(sizes(&[entry(1), entry(600 << 10), entry(1)]), [1, 1, 1]);
        assert!(sizes(&[]).is_empty());
    }
}
