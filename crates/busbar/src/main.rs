//! The server binary: every role, and the development stack.
//!
//! ```text
//!  busbar scheduler | gateway | safety-kernel | workflow-engine      one role, against servers that are there
//!  busbar dev                                                        nats-server, redis-server, every role, workers
//!  busbar key | probe                                                API keys; a question for health checks
//!  busbar conformance                                                answers CAP's conformance kit
//!
//!  main: command line ─► configuration ─► log ─► roles or dev, until a signal ─► drain ─► end
//! ```

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use busbar_service::config::print;
use busbar_service::telemetry;
use clap::Parser as _;
use mimalloc::MiMalloc;
use tokio::runtime::Runtime;

use crate::cli::{Cli, Command, ConfigArgs};
use crate::config::Config;
use crate::failure::Failure;
use crate::roles::Role;

mod cli;
mod config;
mod conformance;
mod dev;
mod failure;
mod keys;
mod probe;
mod roles;

/// A third of the processor time of this program was the system's allocator: docs/performance.md.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

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
    match &cli.command {
        Command::Scheduler(args) => one_role(Role::Scheduler, args),
        Command::Gateway(args) => one_role(Role::Gateway, args),
        Command::SafetyKernel(args) => one_role(Role::SafetyKernel, args),
        Command::WorkflowEngine(args) => one_role(Role::WorkflowEngine, args),
        Command::Dev(args) => configured("dev", &args.config, async |config| dev::run(args, config).await),
        Command::Key(command) => configured("key", command.config(), async |config| keys::run(command, &config).await),
        // A health check must not depend on what the configuration says.
        Command::Probe { url } => Ok(runtime()?.block_on(probe::probe(url))?),
        Command::Conformance { without } => {
            Ok(conformance::talk(without.as_deref(), &mut std::io::stdin().lock(), &mut std::io::stdout().lock())?)
        }
    }
}

fn one_role(role: Role, args: &ConfigArgs) -> Result<(), Failure> {
    configured(role.name(), args, async |config| roles::run(role, &config).await)
}

/// Does something with the configuration, or only shows it. The log tells the name.
fn configured(
    name: &'static str,
    args: &ConfigArgs,
    work: impl AsyncFnOnce(Config) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let config = Config::of_process(args)?;
    if only_shown(args, &config)? {
        return Ok(());
    }
    telemetry::init(&config.log, roles::process(name))?;
    let runtime = runtime()?;
    let ended = runtime.block_on(work(config));
    runtime.shutdown_timeout(RUNTIME_GRACE);
    ended
}

fn runtime() -> Result<Runtime, Failure> {
    busbar_service::runtime::build().map_err(Failure::Runtime)
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
