//! `ctl job watch`: follows jobs over the live stream, over cuts as well.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use busbar_api::{JobChange, JobState, STREAM_FILTER_VALUES_MAX, StreamFilter, StreamFrame, StreamItem};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;

use crate::client::Client;
use crate::failure::Failure;
use crate::job::succeeded;
use crate::render::{Output, line};
use crate::stream::Stream;

const TICK: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
#[group(required = true)]
pub(crate) struct WatchArgs {
    /// The jobs; the command ends when all of them have ended, and fails unless all SUCCEEDED.
    #[arg(value_name = "JOB")]
    job_ids: Vec<String>,
    /// All jobs of a topic, exact or with wildcards (`job.bpsw.>`), until interrupted.
    #[arg(long, value_name = "TOPIC", conflicts_with = "job_ids")]
    topic: Vec<String>,
    /// All jobs, until interrupted.
    #[arg(long, conflicts_with_all = ["job_ids", "topic"])]
    all: bool,
}

pub(crate) fn run(args: WatchArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    if args.job_ids.len() > STREAM_FILTER_VALUES_MAX {
        return Err(Failure::Usage(format!("at most {STREAM_FILTER_VALUES_MAX} jobs are watched by name; use --topic or --all")));
    }
    let kinds = ["job", "progress"].map(str::to_owned).into();
    let filter = StreamFilter { job: args.job_ids.clone(), topic: args.topic, kind: kinds, ..StreamFilter::default() };
    let mut stream = Stream::open(client, filter)?;
    let mut watched = Watched::new(&args.job_ids);
    let show = Show::begin(output, &watched);
    loop {
        if let Some(frame) = stream.next(TICK)? {
            take(&frame, &mut watched, &show, client)?;
        }
        show.progress(&watched);
        if watched.all_ended() {
            show.end();
            return judge(&watched, client);
        }
    }
}

fn take(frame: &StreamFrame, watched: &mut Watched, show: &Show, client: &Client) -> Result<(), Failure> {
    let unreadable =
        |error: serde_json::Error| Failure::Unreadable { path: "/api/v1/stream".to_owned(), detail: error.to_string() };
    match frame.item().map_err(unreadable)? {
        StreamItem::Job(change) if watched.change(&change, frame.snapshot) => {
            show.told(frame, || words(show.began.elapsed(), &change))
        }
        StreamItem::Packet(packet) => {
            let Some(progress) = serde_json::from_str::<Packet>(packet.get()).ok().and_then(|packet| packet.progress) else {
                return Ok(());
            };
            watched.progress(&progress.job_id, progress.percent);
            show.told(frame, || {
                format!("{:7.2} s  {}  {} %", show.began.elapsed().as_secs_f64(), progress.job_id, progress.percent)
            })
        }
        StreamItem::SnapshotEnd(_) => watched.missing().try_for_each(|job_id| {
            // Asked for by name, and not shown: the refusal says why.
            client.job(job_id, Duration::ZERO).map(drop)
        }),
        StreamItem::Job(_)
        | StreamItem::Cursor
        | StreamItem::Run(_)
        | StreamItem::Worker(_)
        | StreamItem::Reset(_)
        | StreamItem::Filter(_)
        | StreamItem::Error(_)
        | StreamItem::Unknown => Ok(()),
    }
}

/// The part of a progress packet that matters here.
#[derive(Debug, Deserialize)]
struct Packet {
    #[serde(rename = "jobProgress")]
    progress: Option<Progress>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Progress {
    job_id: String,
    #[serde(default)]
    percent: u64,
}

/// What is known of the jobs that are watched.
#[derive(Debug)]
struct Watched {
    /// Those that were named; empty where all are watched.
    named: Vec<String>,
    live: BTreeMap<String, (JobState, u64)>,
    ended: BTreeMap<String, JobState>,
    /// How many have ended, those included that are not remembered.
    ends: u64,
    failed: u64,
}

impl Watched {
    fn new(named: &[String]) -> Self {
        Self { named: named.to_vec(), live: BTreeMap::new(), ended: BTreeMap::new(), ends: 0, failed: 0 }
    }

    /// Takes a change in. Returns whether it is news: a snapshot may show again what is known.
    fn change(&mut self, change: &JobChange, snapshot: bool) -> bool {
        let known = self.live.get(&change.job_id).map(|(state, _)| *state).or_else(|| self.ended.get(&change.job_id).copied());
        if snapshot && known == Some(change.state) {
            return false;
        }
        if !change.state.is_terminal() {
            self.live.entry(change.job_id.clone()).or_insert((change.state, 0)).0 = change.state;
            return true;
        }
        self.live.remove(&change.job_id);
        self.ends += 1;
        self.failed += u64::from(change.state != JobState::Succeeded);
        if !self.named.is_empty() {
            self.ended.insert(change.job_id.clone(), change.state);
        }
        true
    }

    fn progress(&mut self, job_id: &str, percent: u64) {
        if let Some((_, known)) = self.live.get_mut(job_id) {
            *known = percent.min(100);
        }
    }

    fn all_ended(&self) -> bool {
        !self.named.is_empty() && self.named.iter().all(|job_id| self.ended.contains_key(job_id))
    }

    fn missing(&self) -> impl Iterator<Item = &String> {
        self.named.iter().filter(|job_id| !self.live.contains_key(*job_id) && !self.ended.contains_key(*job_id))
    }

    /// How far all of it is, in percent of a job, and how far it can be.
    fn position(&self) -> (u64, u64) {
        let jobs = if self.named.is_empty() { self.ends + self.live.len() as u64 } else { self.named.len() as u64 };
        (self.ends * 100 + self.live.values().map(|(_, percent)| percent).sum::<u64>(), jobs * 100)
    }
}

fn judge(watched: &Watched, client: &Client) -> Result<(), Failure> {
    let failed = watched.ended.iter().filter(|(_, state)| **state != JobState::Succeeded).map(|(job_id, _)| job_id);
    for job_id in failed {
        succeeded(&client.job(job_id, Duration::ZERO)?)?;
    }
    Ok(())
}

/// Where it is shown: lines on stdout, and a bar where a person looks.
struct Show<'a> {
    output: &'a Output,
    bar: Option<ProgressBar>,
    began: Instant,
}

impl<'a> Show<'a> {
    fn begin(output: &'a Output, watched: &Watched) -> Self {
        let wanted = std::io::stderr().is_terminal() && !output.is_json();
        let bar = wanted.then(|| {
            let bar = ProgressBar::new(watched.position().1);
            let style = ProgressStyle::with_template("{bar:40} {percent:>3} %  {msg}  {elapsed}");
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Self { output, bar, began: Instant::now() }
    }

    fn told(&self, frame: &StreamFrame, words: impl FnOnce() -> String) -> Result<(), Failure> {
        if self.output.is_json() {
            return self.output.show_next(frame, String::new);
        }
        match &self.bar {
            Some(bar) => bar.suspend(|| line(&words())),
            None => line(&words()),
        }
    }

    fn progress(&self, watched: &Watched) {
        let Some(bar) = &self.bar else { return };
        let (position, length) = watched.position();
        bar.set_length(length.max(1));
        bar.set_position(position);
        bar.set_message(format!("{} live, {} ended, {} without success", watched.live.len(), watched.ends, watched.failed));
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn words(after: Duration, change: &JobChange) -> String {
    let passed: Vec<&str> = change.states.iter().map(|state| state.as_str()).collect();
    let mut text = format!("{:7.2} s  {}  {:19}", after.as_secs_f64(), change.job_id, passed.join("→"));
    if change.attempt > 0 {
        let _ = write!(text, "  attempt {}", change.attempt);
    }
    if let Some(worker) = &change.worker_id {
        let _ = write!(text, "  on {worker}");
    }
    if let Some(ms) = change.execution_ms {
        let _ = write!(text, "  {ms} ms");
    }
    if let Some(code) = &change.error_code {
        let _ = write!(text, "  {code}: {}", change.error_message.as_deref().unwrap_or(""));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(job_id: &str, state: JobState) -> JobChange {
        JobChange {
            job_id: job_id.into(),
            topic: "job.x".into(),
            state,
            states: vec![state],
            at: String::new(),
            attempt: 1,
            worker_id: Some("w".into()),
            error_code: None,
            error_message: None,
            result_ptr: None,
            execution_ms: None,
            trace_id: String::new(),
        }
    }

    #[test]
    fn named_jobs_are_watched_to_their_ends() {
        let mut watched = Watched::new(&["a".into(), "b".into()]);
        assert!(watched.change(&change("a", JobState::Running), true));
        assert!(!watched.change(&change("a", JobState::Running), true), "a second snapshot");
        assert_eq!(watched.missing().collect::<Vec<_>>(), ["b"]);
        watched.progress("a", 40);
        assert_eq!(watched.position(), (40, 200));
        assert!(watched.change(&change("b", JobState::Failed), true));
        assert!(!watched.change(&change("b", JobState::Failed), true));
        assert!(!watched.all_ended());
        assert!(watched.change(&change("a", JobState::Succeeded), false));
        assert!(watched.all_ended());
        assert_eq!((watched.position(), watched.ends, watched.failed), ((200, 200), 2, 1));
    }

    #[test]
    fn who_watches_everything_remembers_live_jobs_only() {
        let mut watched = Watched::new(&[]);
        for n in 0..100 {
            watched.change(&change(&format!("j{n}"), JobState::Running), false);
            watched.change(&change(&format!("j{n}"), JobState::Succeeded), false);
        }
        assert!(watched.live.is_empty() && watched.ended.is_empty() && !watched.all_ended());
        assert_eq!(watched.position(), (10_000, 10_000));
    }
}
