//! What must be the same, and what may differ: cursors and times.

use std::io::{BufRead, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpStream};

use busbar_protocol::ports::{Answer, IndexRange, Records, StoreError, Unit};
use busbar_servers::Redis;
use busbar_simulator::model_store::{Content, ModelStore};
use busbar_store::Store;
use bytes::Bytes;

use crate::generate::KINDS;

pub(crate) fn answers(
    expected: &Result<Vec<Answer>, StoreError>,
    real: &Result<Vec<Answer>, StoreError>,
    units: &[Unit],
    seed: u64,
) {
    let same = match (expected, real) {
        (Ok(expected), Ok(real)) => {
            expected.len() == real.len() && expected.iter().zip(real).all(|(one, other)| same(one, other))
        }
        // The first refused unit is named in the same way; the reason is in other words.
        (Err(StoreError::Refused { detail: one }), Err(StoreError::Refused { detail: other })) => {
            one.split(':').next() == other.split(':').next()
        }
        _ => false,
    };
    assert!(same, "seed {seed}: the model says {expected:?}, Redis {real:?} to {units:?}");
}

fn same(one: &Answer, other: &Answer) -> bool {
    match (one, other) {
        (Answer::Applied { appended: one }, Answer::Applied { appended: other }) => one.is_some() == other.is_some(),
        (one, other) => one == other,
    }
}

pub(crate) fn kind(error: &StoreError) -> &'static str {
    match error {
        StoreError::Unavailable { .. } => "unavailable",
        StoreError::MemoryShort => "memory short",
        StoreError::Refused { .. } => "refused",
        StoreError::Corrupt { .. } => "corrupt",
    }
}

/// What stands under a key, as far as it must be the same.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Nothing,
    Text(Bytes),
    Index(Vec<(String, i64)>),
    Log(Vec<Bytes>),
    Lock,
}

/// Every key of the key space; leases by asking for them.
pub(crate) async fn everything(model: &ModelStore, store: &Store, console: &mut Console, seed: u64) {
    for (name, many) in KINDS {
        for number in 0..many {
            let key = format!("{name}:{number}");
            if one(model, store, console, &key, seed).await == Seen::Lock {
                let hour = std::time::Duration::from_secs(3600);
                let one = model.lease(&key, "last", hour).await.expect("answered");
                let other = store.lease(&key, "last", hour).await.expect("answered");
                assert_eq!((one.held, one.epoch, one.owner), (other.held, other.epoch, other.owner), "seed {seed}: {key}");
            }
        }
    }
}

/// What stands under a key, and whether it expires.
pub(crate) async fn one(model: &ModelStore, store: &Store, console: &mut Console, key: &str, seed: u64) -> Seen {
    let (expected, expires) = of_model(model, key);
    let real = of_redis(store, console, key).await;
    assert_eq!(expected, real, "seed {seed}: {key}");
    let ttl: i64 = console.say(&format!("PTTL {key}")).parse().expect("a number");
    assert_eq!(expires, ttl >= 0, "seed {seed}: {key} expires or not");
    expected
}

fn of_model(model: &ModelStore, key: &str) -> (Seen, bool) {
    let Some((_, content, expires_at)) = model.contents(key).into_iter().find(|(there, _, _)| there == key) else {
        return (Seen::Nothing, false);
    };
    let seen = match content {
        Content::Text(bytes) => Seen::Text(without_time(key, bytes)),
        Content::Index(_) => Seen::Index(model.members(key).into_iter().map(|entry| (entry.member, entry.score)).collect()),
        Content::Log { entries, .. } => Seen::Log(entries.into_values().collect()),
        Content::Lock { .. } => Seen::Lock,
    };
    (seen, expires_at.is_some())
}

async fn of_redis(store: &Store, console: &mut Console, key: &str) -> Seen {
    match console.say(&format!("TYPE {key}")).as_str() {
        "none" => Seen::Nothing,
        "string" => {
            let bytes = store.payloads(vec![key.to_owned()]).await.expect("read").remove(0).expect("there");
            Seen::Text(without_time(key, bytes))
        }
        "zset" => {
            let all = IndexRange { min: i64::MIN, max: i64::MAX, newest_first: false, offset: 0, limit: u64::MAX };
            let entries = store.index(key, all).await.expect("read");
            Seen::Index(entries.into_iter().map(|entry| (entry.member, entry.score)).collect())
        }
        "stream" => {
            let entries = store.log_after(key, "0", u64::MAX).await.expect("read");
            Seen::Log(entries.into_iter().map(|entry| entry.value).collect())
        }
        "hash" => Seen::Lock,
        other => panic!("{key} is a {other}"),
    }
}

/// A bucket is its level and the time of it.
fn without_time(key: &str, bytes: Bytes) -> Bytes {
    match bytes.iter().position(|byte| *byte == b':') {
        Some(place) if key.starts_with("bucket") => bytes.slice(..place),
        _ => bytes,
    }
}

/// A connection past the store, for questions with an answer of one line.
pub(crate) struct Console {
    stream: BufReader<TcpStream>,
}

impl Console {
    pub(crate) fn open(redis: &Redis) -> Self {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, redis.port())).expect("a connection");
        Self { stream: BufReader::new(stream) }
    }

    fn say(&mut self, command: &str) -> String {
        self.stream.get_mut().write_all(format!("{command}\r\n").as_bytes()).expect("written");
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("answered");
        line.trim().trim_start_matches([':', '+']).to_owned()
    }
}
