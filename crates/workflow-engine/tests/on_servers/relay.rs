//! The relay of a log, on a connection that breaks.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use busbar_bus::{BusConfig, NatsBus};
use busbar_protocol::keys;
use busbar_protocol::ports::{
    Bus, BusError, CommitClass, CommitId, Headers, LogEntry, Records, Relay, RelayError, RelayProgress, RelayedLog, SystemClock,
    Teller, Unit, Write,
};
use busbar_servers::Stack;
use busbar_store::{Store, StoreConfig};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use crate::rig::PATIENCE;

const RUNS: RelayedLog = RelayedLog { log: keys::LOG_RUNS, cursor: keys::LOG_RUNS_RELAYED, lock: keys::LOCK_ENGINE };

/// Tells, and breaks the connection after the first time: what was sent may be lost with it, and nobody says so.
#[derive(Clone)]
struct Breaks {
    bus: NatsBus,
    stack: Arc<Stack>,
    told: Arc<watch::Sender<Vec<(String, usize)>>>,
}

impl Teller for Breaks {
    async fn tell(&self, after: &str, entries: &[LogEntry]) -> Result<(), BusError> {
        self.bus.publish("test.told", Headers::new(), entries[0].value.clone()).await?;
        let mut first = false;
        self.told.send_modify(|told| {
            told.push((after.to_owned(), entries.len()));
            first = told.len() == 1;
        });
        if first {
            self.stack.nats.kill9();
            self.stack.nats.restart().unwrap();
            let mut connection = self.bus.connection();
            connection.wait_for(|now| now.connected && now.generation > 1).await.unwrap();
        }
        Ok(())
    }

    fn told(&self, ages: impl Iterator<Item = Duration>) {
        assert!(ages.count() > 0);
    }

    fn paused(&self, _: &RelayError) {}
}

async fn write(store: &Store, entries: usize) {
    let append = |n: usize| Write::Append { log: keys::LOG_RUNS.to_owned(), value: n.to_string().into(), keep: 1000 };
    let unit = |n| Unit { id: CommitId::generate(), guards: vec![], writes: vec![append(n)] };
    store.commit(CommitClass::Advance, (0..entries).map(unit).collect()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_told_over_a_connection_that_broke_is_told_again() {
    let stack = Arc::new(Stack::start_temp().unwrap());
    let bus = NatsBus::connect(BusConfig::new(stack.nats.url(), "test")).await.unwrap();
    let store = Store::connect(StoreConfig::new(stack.redis.url())).await.unwrap();
    let epoch = store.lease(keys::LOCK_ENGINE, "test", PATIENCE).await.unwrap().epoch;
    write(&store, 3).await;
    let teller = Breaks { bus: bus.clone(), stack, told: Arc::default() };
    let progress = Arc::new(RelayProgress::default());
    let relay = Relay {
        bus,
        records: store.clone(),
        clock: SystemClock::start(),
        teller: teller.clone(),
        of: RUNS,
        epoch,
        progress: Arc::clone(&progress),
    };
    let wake = Arc::new(Notify::new());
    let relaying = tokio::spawn(relay.run(Arc::clone(&wake)));
    let saved = async {
        loop {
            let cursor = store.read(vec![keys::LOG_RUNS_RELAYED.to_owned()]).await.unwrap().pop().flatten();
            match cursor {
                Some(cursor) => return cursor,
                None => tokio::task::yield_now().await,
            }
        }
    };
    let saved = timeout(PATIENCE, saved).await.unwrap();
    let from_the_start = ("0".to_owned(), 3);
    assert_eq!(*teller.told.borrow(), [from_the_start.clone(), from_the_start], "before anything is saved");
    assert_eq!(saved.value, store.log_end(keys::LOG_RUNS).await.unwrap());

    // On a connection that lasts, everything is told once.
    write(&store, 2).await;
    wake.notify_one();
    let mut told = teller.told.subscribe();
    timeout(PATIENCE, told.wait_for(|told| told.iter().skip(2).map(|(_, entries)| entries).sum::<usize>() == 2))
        .await
        .unwrap()
        .unwrap();
    relaying.abort();
}
