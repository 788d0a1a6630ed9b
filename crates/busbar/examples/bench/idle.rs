//! `bench idle`: what it costs that nothing happens. Workers of the SDK, all in this process, beat and wait; a scheduler hears them.

use std::collections::BTreeMap;
use std::time::Duration;

use busbar_sdk::{Context, Failure, Ports, Worker, WorkerOptions};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::apart::{self, Apart};
use crate::dev::World;
use crate::document::Figure;
use crate::figures::{Table, rounded};
use crate::http::ECHO;
use crate::usage::{Meter, Process};
use crate::{IdleArgs, Outcome, Report, machine, say};

/// How long everybody is left alone before the measurement, so that beginnings are not measured.
const SETTLE: Duration = Duration::from_secs(5);

/// Measures.
pub(crate) async fn measure(args: &IdleArgs) -> Outcome<Report> {
    let machine = machine::describe()?;
    let temp = tempfile::Builder::new().prefix("busbar-bench-").tempdir()?;
    say("starting servers, a kernel and a scheduler");
    let apart = Apart::start(temp.path()).await?;
    let scheduler = apart.scheduler("active", 1_000)?;
    let world = apart.world().await?;
    let status = apart::until(&world, |_| true).await?;
    let mut processes = vec![apart::process_of(&status)?];
    processes.extend(apart.servers()?);
    processes.push(Process::own("workers"));

    say(&format!("nobody there, for {} s", args.seconds));
    let alone = used(&processes, args.seconds).await?;
    say(&format!("{} workers come", args.workers));
    let working = start_workers(&world, args.workers).await?;
    say(&format!("{} idle workers, for {} s", args.workers, args.seconds));
    let together = used(&processes, args.seconds).await?;
    drop(working);
    tokio::task::spawn_blocking(move || scheduler.stop()).await?;
    let figures: Vec<Figure> = [("without workers", &alone), ("with workers", &together)]
        .into_iter()
        .flat_map(|(when, used)| used.iter().map(move |(name, percent)| Figure::of(name, when, "% of a core", &[*percent])))
        .collect();
    let summary = json!({
        "bench": "idle", "machine": machine, "workers": args.workers, "seconds": args.seconds,
        "durability": "safe", "repetitions": 1, "figures": figures,
        "percent_of_a_core": { "without_workers": alone, "with_workers": together },
    });
    Ok(Report { table: table(&machine, &summary), raw: summary.clone(), summary })
}

/// User and system time of each process, in percent of one core.
async fn used(processes: &[Process], seconds: u64) -> Outcome<BTreeMap<&'static str, f64>> {
    tokio::time::sleep(SETTLE).await;
    let meter = Meter::start(processes)?;
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let percent = |(name, used): (_, f64)| (name, rounded(used / seconds as f64 * 100.0));
    Ok(meter.stop()?.into_iter().map(percent).collect())
}

/// Starts workers that share our connections, but have a thread for their beats each, as all workers do; and waits until the
/// scheduler has heard them all.
async fn start_workers(world: &World, count: usize) -> Outcome<JoinSet<()>> {
    let mut working = JoinSet::new();
    for n in 0..count {
        let options = WorkerOptions { id: format!("idle-{n}"), max_parallel: 4, ..WorkerOptions::default() };
        let (bus, records, beats) = (world.bus.clone(), world.store.clone(), world.bus.clone());
        let ports = Ports { bus, records, blobs: None, beats: Box::new(move || Box::pin(async move { Ok(beats) })) };
        let mut worker = Worker::with_ports(options, ports)?;
        worker.handle(ECHO, |_: Context, input: Value| async move { Ok::<_, Failure>(input) });
        working.spawn(async move {
            if let Err(error) = worker.run(std::future::pending()).await {
                say(&format!("a worker has ended: {error}"));
            }
        });
    }
    apart::until_workers(world, count).await?;
    Ok(working)
}

fn table(machine: &Value, summary: &Value) -> String {
    let percent = &summary["percent_of_a_core"];
    let mut table = Table::with_head(&["percent of a core", "no worker", &format!("{} idle workers", summary["workers"])]);
    for name in ["scheduler", "nats-server", "redis-server", "workers"] {
        let cell = |when: &str| percent[when][name].as_f64().map_or_else(String::new, |value| format!("{value:.2}"));
        table.line([name.to_owned(), cell("without_workers"), cell("with_workers")]);
    }
    format!("{}\nover {} s each; the workers are one process\n{}", machine::line(machine), summary["seconds"], table.show())
}
