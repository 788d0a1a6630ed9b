//! `ctl`: the operator's command line. Everything goes over the gateway's HTTP interface; nothing is known here that others could
//! not know.
//!
//! ```text
//!  arguments ─► the stack (endpoints.json, or --url) ─► one request, or a few ─► a table or JSON on stdout
//!                                                └► the live stream ─► lines, a bar, a picture
//! ```
//!
//! Exit codes: 0 done, 1 refused or failed (code, detail and a hint on stderr), 2 wrong usage.

mod bench;
mod client;
mod demo;
mod dlq;
mod endpoint;
mod explain;
mod failure;
mod hunt;
mod job;
mod job_explain;
mod limits;
mod pack;
mod pause;
mod progress;
mod rate;
mod render;
mod run;
mod runs;
mod span;
mod status;
mod stream;
mod top;
mod watch;
mod wordcount;
mod worker;
mod workflow;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::endpoint::StackArgs;
use crate::failure::Failure;
use crate::render::{Format, Output};

/// Submits and follows jobs, and shows what the stack is doing.
#[derive(Debug, Parser)]
#[command(name = "ctl", version, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Global {
    #[command(flatten)]
    stack: StackArgs,
    /// How answers are shown.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    output: Format,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Submit jobs, look at them, follow them, end them.
    #[command(subcommand)]
    Job(job::JobCommand),
    /// Save workflows, look at them, take them away.
    #[command(subcommand)]
    Workflow(workflow::WorkflowCommand),
    /// Start runs of workflows, look at them, follow them, end them.
    #[command(subcommand)]
    Run(run::RunCommand),
    /// Look at workers, drain and block them.
    #[command(subcommand)]
    Worker(worker::WorkerCommand),
    /// Pause pools, topics, tenants, keys and workers, and resume them.
    #[command(subcommand)]
    Pause(pause::PauseCommand),
    /// Look at and change what tenants and topics may use.
    #[command(subcommand)]
    Limits(limits::LimitsCommand),
    /// Look at dead letters, try them again, throw them away.
    #[command(subcommand)]
    Dlq(dlq::DlqCommand),
    /// Build, install, look at and uninstall packs.
    #[command(subcommand)]
    Pack(pack::PackCommand),
    /// Count the words of files, folders and patterns: the pack `wordcount` does it.
    Wordcount(wordcount::WordcountArgs),
    /// Search for counterexamples to primality tests, and come back to it: the pack `bpsw` does it.
    #[command(subcommand)]
    Hunt(hunt::HuntCommand),
    /// Show the state of the stack.
    Status,
    /// Show the cell at a glance, again and again.
    Top(top::TopArgs),
    /// Measure how many jobs a second the cell does, and how late.
    Bench(bench::BenchArgs),
    /// Tell what an error code means and what to do.
    Explain(explain::ExplainArgs),
    /// Run the demonstration: echo jobs, prime numbers, and the words of real text files, all checked.
    Demo(demo::DemoArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads us has seen enough, as `head` does.
        Err(Failure::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            let mut stderr = std::io::stderr().lock();
            let _ = writeln!(stderr, "error: {failure}");
            if let Some(hint) = failure.hint() {
                let _ = writeln!(stderr, "hint: {hint}");
            }
            failure.exit_code()
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let output = Output::new(cli.global.output);
    let stack = || endpoint::connect(&cli.global.stack);
    match cli.command {
        Command::Job(command) => job::run(command, &stack()?, &output),
        Command::Workflow(command) => workflow::run(&command, &stack()?, &output),
        Command::Run(command) => run::run(command, &stack()?, &output),
        Command::Worker(command) => worker::run(command, &stack()?, &output),
        Command::Pause(command) => pause::run(command, &stack()?, &output),
        Command::Limits(command) => limits::run(command, &stack()?, &output),
        Command::Dlq(command) => dlq::run(command, &stack()?, &output),
        Command::Pack(command) => pack::run(&command, stack, &output),
        Command::Wordcount(args) => wordcount::run(&args, &stack()?, &output),
        Command::Hunt(command) => hunt::run(&command, stack, &output),
        Command::Status => status::run(&stack()?, &output),
        Command::Top(args) => top::run(&args, &stack()?, &output),
        Command::Bench(args) => bench::run(&args, &stack()?, &output),
        Command::Explain(args) => explain::run(&args, &output),
        Command::Demo(args) => demo::run(&args, &stack()?, &output),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_arguments_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_may_stand_anywhere() {
        for line in ["ctl -o json job get a", "ctl job -o json get a", "ctl job get a -o json"] {
            let cli = Cli::try_parse_from(line.split(' ')).expect(line);
            assert_eq!(cli.global.output, Format::Json, "{line}");
        }
        assert!(Cli::try_parse_from(["ctl", "job", "get"]).is_err());
    }
}
