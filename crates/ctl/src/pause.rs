//! `ctl pause`: what is held back.

use busbar_api::{PauseList, PauseRequest, PauseScope, PauseView};
use clap::{Args, Subcommand};

use crate::client::{Client, encode};
use crate::failure::Failure;
use crate::render::{Output, table};
use crate::span;

#[derive(Debug, Subcommand)]
pub(crate) enum PauseCommand {
    /// List everything that is paused.
    List,
    /// Pause a pool, topic, tenant, key or worker.
    Set(SetArgs),
    /// Lift a pause.
    Lift(WhatArgs),
}

#[derive(Debug, Args)]
pub(crate) struct WhatArgs {
    /// pool, topic, tenant, key or worker.
    scope: PauseScope,
    /// Its name; of a key "TENANT TOPIC KEY" in one argument.
    name: String,
}

#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    #[command(flatten)]
    what: WhatArgs,
    #[command(flatten)]
    how: HowArgs,
}

/// How long, and why.
#[derive(Clone, Debug, Args)]
pub(crate) struct HowArgs {
    /// Ends by itself after so long, for example 10m.
    #[arg(long = "for", value_name = "SPAN", value_parser = span::parse)]
    for_ms: Option<u64>,
    /// Ends by itself at this time, for example 2026-11-21T09:30:00Z.
    #[arg(long, value_name = "TIME", conflicts_with = "for_ms")]
    until: Option<String>,
    /// Why; it is shown to those who look.
    #[arg(long)]
    reason: Option<String>,
}

impl From<HowArgs> for PauseRequest {
    fn from(how: HowArgs) -> Self {
        Self { reason: how.reason, until: how.until, for_ms: how.for_ms }
    }
}

pub(crate) fn run(command: PauseCommand, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        PauseCommand::List => show(&client.get("/api/v1/pauses")?, output),
        PauseCommand::Set(SetArgs { what, how }) => {
            let pause: PauseView = client.put(&path(&what), &PauseRequest::from(how))?;
            output.show(&pause, || sentence(&pause))
        }
        PauseCommand::Lift(what) => show(&client.delete_for(&path(&what))?, output),
    }
}

fn path(what: &WhatArgs) -> String {
    format!("/api/v1/pauses/{}/{}", what.scope, encode(&what.name))
}

/// Shows what is paused.
pub(crate) fn show(list: &PauseList, output: &Output) -> Result<(), Failure> {
    let header = ["SCOPE", "NAME", "SINCE", "UNTIL", "BY", "REASON"];
    output.show(list, || match list.items.is_empty() {
        true => "nothing is paused".to_owned(),
        false => table(&header, list.items.iter().map(row)),
    })
}

fn row(pause: &PauseView) -> Vec<String> {
    let until = pause.until.clone().unwrap_or_else(|| "lifted".to_owned());
    vec![pause.scope.to_string(), pause.name.clone(), pause.since.clone(), until, pause.set_by.clone(), pause.reason.clone()]
}

/// Tells what was paused just now.
pub(crate) fn sentence(pause: &PauseView) -> String {
    let until = pause.until.as_deref().unwrap_or("it is lifted");
    format!("{} {} is paused until {until}", pause.scope, pause.name)
}
