//! A worker: `cargo run -p busbar-sdk --example worker -- --nats nats://… --redis redis://…`

use busbar_sdk::{Context, Failure, Worker, WorkerOptions};
use clap::Parser;
use serde::{Deserialize, Serialize};

#[derive(Parser)]
struct Args {
    #[arg(long, env = "NATS_URL")]
    nats: String,
    #[arg(long, env = "REDIS_URL")]
    redis: String,
}

#[derive(Deserialize)]
struct Greet {
    name: String,
}

#[derive(Serialize)]
struct Greeting {
    text: String,
}

async fn greet(context: Context, input: Greet) -> Result<Greeting, Failure> {
    context.log(format!("greeting {}", input.name));
    context.progress(50, "thinking of words");
    Ok(Greeting { text: format!("Hello, {}!", input.name) })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let mut worker = Worker::connect(WorkerOptions { nats_url: args.nats, redis_url: args.redis, ..Default::default() }).await?;
    worker.handle("job.default", greet);
    worker.run(async { drop(tokio::signal::ctrl_c().await) }).await?;
    Ok(())
}
