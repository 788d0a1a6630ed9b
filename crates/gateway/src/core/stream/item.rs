//! One thing to tell, ready to be sent: whose it is, what filters ask about it, and its body.

use busbar_api::{JobChange, JobState, JobView, RunChange, RunState, StepChange, StepState, WorkerView, stream_subjects};
use busbar_protocol::busbar::{self, JobEvent, RunEvent, RunRecord, StepRecord};
use busbar_protocol::ids;
use serde::Serialize;

use crate::core::run::{items_view, run_error, step_error};
use crate::core::view::{text, time};

/// What a frame is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Job,
    Run,
    Step,
    Progress,
    Result,
    Worker,
    Alert,
}

/// Who may see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    Tenant(String),
    /// Whoever may look at the cell.
    Cell,
}

/// One thing to tell.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    /// Of what happened in a run: [`Kind::Run`], whether the run or its steps changed.
    pub(crate) kind: Kind,
    pub(crate) owner: Owner,
    pub(crate) topic: Option<String>,
    pub(crate) job_id: Option<String>,
    pub(crate) run_id: Option<String>,
    pub(crate) worker_id: Option<String>,
    pub(crate) at_ms: u64,
    /// The members of the frame after its cursor, `"subject":…,"event":…`.
    pub(crate) body: String,
    pub(crate) steps: Steps,
}

/// What a change of a run says of its steps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Steps {
    /// Nothing.
    #[default]
    None,
    /// This is the body without them; none where only items of steps changed, of which followers of runs do not want to know.
    Some { without: Option<String> },
}

impl Kind {
    pub(crate) const ALL: [Self; 7] = [Self::Job, Self::Run, Self::Step, Self::Progress, Self::Result, Self::Worker, Self::Alert];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Job => "job",
            Self::Run => "run",
            Self::Step => "step",
            Self::Progress => "progress",
            Self::Result => "result",
            Self::Worker => "worker",
            Self::Alert => "alert",
        }
    }

    /// Whether it tells of the cell, and not of a tenant's work.
    pub(crate) const fn is_of_cell(self) -> bool {
        match self {
            Self::Worker | Self::Alert => true,
            Self::Job | Self::Run | Self::Step | Self::Progress | Self::Result => false,
        }
    }
}

impl Item {
    pub(crate) const fn new(kind: Kind, owner: Owner, body: String) -> Self {
        Self { kind, owner, topic: None, job_id: None, run_id: None, worker_id: None, at_ms: 0, body, steps: Steps::None }
    }

    /// A committed change of a job. `None` where it is in no state that we know.
    pub(crate) fn of_job(event: &JobEvent) -> Option<Self> {
        let states: Vec<JobState> = event.states().map(JobState::from_protocol).collect::<Option<_>>()?;
        let change = JobChange {
            job_id: event.job_id.clone(),
            topic: event.topic.clone(),
            state: *states.last()?,
            states,
            at: time(event.at_ms),
            attempt: event.attempt,
            worker_id: text(&event.worker_id),
            error_code: text(&event.error_code),
            error_message: text(&event.error_message),
            result_ptr: text(&event.result_ptr),
            execution_ms: (event.execution_ms > 0).then_some(event.execution_ms),
            trace_id: event.trace_id.clone(),
        };
        Some(Self::job(&event.tenant_id, event.at_ms, change))
    }

    /// A job as it is.
    pub(crate) fn of_job_view(view: JobView, updated_ms: u64) -> Self {
        let tenant_id = view.tenant_id;
        let change = JobChange {
            job_id: view.id,
            topic: view.topic,
            state: view.state,
            states: vec![view.state],
            at: view.updated_at,
            attempt: view.attempts,
            worker_id: view.worker_id,
            error_code: view.error_code,
            error_message: view.error_message,
            result_ptr: view.result_ptr,
            execution_ms: view.execution_ms,
            trace_id: view.trace_id,
        };
        Self::job(&tenant_id, updated_ms, change)
    }

    fn job(tenant_id: &str, at_ms: u64, change: JobChange) -> Self {
        let body = event_body(stream_subjects::JOB, &change);
        Self {
            run_id: ids::run_of(&change.job_id).map(str::to_owned),
            topic: Some(change.topic),
            job_id: Some(change.job_id),
            worker_id: change.worker_id,
            at_ms,
            ..Self::new(Kind::Job, Owner::Tenant(tenant_id.to_owned()), body)
        }
    }

    /// A committed change of a run. `None` where it is in no state that we know.
    pub(crate) fn of_run(event: &RunEvent) -> Option<Self> {
        let change = RunChange {
            run_id: event.run_id.clone(),
            workflow_id: event.workflow_id.clone(),
            state: RunState::from_protocol(event.state())?,
            at: time(event.at_ms),
            ending: event.ending.as_ref().and_then(|end| RunState::from_protocol(end.state())),
            error: event.ending.as_ref().and_then(run_error),
            changes: event.changes.iter().map(step_change).collect(),
            trace_id: event.trace_id.clone(),
        };
        Some(Self::run(&event.tenant_id, event.at_ms, change))
    }

    /// A run as it is. `None` where it is in no state that we know.
    pub(crate) fn of_run_record(record: &RunRecord, steps: &[StepRecord]) -> Option<Self> {
        let change = RunChange {
            run_id: record.run_id.clone(),
            workflow_id: record.workflow_id.clone(),
            state: RunState::from_protocol(record.state())?,
            at: time(record.updated_ms),
            ending: record.ending.as_ref().and_then(|end| RunState::from_protocol(end.state())),
            error: record.ending.as_ref().and_then(run_error),
            changes: steps.iter().map(step_record).collect(),
            trace_id: record.trace_id.clone(),
        };
        Some(Self::run(&record.tenant_id, record.updated_ms, change))
    }

    fn run(tenant_id: &str, at_ms: u64, mut change: RunChange) -> Self {
        let body = event_body(stream_subjects::RUN, &change);
        let changes = std::mem::take(&mut change.changes);
        let only_items = change.ending.is_none() && !changes.is_empty() && changes.iter().all(|step| step.item.is_some());
        let steps = match changes.is_empty() {
            true => Steps::None,
            false => Steps::Some { without: (!only_items).then(|| event_body(stream_subjects::RUN, &change)) },
        };
        let owner = Owner::Tenant(tenant_id.to_owned());
        Self { run_id: Some(change.run_id), at_ms, steps, ..Self::new(Kind::Run, owner, body) }
    }

    /// A worker as it is.
    pub(crate) fn of_worker(view: &WorkerView) -> Self {
        let body = event_body(stream_subjects::WORKER, view);
        Self { worker_id: Some(view.id.clone()), ..Self::new(Kind::Worker, Owner::Cell, body) }
    }
}

fn event_body(subject: &str, event: &impl Serialize) -> String {
    let event = serde_json::to_string(event).expect("events have only texts, numbers and lists");
    format!(r#""subject":"{subject}","event":{event}"#)
}

fn step_change(change: &busbar::StepChange) -> StepChange {
    let state = StepState::from_protocol(change.state());
    let ended = !matches!(state, StepState::Pending | StepState::Waiting | StepState::Running);
    StepChange {
        step: change.step_id.clone(),
        item: change.item.checked_sub(1),
        state,
        attempt: change.attempt,
        job_id: text(&change.job_id),
        error: step_error(&change.error_code, &change.error_message),
        items: change.items.as_ref().map(|items| items_view(items, ended)),
    }
}

fn step_record(record: &StepRecord) -> StepChange {
    StepChange {
        step: record.step_id.clone(),
        item: None,
        state: StepState::from_protocol(record.state()),
        attempt: record.attempt,
        job_id: text(&record.job_id),
        error: step_error(&record.error_code, &record.error_message),
        items: record.items.as_ref().map(|items| items_view(items, record.ended_ms > 0)),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use busbar_protocol::busbar::Items;

    pub(in super::super) fn job(tenant_id: &str, job_id: &str, topic: &str, at_ms: u64) -> Item {
        let event = JobEvent {
            job_id: job_id.into(),
            tenant_id: tenant_id.into(),
            topic: topic.into(),
            states: vec![busbar::JobState::Dispatched.into(), busbar::JobState::Running.into()],
            at_ms,
            worker_id: "w1".into(),
            ..JobEvent::default()
        };
        Item::of_job(&event).expect("known states")
    }

    pub(in super::super) fn progress(tenant_id: &str, job_id: &str, percent: i32) -> Item {
        let body = format!(r#""subject":"sys.job.progress","packet":{{"jobId":"{job_id}","percent":{percent}}}"#);
        let owner = Owner::Tenant(tenant_id.into());
        Item { job_id: Some(job_id.into()), topic: Some("job.x".into()), ..Item::new(Kind::Progress, owner, body) }
    }

    pub(in super::super) fn run(changes: Vec<busbar::StepChange>, end: Option<busbar::RunEnd>) -> Item {
        let event = RunEvent {
            run_id: "r1".into(),
            tenant_id: "acme".into(),
            workflow_id: "w".into(),
            state: busbar::RunState::Running.into(),
            ending: end,
            changes,
            ..RunEvent::default()
        };
        Item::of_run(&event).expect("a known state")
    }

    pub(in super::super) fn step(step_id: &str, item: u32) -> busbar::StepChange {
        let items = (item == 0).then_some(Items { total: 5, next: 3, succeeded: 1, failed: 0 });
        busbar::StepChange {
            step_id: step_id.into(),
            item,
            state: busbar::StepState::Running.into(),
            items,
            ..busbar::StepChange::default()
        }
    }

    fn event(item: &Item) -> serde_json::Value {
        let frame: serde_json::Value = serde_json::from_str(&format!("{{{}}}", item.body)).expect("JSON");
        frame["event"].clone()
    }

    #[test]
    fn a_change_of_a_job_tells_all_states_that_it_passed() {
        let item = job("acme", "r1:map[3]@2", "job.x", 1_700_000_000_000);
        let event = event(&item);
        assert_eq!((&event["state"], &event["states"]), (&"RUNNING".into(), &serde_json::json!(["DISPATCHED", "RUNNING"])));
        assert_eq!((&event["at"], &event["error_code"]), (&"2023-11-14T22:13:20.000Z".into(), &serde_json::Value::Null));
        assert_eq!((item.run_id.as_deref(), item.worker_id.as_deref()), (Some("r1"), Some("w1")));
        assert_eq!(job("acme", "j", "job.x", 0).run_id, None);
        assert!(Item::of_job(&JobEvent { states: vec![0], ..JobEvent::default() }).is_none());
        assert!(Item::of_job(&JobEvent::default()).is_none());
    }

    #[test]
    fn a_change_of_a_run_can_be_told_without_its_steps() {
        let item = run(vec![step("map", 0), step("map", 4)], None);
        let event = event(&item);
        assert_eq!((&event["changes"][0]["item"], &event["changes"][1]["item"]), (&serde_json::Value::Null, &3.into()));
        assert_eq!(event["changes"][0]["items"]["running"], 2);
        let Steps::Some { without: Some(without) } = &item.steps else { panic!("{item:?}") };
        assert!(!without.contains("changes") && without.contains(r#""run_id":"r1""#), "{without}");
        assert_eq!(run(vec![step("map", 4)], None).steps, Steps::Some { without: None });
        assert_eq!(run(vec![], None).steps, Steps::None);
        let end = busbar::RunEnd { state: busbar::RunState::Failed.into(), ..busbar::RunEnd::default() };
        let ended = run(vec![step("map", 4)], Some(end));
        assert!(matches!(ended.steps, Steps::Some { without: Some(_) }));
    }
}
