//! A small collector of traces for looking at them by hand: it prints each trace as a tree, a while after its last span came.
//!
//! ```text
//! cargo run -p busbar --example collector -- 127.0.0.1:4317
//! OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4317 target/debug/busbar dev
//! ```

#[path = "../tests/system/support/collector.rs"]
mod collector;

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use collector::{Collector, tree};

const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How many looks without a new span mean that a trace is whole.
const QUIET_LOOKS: u32 = 5;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address: SocketAddr = std::env::args().nth(1).as_deref().unwrap_or("127.0.0.1:4317").parse()?;
    let collector = Collector::default();
    let (address, _serving) = collector.serve(address).await?;
    writeln!(std::io::stdout(), "collecting on http://{address}")?;
    // How many spans each trace had at the last look, and for how many looks it has been so.
    let mut seen: BTreeMap<String, (usize, u32)> = BTreeMap::new();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let mut now: BTreeMap<String, usize> = BTreeMap::new();
        collector.find(|_| true).into_iter().for_each(|span| *now.entry(span.trace).or_default() += 1);
        for (trace, count) in now {
            let (known, quiet) = seen.entry(trace.clone()).or_default();
            *quiet = if *known == count { *quiet + 1 } else { 0 };
            *known = count;
            if *quiet == QUIET_LOOKS {
                let spans = collector.find(|span| span.trace == trace);
                writeln!(std::io::stdout(), "\ntrace {trace}\n{}", tree(&spans))?;
            }
        }
    }
}
