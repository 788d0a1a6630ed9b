//! The store as a port: records, indexes, logs, leases and payloads.
//!
//! Every change is a *unit*: guards and writes that are applied together or not at all. A call carries many units, each atomic
//! alone and each answered alone. A record remembers the id of the commit that wrote it last, so that a call that is repeated
//! because its answer was lost is answered [`Answer::Already`] instead of being applied twice.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::try_join;

use crate::time::Timestamp;

/// The most units of one call.
pub const UNITS_MAX: usize = 256;

/// Identifies one commit; unique for all time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitId(pub [u8; 16]);

impl CommitId {
    /// An id that nobody else makes: a UUID of version 7.
    #[must_use]
    pub fn generate() -> Self {
        Self(*uuid::Uuid::now_v7().as_bytes())
    }

    /// The `counter`-th commit of a term under an epoch: unique because an epoch has one owner, which counts its terms. Epoch and
    /// counter have 48 bits each.
    #[must_use]
    pub fn of_term(epoch: u64, term: u32, counter: u64) -> Self {
        let mut id = [0; 16];
        id[..6].copy_from_slice(&epoch.to_be_bytes()[2..]);
        id[6..10].copy_from_slice(&term.to_be_bytes());
        id[10..].copy_from_slice(&counter.to_be_bytes()[2..]);
        Self(id)
    }
}

/// What a unit demands of the present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guard {
    /// The lease's epoch is this one: the writer is still the owner that it believes to be.
    Epoch {
        /// The lease.
        lock: String,
        /// The epoch under which the writer became owner.
        epoch: u64,
    },
    /// The record stands at this revision.
    Revision {
        /// The record.
        key: String,
        /// Its revision, 1 or more.
        revision: u64,
    },
    /// Nothing stands under this key; nothing but an empty text, where the unit puts a record there.
    Absent {
        /// The key.
        key: String,
    },
    /// Something stands under this key.
    Exists {
        /// The key.
        key: String,
    },
    /// The counter is below this bound.
    CounterBelow {
        /// The counter; a missing one counts as 0.
        key: String,
        /// The bound.
        bound: i64,
    },
    /// The bucket, refilled until now, holds at least `cost` tokens; they are taken when the unit is applied.
    TokenBucket {
        /// The bucket; a missing one is full.
        key: String,
        /// Tokens added each second.
        per_second: u32,
        /// The most that it holds.
        burst: u32,
        /// Tokens that the unit takes.
        cost: u32,
    },
}

/// What a unit changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Writes a record. The revision must be one more than that of the guard; 1 for a new record.
    Put {
        /// The record.
        key: String,
        /// Its new revision.
        revision: u64,
        /// Its new value.
        value: Bytes,
        /// Time to live; `None` keeps it for ever.
        expire: Option<Duration>,
    },
    /// Removes a record or payload.
    Delete {
        /// The key.
        key: String,
    },
    /// Adds a member to an index, or moves it.
    IndexAdd {
        /// The index.
        index: String,
        /// The member.
        member: String,
        /// Its place.
        score: i64,
    },
    /// Takes a member out of an index.
    IndexRemove {
        /// The index.
        index: String,
        /// The member.
        member: String,
    },
    /// Takes out all members with a smaller score.
    IndexTrim {
        /// The index.
        index: String,
        /// The smallest score that stays.
        below: i64,
    },
    /// Appends an entry to a log, which is kept to about `keep` entries.
    Append {
        /// The log.
        log: String,
        /// The entry.
        value: Bytes,
        /// How many entries stay.
        keep: u64,
    },
    /// Adds to a counter.
    Count {
        /// The counter.
        key: String,
        /// What to add; may be negative.
        by: i64,
    },
    /// Writes a payload, over whatever stands there.
    PutPayload {
        /// The payload.
        key: String,
        /// Its bytes.
        value: Bytes,
        /// Time to live; `None` keeps it for ever.
        expire: Option<Duration>,
    },
    /// Makes a payload stay that would have expired.
    Persist {
        /// The payload.
        key: String,
    },
    /// Makes a payload expire.
    Expire {
        /// The payload.
        key: String,
        /// Time to live from now.
        after: Duration,
    },
    /// Copies a payload; nothing happens when it is gone.
    Copy {
        /// From this key.
        from: String,
        /// To this one, replacing what stands there.
        to: String,
        /// Time to live of the copy.
        expire: Option<Duration>,
    },
}

/// Guards and writes that are applied together or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Identifies this commit; kept in every record that it puts.
    pub id: CommitId,
    /// Checked in order; the first that does not hold ends the unit.
    pub guards: Vec<Guard>,
    /// Applied in order. The first [`Write::Put`] is the unit's subject: a repeated unit is recognised by it.
    pub writes: Vec<Write>,
}

/// What became of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Applied now. Holds the cursor of the last log entry that it appended, if it did.
    Applied {
        /// The log entry's cursor.
        appended: Option<String>,
    },
    /// This very unit was applied before.
    Already,
    /// A record stands at another revision than the guard said.
    Conflict {
        /// The guard's place in the unit.
        guard: usize,
    },
    /// A guard other than a revision did not hold.
    GuardFailed {
        /// The guard's place in the unit.
        guard: usize,
    },
}

/// Whether a commit brings new work or finishes work that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitClass {
    /// New work: refused when memory is short.
    Admit,
    /// Work that is there: goes through even then, so that it drains.
    Advance,
}

/// A record as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// How often it was written.
    pub revision: u64,
    /// The commit that wrote it last.
    pub commit: CommitId,
    /// Its value.
    pub value: Bytes,
}

/// A part of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexRange {
    /// Smallest score, inclusive.
    pub min: i64,
    /// Largest score, inclusive.
    pub max: i64,
    /// Largest score first.
    pub newest_first: bool,
    /// How many entries to pass over.
    pub offset: u64,
    /// How many entries to return.
    pub limit: u64,
}

/// A member of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// The member.
    pub member: String,
    /// Its place.
    pub score: i64,
}

/// An entry of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Its place in the log; later entries have larger cursors, in the order that Redis streams define.
    pub cursor: String,
    /// Its value.
    pub value: Bytes,
}

/// The state of a lease after one asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The one who asked holds it now.
    pub held: bool,
    /// Rises whenever the owner changes.
    pub epoch: u64,
    /// How long it is still held, by whomever.
    pub remaining: Duration,
    /// Who holds it.
    pub owner: String,
}

/// Why the store did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The store is away or too slow. Whether a commit was applied is unknown: repeat it with the same ids.
    #[error("the store is not available: {detail}")]
    Unavailable {
        /// What the client said.
        detail: String,
    },
    /// Memory is short; nothing of the refused unit was applied.
    #[error("the store is short of memory and takes no new work")]
    MemoryShort,
    /// The store refused in a way that repeating will not change.
    #[error("the store refused: {detail}")]
    Refused {
        /// What it said.
        detail: String,
    },
    /// A record that cannot be read.
    #[error("the record {key} cannot be read: {detail}")]
    Corrupt {
        /// The record.
        key: String,
        /// What is wrong with it.
        detail: String,
    },
}

/// Records, and payloads that were read beside them, each in the order of its keys.
pub type Beside = (Vec<Option<Stored>>, Vec<Option<Bytes>>);

/// Reads and commits.
pub trait Records: Clone + Send + Sync + 'static {
    /// Commits units; the answers come in the same order. At most 256 units a call. Calls are carried out in the order in which they
    /// were asked for first, whatever their class; one that is lost on its way takes those behind it along.
    ///
    /// # Errors
    /// [`StoreError`]; after [`StoreError::Unavailable`] any of the units may have been applied.
    fn commit(
        &self,
        class: CommitClass,
        units: impl Into<Arc<[Unit]>> + Send,
    ) -> impl Future<Output = Result<Vec<Answer>, StoreError>> + Send;

    /// Reads records, in the order of the keys.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Corrupt`].
    fn read(&self, keys: Vec<String>) -> impl Future<Output = Result<Vec<Option<Stored>>, StoreError>> + Send;

    /// Keys that begin with a prefix of letters, digits, colons and hyphens, page by page: from cursor 0 on, until the cursor is 0 again. What is there from
    /// the first page to the last is told at least once; what comes or goes meanwhile, perhaps.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    fn keys_with(&self, prefix: &str, cursor: u64) -> impl Future<Output = Result<(Vec<String>, u64), StoreError>> + Send;

    /// Reads a part of an index.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    fn index(&self, index: &str, range: IndexRange) -> impl Future<Output = Result<Vec<IndexEntry>, StoreError>> + Send;

    /// How many members an index has.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    fn index_len(&self, index: &str) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Reads up to `limit` entries of a log that come after a cursor; `"0"` is before the first.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    fn log_after(&self, log: &str, cursor: &str, limit: u64) -> impl Future<Output = Result<Vec<LogEntry>, StoreError>> + Send;

    /// The cursor of the last entry of a log; `"0"` when it has none.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    fn log_end(&self, log: &str) -> impl Future<Output = Result<String, StoreError>> + Send;

    /// Takes or renews a lease: granted when it is free, has run out or is held by `owner` already. Time is the store's.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    fn lease(&self, lock: &str, owner: &str, ttl: Duration) -> impl Future<Output = Result<Lease, StoreError>> + Send;

    /// Gives a lease back, if `owner` holds it; its epoch stays.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    fn release(&self, lock: &str, owner: &str) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Reads payloads, in the order of the keys.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    fn payloads(&self, keys: Vec<String>) -> impl Future<Output = Result<Vec<Option<Bytes>>, StoreError>> + Send;

    /// Reads records, and payloads beside them, each in the order of its keys.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Corrupt`].
    fn read_beside(&self, keys: Vec<String>, payloads: Vec<String>) -> impl Future<Output = Result<Beside, StoreError>> + Send {
        try_join(self.read(keys), self.payloads(payloads))
    }

    /// Writes a payload.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::MemoryShort`].
    fn put_payload(
        &self,
        key: &str,
        value: Bytes,
        expire: Option<Duration>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Writes a payload that finishes work which is there, such as the result of an attempt: it goes through even when memory is
    /// short, so that the work drains.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    fn put_result(&self, key: &str, value: Bytes, expire: Duration) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Appends to a payload until it has `max` bytes; what would go beyond is left out.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::MemoryShort`].
    fn append_payload(
        &self,
        key: &str,
        value: Bytes,
        max: u64,
        expire: Duration,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The store's time.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    fn time(&self) -> impl Future<Output = Result<Timestamp, StoreError>> + Send;
}
