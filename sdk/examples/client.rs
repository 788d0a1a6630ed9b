//! A client: `cargo run -p busbar-sdk --example client -- --nats nats://… --redis redis://… --name Ada`

use std::io::Write as _;
use std::time::Duration;

use busbar_sdk::{Client, ClientOptions};
use clap::Parser;
use serde::{Deserialize, Serialize};

#[derive(Parser)]
struct Args {
    #[arg(long, env = "NATS_URL")]
    nats: String,
    #[arg(long, env = "REDIS_URL")]
    redis: String,
    #[arg(long, default_value = "world")]
    name: String,
}

#[derive(Serialize)]
struct Greet {
    name: String,
}

#[derive(Deserialize)]
struct Greeting {
    text: String,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let client = Client::connect(ClientOptions { nats_url: args.nats, redis_url: args.redis, ..Default::default() }).await?;
    let greeting: Greeting = client.run("job.default", &Greet { name: args.name }, Duration::from_secs(30)).await?;
    writeln!(std::io::stdout(), "{}", greeting.text)?;
    Ok(())
}
