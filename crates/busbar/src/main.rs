//! The server binary: every role, and the development stack.
//!
//! ```text
//!  busbar scheduler | gateway | safety-kernel      one role, against servers that are there
//!  busbar dev                                      nats-server, redis-server, every role, workers
//!
//!  main: command line ─► configuration ─► log ─► roles or dev, until a signal ─► drain ─► end
//! ```

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use busbar_service::config::print;
use busbar_service::telemetry;
use clap::Parser as _;

use crate::cli::{Cli, Command, ConfigArgs};
use crate::config::Config;
use crate::failure::Failure;
use crate::roles::Role;

mod cli;
mod config;
mod dev;
mod failure;
mod roles;

/// How long work may hold up the end of the process after everything was told to end.
const RUNTIME_GRACE: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // When stderr is gone there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "busbar: {}", failure.in_full());
            failure.exit_code()
        }
    }
}

fn run(cli: &Cli) -> Result<(), Failure> {
    let args = match &cli.command {
        Command::Scheduler(args) | Command::Gateway(args) | Command::SafetyKernel(args) => args,
        Command::Dev(args) => &args.config,
    };
    let config = Config::of_process(args)?;
    if only_shown(args, &config)? {
        return Ok(());
    }
    telemetry::init(&config.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::Runtime)?;
    let ended = runtime.block_on(async {
        match &cli.command {
            Command::Scheduler(_) => roles::run(Role::Scheduler, &config).await,
            Command::Gateway(_) => roles::run(Role::Gateway, &config).await,
            Command::SafetyKernel(_) => roles::run(Role::SafetyKernel, &config).await,
            Command::Dev(args) => dev::run(args, config).await,
        }
    });
    runtime.shutdown_timeout(RUNTIME_GRACE);
    ended
}

/// Whether the configuration was all that was asked for.
fn only_shown(args: &ConfigArgs, config: &Config) -> Result<bool, Failure> {
    let mut stdout = std::io::stdout();
    if args.print_config {
        stdout.write_all(print(config).as_bytes()).map_err(Failure::Output)?;
    } else if args.check_config {
        writeln!(stdout, "the configuration is good").map_err(Failure::Output)?;
    }
    Ok(args.print_config || args.check_config)
}
