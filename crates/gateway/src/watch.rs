//! Who waits for the end of which job or run, and the subscriptions that wake them: one for jobs, one for runs.
//!
//! ```text
//!  busbar.job.event ─┐
//!  busbar.run.event ─┴► follow ──► waiters of what ended ──► each reads its record again, and its result beside it
//!                       │  └─ a gap in the cursors ──► everybody reads again
//!                       └──► followers, who get everything
//!  sys.job.progress ────► follow_progress ──► followers
//! ```
//!
//! Events are hints: the record is the truth. A lost event costs a waiter the interval of its own look, nothing more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use busbar_api::RunState;
use busbar_protocol::busbar::{JobEventBatch, JobEventGists, JobState, RunEventBatch};
use busbar_protocol::cap::JobProgress;
use busbar_protocol::cap::bus_packet::Payload;
use busbar_protocol::envelope::{self, Decoded};
use busbar_protocol::ports::{Bus, BusError};
use busbar_protocol::prost::{DecodeError, Message};
use busbar_protocol::subjects;
use busbar_service::Shutdown;
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::{broadcast, watch};

/// How many messages a follower may be behind before it has to read the log.
const EVENTS_KEPT: usize = 128;
/// How many reports of progress a follower may be behind before it loses the oldest.
const PROGRESS_KEPT: usize = 256;

/// Each is told where the result of what ended stands, if it has one.
type Waiters = Mutex<HashMap<String, watch::Sender<String>>>;

/// Committed changes, as the bus tells them.
pub(crate) trait Events: Message + Default + 'static {
    /// Where they are told.
    const SUBJECT: &'static str;

    /// What is read of them where nobody follows.
    type Gist: Gist;
}

/// What wakes waiters.
pub(crate) trait Gist: Message + Default {
    /// The cursor of what was told just before.
    fn after(&self) -> &str;

    /// The cursor of the last change.
    fn last(&self) -> Option<&str>;

    /// What ended.
    fn ended(&self) -> impl Iterator<Item = End<'_>>;
}

/// The end of a job or run.
pub(crate) struct End<'a> {
    /// Its id.
    id: &'a str,
    /// Where its result stands; empty for none.
    result_ptr: &'a str,
}

impl Events for JobEventBatch {
    const SUBJECT: &'static str = subjects::JOB_EVENT;
    type Gist = JobEventGists;
}

impl Gist for JobEventGists {
    fn after(&self) -> &str {
        &self.after
    }

    fn last(&self) -> Option<&str> {
        self.entries.last().map(|entry| entry.cursor.as_str())
    }

    fn ended(&self) -> impl Iterator<Item = End<'_>> {
        let events = self.entries.iter().filter_map(|entry| entry.event.as_ref());
        let ended = events.filter(|event| event.states().next_back().is_some_and(JobState::is_terminal));
        ended.map(|event| End { id: &event.job_id, result_ptr: &event.result_ptr })
    }
}

impl Events for RunEventBatch {
    const SUBJECT: &'static str = subjects::RUN_EVENT;
    type Gist = Self;
}

impl Gist for RunEventBatch {
    fn after(&self) -> &str {
        &self.after
    }

    fn last(&self) -> Option<&str> {
        self.entries.last().map(|entry| entry.cursor.as_str())
    }

    fn ended(&self) -> impl Iterator<Item = End<'_>> {
        let events = self.entries.iter().filter_map(|entry| entry.event.as_ref());
        let ended = |state| RunState::from_protocol(state).is_some_and(RunState::is_terminal);
        events.filter(move |event| ended(event.state())).map(|event| End { id: &event.run_id, result_ptr: "" })
    }
}

/// Who waits for the end of jobs.
pub(crate) type JobWatch = Watch<JobEventBatch>;
/// Who waits for the end of runs.
pub(crate) type RunWatch = Watch<RunEventBatch>;

/// The waiters of one gateway for one kind of thing. All clones speak of the same ones.
#[derive(Debug)]
pub(crate) struct Watch<E> {
    waiters: Arc<Waiters>,
    events: broadcast::Sender<Arc<E>>,
}

impl<E> Clone for Watch<E> {
    fn clone(&self) -> Self {
        Self { waiters: self.waiters.clone(), events: self.events.clone() }
    }
}

impl<E> Default for Watch<E> {
    fn default() -> Self {
        Self { waiters: Arc::default(), events: broadcast::Sender::new(EVENTS_KEPT) }
    }
}

/// Waits for one job or run; forgotten when dropped.
#[derive(Debug)]
pub(crate) struct Waiter {
    waiters: Arc<Waiters>,
    id: String,
    woken: watch::Receiver<String>,
}

impl<E: Events> Watch<E> {
    /// From now on nothing about this job or run is missed.
    pub(crate) fn register(&self, id: &str) -> Waiter {
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = waiters.entry(id.to_owned()).or_insert_with(|| watch::Sender::new(String::new()));
        Waiter { waiters: self.waiters.clone(), id: id.to_owned(), woken: sender.subscribe() }
    }

    /// Everything from now on. Whoever does not keep up is told so, and has to read the log.
    pub(crate) fn follow(&self) -> broadcast::Receiver<Arc<E>> {
        self.events.subscribe()
    }

    fn wake(&self, end: &End<'_>) {
        let waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = waiters.get(end.id) {
            sender.send_replace(end.result_ptr.to_owned());
        }
    }

    fn wake_all(&self) {
        let waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        waiters.values().for_each(|sender| {
            sender.send_modify(|_| ());
        });
    }

    /// Takes a batch of events in. Returns the cursor up to which all is known.
    fn take(&self, last: &str, batch: &E::Gist) -> String {
        let gap = !last.is_empty() && batch.after() != last;
        if gap {
            self.wake_all();
        }
        batch.ended().for_each(|end| self.wake(&end));
        batch.last().unwrap_or_else(|| batch.after()).to_owned()
    }
}

impl Waiter {
    /// Returns when something about the job or run may have changed.
    pub(crate) async fn woken(&mut self) {
        // The sender stays in the map as long as this waiter lives.
        let _ = self.woken.changed().await;
    }

    /// Where the result stands, as far as an event has told; empty before.
    pub(crate) fn told(&self) -> String {
        self.woken.borrow().clone()
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        if waiters.get(&self.id).is_some_and(|sender| sender.receiver_count() <= 1) {
            waiters.remove(&self.id);
        }
    }
}

/// Follows the events until the shutdown.
pub(crate) async fn follow<B: Bus, E: Events>(bus: B, watch: Watch<E>, shutdown: Shutdown) -> Result<(), BusError> {
    let mut events = bus.subscribe(E::SUBJECT, None).await?;
    let mut last = String::new();
    loop {
        let message = tokio::select! {
            message = events.next() => message,
            () = shutdown.triggered() => return Ok(()),
        };
        let Some(message) = message else {
            return Err(BusError::Unavailable { detail: format!("the subscription to {} has ended", E::SUBJECT) });
        };
        let read = || -> Result<(E::Gist, Option<E>), DecodeError> {
            let gist = E::Gist::decode(message.payload.clone())?;
            let is_followed = watch.events.receiver_count() > 0;
            Ok((gist, is_followed.then(|| E::decode(message.payload.clone())).transpose()?))
        };
        match read() {
            Ok((gist, whole)) => {
                last = watch.take(&last, &gist);
                // Whoever followed may have gone.
                whole.map(|batch| watch.events.send(Arc::new(batch)).ok());
            }
            Err(error) => tracing::warn!(%error, subject = E::SUBJECT, "a message that is no batch of events"),
        }
    }
}

/// Who follows the progress of jobs. All clones speak of the same followers.
#[derive(Clone, Debug)]
pub(crate) struct ProgressWatch {
    reports: broadcast::Sender<Arc<JobProgress>>,
}

impl Default for ProgressWatch {
    fn default() -> Self {
        Self { reports: broadcast::Sender::new(PROGRESS_KEPT) }
    }
}

impl ProgressWatch {
    /// All progress from now on, as far as the follower keeps up.
    pub(crate) fn follow(&self) -> broadcast::Receiver<Arc<JobProgress>> {
        self.reports.subscribe()
    }

    /// Whoever sends what is no progress is told by the scheduler.
    fn take(&self, packet: &Bytes) {
        if self.reports.receiver_count() == 0 {
            return;
        }
        if let Ok(Decoded { payload: Payload::JobProgress(progress), .. }) = envelope::decode(packet) {
            let _ = self.reports.send(Arc::new(progress));
        }
    }
}

/// Passes on what workers report, until the shutdown.
pub(crate) async fn follow_progress<B: Bus>(bus: B, watch: ProgressWatch, shutdown: Shutdown) -> Result<(), BusError> {
    let mut reports = bus.subscribe(subjects::PROGRESS, None).await?;
    loop {
        let report = tokio::select! {
            report = reports.next() => report,
            () = shutdown.triggered() => return Ok(()),
        };
        let Some(report) = report else {
            return Err(BusError::Unavailable { detail: format!("the subscription to {} has ended", subjects::PROGRESS) });
        };
        watch.take(&report.payload);
    }
}

#[cfg(test)]
mod tests {
    use busbar_protocol::busbar::{self, JobEventGist, RunEvent, RunEventEntry, job_event_gists};
    use futures::FutureExt as _;

    use super::*;

    fn batch(after: &str, cursor: &str, job_id: &str, state: JobState) -> JobEventGists {
        let event = JobEventGist { job_id: job_id.into(), states: vec![state.into()], result_ptr: format!("of {job_id}") };
        let entries = vec![job_event_gists::Entry { cursor: cursor.into(), event: Some(event) }];
        JobEventGists { after: after.into(), entries }
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
        assert_eq!((first.told(), other.told()), ("of a".to_owned(), String::new()));
    }

    #[test]
    fn the_end_of_a_run_wakes_as_well() {
        let runs = RunWatch::default();
        let mut waiter = runs.register("r");
        let batch = |state: busbar::RunState| {
            let event = RunEvent { run_id: "r".into(), state: state.into(), ..RunEvent::default() };
            RunEventBatch { after: "0".into(), entries: vec![RunEventEntry { cursor: "1-0".into(), event: Some(event) }] }
        };
        runs.take("", &batch(busbar::RunState::Running));
        assert_eq!(waiter.woken().now_or_never(), None);
        assert_eq!(runs.take("", &batch(busbar::RunState::Timeout)), "1-0");
        assert_eq!(waiter.woken().now_or_never(), Some(()));
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
