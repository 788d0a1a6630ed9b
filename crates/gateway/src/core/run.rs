//! Runs and workflows as the HTTP interface shows them.

use std::collections::BTreeMap;

use busbar_api::{
    ItemsView, Problem, RunError, RunState, RunView, StepError, StepState, StepView, Timeline, TimelineItem, WorkflowView,
};
use busbar_protocol::busbar::{self, Items, RunEnd, RunEvent, RunEventEntry, RunRecord, StepChange, StepRecord};
use busbar_protocol::codes::Code;
use busbar_protocol::ids;
use serde_json::Value;

use super::view::{text, time};

/// Refuses an identifier that no workflow can have. Keys are put together with colons.
pub(crate) fn check_workflow_id(id: &str) -> Result<(), Problem> {
    if ids::check(id).is_ok() && !id.contains(':') { Ok(()) } else { Err(no_workflow(id)) }
}

/// Refuses an identifier that no run can have.
pub(crate) fn check_run_id(id: &str) -> Result<(), Problem> {
    if ids::check(id).is_ok() && !id.contains(':') { Ok(()) } else { Err(no_run(id)) }
}

/// No such workflow.
pub(crate) fn no_workflow(id: &str) -> Problem {
    let id: String = id.chars().take(80).collect();
    Problem::new(Code::WorkflowNotFound, format!("no workflow {id:?}, or not this version of it, is known"))
}

/// No such run.
pub(crate) fn no_run(id: &str) -> Problem {
    let id: String = id.chars().take(80).collect();
    Problem::new(Code::RunNotFound, format!("no run {id:?} is known: it never was, belongs to another tenant or has expired"))
}

/// The newest version of a workflow, without its document.
pub(crate) fn head_view(head: &busbar::WorkflowHead) -> WorkflowView {
    WorkflowView {
        id: head.workflow_id.clone(),
        version: head.newest,
        newest: head.newest,
        title: head.title.clone(),
        description: head.description.clone(),
        pack: text(&head.pack_id),
        created_at: time(head.updated_ms),
        created_by: None,
        document: None,
    }
}

/// Whether nothing changes the run any more.
pub(crate) fn has_ended(record: &RunRecord) -> bool {
    state(record).is_some_and(RunState::is_terminal)
}

fn state(record: &RunRecord) -> Option<RunState> {
    RunState::from_protocol(record.state())
}

/// The view of a run, without steps and output. `None` where the record is in no state that we know.
pub(crate) fn run_view(record: &RunRecord) -> Option<RunView> {
    Some(RunView {
        run_id: record.run_id.clone(),
        workflow_id: record.workflow_id.clone(),
        version: record.workflow_version,
        state: state(record)?,
        created_at: time(record.created_ms),
        ended_at: moment(record.ended_ms),
        error: record.ending.as_ref().and_then(run_error),
        output: None,
        output_bytes: (record.output_bytes > 0).then_some(record.output_bytes),
        labels: record.labels.clone().into_iter().collect(),
        trace_id: record.trace_id.clone(),
        steps: Vec::new(),
    })
}

pub(super) fn run_error(end: &RunEnd) -> Option<RunError> {
    let error = step_error(&end.error_code, &end.error_message)?;
    Some(RunError { code: error.code, message: error.message, step: text(&end.step_id) })
}

pub(super) fn step_error(code: &str, message: &str) -> Option<StepError> {
    let told = !(code.is_empty() && message.is_empty());
    told.then(|| StepError { code: code.to_owned(), message: message.to_owned() })
}

fn moment(millis: u64) -> Option<String> {
    (millis > 0).then(|| time(millis))
}

/// One step, of which there may be no record yet.
pub(crate) fn step_view(id: &str, kind: Option<&String>, record: Option<&StepRecord>) -> StepView {
    let none = StepRecord::default();
    let record = record.unwrap_or(&none);
    StepView {
        id: id.to_owned(),
        kind: kind.cloned(),
        state: StepState::from_protocol(record.state()),
        attempts: record.attempt,
        job_id: text(&record.job_id),
        started_at: moment(record.started_ms),
        ended_at: moment(record.ended_ms),
        error: step_error(&record.error_code, &record.error_message),
        items: record.items.as_ref().map(|items| items_view(items, record.ended_ms > 0)),
    }
}

pub(super) fn items_view(items: &Items, ended: bool) -> ItemsView {
    let over = items.succeeded.saturating_add(items.failed);
    // What was begun and not counted when the step ended was cancelled with it.
    let running = if ended { 0 } else { items.next.saturating_sub(over) };
    ItemsView { total: items.total, succeeded: items.succeeded, failed: items.failed, running }
}

/// What kinds of steps a document has, by their ids.
pub(crate) fn step_kinds(document: &[u8]) -> BTreeMap<String, String> {
    let document: Value = serde_json::from_slice(document).unwrap_or_default();
    let steps = document.get("steps").and_then(Value::as_object).into_iter().flatten();
    steps.filter_map(|(id, step)| Some((id.clone(), step.get("type")?.as_str()?.to_owned()))).collect()
}

/// What happened, out of the entries of a run's log. `from_start` says that no earlier entry was left out.
pub(crate) fn timeline(entries: &[RunEventEntry], from_start: bool) -> Timeline {
    let mut items = Vec::new();
    // A run whose beginning is not shown is known to be running by whoever reads on.
    let mut before = (!from_start).then_some(RunState::Running);
    for entry in entries {
        let Some(event) = &entry.event else { continue };
        let after = RunState::from_protocol(event.state());
        if before.is_none() {
            items.push(run_item(&entry.cursor, event, after));
        }
        items.extend(event.changes.iter().map(|change| step_item(&entry.cursor, event, change)));
        let changed = before.is_some() && after != before;
        if changed || (before.is_some() && event.ending.is_some()) {
            items.push(run_item(&entry.cursor, event, after.filter(|_| changed)));
        }
        before = after.or(before);
    }
    Timeline { items, next_cursor: entries.last().map(|entry| entry.cursor.clone()) }
}

fn run_item(cursor: &str, event: &RunEvent, state: Option<RunState>) -> TimelineItem {
    let error = event.ending.as_ref().and_then(run_error);
    let (code, message, step) = error.map_or((None, None, None), |error| (text(&error.code), text(&error.message), error.step));
    TimelineItem { at: time(event.at_ms), cursor: cursor.to_owned(), state, step, code, message, ..TimelineItem::default() }
}

fn step_item(cursor: &str, event: &RunEvent, change: &StepChange) -> TimelineItem {
    TimelineItem {
        at: time(event.at_ms),
        cursor: cursor.to_owned(),
        state: None,
        step: Some(change.step_id.clone()),
        item: change.item.checked_sub(1),
        step_state: Some(StepState::from_protocol(change.state())),
        attempt: (change.attempt > 0).then_some(change.attempt),
        job_id: text(&change.job_id),
        code: text(&change.error_code),
        message: text(&change.error_message),
    }
}

/// Reads `name=value,name=value`.
pub(crate) fn labels(given: &str) -> Result<BTreeMap<String, String>, Problem> {
    let pairs = given.split(',').filter(|pair| !pair.is_empty()).map(|pair| {
        let pair = pair.split_once('=').ok_or_else(|| {
            Problem::new(Code::FieldInvalid, "labels: give them as name=value, with commas between them".to_owned())
        })?;
        Ok((pair.0.to_owned(), pair.1.to_owned()))
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_stay_within_their_keys() {
        assert!(check_workflow_id("word-count.v2").is_ok());
        for bad in ["", "a:1", "a/b", "a b", &"x".repeat(200)] {
            assert_eq!(check_workflow_id(bad).map_err(|p| p.code), Err("workflow_not_found".into()), "{bad}");
            assert_eq!(check_run_id(bad).map_err(|p| p.code), Err("run_not_found".into()), "{bad}");
        }
    }

    #[test]
    fn a_step_without_a_record_has_not_begun() {
        let view = step_view("a", None, None);
        assert_eq!((view.state, view.attempts, view.job_id, view.error, view.items), (StepState::Pending, 0, None, None, None));
    }

    #[test]
    fn items_that_run_are_those_begun_and_not_over() {
        let items = Items { total: 10, next: 6, succeeded: 3, failed: 1 };
        assert_eq!(items_view(&items, false), ItemsView { total: 10, succeeded: 3, failed: 1, running: 2 });
        assert_eq!(items_view(&items, true).running, 0);
    }

    #[test]
    fn kinds_are_read_from_the_document() {
        let kinds = step_kinds(br#"{"steps":{"a":{"type":"job"},"b":{},"c":7}}"#);
        assert_eq!(kinds, [("a".to_owned(), "job".to_owned())].into());
        assert!(step_kinds(b"{").is_empty() && step_kinds(b"{}").is_empty());
    }

    #[test]
    fn labels_are_pairs() {
        let labels = labels("team=a,note=b=c,").expect("pairs");
        assert_eq!(labels, [("note".to_owned(), "b=c".to_owned()), ("team".to_owned(), "a".to_owned())].into());
        assert_eq!(super::labels("team").map_err(|p| p.code), Err("field_invalid".into()));
        assert!(super::labels("").expect("none").is_empty());
    }

    fn entry(cursor: &str, state: busbar::RunState, ending: Option<RunEnd>, changes: Vec<StepChange>) -> RunEventEntry {
        let event = RunEvent { state: state.into(), ending, changes, at_ms: 1_700_000_000_000, ..RunEvent::default() };
        RunEventEntry { cursor: cursor.into(), event: Some(event) }
    }

    fn change(step: &str, item: u32, state: busbar::StepState) -> StepChange {
        StepChange { step_id: step.into(), item, state: state.into(), attempt: 1, job_id: "j".into(), ..StepChange::default() }
    }

    #[test]
    fn a_timeline_tells_the_run_its_steps_and_their_items() {
        let end = RunEnd {
            state: busbar::RunState::Failed.into(),
            error_code: "step_failed".into(),
            step_id: "map".into(),
            ..RunEnd::default()
        };
        let entries = [
            entry("1-0", busbar::RunState::Running, None, vec![change("map", 0, busbar::StepState::Running)]),
            entry("2-0", busbar::RunState::Running, Some(end.clone()), vec![change("map", 1, busbar::StepState::Failed)]),
            entry("3-0", busbar::RunState::Failed, Some(end), vec![]),
        ];
        let told = timeline(&entries, true);
        let short: Vec<_> = told
            .items
            .iter()
            .map(|i| (i.cursor.as_str(), i.state, i.step.as_deref(), i.item, i.step_state, i.code.as_deref()))
            .collect();
        let expected = [
            ("1-0", Some(RunState::Running), None, None, None, None),
            ("1-0", None, Some("map"), None, Some(StepState::Running), None),
            ("2-0", None, Some("map"), Some(0), Some(StepState::Failed), None),
            ("2-0", None, Some("map"), None, None, Some("step_failed")),
            ("3-0", Some(RunState::Failed), Some("map"), None, None, Some("step_failed")),
        ];
        assert_eq!(short, expected);
        assert_eq!(told.next_cursor.as_deref(), Some("3-0"));
        // Read on from the first change: the run's beginning is not told again.
        assert_eq!(timeline(&entries[1..], false).items.len(), 3);
    }
}
