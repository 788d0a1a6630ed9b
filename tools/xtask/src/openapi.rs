//! `cargo xtask openapi`: renews the committed copy of the gateway's OpenAPI document.
//!
//! The gateway's own test writes it, so that this tool need not be built from the gateway.

use std::error::Error;
use std::process::Command;

/// The test that compares the committed document with the code, and writes it where it is told to.
const TEST: &str = "openapi::tests::the_committed_document_is_the_one_that_is_served";
/// Tells it to.
const RENEW: &str = "BUSBAR_RENEW_OPENAPI";

/// What to do with the document.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Write nothing; fail when what is committed differs.
    #[arg(long)]
    check: bool,
}

/// Runs the subcommand, from anywhere in the repository.
///
/// # Errors
/// The gateway does not build, or with `--check` the document differs.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let mut cargo = Command::new("cargo");
    cargo.args(["test", "--quiet", "--package", "busbar-gateway", "--lib", "--", "--exact", TEST]);
    if !arguments.check {
        cargo.env(RENEW, "1");
    }
    if cargo.status()?.success() { Ok(()) } else { Err("docs/openapi.json was not renewed, or differs".into()) }
}
