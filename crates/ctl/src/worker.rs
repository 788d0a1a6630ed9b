//! `ctl worker`: workers.

use busbar_api::{WorkerList, WorkerView};
use clap::Subcommand;

use crate::client::Client;
use crate::failure::Failure;
use crate::render::{Output, table};

#[derive(Debug, Subcommand)]
pub(crate) enum WorkerCommand {
    /// List all workers that the scheduler knows.
    List,
}

pub(crate) fn run(command: &WorkerCommand, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        WorkerCommand::List => list(client, output),
    }
}

fn list(client: &Client, output: &Output) -> Result<(), Failure> {
    let workers: WorkerList = client.get("/api/v1/workers")?;
    let header = ["ID", "KIND", "POOL", "STATUS", "BUSY", "LAST SEEN", "TOPICS"];
    output.show(&workers, || table(&header, workers.items.iter().map(row)))
}

fn row(worker: &WorkerView) -> Vec<String> {
    let topics = if worker.topics.is_empty() { "all of its pool".to_owned() } else { worker.topics.join(" ") };
    let id = if worker.shared { format!("{} (shared)", worker.id) } else { worker.id.clone() };
    let busy = format!("{}/{}", worker.in_flight, worker.capacity);
    vec![id, worker.kind.clone(), worker.pool.clone(), worker.status.clone(), busy, worker.last_seen_at.clone(), topics]
}
