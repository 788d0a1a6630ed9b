//! Follows the committed transitions, to wake whoever waits for the end of a job.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use busbar_protocol::busbar::{JobEventGists, JobState};
use busbar_protocol::ports::{Bus, BusError};
use busbar_protocol::prost::Message as _;
use busbar_protocol::subjects;
use futures::StreamExt as _;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// Who waits, by job.
type Waiting = Arc<Mutex<BTreeMap<String, watch::Sender<bool>>>>;

/// One subscription for all that wait.
pub(super) struct Follower {
    waiting: Waiting,
    _task: AbortOnDropHandle<()>,
}

/// The news of one job.
pub(super) struct News {
    job_id: String,
    ended: watch::Receiver<bool>,
    waiting: Waiting,
}

impl Follower {
    pub(super) async fn start<B: Bus>(bus: &B) -> Result<Self, BusError> {
        let mut events = bus.subscribe(subjects::JOB_EVENT, None).await?;
        let waiting = Waiting::default();
        let wakes = Arc::clone(&waiting);
        let task = tokio::spawn(async move {
            while let Some(message) = events.next().await {
                match JobEventGists::decode(message.payload) {
                    Ok(batch) => wake(&wakes, &batch),
                    Err(error) => tracing::warn!(%error, "a message that is no batch of job events was ignored"),
                }
            }
        });
        Ok(Self { waiting, _task: AbortOnDropHandle::new(task) })
    }

    /// Watches a job from now on; look at its record afterwards, because it may have ended before.
    pub(super) fn watch(&self, job_id: &str) -> News {
        let mut waiting = lock(&self.waiting);
        let ended = waiting.entry(job_id.to_owned()).or_insert_with(|| watch::Sender::new(false)).subscribe();
        News { job_id: job_id.to_owned(), ended, waiting: Arc::clone(&self.waiting) }
    }
}

impl News {
    /// Waits for the word that the job has ended; each word is heard once.
    pub(super) async fn ended(&mut self) {
        if self.ended.changed().await.is_err() {
            std::future::pending::<()>().await;
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

fn wake(waiting: &Waiting, batch: &JobEventGists) {
    let waiting = lock(waiting);
    for event in batch.entries.iter().filter_map(|entry| entry.event.as_ref()) {
        let state = event.states.last().and_then(|state| JobState::try_from(*state).ok());
        if state.is_some_and(JobState::is_terminal)
            && let Some(sender) = waiting.get(&event.job_id)
        {
            sender.send_replace(true);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use busbar_protocol::busbar::{JobEventGist, job_event_gists};
    use futures::FutureExt as _;

    fn batch(job_id: &str, states: &[JobState]) -> JobEventGists {
        let states = states.iter().map(|state| i32::from(*state)).collect();
        let event = JobEventGist { job_id: job_id.to_owned(), states };
        JobEventGists {
            entries: vec![job_event_gists::Entry { event: Some(event), ..job_event_gists::Entry::default() }],
            ..JobEventGists::default()
        }
    }

    #[tokio::test]
    async fn only_the_end_of_the_watched_job_wakes() {
        let follower = Follower { waiting: Waiting::default(), _task: AbortOnDropHandle::new(tokio::spawn(async {})) };
        let mut news = follower.watch("a");
        let mut second = follower.watch("a");
        wake(&follower.waiting, &batch("a", &[JobState::Dispatched]));
        wake(&follower.waiting, &batch("b", &[JobState::Failed]));
        assert!(news.ended().now_or_never().is_none());
        wake(&follower.waiting, &batch("a", &[JobState::Running, JobState::Succeeded]));
        assert!(news.ended().now_or_never().is_some() && second.ended().now_or_never().is_some());
        drop(news);
        assert_eq!(lock(&follower.waiting).len(), 1);
        drop(second);
        assert!(lock(&follower.waiting).is_empty());
    }
}
