//! What expressions see of a run: `input`, `ctx`, the steps that they name, and in the jobs of a `for_each` step `item` and `index`.

use busbar_rules::expr::{References, Scope, Value};
use serde_json::json;

use super::draft::Draft;
use super::run::{Outcome, Over, StepRun};

impl Draft<'_> {
    /// The scope of an expression that makes these references.
    pub(crate) fn scope(&self, references: &References) -> Scope {
        let mut scope = Scope::new().with("input", self.run.input.clone()).with("ctx", self.context());
        if references.names.contains("steps") {
            let named = references.steps.iter().filter_map(|id| {
                let place = self.run.workflow.place_of(id)?;
                Some((id.clone(), view(self.step(place))))
            });
            scope.set("steps", Value::map(named));
        }
        scope
    }

    /// The same for a job of a `for_each` step.
    pub(crate) fn scope_of_item(&self, references: &References, index: u32, item: Value) -> Scope {
        self.scope(references).with("item", item).with("index", Value::from_json(&json!(index)))
    }

    fn context(&self) -> Value {
        let head = &self.run.head;
        Value::from_json(&json!({
            "run_id": head.id,
            "workflow_id": head.workflow_id,
            "workflow_version": head.workflow_version,
            "tenant_id": head.tenant_id,
            "requested_by": head.requested_by,
            "labels": head.labels,
        }))
    }
}

/// A step as expressions see it: `state`, `output`, `worker`, `execution_ms`, and `error` where it did not succeed.
fn view(step: &StepRun) -> Value {
    let StepRun::Over(over) = step else {
        return Value::map([("state".to_owned(), Value::text("pending")), ("output".to_owned(), Value::null())]);
    };
    let mut members: Vec<(String, Value)> = [
        ("state", Value::text(state(over))),
        ("output", over.output.clone()),
        ("worker", over.done.worker.clone()),
        ("execution_ms", over.done.execution_ms.clone()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    if !over.code.is_empty() {
        let error = [("code".to_owned(), Value::text(&over.code)), ("message".to_owned(), Value::text(&over.message))];
        members.push(("error".to_owned(), Value::map(error)));
    }
    Value::map(members)
}

const fn state(over: &Over) -> &'static str {
    match over.outcome {
        Outcome::Succeeded => "succeeded",
        Outcome::Failed => "failed",
        Outcome::Cancelled => "cancelled",
        Outcome::Timeout => "timeout",
        Outcome::Skipped => "skipped",
    }
}
