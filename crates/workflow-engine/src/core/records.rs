//! The packed forms of runs, steps and items, and putting a run together again from them.

use std::sync::Arc;

use busbar_protocol::busbar::{Items, RunRecord, RunState, StepRecord, StepState};
use busbar_protocol::time::Timestamp;
use busbar_rules::expr::Value;

use super::run::{
    Counts, Done, End, Fan, Head, ItemRun, Outcome, Over, Progress, RECORD_VERSION, Run, Spot, StepRun, Try, TryState,
};
use super::workflow::Workflow;

impl From<Counts> for Items {
    fn from(counts: Counts) -> Self {
        let Counts { total, next, succeeded, failed } = counts;
        Self { total, next, succeeded, failed }
    }
}

impl From<Items> for Counts {
    fn from(items: Items) -> Self {
        let Items { total, next, succeeded, failed } = items;
        Self { total, next, succeeded, failed }
    }
}

/// A record that says what cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the record of {what} cannot be: {why}")]
pub struct Impossible {
    /// The run, step or item.
    pub what: String,
    /// What is wrong.
    pub why: &'static str,
}

impl Run {
    /// The packed form of the run without its steps.
    #[must_use]
    pub fn to_record(&self) -> RunRecord {
        let head = &*self.head;
        let (ended_ms, output_bytes) = match &self.progress {
            Progress::Ended { at, output_bytes, .. } => (at.millis(), *output_bytes),
            Progress::Running | Progress::Paused | Progress::Ending(_) => (0, 0),
        };
        RunRecord {
            version: RECORD_VERSION,
            run_id: head.id.clone(),
            tenant_id: head.tenant_id.clone(),
            workflow_id: head.workflow_id.clone(),
            workflow_version: head.workflow_version,
            workflow_tenant_id: head.workflow_tenant_id.clone(),
            trace_id: head.trace_id.clone(),
            traceparent: head.traceparent.clone(),
            requested_by: head.requested_by.clone(),
            idempotency_key: head.idempotency_key.clone(),
            labels: head.labels.clone(),
            created_ms: head.created.millis(),
            updated_ms: self.updated.millis(),
            input_bytes: head.input_bytes,
            deadline_at_ms: head.deadline.map_or(0, Timestamp::millis),
            steps: self.workflow.steps.iter().map(|step| step.id.clone()).collect(),
            state: self.progress.state().into(),
            ending: self.progress.end().map(End::to_record),
            ended_ms,
            output_bytes,
        }
    }

    /// The packed form of a spot; none while it is idle.
    #[must_use]
    pub fn step_record(&self, spot: Spot) -> Option<StepRecord> {
        let record = match spot.item {
            Some(item) => match self.items.get(&(spot.step, item))? {
                ItemRun::Trying(at) => self.try_record(spot, at),
                ItemRun::Over(over) => self.over_record(spot, over),
            },
            None => match self.steps.get(spot.step)? {
                StepRun::Idle => return None,
                StepRun::Trying(at) => self.try_record(spot, at),
                StepRun::Fan(fan) => fan_record(fan),
                StepRun::Over(over) => self.over_record(spot, over),
            },
        };
        let step_id = self.workflow.steps.get(spot.step)?.id.clone();
        Some(StepRecord { version: RECORD_VERSION, run_id: self.head.id.clone(), step_id, ..record })
    }

    fn try_record(&self, spot: Spot, at: &Try) -> StepRecord {
        let (state, not_before_ms) = match at.state {
            TryState::Waiting { until } => (StepState::Waiting, until.millis()),
            TryState::Out => (StepState::Running, 0),
        };
        StepRecord {
            state: state.into(),
            attempt: at.attempt,
            job_id: self.job_id(spot, at.attempt),
            not_before_ms,
            started_ms: at.started.millis(),
            ..StepRecord::default()
        }
    }

    fn over_record(&self, spot: Spot, over: &Over) -> StepRecord {
        StepRecord {
            state: over.outcome.state().into(),
            attempt: over.attempt,
            job_id: if over.attempt > 0 { self.job_id(spot, over.attempt) } else { String::new() },
            started_ms: over.started.millis(),
            ended_ms: over.at.millis(),
            error_code: over.code.clone(),
            error_message: over.message.clone(),
            output_bytes: over.output_bytes,
            worker_id: over.done.worker.to_json().as_str().unwrap_or_default().to_owned(),
            execution_ms: over.done.execution_ms.to_json().as_u64().unwrap_or_default(),
            items: over.counts.map(Items::from),
            ..StepRecord::default()
        }
    }
}

fn fan_record(fan: &Fan) -> StepRecord {
    let (error_code, error_message) = fan.failure.clone().unwrap_or_default();
    StepRecord {
        state: StepState::Running.into(),
        started_ms: fan.started.millis(),
        items: Some(fan.counts.into()),
        error_code,
        error_message,
        ..StepRecord::default()
    }
}

/// What the store holds of a spot: its record, and the values that belong to it.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The record.
    pub record: StepRecord,
    /// The output, where the record says that there is one.
    pub output: Value,
    /// What a `for_each` step goes over, where it is at work.
    pub list: Value,
}

impl Run {
    /// Puts a run together again from its records.
    ///
    /// # Errors
    /// [`Impossible`] when a record says what cannot be.
    pub fn restore(record: RunRecord, workflow: Arc<Workflow>, input: Value) -> Result<Self, Impossible> {
        let impossible = |why| Impossible { what: format!("run {}", record.run_id), why };
        if record.steps.iter().ne(workflow.steps.iter().map(|step| &step.id)) {
            return Err(impossible("its steps are not those of its workflow"));
        }
        let ending = record.ending.clone().map(|end| End::from_record(end).ok_or_else(|| impossible("it ends without an end")));
        let progress = match (record.state(), ending.transpose()?) {
            (RunState::Running, None) => Progress::Running,
            (RunState::Paused, None) => Progress::Paused,
            (RunState::Running, Some(end)) => Progress::Ending(end),
            _ => return Err(impossible("it is listed as live, but has ended")),
        };
        let head = Head {
            id: record.run_id,
            tenant_id: record.tenant_id,
            workflow_id: record.workflow_id,
            workflow_tenant_id: record.workflow_tenant_id,
            workflow_version: record.workflow_version,
            trace_id: record.trace_id,
            traceparent: record.traceparent,
            requested_by: record.requested_by,
            idempotency_key: record.idempotency_key,
            labels: record.labels,
            created: Timestamp::from_millis(record.created_ms),
            input_bytes: record.input_bytes,
            deadline: (record.deadline_at_ms > 0).then(|| Timestamp::from_millis(record.deadline_at_ms)),
        };
        let updated = Timestamp::from_millis(record.updated_ms);
        Ok(Self { progress, updated, ..Self::new(head, workflow, input) })
    }

    /// Puts a step or item back in its place.
    ///
    /// # Errors
    /// [`Impossible`] when the record says what cannot be.
    pub fn restore_spot(&mut self, spot: Spot, kept: Kept) -> Result<(), Impossible> {
        let what = format!("{} of run {}", self.name_of(spot), self.head.id);
        let impossible = |why| Impossible { what: what.clone(), why };
        let Kept { record, output, list } = kept;
        let started = Timestamp::from_millis(record.started_ms);
        let trying = |state| Try { attempt: record.attempt, started, state };
        let found = match (record.state(), record.items) {
            (StepState::Waiting, None) => {
                Found::Trying(trying(TryState::Waiting { until: Timestamp::from_millis(record.not_before_ms) }))
            }
            (StepState::Running, None) => Found::Trying(trying(TryState::Out)),
            (StepState::Running, Some(items)) => {
                let failure = (!record.error_code.is_empty()).then_some((record.error_code, record.error_message));
                Found::Fan(Fan { list, started, counts: items.into(), failure })
            }
            (state, items) => Found::Over(Over {
                outcome: Outcome::of_state(state).ok_or_else(|| impossible("it is in no state"))?,
                started,
                at: Timestamp::from_millis(record.ended_ms),
                attempt: record.attempt,
                code: record.error_code,
                message: record.error_message,
                output,
                output_bytes: record.output_bytes,
                // Of a `for_each` step it is put together from its items.
                done: Done::by(&record.worker_id, record.execution_ms),
                counts: items.map(Counts::from),
            }),
        };
        if matches!(found, Found::Trying(_)) {
            self.active.insert(spot);
        }
        if let Found::Over(over) = &found {
            self.values_bytes += over.output_bytes;
        }
        match (spot.item, found) {
            (None, Found::Trying(at)) => self.steps[spot.step] = StepRun::Trying(at),
            (None, Found::Fan(fan)) => self.steps[spot.step] = StepRun::Fan(fan),
            (None, Found::Over(over)) => self.steps[spot.step] = StepRun::Over(over),
            (Some(item), Found::Trying(at)) => {
                self.items.insert((spot.step, item), ItemRun::Trying(at));
            }
            (Some(item), Found::Over(over)) => {
                self.items.insert((spot.step, item), ItemRun::Over(over));
            }
            (Some(_), Found::Fan(_)) => return Err(impossible("an item has items")),
        }
        Ok(())
    }
}

/// What a record says.
enum Found {
    Trying(Try),
    Fan(Fan),
    Over(Over),
}
