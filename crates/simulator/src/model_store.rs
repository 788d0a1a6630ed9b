//! The store as a model: the same port over maps in memory, with faults that a seed decides.
//!
//! Commits are applied in the order in which they were asked for, as the real client does it, whatever delays they draw; one that
//! is lost takes those behind it along, as a connection does that breaks; one whose caller is gone may still be applied later, as one
//! that was under way when its sender crashed.

mod faults;
mod state;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use busbar_protocol::ports::{
    Answer, CommitClass, IndexEntry, IndexRange, Lease, LogEntry, Records, StoreError, Stored, UNITS_MAX, Unit,
};
use busbar_protocol::time::Timestamp;
use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

pub use faults::StoreFaults;
pub use state::Content;
use state::State;

use crate::chaos::Chaos;
use crate::watch::{Watch, Watched};

/// How long a call takes at least while the store is away, so that whoever repeats it lets time pass.
const OUTAGE_MS_MIN: u64 = 10;

/// A store in memory. Clones are the same store, over the same connection.
#[derive(Clone, Debug)]
pub struct ModelStore {
    inner: Arc<Mutex<Inner>>,
    connection: u64,
    chaos: Chaos,
    start: Timestamp,
    since: Instant,
    watched: Watched,
}

#[derive(Debug, Default)]
struct Inner {
    state: State,
    faults: StoreFaults,
    outage: bool,
    connections: u64,
    asked: u64,
    /// Commits that were asked for and are not applied yet.
    waiting: VecDeque<Waiting>,
    commits: u64,
}

#[derive(Debug)]
struct Waiting {
    pending: Pending,
    class: CommitClass,
    units: Arc<[Unit]>,
    reply: oneshot::Sender<Result<Vec<Answer>, StoreError>>,
}

impl ModelStore {
    /// An empty store without faults, whose time starts here and goes with tokio's clock. Needs a tokio runtime.
    #[must_use]
    pub fn new(chaos: Chaos, start: Timestamp) -> Self {
        Self { inner: Arc::default(), connection: 0, chaos, start, since: Instant::now(), watched: Watched::default() }
    }

    /// The same store over a connection of its own.
    #[must_use]
    pub fn connect(&self) -> Self {
        let mut inner = self.lock();
        inner.connections += 1;
        Self { connection: inner.connections, ..self.clone() }
    }

    /// Lets somebody watch from now on.
    pub fn watch(&self, watcher: Arc<dyn Watch>) {
        self.watched.set(watcher);
    }

    /// Sets the faults from now on.
    pub fn set_faults(&self, faults: StoreFaults) {
        self.lock().faults = faults;
    }

    /// The faults of now.
    #[must_use]
    pub fn faults(&self) -> StoreFaults {
        self.lock().faults
    }

    /// Takes the store away or brings it back.
    pub fn outage(&self, away: bool) {
        self.lock().outage = away;
    }

    /// How many units were applied.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.lock().commits
    }

    /// All records whose key begins so, in the order of the keys, past every fault.
    #[must_use]
    pub fn records(&self, prefix: &str) -> Vec<(String, Stored)> {
        let mut records = Vec::new();
        for (key, content, _) in self.contents(prefix) {
            if let Content::Text(bytes) = content
                && let Ok(record) = state::stored(&key, &bytes)
            {
                records.push((key, record));
            }
        }
        records
    }

    /// All entries of a log, past every fault.
    #[must_use]
    pub fn logged(&self, log: &str) -> Vec<LogEntry> {
        self.at_once(|state, now| state.log_after(now, log, "0", u64::MAX)).unwrap_or_default()
    }

    /// All members of an index, past every fault.
    #[must_use]
    pub fn members(&self, index: &str) -> Vec<IndexEntry> {
        let all = IndexRange { min: i64::MIN, max: i64::MAX, newest_first: false, offset: 0, limit: u64::MAX };
        self.at_once(|state, now| state.index(now, index, &all)).unwrap_or_default()
    }

    /// The epoch of a lease, past every fault; 0 when nobody ever held it.
    #[must_use]
    pub fn read_epoch(&self, lock: &str) -> u64 {
        self.at_once(|state, now| state.epoch(now, lock))
    }

    /// Everything whose key begins so, in the order of the keys, and when it expires, in milliseconds since 1970; past every
    /// fault.
    #[must_use]
    pub fn contents(&self, prefix: &str) -> Vec<(String, Content, Option<u64>)> {
        self.at_once(|state, now| state.contents(now, prefix))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no call on the model panics")
    }

    fn now_ms(&self) -> u64 {
        self.start.after(self.since.elapsed()).millis()
    }

    fn at_once<T>(&self, act: impl FnOnce(&mut State, u64) -> T) -> T {
        let now = self.now_ms();
        act(&mut self.lock().state, now)
    }

    /// Waits as long as the way to the store takes; then it may turn out to be away.
    async fn travel(&self) -> Result<(), StoreError> {
        let (faults, outage) = self.conditions();
        let mut delay = self.delay(faults.delay_ms_max);
        if outage {
            delay = delay.max(OUTAGE_MS_MIN);
        }
        if delay > 0 {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
        // It may have gone away or come back meanwhile.
        let (faults, outage) = self.conditions();
        if outage {
            return Err(unavailable("the store is away"));
        }
        if self.chaos.chance(faults.unavailable_before_per_mille) {
            return Err(unavailable("the request was lost"));
        }
        Ok(())
    }

    /// The answer's way back.
    fn arrive<T>(&self, answer: T) -> Result<T, StoreError> {
        let (faults, outage) = self.conditions();
        if outage || self.chaos.chance(faults.unavailable_after_per_mille) {
            return Err(unavailable("the answer was lost"));
        }
        Ok(answer)
    }

    fn conditions(&self) -> (StoreFaults, bool) {
        let inner = self.lock();
        (inner.faults, inner.outage)
    }

    fn delay(&self, ms_max: u64) -> u64 {
        if ms_max == 0 { 0 } else { self.chaos.below(ms_max + 1) }
    }

    fn ask(&self, class: CommitClass, units: Arc<[Unit]>) -> (Pending, oneshot::Receiver<Result<Vec<Answer>, StoreError>>) {
        let (reply, answer) = oneshot::channel();
        let mut inner = self.lock();
        inner.asked += 1;
        let pending = Pending { connection: self.connection, ticket: inner.asked };
        inner.waiting.push_back(Waiting { pending, class, units, reply });
        (pending, answer)
    }

    /// Applies everything that was asked for up to this commit, by whomever, in order: what is on its way arrives, whatever has become of its
    /// caller meanwhile.
    fn apply_up_to(&self, pending: Pending) {
        let now = self.now_ms();
        let mut inner = self.lock();
        for next in inner.take_waiting(|next| next.pending.ticket <= pending.ticket) {
            let result = inner.apply(next.class, now, &next.units, &self.watched);
            self.watched.tell(|watcher| watcher.flushed());
            // Its caller may be gone.
            let _ = next.reply.send(result);
        }
    }

    /// Its connection breaks: this commit does not arrive, nor does what was asked for after it.
    fn lose_from(&self, pending: Pending) {
        let behind = |next: &Waiting| next.pending.connection == pending.connection && next.pending.ticket >= pending.ticket;
        for behind in self.lock().take_waiting(behind) {
            self.watched.tell(|watcher| watcher.lost(&behind.units));
            let _ = behind.reply.send(Err(unavailable("the connection broke")));
        }
    }

    async fn read_only<T>(&self, act: impl FnOnce(&mut State, u64) -> Result<T, StoreError> + Send) -> Result<T, StoreError> {
        self.travel().await?;
        self.at_once(act)
    }

    async fn change<T>(&self, act: impl FnOnce(&mut State, u64) -> Result<T, StoreError> + Send) -> Result<T, StoreError> {
        self.travel().await?;
        let changed = self.at_once(act)?;
        self.arrive(changed)
    }

    fn check_memory(&self) -> Result<(), StoreError> {
        if self.lock().faults.memory_short { Err(StoreError::MemoryShort) } else { Ok(()) }
    }
}

/// A commit on its way.
#[derive(Clone, Copy, Debug)]
struct Pending {
    connection: u64,
    ticket: u64,
}

impl Inner {
    fn take_waiting(&mut self, which: impl Fn(&Waiting) -> bool) -> Vec<Waiting> {
        let (taken, left) = std::mem::take(&mut self.waiting).into_iter().partition(which);
        self.waiting = left;
        Vec::from(taken)
    }

    fn apply(&mut self, class: CommitClass, now: u64, units: &[Unit], watched: &Watched) -> Result<Vec<Answer>, StoreError> {
        if class == CommitClass::Admit && self.faults.memory_short {
            return Err(StoreError::MemoryShort);
        }
        let mut answers = Vec::with_capacity(units.len());
        for unit in units {
            let answer = self.state.apply(now, unit);
            if let Ok(Answer::Applied { .. }) = answer {
                self.commits += 1;
                watched.tell(|watcher| watcher.applied(Timestamp::from_millis(now), unit));
            }
            answers.push(answer);
        }
        let mut all = Vec::with_capacity(answers.len());
        for (place, answer) in answers.into_iter().enumerate() {
            all.push(answer.map_err(|reason| StoreError::Refused { detail: format!("unit {place}: {reason}") })?);
        }
        Ok(all)
    }
}

fn unavailable(detail: &str) -> StoreError {
    StoreError::Unavailable { detail: detail.into() }
}

fn check_units(units: &[Unit]) -> Result<(), StoreError> {
    if units.len() > UNITS_MAX {
        return Err(StoreError::Refused { detail: format!("{} units in one call; at most {UNITS_MAX}", units.len()) });
    }
    for (place, unit) in units.iter().enumerate() {
        if let Some(fault) = busbar_protocol::ports::unit_fault(unit) {
            return Err(StoreError::Refused { detail: format!("unit {place}: {fault}") });
        }
    }
    Ok(())
}

impl Records for ModelStore {
    async fn commit(&self, class: CommitClass, units: impl Into<Arc<[Unit]>> + Send) -> Result<Vec<Answer>, StoreError> {
        let units = units.into();
        check_units(&units)?;
        if units.is_empty() {
            return Ok(vec![]);
        }
        let (pending, answer) = self.ask(class, units);
        if let Err(error) = self.travel().await {
            // A later commit may have taken it along: then it was applied, and its answer is lost all the same.
            self.lose_from(pending);
            return Err(error);
        }
        self.apply_up_to(pending);
        let result = answer.await.unwrap_or_else(|_| Err(unavailable("the store is closed")));
        self.arrive(result)?
    }

    async fn read(&self, keys: Vec<String>) -> Result<Vec<Option<Stored>>, StoreError> {
        self.read_only(move |state, now| keys.iter().map(|key| state.record(now, key)).collect()).await
    }

    async fn keys_with(&self, prefix: &str, _cursor: u64) -> Result<(Vec<String>, u64), StoreError> {
        self.read_only(|state, now| Ok((state.keys_with(now, prefix), 0))).await
    }

    async fn index(&self, index: &str, range: IndexRange) -> Result<Vec<IndexEntry>, StoreError> {
        self.read_only(|state, now| state.index(now, index, &range)).await
    }

    async fn index_len(&self, index: &str) -> Result<u64, StoreError> {
        self.read_only(|state, now| state.index_len(now, index)).await
    }

    async fn log_after(&self, log: &str, cursor: &str, limit: u64) -> Result<Vec<LogEntry>, StoreError> {
        self.read_only(|state, now| state.log_after(now, log, cursor, limit)).await
    }

    async fn log_end(&self, log: &str) -> Result<String, StoreError> {
        self.read_only(|state, now| state.log_end(now, log)).await
    }

    async fn lease(&self, lock: &str, owner: &str, ttl: Duration) -> Result<Lease, StoreError> {
        self.change(|state, now| {
            let lease = state.lease(now, lock, owner, ttl)?;
            self.watched.tell(|watcher| watcher.leased(lock, lease.epoch));
            Ok(lease)
        })
        .await
    }

    async fn release(&self, lock: &str, owner: &str) -> Result<(), StoreError> {
        self.change(|state, now| state.release(now, lock, owner)).await
    }

    async fn payloads(&self, keys: Vec<String>) -> Result<Vec<Option<Bytes>>, StoreError> {
        self.read_only(move |state, now| Ok(keys.iter().map(|key| state.payload(now, key)).collect())).await
    }

    async fn put_payload(&self, key: &str, value: Bytes, expire: Option<Duration>) -> Result<(), StoreError> {
        self.check_memory()?;
        self.change(|state, now| {
            state.put_payload(now, key, value, expire);
            Ok(())
        })
        .await
    }

    async fn put_result(&self, key: &str, value: Bytes, expire: Duration) -> Result<(), StoreError> {
        self.change(|state, now| {
            state.put_payload(now, key, value, Some(expire));
            Ok(())
        })
        .await
    }

    async fn append_payload(&self, key: &str, value: Bytes, max: u64, expire: Duration) -> Result<(), StoreError> {
        self.check_memory()?;
        self.change(|state, now| state.append_payload(now, key, &value, max, expire)).await
    }

    async fn time(&self) -> Result<Timestamp, StoreError> {
        self.travel().await?;
        Ok(Timestamp::from_millis(self.now_ms()))
    }
}

#[cfg(test)]
mod tests {
    use busbar_protocol::ports::{CommitId, Commits, Guard, SystemClock, Write};

    use super::*;

    fn store(faults: StoreFaults) -> ModelStore {
        let store = ModelStore::new(Chaos::new(1), Timestamp::from_millis(1_000_000));
        store.set_faults(faults);
        store
    }

    fn raise(id: u8, revision: u64) -> Unit {
        let key = "k".to_owned();
        let guard = match revision {
            1 => Guard::Absent { key: key.clone() },
            _ => Guard::Revision { key: key.clone(), revision: revision - 1 },
        };
        Unit {
            id: CommitId([id; 16]),
            guards: vec![guard],
            writes: vec![Write::Put { key, revision, value: Bytes::new(), expire: None }],
        }
    }

    const APPLIED: Answer = Answer::Applied { appended: None };

    #[tokio::test(start_paused = true)]
    async fn a_commit_whose_answer_was_lost_was_applied() {
        let store = store(StoreFaults { unavailable_after_per_mille: 1000, ..StoreFaults::default() });
        let lost = store.commit(CommitClass::Advance, vec![raise(1, 1)]).await;
        assert!(matches!(lost, Err(StoreError::Unavailable { .. })));
        store.set_faults(StoreFaults::default());
        assert_eq!(store.commit(CommitClass::Advance, vec![raise(1, 1)]).await, Ok(vec![Answer::Already]));
        assert_eq!(store.commits(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_commit_that_was_lost_on_its_way_was_not_applied() {
        let store = store(StoreFaults { unavailable_before_per_mille: 1000, ..StoreFaults::default() });
        assert!(store.commit(CommitClass::Admit, vec![raise(1, 1)]).await.is_err());
        assert!(store.records("").is_empty());
    }

    /// Whatever delays they draw.
    #[tokio::test(start_paused = true)]
    async fn commits_are_applied_in_the_order_in_which_they_were_asked_for() {
        let store = store(StoreFaults { delay_ms_max: 500, ..StoreFaults::default() });
        let commits = (1..=50).map(|place: u8| store.commit(CommitClass::Advance, vec![raise(place, place.into())]));
        for answers in futures::future::join_all(commits).await {
            assert_eq!(answers, Ok(vec![APPLIED]));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_takes_time_and_ends() {
        let store = store(StoreFaults::default());
        store.outage(true);
        let before = store.now_ms();
        assert!(store.commit(CommitClass::Advance, vec![raise(1, 1)]).await.is_err());
        assert!(store.now_ms() >= before + OUTAGE_MS_MIN);
        store.outage(false);
        assert_eq!(store.commit(CommitClass::Advance, vec![raise(2, 1)]).await, Ok(vec![APPLIED]));
    }

    #[tokio::test(start_paused = true)]
    async fn short_memory_lets_work_drain_only() {
        let store = store(StoreFaults { memory_short: true, ..StoreFaults::default() });
        assert_eq!(store.commit(CommitClass::Admit, vec![raise(1, 1)]).await, Err(StoreError::MemoryShort));
        assert_eq!(store.commit(CommitClass::Advance, vec![raise(1, 1)]).await, Ok(vec![APPLIED]));
    }

    #[tokio::test(start_paused = true)]
    async fn time_ends_leases_fills_buckets_and_expires_records() {
        let store = store(StoreFaults::default());
        let (short, long) = (Duration::from_secs(5), Duration::from_secs(50));
        assert!(store.lease("lock:s", "a", short).await.expect("answered").held);
        assert!(!store.lease("lock:s", "b", short).await.expect("answered").held);
        let take = || Unit {
            id: CommitId::generate(),
            guards: vec![Guard::TokenBucket { key: "b".into(), per_second: 1, burst: 5, cost: 5 }],
            writes: vec![],
        };
        assert_eq!(store.commit(CommitClass::Admit, vec![take()]).await, Ok(vec![APPLIED]));
        assert_eq!(store.commit(CommitClass::Admit, vec![take()]).await, Ok(vec![Answer::GuardFailed { guard: 0 }]));
        store.put_payload("p", Bytes::new(), Some(short)).await.expect("written");
        store.put_payload("q", Bytes::new(), Some(long)).await.expect("written");
        tokio::time::advance(short).await;
        assert_eq!(store.commit(CommitClass::Admit, vec![take()]).await, Ok(vec![APPLIED]));
        let taken = store.lease("lock:s", "b", short).await.expect("answered");
        assert_eq!((taken.held, taken.epoch), (true, 2));
        assert_eq!(store.payloads(vec!["p".into(), "q".into()]).await, Ok(vec![None, Some(Bytes::new())]));
    }

    /// A record of its own, and its number in the log.
    fn logged(number: u8) -> Unit {
        let (key, value) = (format!("k:{number}"), Bytes::copy_from_slice(&[number]));
        let put = Write::Put { key: key.clone(), revision: 1, value: value.clone(), expire: None };
        let append = Write::Append { log: "l".to_owned(), value, keep: 1_000 };
        Unit { id: CommitId([number; 16]), guards: vec![Guard::Absent { key }], writes: vec![put, append] }
    }

    #[tokio::test(start_paused = true)]
    async fn commits_keep_their_order_whatever_is_lost() {
        for seed in 1..=200 {
            let store = ModelStore::new(Chaos::new(seed), Timestamp::from_millis(1_000_000));
            let faults = StoreFaults {
                unavailable_before_per_mille: 200,
                unavailable_after_per_mille: 200,
                delay_ms_max: 30,
                ..StoreFaults::default()
            };
            store.set_faults(faults);
            let clock = SystemClock::start();
            let mut commits = Commits::new(&store, &clock);
            for first in (0_u8..40).step_by(4) {
                let unit = |number: u8| vec![logged(first + number)];
                commits.add([
                    (CommitClass::Advance, unit(0)),
                    (CommitClass::Admit, [unit(1), unit(2)].concat()),
                    (CommitClass::Advance, unit(3)),
                ]);
                if first % 8 == 0 {
                    continue;
                }
                // Two at a time are under way.
                let answers = commits.next().await.expect("one is under way").map(|part| part.expect("committed").len());
                assert_eq!(answers, [1, 2, 1]);
            }
            while let Some(parts) = commits.next().await {
                let fine = |answer: &Option<Answer>| matches!(answer, Some(Answer::Applied { .. } | Answer::Already));
                assert!(parts.iter().flatten().flatten().all(fine), "seed {seed}: {parts:?}");
            }
            let order: Vec<u8> = store.logged("l").iter().map(|entry| entry.value[0]).collect();
            assert_eq!(order, (0..40).collect::<Vec<u8>>(), "seed {seed}");
        }
    }
}
