//! `ctl worker`: workers.

mod key;

use std::time::{Duration, Instant};

use busbar_api::{DrainList, DrainRequest, DrainView, PauseList, PauseRequest, PauseView, WorkerList, WorkerView};
use clap::{Args, Subcommand};

use crate::client::{Client, encode};
use crate::failure::Failure;
use crate::pause::{self, HowArgs};
use crate::render::{Output, table};
use crate::span;

/// How often is looked whether a worker holds nothing any more.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Subcommand)]
pub(crate) enum WorkerCommand {
    /// List all workers that the scheduler knows.
    List,
    /// Let a worker finish what it holds, and give it nothing new.
    Drain(DrainArgs),
    /// Give a drained worker work again.
    Undrain(WorkerArgs),
    /// Give a worker nothing until it is unblocked, or for a while.
    Block(BlockArgs),
    /// Give a blocked worker work again.
    Unblock(WorkerArgs),
    /// List the enrolled keys of CAP workers.
    Keys(key::KeysArgs),
    /// Enrol a key that a CAP worker may prove to have, in place of the one of that name.
    Enroll(key::EnrollArgs),
    /// Revoke an enrolled key; its sessions end at once.
    Revoke(key::RevokeArgs),
}

#[derive(Debug, Args)]
pub(crate) struct WorkerArgs {
    /// The worker.
    worker_id: String,
}

#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// The worker.
    worker_id: String,
    /// Why; it is shown to those who look.
    #[arg(long)]
    reason: Option<String>,
    /// Wait until it holds nothing.
    #[arg(long)]
    wait: bool,
    /// How long to wait at most, for example 10m.
    #[arg(long, value_name = "SPAN", value_parser = span::parse, requires = "wait")]
    timeout: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct BlockArgs {
    /// The worker.
    worker_id: String,
    #[command(flatten)]
    how: HowArgs,
}

pub(crate) fn run(command: WorkerCommand, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        WorkerCommand::List => {
            let workers: WorkerList = client.get("/api/v1/workers")?;
            output.show(&workers, || table(&HEADER, workers.items.iter().map(row)))
        }
        WorkerCommand::Drain(args) => drain(args, client, output),
        WorkerCommand::Undrain(args) => {
            let left: DrainList = client.delete_for(&path(&args.worker_id, "drain"))?;
            output.show(&left, || format!("worker {} gets work again", args.worker_id))
        }
        WorkerCommand::Block(args) => {
            let pause: PauseView = client.put(&path(&args.worker_id, "block"), &PauseRequest::from(args.how))?;
            output.show(&pause, || pause::sentence(&pause))
        }
        WorkerCommand::Unblock(args) => {
            let left: PauseList = client.delete_for(&path(&args.worker_id, "block"))?;
            output.show(&left, || format!("worker {} gets work again", args.worker_id))
        }
        WorkerCommand::Keys(args) => key::list(&args, client, output),
        WorkerCommand::Enroll(args) => key::enroll(args, client, output),
        WorkerCommand::Revoke(args) => key::revoke(&args, client, output),
    }
}

fn path(worker_id: &str, what: &str) -> String {
    format!("/api/v1/workers/{}/{what}", encode(worker_id))
}

fn drain(args: DrainArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    let drain: DrainView = client.post(&path(&args.worker_id, "drain"), &DrainRequest { reason: args.reason })?;
    if !args.wait {
        return output.show(&drain, || format!("worker {} drains", drain.worker_id));
    }
    wait_until_empty(&args.worker_id, args.timeout.map(Duration::from_millis), client)?;
    output.show(&drain, || format!("worker {} drains, and holds nothing", drain.worker_id))
}

/// Returns when the worker holds nothing, also because it is gone.
fn wait_until_empty(worker_id: &str, patience: Option<Duration>, client: &Client) -> Result<(), Failure> {
    let begun = Instant::now();
    loop {
        let workers: WorkerList = client.get("/api/v1/workers")?;
        let held = workers.items.iter().find(|worker| worker.id == worker_id).map_or(0, |worker| worker.in_flight);
        if held == 0 {
            return Ok(());
        }
        if patience.is_some_and(|patience| begun.elapsed() >= patience) {
            return Err(Failure::Failed(format!("worker {worker_id} still holds {held} attempts; it goes on to drain")));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

const HEADER: [&str; 9] = ["ID", "KIND", "POOL", "STATUS", "BUSY", "PREFETCH", "TYPE", "LAST SEEN", "TOPICS"];

fn row(worker: &WorkerView) -> Vec<String> {
    let topics = if worker.topics.is_empty() { "all of its pool".to_owned() } else { worker.topics.join(" ") };
    let id = if worker.shared { format!("{} (shared)", worker.id) } else { worker.id.clone() };
    let status = worker.reason.as_ref().map_or_else(|| worker.status.clone(), |why| format!("{} ({why})", worker.status));
    let prefetch = if worker.prefetch > 0 { worker.prefetch.to_string() } else { String::new() };
    vec![
        id,
        worker.kind.clone(),
        worker.pool.clone(),
        status,
        format!("{}/{}", worker.in_flight, worker.capacity),
        prefetch,
        worker.worker_type.clone(),
        worker.last_seen_at.clone(),
        topics,
    ]
}
