//! `bench peers`: the same echo job on what a user could pick instead, in turn with ours.
//!
//! ```text
//!  round 1   Busbar ×3 settings ─► Celery ×3 ─► RQ ×3 ─► …          every turn: a server of its own, warm-up, bulk, one by one
//!  round 2…  the settings of each that were best in round 1, the order turned by one each time
//! ```
//!
//! Only one contestant runs at a time, on both cores with its client, its workers and its server. How long a measurement takes is
//! the same for all; how many jobs that are follows from what the contestant did while it warmed up.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};

use crate::document::Durable;
use crate::{Outcome, Report, machine, say};

mod adapter;
mod manifest;
mod ours;
mod record;
mod report;
mod store;
mod tree;
mod turn;

use manifest::Peers;
pub(crate) use ours::{Ours, SETTINGS};
use turn::{Contestant, Plan, Turn};

/// Echo jobs on peers.
#[derive(Clone, Debug, Args, Serialize)]
pub(crate) struct PeersArgs {
    /// Only these, by the names of their folders in tools/peers; Busbar always takes part.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// At most so many jobs are submitted at once.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..))]
    jobs: u64,
    /// So many rounds: the first with every setting, the others with the best.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// About so long each measurement shall take.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// At most so many jobs are timed one by one.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    probes: u64,
    /// What an acknowledged write survives, the same for everybody.
    #[arg(long, value_enum, default_value_t = Durable::Fast)]
    durability: Durable,
    /// The folder of the adapters.
    #[arg(long, value_name = "DIR", default_value = "tools/peers")]
    #[serde(skip)]
    adapters: PathBuf,
    /// The list of what is installed, which tools/bench writes.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    installed: PathBuf,
    /// Also write everything, raw figures included, to this file.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub(crate) json: Option<PathBuf>,
}

/// A turn that came to nothing.
#[derive(Clone, Debug, Serialize)]
struct Failed {
    of: String,
    setting: String,
    round: u64,
    why: String,
}

/// Measures.
pub(crate) async fn measure(args: &PeersArgs) -> Outcome<Report> {
    let machine = machine::with_durability(machine::describe()?, args.durability);
    let peers = Peers::read(&args.adapters.canonicalize()?, &args.installed)?;
    for (peer, why) in &peers.skipped {
        say(&format!("{peer} is skipped: {why}"));
    }
    let plan =
        Plan { seconds: args.seconds, jobs_max: args.jobs, probes_max: args.probes, durability: args.durability.for_servers() };
    let (mut turns, mut failed) = (Vec::new(), Vec::new());
    let all = contestants(&peers);
    for round in 1..=args.rounds {
        let mut these = if round == 1 { all.clone() } else { best_of(&all, &turns) };
        let shift = usize::try_from(round - 1)? % these.len().max(1);
        // Each round begins with another one, so that none is always the one on a warm or tired machine.
        these.rotate_left(shift);
        for contestant in these {
            one(&contestant, &plan, round, &mut turns, &mut failed).await?;
        }
    }
    let told: Vec<Value> = all.iter().map(|who| json!({ "of": who.name(), "setting": who.told() })).collect();
    Ok(report::report(args, &machine, &peers, &told, &turns, &failed))
}

fn contestants(peers: &Peers) -> Vec<Contestant<'_>> {
    let ours = SETTINGS.iter().map(Contestant::Busbar);
    let theirs =
        peers.there.iter().flat_map(|peer| peer.manifest.settings.iter().map(move |setting| Contestant::Peer(peer, setting)));
    ours.chain(theirs).collect()
}

/// One turn; whoever fails in it is told, and the others go on.
async fn one(
    contestant: &Contestant<'_>,
    plan: &Plan,
    round: u64,
    turns: &mut Vec<Turn>,
    failed: &mut Vec<Failed>,
) -> Outcome<()> {
    let temp = tempfile::Builder::new().prefix("busbar-bench-").tempdir()?;
    open_to_others(temp.path())?;
    match contestant.turn(plan, round, temp.path()).await {
        Ok(turn) => {
            let rate = format!("{:.0} jobs/s", turn.jobs_per_second);
            say(&format!("round {round}: {}, {}: {rate}, {} jobs", turn.of, turn.setting, turn.jobs));
            turns.push(turn);
        }
        Err(failure) => {
            let (of, setting) = (contestant.name().to_owned(), contestant.setting().to_owned());
            let why = crate::in_full(failure.as_ref());
            say(&format!("round {round}: {of}, {setting}: {why}"));
            failed.push(Failed { of, setting, round, why });
        }
    }
    Ok(())
}

/// PostgreSQL refuses to be root, and as somebody else it must reach its folder.
fn open_to_others(dir: &std::path::Path) -> Outcome<()> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o711))?)
}

/// The settings that the first round found best: one for throughput, and perhaps another one for latency.
fn best_of<'a>(all: &[Contestant<'a>], turns: &[Turn]) -> Vec<Contestant<'a>> {
    let names: BTreeSet<&str> = turns.iter().map(|turn| turn.of.as_str()).collect();
    let best: BTreeSet<(&str, &str)> = names
        .iter()
        .flat_map(|name| {
            let of = turns.iter().filter(move |turn| turn.of == *name && turn.round == 1);
            let fastest = of.clone().max_by(|a, b| a.jobs_per_second.total_cmp(&b.jobs_per_second));
            let soonest = of.min_by(|a, b| report::idle(a, 50).total_cmp(&report::idle(b, 50)));
            [fastest, soonest].into_iter().flatten().map(|turn| (turn.of.as_str(), turn.setting.as_str()))
        })
        .collect();
    all.iter().filter(|who| best.contains(&(who.name(), who.setting()))).copied().collect()
}
