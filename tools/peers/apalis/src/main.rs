//! Runs echo jobs on apalis: the adapter that the runner speaks with, or with the argument `worker` one of its workers.

mod client;
mod queue;
mod worker;

use std::error::Error;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Outcome<()> {
    match std::env::args().nth(1).as_deref() {
        None => client::serve().await,
        Some("worker") => worker::run().await,
        Some(other) => Err(format!("neither the adapter nor a worker: {other}").into()),
    }
}
