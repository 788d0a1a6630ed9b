//! Submitting many jobs and waiting for all of them, with something to look at.

use std::collections::BTreeSet;
use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use busbar_api::{JobView, SubmitRequest};
use indicatif::{ProgressBar, ProgressStyle};

use crate::client::Client;
use crate::failure::Failure;
use crate::job::succeeded;

/// How many jobs are waited for at once.
const WAITERS: usize = 8;
/// One request waits no longer, so that the waiters end soon when something is wrong.
const LONG_POLL: Duration = Duration::from_secs(5);
/// When no job ends for so long, the demo gives up.
const PATIENCE: Duration = Duration::from_secs(180);
const TICK: Duration = Duration::from_millis(200);
/// Without a terminal, a line no more often than this.
const PLAIN_LINE_EVERY: Duration = Duration::from_secs(2);

/// Submits the jobs and returns them at their end, in the same order.
///
/// # Errors
/// The first job that is rejected or does not succeed, with its reason.
pub(super) fn run_all(client: &Client, title: &str, jobs: &[SubmitRequest]) -> Result<Vec<JobView>, Failure> {
    let job_ids = submit(client, jobs)?;
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (sender, ended) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..WAITERS.min(job_ids.len()) {
            let (sender, job_ids, next, stop) = (sender.clone(), &job_ids, &next, &stop);
            scope.spawn(move || {
                while let Some(index) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|index| *index < job_ids.len()) {
                    let Some(view) = wait(client, &job_ids[index], stop) else { return };
                    // The collector has gone when something was wrong.
                    let _ = sender.send((index, view));
                }
            });
        }
        drop(sender);
        let collected = collect(&ended, title, &job_ids);
        stop.store(true, Ordering::Relaxed);
        collected
    })
}

fn submit(client: &Client, jobs: &[SubmitRequest]) -> Result<Vec<String>, Failure> {
    let reply = client.submit_all(jobs)?;
    if let Some(first) = reply.rejected.first() {
        let told = format!(
            "{} of {} jobs were rejected, the first with {}: {}",
            reply.rejected.len(),
            jobs.len(),
            first.code,
            first.detail
        );
        return Err(Failure::Failed(told));
    }
    Ok(reply.job_ids.into_iter().flatten().collect())
}

/// The job at its end; `None` when nobody wants it any more.
fn wait(client: &Client, job_id: &str, stop: &AtomicBool) -> Option<Result<JobView, Failure>> {
    while !stop.load(Ordering::Relaxed) {
        match client.job(job_id, LONG_POLL) {
            Ok(view) if !view.state.is_terminal() => {}
            ended => return Some(ended),
        }
    }
    None
}

type Ended = (usize, Result<JobView, Failure>);

fn collect(ended: &Receiver<Ended>, title: &str, job_ids: &[String]) -> Result<Vec<JobView>, Failure> {
    let mut views: Vec<Option<JobView>> = vec![None; job_ids.len()];
    let mut progress = Progress::begin(title, job_ids.len());
    let (mut done, mut last) = (0, Instant::now());
    while done < job_ids.len() {
        match ended.recv_timeout(TICK) {
            Ok((index, view)) => {
                let view = view?;
                succeeded(&view)?;
                views[index] = Some(view);
                done += 1;
                last = Instant::now();
            }
            Err(RecvTimeoutError::Timeout) if last.elapsed() < PATIENCE => {}
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                let waiting = job_ids.iter().zip(&views).find(|(_, view)| view.is_none()).map_or("", |(id, _)| id.as_str());
                let told = format!(
                    "no job has ended for {PATIENCE:?}; {done} of {} are done: see `ctl job get {waiting}`",
                    job_ids.len()
                );
                return Err(Failure::Failed(told));
            }
        }
        progress.show(done);
    }
    progress.end();
    Ok(views.into_iter().flatten().collect())
}

/// A bar on a terminal, a line now and then elsewhere.
struct Progress {
    title: String,
    total: usize,
    bar: Option<ProgressBar>,
    told: Instant,
}

impl Progress {
    fn begin(title: &str, total: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total as u64);
            let style = ProgressStyle::with_template("  {msg:12} {bar:40} {pos:>6}/{len} jobs  {elapsed}  {per_sec}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_message(title.to_owned());
            bar
        });
        Self { title: title.to_owned(), total, bar, told: Instant::now() }
    }

    fn show(&mut self, done: usize) {
        match &self.bar {
            Some(bar) => bar.set_position(done as u64),
            None if self.told.elapsed() >= PLAIN_LINE_EVERY => {
                self.told = Instant::now();
                let _ = writeln!(std::io::stderr(), "  {}: {done} of {} jobs done", self.title, self.total);
            }
            None => {}
        }
    }

    fn end(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

/// What the jobs of one piece of work say about themselves.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Summary {
    /// From the first admission to the last end, by the control plane's clock.
    pub(super) elapsed: Duration,
    /// The workers, by id.
    pub(super) workers: BTreeSet<String>,
}

impl Summary {
    pub(super) fn of<'a>(views: impl IntoIterator<Item = &'a JobView>) -> Self {
        let (mut first, mut last): (Option<jiff::Timestamp>, Option<jiff::Timestamp>) = (None, None);
        let mut workers = BTreeSet::new();
        for view in views {
            let time = |text: &str| text.parse::<jiff::Timestamp>().ok();
            first = [first, time(&view.created_at)].into_iter().flatten().min();
            last = [last, time(&view.updated_at)].into_iter().flatten().max();
            workers.extend(view.worker_id.clone());
        }
        let elapsed = first.zip(last).and_then(|(first, last)| Duration::try_from(last.duration_since(first)).ok());
        Self { elapsed: elapsed.unwrap_or_default(), workers }
    }

    pub(super) fn worker_names(&self) -> String {
        self.workers.iter().cloned().collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(worker: &str, created: &str, updated: &str) -> JobView {
        let text = format!(
            r#"{{"id":"j","state":"SUCCEEDED","topic":"t","attempts":1,"worker_id":"{worker}","created_at":"{created}",
            "updated_at":"{updated}","result_ptr":null,"result":null,"error_code":null,"error_message":null}}"#
        );
        serde_json::from_str(&text).expect("a view")
    }

    #[test]
    fn a_summary_spans_all_jobs() {
        let views = [
            view("b", "2026-11-21T09:30:00.500Z", "2026-11-21T09:30:01.000Z"),
            view("a", "2026-11-21T09:30:00.000Z", "2026-11-21T09:30:02.250Z"),
        ];
        let summary = Summary::of(&views);
        assert_eq!((summary.elapsed, summary.worker_names().as_str()), (Duration::from_millis(2250), "a b"));
        assert_eq!(Summary::of([]), Summary::default());
    }
}
