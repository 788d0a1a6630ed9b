//! The repository's own tools, one module per subcommand. `cargo xtask <subcommand> --help` tells more.

mod packs;
mod protos;

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
    /// Builds the packs: guests for wasm, their tests and lints, the folders and the .tgz files in target/packs.
    Packs(packs::Arguments),
    /// Generates the committed Rust code of proto/.
    Protos(protos::Arguments),
}

fn main() -> ExitCode {
    let outcome: Result<(), Box<dyn std::error::Error>> = match Arguments::parse().command {
        Command::Packs(arguments) => packs::run(&arguments).map_err(Into::into),
        Command::Protos(arguments) => protos::run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
