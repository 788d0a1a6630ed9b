//! `ctl top`: the cell at a glance, again and again.

use std::collections::{BTreeMap, VecDeque};
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use busbar_api::{JobChange, JobState, StatusView, StreamFilter, StreamFrame, StreamItem, WorkerView};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::{Deserialize, Serialize};

use crate::client::Client;
use crate::failure::Failure;
use crate::render::{Output, line, pairs, table};
use crate::stream::Stream;

/// How often the picture is drawn, on a terminal and elsewhere.
const DRAW_EVERY: Duration = Duration::from_secs(1);
const PLAIN_EVERY: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(100);
/// Over how many seconds the rate of ends is taken.
const WINDOW_SECONDS: u64 = 10;
const TOPICS_SHOWN: usize = 12;
const WORKERS_SHOWN: usize = 12;
const ALERTS_SHOWN: usize = 4;
/// So many live jobs are followed; the totals are those of the scheduler in any case.
const JOBS_MAX: usize = 100_000;

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Show it once and end.
    #[arg(long)]
    once: bool,
}

pub(crate) fn run(args: &TopArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    let filter = StreamFilter { kind: ["job", "worker", "alert"].map(str::to_owned).into(), ..StreamFilter::default() };
    let mut stream = Stream::open(client, filter)?;
    let screen = Screen::begin(*output, args.once);
    let mut known = Known::default();
    let mut drawn: Option<Instant> = None;
    loop {
        let now = screen.began.elapsed().as_secs();
        if let Some(frame) = stream.next(TICK)? {
            known.take(&frame, now);
        }
        let due = known.is_complete && drawn.is_none_or(|drawn| drawn.elapsed() >= screen.every);
        if due {
            let status = client.get::<StatusView>("/api/v1/status")?;
            screen.draw(&known.picture(&status, now))?;
            drawn = Some(Instant::now());
        }
        if due && args.once {
            return Ok(());
        }
    }
}

/// What the stream has told.
#[derive(Debug, Default)]
struct Known {
    /// Live jobs: topic and state.
    jobs: BTreeMap<String, (String, JobState)>,
    workers: BTreeMap<String, WorkerView>,
    alerts: VecDeque<String>,
    /// Ends by second: well, and otherwise.
    ends: BTreeMap<u64, (u64, u64)>,
    /// Since which second ends are counted.
    since: Option<u64>,
    is_complete: bool,
    /// There are live jobs that we were not told of.
    is_cut: bool,
}

impl Known {
    fn take(&mut self, frame: &StreamFrame, second: u64) {
        match frame.item() {
            Ok(StreamItem::Job(change)) => self.job(change, frame.snapshot, second),
            Ok(StreamItem::Worker(worker)) if worker.status == "gone" => drop(self.workers.remove(&worker.id)),
            Ok(StreamItem::Worker(worker)) => drop(self.workers.insert(worker.id.clone(), worker)),
            Ok(StreamItem::Packet(packet)) => self.alert(packet.get()),
            Ok(StreamItem::SnapshotEnd(end)) => {
                (self.is_complete, self.is_cut) = (true, !end.complete);
                self.since.get_or_insert(second);
            }
            Ok(StreamItem::Reset(_)) => *self = Self { since: self.since, ..Self::default() },
            Ok(StreamItem::Cursor | StreamItem::Run(_) | StreamItem::Filter(_) | StreamItem::Error(_) | StreamItem::Unknown)
            | Err(_) => {}
        }
    }

    fn job(&mut self, change: JobChange, snapshot: bool, second: u64) {
        if !change.state.is_terminal() {
            if self.jobs.len() < JOBS_MAX || self.jobs.contains_key(&change.job_id) {
                self.jobs.insert(change.job_id, (change.topic, change.state));
            } else {
                self.is_cut = true;
            }
            return;
        }
        self.jobs.remove(&change.job_id);
        if !snapshot {
            let (well, otherwise) = self.ends.entry(second).or_default();
            if change.state == JobState::Succeeded {
                *well += 1;
            } else {
                *otherwise += 1;
            }
            self.ends.retain(|at, _| at + WINDOW_SECONDS >= second);
        }
    }

    fn alert(&mut self, packet: &str) {
        let Some(packet) = serde_json::from_str::<Packet>(packet).ok() else { return };
        let Some(alert) = packet.alert else { return };
        self.alerts.push_front(format!("{}  {}  {}: {}", packet.created_at, alert.level, alert.component, alert.message));
        self.alerts.truncate(ALERTS_SHOWN);
    }

    fn picture(&self, status: &StatusView, second: u64) -> Picture {
        let mut topics: BTreeMap<String, BTreeMap<JobState, u64>> = BTreeMap::new();
        for (topic, state) in self.jobs.values() {
            *topics.entry(topic.clone()).or_default().entry(*state).or_default() += 1;
        }
        let from = second.saturating_sub(WINDOW_SECONDS).max(self.since.unwrap_or(second));
        let recent = self.ends.range(from..second).map(|(_, ends)| ends);
        let (well, otherwise) = recent.fold((0, 0), |sum, ends| (sum.0 + ends.0, sum.1 + ends.1));
        // A snapshot that was cut is made up for by what happened since, as soon as the scheduler counts no more than we know.
        let counted = status.scheduler.as_ref().map(|scheduler| scheduler.live.values().sum::<u64>());
        let complete = !self.is_cut || counted == Some(self.jobs.len() as u64);
        // The present second has just begun and does not count.
        let rate =
            |ends: u64| (second > from).then(|| f64::from(u32::try_from(ends).unwrap_or(u32::MAX)) / seconds(second - from));
        Picture {
            time: status.time.clone(),
            live: status.scheduler.as_ref().map(|scheduler| scheduler.live.clone()),
            busy: status.workers.in_flight,
            slots: status.workers.capacity,
            succeeded_per_second: rate(well),
            failed_per_second: rate(otherwise),
            topics,
            complete,
            workers: self.workers.values().cloned().collect(),
            alerts: self.alerts.iter().cloned().collect(),
        }
    }
}

fn seconds(seconds: u64) -> f64 {
    f64::from(u32::try_from(seconds).unwrap_or(u32::MAX))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Packet {
    #[serde(default)]
    created_at: String,
    alert: Option<Alert>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Alert {
    level: String,
    component: String,
    message: String,
}

/// What is shown.
#[derive(Debug, Serialize)]
struct Picture {
    time: String,
    /// All live jobs by state, as the scheduler counts them; null while none answers.
    live: Option<BTreeMap<String, u64>>,
    busy: u32,
    slots: u32,
    succeeded_per_second: Option<f64>,
    failed_per_second: Option<f64>,
    /// Live jobs of the key's tenant.
    topics: BTreeMap<String, BTreeMap<JobState, u64>>,
    /// Whether the topics show all live jobs.
    complete: bool,
    workers: Vec<WorkerView>,
    alerts: Vec<String>,
}

const QUEUED: [JobState; 5] =
    [JobState::Pending, JobState::ApprovalRequired, JobState::Scheduled, JobState::Dispatched, JobState::Running];

impl Picture {
    fn words(&self) -> String {
        let rate = |rate: Option<f64>| rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.1}/s"));
        let live = self.live.as_ref().map_or_else(
            || "NO SCHEDULER ANSWERS".to_owned(),
            |live| live.iter().map(|(state, jobs)| format!("{state} {jobs}")).collect::<Vec<_>>().join("  "),
        );
        let head = pairs([
            ("time", self.time.clone()),
            ("live jobs", if live.is_empty() { "none".to_owned() } else { live }),
            ("slots", format!("{} of {} busy", self.busy, self.slots)),
            ("ends", format!("{} well, {} otherwise", rate(self.succeeded_per_second), rate(self.failed_per_second))),
        ]);
        let mut parts = vec![head, self.topic_table(), self.worker_table()];
        if !self.alerts.is_empty() {
            parts.push(format!("ALERTS\n{}", self.alerts.join("\n")));
        }
        parts.retain(|part| !part.is_empty());
        parts.iter().map(|part| part.trim_end()).collect::<Vec<_>>().join("\n\n")
    }

    fn topic_table(&self) -> String {
        let mut topics: Vec<_> =
            self.topics.iter().map(|(topic, states)| (states.values().sum::<u64>(), topic, states)).collect();
        topics.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(b.1)));
        let at_least = if self.complete { "" } else { "≥ " };
        let rows = topics.iter().take(TOPICS_SHOWN).map(|(all, topic, states)| {
            let counts = QUEUED.iter().map(|state| states.get(state).map(ToString::to_string).unwrap_or_default());
            [(*topic).clone()].into_iter().chain(counts).chain([format!("{at_least}{all}")]).collect()
        });
        let shown = table(&["TOPIC", "PENDING", "APPROVAL", "SCHEDULED", "DISPATCHED", "RUNNING", "ALL"], rows);
        if topics.is_empty() { String::new() } else { with_more(shown, topics.len(), TOPICS_SHOWN) }
    }

    fn worker_table(&self) -> String {
        let mut workers: Vec<_> = self.workers.iter().collect();
        workers.sort_by(|a, b| b.in_flight.cmp(&a.in_flight).then_with(|| a.id.cmp(&b.id)));
        let rows = workers.iter().take(WORKERS_SHOWN).map(|worker| {
            let busy = format!("{}/{}", worker.in_flight, worker.capacity);
            vec![worker.id.clone(), worker.kind.clone(), worker.pool.clone(), worker.status.clone(), busy]
        });
        let shown = table(&["WORKER", "KIND", "POOL", "STATUS", "BUSY"], rows);
        if workers.is_empty() { String::new() } else { with_more(shown, workers.len(), WORKERS_SHOWN) }
    }
}

fn with_more(shown: String, all: usize, max: usize) -> String {
    if all > max { format!("{shown}\n… and {} more", all - max) } else { shown }
}

/// Where the picture is drawn. The cursor is never hidden and no other screen is opened, so that an interrupt at any moment
/// leaves the terminal in order.
struct Screen {
    output: Output,
    bar: Option<ProgressBar>,
    every: Duration,
    began: Instant,
}

impl Screen {
    fn begin(output: Output, once: bool) -> Self {
        let wanted = std::io::stdout().is_terminal() && !output.is_json() && !once;
        let bar = wanted.then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
            bar.with_style(ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()))
        });
        let every = if bar.is_some() { DRAW_EVERY } else { PLAIN_EVERY };
        Self { output, bar, every, began: Instant::now() }
    }

    fn draw(&self, picture: &Picture) -> Result<(), Failure> {
        match &self.bar {
            Some(bar) => {
                bar.set_message(picture.words());
                bar.tick();
                Ok(())
            }
            None if self.output.is_json() => self.output.show_next(picture, String::new),
            None => line(&format!("{}\n", picture.words())),
        }
    }
}

#[cfg(test)]
mod tests {
    use busbar_api::{BusStatus, StoreStatus, WorkerTotals};

    use super::*;

    fn take(known: &mut Known, frame: &str, second: u64) {
        known.take(&serde_json::from_str(frame).expect("a frame"), second);
    }

    fn job(job_id: &str, topic: &str, state: &str, snapshot: bool) -> String {
        format!(
            r#"{{"subject":"busbar.job.event","snapshot":{snapshot},"event":{{"job_id":"{job_id}","topic":"{topic}","state":"{state}",
            "states":["{state}"],"at":"","attempt":1,"worker_id":null,"error_code":null,"error_message":null,"result_ptr":null,
            "execution_ms":null,"trace_id":""}}}}"#
        )
    }

    fn status() -> StatusView {
        StatusView {
            time: "now".into(),
            version: String::new(),
            uptime_seconds: 0,
            bus: BusStatus { connected: true, connections: 1 },
            store: StoreStatus { ok: true, error: None },
            scheduler: None,
            workers: WorkerTotals { count: 1, capacity: 8, in_flight: 3 },
        }
    }

    #[test]
    fn the_picture_counts_what_is_live_and_how_fast_it_ends() {
        let mut known = Known::default();
        take(&mut known, &job("1", "job.a.x", "RUNNING", true), 0);
        assert!(!known.is_complete);
        take(&mut known, r#"{"cursor":"c","snapshot_end":{"jobs":2,"runs":0,"workers":0,"complete":true}}"#, 0);
        take(&mut known, &job("3", "job.a.x", "SCHEDULED", false), 1);
        for n in 0..40 {
            take(&mut known, &job(&format!("e{n}"), "job.a.y", "SUCCEEDED", false), 2);
        }
        take(&mut known, &job("f", "job.a.y", "FAILED", false), 3);
        take(
            &mut known,
            r#"{"cursor":"c","subject":"sys.alert","packet":{"createdAt":"t","alert":{"level":"warning","component":"c","message":"m"}}}"#,
            3,
        );
        let picture = known.picture(&status(), 4);
        assert_eq!((picture.succeeded_per_second, picture.failed_per_second), (Some(10.0), Some(0.25)));
        assert_eq!(picture.topics["job.a.x"], BTreeMap::from([(JobState::Running, 1), (JobState::Scheduled, 1)]));
        assert_eq!(picture.topics.len(), 1);
        let words = picture.words();
        for part in ["NO SCHEDULER ANSWERS", "3 of 8 busy", "10.0/s well, 0.2/s otherwise", "job.a.x", "t  warning  c: m"] {
            assert!(words.contains(part), "{part} in {words}");
        }
        assert_eq!(known.picture(&status(), 60).succeeded_per_second, Some(0.0));
        assert_eq!(Known::default().picture(&status(), 0).succeeded_per_second, None);
    }
}
