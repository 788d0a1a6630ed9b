//! Faults at the store.

use std::sync::Arc;
use std::time::Duration;

use busbar_protocol::keys;
use busbar_protocol::ports::{
    Answer, CommitClass, IndexEntry, IndexRange, Lease, LogEntry, Records, StoreError, Stored, Unit, Write,
};
use busbar_protocol::time::Timestamp;
use busbar_scheduler::core::job::Job;
use bytes::Bytes;

use super::{Sabotaged, Saboteur, units};
use crate::plant::Plant;

/// How much later a commit happens that was answered at once.
const LATER: Duration = Duration::from_millis(150);
/// How long a lie about a lease takes, so that whoever believes it lets time pass.
const LIE: Duration = Duration::from_millis(20);

impl<P: Records> Sabotaged<P> {
    /// Answers at once, and commits when it gets round to it.
    fn put_off(&self, class: CommitClass, units: Arc<[Unit]>) -> Vec<Answer> {
        let answers = presumed(&units);
        let port = self.port.clone();
        self.saboteur.later(async move {
            tokio::time::sleep(LATER).await;
            let _ = port.commit(class, units).await;
        });
        answers
    }

    fn spoil(&self, units: Arc<[Unit]>) -> Arc<[Unit]> {
        let Some(plant) = self.saboteur.plant else { return units };
        let spoiled = units.iter().cloned().map(|unit| units::spoil(plant, unit));
        if plant != Plant::CommitRepeated {
            return spoiled.collect();
        }
        let mut memory = self.saboteur.memory();
        let renamed = spoiled.map(|unit| {
            memory.units += 1;
            units::rename(unit, memory.units)
        });
        renamed.collect()
    }
}

impl Saboteur {
    /// Remembers which attempts are present.
    fn note(&self, units: &[Unit]) {
        let mut memory = self.memory();
        for write in units.iter().flat_map(|unit| &unit.writes) {
            let Write::Put { key, value, .. } = write else { continue };
            let Some(job) = key.starts_with("job:meta:").then(|| Job::decode(value).ok()).flatten() else { continue };
            if job.hold().is_some() {
                memory.present.insert(job.id.to_string(), job.attempt);
            } else {
                memory.present.remove(job.id.as_str());
            }
        }
    }
}

fn presumed(units: &[Unit]) -> Vec<Answer> {
    units.iter().map(|_| Answer::Applied { appended: None }).collect()
}

impl<P: Records> Records for Sabotaged<P> {
    async fn commit(&self, class: CommitClass, units: impl Into<Arc<[Unit]>> + Send) -> Result<Vec<Answer>, StoreError> {
        let units = units.into();
        if self.has(Plant::ResultRelabelled) || self.has(Plant::SlotFreedEarly) {
            self.saboteur.note(&units);
        }
        let early = match class {
            CommitClass::Admit => Plant::AcknowledgedEarly,
            CommitClass::Advance => Plant::SentBeforeCommit,
        };
        if self.has(early) {
            return Ok(self.put_off(class, units));
        }
        let believed = presumed(&units);
        match self.port.commit(class, self.spoil(units)).await {
            Err(StoreError::Unavailable { .. }) if self.has(Plant::CommitPresumed) => Ok(believed),
            answered => answered,
        }
    }

    async fn read(&self, keys: Vec<String>) -> Result<Vec<Option<Stored>>, StoreError> {
        let Some(plant) = self.saboteur.plant else { return self.port.read(keys).await };
        let found = self.port.read(keys.clone()).await?;
        let misread = |(key, stored): (String, Option<Stored>)| stored.map(|stored| units::misread(plant, &key, stored));
        Ok(keys.into_iter().zip(found).map(misread).collect())
    }

    async fn keys_with(&self, prefix: &str, cursor: u64) -> Result<(Vec<String>, u64), StoreError> {
        self.port.keys_with(prefix, cursor).await
    }

    async fn index(&self, index: &str, range: IndexRange) -> Result<Vec<IndexEntry>, StoreError> {
        let mut page = self.port.index(index, range).await?;
        if self.has(Plant::TakeoverIncomplete) && index == keys::INDEX_LIVE {
            page.pop();
        }
        Ok(page)
    }

    async fn index_len(&self, index: &str) -> Result<u64, StoreError> {
        self.port.index_len(index).await
    }

    async fn log_after(&self, log: &str, cursor: &str, limit: u64) -> Result<Vec<LogEntry>, StoreError> {
        self.port.log_after(log, cursor, limit).await
    }

    async fn log_end(&self, log: &str) -> Result<String, StoreError> {
        self.port.log_end(log).await
    }

    async fn lease(&self, lock: &str, owner: &str, ttl: Duration) -> Result<Lease, StoreError> {
        let answered = self.port.lease(lock, owner, ttl).await;
        if !self.has(Plant::LeaseKept) || lock != keys::LOCK_SCHEDULER {
            return answered;
        }
        if let Ok(lease) = answered.as_ref().ok().filter(|lease| lease.held).ok_or(()) {
            self.saboteur.memory().held.get_or_insert(lease.epoch);
        }
        let held = self.saboteur.memory().held;
        let Some(epoch) = held else { return answered };
        tokio::time::sleep(LIE).await;
        Ok(Lease { held: true, epoch, remaining: ttl, owner: owner.to_owned() })
    }

    async fn release(&self, lock: &str, owner: &str) -> Result<(), StoreError> {
        self.port.release(lock, owner).await
    }

    async fn payloads(&self, keys: Vec<String>) -> Result<Vec<Option<Bytes>>, StoreError> {
        self.port.payloads(keys).await
    }

    async fn put_payload(&self, key: &str, value: Bytes, expire: Option<Duration>) -> Result<(), StoreError> {
        self.port.put_payload(key, value, expire).await
    }

    async fn put_result(&self, key: &str, value: Bytes, expire: Duration) -> Result<(), StoreError> {
        self.port.put_result(key, value, expire).await
    }

    async fn append_payload(&self, key: &str, value: Bytes, max: u64, expire: Duration) -> Result<(), StoreError> {
        self.port.append_payload(key, value, max, expire).await
    }

    async fn time(&self) -> Result<Timestamp, StoreError> {
        self.port.time().await
    }
}
