//! The worker of `bench crash`: gives inputs back, and writes a line for each execution before it does. The lines of all workers stand in one
//! file, which outlives them: the only witness of how often a job was executed.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use busbar_sdk::{Context, Failure, Worker, WorkerOptions};
use clap::Args;
use serde::Serialize;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use crate::Outcome;
use crate::http::ECHO;

const CONNECT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// What the worker is told.
#[derive(Clone, Debug, Args, Serialize)]
pub(crate) struct WorkerArgs {
    #[arg(long)]
    nats: String,
    #[arg(long)]
    redis: String,
    #[arg(long)]
    id: String,
    #[arg(long)]
    max_parallel: usize,
    /// Gets a line for each execution; several workers may share it.
    #[arg(long)]
    file: PathBuf,
}

impl WorkerArgs {
    /// The arguments as the program takes them.
    pub(crate) fn to_args(nats: String, redis: String, id: &str, slots: u16, file: &Path) -> Vec<String> {
        let pairs = [
            ("--nats", nats),
            ("--redis", redis),
            ("--id", id.to_owned()),
            ("--max-parallel", slots.to_string()),
            ("--file", file.display().to_string()),
        ];
        let pairs = pairs.into_iter().flat_map(|(name, value)| [name.to_owned(), value]);
        std::iter::once("crash-worker".to_owned()).chain(pairs).collect()
    }
}

/// Runs until SIGTERM, then drains.
pub(crate) async fn run(args: WorkerArgs) -> Outcome<()> {
    let file = Arc::new(OpenOptions::new().create(true).append(true).open(&args.file)?);
    let mut terminate = signal(SignalKind::terminate())?;
    let options = WorkerOptions {
        nats_url: args.nats,
        redis_url: args.redis,
        id: args.id,
        max_parallel: args.max_parallel,
        ..WorkerOptions::default()
    };
    let mut worker = connect(options).await?;
    worker.handle(ECHO, move |context, input| execute(Arc::clone(&file), context, input));
    let told = async move {
        terminate.recv().await;
    };
    Ok(worker.run(told).await?)
}

/// Servers that are being killed may be away just now.
async fn connect(options: WorkerOptions) -> Outcome<Worker> {
    loop {
        match Worker::connect(options.clone()).await {
            Err(error) if error.may_pass() => tokio::time::sleep(CONNECT_AGAIN_AFTER).await,
            other => return Ok(other?),
        }
    }
}

async fn execute(file: Arc<File>, context: Context, input: Value) -> Result<Value, Failure> {
    // One write of one line: appended whole, whoever else writes, and in the kernel's hands before the work goes on.
    (&*file).write_all(format!("{}\n", context.job_id()).as_bytes())?;
    Ok(input)
}

/// How often each job was executed, by the lines from a place in the file on.
pub(crate) fn read(file: &Path, from: usize) -> Outcome<BTreeMap<String, usize>> {
    let text = fs::read(file)?;
    let mut executions = BTreeMap::new();
    for line in std::str::from_utf8(text.get(from..).unwrap_or_default())?.lines() {
        *executions.entry(line.to_owned()).or_default() += 1;
    }
    Ok(executions)
}
