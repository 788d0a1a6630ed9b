//! A run as it will be: what an event changes, and the one pass over the steps that follows it.
//!
//! A pass visits the steps in an order in which each comes after those on which it depends, so that whatever becomes possible
//! happens in the same pass, however long the chain of conditions and transforms is.

use std::collections::BTreeSet;

use busbar_protocol::codes::Code;
use busbar_protocol::keys;
use busbar_protocol::limits::PAYLOAD_BYTES_MAX;
use busbar_protocol::time::Timestamp;
use busbar_rules::expr::{COST_MAX, Value};
use bytes::Bytes;

use super::document::{Join, ResultAs, Retries};
use super::run::{
    Counts, Done, End, EndOutcome, Fan, ItemRun, Outcome, Over, Progress, Run, Spot, StepRun, Try, TryState, collected,
    output_key,
};
use super::transition::{JobOutcome, Limits, Rejected, Staged, Transition};
use super::workflow::{ITEMS_MAX, Step, Work};

/// The most jobs that one transition submits; where it stops for that, the next one goes on.
const SUBMISSIONS_MAX: usize = 256;

/// A run as it will be: what it was, and what has changed so far.
pub(crate) struct Draft<'a> {
    pub(crate) run: &'a Run,
    pub(super) limits: Limits,
    pub(super) now: Timestamp,
    pub(super) next: Transition,
    /// What waits or is out then.
    pub(super) active: BTreeSet<Spot>,
    /// What the inputs of its jobs may have cost so far.
    pub(super) spent: u64,
}

impl<'a> Draft<'a> {
    pub(super) fn new(run: &'a Run, limits: Limits, now: Timestamp) -> Self {
        Self { run, limits, now, next: Transition::default(), active: run.active.clone(), spent: 0 }
    }

    pub(crate) fn step(&self, place: usize) -> &StepRun {
        self.next.steps.get(&place).unwrap_or(&self.run.steps[place])
    }

    pub(super) fn item(&self, place: usize, item: u32) -> Option<&ItemRun> {
        self.next.items.get(&(place, item)).or_else(|| self.run.items.get(&(place, item)))
    }

    pub(super) fn progress(&self) -> &Progress {
        self.next.progress.as_ref().unwrap_or(&self.run.progress)
    }

    pub(super) fn definition(&self, place: usize) -> &'a Step {
        &self.run.workflow.steps[place]
    }

    pub(super) fn attempt_at(&self, spot: Spot) -> Option<&Try> {
        match spot.item {
            None => match self.step(spot.step) {
                StepRun::Trying(at) => Some(at),
                StepRun::Idle | StepRun::Fan(_) | StepRun::Over(_) => None,
            },
            Some(item) => match self.item(spot.step, item)? {
                ItemRun::Trying(at) => Some(at),
                ItemRun::Over(_) => None,
            },
        }
    }

    pub(super) fn fan(&self, place: usize) -> Option<&Fan> {
        match self.step(place) {
            StepRun::Fan(fan) => Some(fan),
            StepRun::Idle | StepRun::Trying(_) | StepRun::Over(_) => None,
        }
    }

    // Events.

    pub(super) fn job_over(&mut self, spot: Spot, job_id: &str, outcome: &JobOutcome) -> Result<(), Rejected> {
        let at = self.attempt_at(spot).filter(|at| matches!(at.state, TryState::Out)).cloned().ok_or(Rejected::Stale)?;
        if self.run.job_id(spot, at.attempt) != job_id {
            return Err(Rejected::Stale);
        }
        match outcome {
            JobOutcome::Succeeded { bytes, done, .. } | JobOutcome::SucceededLarge { bytes, done }
                if self.refers(spot.step, *bytes) =>
            {
                self.refer(spot, &at, job_id, *bytes, done);
            }
            JobOutcome::SucceededLarge { bytes, .. } => {
                let message =
                    format!("the job's result has {bytes} bytes, and a run keeps results of at most {PAYLOAD_BYTES_MAX} bytes");
                self.give_up(spot, &at, Outcome::Failed, Code::RunTooLarge.as_str(), &message);
            }
            JobOutcome::Succeeded { bytes, .. } if self.values_bytes() + bytes > self.limits.values_bytes_max => {
                let message = format!(
                    "with this output of {bytes} bytes the run would keep more than {} bytes of values",
                    self.limits.values_bytes_max
                );
                self.give_up(spot, &at, Outcome::Failed, Code::RunTooLarge.as_str(), &message);
            }
            JobOutcome::Succeeded { output, bytes, key, done } => {
                if *bytes > 0 {
                    self.next.kept.push((key.clone(), output_key(self.run, spot)));
                }
                self.next.values_bytes += bytes;
                let over = self.over(&at, Outcome::Succeeded, "", "");
                self.set_over(spot, Over { output: output.clone(), output_bytes: *bytes, done: done.clone(), ..over });
            }
            JobOutcome::NotSucceeded { outcome, code, message, retryable } => {
                let retries = self.job_plan(spot.step).map_or_else(Retries::default, |plan| plan.retries);
                let again = *retryable && at.attempt < retries.max_attempts && self.progress().is_undecided();
                if again {
                    let until = self.now.after_millis(backoff_ms(&retries, at.attempt));
                    let waiting = Try { attempt: at.attempt + 1, state: TryState::Waiting { until }, ..at };
                    self.set_try(spot, waiting, code, message);
                } else {
                    self.give_up(spot, &at, *outcome, code, message);
                }
            }
        }
        Ok(())
    }

    /// Whether the run keeps only where a result is.
    fn refers(&self, place: usize, bytes: u64) -> bool {
        bytes > 0 && self.job_plan(place).is_some_and(|plan| plan.result == ResultAs::Artifact)
    }

    /// The job's result stays where it is; the output says under which name other jobs find it.
    fn refer(&mut self, spot: Spot, at: &Try, job_id: &str, bytes: u64, done: &Done) {
        let output = Value::from_json(&serde_json::json!({ "artifact": job_id, "bytes": bytes }));
        let text = json(&output);
        let output_bytes = text.len() as u64;
        if self.values_bytes() + output_bytes > self.limits.values_bytes_max {
            let message = format!("the run would keep more than {} bytes of values", self.limits.values_bytes_max);
            return self.give_up(spot, at, Outcome::Failed, Code::RunTooLarge.as_str(), &message);
        }
        self.next.staged.push(Staged { key: output_key(self.run, spot), value: text });
        self.next.values_bytes += output_bytes;
        let over = Over { output, output_bytes, done: done.clone(), ..self.over(at, Outcome::Succeeded, "", "") };
        self.set_over(spot, over);
    }

    pub(super) fn tick(&mut self) {
        if self.run.head.deadline.is_some_and(|deadline| deadline <= self.now) && self.progress().is_undecided() {
            self.end_with(End {
                outcome: EndOutcome::Timeout,
                code: Code::DeadlineExceeded.as_str().to_owned(),
                message: "the run took longer than its workflow allows".to_owned(),
                step_id: String::new(),
            });
            return;
        }
        if matches!(self.progress(), Progress::Paused) {
            return;
        }
        let due: Vec<(Spot, Try)> = self.active.iter().filter_map(|spot| Some((*spot, self.due_at(*spot)?))).collect();
        for (spot, at) in due {
            self.submit(spot, Try { state: TryState::Out, ..at });
        }
    }

    fn due_at(&self, spot: Spot) -> Option<Try> {
        let at = self.attempt_at(spot)?;
        matches!(at.state, TryState::Waiting { until } if until <= self.now).then(|| at.clone())
    }

    /// Nothing more is started for now; what is out goes on to its end.
    pub(super) fn pause(&mut self) -> Result<(), Rejected> {
        self.switch(Progress::Paused)
    }

    /// The run goes on, with what would have been started meanwhile.
    pub(super) fn resume(&mut self) -> Result<(), Rejected> {
        self.switch(Progress::Running)?;
        self.tick();
        Ok(())
    }

    fn switch(&mut self, to: Progress) -> Result<(), Rejected> {
        match self.progress() {
            Progress::Ending(_) | Progress::Ended { .. } => Err(Rejected::Ending),
            present if *present == to => Err(Rejected::Unchanged),
            Progress::Running | Progress::Paused => {
                self.next.progress = Some(to);
                Ok(())
            }
        }
    }

    pub(super) fn cancel(&mut self, reason: &str, requested_by: &str) -> Result<(), Rejected> {
        if !self.progress().is_undecided() {
            return Err(Rejected::Unchanged);
        }
        self.end_with(End {
            outcome: EndOutcome::Cancelled,
            code: Code::Cancelled.as_str().to_owned(),
            message: format!("cancelled by {requested_by}: {reason}"),
            step_id: String::new(),
        });
        Ok(())
    }

    // The pass.

    /// Does everything that is possible now.
    pub(super) fn advance(&mut self) {
        for place in 0..self.run.steps.len() {
            if !matches!(self.progress(), Progress::Running) {
                break;
            }
            if matches!(self.step(place), StepRun::Idle) {
                self.try_to_begin(place);
            }
            self.refill(place);
        }
        if self.run.progress.is_undecided() && matches!(self.progress(), Progress::Ending(_)) {
            self.stop_what_waits();
        }
        self.close_fans();
        if self.active.is_empty() {
            self.finish();
        }
    }

    fn try_to_begin(&mut self, place: usize) {
        let step = self.definition(place);
        let before: Vec<Past> = step.depends_on.iter().map(|before| self.past(*before)).collect();
        if before.contains(&Past::NotOver) {
            return;
        }
        let enough = match step.join {
            Join::All => !before.contains(&Past::Skipped),
            Join::Any => before.is_empty() || before.contains(&Past::Succeeded),
        };
        if !enough {
            return self.skip(place, "what it depends on was skipped");
        }
        let Some(when) = &step.when else { return self.begin(place) };
        match when.evaluate(&self.scope(when.references())).map(|value| value.as_bool()) {
            Ok(Some(true)) => self.begin(place),
            Ok(Some(false)) => self.skip(place, "its condition was false"),
            Ok(None) => self.fail_at_once(place, &format!("when: `{}` is neither true nor false", when.text())),
            Err(error) => self.fail_at_once(place, &format!("when: {error}")),
        }
    }

    fn past(&self, place: usize) -> Past {
        match self.step(place) {
            StepRun::Idle | StepRun::Trying(_) | StepRun::Fan(_) => Past::NotOver,
            StepRun::Over(over) => match over.outcome {
                Outcome::Skipped => Past::Skipped,
                Outcome::Succeeded => Past::Succeeded,
                // The run goes on only where that is permitted.
                Outcome::Failed | Outcome::Timeout | Outcome::Cancelled => Past::Succeeded,
            },
        }
    }

    fn begin(&mut self, place: usize) {
        let spot = Spot { step: place, item: None };
        match &self.definition(place).work {
            Work::Job(_) => self.submit(spot, self.first_try()),
            Work::ForEach { items, .. } => match items.evaluate(&self.scope(items.references())) {
                Ok(list) => self.fan_out(place, items.text(), list),
                Err(error) => self.fail_at_once(place, &format!("items: {error}")),
            },
            Work::Condition(condition) => match condition.evaluate(&self.scope(condition.references())) {
                Ok(value) if value.as_bool().is_some() => self.give(place, value),
                Ok(_) => self.fail_at_once(place, &format!("condition: `{}` is neither true nor false", condition.text())),
                Err(error) => self.fail_at_once(place, &format!("condition: {error}")),
            },
            Work::Transform(template) => match self.render(template) {
                Ok(value) => self.give(place, value),
                Err(error) => self.fail_at_once(place, &format!("value: {error}")),
            },
        }
    }

    fn fan_out(&mut self, place: usize, text: &str, list: Value) {
        let Some(length) = list.list_len() else {
            return self.fail_at_once(place, &format!("items: `{text}` is no list"));
        };
        let total = match u32::try_from(length) {
            Ok(total) if length <= ITEMS_MAX => total,
            _ => {
                return self.fail_at_once(place, &format!("items: `{text}` has {length} entries, at most {ITEMS_MAX} are taken"));
            }
        };
        let key = keys::step_items(&self.run.head.id, &self.definition(place).id);
        self.next.staged.push(Staged { key, value: json(&list) });
        let counts = Counts { total, ..Counts::default() };
        let fan = Fan { list, started: self.now, counts, failure: None };
        self.tell_fan(place, &fan);
        self.next.steps.insert(place, StepRun::Fan(fan));
    }

    /// Starts items while fewer than permitted are out.
    fn refill(&mut self, place: usize) {
        let Work::ForEach { max_parallel, .. } = &self.definition(place).work else { return };
        while let Some(fan) = self.fan(place).cloned().filter(|fan| fan.counts.next < fan.counts.total) {
            if fan.counts.active() >= *max_parallel || !matches!(self.progress(), Progress::Running) {
                return;
            }
            if self.next.submit.len() >= SUBMISSIONS_MAX || self.spent >= COST_MAX {
                self.next.stopped_early = true;
                return;
            }
            let item = fan.counts.next;
            let counts = Counts { next: item + 1, ..fan.counts };
            let fan = Fan { counts, ..fan };
            self.next.steps.insert(place, StepRun::Fan(fan));
            self.submit(Spot { step: place, item: Some(item) }, self.first_try());
        }
    }

    /// Ends what waits for its time, and has the jobs that are out cancelled.
    fn stop_what_waits(&mut self) {
        for spot in self.active.clone() {
            let Some(at) = self.attempt_at(spot).cloned() else { continue };
            match at.state {
                TryState::Waiting { .. } => self.cancel_before(spot, &at),
                TryState::Out => self.next.cancel.push(self.run.job_id(spot, at.attempt)),
            }
        }
        // What was to be submitted in this very transition stays at home.
        for submission in std::mem::take(&mut self.next.submit) {
            self.next.cancel.retain(|job_id| *job_id != submission.job_id);
            if let Some(at) = self.attempt_at(submission.spot).cloned() {
                self.cancel_before(submission.spot, &at);
            }
        }
    }

    /// An attempt that has not begun never will.
    fn cancel_before(&mut self, spot: Spot, at: &Try) {
        let at = Try { attempt: at.attempt - 1, ..at.clone() };
        self.set_over(spot, self.over(&at, Outcome::Cancelled, Code::Cancelled.as_str(), "the run has ended"));
    }

    /// Ends the `for_each` steps that have nothing more to do.
    fn close_fans(&mut self) {
        for place in 0..self.run.steps.len() {
            let Some(fan) = self.fan(place).cloned() else { continue };
            let stopped = !self.progress().is_undecided();
            if fan.counts.active() > 0 || (fan.counts.next < fan.counts.total && !stopped) {
                continue;
            }
            let (outcome, code, message) = match fan.failure {
                Some((code, message)) if !self.definition(place).allow_failure => (Outcome::Failed, code, message),
                _ if stopped && self.left_undone(place, fan.counts) => {
                    (Outcome::Cancelled, Code::Cancelled.as_str().to_owned(), "the run has ended".to_owned())
                }
                Some((code, message)) => (Outcome::Succeeded, code, message),
                None => (Outcome::Succeeded, String::new(), String::new()),
            };
            let at = Try { attempt: 0, started: fan.started, state: TryState::Out };
            let (output, done) = match outcome {
                Outcome::Succeeded => collected(fan.counts.total, |item| self.item(place, item)),
                _ => (Value::null(), Done::default()),
            };
            let over = Over { output, done, counts: Some(fan.counts), ..self.over(&at, outcome, &code, &message) };
            self.set_over(Spot { step: place, item: None }, over);
            if matches!(self.progress(), Progress::Running) {
                return self.advance();
            }
        }
    }

    /// Whether items of a `for_each` step were given up, or never begun.
    fn left_undone(&self, place: usize, counts: Counts) -> bool {
        let cancelled = |item| matches!(self.item(place, item), Some(ItemRun::Over(over)) if over.outcome == Outcome::Cancelled);
        counts.next < counts.total || (0..counts.next).any(cancelled)
    }

    /// Ends the run, since nothing is out any more.
    fn finish(&mut self) {
        let (end, output) = match self.progress().clone() {
            Progress::Paused | Progress::Ended { .. } => return,
            Progress::Ending(end) => (Some(end), None),
            Progress::Running => match self.run.workflow.output.as_ref().map(|output| self.render(output)) {
                None => (None, None),
                Some(Ok(value)) => (None, Some(json(&value))),
                Some(Err(error)) => (Some(failed(Code::ExpressionFailed, format!("output: {error}"), "")), None),
            },
        };
        let output_bytes = output.as_ref().map_or(0, |value| value.len() as u64);
        if let Some(value) = output {
            self.next.staged.push(Staged { key: keys::run_output(&self.run.head.id), value });
        }
        self.next.progress = Some(Progress::Ended { end, at: self.now, output_bytes });
    }
}

/// What a step is to those that depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Past {
    NotOver,
    Succeeded,
    Skipped,
}

pub(super) fn failed(code: Code, message: String, step_id: &str) -> End {
    End { outcome: EndOutcome::Failed, code: code.as_str().to_owned(), message, step_id: step_id.to_owned() }
}

/// The pause after an attempt: it doubles from one to the next.
fn backoff_ms(retries: &Retries, attempt: u32) -> u64 {
    let factor = 1_u64.checked_shl(attempt.saturating_sub(1)).unwrap_or(u64::MAX);
    retries.backoff_initial_ms.saturating_mul(factor).min(retries.backoff_max_ms)
}

/// The JSON of a value.
pub(super) fn json(value: &Value) -> Bytes {
    value.to_json().to_string().into()
}
