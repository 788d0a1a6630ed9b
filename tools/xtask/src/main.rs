//! The repository's own tools, one module per subcommand. `cargo xtask <subcommand> --help` tells more.

mod compare;
mod compose;
mod compose_local;
mod deploy;
mod figure;
mod openapi;
mod packs;
mod protos;
mod result;
mod schema;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Tools of this repository.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Compares results of `tools/bench` of two commits; `tools/bench compare` calls it.
    Compare(compare::Arguments),
    /// Runs the services of docker-compose.yml as processes of this machine; `tools/compose-local` calls it.
    ComposeLocal(compose_local::Arguments),
    /// Checks docker-compose.yml, deploy/ and the image's recipe; `tools/test deploy` calls it.
    Deploy(deploy::Arguments),
    /// Renews docs/openapi.json from the gateway's code.
    Openapi(openapi::Arguments),
    /// Builds the packs: guests for wasm, their tests and lints, the folders and the .tgz files in target/packs.
    Packs(packs::Arguments),
    /// Generates the committed Rust code of proto/.
    Protos(protos::Arguments),
    /// Puts results of `wire` and `work` into the published form; `tools/bench` calls it.
    Result(result::Arguments),
}

fn main() -> ExitCode {
    let outcome: Result<(), Box<dyn std::error::Error>> = match Arguments::parse().command {
        Command::Compare(arguments) => compare::run(&arguments),
        Command::ComposeLocal(arguments) => compose_local::run(&arguments).map_err(Into::into),
        Command::Deploy(arguments) => deploy::run(&arguments).map_err(Into::into),
        Command::Openapi(arguments) => openapi::run(&arguments),
        Command::Packs(arguments) => packs::run(&arguments).map_err(Into::into),
        Command::Protos(arguments) => protos::run(&arguments),
        Command::Result(arguments) => result::run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
