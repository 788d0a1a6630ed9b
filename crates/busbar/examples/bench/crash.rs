//! `bench crash`: the same bulk of jobs, undisturbed and with a kill -9 in its middle, in turn on one cell.
//!
//! ```text
//!  two servers, a kernel, two schedulers, two workers: whatever dies is started again
//!  bulk submitted ─► a third has ended ─► kill -9 of nobody | a worker | the active scheduler | nats-server | redis-server ─► all ended
//! ```
//!
//! Ends and their times come from the log in Redis, which no kill can take back; executions from what the workers wrote down.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use busbar_protocol::busbar::{JobEvent, JobState};
use busbar_protocol::keys;
use busbar_protocol::ports::Records as _;
use busbar_protocol::prost::Message as _;
use busbar_sdk::{Client, ClientOptions, Submission};
use busbar_servers::{Companion, CompanionOptions};
use busbar_store::Store;
use clap::{Args, ValueEnum};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::apart::{self, Apart, Keeping};
use crate::dev::World;
use crate::document::{Delivery, Durable, Figure};
use crate::executions::{self, WorkerArgs};
use crate::figures::{Table, rounded};
use crate::http::{ECHO, input};
use crate::spread::Spread;
use crate::{Outcome, Report, machine, say};

const LOOK_EVERY: Duration = Duration::from_millis(20);
const PAGE: u64 = 1_000;
/// Before each bulk so many jobs have to end, so that whatever was killed before is there again.
const SETTLE_JOBS: usize = 500;
const WORKERS: usize = 2;
const SCHEDULERS: usize = 2;

/// A bulk of jobs and kills.
#[derive(Clone, Debug, Args, Serialize)]
pub(crate) struct CrashArgs {
    /// How many jobs one bulk has.
    #[arg(long, default_value_t = 20_000, value_parser = at_least_a_thousand)]
    jobs: usize,
    /// How many bulks for each kind of kill.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// How many jobs each of the two workers takes at once.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    slots: u16,
    /// Whom to kill; may be repeated. Default: everybody in turn. `none` is always measured.
    #[arg(long = "kill", value_enum)]
    kills: Vec<Victim>,
    /// What an acknowledged write survives: `fast` may lose the last second of a killed redis-server.
    #[arg(long, value_enum, default_value_t = Durable::Safe)]
    durability: Durable,
    /// Also write everything, raw figures included, to this file.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub(crate) json: Option<PathBuf>,
}

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
enum Victim {
    None,
    Worker,
    Scheduler,
    Nats,
    Redis,
}

impl Victim {
    const fn name(self) -> &'static str {
        match self {
            Self::None => "nobody",
            Self::Worker => "one of two workers",
            Self::Scheduler => "the active scheduler",
            Self::Nats => "nats-server",
            Self::Redis => "redis-server",
        }
    }
}

fn at_least_a_thousand(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|jobs| *jobs >= 1_000).ok_or_else(|| "a number of 1000 or more is expected".to_owned())
}

/// One bulk.
#[derive(Debug, Serialize)]
struct Run {
    killed: Victim,
    accepted: usize,
    /// From the first submission until the last end was committed.
    seconds: f64,
    /// How many had ended when the kill came.
    ended_before_kill: usize,
    /// The longest time in which no job ended.
    longest_gap_seconds: f64,
    /// Executions beyond the first of a job: the price of what was killed.
    further_executions: usize,
    /// Attempts beyond the first of a job, executed or not.
    further_attempts: u64,
    /// Accepted, and never ended.
    lost: usize,
    ended_again: usize,
    without_success: usize,
    /// Ended with success, and nobody has executed it.
    never_executed: usize,
}

impl Run {
    /// Each job has ended once, with success, and was executed.
    const fn is_exact(&self) -> bool {
        self.lost + self.ended_again + self.without_success + self.never_executed == 0
    }
}

/// Measures.
pub(crate) async fn measure(args: &CrashArgs) -> Outcome<Report> {
    let machine = machine::with_durability(machine::describe()?, args.durability);
    let temp = tempfile::Builder::new().prefix("busbar-bench-").tempdir()?;
    say("starting servers, a kernel, two schedulers and two workers");
    let cell = Cell::start(temp.path(), args).await?;
    let victims = victims(&args.kills);
    let mut runs = Vec::new();
    for run in 0..usize::from(args.runs) {
        for turn in 0..victims.len() {
            // Each round begins with another one, so that none is always the one on a warm or tired machine.
            let victim = victims[(run + turn) % victims.len()];
            say(&format!("round {} of {}: {} jobs, killed: {}", run + 1, args.runs, args.jobs, victim.name()));
            runs.push(cell.run(args.jobs, victim).await?);
        }
    }
    cell.stop().await?;
    Ok(report(args, &machine, &victims, &runs))
}

/// Nobody first, then whom the arguments name, each once.
fn victims(named: &[Victim]) -> Vec<Victim> {
    let all = [Victim::None, Victim::Worker, Victim::Scheduler, Victim::Nats, Victim::Redis];
    all.into_iter().filter(|victim| named.is_empty() || *victim == Victim::None || named.contains(victim)).collect()
}

/// A cell in which whatever dies is started again. Dropping it kills it.
struct Cell {
    workers: Vec<Companion>,
    schedulers: Vec<Companion>,
    client: Client,
    world: World,
    /// What the workers write down.
    file: PathBuf,
    apart: Apart,
}

impl Cell {
    async fn start(dir: &Path, args: &CrashArgs) -> Outcome<Self> {
        let keeping = Keeping { supervised: true, durability: args.durability.for_servers() };
        let apart = Apart::start_with(dir, keeping).await?;
        let jobs_max = args.jobs.saturating_mul(2).max(10_000);
        let schedulers =
            (1..=SCHEDULERS).map(|n| apart.scheduler(&format!("scheduler-{n}"), jobs_max)).collect::<Outcome<_>>()?;
        let world = apart.world().await?;
        apart::until(&world, |_| true).await?;
        let file = dir.join("executions");
        fs::write(&file, "")?;
        let workers = (1..=WORKERS).map(|n| start_worker(dir, &apart, n, args.slots, &file)).collect::<Outcome<_>>()?;
        apart::until_workers(&world, WORKERS).await?;
        let (nats_url, redis_url) = (apart.nats(), apart.redis());
        let client = Client::connect(ClientOptions { nats_url, redis_url, ..ClientOptions::default() }).await?;
        Ok(Self { workers, schedulers, client, world, file, apart })
    }

    async fn run(&self, jobs: usize, victim: Victim) -> Outcome<Run> {
        self.bulk(SETTLE_JOBS, Victim::None).await?;
        self.bulk(jobs, victim).await
    }

    async fn bulk(&self, jobs: usize, victim: Victim) -> Outcome<Run> {
        let written = usize::try_from(fs::metadata(&self.file)?.len())?;
        let mut log = Log::from_end(&self.world.store).await?;
        let submissions = (0..jobs).map(|n| Submission::new(ECHO, &input(n))).collect::<Result<Vec<_>, _>>()?;
        let started = busbar_protocol::time::Timestamp::wall_clock().millis();
        let answers = self.client.submit_many(submissions).await;
        let accepted = answers.into_iter().map(|answer| Ok(answer?.job_id)).collect::<Outcome<BTreeSet<String>>>()?;
        let within = Duration::from_secs(120 + jobs as u64 / 100);
        log.until(jobs / 3, within).await?;
        let ended_before_kill = log.ended.len();
        if victim != Victim::None && ended_before_kill * 10 > jobs * 9 {
            let told = format!("{ended_before_kill} of {jobs} jobs had ended before anything could be killed: take more --jobs");
            return Err(told.into());
        }
        self.kill(victim).await?;
        // What is lost is told as a figure, not as a failure.
        let _ = log.until(accepted.len(), within).await;
        let executions = executions::read(&self.file, written)?;
        Ok(log.run(&accepted, &executions, started, ended_before_kill, victim))
    }

    async fn kill(&self, victim: Victim) -> Outcome<()> {
        let [nats, redis] = self.apart.servers()?;
        let pid = match victim {
            Victim::None => return Ok(()),
            Victim::Worker => self.workers.first().and_then(Companion::pid).ok_or("the worker is gone")?,
            Victim::Scheduler => apart::process_of(&apart::until(&self.world, |_| true).await?)?.pid,
            Victim::Nats => nats.pid,
            Victim::Redis => redis.pid,
        };
        let pid = Pid::from_raw(i32::try_from(pid)?).ok_or("an odd process id")?;
        Ok(kill_process(pid, Signal::KILL)?)
    }

    async fn stop(self) -> Outcome<()> {
        let Self { workers, schedulers, .. } = self;
        let stop = move || workers.into_iter().chain(schedulers).for_each(Companion::stop);
        Ok(tokio::task::spawn_blocking(stop).await?)
    }
}

fn start_worker(dir: &Path, apart: &Apart, number: usize, slots: u16, file: &Path) -> Outcome<Companion> {
    let id = format!("crash-worker-{number}");
    let args = WorkerArgs::to_args(apart.nats(), apart.redis(), &id, slots, file);
    Ok(Companion::start(CompanionOptions {
        program: "worker",
        binary: std::env::current_exe()?,
        args: args.into_iter().map(OsString::from).collect(),
        env: None,
        dir: dir.join(id),
        supervised: true,
    })?)
}

/// The committed ends, as the log in Redis tells them.
struct Log<'a> {
    store: &'a Store,
    cursor: String,
    /// How often each job has ended.
    ended: BTreeMap<String, usize>,
    /// When jobs ended, in milliseconds.
    times: Vec<u64>,
    without_success: usize,
    further_attempts: u64,
}

impl<'a> Log<'a> {
    async fn from_end(store: &'a Store) -> Outcome<Self> {
        let cursor = store.log_end(keys::LOG_JOBS).await?;
        Ok(Self { store, cursor, ended: BTreeMap::new(), times: Vec::new(), without_success: 0, further_attempts: 0 })
    }

    /// Reads until so many jobs have ended. While the store is away the next look says more.
    async fn until(&mut self, count: usize, within: Duration) -> Outcome<()> {
        let deadline = Instant::now() + within;
        while self.ended.len() < count {
            let entries = self.store.log_after(keys::LOG_JOBS, &self.cursor, PAGE).await.unwrap_or_default();
            if entries.is_empty() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            if Instant::now() > deadline {
                return Err(format!("{} of {count} jobs ended within {within:?}", self.ended.len()).into());
            }
            for entry in entries {
                self.cursor = entry.cursor;
                self.take(&JobEvent::decode(entry.value)?);
            }
        }
        Ok(())
    }

    fn take(&mut self, event: &JobEvent) {
        let last = event.states.last().and_then(|state| JobState::try_from(*state).ok()).unwrap_or_default();
        if !last.is_terminal() {
            return;
        }
        *self.ended.entry(event.job_id.clone()).or_default() += 1;
        self.times.push(event.at_ms);
        self.without_success += usize::from(last != JobState::Succeeded);
        self.further_attempts += u64::from(event.attempt.saturating_sub(1));
    }

    fn run(
        &self,
        accepted: &BTreeSet<String>,
        executions: &BTreeMap<String, usize>,
        started: u64,
        ended_before_kill: usize,
        killed: Victim,
    ) -> Run {
        let seconds = |ms: u64| rounded(Duration::from_millis(ms).as_secs_f64());
        let last = self.times.iter().copied().max().unwrap_or(started);
        Run {
            killed,
            accepted: accepted.len(),
            seconds: seconds(last.saturating_sub(started)),
            ended_before_kill,
            longest_gap_seconds: seconds(longest_gap(&self.times)),
            further_executions: executions.values().map(|count| count - 1).sum(),
            further_attempts: self.further_attempts,
            lost: accepted.iter().filter(|job_id| !self.ended.contains_key(*job_id)).count(),
            ended_again: self.ended.values().map(|count| count - 1).sum(),
            without_success: self.without_success,
            never_executed: accepted.iter().filter(|job_id| !executions.contains_key(*job_id)).count(),
        }
    }
}

/// The longest time between an end and the next one.
fn longest_gap(times: &[u64]) -> u64 {
    let mut times = times.to_vec();
    times.sort_unstable();
    times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

fn summary_of(runs: &[Run], victim: Victim) -> Value {
    let of = |figure: &dyn Fn(&Run) -> f64| Spread::of(runs.iter().filter(|run| run.killed == victim).map(figure));
    let count = |figure: &dyn Fn(&Run) -> usize| of(&|run| figure(run) as f64);
    json!({
        "seconds": of(&|run| run.seconds),
        "longest_gap_seconds": of(&|run| run.longest_gap_seconds),
        "further_executions": count(&|run| run.further_executions),
        "lost": count(&|run| run.lost),
        "ended_again": count(&|run| run.ended_again),
        "without_success": count(&|run| run.without_success),
        "exact_delivery": runs.iter().filter(|run| run.killed == victim).all(Run::is_exact),
    })
}

fn figures_of(runs: &[Run], victim: Victim) -> [Figure; 3] {
    let all = |figure: &dyn Fn(&Run) -> f64| runs.iter().filter(|run| run.killed == victim).map(figure).collect::<Vec<f64>>();
    let again = all(&|run| run.further_executions as f64);
    [
        Figure::of(victim.name(), "time until everything has ended", "s", &all(&|run| run.seconds)),
        Figure::of(victim.name(), "longest time without an end", "s", &all(&|run| run.longest_gap_seconds)),
        Figure::of(victim.name(), "further executions", "executions", &again),
    ]
}

fn report(args: &CrashArgs, machine: &Value, victims: &[Victim], runs: &[Run]) -> Report {
    let rows: Vec<(Victim, Value)> = victims.iter().map(|victim| (*victim, summary_of(runs, *victim))).collect();
    let named: Map<String, Value> = rows.iter().map(|(victim, row)| (victim.name().to_owned(), row.clone())).collect();
    let figures: Vec<Figure> = victims.iter().flat_map(|victim| figures_of(runs, *victim)).collect();
    let sum = |of: fn(&Run) -> usize| runs.iter().map(of).sum::<usize>();
    let lost = sum(|run| run.lost + run.without_success + run.never_executed);
    let summary = json!({
        "repetitions": args.runs, "figures": figures,
        "exact_delivery": Delivery::counted("committed ends by job", sum(|run| run.accepted), lost, sum(|run| run.ended_again)),
        "bench": "crash", "machine": machine, "jobs": args.jobs, "runs": args.runs, "slots": args.slots,
        "workers": WORKERS, "schedulers": SCHEDULERS, "durability": args.durability, "killed": named,
    });
    Report { table: table(args, machine, &rows), raw: json!({ "runs": runs }), summary }
}

fn table(args: &CrashArgs, machine: &Value, rows: &[(Victim, Value)]) -> String {
    let head = ["killed -9 in the middle", "seconds", "longest gap, s", "executed again", "lost", "ended again", "exact"];
    let mut table = Table::with_head(&head);
    let spread = |value: &Value, places: usize| Spread::read(value).words(places);
    for (victim, row) in rows {
        table.line([
            victim.name().to_owned(),
            spread(&row["seconds"], 2),
            spread(&row["longest_gap_seconds"], 2),
            spread(&row["further_executions"], 0),
            format!("{:.0}", Spread::read(&row["lost"]).max),
            format!("{:.0}", Spread::read(&row["ended_again"]).max),
            if row["exact_delivery"] == true { "yes" } else { "NO" }.to_owned(),
        ]);
    }
    format!(
        "{}\n{} echo jobs in a bulk, {} bulks each, in turn; 2 schedulers, 2 workers with {} slots each\n\
         min / median / max; lost and ended again: max\n\n{}",
        machine::line(machine),
        args.jobs,
        args.runs,
        args.slots,
        table.show()
    )
}
