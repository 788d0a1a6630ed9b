//! What the model store holds, and what a unit does to it: pure, with the time as an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use busbar_protocol::ports::{Answer, CommitId, Guard, IndexEntry, IndexRange, Lease, LogEntry, StoreError, Stored, Unit, Write};
use bytes::{BufMut, Bytes, BytesMut};

/// Bytes before the value of a record: revision and commit id.
const HEAD: usize = 24;
/// The longest time to live: a hundred years. What is longer is cut.
const EXPIRE_MS_MAX: u64 = 100 * 365 * 24 * 3_600_000;
/// The longest counter that is one.
const COUNTER_LENGTH_MAX: usize = 16;

/// What stands under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A record, packed as revision, commit id and value; a payload; a counter; or a token bucket.
    Text(Bytes),
    /// An index.
    Index(BTreeMap<String, i64>),
    /// A log: its entries, and the place of the last one that it ever had.
    Log {
        /// Entries by place.
        entries: BTreeMap<(u64, u64), Bytes>,
        /// The last place that was given.
        last: (u64, u64),
    },
    /// A lease.
    Lock {
        /// Who holds or held it.
        owner: Option<String>,
        /// Rises whenever the owner changes.
        epoch: u64,
        /// When it runs out, in milliseconds since 1970.
        until: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Index,
    Log,
    Lock,
}

impl Content {
    fn kind(&self) -> Kind {
        match self {
            Self::Text(_) => Kind::Text,
            Self::Index(_) => Kind::Index,
            Self::Log { .. } => Kind::Log,
            Self::Lock { .. } => Kind::Lock,
        }
    }
}

#[derive(Clone, Debug)]
struct Entry {
    content: Content,
    expires_at: Option<u64>,
}

/// Why a unit was refused.
type Reason = String;

/// A bucket that a unit takes tokens from.
struct Taken {
    left: u64,
    full: u64,
    per_second: u64,
}

/// Everything, by key.
#[derive(Debug, Default)]
pub(super) struct State {
    keys: BTreeMap<String, Entry>,
}

impl State {
    /// Applies a unit, or says why not.
    pub(super) fn apply(&mut self, now: u64, unit: &Unit) -> Result<Answer, Reason> {
        let subject = subject(unit);
        if let Some(key) = subject
            && let Some(text) = self.text(now, key)?
            && text.get(8..HEAD) == Some(&unit.id.0)
        {
            return Ok(Answer::Already);
        }
        let mut taken = BTreeMap::new();
        for (place, guard) in unit.guards.iter().enumerate() {
            if !self.holds(now, guard, subject, &mut taken)? {
                return Ok(match guard {
                    Guard::Revision { .. } => Answer::Conflict { guard: place },
                    Guard::Epoch { .. }
                    | Guard::Absent { .. }
                    | Guard::Exists { .. }
                    | Guard::CounterBelow { .. }
                    | Guard::TokenBucket { .. } => Answer::GuardFailed { guard: place },
                });
            }
        }
        self.check(now, unit, subject, &taken)?;
        self.settle_buckets(now, taken);
        let mut appended = None;
        for write in &unit.writes {
            self.write(now, unit.id, write, &mut appended);
        }
        Ok(Answer::Applied { appended })
    }

    fn holds(
        &mut self,
        now: u64,
        guard: &Guard,
        subject: Option<&str>,
        taken: &mut BTreeMap<String, Taken>,
    ) -> Result<bool, Reason> {
        Ok(match guard {
            Guard::Epoch { lock, epoch } => match self.get(now, lock) {
                None => false,
                Some(Content::Lock { epoch: there, .. }) => there == epoch,
                Some(_) => return Err(wrong_type(lock)),
            },
            Guard::Revision { key, revision } => {
                self.text(now, key)?.is_some_and(|text| text.get(..8) == Some(&revision.to_be_bytes()))
            }
            Guard::Absent { key } if subject == Some(key) => self.text(now, key)?.is_none_or(Bytes::is_empty),
            Guard::Absent { key } => self.get(now, key).is_none(),
            Guard::Exists { key } => self.get(now, key).is_some(),
            Guard::CounterBelow { key, bound } => self.counter(now, key)? < *bound,
            Guard::TokenBucket { key, per_second, burst, cost } => {
                let full = u64::from(*burst) * 1000;
                let level = match taken.get(key) {
                    Some(bucket) => bucket.left,
                    None => self.level(now, key, u64::from(*per_second), full)?,
                };
                let Some(left) = level.checked_sub(u64::from(*cost) * 1000) else { return Ok(false) };
                taken.insert(key.clone(), Taken { left, full, per_second: u64::from(*per_second) });
                true
            }
        })
    }

    /// How many thousandths of a token a bucket holds now.
    fn level(&mut self, now: u64, key: &str, per_second: u64, full: u64) -> Result<u64, Reason> {
        let Some(text) = self.text(now, key)? else { return Ok(full) };
        let text = std::str::from_utf8(text).ok().and_then(|text| text.split_once(':'));
        let Some((Ok(left), Ok(at))) = text.map(|(left, at)| (left.parse::<u64>(), at.parse::<u64>())) else {
            return Err(wrong_type(key));
        };
        Ok(full.min(left.saturating_add(now.saturating_sub(at).saturating_mul(per_second))))
    }

    /// Refuses a unit that would write to something of another kind, also to what it makes itself.
    fn check(&mut self, now: u64, unit: &Unit, subject: Option<&str>, taken: &BTreeMap<String, Taken>) -> Result<(), Reason> {
        let mut made: BTreeMap<&str, Kind> = subject.into_iter().map(|key| (key, Kind::Text)).collect();
        made.extend(taken.keys().map(|key| (key.as_str(), Kind::Text)));
        let mut filled: BTreeSet<&str> = taken.keys().map(String::as_str).collect();
        let mut replaced = BTreeSet::new();
        for write in &unit.writes {
            let (key, kind) = match write {
                Write::Put { key, .. } | Write::Count { key, .. } | Write::Copy { to: key, .. } => (key, Kind::Text),
                Write::IndexAdd { index: key, .. }
                | Write::IndexRemove { index: key, .. }
                | Write::IndexTrim { index: key, .. } => (key, Kind::Index),
                Write::Append { log: key, .. } => (key, Kind::Log),
                // It replaces whatever stands there.
                Write::PutPayload { key, .. } => {
                    filled.insert(key);
                    replaced.insert(key.as_str());
                    continue;
                }
                Write::Delete { .. } | Write::Persist { .. } | Write::Expire { .. } => continue,
            };
            let there = self.get(now, key).map(|content| content.kind());
            let known = if replaced.contains(key.as_str()) {
                Some(Kind::Text)
            } else {
                there.or_else(|| made.get(key.as_str()).copied())
            };
            if known.is_some_and(|known| known != kind) {
                return Err(wrong_type(key));
            }
            made.insert(key, kind);
            if let Write::Count { .. } = write {
                if filled.contains(key.as_str()) {
                    return Err(wrong_type(key));
                }
                self.counter(now, key)?;
            } else {
                filled.insert(key);
            }
        }
        Ok(())
    }

    /// A bucket is forgotten when it is full again: a missing one is full.
    fn settle_buckets(&mut self, now: u64, taken: BTreeMap<String, Taken>) {
        for (key, Taken { left, full, per_second }) in taken {
            if left < full {
                let expires_at = (per_second > 0).then(|| now + (full - left).div_ceil(per_second));
                self.set(key, Content::Text(Bytes::from(format!("{left}:{now}"))), expires_at);
            }
        }
    }

    fn write(&mut self, now: u64, id: CommitId, write: &Write, appended: &mut Option<String>) {
        match write {
            Write::Put { key, revision, value, expire } => {
                let expires_at = expire.map(|after| expiry(now, after));
                self.set(key.clone(), Content::Text(packed(*revision, id, value)), expires_at);
            }
            Write::Delete { key } => drop(self.keys.remove(key)),
            Write::IndexAdd { index, member, score } => {
                self.change_index(now, index, |members| {
                    members.insert(member.clone(), *score);
                });
            }
            Write::IndexRemove { index, member } => self.change_index(now, index, |members| {
                members.remove(member);
            }),
            Write::IndexTrim { index, below } => {
                self.change_index(now, index, |members| members.retain(|_, score| *score >= *below));
            }
            Write::Append { log, value, keep } => *appended = Some(self.append(now, log, value, *keep)),
            Write::Count { key, by } => self.count(now, key, *by),
            Write::PutPayload { key, value, expire } => self.put_payload(now, key, value.clone(), *expire),
            Write::Persist { key } => self.set_expiry(now, key, None),
            Write::Expire { key, after } => self.set_expiry(now, key, Some(expiry(now, *after))),
            Write::Copy { from, to, expire } => self.copy(now, from, to, expire.map(|after| expiry(now, after))),
        }
    }

    /// An index without members is gone.
    fn change_index(&mut self, now: u64, index: &str, change: impl FnOnce(&mut BTreeMap<String, i64>)) {
        self.forget_expired(now, index);
        let entry = self.keys.entry(index.to_owned()).or_insert_with(|| Entry::lasting(Content::Index(BTreeMap::new())));
        if let Content::Index(members) = &mut entry.content {
            change(members);
            if members.is_empty() {
                self.keys.remove(index);
            }
        }
    }

    fn append(&mut self, now: u64, log: &str, value: &Bytes, keep: u64) -> String {
        self.forget_expired(now, log);
        let empty = || Entry::lasting(Content::Log { entries: BTreeMap::new(), last: (0, 0) });
        let entry = self.keys.entry(log.to_owned()).or_insert_with(empty);
        let Content::Log { entries, last } = &mut entry.content else { unreachable!("the kind was checked") };
        *last = if now > last.0 { (now, 0) } else { (last.0, last.1 + 1) };
        entries.insert(*last, value.clone());
        while u64::try_from(entries.len()).is_ok_and(|length| length > keep) {
            entries.pop_first();
        }
        cursor_text(*last)
    }

    fn count(&mut self, now: u64, key: &str, by: i64) {
        let sum = self.counter(now, key).unwrap_or_default() + by;
        let expires_at = self.keys.get(key).and_then(|entry| entry.expires_at);
        self.set(key.to_owned(), Content::Text(Bytes::from(sum.to_string())), expires_at);
    }

    fn set_expiry(&mut self, now: u64, key: &str, expires_at: Option<u64>) {
        self.forget_expired(now, key);
        if let Some(entry) = self.keys.get_mut(key) {
            entry.expires_at = expires_at;
        }
    }

    /// What is no text is no payload, whoever left it there.
    fn copy(&mut self, now: u64, from: &str, to: &str, expires_at: Option<u64>) {
        if from == to {
            self.set_expiry(now, to, expires_at);
        } else if let Some(Content::Text(bytes)) = self.get(now, from) {
            let content = Content::Text(bytes.clone());
            self.set(to.to_owned(), content, expires_at);
        }
    }

    pub(super) fn record(&mut self, now: u64, key: &str) -> Result<Option<Stored>, StoreError> {
        match self.get(now, key) {
            Some(Content::Text(bytes)) => stored(key, bytes).map(Some),
            Some(Content::Index(_) | Content::Log { .. } | Content::Lock { .. }) | None => Ok(None),
        }
    }

    pub(super) fn keys_with(&mut self, now: u64, prefix: &str) -> Vec<String> {
        let keys: Vec<String> = self.keys.keys().filter(|key| key.starts_with(prefix)).cloned().collect();
        keys.into_iter().filter(|key| self.get(now, key).is_some()).collect()
    }

    pub(super) fn payload(&mut self, now: u64, key: &str) -> Option<Bytes> {
        match self.get(now, key) {
            Some(Content::Text(bytes)) => Some(bytes.clone()),
            Some(Content::Index(_) | Content::Log { .. } | Content::Lock { .. }) | None => None,
        }
    }

    pub(super) fn put_payload(&mut self, now: u64, key: &str, value: Bytes, expire: Option<Duration>) {
        self.set(key.to_owned(), Content::Text(value), expire.map(|after| expiry(now, after)));
    }

    pub(super) fn append_payload(
        &mut self,
        now: u64,
        key: &str,
        value: &[u8],
        max: u64,
        expire: Duration,
    ) -> Result<(), StoreError> {
        let there = self.text(now, key).map_err(refused)?.cloned();
        let (mut grown, exists) = (BytesMut::from(there.as_deref().unwrap_or_default()), there.is_some());
        let room = usize::try_from(max).unwrap_or(usize::MAX).saturating_sub(grown.len());
        grown.put_slice(&value[..value.len().min(room)]);
        if exists || !grown.is_empty() {
            self.set(key.to_owned(), Content::Text(grown.freeze()), Some(expiry(now, expire)));
        }
        Ok(())
    }

    pub(super) fn index(&mut self, now: u64, index: &str, range: &IndexRange) -> Result<Vec<IndexEntry>, StoreError> {
        if range.limit == 0 {
            return Ok(vec![]);
        }
        let members = match self.get(now, index) {
            None => return Ok(vec![]),
            Some(Content::Index(members)) => members,
            Some(_) => return Err(refused(wrong_type(index))),
        };
        let within = members.iter().filter(|(_, score)| (range.min..=range.max).contains(*score));
        let mut places: Vec<_> = within.map(|(member, score)| (*score, member)).collect();
        places.sort();
        if range.newest_first {
            places.reverse();
        }
        let (offset, limit) = (length(range.offset), length(range.limit));
        let page = places.into_iter().skip(offset).take(limit);
        Ok(page.map(|(score, member)| IndexEntry { member: member.clone(), score }).collect())
    }

    pub(super) fn index_len(&mut self, now: u64, index: &str) -> Result<u64, StoreError> {
        match self.get(now, index) {
            None => Ok(0),
            Some(Content::Index(members)) => Ok(members.len() as u64),
            Some(_) => Err(refused(wrong_type(index))),
        }
    }

    pub(super) fn log_after(&mut self, now: u64, log: &str, cursor: &str, limit: u64) -> Result<Vec<LogEntry>, StoreError> {
        if limit == 0 {
            return Ok(vec![]);
        }
        let Some(after) = parse_cursor(cursor) else {
            return Err(refused(format!("{cursor:?} is no cursor")));
        };
        match self.get(now, log) {
            None => Ok(vec![]),
            Some(Content::Log { entries, .. }) => {
                let later = entries.iter().filter(|(place, _)| **place > after).take(length(limit));
                Ok(later.map(|(place, value)| LogEntry { cursor: cursor_text(*place), value: value.clone() }).collect())
            }
            Some(_) => Err(refused(wrong_type(log))),
        }
    }

    pub(super) fn log_end(&mut self, now: u64, log: &str) -> Result<String, StoreError> {
        match self.get(now, log) {
            None => Ok("0".into()),
            Some(Content::Log { entries, .. }) => {
                Ok(entries.last_key_value().map_or_else(|| "0".into(), |(place, _)| cursor_text(*place)))
            }
            Some(_) => Err(refused(wrong_type(log))),
        }
    }

    pub(super) fn lease(&mut self, now: u64, lock: &str, asking: &str, ttl: Duration) -> Result<Lease, StoreError> {
        let (owner, epoch, until) = match self.get(now, lock) {
            None => (None, 0, 0),
            Some(Content::Lock { owner, epoch, until }) => (owner.clone(), *epoch, *until),
            Some(_) => return Err(refused(wrong_type(lock))),
        };
        let same = owner.as_deref() == Some(asking);
        if let Some(owner) = owner
            && !same
            && until > now
        {
            return Ok(Lease { held: false, epoch, remaining: Duration::from_millis(until - now), owner });
        }
        let epoch = if same { epoch } else { epoch + 1 };
        let until = expiry(now, ttl);
        // A lease that somebody made expire goes on expiring, as a hash does when its fields are set.
        let expires_at = self.keys.get(lock).and_then(|entry| entry.expires_at);
        self.set(lock.to_owned(), Content::Lock { owner: Some(asking.to_owned()), epoch, until }, expires_at);
        Ok(Lease { held: true, epoch, remaining: Duration::from_millis(until - now), owner: asking.to_owned() })
    }

    pub(super) fn epoch(&mut self, now: u64, lock: &str) -> u64 {
        match self.get(now, lock) {
            Some(Content::Lock { epoch, .. }) => *epoch,
            Some(Content::Text(_) | Content::Index(_) | Content::Log { .. }) | None => 0,
        }
    }

    pub(super) fn release(&mut self, now: u64, lock: &str, asking: &str) -> Result<(), StoreError> {
        match self.get(now, lock) {
            None => Ok(()),
            Some(Content::Lock { owner, epoch, .. }) => {
                if owner.as_deref() == Some(asking) {
                    let freed = Content::Lock { owner: None, epoch: *epoch, until: 0 };
                    let expires_at = self.keys.get(lock).and_then(|entry| entry.expires_at);
                    self.set(lock.to_owned(), freed, expires_at);
                }
                Ok(())
            }
            Some(_) => Err(refused(wrong_type(lock))),
        }
    }

    pub(super) fn contents(&self, now: u64, prefix: &str) -> Vec<(String, Content, Option<u64>)> {
        let from = self.keys.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        from.filter(|(_, entry)| !entry.expired(now))
            .map(|(key, entry)| (key.clone(), entry.content.clone(), entry.expires_at))
            .collect()
    }

    fn get(&mut self, now: u64, key: &str) -> Option<&Content> {
        self.forget_expired(now, key);
        self.keys.get(key).map(|entry| &entry.content)
    }

    fn text(&mut self, now: u64, key: &str) -> Result<Option<&Bytes>, Reason> {
        match self.get(now, key) {
            None => Ok(None),
            Some(Content::Text(bytes)) => Ok(Some(bytes)),
            Some(_) => Err(wrong_type(key)),
        }
    }

    fn counter(&mut self, now: u64, key: &str) -> Result<i64, Reason> {
        let Some(bytes) = self.text(now, key)? else { return Ok(0) };
        let text = std::str::from_utf8(bytes).ok().filter(|text| text.len() <= COUNTER_LENGTH_MAX);
        let number = text.and_then(|text| Some((text, text.parse::<i64>().ok()?)));
        match number {
            // Only as Redis itself would write it.
            Some((text, number)) if number.to_string() == text => Ok(number),
            Some(_) | None => Err(wrong_type(key)),
        }
    }

    fn forget_expired(&mut self, now: u64, key: &str) {
        if self.keys.get(key).is_some_and(|entry| entry.expired(now)) {
            self.keys.remove(key);
        }
    }

    fn set(&mut self, key: String, content: Content, expires_at: Option<u64>) {
        self.keys.insert(key, Entry { content, expires_at });
    }
}

impl Entry {
    fn lasting(content: Content) -> Self {
        Self { content, expires_at: None }
    }

    fn expired(&self, now: u64) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

/// A record as it stands in its bytes.
pub(super) fn stored(key: &str, bytes: &Bytes) -> Result<Stored, StoreError> {
    if bytes.len() < HEAD {
        let detail = format!("it has {} bytes, a record has at least {HEAD}", bytes.len());
        return Err(StoreError::Corrupt { key: key.into(), detail });
    }
    let (mut revision, mut commit) = ([0; 8], [0; 16]);
    revision.copy_from_slice(&bytes[..8]);
    commit.copy_from_slice(&bytes[8..HEAD]);
    Ok(Stored { revision: u64::from_be_bytes(revision), commit: CommitId(commit), value: bytes.slice(HEAD..) })
}

fn packed(revision: u64, id: CommitId, value: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(HEAD + value.len());
    bytes.put_u64(revision);
    bytes.put_slice(&id.0);
    bytes.put_slice(value);
    bytes.freeze()
}

/// The key of the first record that the unit puts.
fn subject(unit: &Unit) -> Option<&str> {
    unit.writes.iter().find_map(|write| match write {
        Write::Put { key, .. } => Some(key.as_str()),
        _ => None,
    })
}

fn expiry(now: u64, after: Duration) -> u64 {
    now + u64::try_from(after.as_millis()).unwrap_or(u64::MAX).clamp(1, EXPIRE_MS_MAX)
}

fn length(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn cursor_text((ms, sequence): (u64, u64)) -> String {
    format!("{ms}-{sequence}")
}

fn parse_cursor(cursor: &str) -> Option<(u64, u64)> {
    match cursor.split_once('-') {
        Some((ms, sequence)) => Some((ms.parse().ok()?, sequence.parse().ok()?)),
        None => Some((cursor.parse().ok()?, 0)),
    }
}

fn wrong_type(key: &str) -> Reason {
    format!("WRONGTYPE {key} is something else")
}

fn refused(reason: Reason) -> StoreError {
    StoreError::Refused { detail: reason }
}
