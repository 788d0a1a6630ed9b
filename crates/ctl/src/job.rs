//! `ctl job`: jobs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use busbar_api::{
    BatchReply, CancelReply, CancelRequest, INPUT_BYTES_MAX, IdempotencyPolicy, JobList, JobState, JobView, Judgement, LogsView,
    PAGE_ITEMS_MAX, Priority, RawValue, SubmitReply, SubmitRequest, VoteView,
};
use clap::{Args, Subcommand};

use crate::client::{Client, encode};
use crate::failure::{Failure, ended_badly};
use crate::job_explain;
use crate::render::{self, Output, line, pairs, table};
use crate::watch::{self, WatchArgs};

/// How long one request waits for a job's end.
const LONG_POLL: Duration = Duration::from_secs(30);

#[derive(Debug, Subcommand)]
pub(crate) enum JobCommand {
    /// Submit a job, or the same job many times.
    Submit(Box<SubmitArgs>),
    /// Show a job.
    Get(GetArgs),
    /// List jobs, the newest first.
    List(ListArgs),
    /// Follow jobs live: named ones to their ends, others until interrupted.
    Watch(WatchArgs),
    /// Tell why a job is where it is, gate by gate.
    Explain(JobArgs),
    /// End a job.
    Cancel(CancelArgs),
    /// Write the bytes of a job's result to stdout.
    Result(JobArgs),
    /// Show what a job's attempts wrote.
    Logs(LogsArgs),
}

#[derive(Debug, Args)]
pub(crate) struct JobArgs {
    /// The job.
    pub(crate) job_id: String,
}

#[derive(Debug, Args)]
pub(crate) struct SubmitArgs {
    /// What kind of work it is, for example job.echo.
    topic: String,
    /// What the job works on: JSON, `@FILE`, or `-` for stdin.
    #[arg(long, short, default_value = "null", value_name = "JSON|@FILE|-")]
    input: String,
    /// Wait until it has ended, and fail unless it SUCCEEDED.
    #[arg(long)]
    wait: bool,
    /// How many times to submit it.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: u32,
    /// interactive, batch or critical.
    #[arg(long, value_parser = priority)]
    priority: Option<Priority>,
    /// A label; may be repeated.
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// A capability that the worker must have; may be repeated.
    #[arg(long, value_name = "CAPABILITY")]
    requires: Vec<String>,
    /// Two submissions with the same key are one job.
    #[arg(long, value_name = "KEY", conflicts_with = "count")]
    idempotency_key: Option<String>,
    /// How long it may take from admission to its end.
    #[arg(long, value_name = "MS")]
    deadline_ms: Option<u64>,
    /// How many attempts it gets.
    #[arg(long, value_name = "N")]
    max_attempts: Option<u32>,
    /// Not sent to a worker before this time, for example 2026-11-21T09:30:00Z.
    #[arg(long, value_name = "TIME")]
    not_before: Option<String>,
    /// The same, in milliseconds from now.
    #[arg(long, value_name = "MS", conflicts_with = "not_before")]
    delay_ms: Option<u64>,
    /// Jobs of one tenant and topic with the same key share the topic's bounds for keys.
    #[arg(long, value_name = "KEY")]
    concurrency_key: Option<String>,
    /// How long it may wait for a worker.
    #[arg(long, value_name = "MS")]
    schedule_to_start_ms: Option<u64>,
    /// How long one attempt may take.
    #[arg(long, value_name = "MS")]
    start_to_close_ms: Option<u64>,
    /// An attempt that reports nothing for so long is over.
    #[arg(long, value_name = "MS")]
    heartbeat_timeout_ms: Option<u64>,
    /// An error code after which no other attempt is made; may be repeated.
    #[arg(long = "non-retryable-code", value_name = "CODE")]
    non_retryable_codes: Vec<String>,
    /// return_existing, reject or allow_after_failure: what it means that the key is taken.
    #[arg(long, value_name = "POLICY", value_parser = policy, requires = "idempotency_key")]
    idempotency_policy: Option<IdempotencyPolicy>,
    /// The job that this one belongs to, and with which it is cancelled.
    #[arg(long, value_name = "JOB")]
    parent_job_id: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// The job.
    job_id: String,
    /// Wait for its end, at most so many seconds.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=60), default_value_t = 0)]
    wait: u64,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only jobs in this state.
    #[arg(long)]
    state: Option<JobState>,
    /// Only jobs of this topic.
    #[arg(long)]
    topic: Option<String>,
    /// How many at most.
    #[arg(long, default_value_t = 50, value_name = "N")]
    limit: usize,
    /// Where to begin: the `next_cursor` of a list before.
    #[arg(long)]
    cursor: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct CancelArgs {
    /// The job.
    job_id: String,
    /// Why; it is kept with the job.
    #[arg(long)]
    reason: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// The job.
    job_id: String,
    /// Only this attempt.
    #[arg(long, value_name = "N")]
    attempt: Option<u32>,
}

pub(crate) fn run(command: JobCommand, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        JobCommand::Submit(args) => submit(*args, client, output),
        JobCommand::Get(args) => {
            let view = client.job(&args.job_id, Duration::from_secs(args.wait))?;
            output.show(&view, || words(&view))
        }
        JobCommand::List(args) => list(&args, client, output),
        JobCommand::Watch(args) => watch::run(args, client, output),
        JobCommand::Explain(args) => job_explain::run(&args, client, output),
        JobCommand::Cancel(args) => cancel(args, client, output),
        JobCommand::Result(args) => render::bytes(&client.get_bytes(&format!("/api/v1/jobs/{}/result", encode(&args.job_id)))?),
        JobCommand::Logs(args) => logs(&args, client, output),
    }
}

fn submit(args: SubmitArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    let (count, wait) = (args.count, args.wait);
    let request = SubmitRequest {
        input: input(&args.input)?,
        topic: args.topic,
        priority: args.priority,
        labels: args.labels.into_iter().collect::<BTreeMap<_, _>>(),
        requires: args.requires,
        idempotency_key: args.idempotency_key,
        deadline_ms: args.deadline_ms,
        max_attempts: args.max_attempts,
        not_before: args.not_before,
        delay_ms: args.delay_ms,
        concurrency_key: args.concurrency_key,
        schedule_to_start_ms: args.schedule_to_start_ms,
        start_to_close_ms: args.start_to_close_ms,
        heartbeat_timeout_ms: args.heartbeat_timeout_ms,
        non_retryable_codes: args.non_retryable_codes,
        idempotency_policy: args.idempotency_policy,
        parent_job_id: args.parent_job_id,
    };
    if count > 1 {
        return submit_many(&vec![request; count as usize], wait, client, output);
    }
    let reply: SubmitReply = client.post("/api/v1/jobs", &request)?;
    if !wait {
        return output.show(&reply, || format!("{}  {}", reply.job_id, reply.state));
    }
    let view = wait_for_end(client, &reply.job_id)?;
    output.show(&view, || words(&view))?;
    succeeded(&view)
}

fn submit_many(requests: &[SubmitRequest], wait: bool, client: &Client, output: &Output) -> Result<(), Failure> {
    let reply = client.submit_all(requests)?;
    if !wait {
        output.show(&reply, || submitted(&reply))?;
        return nothing_rejected(&reply, requests.len());
    }
    let mut views = Vec::new();
    for job_id in reply.job_ids.iter().flatten() {
        views.push(wait_for_end(client, job_id)?);
    }
    output.show(&views, || table(&HEADER, views.iter().map(row)))?;
    nothing_rejected(&reply, requests.len())?;
    views.iter().try_for_each(succeeded)
}

fn submitted(reply: &BatchReply) -> String {
    reply.job_ids.iter().flatten().fold(String::new(), |mut text, job_id| {
        let _ = writeln!(text, "{job_id}");
        text
    })
}

fn nothing_rejected(reply: &BatchReply, asked: usize) -> Result<(), Failure> {
    reply.rejected.first().map_or(Ok(()), |first| {
        let told =
            format!("{} of {asked} jobs were rejected, the first with {}: {}", reply.rejected.len(), first.code, first.detail);
        Err(Failure::Failed(told))
    })
}

/// The job at its end.
pub(crate) fn wait_for_end(client: &Client, job_id: &str) -> Result<JobView, Failure> {
    loop {
        let view = client.job(job_id, LONG_POLL)?;
        if view.state.is_terminal() {
            return Ok(view);
        }
    }
}

/// Fails unless the job ended well.
pub(crate) fn succeeded(view: &JobView) -> Result<(), Failure> {
    if view.state == JobState::Succeeded {
        return Ok(());
    }
    let text = |value: &'_ Option<String>| value.clone().unwrap_or_default();
    Err(ended_badly(&format!("the job {}", view.id), view.state, &text(&view.error_code), &text(&view.error_message)))
}

fn list(args: &ListArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    let mut list = JobList { items: Vec::new(), next_cursor: args.cursor.clone() };
    while list.items.len() < args.limit {
        let page: JobList = client.get(&list_path(args, &list))?;
        list.items.extend(page.items);
        list.next_cursor = page.next_cursor;
        if list.next_cursor.is_none() {
            break;
        }
    }
    output.show(&list, || {
        let mut text = table(&HEADER, list.items.iter().map(row));
        if let Some(cursor) = &list.next_cursor {
            let _ = write!(text, "\nmore: --cursor {cursor}");
        }
        text
    })
}

fn list_path(args: &ListArgs, so_far: &JobList) -> String {
    let limit = (args.limit - so_far.items.len()).min(PAGE_ITEMS_MAX);
    let mut path = format!("/api/v1/jobs?limit={limit}");
    let state = args.state.map(|state| state.to_string());
    for (name, value) in [("state", &state), ("topic", &args.topic), ("cursor", &so_far.next_cursor)] {
        if let Some(value) = value {
            let _ = write!(path, "&{name}={}", encode(value));
        }
    }
    path
}

fn cancel(args: CancelArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    let path = format!("/api/v1/jobs/{}/cancel", encode(&args.job_id));
    let reply: CancelReply = client.post(&path, &CancelRequest { reason: args.reason })?;
    output.show(&reply, || match &reply.reason {
        Some(reason) => format!("{}  {}  ({reason})", reply.id, reply.state),
        None => format!("{}  {}", reply.id, reply.state),
    })
}

fn logs(args: &LogsArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    let attempt = args.attempt.map(|attempt| format!("?attempt={attempt}")).unwrap_or_default();
    let logs: LogsView = client.get(&format!("/api/v1/jobs/{}/logs{attempt}", encode(&args.job_id)))?;
    if output.is_json() {
        return output.show(&logs, String::new);
    }
    for attempt in &logs.attempts {
        if logs.attempts.len() > 1 {
            line(&format!("── attempt {}", attempt.attempt))?;
        }
        attempt.lines.iter().try_for_each(|text| line(text))?;
    }
    Ok(())
}

const HEADER: [&str; 7] = ["ID", "STATE", "TOPIC", "ATTEMPTS", "WORKER", "CREATED", "ERROR"];

fn row(view: &JobView) -> Vec<String> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let attempts = format!("{}/{}", view.attempts, view.max_attempts);
    let (worker, error) = (text(&view.worker_id), text(&view.error_code));
    vec![view.id.clone(), view.state.to_string(), view.topic.clone(), attempts, worker, view.created_at.clone(), error]
}

fn words(view: &JobView) -> String {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let labels: Vec<String> = view.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let decision = view.decision.as_ref().map(|d| format!("{} by {}: {}", d.decision, d.rule_id, d.reason)).unwrap_or_default();
    let result = view.result.as_ref().map(|result| result.get().to_owned()).unwrap_or_default();
    pairs([
        ("id", view.id.clone()),
        ("state", view.state.to_string()),
        ("topic", view.topic.clone()),
        ("attempts", format!("{} of {}", view.attempts, view.max_attempts)),
        ("worker", text(&view.worker_id)),
        ("created", view.created_at.clone()),
        ("updated", view.updated_at.clone()),
        ("not before", text(&view.not_before)),
        ("deadline", text(&view.deadline_at)),
        ("took", view.execution_ms.map(|ms| format!("{ms} ms")).unwrap_or_default()),
        ("labels", labels.join(" ")),
        ("requires", view.requires.join(" ")),
        ("concurrency key", text(&view.concurrency_key)),
        ("parent", text(&view.parent_job_id)),
        ("redrive of", text(&view.redrive_of)),
        ("workers died", if view.crashes > 0 { view.crashes.to_string() } else { String::new() }),
        ("decision", decision),
        ("trace", view.trace_id.clone()),
        ("error", text(&view.error_code)),
        ("message", text(&view.error_message)),
        ("votes", view.votes.iter().map(vote).collect::<Vec<_>>().join("; ")),
        ("result at", text(&view.result_ptr)),
        ("result", result),
    ])
}

/// What a replica said, in words.
fn vote(vote: &VoteView) -> String {
    let said = match (&vote.sha256, &vote.error_code) {
        (Some(sha256), _) => format!("said {}", &sha256[..sha256.len().min(8)]),
        (None, Some(code)) => format!("failed: {code}"),
        (None, None) => "said nothing".to_owned(),
    };
    let worker = vote.worker_id.as_deref().unwrap_or("nobody");
    let with = match (vote.agrees, vote.judgement) {
        (true, Some(Judgement::Proven)) => "proven",
        (_, Some(Judgement::Wrong)) => "found wrong",
        (true, _) => "agrees",
        (false, _) => "does not count",
    };
    format!("{} with {worker} {said} ({with})", vote.job_id)
}

/// Reads the input as it is given: it goes to the job or run exactly so.
pub(crate) fn input(given: &str) -> Result<Box<RawValue>, Failure> {
    let mut text = String::new();
    let unreadable = |what: &str, error: std::io::Error| Failure::Usage(format!("--input: {what} cannot be read: {error}"));
    // One byte more than is taken, so that what is too long is told by the gateway and not cut.
    let max = INPUT_BYTES_MAX as u64 + 1;
    if given == "-" {
        std::io::stdin().lock().take(max).read_to_string(&mut text).map_err(|error| unreadable("stdin", error))?;
    } else if let Some(path) = given.strip_prefix('@') {
        let file = std::fs::File::open(Path::new(path)).map_err(|error| unreadable(path, error))?;
        file.take(max).read_to_string(&mut text).map_err(|error| unreadable(path, error))?;
    } else {
        given.clone_into(&mut text);
    }
    if text.len() > INPUT_BYTES_MAX {
        return Err(Failure::Usage(format!(
            "--input: at most {INPUT_BYTES_MAX} bytes are taken: upload larger input as an artifact"
        )));
    }
    RawValue::from_string(text)
        .map_err(|error| Failure::Usage(format!("--input is no JSON: {error}; texts need quotes: '\"text\"'")))
}

fn priority(text: &str) -> Result<Priority, String> {
    match text {
        "interactive" => Ok(Priority::Interactive),
        "batch" => Ok(Priority::Batch),
        "critical" => Ok(Priority::Critical),
        _ => Err("one of interactive, batch, critical".to_owned()),
    }
}

fn policy(text: &str) -> Result<IdempotencyPolicy, String> {
    match text {
        "return_existing" => Ok(IdempotencyPolicy::ReturnExisting),
        "reject" => Ok(IdempotencyPolicy::Reject),
        "allow_after_failure" => Ok(IdempotencyPolicy::AllowAfterFailure),
        _ => Err("one of return_existing, reject, allow_after_failure".to_owned()),
    }
}

/// Reads `NAME=VALUE`.
pub(crate) fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("NAME=VALUE is wanted")?;
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_comes_inline_or_from_a_file() {
        assert_eq!(input(r#"{"a": 1}"#).expect("JSON").get(), r#"{"a": 1}"#);
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("input.json");
        std::fs::write(&path, "[1, 2]").expect("written");
        assert_eq!(input(&format!("@{}", path.display())).expect("JSON").get(), "[1, 2]");
        for bad in ["{", "text", "@/no/such/file"] {
            assert!(matches!(input(bad), Err(Failure::Usage(_))), "{bad}");
        }
    }

    #[test]
    fn the_path_of_a_list_has_what_was_asked_for() {
        let args = ListArgs { state: Some(JobState::Running), topic: Some("job.a".into()), limit: 500, cursor: None };
        let so_far = JobList { items: Vec::new(), next_cursor: Some("x=".into()) };
        assert_eq!(list_path(&args, &so_far), "/api/v1/jobs?limit=200&state=RUNNING&topic=job.a&cursor=x%3D");
    }

    #[test]
    fn a_job_that_did_not_succeed_is_a_failure_with_its_reason() {
        let view = r#"{"id":"j","state":"FAILED","topic":"t","attempts":3,"worker_id":null,"created_at":"","updated_at":"",
            "result_ptr":null,"result":null,"error_code":"limit_cpu","error_message":"5 s"}"#;
        let view: JobView = serde_json::from_str(view).expect("a view");
        let failure = succeeded(&view).expect_err("failed");
        assert_eq!(failure.to_string(), "the job j ended as FAILED: limit_cpu: 5 s");
        assert!(failure.hint().is_some(), "what the page of the code says");
    }
}
