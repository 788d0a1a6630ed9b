//! `ctl bench`: how many jobs a second a cell does, and how late, measured from where its users are.
//!
//! ```text
//!  plan ─► senders ─► POST /jobs, or batches ──► answers ─┐
//!              ▲ a job has ended: the next                ▼
//!              └──────────────────────────────────────  tally ─► report
//!  one live stream of the topic (server-sent events) ─► ends ─┘
//! ```
//!
//! Ends are followed over one stream and not by a waiting request for each job: that is one connection for the cell, it misses no change, and
//! it shows a job that ends twice.

mod cell;
mod plan;
mod report;
mod send;
mod tally;

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use busbar_api::{PackView, StatusView};
use busbar_protocol::codes::Code;
use clap::Args;

use self::cell::Cell;
use self::plan::{Pace, Plan};
use self::report::Report;
use crate::client::Client;
use crate::failure::Failure;
use crate::progress::Progress;
use crate::render::{Format, Output};
use crate::span;

/// The pack that brings the topic below.
const PACK: &str = "smoke";
const TOPIC: &str = "job.echo";
const TICK: Duration = Duration::from_millis(100);
/// An interrupted program has the exit code of SIGINT.
const INTERRUPTED_TWICE: i32 = 130;

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// What kind of work the jobs are. Default: job.echo of the pack `smoke`.
    #[arg(long)]
    topic: Option<String>,
    /// How many jobs.
    #[arg(long, default_value_t = 1_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    jobs: u32,
    /// How many jobs are under way at once (16). With --bulk: calls at once (4). With --rate: connections at most (64).
    #[arg(long, short, value_name = "C", value_parser = clap::value_parser!(u16).range(1..=512))]
    concurrency: Option<u16>,
    /// Submit as fast as the cell takes them, in calls of 1,000, instead of waiting for ends.
    #[arg(long, conflicts_with = "rate")]
    bulk: bool,
    /// Submit so many jobs a second at fixed times, whether the cell keeps up or not. Latency counts from when a job should have been sent.
    #[arg(long, value_name = "R", value_parser = plan::rate)]
    rate: Option<f64>,
    /// How long the input of each job is.
    #[arg(long = "payload", default_value_t = 64, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(2..=1_048_576))]
    payload_bytes: u32,
    /// Give up when nothing was accepted and nothing has ended for so long.
    #[arg(long, default_value = "60s", value_name = "SPAN", value_parser = span::parse)]
    patience: u64,
    /// Do not ask before many jobs are submitted.
    #[arg(long, short)]
    yes: bool,
    /// The same as `-o json`.
    #[arg(long)]
    json: bool,
}

impl BenchArgs {
    fn plan(&self) -> Plan {
        let at_once = |default: u16| self.concurrency.unwrap_or(default);
        let pace = match self.rate {
            Some(jobs_per_second) => Pace::Open { jobs_per_second, connections: at_once(64) },
            None if self.bulk => Pace::Bulk { calls_at_once: at_once(4) },
            None => Pace::Closed { concurrency: at_once(16) },
        };
        let topic = self.topic.clone().unwrap_or_else(|| TOPIC.to_owned());
        Plan { topic, jobs: self.jobs, payload_bytes: self.payload_bytes, pace }
    }
}

pub(crate) fn run(args: &BenchArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    let output = if args.json { Output::new(Format::Json) } else { *output };
    let plan = args.plan();
    if args.topic.is_none() {
        must_have_pack(client)?;
    }
    let status: StatusView = client.get("/api/v1/status")?;
    if !args.yes {
        ask(&plan, client.url())?;
    }
    let stop = stop_when_told()?;
    let cell = Cell::new(client, &plan, stop)?;
    let finish = measure(&cell, Duration::from_millis(args.patience))?;
    let report = Report::new(&plan, client.url(), &status, &cell.tally(), finish);
    output.show(&report, || report.words())?;
    report.judge()
}

/// How a measurement came to its end.
#[derive(Debug)]
enum Finish {
    Done,
    Interrupted,
    /// Nothing happened any more; what the cell says about a job that waits.
    Stalled(String),
    Broken(Failure),
}

/// Sends, follows and waits; then tidies up.
fn measure(cell: &Cell<'_>, patience: Duration) -> Result<Finish, Failure> {
    let stream = cell.listen()?;
    let mut progress = Progress::begin("bench", "jobs");
    let finish = std::thread::scope(|scope| {
        scope.spawn(move || cell.follow(stream));
        for _ in 0..cell.plan.pace.senders() {
            scope.spawn(|| send::run(cell));
        }
        let finish = watch(cell, patience, &mut progress);
        cell.stop_sending();
        if !matches!(finish, Finish::Done) {
            cell.cancel_what_is_left();
        }
        cell.stop_following();
        finish
    });
    progress.end();
    Ok(finish)
}

fn watch(cell: &Cell<'_>, patience: Duration, progress: &mut Progress) -> Finish {
    loop {
        std::thread::sleep(TICK);
        let (settled, last_news) = {
            let tally = cell.tally();
            (tally.settled(), tally.last_news())
        };
        progress.show(settled, cell.plan.jobs.into());
        if let Some(failure) = cell.failure() {
            return Finish::Broken(failure);
        }
        if cell.is_interrupted() {
            return Finish::Interrupted;
        }
        if settled >= cell.plan.jobs.into() {
            return Finish::Done;
        }
        if cell.now().saturating_sub(last_news.max(cell.due_last())) > patience {
            cell.look_up_live();
            if cell.tally().settled() < cell.plan.jobs.into() {
                return Finish::Stalled(cell.why_one_waits());
            }
        }
    }
}

/// The default topic needs its pack. Who may not see packs finds out from the first submission.
fn must_have_pack(client: &Client) -> Result<(), Failure> {
    match client.get::<PackView>(&format!("/api/v1/packs/{PACK}")) {
        Err(Failure::Refused(problem)) if problem.code == Code::PackNotFound.as_str() => Err(Failure::Usage(format!(
            "the pack `{PACK}` with the topic {TOPIC} is not installed: install it, or name a topic with --topic"
        ))),
        Err(failure @ (Failure::Unreachable { .. } | Failure::Unreadable { .. })) => Err(failure),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Asks a person before a flood; without one, it has to be said in advance.
fn ask(plan: &Plan, url: &str) -> Result<(), Failure> {
    let Some(question) = plan.question(url) else { return Ok(()) };
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Err(Failure::Usage(format!("this would {question}: say --yes if that is meant")));
    }
    write!(io::stderr(), "This will {question}. Go on? [y/N] ")?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::Usage("nothing was submitted".to_owned())),
    }
}

/// A flag that the first Ctrl-C raises. The second one ends the program at once.
fn stop_when_told() -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let told = move || {
        if flag.swap(true, Ordering::SeqCst) {
            std::process::exit(INTERRUPTED_TWICE);
        }
        // When stderr is gone there is nobody to tell.
        let _ = writeln!(io::stderr(), "\nstopping: cancelling what was submitted; Ctrl-C again to leave it");
    };
    ctrlc::set_handler(told).map_err(|error| Failure::Failed(format!("signals cannot be heard: {error}")))?;
    Ok(stop)
}
