//! A redis-server of its own for each test, and short words for units.

use std::io::{Read, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use busbar_protocol::ports::{Answer, CommitClass, CommitId, Guard, Records, Unit, Write};
use busbar_servers::{Redis, RedisOptions, Search};
use busbar_store::{Store, StoreConfig};
use bytes::Bytes;
use tempfile::TempDir;

/// A server and a store that is connected to it.
pub(crate) struct Server {
    pub(crate) redis: Redis,
    pub(crate) store: Store,
    _dir: TempDir,
}

/// A server alone.
pub(crate) fn start() -> (Redis, TempDir) {
    let dir = tempfile::Builder::new().prefix("busbar-store-").tempdir().expect("a temporary folder");
    let binary = Search::from_env().find_redis().expect("a redis-server").path;
    let redis = Redis::start(RedisOptions::new(dir.path(), binary)).expect("a running redis-server");
    (redis, dir)
}

impl Server {
    pub(crate) async fn start() -> Self {
        let (redis, _dir) = start();
        let store = Store::connect(StoreConfig::new(redis.url())).await.expect("a connected store");
        Self { redis, store, _dir }
    }

    /// Commits one unit that advances.
    pub(crate) async fn commit(&self, unit: Unit) -> Answer {
        let answers = self.store.commit(CommitClass::Advance, vec![unit]).await.expect("answered");
        let [answer] = <[Answer; 1]>::try_from(answers).expect("one answer");
        answer
    }

    /// Says something to the server past the store.
    pub(crate) fn say(&self, command: &str) -> String {
        say(&self.redis, command)
    }
}

/// One inline command and the start of its answer.
pub(crate) fn say(redis: &Redis, command: &str) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, redis.port())).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    stream.write_all(format!("{command}\r\n").as_bytes()).expect("written");
    let mut answer = [0; 4096];
    let length = stream.read(&mut answer).expect("answered");
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

/// A unit of a new id.
pub(crate) fn unit(guards: impl IntoIterator<Item = Guard>, writes: impl IntoIterator<Item = Write>) -> Unit {
    Unit { id: CommitId::generate(), guards: guards.into_iter().collect(), writes: writes.into_iter().collect() }
}

pub(crate) fn put(key: &str, revision: u64, value: &'static str) -> Write {
    Write::Put { key: key.into(), revision, value: Bytes::from_static(value.as_bytes()), expire: None }
}

pub(crate) fn absent(key: &str) -> Guard {
    Guard::Absent { key: key.into() }
}

pub(crate) fn revision(key: &str, revision: u64) -> Guard {
    Guard::Revision { key: key.into(), revision }
}

pub(crate) fn count(key: &str, by: i64) -> Write {
    Write::Count { key: key.into(), by }
}

pub(crate) fn add(index: &str, member: &str, score: i64) -> Write {
    Write::IndexAdd { index: index.into(), member: member.into(), score }
}

pub(crate) fn append(log: &str, value: &'static str) -> Write {
    Write::Append { log: log.into(), value: Bytes::from_static(value.as_bytes()), keep: 1000 }
}

pub(crate) const APPLIED: Answer = Answer::Applied { appended: None };
