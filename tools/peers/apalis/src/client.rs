//! The lines that the runner speaks, and what is done upon them; `README.md` in the folder above tells what they mean.

use std::process::Stdio;
use std::time::{Duration, Instant};

use apalis::prelude::{TaskBuilder, TaskId, TaskResult, TaskSink as _, WaitForCompletion};
use apalis_redis::RedisStorage;
use futures::StreamExt as _;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::Outcome;
use crate::queue::{Echo, Options};

const LOCK: &str = include_str!("../Cargo.lock");
const CHUNK: usize = 1000;
const STOP_WITHIN: Duration = Duration::from_secs(10);
const RESULT_WITHIN: Duration = Duration::from_secs(30);

/// What the runner asks for.
#[derive(Deserialize)]
struct Ask {
    #[serde(rename = "do")]
    what: What,
    first: u64,
    jobs: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum What {
    Submit,
    Probe,
}

/// Answers the runner until its end of the pipe is closed, and ends the workers then.
pub(crate) async fn serve() -> Outcome<()> {
    let options = Options::from_env()?;
    let workers = (0..options.processes).map(|_| start_worker()).collect::<Outcome<Vec<_>>>()?;
    let queue = options.queue().await?;
    let answered = Client { queue, options }.answer_all().await;
    for worker in workers {
        stop(worker).await?;
    }
    answered
}

fn start_worker() -> Outcome<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    // Whatever it says goes to stderr: stdout is the runner's.
    command.arg("worker").stdin(Stdio::piped()).stdout(std::io::stderr()).kill_on_drop(true);
    Ok(command.spawn()?)
}

async fn stop(mut worker: Child) -> Outcome<()> {
    drop(worker.stdin.take());
    if timeout(STOP_WITHIN, worker.wait()).await.is_err() {
        worker.kill().await?;
    }
    Ok(())
}

struct Client {
    queue: RedisStorage<Echo>,
    options: Options,
}

impl Client {
    async fn answer_all(mut self) -> Outcome<()> {
        say(&json!({ "ready": versions(&["apalis", "apalis-redis", "redis", "tokio"]) })).await?;
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        while let Some(line) = lines.next_line().await? {
            let ask: Ask = serde_json::from_str(&line)?;
            let jobs = (ask.first..ask.first + ask.jobs).map(Echo::new).collect::<Vec<_>>();
            let answer = match ask.what {
                What::Submit => self.submit(&jobs).await?,
                What::Probe => self.probe(&jobs).await?,
            };
            say(&answer).await?;
        }
        Ok(())
    }

    async fn submit(&mut self, jobs: &[Echo]) -> Outcome<Value> {
        for chunk in jobs.chunks(CHUNK) {
            self.queue.push_bulk(chunk.to_vec()).await?;
        }
        Ok(json!({ "submitted": jobs.len() }))
    }

    /// Runs jobs one after the other.
    async fn probe(&mut self, jobs: &[Echo]) -> Outcome<Value> {
        let mut milliseconds = Vec::with_capacity(jobs.len());
        for job in jobs {
            let started = Instant::now();
            let result = timeout(RESULT_WITHIN, self.run(job.clone())).await??;
            milliseconds.push(started.elapsed().as_secs_f64() * 1e3);
            if result != *job {
                return Err(format!("job {} returned {result:?}", job.number).into());
            }
        }
        Ok(json!({ "milliseconds": milliseconds }))
    }

    async fn run(&mut self, job: Echo) -> Outcome<Echo> {
        // A name that the client chooses: `push` does not tell the one that it draws.
        let id = TaskId::from_int(job.number);
        self.queue.push_task(TaskBuilder::new(job).task_id(id.clone()).build()).await?;
        let result = match self.options.result_milliseconds {
            Some(milliseconds) => self.look_for(&id, Duration::from_millis(milliseconds)).await?,
            None => self.queue.wait_for_single(id).next().await.ok_or("no result")??,
        };
        Ok(result.take()?)
    }

    /// What `wait_for` does, as often as is wanted: it knows no other interval than 100 ms.
    async fn look_for(&mut self, id: &TaskId, every: Duration) -> Outcome<TaskResult<Echo>> {
        loop {
            if let Some(result) = self.queue.check_status([id.clone()]).await?.pop() {
                return Ok(result);
            }
            sleep(every).await;
        }
    }
}

/// What was measured, in words.
fn versions(packages: &[&str]) -> String {
    packages.iter().map(|package| format!("{package} {}", version(package))).collect::<Vec<_>>().join(", ")
}

/// The version of a package as Cargo.lock has it.
fn version(package: &str) -> &'static str {
    let name = format!("name = \"{package}\"\nversion = \"");
    LOCK.split_once(&name).and_then(|(_, rest)| rest.split('"').next()).unwrap_or("?")
}

async fn say(answer: &Value) -> Outcome<()> {
    let mut stdout = tokio::io::stdout();
    stdout.write_all(format!("{answer}\n").as_bytes()).await?;
    Ok(stdout.flush().await?)
}
