//! Who waits for which job, and the one subscription that wakes them.
//!
//! ```text
//!  busbar.job.event ──► follow ──► waiters of jobs that ended ──► each reads its record again
//!                          └─ a gap in the cursors ──► everybody reads again
//! ```
//!
//! Events are hints: the record is the truth. A lost event costs a waiter the interval of its own look, nothing more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use busbar_protocol::busbar::{JobEventBatch, JobState};
use busbar_protocol::ports::{Bus, BusError};
use busbar_protocol::prost::Message as _;
use busbar_protocol::subjects;
use busbar_service::Shutdown;
use futures::StreamExt as _;
use tokio::sync::watch;

type Waiters = Mutex<HashMap<String, watch::Sender<()>>>;

/// The waiters of one gateway. All clones speak of the same ones.
#[derive(Clone, Debug, Default)]
pub(crate) struct JobWatch {
    waiters: Arc<Waiters>,
}

/// Waits for one job; forgotten when dropped.
#[derive(Debug)]
pub(crate) struct Waiter {
    waiters: Arc<Waiters>,
    job_id: String,
    woken: watch::Receiver<()>,
}

impl JobWatch {
    /// From now on nothing about this job is missed.
    pub(crate) fn register(&self, job_id: &str) -> Waiter {
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = waiters.entry(job_id.to_owned()).or_insert_with(|| watch::Sender::new(()));
        Waiter { waiters: self.waiters.clone(), job_id: job_id.to_owned(), woken: sender.subscribe() }
    }

    fn wake(&self, job_id: &str) {
        let waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = waiters.get(job_id) {
            sender.send_replace(());
        }
    }

    fn wake_all(&self) {
        let waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        waiters.values().for_each(|sender| {
            sender.send_replace(());
        });
    }

    /// Takes a batch of events in. Returns the cursor up to which all is known.
    fn take(&self, last: &str, batch: &JobEventBatch) -> String {
        let gap = !last.is_empty() && batch.after != last;
        if gap {
            self.wake_all();
        }
        for event in batch.entries.iter().filter_map(|entry| entry.event.as_ref()) {
            if event.states().next_back().is_some_and(JobState::is_terminal) {
                self.wake(&event.job_id);
            }
        }
        batch.entries.last().map_or_else(|| batch.after.clone(), |entry| entry.cursor.clone())
    }
}

impl Waiter {
    /// Returns when something about the job may have changed.
    pub(crate) async fn woken(&mut self) {
        // The sender stays in the map as long as this waiter lives.
        let _ = self.woken.changed().await;
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        if waiters.get(&self.job_id).is_some_and(|sender| sender.receiver_count() <= 1) {
            waiters.remove(&self.job_id);
        }
    }
}

/// Follows the events until the shutdown.
pub(crate) async fn follow<B: Bus>(bus: B, jobs: JobWatch, shutdown: Shutdown) -> Result<(), BusError> {
    let mut events = bus.subscribe(subjects::JOB_EVENT, None).await?;
    let mut last = String::new();
    loop {
        let message = tokio::select! {
            message = events.next() => message,
            () = shutdown.triggered() => return Ok(()),
        };
        let Some(message) = message else {
            return Err(BusError::Unavailable { detail: "the subscription to job events has ended".into() });
        };
        match JobEventBatch::decode(message.payload) {
            Ok(batch) => last = jobs.take(&last, &batch),
            Err(error) => tracing::warn!(%error, subject = subjects::JOB_EVENT, "a message that is no batch of job events"),
        }
    }
}

#[cfg(test)]
mod tests {
    use busbar_protocol::busbar::{JobEvent, JobEventEntry};
    use futures::FutureExt as _;

    use super::*;

    fn batch(after: &str, cursor: &str, job_id: &str, state: JobState) -> JobEventBatch {
        let event = JobEvent { job_id: job_id.into(), states: vec![state.into()], ..JobEvent::default() };
        JobEventBatch { after: after.into(), entries: vec![JobEventEntry { cursor: cursor.into(), event: Some(event) }] }
    }

    #[test]
    fn the_end_of_a_job_wakes_its_waiters_only() {
        let jobs = JobWatch::default();
        let (mut first, mut second, mut other) = (jobs.register("a"), jobs.register("a"), jobs.register("b"));
        let last = jobs.take("", &batch("0", "1-0", "a", JobState::Running));
        assert_eq!(first.woken().now_or_never(), None);
        assert_eq!(jobs.take(&last, &batch("1-0", "2-0", "a", JobState::Failed)), "2-0");
        assert_eq!(first.woken().now_or_never(), Some(()));
        assert_eq!(second.woken().now_or_never(), Some(()));
        assert_eq!(other.woken().now_or_never(), None);
    }

    #[test]
    fn a_gap_wakes_everybody() {
        let jobs = JobWatch::default();
        let mut waiter = jobs.register("a");
        jobs.take("1-0", &batch("5-0", "6-0", "b", JobState::Running));
        assert_eq!(waiter.woken().now_or_never(), Some(()));
    }

    #[test]
    fn those_who_are_gone_are_forgotten() {
        let jobs = JobWatch::default();
        let (first, second) = (jobs.register("a"), jobs.register("a"));
        drop(first);
        assert_eq!(jobs.waiters.lock().expect("not poisoned").len(), 1);
        drop(second);
        assert!(jobs.waiters.lock().expect("not poisoned").is_empty());
    }
}
