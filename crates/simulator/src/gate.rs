//! A process that can be killed or frozen between any two effects.
//!
//! Every port that a simulated process uses goes through its gate. Before and after each effect the gate may close for good,
//! which is a crash at that point, or until somebody opens it again, which is a process that was stopped and goes on later.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use tokio::sync::{Notify, watch};

use busbar_protocol::ports::{
    Answer, Bus, BusError, CommitClass, Connection, Delivery, Headers, IndexEntry, IndexRange, Lease, LogEntry, Message, Records,
    Settlement, StoreError, Stored, Subscription, Unit,
};
use busbar_protocol::subjects::Stream;
use busbar_protocol::time::Timestamp;

use crate::chaos::Chaos;

/// Where processes crashed, counted over one run: `role port.method before|after`.
pub type CrashPoints = BTreeMap<String, u64>;

#[derive(Debug)]
struct Inner {
    chaos: Chaos,
    role: &'static str,
    crash_per_mille: AtomicU32,
    frozen: AtomicBool,
    /// Wakes in the order of arrival; a watch channel would wake in an order that no seed fixes.
    thawed: Notify,
    crashed: Notify,
    /// Held by the commit that is at the gate: they pass in the order in which they came.
    committing: tokio::sync::Mutex<()>,
    points: Arc<Mutex<CrashPoints>>,
}

/// The gate of one process.
#[derive(Clone, Debug)]
pub struct Gate {
    inner: Arc<Inner>,
}

impl Gate {
    /// An open gate of a process in this role; what crashes there is counted in `points`.
    #[must_use]
    pub fn new(chaos: Chaos, role: &'static str, points: Arc<Mutex<CrashPoints>>) -> Self {
        let (crash_per_mille, frozen) = (AtomicU32::new(0), AtomicBool::new(false));
        let (thawed, crashed) = (Notify::new(), Notify::new());
        let committing = tokio::sync::Mutex::default();
        Self { inner: Arc::new(Inner { chaos, role, crash_per_mille, frozen, thawed, crashed, committing, points }) }
    }

    /// How often an effect is a crash.
    pub fn set_crashes(&self, per_mille: u32) {
        self.inner.crash_per_mille.store(per_mille, Ordering::Relaxed);
    }

    /// Stops the process where it is, or lets it go on.
    pub fn freeze(&self, frozen: bool) {
        self.inner.frozen.store(frozen, Ordering::Relaxed);
        if !frozen {
            self.inner.thawed.notify_waiters();
        }
    }

    /// Waits for the process to crash.
    pub async fn crashed(&self) {
        self.inner.crashed.notified().await;
    }

    async fn pass(&self, point: &str, side: &str) {
        while self.inner.frozen.load(Ordering::Relaxed) {
            self.inner.thawed.notified().await;
        }
        let per_mille = self.inner.crash_per_mille.load(Ordering::Relaxed);
        if self.inner.chaos.chance(per_mille) {
            self.count(format!("{} {point} {side}", self.inner.role));
            self.inner.crashed.notify_one();
            std::future::pending::<()>().await;
        }
    }

    fn count(&self, point: String) {
        *self.inner.points.lock().unwrap_or_else(PoisonError::into_inner).entry(point).or_default() += 1;
    }

    async fn through<T>(&self, point: &str, effect: impl Future<Output = T>) -> T {
        self.pass(point, "before").await;
        let outcome = effect.await;
        self.pass(point, "after").await;
        outcome
    }
}

/// A port behind a gate.
#[derive(Clone, Debug)]
pub struct Gated<P> {
    port: P,
    gate: Gate,
}

impl<P> Gated<P> {
    /// Puts a port behind a gate.
    pub const fn new(port: P, gate: Gate) -> Self {
        Self { port, gate }
    }
}

impl<P: Bus> Bus for Gated<P> {
    type Consumer = P::Consumer;

    async fn publish(&self, subject: &str, headers: Headers, payload: Bytes) -> Result<(), BusError> {
        self.gate.through("bus.publish", self.port.publish(subject, headers, payload)).await
    }

    async fn publish_with_reply(&self, subject: &str, reply: &str, headers: Headers, payload: Bytes) -> Result<(), BusError> {
        self.gate.through("bus.publish_with_reply", self.port.publish_with_reply(subject, reply, headers, payload)).await
    }

    async fn publish_durable(&self, subject: &str, id: &str, headers: Headers, payload: Bytes) -> Result<(), BusError> {
        self.gate.through("bus.publish_durable", self.port.publish_durable(subject, id, headers, payload)).await
    }

    async fn request(&self, subject: &str, headers: Headers, payload: Bytes, deadline: Duration) -> Result<Message, BusError> {
        self.gate.through("bus.request", self.port.request(subject, headers, payload, deadline)).await
    }

    async fn subscribe(&self, subject: &str, queue: Option<&str>) -> Result<Subscription, BusError> {
        self.gate.through("bus.subscribe", self.port.subscribe(subject, queue)).await
    }

    async fn consume(&self, stream: Stream) -> Result<Self::Consumer, BusError> {
        self.gate.through("bus.consume", self.port.consume(stream)).await
    }

    async fn settle(&self, delivery: &Delivery, settlement: Settlement) -> Result<(), BusError> {
        self.gate.through("bus.settle", self.port.settle(delivery, settlement)).await
    }

    async fn round_trip(&self) -> Result<(), BusError> {
        self.gate.through("bus.round_trip", self.port.round_trip()).await
    }

    fn connection(&self) -> watch::Receiver<Connection> {
        self.port.connection()
    }

    fn inbox(&self) -> String {
        self.port.inbox()
    }
}

impl<P: Records> Records for Gated<P> {
    async fn commit(&self, class: CommitClass, units: impl Into<Arc<[Unit]>> + Send) -> Result<Vec<Answer>, StoreError> {
        let turn = self.gate.inner.committing.lock().await;
        self.gate.pass("store.commit", "before").await;
        let mut commit = Box::pin(self.port.commit(class, units));
        let at_once = (&mut commit).now_or_never();
        drop(turn);
        let outcome = match at_once {
            Some(outcome) => outcome,
            None => commit.await,
        };
        self.gate.pass("store.commit", "after").await;
        outcome
    }

    async fn read(&self, keys: Vec<String>) -> Result<Vec<Option<Stored>>, StoreError> {
        self.gate.through("store.read", self.port.read(keys)).await
    }

    async fn keys_with(&self, prefix: &str, cursor: u64) -> Result<(Vec<String>, u64), StoreError> {
        self.gate.through("store.keys_with", self.port.keys_with(prefix, cursor)).await
    }

    async fn index(&self, index: &str, range: IndexRange) -> Result<Vec<IndexEntry>, StoreError> {
        self.gate.through("store.index", self.port.index(index, range)).await
    }

    async fn index_len(&self, index: &str) -> Result<u64, StoreError> {
        self.gate.through("store.index_len", self.port.index_len(index)).await
    }

    async fn log_after(&self, log: &str, cursor: &str, limit: u64) -> Result<Vec<LogEntry>, StoreError> {
        self.gate.through("store.log_after", self.port.log_after(log, cursor, limit)).await
    }

    async fn log_end(&self, log: &str) -> Result<String, StoreError> {
        self.gate.through("store.log_end", self.port.log_end(log)).await
    }

    async fn lease(&self, lock: &str, owner: &str, ttl: Duration) -> Result<Lease, StoreError> {
        self.gate.through("store.lease", self.port.lease(lock, owner, ttl)).await
    }

    async fn release(&self, lock: &str, owner: &str) -> Result<(), StoreError> {
        self.gate.through("store.release", self.port.release(lock, owner)).await
    }

    async fn payloads(&self, keys: Vec<String>) -> Result<Vec<Option<Bytes>>, StoreError> {
        self.gate.through("store.payloads", self.port.payloads(keys)).await
    }

    async fn put_payload(&self, key: &str, value: Bytes, expire: Option<Duration>) -> Result<(), StoreError> {
        self.gate.through("store.put_payload", self.port.put_payload(key, value, expire)).await
    }

    async fn put_result(&self, key: &str, value: Bytes, expire: Duration) -> Result<(), StoreError> {
        self.gate.through("store.put_result", self.port.put_result(key, value, expire)).await
    }

    async fn append_payload(&self, key: &str, value: Bytes, max: u64, expire: Duration) -> Result<(), StoreError> {
        self.gate.through("store.append_payload", self.port.append_payload(key, value, max, expire)).await
    }

    async fn time(&self) -> Result<Timestamp, StoreError> {
        self.gate.through("store.time", self.port.time()).await
    }
}
