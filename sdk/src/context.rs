//! What a handler is given beside its input: who it is, how to report, and whether it should stop.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

/// Logs of one attempt beyond this are left out.
pub(crate) const LOG_BYTES_MAX: usize = 1 << 20;
/// The last line of a log of which something was left out; it has its place within the bound.
const LOG_CUT: &str = "[cut: what follows is left out, a log keeps its first 1048576 bytes]\n";
/// Progress messages are cut to this.
const PROGRESS_MESSAGE_BYTES_MAX: usize = 1024;

/// The attempt that a handler works on. Clones are the same attempt.
#[derive(Clone)]
pub struct Context {
    inner: Arc<Inner>,
}

struct Inner {
    about: About,
    cancel: CancelFlag,
    report: Report,
}

/// What is known of the attempt from the start.
#[derive(Clone, Debug, Default)]
pub(crate) struct About {
    pub(crate) job_id: String,
    pub(crate) attempt: u32,
    pub(crate) topic: String,
    pub(crate) tenant_id: String,
    pub(crate) trace_id: String,
    pub(crate) traceparent: Option<String>,
    pub(crate) worker_id: String,
    pub(crate) labels: BTreeMap<String, String>,
}

impl Context {
    pub(crate) fn new(about: About, cancel: CancelFlag) -> Self {
        Self { inner: Arc::new(Inner { about, cancel, report: Report::new(false) }) }
    }

    /// A context for testing a handler without servers, and what it will have recorded.
    #[must_use]
    pub fn for_test() -> (Self, Recorder) {
        let about = About {
            job_id: "test".to_owned(),
            attempt: 1,
            topic: "job.test".to_owned(),
            tenant_id: "default".to_owned(),
            trace_id: "0123456789abcdef0123456789abcdef".to_owned(),
            worker_id: "test-worker".to_owned(),
            ..About::default()
        };
        let context = Self { inner: Arc::new(Inner { about, cancel: CancelFlag::new(), report: Report::new(true) }) };
        (context.clone(), Recorder { context })
    }

    /// The job.
    #[must_use]
    pub fn job_id(&self) -> &str {
        &self.inner.about.job_id
    }

    /// Which attempt of the job this is, counted from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.inner.about.attempt
    }

    /// The topic of the job.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.inner.about.topic
    }

    /// Whose job it is.
    #[must_use]
    pub fn tenant_id(&self) -> &str {
        &self.inner.about.tenant_id
    }

    /// The trace that the job belongs to.
    #[must_use]
    pub fn trace_id(&self) -> &str {
        &self.inner.about.trace_id
    }

    /// The W3C trace context of the dispatch, to be passed on to whatever the handler calls.
    #[must_use]
    pub fn traceparent(&self) -> Option<&str> {
        self.inner.about.traceparent.as_deref()
    }

    /// The worker that runs the handler.
    #[must_use]
    pub fn worker_id(&self) -> &str {
        &self.inner.about.worker_id
    }

    /// The labels of the job.
    #[must_use]
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.inner.about.labels
    }

    /// Reports how far the work has come, 0 to 100 percent. At most five reports a second leave the worker; of more, the latest.
    pub fn progress(&self, percent: u8, message: impl Into<String>) {
        let message = crate::failure::shorten(message.into(), PROGRESS_MESSAGE_BYTES_MAX);
        self.inner.report.set_progress(Progress { percent: percent.min(100), message });
    }

    /// Says that the work goes on, where there is no progress to report: the last report leaves the worker again. Topics with a
    /// `heartbeat_timeout_ms` demand one or the other within that time, else the attempt is over and another one is made. As with
    /// [`Context::progress`], at most five a second leave the worker, so it may be called in every turn of a loop.
    pub fn alive(&self) {
        self.inner.report.set_alive();
    }

    /// Adds a line to the log of the attempt, which keeps the first 1 MiB, and says so in its last line if there was more.
    pub fn log(&self, line: impl AsRef<str>) {
        self.inner.report.add_line(line.as_ref());
    }

    /// Whether somebody cancelled the job, or the worker has no more time to end: the handler should stop soon and return
    /// [`crate::Failure::cancelled`]. A handler that succeeds nevertheless has succeeded. Where it was the worker that ends, the
    /// job is tried again elsewhere.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.inner.cancel.is_set()
    }

    /// Waits until the handler should stop, as [`Context::is_cancelled`] says.
    pub async fn cancelled(&self) {
        self.inner.cancel.stopped().await;
    }

    /// Calls back when the handler should stop, for handlers that can not wait for [`Context::cancelled`]. Must be called inside
    /// a tokio runtime; blocking handlers are.
    pub fn on_cancel(&self, call: impl FnOnce() + Send + 'static) {
        // A receiver keeps no flag alive: the task ends with the attempt.
        let mut flag = self.inner.cancel.0.subscribe();
        tokio::spawn(async move {
            if flag.wait_for(Option::is_some).await.is_ok() {
                call();
            }
        });
    }

    pub(crate) fn report(&self) -> &Report {
        &self.inner.report
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("about", &self.inner.about).finish_non_exhaustive()
    }
}

/// What a handler reported to a context made by [`Context::for_test`].
#[derive(Clone, Debug)]
pub struct Recorder {
    context: Context,
}

impl Recorder {
    /// Every progress report, in order.
    #[must_use]
    pub fn progress(&self) -> Vec<(u8, String)> {
        let state = self.context.report().lock();
        state.kept_progress.iter().map(|progress| (progress.percent, progress.message.clone())).collect()
    }

    /// How often the handler said that it is [alive](Context::alive).
    #[must_use]
    pub fn signs_of_life(&self) -> usize {
        self.context.report().lock().kept_alive
    }

    /// Every log line, in order.
    #[must_use]
    pub fn log_lines(&self) -> Vec<String> {
        String::from_utf8_lossy(&self.context.report().lock().log).lines().map(str::to_owned).collect()
    }

    /// Cancels the job, as an operator would.
    pub fn cancel(&self) {
        self.context.inner.cancel.set(Stop::Cancelled("cancelled by the test".to_owned()));
    }
}

/// Why an attempt is not to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Somebody cancelled the job, for this reason.
    Cancelled(String),
    /// The worker ends: the attempt is given back, so that another one can be made elsewhere.
    WorkerLeaves,
}

/// Set once; holds the reason.
#[derive(Clone, Debug)]
pub(crate) struct CancelFlag(Arc<watch::Sender<Option<Stop>>>);

impl CancelFlag {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }

    /// Sets the flag; the first reason stays.
    pub(crate) fn set(&self, stop: Stop) {
        self.0.send_if_modified(|state| {
            let first = state.is_none();
            state.get_or_insert(stop);
            first
        });
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Why, if it is set.
    pub(crate) fn stop(&self) -> Option<Stop> {
        self.0.borrow().clone()
    }

    /// Waits until it is set, and says why.
    pub(crate) async fn stopped(&self) -> Stop {
        let mut flag = self.0.subscribe();
        let set = flag.wait_for(Option::is_some).await.expect("the sender lives in `self`");
        set.clone().expect("it was waited for")
    }
}

/// A progress report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) percent: u8,
    pub(crate) message: String,
}

/// Collects what a handler reports until the worker passes it on.
#[derive(Debug)]
pub(crate) struct Report {
    state: Mutex<Reported>,
    wake: Notify,
    keeps: bool,
}

#[derive(Debug, Default)]
struct Reported {
    /// What is to leave the worker.
    progress: Option<Progress>,
    /// What was reported last.
    last: Progress,
    kept_progress: Vec<Progress>,
    kept_alive: usize,
    log: Vec<u8>,
    log_bytes_kept: usize,
    log_is_cut: bool,
}

impl Report {
    fn new(keeps: bool) -> Self {
        Self { state: Mutex::default(), wake: Notify::new(), keeps }
    }

    fn set_progress(&self, progress: Progress) {
        let mut state = self.lock();
        if self.keeps {
            state.kept_progress.push(progress.clone());
        }
        state.last = progress.clone();
        state.progress = Some(progress);
        drop(state);
        self.wake.notify_one();
    }

    fn set_alive(&self) {
        let mut state = self.lock();
        if self.keeps {
            state.kept_alive += 1;
        }
        if state.progress.is_none() {
            state.progress = Some(state.last.clone());
            drop(state);
            self.wake.notify_one();
        }
    }

    fn add_line(&self, line: &str) {
        let mut state = self.lock();
        if state.log_is_cut {
            return;
        }
        let room = LOG_BYTES_MAX - LOG_CUT.len() - state.log_bytes_kept;
        let taken = line.floor_char_boundary(line.len().min(room.saturating_sub(1)));
        state.log_is_cut = line.len() >= room;
        if taken > 0 || !state.log_is_cut {
            state.log.extend_from_slice(&line.as_bytes()[..taken]);
            state.log.push(b'\n');
            state.log_bytes_kept += taken + 1;
        }
        if state.log_is_cut {
            state.log.extend_from_slice(LOG_CUT.as_bytes());
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Whether a progress report waits, and how many bytes of log.
    pub(crate) fn waiting(&self) -> (bool, usize) {
        let state = self.lock();
        (state.progress.is_some(), state.log.len())
    }

    pub(crate) fn take_progress(&self) -> Option<Progress> {
        self.lock().progress.take()
    }

    pub(crate) fn take_log(&self) -> Vec<u8> {
        std::mem::take(&mut self.lock().log)
    }

    /// Puts back a piece of log that could not be passed on.
    pub(crate) fn return_log(&self, mut piece: Vec<u8>) {
        let mut state = self.lock();
        piece.append(&mut state.log);
        state.log = piece;
    }

    /// Waits until something more was reported.
    pub(crate) async fn changed(&self) {
        self.wake.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Reported> {
        // A handler that panics while it reports leaves nothing half done here.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_handler_is_tested_without_servers() {
        let (context, recorder) = Context::for_test();
        context.progress(50, "half");
        context.progress(200, "too much");
        context.alive();
        context.log("one");
        context.log("two");
        assert_eq!(recorder.progress(), [(50, "half".to_owned()), (100, "too much".to_owned())]);
        assert_eq!(recorder.signs_of_life(), 1);
        assert_eq!(recorder.log_lines(), ["one", "two"]);
        assert!(!context.is_cancelled());
        recorder.cancel();
        context.cancelled().await;
        assert!(context.is_cancelled());
    }

    #[test]
    fn a_sign_of_life_repeats_the_last_report() {
        let (context, _) = Context::for_test();
        let half = Progress { percent: 50, message: "half".to_owned() };
        context.alive();
        assert_eq!(context.report().take_progress(), Some(Progress::default()), "before any report");
        context.progress(50, "half");
        context.alive();
        assert_eq!(context.report().take_progress(), Some(half.clone()), "one report, not two");
        assert_eq!(context.report().take_progress(), None);
        context.alive();
        assert_eq!(context.report().take_progress(), Some(half));
    }

    #[test]
    fn the_log_keeps_its_first_mebibyte() {
        let (context, _) = Context::for_test();
        for _ in 0..3 {
            context.log("x".repeat(LOG_BYTES_MAX / 2));
        }
        let log = context.report().take_log();
        assert_eq!(log.len(), LOG_BYTES_MAX);
        assert!(log.ends_with(format!("x\n{LOG_CUT}").as_bytes()), "it says that it is cut");
        context.log("no room");
        assert_eq!(context.report().waiting().1, 0);
    }

    #[test]
    fn a_log_that_just_fits_is_not_cut_and_the_next_line_is_nothing_but_said() {
        let (context, _) = Context::for_test();
        context.log("x".repeat(LOG_BYTES_MAX - LOG_CUT.len() - 1));
        assert!(context.report().take_log().ends_with(b"xx\n"));
        context.log("");
        assert_eq!(context.report().take_log(), LOG_CUT.as_bytes());
    }

    #[test]
    fn a_returned_piece_of_log_stays_in_front() {
        let (context, _) = Context::for_test();
        context.log("one");
        let piece = context.report().take_log();
        context.log("two");
        context.report().return_log(piece);
        assert_eq!(context.report().take_log(), b"one\ntwo\n");
    }
}
