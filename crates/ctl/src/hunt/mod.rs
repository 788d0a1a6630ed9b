//! `ctl hunt`: searches for numbers that are not what a test calls them, as runs of the pack `bpsw`.
//!
//! ```text
//!  kind, range ─► a run of bpsw.search ─► watched until its end, or left alone ─► what it found
//! ```
//!
//! A hunt is a run like any other: it lives in the cell, whether somebody watches or not.

mod construction;
mod decimal;
mod follow;
mod plan;

use std::io::Write as _;

use busbar_api::{RunCancelReply, RunHoldReply, RunList, RunState, RunView, StartReply};
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use self::construction::Suiting;
use self::follow::lasting;
use self::plan::PlanArgs;
use crate::client::{Client, encode};
use crate::failure::{Failure, ended_badly};
use crate::render::{Output, grouped, pairs, table};
use crate::runs;

const WORKFLOW: &str = "bpsw.search";

#[derive(Debug, Subcommand)]
pub(crate) enum HuntCommand {
    /// Search for counterexamples to the Baillie-PSW primality test, and watch.
    Bpsw(BpswArgs),
    /// List hunts, the newest first.
    List(ListArgs),
    /// Watch a hunt until its end.
    Watch(HuntArgs),
    /// Let a hunt start nothing more for now; what its workers are at goes on to its end.
    Pause(HuntArgs),
    /// Let a paused hunt go on.
    Resume(HuntArgs),
    /// End a hunt.
    Cancel(HuntArgs),
}

#[derive(Debug, Args)]
pub(crate) struct BpswArgs {
    #[command(flatten)]
    plan: PlanArgs,
    /// Only start it.
    #[arg(long)]
    no_watch: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// How many at most.
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    limit: u32,
}

#[derive(Debug, Args)]
pub(crate) struct HuntArgs {
    /// The hunt: its run.
    run_id: String,
}

/// What a hunt gives back.
#[derive(Debug, Deserialize, Serialize)]
struct Found {
    kind: String,
    from: String,
    to: String,
    mode: String,
    parts: u64,
    checked: u64,
    primes: u64,
    spsp2: u64,
    slpsp: u64,
    #[serde(default)]
    counters: Vec<Map<String, Value>>,
    /// Of pomerance_modular: the primes that suit its construction.
    #[serde(default)]
    suiting_primes: Vec<String>,
    /// Of pomerance_modular: the primes of its moduli.
    #[serde(default)]
    m_primes: Vec<u32>,
    #[serde(default)]
    n_primes: Vec<u32>,
    /// Of products of pomerance_modular: what they are asked for a remainder by, and whether that is less than the construction wants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    modulus: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    calibration: Option<bool>,
    counterexamples: Vec<Value>,
    refused: Vec<Value>,
    opinions: u64,
    opinions_elsewhere: u64,
    digests: Vec<String>,
}

pub(crate) fn run(command: &HuntCommand, stack: impl Fn() -> Result<Client, Failure>, output: &Output) -> Result<(), Failure> {
    match command {
        HuntCommand::Bpsw(args) => start(args, &stack, output),
        HuntCommand::List(args) => list(args, &stack()?, output),
        HuntCommand::Watch(args) => watch(&args.run_id, &stack, output),
        HuntCommand::Pause(args) => hold(&args.run_id, "pause", &stack()?, output),
        HuntCommand::Resume(args) => hold(&args.run_id, "resume", &stack()?, output),
        HuntCommand::Cancel(args) => {
            let reply: RunCancelReply = stack()?.post(&format!("{}/cancel", path(&args.run_id)), &())?;
            output.show(&reply, || format!("{}  {}", reply.run_id, reply.state))
        }
    }
}

fn path(run_id: &str) -> String {
    format!("/api/v1/workflow-runs/{}", encode(run_id))
}

fn start(args: &BpswArgs, stack: &impl Fn() -> Result<Client, Failure>, output: &Output) -> Result<(), Failure> {
    let client = stack()?;
    let construction = args.plan.construction.resolve(|run_id| suiting(&client, run_id))?;
    let reply: StartReply = client.post(&format!("/api/v1/workflows/{WORKFLOW}/runs"), &args.plan.input(&construction)?)?;
    if args.no_watch {
        return output.show(&reply, || format!("{}  {}", reply.run_id, reply.state));
    }
    // Said before it can be interrupted: afterwards nobody is there to say it.
    let _ = writeln!(
        std::io::stderr(),
        "hunt {} has begun, and goes on without us: Ctrl-C ends only this view.\n\
         come back with `ctl hunt watch {0}`; or `ctl hunt pause {0}`, `ctl hunt cancel {0}`",
        reply.run_id
    );
    watch(&reply.run_id, stack, output)
}

/// What an earlier hunt has found for the construction.
fn suiting(client: &Client, run_id: &str) -> Result<Suiting, Failure> {
    let view: RunView = client.get(&path(run_id))?;
    if view.state != RunState::Succeeded {
        return Err(Failure::Failed(format!("the hunt {run_id} is {}: it has not found all of its primes", view.state)));
    }
    let found: Found = runs::output(client, &view)?;
    Ok(Suiting { m: found.m_primes, n: found.n_primes, primes: found.suiting_primes })
}

fn hold(run_id: &str, verb: &str, client: &Client, output: &Output) -> Result<(), Failure> {
    let reply: RunHoldReply = client.post(&format!("{}/{verb}", path(run_id)), &())?;
    output.show(&reply, || format!("{}  {}", reply.run_id, reply.state))
}

fn list(args: &ListArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    let list: RunList = client.get(&format!("/api/v1/workflow-runs?workflow_id={WORKFLOW}&limit={}", args.limit))?;
    output.show(&list, || {
        let row = |view: &RunView| {
            let error = view.error.as_ref().map(|error| error.code.clone()).unwrap_or_default();
            vec![
                view.run_id.clone(),
                view.state.to_string(),
                view.created_at.clone(),
                view.ended_at.clone().unwrap_or_default(),
                error,
            ]
        };
        table(&["HUNT", "STATE", "STARTED", "ENDED", "ERROR"], list.items.iter().map(row))
    })
}

fn watch(run_id: &str, stack: &impl Fn() -> Result<Client, Failure>, output: &Output) -> Result<(), Failure> {
    let (client, view) = follow::follow(stack, run_id)?;
    if view.state != RunState::Succeeded {
        let (code, message) = view.error.as_ref().map_or(("", ""), |error| (&error.code, &error.message));
        return Err(ended_badly(&format!("the hunt {run_id}"), view.state, code, message));
    }
    let found: Found = runs::output(&client, &view)?;
    output.show(&found, || words(&found, &view))
}

fn words(found: &Found, view: &RunView) -> String {
    let census = |count: u64| if found.mode == "census" { grouped(count) } else { String::new() };
    // What other kinds count has names of its own.
    let ranged = found.counters.is_empty();
    let mut facts = vec![
        ("kind", if ranged { format!("{} ({})", found.kind, found.mode) } else { found.kind.clone() }),
        ("from", found.from.clone()),
        ("to", found.to.clone()),
        ("jobs", grouped(found.parts)),
        ("checked", grouped(found.checked)),
        ("primes", if ranged { grouped(found.primes) } else { String::new() }),
        ("strong base-2 pseudoprimes", census(found.spsp2)),
        ("strong Lucas pseudoprimes", census(found.slpsp)),
        ("suiting primes", found.suiting_primes.join(" ")),
        ("modulus", found.modulus.clone().unwrap_or_default()),
    ];
    if found.calibration == Some(true) {
        facts.push((
            "calibration",
            "there are too few primes for the whole modulus; products keep part of the conditions".to_owned(),
        ));
    }
    facts.extend(added_up(&found.counters).into_iter().map(|(name, count)| (name, grouped(count))));
    facts.push(("took", lasting(runs::elapsed(view))));
    if found.opinions > 0 {
        let (opinions, elsewhere) = (grouped(found.opinions), grouped(found.opinions_elsewhere));
        facts.push((
            "second opinions",
            format!("{opinions}, {elsewhere} of them by another worker than the one that found the number"),
        ));
    }
    let claims = [("COUNTEREXAMPLE", &found.counterexamples), ("refused claim", &found.refused)];
    facts.extend(claims.into_iter().flat_map(|(title, claims)| claims.iter().map(move |claim| (title, claim.to_string()))));
    if found.counterexamples.is_empty() {
        facts.push(("counterexamples", "none".to_owned()));
    }
    pairs(facts)
}

/// The counters of all jobs together, by name.
fn added_up(counters: &[Map<String, Value>]) -> std::collections::BTreeMap<&str, u64> {
    let mut sums = std::collections::BTreeMap::new();
    for (name, count) in counters.iter().flatten() {
        *sums.entry(name.as_str()).or_insert(0) += count.as_u64().unwrap_or(0);
    }
    sums
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn counters_are_added_up_by_name() {
        let counters: Vec<Map<String, Value>> =
            serde_json::from_value(json!([{"tuples": 2, "spsp2": 1}, {"tuples": 3, "spsp2": 0}])).expect("counters");
        assert_eq!(added_up(&counters), [("spsp2", 1), ("tuples", 5)].into());
    }
}
