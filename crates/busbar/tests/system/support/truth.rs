//! What Redis knows: the log of job transitions, read behind the back of every service.

use std::cell::RefCell;
use std::collections::BTreeMap;

use busbar_protocol::busbar::{JobEvent, JobState};
use busbar_protocol::keys;
use busbar_protocol::limits::INPUT_TTL;
use busbar_protocol::pointers::Pointer;
use busbar_protocol::ports::{Answer, CommitClass, CommitId, Records as _, Unit, Write};
use busbar_protocol::prost::Message as _;
use busbar_store::{Store, StoreConfig};
use bytes::Bytes;
use serde_json::Value;
use tokio::runtime::Runtime;

const PAGE: u64 = 1_000;

/// The terminal states that the log tells of, by job.
pub(crate) type Ends = BTreeMap<String, Vec<JobState>>;

/// A reader of the store. It remembers what it has read: the log is kept to a bound, and a test may write more than that.
#[derive(Debug)]
pub(crate) struct Truth {
    store: Store,
    runtime: Runtime,
    read: RefCell<Read>,
}

#[derive(Debug)]
struct Read {
    cursor: String,
    events: Vec<JobEvent>,
}

impl Truth {
    pub(crate) fn connect(redis: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let store = runtime.block_on(Store::connect(StoreConfig::new(redis))).unwrap();
        let read = RefCell::new(Read { cursor: "0".to_owned(), events: Vec::new() });
        Self { store, runtime, read }
    }

    /// Reads what the log tells by now, or nothing while the store is away.
    pub(crate) fn look(&self) -> Option<()> {
        let mut read = self.read.borrow_mut();
        loop {
            let entries = self.runtime.block_on(self.store.log_after(keys::LOG_JOBS, &read.cursor, PAGE)).ok()?;
            let Some(last) = entries.last() else { return Some(()) };
            read.cursor = last.cursor.clone();
            read.events.extend(entries.into_iter().map(|entry| JobEvent::decode(entry.value).unwrap()));
        }
    }

    /// The value of a record, where there is one.
    pub(crate) fn record(&self, key: &str) -> Option<Bytes> {
        let read = self.runtime.block_on(self.store.read(vec![key.to_owned()])).ok()?;
        read.into_iter().next().flatten().map(|stored| stored.value)
    }

    /// Takes a record away, as its time does that it may stay.
    pub(crate) fn expire(&self, key: &str) {
        let writes = vec![Write::Delete { key: key.to_owned() }];
        let unit = Unit { id: CommitId::generate(), guards: Vec::new(), writes };
        let answers = self.runtime.block_on(self.store.commit(CommitClass::Advance, vec![unit])).unwrap();
        assert!(matches!(answers[..], [Answer::Applied { .. }]), "{answers:?}");
    }

    /// Where the log ends.
    pub(crate) fn end(&self) -> Option<Bytes> {
        self.runtime.block_on(self.store.log_end(keys::LOG_JOBS)).ok().map(Bytes::from)
    }

    /// Stores the input of a job that is submitted by hand, and gives the pointer to it.
    pub(crate) fn put_input(&self, job_id: &str, input: &Value) -> String {
        let key = keys::context(job_id);
        let put = self.store.put_payload(&key, Bytes::from(input.to_string()), Some(INPUT_TTL));
        self.runtime.block_on(put).unwrap();
        Pointer::Redis(key).to_string()
    }

    /// Every end that the log tells; nothing while the store is away.
    pub(crate) fn ends(&self) -> Option<Ends> {
        self.look()?;
        let mut ends = Ends::new();
        for event in &self.read.borrow().events {
            let terminal = event.states().filter(|state| state.is_terminal()).collect::<Vec<_>>();
            if !terminal.is_empty() {
                ends.entry(event.job_id.clone()).or_default().extend(terminal);
            }
        }
        Some(ends)
    }

    /// Everything that the log tells, in order; nothing while the store is away.
    pub(crate) fn events(&self) -> Option<Vec<JobEvent>> {
        self.look()?;
        Some(self.read.borrow().events.clone())
    }
}
