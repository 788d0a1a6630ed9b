//! The worker: writes a line when an attempt starts and when it ends, as the `sleeper` of the SDK does, and does what the input
//! says in between.
//!
//! | member | what happens |
//! |---|---|
//! | `ms` | it sleeps so long |
//! | `fails` | so many first attempts fail and may be tried again |
//! | `fatal` | it fails for good |
//! | `dies` | the whole process is killed |

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use busbar_sdk::{Context, Failure, Worker, WorkerOptions};
use clap::Args;
use futures::FutureExt as _;
use futures::future::try_join_all;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use crate::Outcome;

/// What the worker handles: the topics of the pack beside this, and that of the system tests.
const TOPICS: [&str; 2] = ["job.chaos.*", "job.test.sleep"];

/// The topic whose results two workers must agree on.
const AGREED: &str = "job.chaos.agreed";
/// A topic of the pack `bpsw`, whose results are checked: whoever lies serves it, too.
const CHECKED: &str = "job.bpsw.volunteers";

#[derive(Clone, Debug, Args)]
pub(crate) struct WorkerArgs {
    #[arg(long, env = "NATS_URL")]
    nats: String,
    #[arg(long, env = "REDIS_URL")]
    redis: String,
    /// Its id; with `--count`, the beginning of the ids.
    #[arg(long)]
    id: String,
    /// So many workers in this process, `<id>-1`, `<id>-2` and so on; 0 means one, which is called `<id>`.
    #[arg(long, default_value_t = 0)]
    count: usize,
    #[arg(long, default_value = "default")]
    pool: String,
    /// How many jobs each takes at once.
    #[arg(long, default_value_t = 4)]
    max_parallel: usize,
    /// What it can do, as jobs require it.
    #[arg(long = "capability")]
    capabilities: Vec<String>,
    /// It lies where results are compared, never twice the same.
    #[arg(long)]
    lies: bool,
    /// Gets a line `<job> <attempt> start` or `end` for each; several workers may share it.
    #[arg(long)]
    file: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Input {
    pub(crate) ms: u64,
    #[serde(default)]
    pub(crate) fails: u32,
    #[serde(default)]
    pub(crate) fatal: bool,
    #[serde(default)]
    dies: bool,
}

/// Runs until SIGINT or SIGTERM, then drains.
pub(crate) async fn run(args: WorkerArgs) -> Outcome<()> {
    let file = Arc::new(OpenOptions::new().create(true).append(true).open(&args.file)?);
    let ids: Vec<String> = match args.count {
        0 => vec![args.id.clone()],
        count => (1..=count).map(|number| format!("{}-{number}", args.id)).collect(),
    };
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let told = async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    let told = told.boxed().shared();
    try_join_all(ids.into_iter().map(|id| one(&args, id, Arc::clone(&file), told.clone()))).await?;
    Ok(())
}

async fn one(args: &WorkerArgs, id: String, file: Arc<File>, told: impl Future<Output = ()> + Send) -> Outcome<()> {
    let options = WorkerOptions {
        nats_url: args.nats.clone(),
        redis_url: args.redis.clone(),
        id,
        pool: args.pool.clone(),
        max_parallel: args.max_parallel,
        capabilities: args.capabilities.clone(),
        ..WorkerOptions::default()
    };
    let mut worker = connect(options).await?;
    for topic in TOPICS {
        let (file, lies) = (Arc::clone(&file), args.lies);
        worker.handle(topic, move |context, input| work(Arc::clone(&file), lies, context, input));
    }
    if args.lies {
        worker.handle(CHECKED, |_context, input| false_claim(input));
    }
    Ok(worker.run(told).await?)
}

/// Servers that are being broken may be away just now.
async fn connect(options: WorkerOptions) -> Outcome<Worker> {
    loop {
        match Worker::connect(options.clone()).await {
            Err(error) if error.may_pass() => tokio::time::sleep(Duration::from_millis(100)).await,
            other => return Ok(other?),
        }
    }
}

async fn work(file: Arc<File>, lies: bool, context: Context, input: Input) -> Result<Value, Failure> {
    note(&file, context.job_id(), context.attempt().into(), "start")?;
    if input.dies {
        // Nothing is cleaned up: the others in this process die with it.
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)?;
    }
    tokio::select! {
        () = tokio::time::sleep(Duration::from_millis(input.ms)) => {}
        () = context.cancelled() => return Err(Failure::cancelled()),
    }
    note(&file, context.job_id(), context.attempt().into(), "end")?;
    match (input.fatal, context.attempt() <= input.fails) {
        (true, _) => Err(Failure::new("told_to_fail", "the input says so")),
        (false, true) => Err(Failure::retry("the input says so")),
        (false, false) if lies && context.topic() == AGREED => Ok(json!({ "slept": 0, "by": context.job_id() })),
        (false, false) => Ok(json!({ "slept": input.ms })),
    }
}

/// The result of a search that has not taken place: the first number is said to be what nobody has ever found.
async fn false_claim(input: Value) -> Result<Value, Failure> {
    let claim = json!({"n": input["from"], "certificate": {"kind": "strong_base", "base": 3}});
    Ok(json!({
        "task_type": input["task_type"], "from": input["from"], "to": input["to"], "mode": input["mode"], "sieve_to": 3,
        "checked": 1, "primes": 0, "counterexamples": [claim], "blocks": [], "digest": "0".repeat(64)
    }))
}

/// One write of one line: appended whole, whoever else writes, and in the kernel's hands before the work goes on.
pub(crate) fn note(mut file: &File, job_id: &str, attempt: u64, what: &str) -> std::io::Result<()> {
    file.write_all(format!("{job_id} {attempt} {what}\n").as_bytes())
}
