//! Random batches and questions over a small key space, so that they meet often.

use std::collections::VecDeque;
use std::time::Duration;

use busbar_protocol::ports::{CommitId, Guard, IndexRange, Records, Unit, Write};
use busbar_simulator::chaos::Chaos;
use busbar_simulator::model_store::ModelStore;
use bytes::Bytes;

/// Kinds of keys, and how many there are of each.
pub(crate) const KINDS: [(&str, u64); 7] =
    [("record", 6), ("index", 3), ("log", 2), ("counter", 3), ("payload", 4), ("bucket", 3), ("lock", 2)];
const RECORD: usize = 0;
const INDEX: usize = 1;
const LOG: usize = 2;
const COUNTER: usize = 3;
const PAYLOAD: usize = 4;
const BUCKET: usize = 5;
const LOCK: usize = 6;
/// One key in so many is of the wrong kind.
const STRAY: u64 = 150;
const STRAYS: [usize; 6] = [RECORD, INDEX, LOG, COUNTER, PAYLOAD, LOCK];
/// Long enough never to run out while the test runs.
const HOUR: Duration = Duration::from_secs(3600);
const REMEMBERED: usize = 24;

/// Makes the same for the same seed; remembers what it made lately.
pub(crate) struct Generator {
    chaos: Chaos,
    made: u64,
    lately: VecDeque<Unit>,
}

impl Generator {
    pub(crate) fn new(seed: u64) -> Self {
        Self { chaos: Chaos::new(seed), made: 0, lately: VecDeque::new() }
    }

    pub(crate) fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.chaos.below(bound)
    }

    fn between(&mut self, low: i64, high: i64) -> i64 {
        low + i64::try_from(self.below((high - low + 1).unsigned_abs())).expect("a small range")
    }

    fn key(&mut self, kind: usize) -> String {
        let stray = kind != BUCKET && self.one_in(STRAY);
        // A bucket holds a time, which differs: nothing else touches it, and it touches nothing else.
        let kind = if stray { STRAYS[usize::try_from(self.below(6)).expect("small")] } else { kind };
        let (name, many) = KINDS[kind];
        format!("{name}:{}", self.below(many))
    }

    /// A key of a record or a payload, which are short; seldom a stray one, under which anything may stand.
    pub(crate) fn short_key(&mut self) -> String {
        let kind = if self.one_in(3) { RECORD } else { PAYLOAD };
        self.key(kind)
    }

    fn text(&mut self) -> Bytes {
        let length = self.below(12);
        (0..length).map(|_| u8::try_from(self.below(256)).expect("a byte")).collect()
    }

    fn expire(&mut self) -> Option<Duration> {
        self.one_in(3).then_some(HOUR)
    }

    /// One to eight units, some of them seen before.
    pub(crate) async fn batch(&mut self, model: &ModelStore) -> Vec<Unit> {
        let mut units = Vec::new();
        for _ in 0..=self.below(8) {
            let again = !self.lately.is_empty() && self.one_in(12);
            let unit = if again {
                let place = self.below(u64::try_from(self.lately.len()).expect("few"));
                self.lately[usize::try_from(place).expect("few")].clone()
            } else {
                self.unit(model).await
            };
            self.lately.push_back(unit.clone());
            if self.lately.len() > REMEMBERED {
                self.lately.pop_front();
            }
            units.push(unit);
        }
        units
    }

    async fn unit(&mut self, model: &ModelStore) -> Unit {
        self.made += 1;
        let id = CommitId::of_term(1, 0, self.made);
        let (mut guards, mut writes) = (Vec::new(), Vec::new());
        for _ in 0..self.below(3) {
            guards.push(self.guard(model).await);
        }
        for _ in 0..self.below(3) {
            self.put(model, &mut guards, &mut writes).await;
        }
        for _ in 0..self.below(4) {
            let place = self.below(u64::try_from(writes.len() + 1).expect("few"));
            let write = self.write();
            writes.insert(usize::try_from(place).expect("few"), write);
        }
        Unit { id, guards, writes }
    }

    async fn guard(&mut self, model: &ModelStore) -> Guard {
        match self.below(8) {
            0 => Guard::Absent { key: self.key(RECORD) },
            1 | 2 => Guard::Exists { key: self.key(RECORD) },
            3 => Guard::CounterBelow { key: self.key(COUNTER), bound: self.between(-10, 40) },
            4 => {
                let (per_second, burst) = (0, u32::try_from(self.between(500, 2000)).expect("positive"));
                let cost = u32::try_from(self.below(3)).expect("small");
                Guard::TokenBucket { key: self.key(BUCKET), per_second, burst, cost }
            }
            5 | 6 => {
                let lock = self.key(LOCK);
                let epoch = model.read_epoch(&lock).saturating_sub(u64::from(self.one_in(6)));
                Guard::Epoch { lock, epoch }
            }
            _ => {
                let key = self.key(RECORD);
                let revision = self.revision(model, &key).await.max(1);
                Guard::Revision { key, revision }
            }
        }
    }

    /// The revision as it is, sometimes a wrong one.
    async fn revision(&mut self, model: &ModelStore, key: &str) -> u64 {
        let stored = model.read(vec![key.to_owned()]).await;
        let revision = stored.map_or(0, |stored| stored[0].as_ref().map_or(0, |stored| stored.revision));
        if self.one_in(8) { revision + 1 } else { revision }
    }

    /// A put that follows from a guard, or one without.
    async fn put(&mut self, model: &ModelStore, guards: &mut Vec<Guard>, writes: &mut Vec<Write>) {
        let key = self.key(RECORD);
        let revision = self.revision(model, &key).await;
        if !self.one_in(6) {
            guards.push(match revision {
                0 => Guard::Absent { key: key.clone() },
                revision => Guard::Revision { key: key.clone(), revision },
            });
        }
        writes.push(Write::Put { key, revision: revision + 1, value: self.text(), expire: self.expire() });
    }

    fn write(&mut self) -> Write {
        let member = format!("m{}", self.below(8));
        match self.below(16) {
            0 | 1 => Write::IndexAdd { index: self.key(INDEX), member, score: self.between(-20, 20) },
            2 => Write::IndexAdd { index: self.key(INDEX), member, score: (1 << 53) - self.between(0, 3) },
            3 => Write::IndexRemove { index: self.key(INDEX), member },
            4 => Write::IndexTrim { index: self.key(INDEX), below: self.between(-25, 0) },
            5 | 6 => Write::Append { log: self.key(LOG), value: self.text(), keep: 1 << 40 },
            7 | 8 => Write::Count { key: self.key(COUNTER), by: self.between(-5, 5) },
            9 => Write::Persist { key: self.key(PAYLOAD) },
            10 => Write::Expire { key: self.key(PAYLOAD), after: HOUR },
            11 | 12 => Write::Copy { from: self.key(PAYLOAD), to: self.key(PAYLOAD), expire: self.expire() },
            13 | 14 => Write::PutPayload { key: self.key(PAYLOAD), value: self.text(), expire: self.expire() },
            _ if self.one_in(10) => {
                let kind = usize::try_from(self.below(6)).expect("small");
                Write::Delete { key: self.key(kind) }
            }
            _ => Write::Delete { key: self.key(RECORD) },
        }
    }

    /// Something else than a commit.
    pub(crate) fn question(&mut self) -> Question {
        match self.below(8) {
            0 => Question::Read((0..self.below(6)).map(|_| self.key(RECORD)).collect()),
            1 => Question::Payloads((0..self.below(6)).map(|_| self.key(PAYLOAD)).collect()),
            2 => Question::Index(self.key(INDEX), self.range()),
            3 => Question::Log(self.key(LOG), self.below(20)),
            4 => Question::Lease(self.key(LOCK), format!("owner{}", self.below(3))),
            5 => Question::Release(self.key(LOCK), format!("owner{}", self.below(3))),
            6 => Question::PutPayload(self.key(PAYLOAD), self.text(), self.expire()),
            _ => Question::AppendPayload(self.key(PAYLOAD), self.text(), self.below(30)),
        }
    }

    fn range(&mut self) -> IndexRange {
        let min = if self.one_in(3) { i64::MIN } else { self.between(-30, 10) };
        let max = if self.one_in(3) { i64::MAX } else { self.between(-10, 30) };
        IndexRange { min, max, newest_first: self.one_in(2), offset: self.below(4), limit: self.below(8) }
    }
}

/// A call that is no commit.
#[derive(Debug)]
pub(crate) enum Question {
    Read(Vec<String>),
    Payloads(Vec<String>),
    Index(String, IndexRange),
    Log(String, u64),
    Lease(String, String),
    Release(String, String),
    PutPayload(String, Bytes, Option<Duration>),
    AppendPayload(String, Bytes, u64),
}

impl Question {
    /// The answer as text, without what depends on the time. Errors are told apart by their kind alone.
    pub(crate) async fn ask(&self, store: &impl Records) -> String {
        let answer = match self {
            Self::Read(keys) => store.read(keys.clone()).await.map(|records| format!("{records:?}")),
            Self::Payloads(keys) => store.payloads(keys.clone()).await.map(|payloads| format!("{payloads:?}")),
            Self::Index(index, range) => store.index(index, range.clone()).await.map(|entries| format!("{entries:?}")),
            Self::Log(log, limit) => {
                let entries = store.log_after(log, "0", *limit).await;
                entries.map(|entries| format!("{:?}", entries.into_iter().map(|entry| entry.value).collect::<Vec<_>>()))
            }
            Self::Lease(lock, owner) => {
                let lease = store.lease(lock, owner, HOUR).await;
                lease.map(|lease| format!("{} {} {}", lease.held, lease.epoch, lease.owner))
            }
            Self::Release(lock, owner) => store.release(lock, owner).await.map(|()| String::new()),
            Self::PutPayload(key, value, expire) => store.put_payload(key, value.clone(), *expire).await.map(|()| String::new()),
            Self::AppendPayload(key, value, max) => {
                store.append_payload(key, value.clone(), *max, HOUR).await.map(|()| String::new())
            }
        };
        answer.unwrap_or_else(|error| crate::compare::kind(&error).to_owned())
    }
}
