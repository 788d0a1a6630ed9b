//! The changes that a pass makes, one at a time: each is told to the log as it is made.

use std::collections::BTreeMap;

use busbar_protocol::busbar::{Items, StepChange, StepState};
use busbar_protocol::codes::Code;
use busbar_protocol::subjects;
use busbar_rules::expr::{ExprError, References, Scope, Template, Value};

use super::draft::{Draft, failed, json};
use super::run::{Counts, Done, End, Fan, ItemRun, Outcome, Over, Progress, Spot, StepRun, Try, TryState, output_key};
use super::transition::{Staged, Submission};
use super::workflow::{JobPlan, Work};

impl<'a> Draft<'a> {
    pub(super) const fn first_try(&self) -> Try {
        Try { attempt: 1, started: self.now, state: TryState::Out }
    }

    /// Sends a job on its way, or fails the attempt when its input cannot be made.
    pub(super) fn submit(&mut self, spot: Spot, at: Try) {
        self.spent = self.spent.saturating_add(self.cost(spot));
        match self.submission(spot, at.attempt) {
            None => {}
            Some(Ok(submission)) => {
                self.next.submit.push(submission);
                self.set_try(spot, at, "", "");
            }
            Some(Err(message)) => {
                let none = Try { attempt: at.attempt - 1, ..at };
                self.give_up(spot, &none, Outcome::Failed, Code::ExpressionFailed.as_str(), &message);
            }
        }
    }

    /// What it may cost to make the input of a job.
    fn cost(&self, spot: Spot) -> u64 {
        let of = |plan: &JobPlan| Some(plan.input.cost(&self.scope_at(spot, plan.input.references())?));
        self.job_plan(spot.step).and_then(of).unwrap_or_default()
    }

    /// The job of an attempt, with its input and where it goes; or why there can be none.
    pub(super) fn submission(&self, spot: Spot, attempt: u32) -> Option<Result<Submission, String>> {
        let plan = self.job_plan(spot.step)?;
        let topic = match plan.topic.render(&self.scope_at(spot, plan.topic.references())?).map(|topic| topic.to_json()) {
            Ok(serde_json::Value::String(topic)) if subjects::is_topic(&topic) => topic,
            Ok(other) => return Some(Err(format!("topic: {other} is none"))),
            Err(error) => return Some(Err(format!("topic: {error}"))),
        };
        let input = match plan.input.render(&self.scope_at(spot, plan.input.references())?) {
            Ok(input) => json(&input),
            Err(error) => return Some(Err(format!("input: {error}"))),
        };
        let place = match &plan.place {
            None => BTreeMap::new(),
            Some(place) => match place.labels(&self.scope_at(spot, place.template.references())?) {
                Ok(labels) => labels,
                Err(error) => return Some(Err(format!("place: {error}"))),
            },
        };
        Some(Ok(Submission { spot, job_id: self.run.job_id(spot, attempt), topic, input, place }))
    }

    /// The scope of an expression of a job.
    fn scope_at(&self, spot: Spot, references: &References) -> Option<Scope> {
        let Some(index) = spot.item else { return Some(self.scope(references)) };
        let item = self.fan(spot.step)?.list.entry(usize::try_from(index).ok()?)?;
        Some(self.scope_of_item(references, index, item))
    }

    pub(super) fn job_plan(&self, place: usize) -> Option<&'a JobPlan> {
        match &self.definition(place).work {
            Work::Job(job) | Work::ForEach { job, .. } => Some(job),
            Work::Condition(_) | Work::Transform(_) => None,
        }
    }

    pub(super) fn render(&self, template: &Template) -> Result<Value, ExprError> {
        template.render(&self.scope(template.references()))
    }

    /// A step that needs no job gives its value.
    pub(super) fn give(&mut self, place: usize, value: Value) {
        let spot = Spot { step: place, item: None };
        let text = json(&value);
        let bytes = text.len() as u64;
        if self.values_bytes() + bytes > self.limits.values_bytes_max {
            let message =
                format!("with this value of {bytes} bytes the run would keep more than {} bytes", self.limits.values_bytes_max);
            return self.fail_with(place, Code::RunTooLarge, &message);
        }
        self.next.staged.push(Staged { key: output_key(self.run, spot), value: text });
        self.next.values_bytes += bytes;
        let over = Over { output: value, output_bytes: bytes, ..self.over(&self.no_try(), Outcome::Succeeded, "", "") };
        self.set_over(spot, over);
    }

    pub(super) fn skip(&mut self, place: usize, why: &str) {
        self.set_over(Spot { step: place, item: None }, self.over(&self.no_try(), Outcome::Skipped, "", why));
    }

    pub(super) fn fail_at_once(&mut self, place: usize, message: &str) {
        self.fail_with(place, Code::ExpressionFailed, message);
    }

    pub(super) fn fail_with(&mut self, place: usize, code: Code, message: &str) {
        self.give_up(Spot { step: place, item: None }, &self.no_try(), Outcome::Failed, code.as_str(), message);
    }

    pub(super) const fn no_try(&self) -> Try {
        Try { attempt: 0, started: self.now, state: TryState::Out }
    }

    /// A spot did not succeed and is not tried again: the run ends for it, unless that is permitted.
    pub(super) fn give_up(&mut self, spot: Spot, at: &Try, outcome: Outcome, code: &str, message: &str) {
        self.set_over(spot, self.over(at, outcome, code, message));
        let step = self.definition(spot.step);
        if !step.allow_failure && self.progress().is_undecided() {
            let told = format!("step {} did not succeed: {code}: {message}", self.run.name_of(spot));
            self.end_with(failed(Code::StepFailed, told, &step.id));
        }
    }

    pub(super) fn end_with(&mut self, end: End) {
        self.next.progress = Some(Progress::Ending(end));
    }

    pub(super) fn over(&self, at: &Try, outcome: Outcome, code: &str, message: &str) -> Over {
        Over {
            outcome,
            started: at.started,
            at: self.now,
            attempt: at.attempt,
            code: code.to_owned(),
            message: message.to_owned(),
            output: Value::null(),
            output_bytes: 0,
            done: Done::default(),
            counts: None,
        }
    }

    pub(super) fn values_bytes(&self) -> u64 {
        self.run.values_bytes + self.next.values_bytes
    }

    pub(super) fn set_try(&mut self, spot: Spot, at: Try, code: &str, message: &str) {
        let state = match at.state {
            TryState::Waiting { .. } => StepState::Waiting,
            TryState::Out => StepState::Running,
        };
        self.tell(spot, state, at.attempt, code, message, None);
        self.active.insert(spot);
        match spot.item {
            None => {
                self.next.steps.insert(spot.step, StepRun::Trying(at));
            }
            Some(item) => {
                self.next.items.insert((spot.step, item), ItemRun::Trying(at));
            }
        }
    }

    pub(super) fn set_over(&mut self, spot: Spot, over: Over) {
        if let Some(item) = spot.item {
            self.count(spot.step, &over, item);
        }
        let counts = over.counts.or_else(|| self.fan(spot.step).map(|fan| fan.counts));
        self.tell(spot, over.outcome.state(), over.attempt, &over.code, &over.message, counts);
        self.active.remove(&spot);
        match spot.item {
            None => {
                self.next.steps.insert(spot.step, StepRun::Over(over));
            }
            Some(item) => {
                self.next.items.insert((spot.step, item), ItemRun::Over(over));
            }
        }
    }

    /// Counts an item that is over.
    pub(super) fn count(&mut self, place: usize, over: &Over, item: u32) {
        let Some(mut fan) = self.fan(place).cloned() else { return };
        if over.outcome == Outcome::Succeeded {
            fan.counts.succeeded += 1;
        } else {
            fan.counts.failed += 1;
        }
        if matches!(over.outcome, Outcome::Failed | Outcome::Timeout) && fan.failure.is_none() {
            fan.failure = Some((over.code.clone(), format!("item {item}: {}", over.message)));
        }
        self.next.steps.insert(place, StepRun::Fan(fan));
    }

    pub(super) fn tell_fan(&mut self, place: usize, fan: &Fan) {
        self.tell(Spot { step: place, item: None }, StepState::Running, 0, "", "", Some(fan.counts));
    }

    pub(super) fn tell(&mut self, spot: Spot, state: StepState, attempt: u32, code: &str, message: &str, counts: Option<Counts>) {
        self.next.changes.push(StepChange {
            step_id: self.definition(spot.step).id.clone(),
            item: spot.item.map_or(0, |item| item + 1),
            state: state.into(),
            attempt,
            job_id: if attempt > 0 { self.run.job_id(spot, attempt) } else { String::new() },
            error_code: code.to_owned(),
            error_message: message.to_owned(),
            items: counts.map(Items::from),
        });
    }
}
