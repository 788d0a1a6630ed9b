//! `tools/bench work`: what sandboxed work costs, beside others that do the same on this machine, in one run.
//!
//! ```text
//! guest under the real sandbox, one thread ─┐
//! PARI/GP, Math::Prime::Util, GMP ──────────┴─ in turn, several times ─► medians, raw figures, JSON
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
use serde_json::{Value, json};

mod contest;
mod peers;
mod starts;

/// Whatever stops a measurement.
type Outcome<T> = Result<T, Box<dyn Error>>;

/// What the command line says.
struct Options {
    runs: usize,
    packs: PathBuf,
    json: Option<PathBuf>,
}

const USAGE: &str = "usage: work [--runs N] [--packs DIR] [--json FILE]";

fn main() -> ExitCode {
    match options(std::env::args().skip(1)).and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("work: {error}");
            ExitCode::FAILURE
        }
    }
}

fn options(mut words: impl Iterator<Item = String>) -> Outcome<Options> {
    let mut options = Options { runs: 5, packs: "target/packs".into(), json: None };
    while let Some(word) = words.next() {
        let value = words.next().ok_or(USAGE)?;
        match word.as_str() {
            "--runs" => options.runs = value.parse::<usize>()?.max(1),
            "--packs" => options.packs = value.into(),
            "--json" => options.json = Some(value.into()),
            _ => return Err(USAGE.into()),
        }
    }
    Ok(options)
}

fn run(options: &Options) -> Outcome<()> {
    let scratch = tempfile::tempdir()?;
    let sandbox = Sandbox::new(SandboxConfig::new(scratch.path()))?;
    let bpsw = fs::read(options.packs.join("bpsw/bpsw.wasm"))?;
    let mut report = Vec::new();
    report.extend(starts::measure(&sandbox, &bpsw, options.runs)?);
    let module = load(&sandbox, &bpsw)?;
    for contest in contest::all() {
        report.push(contest.hold(&sandbox, &module, options.runs)?);
    }
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let whole = json!({ "load_at_end": load.trim(), "runs": options.runs, "rows": report });
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
