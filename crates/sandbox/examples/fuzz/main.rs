//! `tools/fuzz guests`: random guests against the sandbox, for as long as is asked.
//!
//! ```text
//!  seed ──> case seeds ──> a guest of random calls, or a known one with changed bytes ──> load, run ──> what must hold
//! ```
//!
//! What must hold, whatever a guest does: no panic; nothing outside of its folder is changed, and nothing of it is left; nothing
//! of the host's is in what it says; it used no more than its limits; its end has a code of its own, not `internal`; and the same
//! guest under the same fuel and seed ends the same way again. What does not hold is printed with the seed of its case, which
//! alone brings it back: `--case`.

#![expect(clippy::print_stdout, reason = "this program reports on its standard output")]

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};

use crate::case::Case;
use crate::dice::Dice;
use crate::world::World;

mod case;
mod dice;
mod guests;
mod world;

/// Tries what nobody thought of.
#[derive(Parser)]
#[command(name = "fuzz")]
struct Options {
    #[command(subcommand)]
    target: Target,
}

#[derive(Subcommand)]
enum Target {
    /// Random guests in the sandbox.
    Guests(Guests),
}

#[derive(Parser)]
struct Guests {
    /// For how long.
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u64,
    /// Where the seeds of the cases come from; another one in each run unless given.
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Runs only the case with this seed, and shows its guest.
    #[arg(long, value_name = "S")]
    case: Option<u64>,
    /// Guests that are tried first, and then with changed bytes: `*.wat`.
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/fuzz/corpus"))]
    corpus: PathBuf,
}

fn main() -> ExitCode {
    let Options { target: Target::Guests(options) } = Options::parse();
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fuzz: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Guests) -> Result<(), Box<dyn Error>> {
    let corpus = corpus(&options.corpus)?;
    let mut world = World::new()?;
    if let Some(seed) = options.case {
        let case = Case::random(seed, &corpus);
        println!("{case}");
        println!("it ends with {}", world.try_out(&case)?);
        return Ok(());
    }
    let seed = options.seed.unwrap_or_else(|| u64::from(std::process::id()) ^ Dice::from_clock());
    println!("fuzz guests --seconds {} --seed {seed}", options.seconds);
    let mut ends: BTreeMap<&'static str, u64> = BTreeMap::new();
    for (name, wasm) in &corpus {
        let end = world.try_out(&Case::known(name, wasm)).map_err(|error| format!("{name}: {error}"))?;
        *ends.entry(end).or_default() += 1;
    }
    let mut seeds = Dice::new(seed);
    let until = Instant::now() + Duration::from_secs(options.seconds);
    while Instant::now() < until {
        let case = Case::random(seeds.roll(), &corpus);
        let end = world.try_out(&case).map_err(|error| format!("{error}\n{case}\nfuzz guests --case {}", case.seed()))?;
        *ends.entry(end).or_default() += 1;
    }
    let cases: u64 = ends.values().sum();
    println!("{cases} guests, every one of them held: {ends:?}");
    Ok(())
}

/// A guest of the corpus: its name, and its bytes.
type Known = (String, Vec<u8>);

/// The known guests, by name.
fn corpus(folder: &Path) -> Result<Vec<Known>, Box<dyn Error>> {
    let mut guests = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "wat") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            guests.push((name, wat::parse_file(&path)?));
        }
    }
    guests.sort();
    Ok(guests)
}
