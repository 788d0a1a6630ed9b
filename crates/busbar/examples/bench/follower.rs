//! Follows the committed transitions: counts the jobs that end, and wakes whoever waits for one, or for a dispatch.
//!
//! Batches come over `busbar.job.event`; whoever sees a gap reads the log, so that no end is missed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use busbar_bus::NatsBus;
use busbar_protocol::busbar::{JobEvent, JobEventBatch, JobState};
use busbar_protocol::keys;
use busbar_protocol::ports::{Bus as _, Records as _};
use busbar_protocol::prost::Message as _;
use busbar_protocol::subjects;
use busbar_protocol::time::Timestamp;
use busbar_store::Store;
use futures::StreamExt as _;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::Outcome;

/// How long the bus may be silent before the log is looked at all the same.
const LOOK_AFTER: Duration = Duration::from_millis(500);
const PAGE: u64 = 512;

/// One subscription. Dropping it ends it.
pub(crate) struct Follower {
    seen: Arc<Seen>,
    task: JoinHandle<()>,
}

struct Seen {
    state: Mutex<State>,
    /// How many ends were seen, so that waiting needs no polling.
    ended: watch::Sender<usize>,
}

#[derive(Default)]
struct State {
    cursor: String,
    ends: Vec<Instant>,
    /// Which jobs these ends were of, and after how many attempts.
    ended: Vec<(String, u32)>,
    /// Why the first job that did not succeed did not, or what else went wrong.
    wrong: Option<String>,
    waiting: BTreeMap<String, oneshot::Sender<()>>,
    /// Who waits for a dispatch that was decided after a time.
    dispatch: Option<(Timestamp, oneshot::Sender<Instant>)>,
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Follower {
    /// Follows everything that happens from now on.
    pub(crate) async fn start(bus: &NatsBus, store: &Store) -> Outcome<Self> {
        let mut batches = bus.subscribe(subjects::JOB_EVENT, None).await?;
        let cursor = store.log_end(keys::LOG_JOBS).await?;
        let state = Mutex::new(State { cursor, ..State::default() });
        let seen = Arc::new(Seen { state, ended: watch::Sender::new(0) });
        let (store, notes) = (store.clone(), Arc::clone(&seen));
        let task = tokio::spawn(async move {
            loop {
                let batch = match timeout(LOOK_AFTER, batches.next()).await {
                    Ok(Some(message)) => JobEventBatch::decode(message.payload).ok(),
                    Ok(None) => return,
                    Err(_) => None,
                };
                match batch.filter(|batch| batch.after == notes.lock().cursor) {
                    Some(batch) => {
                        notes.take(batch.entries.into_iter().filter_map(|entry| Some((entry.cursor, entry.event?))));
                    }
                    None => notes.read_log(&store).await,
                }
            }
        });
        Ok(Self { seen, task })
    }

    /// Forgets the ends that were seen so far, and says how many they were.
    pub(crate) fn begin(&self) -> usize {
        let mut state = self.seen.lock();
        let forgotten = std::mem::take(&mut state.ends).len();
        state.ended.clear();
        drop(state);
        self.seen.ended.send_replace(0);
        forgotten
    }

    /// The jobs that were seen to end since [`Follower::begin`], each as often as it was seen, with the number of its last attempt.
    pub(crate) fn ended(&self) -> Vec<(String, u32)> {
        self.seen.lock().ended.clone()
    }

    /// When a dispatch is seen that was decided after a time. What a killed scheduler had decided before, and its successor tells,
    /// is none.
    pub(crate) fn dispatch_after(&self, time: Timestamp) -> oneshot::Receiver<Instant> {
        let (told, seen) = oneshot::channel();
        self.seen.lock().dispatch = Some((time, told));
        seen
    }

    /// Waits until `count` jobs have ended since [`Follower::begin`], and gives the times at which that was seen.
    pub(crate) async fn ends(&self, count: usize, within: Duration) -> Outcome<Vec<Instant>> {
        let mut ended = self.seen.ended.subscribe();
        // The count that wakes may be of what was forgotten meanwhile.
        let enough = |_: &usize| {
            let state = self.seen.lock();
            state.ends.len() >= count || state.wrong.is_some()
        };
        let enough = timeout(within, ended.wait_for(enough)).await;
        let state = self.seen.lock();
        match (&state.wrong, enough) {
            (Some(wrong), _) => Err(wrong.clone().into()),
            (None, Ok(_)) => Ok(state.ends.clone()),
            (None, Err(_)) => Err(format!("{} of {count} jobs ended within {within:?}", state.ends.len()).into()),
        }
    }

    /// Wakes when this job has ended; ask before it can.
    pub(crate) fn end_of(&self, job_id: &str) -> oneshot::Receiver<()> {
        let (end, ended) = oneshot::channel();
        self.seen.lock().waiting.insert(job_id.to_owned(), end);
        ended
    }

    /// A handle with which others tell that the measurement can not go on.
    pub(crate) fn alarm(&self) -> Alarm {
        Alarm(Arc::clone(&self.seen))
    }
}

/// Tells whoever waits for ends that there will be none.
#[derive(Clone)]
pub(crate) struct Alarm(Arc<Seen>);

impl Alarm {
    pub(crate) fn raise(&self, wrong: String) {
        self.0.lock().wrong.get_or_insert(wrong);
        self.0.ended.send_modify(|_| {});
    }
}

impl Seen {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read_log(&self, store: &Store) {
        loop {
            let cursor = self.lock().cursor.clone();
            // While the store is away the next look says more.
            let Ok(entries) = store.log_after(keys::LOG_JOBS, &cursor, PAGE).await else { return };
            if entries.is_empty() {
                return;
            }
            self.take(entries.into_iter().map(|entry| (entry.cursor, JobEvent::decode(entry.value).unwrap_or_default())));
        }
    }

    fn take(&self, entries: impl Iterator<Item = (String, JobEvent)>) {
        let now = Instant::now();
        let mut state = self.lock();
        for (cursor, event) in entries {
            state.cursor = cursor;
            state.note_dispatch(&event, now);
            let last = event.states.last().and_then(|state| JobState::try_from(*state).ok()).unwrap_or_default();
            if !last.is_terminal() {
                continue;
            }
            state.ends.push(now);
            state.ended.push((event.job_id.clone(), event.attempt));
            if last != JobState::Succeeded {
                let wrong = format!("job {} ended {}: {}", event.job_id, last.as_str_name(), event.error_message);
                state.wrong.get_or_insert(wrong);
            }
            if let Some(end) = state.waiting.remove(&event.job_id) {
                // Whoever waited may have given up.
                let _ = end.send(());
            }
        }
        let ended = state.ends.len();
        drop(state);
        self.ended.send_replace(ended);
    }
}

impl State {
    fn note_dispatch(&mut self, event: &JobEvent, now: Instant) {
        let dispatched = event.states.contains(&JobState::Dispatched.into());
        if let Some((_, told)) = self.dispatch.take_if(|(time, _)| dispatched && event.at_ms > time.millis()) {
            // Whoever waited may have given up.
            let _ = told.send(now);
        }
    }
}
