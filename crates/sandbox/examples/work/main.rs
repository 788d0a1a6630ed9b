//! `tools/bench work`: what sandboxed work costs, beside others that do the same on this machine, in one run.
//!
//! ```text
//! guest under the real sandbox, one thread ─┐
//! PARI/GP, Math::Prime::Util, GMP ──────────┤
//! the same program, built natively ─────────┴─ in turn, several times ─► medians, raw figures, JSON
//! ```
//!
//! It judges nothing, except that all must have counted the same. A peer that is not installed is named as skipped.

#![expect(clippy::print_stdout, reason = "this program reports on its standard output")]

use std::convert::Infallible;
use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use busbar_protocol::pointers::Sha256Hex;
use busbar_sandbox::{Module, Sandbox, SandboxConfig};
use bytes::Bytes;
use clap::Parser;
use serde_json::{Value, json};

mod contest;
mod peers;
mod starts;
mod words;

/// Whatever stops a measurement.
type Outcome<T> = Result<T, Box<dyn Error>>;

/// Measures sandboxed guests beside others that do the same.
#[derive(Parser)]
#[command(name = "work")]
struct Options {
    /// How often each of them runs.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Where the built packs are.
    #[arg(long, value_name = "DIR", default_value = "target/packs")]
    packs: PathBuf,
    /// The wordcount guest's program, built for this machine; without it, its row is left out.
    #[arg(long, value_name = "FILE")]
    wordcount: Option<PathBuf>,
    /// Where every raw figure goes.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("work: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Outcome<()> {
    let scratch = tempfile::tempdir()?;
    let sandbox = Sandbox::new(SandboxConfig::new(scratch.path()))?;
    let bpsw = fs::read(options.packs.join("bpsw/bpsw.wasm"))?;
    let runs = usize::from(options.runs);
    let mut report = Vec::new();
    report.extend(starts::measure(&sandbox, &bpsw, runs)?);
    let module = load(&sandbox, &bpsw)?;
    for contest in contest::all() {
        report.push(contest.hold(&sandbox, &module, runs)?);
    }
    if let Some(native) = &options.wordcount {
        report.push(words::measure(&sandbox, &options.packs, native, runs)?);
    }
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let whole = json!({ "load_at_end": load.trim(), "runs": runs, "rows": report });
    if let Some(file) = &options.json {
        fs::write(file, serde_json::to_vec_pretty(&whole)?)?;
    }
    println!("{whole}");
    Ok(())
}

fn load(sandbox: &Sandbox, wasm: &[u8]) -> Outcome<Module> {
    Ok(sandbox.load(&Sha256Hex::of(wasm), || Ok::<_, Infallible>(Bytes::copy_from_slice(wasm)))?)
}

/// The one in the middle.
fn median(raw: &[f64]) -> f64 {
    let mut sorted = raw.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// One figure with everything it comes from.
fn row(what: &str, unit: &str, raw: &[f64]) -> Value {
    println!("{what:<58} {:>14.3} {unit}   {raw:.3?}", median(raw));
    json!({ "what": what, "unit": unit, "median": median(raw), "raw": raw })
}
