//! What the relay tells of the log of runs.
//!
//! ```text
//! ev:runs ──relay──▶ busbar.run.event, in batches
//! ```

use std::time::Duration;

use busbar_protocol::busbar::{RunEvent, RunEventBatch, RunEventEntry};
use busbar_protocol::keys;
use busbar_protocol::ports::{Bus, BusError, Headers, LogEntry, RelayError, RelayedLog, Teller};
use busbar_protocol::prost::Message as _;
use busbar_protocol::subjects;

use crate::meters::Meters;

/// The log of runs.
pub(crate) const RUNS: RelayedLog = RelayedLog { log: keys::LOG_RUNS, cursor: keys::LOG_RUNS_RELAYED, lock: keys::LOCK_ENGINE };

/// Tells what became of runs.
pub(crate) struct RunTeller<B> {
    pub(crate) bus: B,
    pub(crate) meters: Meters,
}

impl<B: Bus> Teller for RunTeller<B> {
    async fn tell(&self, after: &str, entries: &[LogEntry]) -> Result<(), BusError> {
        let entries = entries.iter().filter_map(read).collect();
        let batch = RunEventBatch { after: after.to_owned(), entries };
        self.bus.publish(subjects::RUN_EVENT, Headers::new(), batch.encode_to_vec().into()).await
    }

    fn told(&self, ages: impl Iterator<Item = Duration>) {
        ages.for_each(|age| self.meters.relayed(age));
    }

    fn paused(&self, error: &RelayError) {
        tracing::debug!(%error, "the relay pauses");
    }
}

fn read(entry: &LogEntry) -> Option<RunEventEntry> {
    match RunEvent::decode(entry.value.clone()) {
        Ok(event) => Some(RunEventEntry { cursor: entry.cursor.clone(), event: Some(event) }),
        Err(error) => {
            tracing::error!(cursor = entry.cursor, %error, "an entry of the log cannot be read and is passed over");
            None
        }
    }
}
