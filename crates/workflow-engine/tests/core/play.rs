//! A run that is played by hand: jobs end as the test says, time passes as the test says.

use std::collections::BTreeMap;
use std::sync::Arc;

use busbar_protocol::busbar::{RunState, StepChange, StepState};
use busbar_protocol::time::Timestamp;
use busbar_rules::expr::Value;
use busbar_workflow_engine::core::run::{Done, Head, Outcome, Run};
use busbar_workflow_engine::core::transition::{self, Event, JobOutcome, Limits, Rejected, Transition};
use busbar_workflow_engine::core::workflow::Workflow;
use serde_json::{Value as Json, json};

pub(crate) const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);
pub(crate) const RUN: &str = "01890000-0000-7000-8000-000000000001";

/// A document with these steps.
pub(crate) fn document(steps: &Json, output: &Json) -> Vec<u8> {
    let mut document = json!({"apiVersion": "busbar/v1", "kind": "Workflow", "id": "test", "steps": steps});
    if !output.is_null() {
        document["output"] = output.clone();
    }
    document.to_string().into_bytes()
}

/// A run, and what it has asked for so far.
pub(crate) struct Play {
    pub(crate) run: Run,
    pub(crate) now: Timestamp,
    pub(crate) limits: Limits,
    /// Inputs of the jobs that were submitted, by name within the run.
    pub(crate) submitted: BTreeMap<String, Json>,
    /// Their topics, and labels that say where they go.
    pub(crate) topics: BTreeMap<String, String>,
    pub(crate) places: BTreeMap<String, BTreeMap<String, String>>,
    pub(crate) cancelled: Vec<String>,
    pub(crate) staged: BTreeMap<String, Json>,
    pub(crate) changes: Vec<StepChange>,
}

impl Play {
    /// A run that has begun.
    pub(crate) fn begin(steps: &Json, output: &Json, input: &Json) -> Self {
        let mut play = Self::ready(&document(steps, output), input);
        play.apply(&Event::Proceed).expect("it begins");
        play
    }

    pub(crate) fn ready(document: &[u8], input: &Json) -> Self {
        let workflow = Arc::new(Workflow::compile(document).unwrap_or_else(|broken| panic!("{broken}")));
        let head = Head {
            id: RUN.to_owned(),
            tenant_id: "default".to_owned(),
            workflow_id: workflow.id.clone(),
            workflow_version: 1,
            created: START,
            deadline: workflow.timeout.map(|timeout| START.after(timeout)),
            ..Head::default()
        };
        Self {
            run: Run::new(head, workflow, Value::from_json(input)),
            now: START,
            limits: Limits::default(),
            submitted: BTreeMap::new(),
            topics: BTreeMap::new(),
            places: BTreeMap::new(),
            cancelled: Vec::new(),
            staged: BTreeMap::new(),
            changes: Vec::new(),
        }
    }

    pub(crate) fn apply(&mut self, event: &Event) -> Result<Transition, Rejected> {
        let transition = transition::decide(&self.run, event, &self.limits, self.now)?;
        self.run.follow(&transition, self.now);
        for submission in &transition.submit {
            let input = serde_json::from_slice(&submission.input).expect("inputs are JSON");
            let again =
                transition::submission(&self.run, submission.spot, self.run.attempt_at(submission.spot).expect("out").attempt);
            assert_eq!(again.expect("made again").as_ref(), Some(submission), "a submission follows from the run");
            self.topics.insert(short(&submission.job_id), submission.topic.clone());
            self.places.insert(short(&submission.job_id), submission.place.clone());
            let first = self.submitted.insert(short(&submission.job_id), input);
            assert!(first.is_none(), "{} was submitted twice", submission.job_id);
        }
        self.cancelled.extend(transition.cancel.iter().map(|job_id| short(job_id)));
        for staged in &transition.staged {
            let key = staged.key.replace(RUN, "").trim_end_matches(':').to_owned();
            self.staged.insert(key, serde_json::from_slice(&staged.value).expect("values are JSON"));
        }
        self.changes.extend(transition.changes.iter().cloned());
        Ok(transition)
    }

    /// A job ends; named as `map[3]@1`.
    pub(crate) fn end(&mut self, job: &str, outcome: JobOutcome) -> Result<(), Rejected> {
        let job_id = format!("{RUN}:{job}");
        let spot = self.run.jobs_out().find(|(_, id)| *id == job_id).map(|(spot, _)| spot).ok_or(Rejected::Stale)?;
        self.apply(&Event::JobOver { spot, job_id, outcome }).map(drop)
    }

    pub(crate) fn succeed(&mut self, job: &str, output: &Json) {
        let bytes = output.to_string().len() as u64;
        self.succeed_on(job, output, "w", bytes);
    }

    /// A job succeeds on a worker, which took so many milliseconds.
    pub(crate) fn succeed_on(&mut self, job: &str, output: &Json, worker_id: &str, execution_ms: u64) {
        let bytes = output.to_string().len() as u64;
        let done = Done::by(worker_id, execution_ms);
        let outcome = JobOutcome::Succeeded { output: Value::from_json(output), bytes, key: format!("res:{job}"), done };
        self.end(job, outcome).unwrap_or_else(|rejected| panic!("{job}: {rejected}"));
    }

    pub(crate) fn fail(&mut self, job: &str) {
        self.end(job, failure(true)).unwrap_or_else(|rejected| panic!("{job}: {rejected}"));
    }

    pub(crate) fn pass(&mut self, ms: u64) -> Result<(), Rejected> {
        self.now = self.now.after_millis(ms);
        self.apply(&Event::Tick).map(drop)
    }

    /// Jobs that are out, by name within the run.
    pub(crate) fn out(&self) -> Vec<String> {
        self.run.jobs_out().map(|(_, job_id)| short(&job_id)).collect()
    }

    pub(crate) fn state(&self) -> RunState {
        self.run.progress.state()
    }

    /// Code and message of a run that does not succeed.
    pub(crate) fn why(&self) -> (String, String) {
        let end = self.run.progress.end().expect("it does not succeed");
        (end.code.clone(), end.message.clone())
    }

    /// The state of a step, as its record tells it; none while it is idle.
    pub(crate) fn step(&self, id: &str) -> Option<StepState> {
        let step = self.run.workflow.place_of(id).expect("a step");
        let spot = busbar_workflow_engine::core::run::Spot { step, item: None };
        self.run.step_record(spot).map(|record| record.state())
    }
}

pub(crate) fn failure(retryable: bool) -> JobOutcome {
    JobOutcome::NotSucceeded {
        outcome: Outcome::Failed,
        code: "handler_failed".to_owned(),
        message: "no luck".to_owned(),
        retryable,
    }
}

fn short(job_id: &str) -> String {
    job_id.trim_start_matches(RUN).trim_start_matches(':').to_owned()
}
