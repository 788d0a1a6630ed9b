//! Runs echo jobs on apalis: without an argument it speaks with the runner, with `work` it is a worker.

use std::env;
use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use apalis::prelude::*;
use apalis_redis::{Config, RedisStorage};
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::time::timeout;

type Failure = Box<dyn Error + Send + Sync>;

const CHUNK: u64 = 1000;
const RESULT_WITHIN: Duration = Duration::from_secs(30);
const STOP_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// The input of a job: the same as Busbar's own.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
struct Echo {
    number: u64,
    text: String,
}

impl Echo {
    fn new(number: u64) -> Self {
        Self { number, text: "the quick brown fox jumps over the lazy dog".to_owned() }
    }
}

/// One of the settings in `peer.json`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    processes: usize,
    batch: Option<usize>,
    concurrency: Option<usize>,
    /// Whether tasks are spawned on the runtime, instead of being polled by the worker alone.
    parallel: bool,
    /// Whether a client that waits looks by itself each millisecond; otherwise it uses the crate's own call.
    looks_often: bool,
}

#[derive(Debug, Deserialize)]
struct Ask {
    r#do: String,
    first: u64,
    jobs: u64,
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let options: Options = serde_json::from_str(&env::var("PEER_OPTIONS")?)?;
    match env::args().nth(1).as_deref() {
        Some("work") => work(&options).await,
        _ => serve(&options).await,
    }
}

async fn storage(options: &Options) -> Result<RedisStorage<Echo>, Failure> {
    let connection = apalis_redis::connect(env::var("PEER_REDIS_URL")?).await?;
    let config = Config::default().queue("jobs");
    let config = match options.batch {
        Some(batch) => config.batch_size(batch),
        None => config,
    };
    Ok(RedisStorage::new(connection).with_config(config))
}

/// Executes jobs until it is told to end.
async fn work(options: &Options) -> Result<(), Failure> {
    let file = PathBuf::from(env::var("PEER_DIR")?).join("done").join(std::process::id().to_string());
    let record = Arc::new(OpenOptions::new().append(true).create(true).open(file)?);
    let echo = move |job: Echo| {
        let record = Arc::clone(&record);
        async move { done(&record, job) }
    };
    let backend = storage(options).await?;
    let name = format!("worker-{}", std::process::id());
    let concurrency = options.concurrency.unwrap_or(usize::MAX >> 4);
    let mut end = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let ended = async move {
        end.recv().await;
        Ok::<(), std::io::Error>(())
    };
    let builder = WorkerBuilder::new(name).backend(backend);
    if options.parallel {
        builder.concurrency(concurrency).parallelize(tokio::spawn).build(echo).run_until(ended).await?;
    } else {
        builder.concurrency(concurrency).build(echo).run_until(ended).await?;
    }
    Ok(())
}

/// Writes down that a job was executed, in a file of this very process.
fn done(mut record: &File, job: Echo) -> Result<Echo, BoxDynError> {
    record.write_all(format!("{}\n", job.number).as_bytes())?;
    Ok(job)
}

/// Answers the runner until its end of the pipe is closed, and ends the workers then.
async fn serve(options: &Options) -> Result<(), Failure> {
    let mut storage = storage(options).await?;
    let workers = (0..options.processes).map(|_| worker()).collect::<Result<Vec<_>, _>>()?;
    say(&json!({ "ready": "apalis 1.0.0, apalis-redis 1.0.0, Rust release build" }))?;
    // Only one line is ever on its way, so that reading may block.
    for line in std::io::stdin().lock().lines() {
        let ask: Ask = serde_json::from_str(&line?)?;
        if ask.r#do == "submit" {
            submit(&mut storage, ask.first, ask.jobs).await?;
            say(&json!({ "submitted": ask.jobs }))?;
        } else {
            say(&json!({ "milliseconds": timed(&mut storage, options, ask.first, ask.jobs).await? }))?;
        }
    }
    for worker in workers {
        stop(worker).await?;
    }
    Ok(())
}

/// stdout is the runner's, so that what a worker says goes to stderr.
fn worker() -> Result<Child, Failure> {
    let stderr = Stdio::from(std::io::stderr());
    Ok(Command::new(env::current_exe()?).arg("work").stdin(Stdio::null()).stdout(stderr).kill_on_drop(true).spawn()?)
}

async fn stop(mut worker: Child) -> Result<(), Failure> {
    if let Some(pid) = worker.id() {
        Command::new("kill").arg(pid.to_string()).status().await?;
    }
    if timeout(STOP_WITHIN, worker.wait()).await.is_err() {
        worker.kill().await?;
    }
    Ok(())
}

fn say(message: &Value) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{message}")?;
    Ok(out.flush()?)
}

async fn submit(storage: &mut RedisStorage<Echo>, first: u64, jobs: u64) -> Result<(), Failure> {
    let end = first + jobs;
    for first in (first..end).step_by(usize::try_from(CHUNK)?) {
        storage.push_bulk((first..end.min(first + CHUNK)).map(Echo::new).collect()).await?;
    }
    Ok(())
}

/// Milliseconds of each of some jobs, one after the other.
async fn timed(storage: &mut RedisStorage<Echo>, options: &Options, first: u64, jobs: u64) -> Result<Vec<f64>, Failure> {
    let mut milliseconds = Vec::new();
    for number in first..first + jobs {
        let job = Echo::new(number);
        let started = Instant::now();
        let answer = timeout(RESULT_WITHIN, run(storage, options, job.clone())).await??;
        milliseconds.push(started.elapsed().as_secs_f64() * 1e3);
        if answer != job {
            return Err(format!("job {number} returned {answer:?}").into());
        }
    }
    Ok(milliseconds)
}

async fn run(storage: &mut RedisStorage<Echo>, options: &Options, job: Echo) -> Result<Echo, Failure> {
    let id = TaskId::from_string(format!("probe-{}", job.number));
    storage.push_task(TaskBuilder::new(job).task_id(id.clone()).build()).await?;
    if !options.looks_often {
        let mut results = WaitForCompletion::<Echo>::wait_for_single(storage, id);
        return Ok(results.next().await.ok_or("the results ended")??.take()?);
    }
    loop {
        let results: Vec<TaskResult<Echo>> = storage.check_status([id.clone()]).await?;
        match results.into_iter().next() {
            Some(result) => return Ok(result.take()?),
            None => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}
