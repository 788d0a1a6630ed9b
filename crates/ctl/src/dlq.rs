//! `ctl dlq`: jobs that ended without success, looked at and tried again.

use std::fmt::Write as _;

use busbar_api::{
    DeadLetterDetail, DeadLetterList, DeadLetterView, PAGE_ITEMS_MAX, REDRIVES_DEFAULT, RedriveManyReply, RedriveManyRequest,
    RedriveReply, RedriveRequest,
};
use clap::{Args, Subcommand};

use crate::client::{Client, encode};
use crate::failure::Failure;
use crate::job;
use crate::render::{Output, counted, pairs, table};

#[derive(Debug, Subcommand)]
pub(crate) enum DlqCommand {
    /// List dead letters, the newest first.
    List(ListArgs),
    /// Show a dead letter, whole.
    Show(JobArgs),
    /// Try a dead job again, or with --all all that fit.
    Redrive(RedriveArgs),
    /// Throw a dead letter away, with its input.
    Discard(JobArgs),
}

#[derive(Debug, Args)]
pub(crate) struct JobArgs {
    /// The dead job.
    job_id: String,
}

/// Which dead letters are meant.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct FilterArgs {
    /// Only of this topic: exact, or with the wildcards * and >.
    #[arg(long)]
    topic: Option<String>,
    /// Only with this reason code, for example worker_lost.
    #[arg(long, value_name = "CODE")]
    reason_code: Option<String>,
    /// Only dead at this time or later, for example 2026-11-21T09:30:00Z.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only dead before this time.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// Only those that were tried again (true), or were not (false).
    #[arg(long, value_name = "true|false")]
    redriven: Option<bool>,
    /// How many at most.
    #[arg(long, default_value_t = 50, value_name = "N")]
    limit: usize,
    /// Where to begin: the `next_cursor` of a list before.
    #[arg(long)]
    cursor: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RedriveArgs {
    /// The dead job.
    #[arg(required_unless_present = "all", conflicts_with_all = ["all", "topic", "reason_code", "since", "until", "rate", "limit"])]
    job_id: Option<String>,
    /// All that fit and were not tried again yet, the oldest first.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    filter: FilterArgs,
    /// How many of the new jobs may start in one second.
    #[arg(long, value_name = "N", requires = "all")]
    rate: Option<u32>,
    /// How many at most.
    #[arg(long, value_name = "N", requires = "all")]
    limit: Option<usize>,
    /// Another input instead of the one that it had: a file with JSON, or `-` for stdin.
    #[arg(long, value_name = "FILE", conflicts_with = "all")]
    input: Option<String>,
    /// Not sent to a worker before this time.
    #[arg(long, value_name = "TIME", conflicts_with = "all")]
    not_before: Option<String>,
}

pub(crate) fn run(command: DlqCommand, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        DlqCommand::List(args) => list(&args, client, output),
        DlqCommand::Show(args) => {
            let letter: DeadLetterDetail = client.get(&of_job(&args.job_id))?;
            output.show(&letter, || words(&letter))
        }
        DlqCommand::Redrive(args) => match args.job_id.clone() {
            Some(job_id) => redrive(&job_id, args, client, output),
            None => redrive_all(args, client, output),
        },
        DlqCommand::Discard(args) => {
            client.delete(&of_job(&args.job_id))?;
            output.show(&serde_json::json!({"discarded": args.job_id}), || format!("{} is thrown away", args.job_id))
        }
    }
}

/// The path that can name every job: below `/api/v1/dlq`, two names mean something else.
fn of_job(job_id: &str) -> String {
    format!("/api/v1/jobs/{}/dead-letter", encode(job_id))
}

fn list(args: &ListArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    let mut list = DeadLetterList { items: Vec::new(), next_cursor: args.cursor.clone() };
    while list.items.len() < args.limit {
        let page: DeadLetterList = client.get(&list_path(args, &list))?;
        list.items.extend(page.items);
        list.next_cursor = page.next_cursor;
        if list.next_cursor.is_none() {
            break;
        }
    }
    let header = ["JOB", "TOPIC", "REASON", "ATTEMPTS", "DEAD", "REDRIVEN AS"];
    output.show(&list, || {
        let mut text = table(&header, list.items.iter().map(row));
        if let Some(cursor) = &list.next_cursor {
            let _ = write!(text, "\nmore: --cursor {cursor}");
        }
        text
    })
}

fn list_path(args: &ListArgs, so_far: &DeadLetterList) -> String {
    let limit = (args.limit - so_far.items.len()).min(PAGE_ITEMS_MAX);
    let mut path = format!("/api/v1/dlq?limit={limit}");
    let FilterArgs { topic, reason_code, since, until } = &args.filter;
    let redriven = args.redriven.map(|redriven| redriven.to_string());
    let parts = [
        ("topic", topic),
        ("reason_code", reason_code),
        ("since", since),
        ("until", until),
        ("redriven", &redriven),
        ("cursor", &so_far.next_cursor),
    ];
    for (name, value) in parts {
        if let Some(value) = value {
            let _ = write!(path, "&{name}={}", encode(value));
        }
    }
    path
}

fn row(letter: &DeadLetterView) -> Vec<String> {
    vec![
        letter.job_id.clone(),
        letter.topic.clone(),
        letter.reason_code.clone(),
        letter.attempts.to_string(),
        letter.dead_at.clone(),
        letter.redriven_as.clone().unwrap_or_default(),
    ]
}

fn words(detail: &DeadLetterDetail) -> String {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let letter = &detail.letter;
    let labels: Vec<String> = detail.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs([
        ("job", letter.job_id.clone()),
        ("state", letter.state.to_string()),
        ("topic", letter.topic.clone()),
        ("reason", letter.reason_code.clone()),
        ("message", letter.reason.clone()),
        ("dead", letter.dead_at.clone()),
        ("attempts", format!("{} of {}", letter.attempts, detail.max_attempts)),
        ("workers died", if letter.crashes > 0 { letter.crashes.to_string() } else { String::new() }),
        ("redriven as", text(&letter.redriven_as)),
        ("redriven", text(&letter.redriven_at)),
        ("redrive of", text(&letter.redrive_of)),
        ("labels", labels.join(" ")),
        ("requires", detail.requires.join(" ")),
        ("concurrency_key", text(&detail.concurrency_key)),
        ("parent", text(&detail.parent_job_id)),
        ("module", text(&detail.module)),
        ("trace", letter.trace_id.clone()),
        ("input at", text(&detail.input_ptr)),
        ("input", detail.input.as_ref().map(|input| input.get().to_owned()).unwrap_or_default()),
    ])
}

fn redrive(job_id: &str, args: RedriveArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    let given = |file: String| job::input(&if file == "-" { file } else { format!("@{file}") });
    let request = RedriveRequest { input: args.input.map(given).transpose()?, not_before: args.not_before };
    let reply: RedriveReply = client.post(&format!("/api/v1/dlq/{}/redrive", encode(job_id)), &request)?;
    output.show(&reply, || format!("{job_id} is tried again as {}  {}", reply.job.job_id, reply.job.state))
}

fn redrive_all(args: RedriveArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    let FilterArgs { topic, reason_code, since, until } = args.filter;
    let mut all = RedriveManyReply::default();
    let mut request =
        RedriveManyRequest { topic, reason_code, since, until, per_second: args.rate, ..RedriveManyRequest::default() };
    loop {
        let left = args.limit.map_or(REDRIVES_DEFAULT, |limit| limit.saturating_sub(all.job_ids.len()));
        if left == 0 {
            break;
        }
        request.limit = Some(left.min(REDRIVES_DEFAULT));
        let reply: RedriveManyReply = client.post("/api/v1/dlq/redrive", &request)?;
        request.cursor.clone_from(&reply.next_cursor);
        append(&mut all, reply);
        if request.cursor.is_none() {
            break;
        }
    }
    output.show(&all, || summary(&all))?;
    all.rejected.first().map_or(Ok(()), |first| {
        let told = format!(
            "{} of {} were rejected, the first with {}: {}",
            all.rejected.len(),
            all.job_ids.len(),
            first.code,
            first.detail
        );
        Err(Failure::Failed(told))
    })
}

fn append(all: &mut RedriveManyReply, reply: RedriveManyReply) {
    let before = all.job_ids.len();
    all.redriven += reply.redriven;
    all.job_ids.extend(reply.job_ids);
    all.redriven_as.extend(reply.redriven_as);
    all.rejected.extend(reply.rejected.into_iter().map(|mut rejection| {
        rejection.index += before;
        rejection
    }));
    all.last_start = reply.last_start.or(all.last_start.take());
    all.next_cursor = reply.next_cursor;
}

fn summary(all: &RedriveManyReply) -> String {
    let until = all.last_start.as_ref().map(|time| format!(", the last of them starts at {time}")).unwrap_or_default();
    let more = if all.next_cursor.is_some() { "\nthere are more: ask again" } else { "" };
    format!("{} tried again{until}{more}", counted(all.redriven as u64, "job"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_a_list_has_what_was_asked_for() {
        let filter = FilterArgs { topic: Some("job.a.>".into()), ..FilterArgs::default() };
        let args = ListArgs { filter, redriven: Some(false), limit: 500, cursor: None };
        let so_far = DeadLetterList { items: Vec::new(), next_cursor: None };
        assert_eq!(list_path(&args, &so_far), "/api/v1/dlq?limit=200&topic=job.a.%3E&redriven=false");
    }
}
