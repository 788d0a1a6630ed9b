//! The cell that is measured, as the threads of a benchmark share it: what is still to be sent, what is known, and when to stop.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use busbar_api::{CancelReply, CancelRequest, ExplainView, JobView, StreamFilter, StreamItem, SubmitRequest};
use busbar_protocol::codes::Code;

use super::plan::{Pace, Plan};
use super::tally::{End, Tally};
use crate::client::{Client, encode};
use crate::failure::Failure;
use crate::stream::Stream;

const TICK: Duration = Duration::from_millis(100);
/// How many jobs are looked up or cancelled at once.
const ASKERS: usize = 8;
/// How long the ends of cancelled jobs are waited for.
const ENDS_WITHIN: Duration = Duration::from_secs(15);
const STREAM_PATH: &str = "/api/v1/stream";

/// What the threads share.
pub(super) struct Cell<'a> {
    pub(super) client: &'a Client,
    pub(super) plan: &'a Plan,
    pub(super) request: SubmitRequest,
    /// When somebody asked for the time first: opening the stream does not count.
    began: OnceLock<Instant>,
    tally: Mutex<Tally>,
    next: AtomicU32,
    /// How many more jobs may be under way; only where that is bounded.
    credits: Option<Mutex<usize>>,
    credit_is_back: Condvar,
    interrupted: Arc<AtomicBool>,
    sending_is_over: AtomicBool,
    following_is_over: AtomicBool,
    failure: Mutex<Option<Failure>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Cell<'a> {
    pub(super) fn new(client: &'a Client, plan: &'a Plan, interrupted: Arc<AtomicBool>) -> Result<Self, Failure> {
        let request =
            SubmitRequest::new(&plan.topic, &plan.input()).map_err(|error| Failure::Usage(format!("the input: {error}")))?;
        let credits = match plan.pace {
            Pace::Closed { concurrency } => Some(Mutex::new(concurrency.into())),
            Pace::Bulk { .. } | Pace::Open { .. } => None,
        };
        Ok(Self {
            client,
            plan,
            request,
            began: OnceLock::new(),
            tally: Mutex::new(Tally::new()),
            next: AtomicU32::new(0),
            credits,
            credit_is_back: Condvar::new(),
            interrupted,
            sending_is_over: AtomicBool::new(false),
            following_is_over: AtomicBool::new(false),
            failure: Mutex::new(None),
        })
    }

    /// How long it goes on.
    pub(super) fn now(&self) -> Duration {
        self.began.get_or_init(Instant::now).elapsed()
    }

    pub(super) fn tally(&self) -> MutexGuard<'_, Tally> {
        lock(&self.tally)
    }

    /// The next numbers to send, at most so many; `None` when there are none left.
    pub(super) fn take(&self, at_most: u32) -> Option<std::ops::Range<u32>> {
        let jobs = self.plan.jobs;
        let first = self.next.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |next| {
            (next < jobs).then(|| next.saturating_add(at_most).min(jobs))
        });
        first.ok().map(|first| first..first.saturating_add(at_most).min(jobs))
    }

    /// When the last of those that were taken is due: before that it is no wonder that nothing happens.
    pub(super) fn due_last(&self) -> Duration {
        let taken = self.next.load(Ordering::SeqCst).saturating_sub(1);
        self.plan.pace.due(taken).unwrap_or_default()
    }

    /// Waits until one more job may be under way. False when there is no more to send.
    pub(super) fn credit(&self) -> bool {
        let Some(credits) = &self.credits else { return !self.is_over() };
        let mut free = lock(credits);
        while *free == 0 && !self.is_over() {
            free = self.credit_is_back.wait_timeout(free, TICK).unwrap_or_else(PoisonError::into_inner).0;
        }
        if self.is_over() {
            return false;
        }
        *free -= 1;
        true
    }

    /// So many jobs are under way no more.
    pub(super) fn give_back(&self, jobs: usize) {
        if let Some(credits) = &self.credits {
            *lock(credits) += jobs;
            (0..jobs).for_each(|_| self.credit_is_back.notify_one());
        }
    }

    /// Sleeps until a time, or until it is over.
    pub(super) fn sleep_until(&self, due: Duration) {
        while let Some(rest) = due.checked_sub(self.now()).filter(|rest| !rest.is_zero() && !self.is_over()) {
            thread::sleep(rest.min(TICK));
        }
    }

    /// Whether no more is to be sent.
    pub(super) fn is_over(&self) -> bool {
        self.is_interrupted() || self.sending_is_over.load(Ordering::SeqCst)
    }

    pub(super) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::SeqCst)
    }

    /// No thread begins anything new any more; those that are answered still count.
    pub(super) fn stop_sending(&self) {
        self.sending_is_over.store(true, Ordering::SeqCst);
        self.credit_is_back.notify_all();
        while !self.tally().no_call_is_open() {
            thread::sleep(TICK);
        }
    }

    pub(super) fn stop_following(&self) {
        self.following_is_over.store(true, Ordering::SeqCst);
    }

    /// The benchmark cannot go on.
    pub(super) fn fail(&self, failure: Failure) {
        lock(&self.failure).get_or_insert(failure);
    }

    /// What it failed of.
    pub(super) fn failure(&self) -> Option<Failure> {
        lock(&self.failure).take()
    }

    /// A stream of the topic's jobs, which has begun: nothing that is submitted from now on is missed.
    pub(super) fn listen(&self) -> Result<Stream<'a>, Failure> {
        let filter = StreamFilter {
            topic: vec![self.plan.topic.clone()],
            kind: vec!["job".to_owned()],
            snapshot: Some(false),
            ..StreamFilter::default()
        };
        let mut stream = Stream::open(self.client, filter)?;
        while stream.next(TICK)?.is_none() {
            if self.is_interrupted() {
                return Err(Failure::Failed("interrupted before anything was submitted".to_owned()));
            }
        }
        Ok(stream)
    }

    /// Takes in what the stream tells, until that is no longer wanted.
    pub(super) fn follow(&self, mut stream: Stream<'_>) {
        while !self.following_is_over.load(Ordering::SeqCst) {
            if let Err(failure) = self.follow_once(&mut stream) {
                return self.fail(failure);
            }
        }
    }

    fn follow_once(&self, stream: &mut Stream<'_>) -> Result<(), Failure> {
        let Some(frame) = stream.next(TICK)? else { return Ok(()) };
        let unreadable =
            |error: serde_json::Error| Failure::Unreadable { path: STREAM_PATH.to_owned(), detail: error.to_string() };
        match frame.item().map_err(unreadable)? {
            StreamItem::Job(change) if change.state.is_terminal() => {
                let end = End { state: change.state, attempts: change.attempt, code: change.error_code, at: self.now() };
                self.end(&change.job_id, end);
            }
            // What happened meanwhile is told no more.
            StreamItem::Reset(_) => self.look_up_live(),
            StreamItem::Job(_)
            | StreamItem::Cursor
            | StreamItem::Run(_)
            | StreamItem::Worker(_)
            | StreamItem::Packet(_)
            | StreamItem::SnapshotEnd(_)
            | StreamItem::Filter(_)
            | StreamItem::Error(_)
            | StreamItem::Unknown => {}
        }
        Ok(())
    }

    fn end(&self, job_id: &str, end: End) {
        let is_ours = self.tally().end(job_id, end);
        self.give_back(usize::from(is_ours));
    }

    /// Asks for every job that is thought to be under way: the stream may not have told its end.
    pub(super) fn look_up_live(&self) {
        self.for_each_live(|job_id| match self.client.job(job_id, Duration::ZERO) {
            Ok(view) if view.state.is_terminal() => self.end(job_id, end_of(&view, self.now())),
            Err(Failure::Refused(problem)) if problem.code == Code::JobNotFound.as_str() => {
                self.tally().lost(job_id);
                self.give_back(1);
            }
            Ok(_) | Err(_) => {}
        });
    }

    /// Ends what was submitted and has not ended, and waits a while for the ends.
    pub(super) fn cancel_what_is_left(&self) {
        self.for_each_live(|job_id| {
            let reason = Some("ctl bench was stopped".to_owned());
            let path = format!("/api/v1/jobs/{}/cancel", encode(job_id));
            // What cannot be cancelled is shown as unfinished.
            let _: Result<CancelReply, Failure> = self.client.post(&path, &CancelRequest { reason });
        });
        let until = self.now() + ENDS_WITHIN;
        while self.now() < until && !self.tally().is_at_rest() {
            thread::sleep(TICK);
        }
        self.look_up_live();
    }

    fn for_each_live(&self, ask: impl Fn(&str) + Sync) {
        let live = self.tally().live();
        let share = live.len().div_ceil(ASKERS).max(1);
        thread::scope(|scope| {
            for jobs in live.chunks(share) {
                let ask = &ask;
                scope.spawn(move || jobs.iter().for_each(|job_id| ask(job_id)));
            }
        });
    }

    /// What the cell says about a job that does not end.
    pub(super) fn why_one_waits(&self) -> String {
        let Some(job_id) = self.tally().any_live().map(str::to_owned) else { return "no job was accepted".to_owned() };
        match self.client.get::<ExplainView>(&format!("/api/v1/jobs/{}/explain", encode(&job_id))) {
            Ok(view) => format!("job {job_id}: {}", view.summary),
            Err(failure) => format!("job {job_id}: {failure}"),
        }
    }
}

fn end_of(view: &JobView, at: Duration) -> End {
    End { state: view.state, attempts: view.attempts, code: view.error_code.clone(), at }
}
