//! The log of job transitions, read from Redis behind the back of every service while it is being written, so that it does not
//! matter how much of it is kept.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use busbar_protocol::busbar::{JobEvent, JobState};
use busbar_protocol::keys;
use busbar_protocol::ports::Records as _;
use busbar_protocol::prost::Message as _;
use busbar_store::Store;
use tokio::time::sleep;

use crate::load::Load;

const LOOK_EVERY: Duration = Duration::from_millis(50);
const PAGE: u64 = 1_000;

/// What the log told of a job.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    /// Terminal states, in order: there should be one in the end.
    pub(crate) ends: Vec<JobState>,
    pub(crate) attempts: u32,
    pub(crate) error_code: String,
}

/// Every job that the log spoke of.
pub(crate) type Jobs = BTreeMap<String, Told>;

/// What was read so far. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Watch {
    jobs: Arc<Mutex<Jobs>>,
}

impl Watch {
    /// What was told so far.
    pub(crate) fn jobs(&self) -> Jobs {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads for ever; outages of the store are waited out.
    pub(crate) async fn follow(self, store: Store, load: Arc<Load>) {
        let mut cursor = "0".to_owned();
        loop {
            let entries = store.log_after(keys::LOG_JOBS, &cursor, PAGE).await.unwrap_or_default();
            let Some(last) = entries.last() else {
                sleep(LOOK_EVERY).await;
                continue;
            };
            cursor.clone_from(&last.cursor);
            let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
            for event in entries.into_iter().filter_map(|entry| JobEvent::decode(entry.value).ok()) {
                let ends: Vec<JobState> = event.states().filter(|state| state.is_terminal()).collect();
                load.ended.fetch_add(ends.len() as u64, Ordering::Relaxed);
                let told = jobs.entry(event.job_id).or_default();
                told.attempts = told.attempts.max(event.attempt);
                if !ends.is_empty() {
                    told.error_code = event.error_code;
                }
                told.ends.extend(ends);
            }
        }
    }
}
