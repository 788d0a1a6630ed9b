//! `ctl limits`: what tenants and topics may use.

use std::path::PathBuf;

use busbar_api::{KeyLimits, KeyStrategy, LimitsChange, LimitsRequest, LimitsView, Rate, TenantLimits, TopicLimits};
use busbar_protocol::codes::Code;
use clap::{Args, Subcommand};

use crate::client::{Client, encode};
use crate::failure::Failure;
use crate::rate::{self, Bound};
use crate::render::{Output, table};

/// How often a change is made again that met another one.
const TRIES_MAX: u32 = 10;

#[derive(Debug, Subcommand)]
pub(crate) enum LimitsCommand {
    /// Show all limits.
    Get,
    /// Set all limits from a file (YAML or JSON, as `ctl limits get -o json` shows them).
    Set {
        /// The file. Its `revision` must be the present one.
        file: PathBuf,
    },
    /// Change the limits of a tenant; what is not named stays.
    Tenant(TenantArgs),
    /// Change the limits of a topic; what is not named stays.
    Topic(TopicArgs),
}

/// What tenants and topics have in common.
#[derive(Debug, Args)]
pub(crate) struct FlowArgs {
    /// Attempts that workers hold at once; 0 for no bound.
    #[arg(long, value_name = "N")]
    concurrency: Option<u32>,
    /// Live jobs that no worker holds; 0 for no bound.
    #[arg(long, value_name = "N")]
    backlog: Option<u64>,
    /// How fast attempts are sent to workers: 10/s, 100/m, 10/s:50 (with a burst), or none.
    #[arg(long, value_name = "RATE", value_parser = rate::parse)]
    starts: Option<Bound>,
    /// How fast submissions are taken, in the same form.
    #[arg(long, value_name = "RATE", value_parser = rate::parse)]
    admissions: Option<Bound>,
    /// Take all its limits away.
    #[arg(long)]
    unset: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TenantArgs {
    /// The tenant; `*` stands for each that has no limits of its own.
    tenant_id: String,
    /// Its share of a pool that several tenants want.
    #[arg(long, value_name = "N")]
    weight: Option<u32>,
    #[command(flatten)]
    flow: FlowArgs,
}

#[derive(Debug, Args)]
pub(crate) struct TopicArgs {
    /// The topic, or a pattern.
    pattern: String,
    #[command(flatten)]
    flow: FlowArgs,
    /// Attempts of one concurrency key at once.
    #[arg(long, value_name = "N")]
    key_concurrency: Option<u32>,
    /// queue, reject or cancel_oldest: what happens when a key has no room.
    #[arg(long, value_name = "STRATEGY", value_parser = strategy)]
    key_strategy: Option<KeyStrategy>,
    /// How fast attempts of one key are sent to workers, as --starts.
    #[arg(long, value_name = "RATE", value_parser = rate::parse)]
    key_starts: Option<Bound>,
}

pub(crate) fn run(command: LimitsCommand, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        LimitsCommand::Get => show(&client.get("/api/v1/limits")?, output),
        LimitsCommand::Set { file } => {
            let text = std::fs::read_to_string(&file)
                .map_err(|error| Failure::Usage(format!("{} cannot be read: {error}", file.display())))?;
            let request: LimitsRequest = serde_saphyr::from_str(&text)
                .map_err(|error| Failure::Usage(format!("{} holds no limits: {error}", file.display())))?;
            show(&client.put("/api/v1/limits", &request)?, output)
        }
        LimitsCommand::Tenant(args) => {
            let path = format!("/api/v1/limits/tenants/{}", encode(&args.tenant_id));
            let change = |view: &LimitsView| {
                let row = view.tenants.iter().find(|row| row.tenant_id == args.tenant_id).cloned();
                args.changed(&row.unwrap_or_default())
            };
            apply(&path, args.flow.unset, change, client, output)
        }
        LimitsCommand::Topic(args) => {
            let path = format!("/api/v1/limits/topics/{}", encode(&args.pattern));
            let change = |view: &LimitsView| {
                let row = view.topics.iter().find(|row| row.topic == args.pattern).cloned();
                args.changed(&row.unwrap_or_default())
            };
            apply(&path, args.flow.unset, change, client, output)
        }
    }
}

/// Changes one row from the revision that was read, again and again where somebody else was quicker.
fn apply<T: serde::Serialize>(
    path: &str,
    unset: bool,
    change: impl Fn(&LimitsView) -> T,
    client: &Client,
    output: &Output,
) -> Result<(), Failure> {
    if unset {
        let change: LimitsChange = client.delete_for(path)?;
        return output.show(&change, || format!("unset, revision {}", change.revision));
    }
    let mut tries = 0;
    loop {
        tries += 1;
        let view: LimitsView = client.get("/api/v1/limits")?;
        let revision = view.revision.to_string();
        match client.put_with::<LimitsChange>(path, Some(("if-match", &revision)), &change(&view)) {
            Err(Failure::Refused(problem)) if problem.code == Code::RevisionChanged.as_str() && tries < TRIES_MAX => {}
            Ok(change) => return output.show(&change, || format!("set, revision {}", change.revision)),
            Err(failure) => return Err(failure),
        }
    }
}

impl TenantArgs {
    fn changed(&self, row: &TenantLimits) -> TenantLimits {
        TenantLimits {
            tenant_id: self.tenant_id.clone(),
            weight: self.weight.or(row.weight),
            concurrency_max: self.flow.concurrency(row.concurrency_max),
            starts: rate::changed(self.flow.starts, row.starts),
            admissions: rate::changed(self.flow.admissions, row.admissions),
            backlog_max: self.flow.backlog(row.backlog_max),
        }
    }
}

impl TopicArgs {
    fn changed(&self, row: &TopicLimits) -> TopicLimits {
        let says_of_keys = self.key_concurrency.is_some() || self.key_strategy.is_some() || self.key_starts.is_some();
        let before = row.key.or_else(|| says_of_keys.then(KeyLimits::default));
        let key = before.map(|key| KeyLimits {
            concurrency_max: self.key_concurrency.or(key.concurrency_max),
            strategy: self.key_strategy.unwrap_or(key.strategy),
            starts: rate::changed(self.key_starts, key.starts),
        });
        TopicLimits {
            topic: self.pattern.clone(),
            concurrency_max: self.flow.concurrency(row.concurrency_max),
            starts: rate::changed(self.flow.starts, row.starts),
            admissions: rate::changed(self.flow.admissions, row.admissions),
            backlog_max: self.flow.backlog(row.backlog_max),
            key,
        }
    }
}

impl FlowArgs {
    fn concurrency(&self, before: Option<u32>) -> Option<u32> {
        self.concurrency.or(before).filter(|max| *max > 0)
    }

    fn backlog(&self, before: Option<u64>) -> Option<u64> {
        self.backlog.or(before).filter(|max| *max > 0)
    }
}

fn strategy(text: &str) -> Result<KeyStrategy, String> {
    match text {
        "queue" => Ok(KeyStrategy::Queue),
        "reject" => Ok(KeyStrategy::Reject),
        "cancel_oldest" => Ok(KeyStrategy::CancelOldest),
        _ => Err("one of queue, reject, cancel_oldest".to_owned()),
    }
}

fn show(view: &LimitsView, output: &Output) -> Result<(), Failure> {
    output.show(view, || words(view))
}

fn words(view: &LimitsView) -> String {
    let mut text = format!("revision {}\n", view.revision);
    let number = |max: Option<u64>| max.map(|max| max.to_string()).unwrap_or_default();
    let rate = |rate: &Option<Rate>| rate.as_ref().map(rate::words).unwrap_or_default();
    if !view.tenants.is_empty() {
        let rows = view.tenants.iter().map(|row| {
            let (weight, concurrency) = (row.weight.unwrap_or(1), number(row.concurrency_max.map(u64::from)));
            let (starts, admissions) = (rate(&row.starts), rate(&row.admissions));
            vec![row.tenant_id.clone(), weight.to_string(), concurrency, starts, admissions, number(row.backlog_max)]
        });
        let header = ["TENANT", "WEIGHT", "CONCURRENCY", "STARTS", "ADMISSIONS", "BACKLOG"];
        text.push_str(&format!("\n{}\n", table(&header, rows)));
    }
    if !view.topics.is_empty() {
        let rows = view.topics.iter().map(|row| {
            let (concurrency, starts) = (number(row.concurrency_max.map(u64::from)), rate(&row.starts));
            let key = row.key.as_ref().map(key_words).unwrap_or_default();
            vec![row.topic.clone(), concurrency, starts, rate(&row.admissions), number(row.backlog_max), key]
        });
        let header = ["TOPIC", "CONCURRENCY", "STARTS", "ADMISSIONS", "BACKLOG", "EACH KEY"];
        text.push_str(&format!("\n{}\n", table(&header, rows)));
    }
    text
}

fn key_words(key: &KeyLimits) -> String {
    let strategy = match key.strategy {
        KeyStrategy::Queue => "queue",
        KeyStrategy::Reject => "reject",
        KeyStrategy::CancelOldest => "cancel_oldest",
    };
    let starts = key.starts.as_ref().map(|starts| format!(", {}", rate::words(starts))).unwrap_or_default();
    format!("{} at once, {strategy}{starts}", key.concurrency_max.unwrap_or(1))
}
