//! The store: the port [`Records`] over Redis.

use std::sync::Arc;
use std::time::Duration;

use busbar_protocol::ports::{
    Answer, Beside, CommitClass, IndexEntry, IndexRange, Lease, LogEntry, Records, StoreError, Stored, UNITS_MAX, Unit,
};
use busbar_protocol::time::Timestamp;
use bytes::Bytes;
use fred::types::{Resp3Frame as Frame, Value};
use futures::future::try_join;

use crate::bulk::Bulk;
use crate::config::StoreConfig;
use crate::group::{Group, Kind, Parcel};
use crate::lane::{Lane, Repeat, fixed, owned};
use crate::{connect, decode, encode, library};

/// How many records one call reads. Who asks for more reads in bulk.
const READS_MAX: usize = 512;
/// So many entries of an index keep nobody waiting. Who asks for more asks in bulk.
const ENTRIES_MAX: u64 = 4_096;
/// How many payloads one call reads: they can be large, and a large answer keeps others waiting.
const PAYLOADS_MAX: usize = 32;
/// So many calls with units may be under way, so that the server has the next one when it is done with one.
const COMMITS_MAX: usize = 4;
/// Scores beyond this are no scores of ours: such a bound means none.
const SCORE_MAX: i64 = 1 << 53;

/// How much memory Redis uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// In use, in bytes.
    pub used_bytes: u64,
    /// From where on new work is refused, in bytes; `None` when there is no limit.
    pub max_bytes: Option<u64>,
}

/// Records in Redis. Clones share connections; the last one closes them.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Units, in the order in which they were asked for.
    commits: Group,
    reads: Group,
    /// What is read in bulk.
    bulk: Bulk,
    /// Payloads: each of them can be large, and they are kept apart, so that no record waits behind one.
    payload_reads: Group,
    payload_writes: Group,
    result_writes: Group,
    /// Small and urgent: leases, and what is read one by one.
    single: Arc<Lane>,
    /// The connection of the payloads.
    payloads: Arc<Lane>,
}

impl Store {
    /// Connects, checks that the server can keep our promises, and loads the function library.
    ///
    /// # Errors
    /// [`StoreError::Refused`] with what to do for a server that is too old, a cluster, a replica, or one that could lose
    /// work; [`StoreError::Unavailable`] when there is none within the connect timeout.
    pub async fn connect(config: StoreConfig) -> Result<Self, StoreError> {
        let single = Arc::new(connect::connect(&config, "single").await?);
        connect::inspect(&single, &config).await?;
        single.ensure_library().await?;
        let commits = Arc::new(connect::connect(&config, "commits").await?);
        let payloads = Arc::new(connect::connect(&config, "payloads").await?);
        let timeout = config.call_timeout;
        let function = |names: &[&'static str], calls_max| {
            let prefixes = names.iter().map(|name| vec![fixed(name), fixed("0")]).collect();
            Kind { command: "FCALL", prefixes, parts_max: UNITS_MAX, calls_max }
        };
        let read = |parts_max| Kind { command: "MGET", prefixes: vec![], parts_max, calls_max: 1 };
        let inner = Inner {
            commits: Group::start(commits, function(&[library::ADMIT, library::ADVANCE], COMMITS_MAX), timeout),
            reads: Group::start(single.clone(), read(READS_MAX), timeout),
            bulk: Bulk::new(config.clone()),
            payload_reads: Group::start(payloads.clone(), read(PAYLOADS_MAX), timeout),
            payload_writes: Group::start(payloads.clone(), function(&[library::PUT_PAYLOADS], 1), timeout),
            result_writes: Group::start(payloads.clone(), function(&[library::PUT_RESULTS], 1), timeout),
            single,
            payloads,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// One round trip with the server.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.inner.single.call("PING", vec![], Repeat::Harmless).await.map(|_| ())
    }

    /// How much memory Redis uses now.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn memory(&self) -> Result<Memory, StoreError> {
        let info = decode::text(self.inner.single.call("INFO", vec![fixed("memory")], Repeat::Harmless).await?)?;
        let number = |name| connect::field(&info, name).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
        let max_bytes = Some(number("maxmemory")).filter(|max| *max > 0);
        Ok(Memory { used_bytes: number("used_memory"), max_bytes })
    }
}

impl Records for Store {
    async fn commit(&self, class: CommitClass, units: impl Into<Arc<[Unit]>> + Send) -> Result<Vec<Answer>, StoreError> {
        let units = units.into();
        let encoded = encode::encode(&units)?;
        if encoded.units == 0 {
            return Ok(vec![]);
        }
        let repeat = if encoded.repeatable { Repeat::Harmless } else { Repeat::Never };
        let prefix = match class {
            CommitClass::Admit => 0,
            CommitClass::Advance => 1,
        };
        let parcel = Parcel { prefix, args: encoded.args, parts: encoded.units, bytes: encoded.bytes, repeat };
        decode::answers(self.inner.commits.send(parcel).await?)
    }

    async fn read(&self, keys: Vec<String>) -> Result<Vec<Option<Stored>>, StoreError> {
        if keys.is_empty() {
            return Ok(vec![]);
        }
        if keys.len() > READS_MAX {
            return self.inner.bulk.read(&keys).await;
        }
        let frames = self.inner.reads.send(asked(&keys)).await?;
        keys.iter().zip(frames).map(|(key, frame)| decode::stored(key, frame)).collect()
    }

    async fn keys_with(&self, prefix: &str, cursor: u64) -> Result<(Vec<String>, u64), StoreError> {
        let args = vec![owned(cursor.to_string()), fixed("MATCH"), owned(format!("{prefix}*")), fixed("COUNT"), fixed("1000")];
        decode::page_of_keys(self.inner.single.call("SCAN", args, Repeat::Harmless).await?)
    }

    async fn index(&self, index: &str, range: IndexRange) -> Result<Vec<IndexEntry>, StoreError> {
        if range.limit == 0 {
            return Ok(vec![]);
        }
        let (low, high) = (lower_bound(range.min), upper_bound(range.max));
        let mut args = vec![owned(index)];
        if range.newest_first {
            args.extend([owned(high), owned(low), fixed("BYSCORE"), fixed("REV")]);
        } else {
            args.extend([owned(low), owned(high), fixed("BYSCORE")]);
        }
        args.extend([fixed("LIMIT"), count(range.offset), count(range.limit), fixed("WITHSCORES")]);
        let answer = if range.limit > ENTRIES_MAX {
            self.inner.bulk.call("ZRANGE", args).await?
        } else {
            self.inner.single.call("ZRANGE", args, Repeat::Harmless).await?
        };
        decode::index_entries(answer)
    }

    async fn index_len(&self, index: &str) -> Result<u64, StoreError> {
        let len = decode::integer(self.inner.single.call("ZCARD", vec![owned(index)], Repeat::Harmless).await?)?;
        Ok(u64::try_from(len).unwrap_or(0))
    }

    async fn log_after(&self, log: &str, cursor: &str, limit: u64) -> Result<Vec<LogEntry>, StoreError> {
        if limit == 0 {
            return Ok(vec![]);
        }
        let args = vec![owned(log), owned(format!("({cursor}")), fixed("+"), fixed("COUNT"), count(limit)];
        decode::log_entries(self.inner.single.call("XRANGE", args, Repeat::Harmless).await?)
    }

    async fn log_end(&self, log: &str) -> Result<String, StoreError> {
        let args = vec![owned(log), fixed("+"), fixed("-"), fixed("COUNT"), fixed("1")];
        let last = decode::log_entries(self.inner.single.call("XREVRANGE", args, Repeat::Harmless).await?)?;
        Ok(last.into_iter().next().map_or_else(|| "0".to_owned(), |entry| entry.cursor))
    }

    async fn lease(&self, lock: &str, owner: &str, ttl: Duration) -> Result<Lease, StoreError> {
        let ttl = encode::expire_ms(ttl).to_string();
        let args = [lock.as_bytes(), owner.as_bytes(), ttl.as_bytes()];
        decode::lease(self.inner.single.function(library::LEASE, &args, Repeat::Harmless).await?)
    }

    async fn release(&self, lock: &str, owner: &str) -> Result<(), StoreError> {
        let args = [lock.as_bytes(), owner.as_bytes()];
        self.inner.single.function(library::RELEASE, &args, Repeat::Harmless).await.map(|_| ())
    }

    async fn payloads(&self, keys: Vec<String>) -> Result<Vec<Option<Bytes>>, StoreError> {
        let mut payloads = Vec::with_capacity(keys.len());
        for keys in keys.chunks(PAYLOADS_MAX) {
            for frame in self.inner.payload_reads.send(asked(keys)).await? {
                payloads.push(decode::bytes(frame)?);
            }
        }
        Ok(payloads)
    }

    // One call where one is enough, over the connection that large answers may keep busy.
    async fn read_beside(&self, mut keys: Vec<String>, payloads: Vec<String>) -> Result<Beside, StoreError> {
        let records = keys.len();
        if records + payloads.len() > PAYLOADS_MAX {
            return try_join(self.read(keys), self.payloads(payloads)).await;
        }
        keys.extend(payloads);
        if keys.is_empty() {
            return Ok((vec![], vec![]));
        }
        let mut frames = self.inner.payload_reads.send(asked(&keys)).await?;
        let payloads = frames.split_off(records.min(frames.len()));
        let records = keys.iter().zip(frames).map(|(key, frame)| decode::stored(key, frame));
        Ok((records.collect::<Result<_, _>>()?, payloads.into_iter().map(decode::bytes).collect::<Result<_, _>>()?))
    }

    async fn put_payload(&self, key: &str, value: Bytes, expire: Option<Duration>) -> Result<(), StoreError> {
        self.inner.payload_writes.send(written(key, value, expire)).await.map(|_| ())
    }

    async fn put_result(&self, key: &str, value: Bytes, expire: Duration) -> Result<(), StoreError> {
        self.inner.result_writes.send(written(key, value, Some(expire))).await.map(|_| ())
    }

    async fn append_payload(&self, key: &str, value: Bytes, max: u64, expire: Duration) -> Result<(), StoreError> {
        let (max, expire) = (max.to_string(), encode::expire_ms(expire).to_string());
        let args = [key.as_bytes(), &value, max.as_bytes(), expire.as_bytes()];
        self.inner.payloads.function(library::APPEND_PAYLOAD, &args, Repeat::Never).await.map(|_| ())
    }

    async fn time(&self) -> Result<Timestamp, StoreError> {
        let mut parts = decode::array(self.inner.single.call("TIME", vec![], Repeat::Harmless).await?)?.into_iter();
        let mut next = || decode::integer(parts.next().unwrap_or(Frame::Null)).map(i64::unsigned_abs);
        let (seconds, micros) = (next()?, next()?);
        Ok(Timestamp::from_millis(seconds * 1000 + micros / 1000))
    }
}

fn asked(keys: &[String]) -> Parcel {
    let bytes = keys.iter().map(String::len).sum();
    Parcel { prefix: 0, args: keys.iter().map(owned).collect(), parts: keys.len(), bytes, repeat: Repeat::Harmless }
}

fn written(key: &str, value: Bytes, expire: Option<Duration>) -> Parcel {
    let expire = expire.map(|after| encode::expire_ms(after).to_string()).unwrap_or_default();
    let bytes = key.len() + value.len();
    Parcel { prefix: 0, args: vec![owned(key), Value::Bytes(value), owned(expire)], parts: 1, bytes, repeat: Repeat::Harmless }
}

fn lower_bound(min: i64) -> String {
    if min < -SCORE_MAX { "-inf".to_owned() } else { min.to_string() }
}

fn upper_bound(max: i64) -> String {
    if max > SCORE_MAX { "+inf".to_owned() } else { max.to_string() }
}

/// A number of entries; Redis takes no numbers beyond 63 bits.
fn count(number: u64) -> Value {
    owned(i64::try_from(number).unwrap_or(i64::MAX).to_string())
}
