//! `ctl demo`: real work, checked. A client like any other: it submits jobs, starts runs, follows the stream, and compares.
//!
//! ```text
//!  1. 2,000 echo jobs                                   every answer equals its input
//!  2. runs of bpsw.search, one for each range           primes and pseudoprimes against known values
//!  3. text files ─► artifacts ─► runs of wordcount.count    against a count of our own
//! ```

mod collect;
mod echo;
mod primes;
mod texts;
mod words;

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;

use crate::client::Client;
use crate::failure::Failure;
use crate::render::{Output, line};

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// The folder whose text files are counted. Default: `docs` in the current folder.
    #[arg(long, value_name = "DIR")]
    text: Option<PathBuf>,
    /// How many echo jobs to run first.
    #[arg(long, default_value_t = 2000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    echo_jobs: u32,
}

/// What was wrong, over all parts: the tables are shown first.
type Findings = Vec<String>;

pub(crate) fn run(args: &DemoArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    if output.is_json() {
        return Err(Failure::Usage("the demo shows tables only: leave out `-o json`".to_owned()));
    }
    let dir = args.text.clone().unwrap_or_else(|| PathBuf::from("docs"));
    // What cannot be read is told before any work is done.
    let files = texts::find(&dir)?;
    let began = Instant::now();
    let mut findings = Findings::new();

    line(&format!("Echo: {} jobs that give their input back", args.echo_jobs))?;
    let first = echo::run(client, args.echo_jobs, &mut findings)?;
    line("\nBaillie-PSW: every odd number of real ranges")?;
    primes::run(client, &mut findings)?;
    line(&format!("\nWord count: the files of {}", dir.display()))?;
    texts::run(client, &files, &mut findings)?;

    if let Some(finding) = findings.first() {
        let told = format!("{} of the results are wrong, the first: {finding}", findings.len());
        return Err(Failure::Failed(told));
    }
    line(&format!("\nAll results are right. The demo took {:.1} s.\n\nTo look further:", began.elapsed().as_secs_f64()))?;
    line("  ctl status                                  the stack, and how busy it is")?;
    line("  ctl top                                     the same, live")?;
    line("  ctl worker list                             who works")?;
    line("  ctl run list                                the runs, and how they ended")?;
    line("  ctl job list --topic job.bpsw.main_odds     the last jobs of a topic")?;
    line(&format!("  ctl job get {first}"))?;
    line("  ctl job submit job.wordcount.map --input '{\"text\":\"to be or not to be\"}' --wait")?;
    line("  ctl explain limit_cpu                       what an error code means")
}
