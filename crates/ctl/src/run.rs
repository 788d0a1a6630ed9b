//! `ctl run`: runs of workflows.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use busbar_api::{
    PAGE_ITEMS_MAX, RunCancelReply, RunHoldReply, RunList, RunState, RunView, StartReply, StepState, StepView,
    TIMELINE_ENTRIES_MAX, Timeline, TimelineItem,
};
use clap::{Args, Subcommand};

use crate::client::{Client, encode};
use crate::failure::{Failure, ended_badly};
use crate::job::{input, label};
use crate::render::{self, Output, pairs, table};

/// How long one request waits for a run's end.
const LONG_POLL: Duration = Duration::from_secs(30);
/// How long one look of `watch` waits for the end; what changed meanwhile is seen afterwards.
const LOOK_EVERY: Duration = Duration::from_millis(250);

#[derive(Debug, Subcommand)]
pub(crate) enum RunCommand {
    /// Start a run of a workflow.
    #[command(disable_version_flag = true)]
    Start(StartArgs),
    /// List runs, the newest first.
    List(ListArgs),
    /// Show a run and its steps.
    Show(RunArgs),
    /// Follow a run until it has ended.
    Watch(RunArgs),
    /// Let a run start nothing more for now; jobs that are out go on to their ends.
    Pause(RunArgs),
    /// Let a paused run go on.
    Resume(RunArgs),
    /// End a run, and the jobs of its steps.
    Cancel(RunArgs),
    /// Show what happened to a run, and when.
    Timeline(RunArgs),
    /// Write a run's output to stdout.
    Output(RunArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The run.
    run_id: String,
}

#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// The workflow.
    workflow_id: String,
    /// What the run works on: JSON, `@FILE`, or `-` for stdin.
    #[arg(long, short, default_value = "{}", value_name = "JSON|@FILE|-")]
    input: String,
    /// Wait until it has ended, and fail unless it SUCCEEDED.
    #[arg(long)]
    wait: bool,
    /// An older version of the workflow.
    #[arg(long, value_name = "N")]
    version: Option<u32>,
    /// A label; may be repeated.
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// Two starts with the same key are one run.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only runs of this workflow.
    #[arg(long, value_name = "ID")]
    workflow: Option<String>,
    /// Only runs in this state.
    #[arg(long)]
    state: Option<RunState>,
    /// How many at most.
    #[arg(long, default_value_t = 50, value_name = "N")]
    limit: usize,
    /// Where to begin: the `next_cursor` of a list before.
    #[arg(long)]
    cursor: Option<String>,
}

pub(crate) fn run(command: RunCommand, client: &Client, output: &Output) -> Result<(), Failure> {
    match command {
        RunCommand::Start(args) => start(&args, client, output),
        RunCommand::List(args) => list(&args, client, output),
        RunCommand::Show(args) => {
            let view = look(client, &args.run_id, Duration::ZERO)?;
            output.show(&view, || words(&view))
        }
        RunCommand::Watch(args) => watch(&args.run_id, client, output),
        RunCommand::Cancel(args) => {
            let reply: RunCancelReply = client.post(&format!("{}/cancel", path(&args.run_id)), &())?;
            output.show(&reply, || format!("{}  {}", reply.run_id, reply.state))
        }
        RunCommand::Pause(args) => hold(&args.run_id, "pause", client, output),
        RunCommand::Resume(args) => hold(&args.run_id, "resume", client, output),
        RunCommand::Timeline(args) => timeline(&args.run_id, client, output),
        RunCommand::Output(args) => render::bytes(&client.get_bytes(&format!("{}/output", path(&args.run_id)))?),
    }
}

fn path(run_id: &str) -> String {
    format!("/api/v1/workflow-runs/{}", encode(run_id))
}

/// Pauses or resumes a run.
fn hold(run_id: &str, verb: &str, client: &Client, output: &Output) -> Result<(), Failure> {
    let reply: RunHoldReply = client.post(&format!("{}/{verb}", path(run_id)), &())?;
    output.show(&reply, || format!("{}  {}", reply.run_id, reply.state))
}

/// The run, once it has ended or `wait` is over.
fn look(client: &Client, run_id: &str, wait: Duration) -> Result<RunView, Failure> {
    client.get(&format!("{}?wait={}ms", path(run_id), wait.as_millis()))
}

fn start(args: &StartArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    let key = args.idempotency_key.as_deref().map(|key| ("idempotency-key", key));
    let reply: StartReply = client.post_with(&start_path(args)?, key, &input(&args.input)?)?;
    if !args.wait {
        return output.show(&reply, || format!("{}  {}", reply.run_id, reply.state));
    }
    let view = loop {
        let view = look(client, &reply.run_id, LONG_POLL)?;
        if view.state.is_terminal() {
            break view;
        }
    };
    output.show(&view, || words(&view))?;
    succeeded(&view)
}

fn start_path(args: &StartArgs) -> Result<String, Failure> {
    let mut query = Vec::new();
    if let Some(version) = args.version {
        query.push(format!("version={version}"));
    }
    if let Some((name, _)) = args.labels.iter().find(|(name, value)| name.contains(',') || value.contains(',')) {
        return Err(Failure::Usage(format!("--label {name}: labels of runs have no commas")));
    }
    if !args.labels.is_empty() {
        let labels: Vec<String> = args.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        query.push(format!("labels={}", encode(&labels.join(","))));
    }
    let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
    Ok(format!("/api/v1/workflows/{}/runs{query}", encode(&args.workflow_id)))
}

/// Fails unless the run ended well.
fn succeeded(view: &RunView) -> Result<(), Failure> {
    if view.state == RunState::Succeeded {
        return Ok(());
    }
    let (code, message) = view.error.as_ref().map_or(("", ""), |error| (&error.code, &error.message));
    Err(ended_badly(&format!("the run {}", view.run_id), view.state, code, message))
}

fn list(args: &ListArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    let mut list = RunList { items: Vec::new(), next_cursor: args.cursor.clone() };
    while list.items.len() < args.limit {
        let page: RunList = client.get(&list_path(args, &list))?;
        list.items.extend(page.items);
        list.next_cursor = page.next_cursor;
        if list.next_cursor.is_none() {
            break;
        }
    }
    output.show(&list, || {
        let header = ["ID", "STATE", "WORKFLOW", "VERSION", "STARTED", "ENDED", "ERROR"];
        let mut text = table(&header, list.items.iter().map(row));
        if let Some(cursor) = &list.next_cursor {
            let _ = write!(text, "\nmore: --cursor {cursor}");
        }
        text
    })
}

fn list_path(args: &ListArgs, so_far: &RunList) -> String {
    let limit = (args.limit - so_far.items.len()).min(PAGE_ITEMS_MAX);
    let mut path = format!("/api/v1/workflow-runs?limit={limit}");
    let state = args.state.map(|state| state.to_string());
    for (name, value) in [("state", &state), ("workflow_id", &args.workflow), ("cursor", &so_far.next_cursor)] {
        if let Some(value) = value {
            let _ = write!(path, "&{name}={}", encode(value));
        }
    }
    path
}

fn row(view: &RunView) -> Vec<String> {
    let (ended, error) = (view.ended_at.clone().unwrap_or_default(), view.error.as_ref().map(|error| error.code.clone()));
    let (state, version) = (view.state.to_string(), view.version.to_string());
    let workflow = view.workflow_id.clone();
    vec![view.run_id.clone(), state, workflow, version, view.created_at.clone(), ended, error.unwrap_or_default()]
}

fn words(view: &RunView) -> String {
    let labels: Vec<String> = view.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let step = view.error.as_ref().and_then(|error| error.step.clone()).unwrap_or_default();
    let error = view.error.as_ref().map(|error| format!("{}: {}", error.code, error.message)).unwrap_or_default();
    let mut text = pairs([
        ("id", view.run_id.clone()),
        ("state", view.state.to_string()),
        ("workflow", format!("{} version {}", view.workflow_id, view.version)),
        ("started", view.created_at.clone()),
        ("ended", view.ended_at.clone().unwrap_or_default()),
        ("labels", labels.join(" ")),
        ("trace", view.trace_id.clone()),
        ("error", error),
        ("in step", step),
        ("output", view.output.as_ref().map(|output| output.get().to_owned()).unwrap_or_default()),
    ]);
    if !view.steps.is_empty() {
        let header = ["STEP", "TYPE", "STATE", "ITEMS", "ATTEMPTS", "JOB", "ERROR"];
        let _ = write!(text, "\n{}", table(&header, view.steps.iter().map(step_row)));
    }
    text
}

fn step_row(step: &StepView) -> Vec<String> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let error = step.error.as_ref().map(|error| error.code.clone()).unwrap_or_default();
    let (kind, state, attempts) = (text(&step.kind), step.state.to_string(), step.attempts.to_string());
    vec![step.id.clone(), kind, state, items(step), attempts, text(&step.job_id), error]
}

/// How far a step over items has come.
fn items(step: &StepView) -> String {
    let Some(items) = step.items else { return String::new() };
    let mut text = format!("{}/{}", items.succeeded, items.total);
    for (number, what) in [(items.running, "running"), (items.failed, "failed")] {
        if number > 0 {
            let _ = write!(text, ", {number} {what}");
        }
    }
    text
}

/// What `watch` has shown: the run's state, and each step's state and items in words.
#[derive(Default)]
struct Shown {
    state: Option<RunState>,
    steps: BTreeMap<String, (StepState, String)>,
}

impl Shown {
    /// What is new in a view, a line each.
    fn news(&mut self, view: &RunView) -> Vec<String> {
        let mut news = Vec::new();
        for step in &view.steps {
            let seen = (step.state, items(step));
            let known = self.steps.insert(step.id.clone(), seen.clone());
            // That a step has not begun is no news.
            let is_new = known.map_or(step.state != StepState::Pending, |known| known != seen);
            if is_new {
                let error = step.error.as_ref().map(|error| format!("{}: {}", error.code, error.message)).unwrap_or_default();
                news.push(format!("{:20}  {:9}  {}  {error}", step.id, step.state, seen.1).trim_end().to_owned());
            }
        }
        if self.state != Some(view.state) {
            let line = format!("{:20}  {}", "run", view.state);
            // It began before its steps, and ends after them.
            let place = if view.state.is_terminal() { news.len() } else { 0 };
            news.insert(place, line);
            self.state = Some(view.state);
        }
        news
    }
}

fn watch(run_id: &str, client: &Client, output: &Output) -> Result<(), Failure> {
    let began = Instant::now();
    let mut shown = Shown::default();
    let mut wait = Duration::ZERO;
    loop {
        let view = look(client, run_id, wait)?;
        let news = shown.news(&view);
        if !news.is_empty() {
            let after = began.elapsed().as_secs_f64();
            let lines: Vec<String> = news.iter().map(|line| format!("{after:7.2} s  {line}")).collect();
            output.show_next(&view, || lines.join("\n"))?;
        }
        if view.state.is_terminal() {
            return succeeded(&view);
        }
        wait = LOOK_EVERY;
    }
}

fn timeline(run_id: &str, client: &Client, output: &Output) -> Result<(), Failure> {
    let mut whole = Timeline { items: Vec::new(), next_cursor: None };
    loop {
        let after = whole.next_cursor.as_deref().map(|cursor| format!("&after={}", encode(cursor))).unwrap_or_default();
        let page: Timeline = client.get(&format!("{}/timeline?limit={TIMELINE_ENTRIES_MAX}{after}", path(run_id)))?;
        // At the end, the cursor stays where it is.
        if page.next_cursor == whole.next_cursor {
            break;
        }
        whole.items.extend(page.items);
        whole.next_cursor = page.next_cursor;
    }
    output.show(&whole, || table(&["AT", "WHAT", "STATE", "ATTEMPT", "JOB", "ERROR"], whole.items.iter().map(happening)))
}

fn happening(item: &TimelineItem) -> Vec<String> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let what = match (&item.step, item.item, item.step_state) {
        (Some(step), Some(place), _) => format!("{step}[{place}]"),
        (Some(step), None, Some(_)) => step.clone(),
        _ => "run".to_owned(),
    };
    let state = item.step_state.map(|state| state.to_string()).or(item.state.map(|state| state.to_string()));
    let attempt = item.attempt.map(|attempt| attempt.to_string()).unwrap_or_default();
    let error = [text(&item.code), text(&item.message)].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>();
    vec![item.at.clone(), what, state.unwrap_or_default(), attempt, text(&item.job_id), error.join(": ")]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(state: &str, map: &str, succeeded: u32) -> RunView {
        let view = format!(
            r#"{{"run_id":"r","workflow_id":"w","version":1,"state":"{state}","created_at":"","ended_at":null,
            "error":{{"code":"step_failed","message":"it failed","step":"map"}},"steps":[
            {{"id":"map","type":"for_each","state":"{map}","attempts":0,"job_id":null,"started_at":null,"ended_at":null,"error":null,
              "items":{{"total":3,"succeeded":{succeeded},"failed":0,"running":1}}}},
            {{"id":"reduce","type":"job","state":"PENDING","attempts":0,"job_id":null,"started_at":null,"ended_at":null,"error":null,"items":null}}]}}"#
        );
        serde_json::from_str(&view).expect("a view")
    }

    #[test]
    fn only_what_is_new_is_shown() {
        let mut shown = Shown::default();
        let squeezed = |news: Vec<String>| -> Vec<String> {
            news.iter().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
        };
        assert_eq!(squeezed(shown.news(&view("RUNNING", "RUNNING", 0))), ["run RUNNING", "map RUNNING 0/3, 1 running"]);
        assert!(shown.news(&view("RUNNING", "RUNNING", 0)).is_empty());
        assert_eq!(squeezed(shown.news(&view("RUNNING", "RUNNING", 2))), ["map RUNNING 2/3, 1 running"]);
        assert_eq!(squeezed(shown.news(&view("FAILED", "FAILED", 2))), ["map FAILED 2/3, 1 running", "run FAILED"]);
    }

    #[test]
    fn a_run_that_did_not_succeed_is_a_failure_with_its_reason() {
        let failure = succeeded(&view("FAILED", "FAILED", 0)).expect_err("failed");
        assert_eq!(failure.to_string(), "the run r ended as FAILED: step_failed: it failed");
        assert!(failure.hint().is_some(), "what the page of the code says");
        assert!(succeeded(&view("SUCCEEDED", "SUCCEEDED", 3)).is_ok());
    }

    #[test]
    fn the_path_of_a_start_has_what_was_asked_for() {
        let args = |labels: &[(&str, &str)]| StartArgs {
            workflow_id: "demo.all".into(),
            input: "{}".into(),
            wait: false,
            version: Some(2),
            labels: labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            idempotency_key: None,
        };
        let path = start_path(&args(&[("a", "1"), ("b", "x y")])).expect("a path");
        assert_eq!(path, "/api/v1/workflows/demo.all/runs?version=2&labels=a%3D1%2Cb%3Dx%20y");
        assert!(matches!(start_path(&args(&[("a", "1,2")])), Err(Failure::Usage(_))));
    }
}
