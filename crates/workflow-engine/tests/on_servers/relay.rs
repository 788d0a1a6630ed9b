//! The relay of a log, on a connection that breaks.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use busbar_bus::{BusConfig, NatsBus};
use busbar_protocol::keys;
use busbar_protocol::ports::{
    Answer, Bus, BusError, CommitClass, CommitId, Headers, LogEntry, LogTail, Records, Relay, RelayError, RelayedLog,
    SystemClock, Teller, Unit, Write,
};
use busbar_servers::Stack;
use busbar_store::{Store, StoreConfig};
use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::rig::PATIENCE;

const RUNS: RelayedLog = RelayedLog { log: keys::LOG_RUNS, cursor: keys::LOG_RUNS_RELAYED, lock: keys::LOCK_ENGINE };

/// Tells, and breaks the connection after the first time, where it is to: what was sent may be lost with it, and nobody says so.
#[derive(Clone)]
struct Told {
    bus: NatsBus,
    stack: Arc<Stack>,
    breaks: bool,
    told: Arc<watch::Sender<Vec<(String, usize)>>>,
}

impl Teller for Told {
    async fn tell(&self, after: &str, entries: &[LogEntry]) -> Result<(), BusError> {
        self.bus.publish("test.told", Headers::new(), entries[0].value.clone()).await?;
        let mut first = false;
        self.told.send_modify(|told| {
            told.push((after.to_owned(), entries.len()));
            first = told.len() == 1;
        });
        if first && self.breaks {
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

impl Told {
    /// Waits until so many entries have been told, one or more at a time; the cursors before them.
    async fn entries(&self, count: usize) -> Vec<String> {
        let mut told = self.told.subscribe();
        let enough = |told: &Vec<(String, usize)>| told.iter().map(|(_, entries)| entries).sum::<usize>() >= count;
        let told = timeout(PATIENCE, told.wait_for(enough)).await.unwrap().unwrap();
        told.iter().map(|(after, _)| after.clone()).collect()
    }
}

fn append(n: usize) -> Write {
    Write::Append { log: keys::LOG_RUNS.to_owned(), value: n.to_string().into(), keep: 1000 }
}

/// Writes entries, and says where they stand.
async fn write(store: &Store, entries: usize) -> Vec<Answer> {
    let unit = |n| Unit { id: CommitId::generate(), guards: vec![], writes: vec![append(n)] };
    store.commit(CommitClass::Advance, (0..entries).map(unit).collect::<Vec<_>>()).await.unwrap()
}

fn hand_over(tail: &LogTail, answers: Vec<Answer>) {
    let answers: Vec<Option<Answer>> = answers.into_iter().map(Some).collect();
    tail.committed(answers.iter().map(|_| vec![Bytes::from_static(b"handed over")]), &answers);
    tail.announce();
}

struct Scene {
    store: Store,
    told: Told,
    tail: Arc<LogTail>,
    _relaying: AbortOnDropHandle<()>,
}

impl Scene {
    /// A relay of a log that has entries already.
    async fn start(entries: usize, breaks: bool) -> Self {
        let stack = Arc::new(Stack::start_temp().unwrap());
        let bus = NatsBus::connect(BusConfig::new(stack.nats.url(), "test")).await.unwrap();
        let store = Store::connect(StoreConfig::new(stack.redis.url())).await.unwrap();
        let epoch = store.lease(keys::LOCK_ENGINE, "test", PATIENCE).await.unwrap().epoch;
        write(&store, entries).await;
        let told = Told { bus: bus.clone(), stack, breaks, told: Arc::default() };
        let tail = Arc::<LogTail>::default();
        let relay = Relay {
            bus,
            records: store.clone(),
            clock: SystemClock::start(),
            teller: told.clone(),
            of: RUNS,
            epoch,
            tail: Arc::clone(&tail),
            progress: Arc::default(),
        };
        Self { store, told, tail, _relaying: AbortOnDropHandle::new(tokio::spawn(relay.run())) }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_told_over_a_connection_that_broke_is_told_again() {
    let Scene { store, told, tail, _relaying } = Scene::start(3, true).await;
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
    assert_eq!(*told.told.borrow(), [from_the_start.clone(), from_the_start], "before anything is saved");
    assert_eq!(saved.value, store.log_end(keys::LOG_RUNS).await.unwrap());

    // On a connection that lasts, everything is told once.
    hand_over(&tail, write(&store, 2).await);
    assert_eq!(told.entries(8).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_its_owner_hands_over_is_told_once_and_not_read() {
    let scene = Scene::start(2, false).await;
    scene.told.entries(2).await;
    let end = scene.store.log_end(keys::LOG_RUNS).await.unwrap();
    // It would not be found in the log.
    let far = |n: u64| Answer::Applied { appended: Some(format!("9000000000000-{n}")) };
    hand_over(&scene.tail, vec![far(1), far(2)]);
    assert_eq!(scene.told.entries(4).await[1..], *std::slice::from_ref(&end));
    hand_over(&scene.tail, vec![far(3)]);
    assert_eq!(scene.told.entries(5).await[1..], [end, "9000000000000-2".to_owned()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_read_where_nobody_knows_what_stands_there() {
    let scene = Scene::start(1, false).await;
    scene.told.entries(1).await;
    let mut answers = write(&scene.store, 3).await;
    // Its first answer was lost.
    answers[1] = Answer::Already;
    hand_over(&scene.tail, answers);
    scene.told.entries(4).await;
    // What was read is not told again.
    hand_over(&scene.tail, write(&scene.store, 1).await);
    scene.told.entries(5).await;
    let told: usize = scene.told.told.borrow().iter().map(|(_, entries)| entries).sum();
    assert_eq!(told, 5);
}
