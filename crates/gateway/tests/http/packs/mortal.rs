//! A bus and a store that die together after so many changes: from then on whoever uses them can do nothing any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use busbar_bus::NatsBus;
use busbar_protocol::ports::{
    Answer, Bus, BusError, CommitClass, Connection, Delivery, Headers, IndexEntry, IndexRange, Lease, LogEntry, Message, Records,
    Settlement, StoreError, Stored, Subscription, Unit,
};
use busbar_protocol::subjects::{self, Stream};
use busbar_protocol::time::Timestamp;
use busbar_store::Store;
use bytes::Bytes;
use tokio::sync::watch;

/// How many more questions and commits there will be.
#[derive(Clone, Debug)]
pub(super) struct Life {
    left: Arc<AtomicI64>,
    /// The last one is carried out, but its answer is lost.
    last_is_done: bool,
}

/// What may be done with a call.
enum Fate {
    Lives,
    Dies,
    DiesAfter,
}

impl Life {
    pub(super) fn of(calls: i64, last_is_done: bool) -> Self {
        Self { left: Arc::new(AtomicI64::new(calls)), last_is_done }
    }

    pub(super) fn is_over(&self) -> bool {
        self.left.load(Ordering::SeqCst) < 0
    }

    fn spend(&self) -> Fate {
        match self.left.fetch_sub(1, Ordering::SeqCst) {
            1.. => Fate::Lives,
            0 if self.last_is_done => Fate::DiesAfter,
            _ => Fate::Dies,
        }
    }

    fn store(&self) -> Result<(), StoreError> {
        if self.is_over() { Err(gone()) } else { Ok(()) }
    }

    fn bus(&self) -> Result<(), BusError> {
        if self.is_over() { Err(away()) } else { Ok(()) }
    }
}

fn gone() -> StoreError {
    StoreError::Unavailable { detail: "dead".to_owned() }
}

fn away() -> BusError {
    BusError::TimedOut { subject: "dead".to_owned(), waited: Duration::ZERO }
}

#[derive(Clone, Debug)]
pub(super) struct MortalStore(pub(super) Store, pub(super) Life);

impl Records for MortalStore {
    async fn commit(&self, class: CommitClass, units: impl Into<Arc<[Unit]>> + Send) -> Result<Vec<Answer>, StoreError> {
        match self.1.spend() {
            Fate::Lives => self.0.commit(class, units).await,
            Fate::Dies => Err(gone()),
            Fate::DiesAfter => {
                self.0.commit(class, units).await?;
                Err(gone())
            }
        }
    }

    async fn read(&self, keys: Vec<String>) -> Result<Vec<Option<Stored>>, StoreError> {
        self.1.store()?;
        self.0.read(keys).await
    }

    async fn keys_with(&self, prefix: &str, cursor: u64) -> Result<(Vec<String>, u64), StoreError> {
        self.1.store()?;
        self.0.keys_with(prefix, cursor).await
    }

    async fn index(&self, index: &str, range: IndexRange) -> Result<Vec<IndexEntry>, StoreError> {
        self.1.store()?;
        self.0.index(index, range).await
    }

    async fn index_len(&self, index: &str) -> Result<u64, StoreError> {
        self.1.store()?;
        self.0.index_len(index).await
    }

    async fn log_after(&self, log: &str, cursor: &str, limit: u64) -> Result<Vec<LogEntry>, StoreError> {
        self.0.log_after(log, cursor, limit).await
    }

    async fn log_end(&self, log: &str) -> Result<String, StoreError> {
        self.0.log_end(log).await
    }

    async fn lease(&self, lock: &str, owner: &str, ttl: Duration) -> Result<Lease, StoreError> {
        self.1.store()?;
        self.0.lease(lock, owner, ttl).await
    }

    async fn release(&self, lock: &str, owner: &str) -> Result<(), StoreError> {
        self.1.store()?;
        self.0.release(lock, owner).await
    }

    async fn payloads(&self, keys: Vec<String>) -> Result<Vec<Option<Bytes>>, StoreError> {
        self.0.payloads(keys).await
    }

    async fn put_payload(&self, key: &str, value: Bytes, expire: Option<Duration>) -> Result<(), StoreError> {
        self.0.put_payload(key, value, expire).await
    }

    async fn put_result(&self, key: &str, value: Bytes, expire: Duration) -> Result<(), StoreError> {
        self.0.put_result(key, value, expire).await
    }

    async fn append_payload(&self, key: &str, value: Bytes, max: u64, expire: Duration) -> Result<(), StoreError> {
        self.0.append_payload(key, value, max, expire).await
    }

    async fn time(&self) -> Result<Timestamp, StoreError> {
        self.0.time().await
    }
}

#[derive(Clone, Debug)]
pub(super) struct MortalBus(pub(super) NatsBus, pub(super) Life);

impl Bus for MortalBus {
    type Consumer = <NatsBus as Bus>::Consumer;

    async fn publish(&self, subject: &str, headers: Headers, payload: Bytes) -> Result<(), BusError> {
        self.1.bus()?;
        self.0.publish(subject, headers, payload).await
    }

    async fn publish_with_reply(&self, subject: &str, reply: &str, headers: Headers, payload: Bytes) -> Result<(), BusError> {
        self.1.bus()?;
        self.0.publish_with_reply(subject, reply, headers, payload).await
    }

    async fn publish_durable(&self, subject: &str, id: &str, headers: Headers, payload: Bytes) -> Result<(), BusError> {
        self.1.bus()?;
        self.0.publish_durable(subject, id, headers, payload).await
    }

    async fn request(&self, subject: &str, headers: Headers, payload: Bytes, deadline: Duration) -> Result<Message, BusError> {
        // What is done with the answer changes nothing, and how often it is asked depends on the time.
        let fate = if subject == subjects::SCHEDULER_WORKERS { self.1.bus().map(|()| Fate::Lives)? } else { self.1.spend() };
        match fate {
            Fate::Lives => self.0.request(subject, headers, payload, deadline).await,
            Fate::Dies => Err(away()),
            Fate::DiesAfter => {
                self.0.request(subject, headers, payload, deadline).await?;
                Err(away())
            }
        }
    }

    async fn subscribe(&self, subject: &str, queue: Option<&str>) -> Result<Subscription, BusError> {
        self.0.subscribe(subject, queue).await
    }

    async fn consume(&self, stream: Stream) -> Result<Self::Consumer, BusError> {
        self.0.consume(stream).await
    }

    async fn settle(&self, delivery: &Delivery, settlement: Settlement) -> Result<(), BusError> {
        self.0.settle(delivery, settlement).await
    }

    async fn round_trip(&self) -> Result<(), BusError> {
        self.0.round_trip().await
    }

    fn connection(&self) -> watch::Receiver<Connection> {
        self.0.connection()
    }

    fn inbox(&self) -> String {
        self.0.inbox()
    }
}
