//! `bench fill`: a cell that fills up while nobody works, is killed and comes back full, and is drained.
//!
//! ```text
//!  one large HTTP call ─► bare jobs (no payload) ─► the rest in HTTP calls ─► kill -9, start again ─► a worker comes ─► empty
//! ```

use std::path::Path;
use std::time::{Duration, Instant};

use busbar_protocol::busbar::{AdmitItem, AdmitReply, AdmitRequest, admit_answer};
use busbar_protocol::cap::JobRequest;
use busbar_protocol::ids::{self, JobId};
use busbar_protocol::ports::{Bus as _, Headers};
use busbar_protocol::prost::Message as _;
use busbar_protocol::subjects;
use serde_json::{Value, json};

use crate::dev::{Dev, World, start_worker};
use crate::document::{Delivery, Figure};
use crate::figures::{Table, median, rounded};
use crate::http::{ECHO, Http, input};
use crate::jobs::per_second;
use crate::usage::Process;
use crate::{FillArgs, Outcome, Report, machine, say};

const WITHIN: Duration = Duration::from_secs(240);
const ASK_WITHIN: Duration = Duration::from_secs(10);
/// How many jobs an ordinary call submits.
const CHUNK: usize = 5_000;
/// As many as one admission may carry.
const ITEMS_MAX: usize = 256;

/// What a queued job takes, in bytes.
#[derive(Clone, Copy, Debug)]
struct Memory {
    redis_bytes: u64,
    busbar_bytes: u64,
}

impl Memory {
    async fn now(world: &World, busbar: &Process) -> Outcome<Self> {
        Ok(Self { redis_bytes: world.store.memory().await?.used_bytes, busbar_bytes: busbar.rss_bytes()? })
    }

    /// How much came in, for each of `jobs`.
    fn per_job(self, before: Self, jobs: usize) -> Value {
        let each = |now: u64, before: u64| now.saturating_sub(before) / u64::try_from(jobs).unwrap_or(u64::MAX).max(1);
        json!({
            "redis_bytes_per_job": each(self.redis_bytes, before.redis_bytes),
            "busbar_rss_bytes_per_job": each(self.busbar_bytes, before.busbar_bytes),
        })
    }
}

/// Measures.
pub(crate) async fn measure(args: &FillArgs) -> Outcome<Report> {
    let machine = machine::describe()?;
    let temp = tempfile::Builder::new().prefix("busbar-bench-").tempdir()?;
    say("starting busbar dev without a worker");
    let dev = Dev::start(temp.path(), 0, 1).await?;
    let world = dev.endpoints.world().await?;
    let filled = fill(args, &dev, &world).await?;
    drop(world);
    say("killing it, and starting it again on the same folder");
    let started = Instant::now();
    dev.kill().await?;
    let dev = Dev::start(temp.path(), 0, 1).await?;
    let restart_seconds = started.elapsed().as_secs_f64();
    let drained = drain(args, &dev, temp.path()).await?;
    dev.stop().await?;
    let summary = json!({
        "bench": "fill", "machine": machine, "slots": args.slots,
        "durability": "safe", "repetitions": 1, "exact_delivery": drained["exact_delivery"],
        "figures": [
            Figure::once("submissions over HTTP", "rate", "jobs/s", &filled["jobs"]["jobs_per_second"]),
            Figure::once("drain", "rate", "jobs/s", &drained["summary"]["jobs_per_second"]),
            Figure::once("drain, first tenth", "rate", "jobs/s", &drained["summary"]["first_tenth_jobs_per_second"]),
            Figure::once("drain, last tenth", "rate", "jobs/s", &drained["summary"]["last_tenth_jobs_per_second"]),
            Figure::once("busbar, resident", "a queued job", "bytes", &filled["jobs"]["memory"]["busbar_rss_bytes_per_job"]),
            Figure::once("redis-server, with payload and event", "a queued job", "bytes", &filled["jobs"]["memory"]["redis_bytes_per_job"]),
            Figure::once("redis-server, without payload", "a queued job", "bytes", &filled["bare_jobs"]["memory"]["redis_bytes_per_job"]),
            Figure::of("ready again with the whole queue", "after kill -9", "s", &[restart_seconds]),
        ],
        "largest_call": filled["largest_call"], "bare_jobs": filled["bare_jobs"], "jobs": filled["jobs"],
        "restart_after_kill": { "queued": args.jobs, "seconds_until_ready": rounded(restart_seconds) },
        "drain": drained["summary"],
    });
    let table = table(&machine, &summary);
    Ok(Report { table, raw: json!({ "fill": filled, "drain": drained }), summary })
}

/// Queues the jobs, in three portions.
async fn fill(args: &FillArgs, dev: &Dev, world: &World) -> Outcome<Value> {
    let busbar = dev.processes()?.into_iter().find(|process| process.name == "busbar").ok_or("busbar is gone")?;
    let http = Http::new(&dev.endpoints);
    let batch = args.batch.min(args.jobs);
    say(&format!("{batch} jobs in one HTTP call"));
    let started = Instant::now();
    http.batch((0..batch).map(input).collect()).await?;
    let batch_seconds = started.elapsed().as_secs_f64();

    let bare = ((args.jobs - batch) / 4 / ITEMS_MAX) * ITEMS_MAX;
    say(&format!("{bare} jobs without a payload"));
    let before = Memory::now(world, &busbar).await?;
    for _ in 0..bare / ITEMS_MAX {
        admit_bare(world, ITEMS_MAX).await?;
    }
    let after_bare = Memory::now(world, &busbar).await?;

    let rest = args.jobs - batch - bare;
    say(&format!("{rest} jobs in HTTP calls of {CHUNK}"));
    let mut call_seconds = Vec::new();
    for first in (0..rest).step_by(CHUNK) {
        let started = Instant::now();
        http.batch((first..rest.min(first + CHUNK)).map(input).collect()).await?;
        call_seconds.push(started.elapsed().as_secs_f64());
    }
    let after = Memory::now(world, &busbar).await?;
    let seconds = call_seconds.iter().sum();
    Ok(json!({
        "largest_call": {
            "jobs": batch,
            "seconds": rounded(batch_seconds),
            "jobs_per_second": rounded(per_second(batch, batch_seconds)),
        },
        "bare_jobs": { "jobs": bare, "memory": after_bare.per_job(before, bare) },
        "jobs": {
            "jobs": rest,
            "input_bytes": input(rest).to_string().len(),
            "jobs_per_second": rounded(per_second(rest, seconds)),
            "seconds_per_call": rounded(median(&call_seconds)),
            "memory": after.per_job(after_bare, rest),
        },
        "call_seconds": call_seconds,
        "redis_bytes": [before.redis_bytes, after_bare.redis_bytes, after.redis_bytes],
        "busbar_rss_bytes": [before.busbar_bytes, after_bare.busbar_bytes, after.busbar_bytes],
    }))
}

/// Admits jobs that have no input, straight at the scheduler: what is left is the record.
async fn admit_bare(world: &World, count: usize) -> Outcome<()> {
    let item = |_| {
        let request = JobRequest { job_id: JobId::generate().to_string(), topic: ECHO.to_owned(), ..JobRequest::default() };
        let (trace_id, tenant_id) = (ids::generate_trace(), ids::DEFAULT_TENANT.to_owned());
        AdmitItem { request: request.encode_to_vec().into(), trace_id, tenant_id, ..AdmitItem::default() }
    };
    let request = AdmitRequest { items: (0..count).map(item).collect() }.encode_to_vec().into();
    let answer = world.bus.request(subjects::ADMIT, Headers::new(), request, ASK_WITHIN).await?;
    let answers = AdmitReply::decode(answer.payload)?.answers.into_iter();
    let admitted = answers.filter(|answer| matches!(answer.answer, Some(admit_answer::Answer::Admitted(_)))).count();
    if admitted == count { Ok(()) } else { Err(format!("{admitted} of {count} bare jobs were admitted").into()) }
}

/// Lets a worker come, and waits until everything has ended.
async fn drain(args: &FillArgs, dev: &Dev, dir: &Path) -> Outcome<Value> {
    let world = dev.endpoints.world().await?;
    let (nats, redis, blobs) = (&dev.endpoints.nats, &dev.endpoints.redis, &dev.endpoints.blobs);
    say(&format!("a worker with {} slots drains {} jobs", args.slots, args.jobs));
    world.follower.begin();
    let started = Instant::now();
    let worker = start_worker("bench-worker", nats, redis, blobs, args.slots, dir.join("worker"))?;
    let ends = world.follower.ends(args.jobs, WITHIN).await?;
    let delivery = Delivery::of_ends(args.jobs, world.follower.ended());
    tokio::task::spawn_blocking(move || worker.stop()).await?;
    let mut drained = rates(&ends, started);
    drained["exact_delivery"] = json!(delivery);
    Ok(drained)
}

/// How fast jobs ended: all of them, the first tenth, and the last.
pub(crate) fn rates(ends: &[Instant], started: Instant) -> Value {
    let seconds: Vec<f64> = ends.iter().map(|end| (*end - started).as_secs_f64()).collect();
    let Some(last) = seconds.len().checked_sub(1) else { return json!({ "summary": { "jobs": 0 } }) };
    let tenth = (seconds.len() / 10).max(1).min(last);
    let rate = |from: usize, to: usize| rounded(per_second(to - from, seconds[to] - seconds[from]));
    let every: Vec<f64> = seconds.iter().copied().step_by((tenth / 10).max(1)).collect();
    json!({
        "summary": {
            "jobs": seconds.len(),
            "first_end_after_seconds": rounded(seconds[0]),
            "jobs_per_second": rate(0, last),
            "first_tenth_jobs_per_second": rate(0, tenth),
            "last_tenth_jobs_per_second": rate(last - tenth, last),
        },
        "seconds_of_every_hundredth": every,
    })
}

fn table(machine: &Value, summary: &Value) -> String {
    let mut table = Table::with_head(&["", "", ""]);
    let mut line = |name: &str, value: &Value, unit: &str| {
        let value = value.as_f64().map_or_else(|| value.to_string(), |number| format!("{number:.1}"));
        table.line([name.to_owned(), value, unit.to_owned()]);
    };
    let (call, bare, jobs, drain) = (&summary["largest_call"], &summary["bare_jobs"], &summary["jobs"], &summary["drain"]);
    line(&format!("{} jobs in one HTTP call", call["jobs"]), &call["seconds"], "s");
    line(&format!("{} jobs in HTTP calls of {CHUNK}", jobs["jobs"]), &jobs["jobs_per_second"], "jobs/s");
    line("Redis, a queued job without payload, its event included", &bare["memory"]["redis_bytes_per_job"], "bytes");
    line(
        &format!("Redis, a queued job with {} bytes of payload", jobs["input_bytes"]),
        &jobs["memory"]["redis_bytes_per_job"],
        "bytes",
    );
    line("busbar, a queued job", &jobs["memory"]["busbar_rss_bytes_per_job"], "bytes");
    let restart = &summary["restart_after_kill"];
    line(&format!("ready again after kill -9 with {} queued", restart["queued"]), &restart["seconds_until_ready"], "s");
    line(&format!("drain of {} jobs", drain["jobs"]), &drain["jobs_per_second"], "jobs/s");
    line("  first tenth", &drain["first_tenth_jobs_per_second"], "jobs/s");
    line("  last tenth", &drain["last_tenth_jobs_per_second"], "jobs/s");
    format!("{}\none worker with {} slots\n{}", machine::line(machine), summary["slots"], table.show())
}
