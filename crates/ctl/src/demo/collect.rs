//! Submitting many jobs and taking in their results as the stream tells of their ends.

use std::collections::HashMap;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use busbar_api::{JobView, StreamFilter, StreamItem, SubmitRequest};

use crate::client::Client;
use crate::failure::Failure;
use crate::job::succeeded;
use crate::progress::Progress;
use crate::stream::Stream;

/// How many results are asked for at once.
const READERS: usize = 8;
/// A job of which the stream has told is over; one that is asked for without that may take a while.
const LONG_POLL: Duration = Duration::from_secs(5);
/// When no job ends for so long, the demo gives up.
const PATIENCE: Duration = Duration::from_secs(180);
const TICK: Duration = Duration::from_millis(50);

/// Submits the jobs of one topic and returns them at their end, in the same order.
///
/// # Errors
/// The first job that is rejected or does not succeed, with its reason.
pub(super) fn run_all(
    client: &Client,
    title: &'static str,
    topic: &str,
    jobs: &[SubmitRequest],
) -> Result<Vec<JobView>, Failure> {
    // Opened first, so that no end is missed.
    let filter = StreamFilter {
        topic: vec![topic.to_owned()],
        kind: vec!["job".to_owned()],
        snapshot: Some(false),
        ..StreamFilter::default()
    };
    let mut stream = Stream::open(client, filter)?;
    let job_ids = submit(client, jobs)?;
    let (wanted, asked) = mpsc::channel::<usize>();
    let (sender, read) = mpsc::channel();
    let asked = Mutex::new(asked);
    thread::scope(|scope| {
        for _ in 0..READERS.min(job_ids.len()) {
            let (sender, job_ids, asked) = (sender.clone(), &job_ids, &asked);
            scope.spawn(move || {
                while let Some(index) = next(asked) {
                    // The collector has gone when something was wrong.
                    if sender.send((index, ended(client, &job_ids[index]))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        collect(&mut stream, wanted, &read, title, &job_ids)
    })
}

fn next(asked: &Mutex<Receiver<usize>>) -> Option<usize> {
    asked.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

/// The job at its end.
fn ended(client: &Client, job_id: &str) -> Result<JobView, Failure> {
    let began = Instant::now();
    loop {
        let view = client.job(job_id, LONG_POLL)?;
        if view.state.is_terminal() || began.elapsed() > PATIENCE {
            succeeded(&view)?;
            return Ok(view);
        }
    }
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

type Read = (usize, Result<JobView, Failure>);

fn collect(
    stream: &mut Stream<'_>,
    wanted: Sender<usize>,
    read: &Receiver<Read>,
    title: &'static str,
    job_ids: &[String],
) -> Result<Vec<JobView>, Failure> {
    let mut missing: HashMap<&str, usize> = job_ids.iter().enumerate().map(|(index, id)| (id.as_str(), index)).collect();
    let mut views: Vec<Option<JobView>> = vec![None; job_ids.len()];
    let mut progress = Progress::begin(title, "jobs");
    let (mut done, mut last) = (0, Instant::now());
    while done < job_ids.len() {
        let frame = if missing.is_empty() { None } else { stream.next(TICK)? };
        let item = frame.map(|frame| frame.item()).transpose().map_err(std::io::Error::from)?;
        let over: Vec<usize> = match item {
            Some(StreamItem::Job(change)) if change.state.is_terminal() => {
                missing.remove(change.job_id.as_str()).into_iter().collect()
            }
            // The stream has lost its place: every job is asked for itself.
            Some(StreamItem::Reset(_)) => missing.drain().map(|(_, index)| index).collect(),
            Some(_) | None => Vec::new(),
        };
        for index in over {
            // The readers live as long as we do.
            let _ = wanted.send(index);
        }
        let results = if missing.is_empty() { read.recv_timeout(TICK).ok() } else { None };
        for (index, view) in results.into_iter().chain(read.try_iter()) {
            views[index] = Some(view?);
            done += 1;
            last = Instant::now();
        }
        progress.show(done as u64, job_ids.len() as u64);
        if last.elapsed() > PATIENCE {
            let waiting = job_ids.iter().zip(&views).find(|(_, view)| view.is_none()).map_or("", |(id, _)| id.as_str());
            let told =
                format!("no job has ended for {PATIENCE:?}; {done} of {} are done: see `ctl job get {waiting}`", job_ids.len());
            return Err(Failure::Failed(told));
        }
    }
    progress.end();
    drop(wanted);
    Ok(views.into_iter().flatten().collect())
}

/// From the first admission to the last end of some jobs, by the control plane's clock.
pub(super) fn elapsed<'a>(views: impl Iterator<Item = &'a JobView> + Clone) -> Duration {
    let time = |text: &str| text.parse::<jiff::Timestamp>().ok();
    let first = views.clone().filter_map(|view| time(&view.created_at)).min();
    let last = views.filter_map(|view| time(&view.updated_at)).max();
    first.zip(last).and_then(|(first, last)| Duration::try_from(last.duration_since(first)).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(created: &str, updated: &str) -> JobView {
        let text = format!(
            r#"{{"id":"j","state":"SUCCEEDED","topic":"t","attempts":1,"worker_id":"w","created_at":"{created}",
            "updated_at":"{updated}","result_ptr":null,"result":null,"error_code":null,"error_message":null}}"#
        );
        serde_json::from_str(&text).expect("a view")
    }

    #[test]
    fn the_time_spans_all_jobs() {
        let views = [
            view("2026-11-21T09:30:00.500Z", "2026-11-21T09:30:01.000Z"),
            view("2026-11-21T09:30:00.000Z", "2026-11-21T09:30:02.250Z"),
        ];
        assert_eq!(elapsed(views.iter()), Duration::from_millis(2250));
        assert_eq!(elapsed([].iter()), Duration::ZERO);
    }
}
