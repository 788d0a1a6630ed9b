//! `bench jobs`: echo jobs a second, what they cost, and their latency, each beside the plain program's and the ceiling's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use busbar_protocol::keys;
use busbar_protocol::ports::Records as _;
use busbar_scheduler::core::job::Job;
use busbar_servers::{Stack, StackOptions};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::acceptance;
use crate::apart::Busbar;
use crate::budget::{self, Counters, Counts};
use crate::ceiling::{Ceiling, Grouping, beside};
use crate::dev::World;
use crate::document::{Delivery, Figure, Note};
use crate::figures::{Table, median, percentile, rounded};
use crate::follower::Follower;
use crate::http::{ECHO, Http, input};
use crate::loads::{self, Load, Memory};
use crate::plain::Plain;
use crate::usage::{Meter, Process};
use crate::ways::{Way, percentiles};
use crate::{JobsArgs, Outcome, Report, machine, say};

const WITHIN: Duration = Duration::from_secs(120);
/// So many jobs run before anything counts: connections, caches and allocators settle.
const WARM_UP: usize = 2_000;

/// One run of one way.
#[derive(Debug, Serialize)]
struct Run {
    way: &'static str,
    jobs: usize,
    /// From the first submission until the last one was acknowledged.
    submit_seconds: f64,
    /// From the first submission until the last end was seen.
    seconds: f64,
    jobs_per_second: f64,
    /// Processor time of each process.
    cpu_seconds: BTreeMap<&'static str, f64>,
    delivery: Delivery,
    /// What the servers counted, by job.
    budget: Counts,
}

/// Latencies of one way, in milliseconds.
#[derive(Debug, Default, Serialize)]
struct Latency {
    idle: Vec<f64>,
    loaded: Vec<f64>,
}

/// Both stacks, side by side; whichever is not measured is idle.
struct Stacks {
    busbar: Busbar,
    servers: Stack,
    world: World,
    plain: Arc<Plain>,
    http: Http,
    ways: [Way; 3],
    busbar_processes: Vec<Process>,
    plain_processes: Vec<Process>,
    busbar_counters: Counters,
    plain_counters: Counters,
}

/// Measures.
pub(crate) async fn measure(args: &JobsArgs) -> Outcome<Report> {
    let machine = machine::with_durability(machine::describe()?, args.durability);
    let temp = tempfile::Builder::new().prefix("busbar-bench-").tempdir()?;
    let roles = if args.apart { "the roles of Busbar" } else { "busbar dev" };
    say(&format!("starting {roles}, the plain program and the ceiling, each with servers of its own"));
    let stacks = Stacks::start(temp.path(), args).await?;
    let ceiling = Ceiling::start(&temp.path().join("ceiling"), args.durability.for_servers()).await?;
    let memory = Memory::watch(&stacks.busbar_processes)?;
    let (mut runs, mut requests, mut ceilings, mut taken) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for run in 0..usize::from(args.runs) {
        requests.push(loads::requests_per_second(&stacks.world.bus).await?);
        taken.push(acceptance::measure(&stacks.http, &stacks.world.follower, args.jobs).await?);
        let turns = stacks.ways.len() + 1;
        for turn in 0..turns {
            // Each run begins with another one, so that none is always the one on a warm or tired machine.
            let which = (run + turn) % turns;
            let name = stacks.ways.get(which).map_or("ceiling", Way::name);
            say(&format!("run {} of {}: {} jobs, {name}", run + 1, args.runs, args.jobs));
            match stacks.ways.get(which) {
                Some(way) => runs.push(stacks.run(way, args.jobs).await?),
                None => {
                    for grouping in Grouping::ALL {
                        ceilings.push(ceiling.run(grouping, args.jobs).await?);
                    }
                }
            }
        }
    }
    let half = stacks.half_load(&runs);
    let mut latencies = BTreeMap::new();
    for way in &stacks.ways {
        say(&format!("latency of {} jobs, idle and beside {half} jobs a second: {}", args.probes, way.name()));
        latencies.insert(way.name(), stacks.latency(way, half, args.probes).await?);
    }
    let idle = ceiling.idle(args.probes).await?;
    ceiling.stop().await?;
    let memory = memory.stop();
    let mut loaded = Vec::new();
    for way in &stacks.ways {
        loaded.push(loads::measure(way).await?);
    }
    stacks.stop().await?;
    let running: Vec<f64> = of_way(&runs, "busbar_http").map(|run| per_second(run.jobs, run.submit_seconds)).collect();
    let loads = loads::summary(&loaded, &acceptance::summary(&taken, &running, &requests), &memory);
    let mut report = report(args, &machine, &runs, &latencies, half);
    beside::add(&mut report, &busbar_rates(&runs, &latencies), &ceilings, &idle);
    let budgets = budgets(&runs);
    report.table.push_str(&format!("\n{}\n{}", budget::table(&budgets), loads::table(&loaded, &loads)));
    report.summary["budget"] = budget::summary(&budgets);
    if let Value::Array(figures) = &mut report.summary["figures"] {
        figures.push(json!(Figure::of("busbar_http", "taken over HTTP while nothing runs", "jobs/s", &taken)));
    }
    if let Value::Array(notes) = &mut report.summary["notes"] {
        let latencies = [latency_note(&latencies, &loaded)];
        let told = latencies.into_iter().chain(loads::notes(&loaded, &loads)).chain([budget::note(&budgets)]);
        notes.extend(told.map(|note| json!(note)));
    }
    report.raw["loads"] =
        json!({ "ways": loaded, "bus_requests_per_second": requests, "taken_while_nothing_runs_per_second": taken });
    report.summary["loads"] = loads;
    Ok(report)
}

impl Stacks {
    async fn start(dir: &std::path::Path, args: &JobsArgs) -> Outcome<Self> {
        let (slots, durability) = (args.slots, args.durability.for_servers());
        let (dir_of_dev, servers) = (dir.join("busbar"), dir.join("servers"));
        let options = StackOptions { durability, monitored: true, ..StackOptions::new(&servers) };
        let stack = tokio::task::spawn_blocking(move || Stack::start(&options)).await??;
        let busbar = Busbar::start_on(&dir_of_dev, args.apart, slots, &stack, &servers).await?;
        let world = busbar.endpoints().world().await?;
        let client = busbar.endpoints().client().await?;
        let submitted = client.submit(ECHO, &input(0)).await?;
        client.wait(&submitted.job_id, WITHIN).await?;
        let template = template(&world, &submitted.job_id).await?;
        let plain = Arc::new(Plain::start(&dir.join("plain"), slots, template, durability).await?);
        let mut busbar_processes = vec![Process::own("client")];
        busbar_processes.extend(busbar.processes()?);
        let mut plain_processes = vec![Process::own("plain program")];
        plain_processes.extend(plain.processes());
        let http = Http::new(busbar.endpoints());
        let ways = [Way::Http(http.clone()), Way::Sdk(client), Way::Plain(Arc::clone(&plain))];
        let (busbar_counters, plain_counters) = (Counters::of(&stack).await?, Counters::of(plain.servers()).await?);
        let stacks = Self {
            busbar,
            servers: stack,
            world,
            plain,
            http,
            ways,
            busbar_processes,
            plain_processes,
            busbar_counters,
            plain_counters,
        };
        for way in &stacks.ways {
            stacks.run(way, WARM_UP).await?;
        }
        Ok(stacks)
    }

    fn follower<'a>(&'a self, way: &'a Way) -> &'a Follower {
        match way {
            Way::Http(_) | Way::Sdk(_) => &self.world.follower,
            Way::Plain(plain) => plain.follower(),
        }
    }

    async fn run(&self, way: &Way, jobs: usize) -> Outcome<Run> {
        let (processes, counters) = match way {
            Way::Http(_) | Way::Sdk(_) => (&self.busbar_processes, &self.busbar_counters),
            Way::Plain(_) => (&self.plain_processes, &self.plain_counters),
        };
        let follower = self.follower(way);
        follower.begin();
        let before = counters.look().await?;
        let meter = Meter::start(processes)?;
        let started = Instant::now();
        way.submit(jobs).await?;
        let submit_seconds = started.elapsed().as_secs_f64();
        let ends = follower.ends(jobs, WITHIN).await?;
        let seconds = ends.last().map_or(0.0, |end| (*end - started).as_secs_f64());
        let cpu_seconds = meter.stop()?;
        let budget = counters.look().await?.per_job(&before, jobs);
        let delivery = Delivery::of_ends(jobs, follower.ended());
        let jobs_per_second = per_second(jobs, seconds);
        Ok(Run { way: way.name(), jobs, submit_seconds, seconds, jobs_per_second, cpu_seconds, delivery, budget })
    }

    /// Half of what Busbar carried through the SDK: the load beside which latencies are taken, the plain program's too.
    fn half_load(&self, runs: &[Run]) -> usize {
        let seconds: Vec<f64> = of_way(runs, "busbar_sdk").map(|run| run.seconds).collect();
        let jobs = of_way(runs, "busbar_sdk").map(|run| run.jobs).next().unwrap_or_default();
        let millis = Duration::from_secs_f64(median(&seconds)).as_millis().max(1);
        jobs * 500 / usize::try_from(millis).unwrap_or(usize::MAX)
    }

    async fn latency(&self, way: &Way, half: usize, probes: usize) -> Outcome<Latency> {
        let load = match way {
            // The load has its own way in, so that probes wait for the system and not for their own connection.
            Way::Http(_) | Way::Sdk(_) => Way::Sdk(self.busbar.endpoints().client().await?),
            Way::Plain(_) => way.clone(),
        };
        let idle = way.probe(probes).await?;
        let loaded = way.probe_beside(&load, half, self.follower(way), probes).await?;
        Ok(Latency { idle, loaded })
    }

    async fn stop(self) -> Outcome<()> {
        let Self { busbar, servers, plain, ways, .. } = self;
        drop(ways);
        if let Some(plain) = Arc::into_inner(plain) {
            plain.stop().await?;
        }
        busbar.stop().await?;
        Ok(tokio::task::spawn_blocking(move || servers.stop()).await?)
    }
}

/// The record of a job, as a form for others like it.
async fn template(world: &World, job_id: &str) -> Outcome<Job> {
    let stored = world.store.read(vec![keys::job(job_id)]).await?.pop().flatten().ok_or("the job has no record")?;
    Ok(Job::decode(&stored.value)?)
}

fn of_way<'a>(runs: &'a [Run], way: &'a str) -> impl Iterator<Item = &'a Run> {
    runs.iter().filter(move |run| run.way == way)
}

/// What each way costs the servers, by job: medians over its runs.
fn budgets(runs: &[Run]) -> Vec<(&'static str, Counts)> {
    let of = |way: &'static str| (way, Counts::median(&of_way(runs, way).map(|run| &run.budget).collect::<Vec<_>>()));
    ["busbar_http", "busbar_sdk", "plain"].map(of).into()
}

/// Our ways as they stand beside the ceiling.
fn busbar_rates<'a>(runs: &[Run], latencies: &'a BTreeMap<&'static str, Latency>) -> Vec<beside::Ours<'a>> {
    let of = |way: &'static str| beside::Ours {
        way,
        jobs_per_second: median(&of_way(runs, way).map(|run| run.jobs_per_second).collect::<Vec<f64>>()),
        idle_ms: latencies.get(way).map_or(&[], |latency| latency.idle.as_slice()),
    };
    ["busbar_http", "busbar_sdk"].map(of).into()
}

#[expect(clippy::cast_precision_loss, reason = "counts of jobs are far below 2^52")]
pub(crate) fn per_second(jobs: usize, seconds: f64) -> f64 {
    if seconds > 0.0 { jobs as f64 / seconds } else { 0.0 }
}

/// Medians over the runs of one way.
fn summary_of(runs: &[Run], latency: &Latency, way: &str) -> Value {
    let middle = |of: &dyn Fn(&Run) -> f64| median(&of_way(runs, way).map(of).collect::<Vec<f64>>());
    let names: Vec<&str> = of_way(runs, way).next().map(|run| run.cpu_seconds.keys().copied().collect()).unwrap_or_default();
    let micros = |name: &str| rounded(middle(&|run| 1e6 * run.cpu_seconds[name] / per_second(run.jobs, 1.0)));
    let cpu: Map<String, Value> = names.into_iter().map(|name| (name.to_owned(), json!(micros(name)))).collect();
    json!({
        "jobs_per_second": rounded(middle(&|run| run.jobs_per_second)),
        "submit_seconds": rounded(middle(&|run| run.submit_seconds)),
        "cpu_us_per_job": cpu,
        "latency_ms_idle": percentiles(&latency.idle),
        "latency_ms_at_half_load": percentiles(&latency.loaded),
    })
}

/// The figures of one way as they are published.
fn figures_of(runs: &[Run], latency: &Latency, way: &str) -> Vec<Figure> {
    let all = |of: &dyn Fn(&Run) -> f64| of_way(runs, way).map(of).collect::<Vec<f64>>();
    let cpu = |run: &Run| 1e6 * run.cpu_seconds.values().sum::<f64>() / per_second(run.jobs, 1.0);
    let mut figures = vec![
        Figure::of(way, "jobs in bulk", "jobs/s", &all(&|run| run.jobs_per_second)),
        Figure::of(way, "processor time in bulk", "µs/job", &all(&cpu)),
        Figure::of(way, "submit to result when idle", "ms", &latency.idle),
        Figure::of(way, "submit to result at half load", "ms", &latency.loaded),
    ];
    let processes = of_way(runs, way).next().map(|run| run.cpu_seconds.keys().copied().collect::<Vec<_>>()).unwrap_or_default();
    for process in processes {
        let samples = all(&|run| 1e6 * run.cpu_seconds[process] / per_second(run.jobs, 1.0));
        figures.push(Figure::of(&format!("{way}: {process}"), "processor time in bulk by process", "µs/job", &samples));
    }
    figures
}

/// How late single jobs were: when idle, beside the load that is the same for all ways, and at the load that is half of each way's own.
fn latency_note(latencies: &BTreeMap<&'static str, Latency>, loads: &[Load]) -> Note {
    let probed = latencies.iter().flat_map(|(way, latency)| {
        [(format!("{way}, idle"), &latency.idle), (format!("{way}, beside half load"), &latency.loaded)]
    });
    let due = loads.iter().map(|load| (format!("{}, open loop, from when due", load.way), &load.open_ms));
    Note::of_latencies("Submit to result", probed.chain(due))
}

fn report(args: &JobsArgs, machine: &Value, runs: &[Run], latencies: &BTreeMap<&'static str, Latency>, half: usize) -> Report {
    let ways: Map<String, Value> =
        latencies.iter().map(|(way, latency)| ((*way).to_owned(), summary_of(runs, latency, way))).collect();
    let rate = |way: &str| ways[way]["jobs_per_second"].as_f64().unwrap_or_default();
    let ratio = |way: &str| rounded(rate(way) / rate("plain"));
    let summary = json!({
        "bench": "jobs",
        "machine": machine,
        "durability": args.durability.name(),
        "repetitions": args.runs,
        "exact_delivery": Delivery::sum("committed ends by job", runs.iter().map(|run| &run.delivery)),
        "figures": latencies.iter().flat_map(|(way, latency)| figures_of(runs, latency, way)).collect::<Vec<_>>(),
        "jobs": args.jobs, "runs": args.runs, "slots": args.slots, "half_load_jobs_per_second": half,
        "ways": ways,
        "throughput_ratio_to_plain": { "busbar_http": ratio("busbar_http"), "busbar_sdk": ratio("busbar_sdk") },
    });
    Report { table: table(args, machine, &summary, latencies), raw: json!({ "runs": runs, "latencies_ms": latencies }), summary }
}

fn table(args: &JobsArgs, machine: &Value, summary: &Value, latencies: &BTreeMap<&'static str, Latency>) -> String {
    const WAYS: [&str; 3] = ["busbar_http", "busbar_sdk", "plain"];
    let mut table = Table::with_head(&["", "busbar, HTTP", "busbar, SDK", "no control plane"]);
    let ways = &summary["ways"];
    let number = |value: &Value, places: usize| value.as_f64().map_or("-".to_owned(), |number| format!("{number:.places$}"));
    let mut line = |name: &str, of: &dyn Fn(&str) -> String| {
        table.line(std::iter::once(name.to_owned()).chain(WAYS.map(of)));
    };
    line("echo jobs a second", &|way| number(&ways[way]["jobs_per_second"], 0));
    line("  beside no control plane", &|way| number(&summary["throughput_ratio_to_plain"][way], 2));
    line("processor µs a job", &|_| String::new());
    let roles: &[&str] = if args.apart { &["gateway", "scheduler", "safety-kernel"] } else { &["busbar"] };
    for process in [&["client", "plain program"], roles, &["worker", "nats-server", "redis-server"]].concat() {
        line(&format!("  {process}"), &|way| number(&ways[way]["cpu_us_per_job"][process], 0));
    }
    for (name, percent) in [("p50", 50), ("p90", 90), ("p99", 99)] {
        line(&format!("submit to result, idle, {name} ms"), &|way| format!("{:.1}", percentile(&latencies[way].idle, percent)));
    }
    for (name, percent) in [("p50", 50), ("p90", 90), ("p99", 99)] {
        line(&format!("  at half load, {name} ms"), &|way| format!("{:.1}", percentile(&latencies[way].loaded, percent)));
    }
    format!(
        "{}\n{} echo jobs a run, medians of {} runs, one worker with {} slots; half load: {} jobs a second\n\n{}",
        machine::line(machine),
        args.jobs,
        args.runs,
        args.slots,
        summary["half_load_jobs_per_second"],
        table.show()
    )
}
