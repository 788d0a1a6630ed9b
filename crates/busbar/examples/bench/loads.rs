//! The rest of `bench jobs`: jobs one by one, an open loop, memory, and what the bus alone carries.
//!
//! ```text
//!  one by one   1, 8, 64 under way at once, each submitted and its result fetched       jobs a second
//!  open loop    half of what 64 at once carried, at fixed times                         milliseconds from when a job was due
//! ```
//!
//! In the open loop a job is sent when it is due, whatever became of those before it: a system that stalls is late for all that were due
//! meanwhile, and every one of them counts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use busbar_bus::NatsBus;
use busbar_protocol::ports::{Bus as _, Headers};
use bytes::Bytes;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

use crate::acceptance;
use crate::document::Note;
use crate::figures::{Table, percentile, permille, rounded};
use crate::jobs::per_second;
use crate::usage::Process;
use crate::ways::Way;
use crate::{Outcome, say};

/// How many are under way at once, and how many jobs are run so.
const CONCURRENCIES: [(usize, usize); 3] = [(1, 200), (8, 1_500), (64, 6_000)];
/// How long the open loop goes on.
const OPEN: Duration = Duration::from_secs(10);
const ECHO_SUBJECT: &str = "busbar.bench.echo";
const MESSAGE: Bytes = Bytes::from_static(&[b'x'; 512]);
const REQUESTS: usize = 20_000;
/// As many as the ceiling has under way.
const REQUESTS_AT_ONCE: usize = 512;
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(100);
const MIB: f64 = 1024.0 * 1024.0;

/// What one way did.
#[derive(Debug, Serialize)]
pub(crate) struct Load {
    pub(crate) way: &'static str,
    /// Jobs a second, by how many were under way at once.
    one_by_one: BTreeMap<usize, f64>,
    open_jobs_per_second: f64,
    /// Milliseconds from when each job was due.
    pub(crate) open_ms: Vec<f64>,
}

/// Loads one way in all of these ways. Every job must succeed.
pub(crate) async fn measure(way: &Way) -> Outcome<Load> {
    let mut one_by_one = BTreeMap::new();
    for (at_once, jobs) in CONCURRENCIES {
        say(&format!("{jobs} jobs one by one, {at_once} at once: {}", way.name()));
        let started = Instant::now();
        stream::iter(0..jobs).map(|number| way.run(number)).buffer_unordered(at_once).try_for_each(|()| async { Ok(()) }).await?;
        one_by_one.insert(at_once, rounded(per_second(jobs, started.elapsed().as_secs_f64())));
    }
    let most = one_by_one.values().copied().fold(1.0, f64::max);
    say(&format!("{:.0} jobs a second at fixed times, for {OPEN:?}: {}", most / 2.0, way.name()));
    let open_ms = open_loop(way, most / 2.0).await?;
    Ok(Load { way: way.name(), one_by_one, open_jobs_per_second: rounded(most / 2.0), open_ms })
}

async fn open_loop(way: &Way, jobs_per_second: f64) -> Outcome<Vec<f64>> {
    let started = Instant::now();
    let (mut sent, mut running) = (0_u32, JoinSet::new());
    loop {
        let offset = Duration::from_secs_f64(f64::from(sent) / jobs_per_second);
        if offset >= OPEN {
            break;
        }
        let due = started + offset;
        sleep_until(due).await;
        let (way, number) = (way.clone(), usize::try_from(sent)?);
        running.spawn(async move {
            way.run(number).await?;
            Ok::<_, crate::Failure>(rounded(due.elapsed().as_secs_f64() * 1e3))
        });
        sent += 1;
    }
    let mut samples = Vec::new();
    while let Some(sample) = running.join_next().await {
        samples.push(sample??);
    }
    Ok(samples)
}

/// Requests and replies of 512 bytes a second that the bus carries: what submissions are measured by.
pub(crate) async fn requests_per_second(bus: &NatsBus) -> Outcome<f64> {
    let mut asked = bus.subscribe(ECHO_SUBJECT, None).await?;
    bus.round_trip().await?;
    let answering = bus.clone();
    let responder = tokio::spawn(async move {
        while let Some(message) = asked.next().await {
            if let Some(reply) = message.reply {
                // Whoever asked tells that there was no answer.
                let _ = answering.publish(&reply, Headers::new(), message.payload).await;
            }
        }
    });
    let ask = |_| bus.request(ECHO_SUBJECT, Headers::new(), MESSAGE, ANSWER_WITHIN);
    let started = Instant::now();
    stream::iter(0..REQUESTS).map(ask).buffer_unordered(REQUESTS_AT_ONCE).try_for_each(|_| async { Ok(()) }).await?;
    let seconds = started.elapsed().as_secs_f64();
    responder.abort();
    Ok(per_second(REQUESTS, seconds))
}

/// The most memory that each process had resident, looked at again and again.
pub(crate) struct Memory {
    idle: BTreeMap<&'static str, u64>,
    watching: JoinHandle<()>,
    peak: Arc<Mutex<BTreeMap<&'static str, u64>>>,
}

impl Memory {
    /// Takes what is resident now as that of an idle system, and watches from now on.
    pub(crate) fn watch(processes: &[Process]) -> Outcome<Self> {
        let idle = resident(processes)?;
        let peak = Arc::new(Mutex::new(idle.clone()));
        let (seen, processes) = (Arc::clone(&peak), processes.to_vec());
        let watching = tokio::spawn(async move {
            loop {
                sleep(LOOK_EVERY).await;
                // A process that is gone has been told by whoever needed it.
                let Ok(now) = resident(&processes) else { return };
                let mut peak = seen.lock().unwrap_or_else(PoisonError::into_inner);
                now.into_iter().for_each(|(name, bytes)| {
                    let most = peak.entry(name).or_default();
                    *most = bytes.max(*most);
                });
            }
        });
        Ok(Self { idle, watching, peak })
    }

    /// MiB by process, when idle and at most.
    pub(crate) fn stop(self) -> Value {
        self.watching.abort();
        let peak = self.peak.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mib = |of: &BTreeMap<&'static str, u64>| -> BTreeMap<&'static str, f64> {
            let one = |(name, bytes): (&&'static str, &u64)| (*name, rounded(*bytes as f64 / MIB));
            of.iter().map(one).collect()
        };
        json!({ "idle": mib(&self.idle), "peak": mib(&peak) })
    }
}

fn resident(processes: &[Process]) -> Outcome<BTreeMap<&'static str, u64>> {
    processes.iter().map(|process| Ok((process.name, process.rss_bytes()?))).collect()
}

/// All of it in a few numbers.
pub(crate) fn summary(loads: &[Load], acceptance: &Value, memory: &Value) -> Value {
    let ways: serde_json::Map<String, Value> = loads.iter().map(|load| (load.way.to_owned(), of_way(load))).collect();
    json!({ "ways": ways, "http_acceptance": acceptance, "memory_mib": memory })
}

fn of_way(load: &Load) -> Value {
    let at = |thousandths| permille(&load.open_ms, thousandths);
    json!({
        "one_by_one_jobs_per_second": load.one_by_one,
        "open_loop": {
            "jobs_per_second": load.open_jobs_per_second, "samples": load.open_ms.len(),
            "latency_ms": { "p50": at(500), "p90": at(900), "p99": at(990), "p99_9": at(999), "max": at(1000) },
            "p99_9_to_p50": rounded(at(999) / at(500).max(0.001)),
        },
    })
}

/// The same for the page that is made of a result.
pub(crate) fn notes(loads: &[Load], summary: &Value) -> [Note; 3] {
    let one_by_one = loads.iter().map(|load| {
        let rates = CONCURRENCIES.map(|(at_once, _)| rate_of(load, at_once));
        std::iter::once(load.way.to_owned()).chain(rates).collect()
    });
    let head: Vec<String> = CONCURRENCIES.iter().map(|(at_once, _)| format!("{at_once} at once")).collect();
    let head: Vec<&str> = std::iter::once("jobs/s").chain(head.iter().map(String::as_str)).collect();
    let memory = resident_lines(&summary["memory_mib"]).map(|(name, mib)| std::iter::once(name).chain(mib).collect());
    [
        Note::new("One by one", &head, one_by_one.collect()),
        acceptance::note(&summary["http_acceptance"]),
        Note::new("Resident memory", &["MiB", "idle", "at most"], memory.collect()),
    ]
}

fn rate_of(load: &Load, at_once: usize) -> String {
    format!("{:.0}", load.one_by_one.get(&at_once).copied().unwrap_or_default())
}

/// Each process with its memory when idle and at most.
fn resident_lines(memory: &Value) -> impl Iterator<Item = (String, [String; 2])> {
    let mib = |value: &Value| format!("{:.0}", value.as_f64().unwrap_or_default());
    let idle = memory["idle"].as_object().into_iter().flatten();
    idle.map(move |(name, idle)| (name.clone(), [mib(idle), mib(&memory["peak"][name])]))
}

/// The same for people.
pub(crate) fn table(loads: &[Load], summary: &Value) -> String {
    let mut head = vec![""];
    head.extend(loads.iter().map(|load| load.way));
    let mut table = Table::with_head(&head);
    for (at_once, _) in CONCURRENCIES {
        let cells = loads.iter().map(|load| rate_of(load, at_once));
        table.line(std::iter::once(format!("jobs/s one by one, {at_once} at once")).chain(cells));
    }
    let cells = loads.iter().map(|load| format!("{:.0}", load.open_jobs_per_second));
    table.line(std::iter::once("open loop, jobs/s".to_owned()).chain(cells));
    for (name, percent) in [("p50", 50), ("p99", 99), ("max", 100)] {
        let cells = loads.iter().map(|load| format!("{:.1}", percentile(&load.open_ms, percent)));
        table.line(std::iter::once(format!("  from when due, {name} ms")).chain(cells));
    }
    let cells = loads.iter().map(|load| format!("{:.1}", permille(&load.open_ms, 999)));
    table.line(std::iter::once("  from when due, p99.9 ms".to_owned()).chain(cells));
    let taken = acceptance::line(&summary["http_acceptance"]);
    let mut text = format!("{}\n{taken}\n\nresident MiB  idle  at most\n", table.show());
    for (name, [idle, most]) in resident_lines(&summary["memory_mib"]) {
        text.push_str(&format!("{name:12}  {idle:>4}  {most:>7}\n"));
    }
    text
}
