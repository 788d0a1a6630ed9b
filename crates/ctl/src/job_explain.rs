//! `ctl job explain`: what a job waits for, gate by gate.

use busbar_api::{ExplainView, GateState, GateView, JobEndView};

use crate::client::{Client, encode};
use crate::failure::Failure;
use crate::job::JobArgs;
use crate::render::{Output, pairs, table};
use crate::span;

pub(crate) fn run(args: &JobArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    let view: ExplainView = client.get(&format!("/api/v1/jobs/{}/explain", encode(&args.job_id)))?;
    output.show(&view, || words(&view))
}

fn words(view: &ExplainView) -> String {
    let mut text = format!("{}  {}\n{}\n", view.id, view.state, view.summary);
    if let Some(end) = &view.end {
        text.push_str(&format!("\n{}", how_it_ended(end)));
    }
    if !view.gates.is_empty() {
        let rows = view.gates.iter().map(row);
        text.push_str(&format!("\n{}\n", table(&["GATE", "STATE", "TIME SPENT", "OPENS", "DETAIL"], rows)));
    }
    for gate in view.gates.iter().filter(|gate| !gate.workers.is_empty()) {
        let rows = gate.workers.iter().map(|w| vec![w.worker_id.clone(), w.verdict.clone(), w.detail.clone()]);
        text.push_str(&format!("\n{}\n", table(&["WORKER", "VERDICT", "DETAIL"], rows)));
    }
    text
}

fn row(gate: &GateView) -> Vec<String> {
    let mark = match gate.state {
        GateState::Passed => "passed",
        GateState::Waits => "WAITS",
        GateState::Ahead => "ahead",
    };
    let spent = if gate.spent_ms > 0 { span::words(gate.spent_ms) } else { String::new() };
    vec![gate.name.clone(), mark.to_owned(), spent, gate.opens_at.clone().unwrap_or_default(), gate.detail.clone()]
}

fn how_it_ended(end: &JobEndView) -> String {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let decision = end.decision.as_ref().map(|d| format!("{} by {}: {}", d.decision, d.rule_id, d.reason)).unwrap_or_default();
    pairs([
        ("ended", end.at.clone()),
        ("attempts", format!("{} of {}", end.attempts, end.max_attempts)),
        ("worker", text(&end.worker_id)),
        ("workers died", if end.crashes > 0 { end.crashes.to_string() } else { String::new() }),
        ("decision", decision),
        ("error", text(&end.error_code)),
        ("message", text(&end.error_message)),
    ])
}
