//! What Redis knows: the log of job transitions, read behind the back of every service.

use std::collections::BTreeMap;

use busbar_protocol::busbar::{JobEvent, JobState};
use busbar_protocol::keys;
use busbar_protocol::ports::Records as _;
use busbar_protocol::prost::Message as _;
use busbar_store::{Store, StoreConfig};
use tokio::runtime::Runtime;

const PAGE: u64 = 1_000;

/// The terminal states that the log tells of, by job.
pub(crate) type Ends = BTreeMap<String, Vec<JobState>>;

/// A reader of the store.
#[derive(Debug)]
pub(crate) struct Truth {
    store: Store,
    runtime: Runtime,
}

impl Truth {
    pub(crate) fn connect(redis: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let store = runtime.block_on(Store::connect(StoreConfig::new(redis))).unwrap();
        Self { store, runtime }
    }

    /// Reads the whole log, or nothing while the store is away.
    pub(crate) fn ends(&self) -> Option<Ends> {
        let mut ends = Ends::new();
        let mut cursor = "0".to_owned();
        loop {
            let read = self.store.log_after(keys::LOG_JOBS, &cursor, PAGE);
            let entries = self.runtime.block_on(read).ok()?;
            let Some(last) = entries.last() else { return Some(ends) };
            cursor = last.cursor.clone();
            for entry in entries {
                let event = JobEvent::decode(entry.value).unwrap();
                let terminal = event.states().filter(|state| state.is_terminal()).collect::<Vec<_>>();
                if !terminal.is_empty() {
                    ends.entry(event.job_id).or_default().extend(terminal);
                }
            }
        }
    }
}
