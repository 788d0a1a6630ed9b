//! A worker for tests that kill: it writes down when an attempt starts and ends, so that executions can be counted.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use busbar_sdk::{Context, Failure, Worker, WorkerOptions};
use clap::Parser;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Parser)]
struct Args {
    #[arg(long, env = "NATS_URL")]
    nats: String,
    #[arg(long, env = "REDIS_URL")]
    redis: String,
    #[arg(long, default_value = "sleeper")]
    id: String,
    #[arg(long, default_value = "default")]
    pool: String,
    #[arg(long, default_value_t = 4)]
    max_parallel: usize,
    /// Gets a line `<job> <attempt> start` or `end` for each; several workers may share it.
    #[arg(long, env = "SLEEPER_FILE")]
    file: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sleep {
    ms: u64,
}

/// One write of one line: appended whole, whoever else writes, and in the kernel's hands before the work goes on.
fn note(mut file: &File, context: &Context, what: &str) -> std::io::Result<()> {
    file.write_all(format!("{} {} {what}\n", context.job_id(), context.attempt()).as_bytes())
}

async fn sleep(file: Arc<File>, context: Context, input: Sleep) -> Result<Value, Failure> {
    note(&file, &context, "start")?;
    tokio::select! {
        () = tokio::time::sleep(Duration::from_millis(input.ms)) => {}
        () = context.cancelled() => return Err(Failure::cancelled()),
    }
    note(&file, &context, "end")?;
    Ok(json!({ "slept": input.ms }))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let file = Arc::new(OpenOptions::new().create(true).append(true).open(&args.file)?);
    let options = WorkerOptions {
        nats_url: args.nats,
        redis_url: args.redis,
        id: args.id,
        pool: args.pool,
        max_parallel: args.max_parallel,
        ..WorkerOptions::default()
    };
    let mut worker = Worker::connect(options).await?;
    worker.handle("job.test.sleep", move |context, input| sleep(Arc::clone(&file), context, input));
    worker.run(async { drop(tokio::signal::ctrl_c().await) }).await?;
    Ok(())
}
