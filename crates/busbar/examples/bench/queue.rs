//! `bench queue`: a scheduler of its own with a very long queue, standbys, and two kills.
//!
//! ```text
//!  inputs ─► admissions ─► kill -9 while nobody works, the standby has loaded everything
//!         ─► a worker comes ─► kill -9, the next standby dispatches, and has loaded everything ─► empty
//! ```
//!
//! Bytes a job are differences over all jobs: of `used_memory` in Redis, inputs excluded since they stand there before the first
//! admission, and of the resident memory of the scheduler's process.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use busbar_protocol::busbar::{AdmitItem, AdmitReply, AdmitRequest, admit_answer};
use busbar_protocol::cap::JobRequest;
use busbar_protocol::ids;
use busbar_protocol::keys;
use busbar_protocol::pointers::Pointer;
use busbar_protocol::ports::{Bus as _, Headers, Records as _};
use busbar_protocol::prost::Message as _;
use busbar_protocol::subjects;
use busbar_protocol::time::Timestamp;
use bytes::Bytes;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};

use crate::apart::{self, Apart};
use crate::dev::{World, start_worker};
use crate::document::{Delivery, Figure, Note};
use crate::figures::{Table, rounded};
use crate::fill::rates;
use crate::http::ECHO;
use crate::jobs::per_second;
use crate::usage::{self, Meter, Process};
use crate::{Outcome, QueueArgs, Report, machine, say};

const INPUT: Bytes = Bytes::from_static(b"{}");
/// As many as one admission may carry.
const ITEMS_MAX: usize = 256;
/// How many inputs are written, and how many admissions are asked, at once.
const INPUTS_AT_ONCE: usize = 512;
const ADMISSIONS_AT_ONCE: usize = 4;
const ASK_WITHIN: Duration = Duration::from_secs(30);
/// The kill comes when so many jobs have ended.
const ENDED_BEFORE_KILL: usize = 500;
const TENTHS: usize = 10;
/// To what the jobs belong that belong to another one; it is long gone.
const PARENT: &str = "bench-parent";
const AFTER_KILL: &str = "after kill -9";
/// Whoever is not one of the processes that are looked at: the child of Redis that writes its file anew, and other programs.
const OTHERS: &str = "others";

/// Measures.
pub(crate) async fn measure(args: &QueueArgs) -> Outcome<Report> {
    let machine = machine::describe()?;
    let temp = tempfile::Builder::new().prefix("busbar-bench-").tempdir()?;
    say("starting servers, a kernel, a scheduler and its standby");
    let apart = Apart::start(temp.path()).await?;
    let jobs_max = args.jobs.saturating_mul(2);
    let active = apart.scheduler("active", jobs_max)?;
    let world = apart.world().await?;
    let status = apart::until(&world, |_| true).await?;
    let standby = apart.scheduler("standby", jobs_max)?;
    let filled = fill(args, &world, &apart::process_of(&status)?).await?;

    say("the scheduler is killed while nobody works");
    let killed = Instant::now();
    tokio::task::spawn_blocking(move || drop(active)).await?;
    let status = apart::until(&world, |now| now.epoch > status.epoch && !now.loading).await?;
    let loaded_at_rest = killed.elapsed();
    let (active, standby) = (standby, apart.scheduler("next", jobs_max)?);

    let within = Duration::from_secs(240 + args.jobs as u64 / 200);
    say(&format!("a worker with {} slots comes; the scheduler is killed", args.slots));
    world.follower.begin();
    let worker =
        start_worker("bench-worker", &apart.nats(), &apart.redis(), apart.blobs(), args.slots, temp.path().join("worker"))?;
    world.follower.ends(ENDED_BEFORE_KILL.min(args.jobs / 10), within).await?;
    let dispatched = world.follower.dispatch_after(Timestamp::wall_clock());
    let killed = Instant::now();
    tokio::task::spawn_blocking(move || drop(active)).await?;
    let dispatched = dispatched.await?.duration_since(killed);
    let status = apart::until(&world, |now| now.epoch > status.epoch && !now.loading).await?;
    let loaded = killed.elapsed();

    say("the worker drains the queue");
    let worker_process = Process { name: "worker", pid: worker.pid().ok_or("the worker is gone")? };
    let [nats, redis] = apart.servers()?;
    let processes = [apart::process_of(&status)?, worker_process, nats, redis, Process::own("bench")];
    let rest = args.jobs.saturating_sub(world.follower.begin());
    let started = Instant::now();
    let (ends, tenths) = tenths(rest, &world, &processes, within).await?;
    let drain = rates(&ends, started);
    let delivery = Delivery::of_ends(rest, world.follower.ended());
    tokio::task::spawn_blocking(move || {
        worker.stop();
        standby.stop();
    })
    .await?;
    let summary = json!({
        "bench": "queue", "machine": machine, "jobs": args.jobs, "slots": args.slots,
        "children": args.children, "durability": "safe", "repetitions": 1, "exact_delivery": delivery,
        "figures": [
            Figure::once("admission", "rate", "jobs/s", &filled["jobs_per_second"]),
            Figure::once("drain", "rate", "jobs/s", &drain["summary"]["jobs_per_second"]),
            Figure::once("drain, first tenth", "rate", "jobs/s", &drain["summary"]["first_tenth_jobs_per_second"]),
            Figure::once("drain, last tenth", "rate", "jobs/s", &drain["summary"]["last_tenth_jobs_per_second"]),
            Figure::once("scheduler, resident", "a queued job", "bytes", &filled["memory"]["scheduler_rss_bytes_per_job"]),
            Figure::once("redis-server, with its event, without payload", "a queued job", "bytes", &filled["memory"]["redis_bytes_per_job"]),
            Figure::of("dispatches again", AFTER_KILL, "s", &[dispatched.as_secs_f64()]),
            Figure::of("has loaded everything, a worker drains", AFTER_KILL, "s", &[loaded.as_secs_f64()]),
            Figure::of("has loaded everything, nobody works", AFTER_KILL, "s", &[loaded_at_rest.as_secs_f64()]),
        ],
        "notes": [note_of_tenths(&tenths)],
        "memory": filled["memory"], "admission_jobs_per_second": filled["jobs_per_second"],
        "after_kill": {
            "seconds_until_dispatch": rounded(dispatched.as_secs_f64()),
            "seconds_until_loaded": rounded(loaded.as_secs_f64()),
            "seconds_until_loaded_at_rest": rounded(loaded_at_rest.as_secs_f64()),
        },
        "drain": drain["summary"], "drain_by_tenths": tenths,
    });
    Ok(Report { table: table(&machine, &summary), raw: json!({ "fill": filled, "drain": drain }), summary })
}

/// Waits until so many jobs have ended, and says of each tenth of them how fast it went and who used the processors.
async fn tenths(jobs: usize, world: &World, processes: &[Process], within: Duration) -> Outcome<(Vec<Instant>, Value)> {
    let mut tenths = Vec::new();
    let (mut ended, mut ends) = (0, Vec::new());
    for tenth in 1..=TENTHS {
        let (meter, machine, started) = (Meter::start(processes)?, usage::machine_cpu_seconds()?, Instant::now());
        ends = world.follower.ends(jobs * tenth / TENTHS, within).await?;
        let (seconds, machine, used) = (started.elapsed().as_secs_f64(), usage::machine_cpu_seconds()? - machine, meter.stop()?);
        let now = ends.len() - std::mem::replace(&mut ended, ends.len());
        let others = machine - used.values().sum::<f64>();
        let micros = |seconds: f64| rounded(seconds * 1e6 / (now.max(1) as f64));
        let mut micros_per_job: BTreeMap<&str, f64> = used.into_iter().map(|(name, seconds)| (name, micros(seconds))).collect();
        micros_per_job.insert(OTHERS, micros(others));
        tenths.push(json!({
            "jobs": now, "jobs_per_second": rounded(per_second(now, seconds)), "processor_micros_per_job": micros_per_job,
        }));
    }
    Ok((ends, Value::Array(tenths)))
}

/// Queues the jobs.
async fn fill(args: &QueueArgs, world: &World, scheduler: &Process) -> Outcome<Value> {
    let jobs = args.jobs;
    say(&format!("{jobs} inputs"));
    let put = |n: usize| async move { world.store.put_payload(&keys::context(&job_id(n)), INPUT, None).await };
    stream::iter(0..jobs).map(put).buffer_unordered(INPUTS_AT_ONCE).try_for_each(|()| async { Ok(()) }).await?;
    let redis_before = world.store.memory().await?.used_bytes;
    let rss_before = scheduler.rss_bytes()?;

    say(&format!("{jobs} admissions"));
    let started = Instant::now();
    let parent = if args.children { PARENT } else { "" };
    let admit = |first: usize| admit(world, first..jobs.min(first + ITEMS_MAX), parent);
    stream::iter((0..jobs).step_by(ITEMS_MAX))
        .map(admit)
        .buffer_unordered(ADMISSIONS_AT_ONCE)
        .try_for_each(|()| async { Ok(()) })
        .await?;
    let seconds = started.elapsed().as_secs_f64();
    let redis_after = world.store.memory().await?.used_bytes;
    let rss_after = scheduler.rss_bytes()?;
    let each = |after: u64, before: u64| after.saturating_sub(before) / (jobs as u64).max(1);
    Ok(json!({
        "jobs": jobs,
        "seconds": rounded(seconds),
        "jobs_per_second": rounded(per_second(jobs, seconds)),
        "memory": {
            "redis_bytes_per_job": each(redis_after, redis_before),
            "scheduler_rss_bytes_per_job": each(rss_after, rss_before),
        },
        "redis_bytes": [redis_before, redis_after],
        "scheduler_rss_bytes": [rss_before, rss_after],
    }))
}

/// The id of the `n`-th job, as long as those that we make ourselves.
fn job_id(n: usize) -> String {
    format!("00000000-0000-7000-8000-{n:012}")
}

async fn admit(world: &World, numbers: std::ops::Range<usize>, parent: &str) -> Outcome<()> {
    let count = numbers.len();
    let item = |n| {
        let job_id = job_id(n);
        let context_ptr = Pointer::Redis(keys::context(&job_id)).to_string();
        let (topic, parent_job_id) = (ECHO.to_owned(), parent.to_owned());
        let request = JobRequest { job_id, topic, context_ptr, parent_job_id, ..JobRequest::default() };
        AdmitItem {
            request: request.encode_to_vec().into(),
            trace_id: ids::generate_trace(),
            tenant_id: ids::DEFAULT_TENANT.to_owned(),
            input_bytes: INPUT.len() as u64,
            ..AdmitItem::default()
        }
    };
    let request = AdmitRequest { items: numbers.map(item).collect() }.encode_to_vec().into();
    let answer = world.bus.request(subjects::ADMIT, Headers::new(), request, ASK_WITHIN).await?;
    let reply = AdmitReply::decode(answer.payload)?;
    let admitted = |answer: &admit_answer::Answer| matches!(answer, admit_answer::Answer::Admitted(_));
    let taken = reply.answers.iter().filter(|answer| answer.answer.as_ref().is_some_and(admitted)).count();
    let refusal = || reply.answers.iter().find(|answer| !answer.answer.as_ref().is_some_and(admitted));
    if taken == count {
        Ok(())
    } else {
        Err(format!("{taken} of {count} jobs were admitted: {:?} {:?}", reply.problem, refusal()).into())
    }
}

fn table(machine: &Value, summary: &Value) -> String {
    let mut table = Table::with_head(&["", "", ""]);
    let mut line = |name: &str, value: &Value, unit: &str| {
        let value = value.as_f64().map_or_else(|| value.to_string(), |number| format!("{number:.1}"));
        table.line([name.to_owned(), value, unit.to_owned()]);
    };
    let (memory, kill, drain) = (&summary["memory"], &summary["after_kill"], &summary["drain"]);
    line("admission", &summary["admission_jobs_per_second"], "jobs/s");
    line("Redis, a queued job without payload, its event included", &memory["redis_bytes_per_job"], "bytes");
    line("scheduler, a queued job", &memory["scheduler_rss_bytes_per_job"], "bytes");
    line("dispatches again after kill -9", &kill["seconds_until_dispatch"], "s");
    line("has loaded everything after kill -9", &kill["seconds_until_loaded"], "s");
    line("  the same while nobody works", &kill["seconds_until_loaded_at_rest"], "s");
    line("drain", &drain["jobs_per_second"], "jobs/s");
    line("  first tenth", &drain["first_tenth_jobs_per_second"], "jobs/s");
    line("  last tenth", &drain["last_tenth_jobs_per_second"], "jobs/s");
    format!(
        "{}\n{} jobs, one worker with {} slots, one scheduler and a standby\n{}\n{}",
        machine::line(machine),
        summary["jobs"],
        summary["slots"],
        table.show(),
        table_of_tenths(&summary["drain_by_tenths"])
    )
}

const TITLE_OF_TENTHS: &str = "Tenths of the drain, µs of processor a job";
/// What stands of each tenth in a table, below these names.
const HEAD_OF_TENTHS: [&str; 8] = ["tenth", "jobs/s", "scheduler", "worker", "nats-server", "redis-server", "bench", OTHERS];

fn lines_of_tenths(tenths: &Value) -> impl Iterator<Item = Vec<String>> {
    let whole = |value: &Value| format!("{:.0}", value.as_f64().unwrap_or_default());
    (1..).zip(tenths.as_array().into_iter().flatten()).map(move |(number, tenth)| {
        let used = HEAD_OF_TENTHS[2..].iter().map(|name| whole(&tenth["processor_micros_per_job"][name]));
        [format!("{number}"), whole(&tenth["jobs_per_second"])].into_iter().chain(used).collect()
    })
}

fn table_of_tenths(tenths: &Value) -> String {
    let mut table = Table::with_head(&HEAD_OF_TENTHS);
    lines_of_tenths(tenths).for_each(|line| table.line(line));
    format!("{TITLE_OF_TENTHS}\n{}", table.show())
}

fn note_of_tenths(tenths: &Value) -> Note {
    Note::new(TITLE_OF_TENTHS, &HEAD_OF_TENTHS, lines_of_tenths(tenths).collect())
}
