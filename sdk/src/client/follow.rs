//! Follows the committed transitions, to tell whoever waits for the end of a job how it ended.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use busbar_protocol::busbar::{JobEvent, JobEventBytes, JobEventGist, JobState};
use busbar_protocol::ports::{Bus, BusError};
use busbar_protocol::prost::{DecodeError, Message as _};
use busbar_protocol::subjects;
use futures::StreamExt as _;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// Who waits, by job.
type Waiting = Arc<Mutex<BTreeMap<String, watch::Sender<Option<End>>>>>;

/// The change by which a job has ended.
pub(super) type End = Arc<JobEvent>;

/// One subscription for all that wait.
pub(super) struct Follower {
    waiting: Waiting,
    _task: AbortOnDropHandle<()>,
}

/// The news of one job.
pub(super) struct News {
    job_id: String,
    ended: watch::Receiver<Option<End>>,
    waiting: Waiting,
}

impl Follower {
    pub(super) async fn start<B: Bus>(bus: &B) -> Result<Self, BusError> {
        let mut events = bus.subscribe(subjects::JOB_EVENT, None).await?;
        let waiting = Waiting::default();
        let wakes = Arc::clone(&waiting);
        let task = tokio::spawn(async move {
            while let Some(message) = events.next().await {
                if let Err(error) = JobEventBytes::decode(message.payload).and_then(|batch| tell(&wakes, batch)) {
                    tracing::warn!(%error, "a message that is no batch of job events was ignored");
                }
            }
        });
        Ok(Self { waiting, _task: AbortOnDropHandle::new(task) })
    }

    /// Watches a job from now on; look at its record afterwards, because it may have ended before.
    pub(super) fn watch(&self, job_id: &str) -> News {
        let mut waiting = lock(&self.waiting);
        let ended = waiting.entry(job_id.to_owned()).or_insert_with(|| watch::Sender::new(None)).subscribe();
        News { job_id: job_id.to_owned(), ended, waiting: Arc::clone(&self.waiting) }
    }
}

impl News {
    /// Waits for the word that the job has ended; each word is heard once.
    pub(super) async fn ended(&mut self) -> End {
        loop {
            if self.ended.changed().await.is_err() {
                return std::future::pending().await;
            }
            if let Some(end) = self.ended.borrow_and_update().clone() {
                return end;
            }
        }
    }
}

impl Drop for News {
    fn drop(&mut self) {
        let mut waiting = lock(&self.waiting);
        // This receiver still counts.
        if waiting.get(&self.job_id).is_some_and(|sender| sender.receiver_count() <= 1) {
            waiting.remove(&self.job_id);
        }
    }
}

fn tell(waiting: &Waiting, batch: JobEventBytes) -> Result<(), DecodeError> {
    let waiting = lock(waiting);
    for entry in batch.entries {
        let gist = JobEventGist::decode(entry.event.clone())?;
        if gist.states().next_back().is_some_and(JobState::is_terminal)
            && let Some(sender) = waiting.get(&gist.job_id)
        {
            sender.send_replace(Some(Arc::new(JobEvent::decode(entry.event)?)));
        }
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use busbar_protocol::busbar::job_event_bytes;
    use futures::FutureExt as _;

    fn batch(job_id: &str, states: &[JobState]) -> JobEventBytes {
        let states = states.iter().map(|state| i32::from(*state)).collect();
        let event = JobEvent { job_id: job_id.to_owned(), states, worker_id: "w".to_owned(), ..JobEvent::default() };
        let entry = job_event_bytes::Entry { event: event.encode_to_vec().into(), ..job_event_bytes::Entry::default() };
        JobEventBytes { entries: vec![entry], ..JobEventBytes::default() }
    }

    #[tokio::test]
    async fn only_the_end_of_the_watched_job_is_told() {
        let follower = Follower { waiting: Waiting::default(), _task: AbortOnDropHandle::new(tokio::spawn(async {})) };
        let mut news = follower.watch("a");
        let mut second = follower.watch("a");
        tell(&follower.waiting, batch("a", &[JobState::Dispatched])).expect("a batch");
        tell(&follower.waiting, batch("b", &[JobState::Failed])).expect("a batch");
        assert!(news.ended().now_or_never().is_none());
        tell(&follower.waiting, batch("a", &[JobState::Running, JobState::Succeeded])).expect("a batch");
        assert_eq!(news.ended().now_or_never().map(|end| end.worker_id.clone()), Some("w".to_owned()));
        assert!(second.ended().now_or_never().is_some() && news.ended().now_or_never().is_none());
        drop(news);
        assert_eq!(lock(&follower.waiting).len(), 1);
        drop(second);
        assert!(lock(&follower.waiting).is_empty());
    }
}
