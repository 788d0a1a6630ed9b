//! `tools/chaos`: breaks a running cell at random, again and again, under a load of many kinds of jobs, and counts what is left.
//!
//! ```text
//!  plan (seed) ──► faults ── kill -9, SIGSTOP and CONT, SIGTERM ──► nats, redis, kernel, schedulers, gateway, workers
//!  load ── tenants, keys, parents, cancels ──► submissions that are repeated until they are acknowledged ──► ledger
//!  watch ── the log in Redis, read behind the back of every service ──► ends
//!  workers ── a line for each execution ──► file
//!                                         at rest: ledger, ends and file side by side ──► verdict
//! ```
//!
//! `worker` is the native worker of this, and of the system tests that need one that fails or dies when told; `cap` has those that speak CAP alone.

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod admit;
mod cap;
mod cell;
mod chance;
mod faults;
mod ledger;
mod load;
mod mix;
mod verdict;
mod watch;
mod worker;

/// Whatever stops the run itself.
type Failure = Box<dyn std::error::Error + Send + Sync>;
type Outcome<T> = Result<T, Failure>;

/// Breaks a cell at random and counts what is left.
#[derive(Debug, Parser)]
#[command(name = "chaos")]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Faults of every kind under a mixed load.
    Mix(mix::MixArgs),
    /// A worker, or many in one process, whose jobs fail or kill it when told.
    Worker(worker::WorkerArgs),
    /// A worker as CAP SDKs make it.
    CapWorker(cap::CapWorkerArgs),
}

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    let good = match Cli::parse().what {
        What::Mix(args) => runtime.block_on(mix::run(&args)),
        What::Worker(args) => runtime.block_on(worker::run(args)).map(|()| true),
        What::CapWorker(args) => runtime.block_on(cap::run(args)).map(|()| true),
    };
    match good {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => failed(failure.as_ref()),
    }
}

fn failed(failure: &(dyn std::error::Error + 'static)) -> ExitCode {
    let causes = std::iter::successors(failure.source(), |cause| cause.source());
    say(&causes.fold(failure.to_string(), |text, cause| format!("{text}: {cause}")));
    ExitCode::from(2)
}

/// Says on stderr what is being done.
fn say(what: &str) {
    // When stderr is gone there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "chaos: {what}");
}
