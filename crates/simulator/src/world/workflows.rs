//! The workflows of the simulation, and what their runs must give: worked out here by plain arithmetic, from the input and from
//! which jobs succeeded, without a line of the engine.

use busbar_protocol::busbar::StepState;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::chaos::Chaos;

/// A `for_each` step whose items may fail, a sum of what they gave, a step that policy denies.
pub(crate) const SUMS: &str = "sums";
/// A long job with retries and a list without any tolerance, within a deadline.
pub(crate) const STRICT: &str = "strict";
/// Nothing but values: its runs end with their first commit.
pub(crate) const QUICK: &str = "quick";
/// Jobs that wait for a person or for a worker, in vain.
pub(crate) const PATIENT: &str = "patient";
/// Expressions that cannot be worked out where the input is zero.
pub(crate) const SHAKY: &str = "shaky";
/// A job that nobody serves and that waits for its next attempt when the time is up.
pub(crate) const TIRED: &str = "tired";
/// Like [`QUICK`], but taken away after a while.
pub(crate) const BRIEF: &str = "brief";

/// All of them.
pub(crate) const ALL: [&str; 7] = [SUMS, STRICT, QUICK, PATIENT, SHAKY, TIRED, BRIEF];

/// One of which a run is to start.
pub(crate) fn pick(chaos: &Chaos) -> &'static str {
    const LIKED: [&str; 10] = [SUMS, SUMS, SUMS, STRICT, STRICT, QUICK, PATIENT, SHAKY, TIRED, BRIEF];
    LIKED[usize::try_from(chaos.below(LIKED.len() as u64)).unwrap_or(0)]
}

/// By what a version multiplies.
fn factor(version: u32) -> i64 {
    i64::from(version) + 1
}

/// The document of a version.
pub(crate) fn document(id: &str, version: u32) -> Bytes {
    let by = factor(version);
    let mut document = match id {
        SUMS => json!({
            "steps": {
                "big": {"type": "condition", "condition": "size(input.numbers) > 3"},
                "map": {
                    "type": "for_each", "items": "input.numbers", "max_parallel": 2, "allow_failure": true,
                    "topic": "job.fragile", "input": {"do": "multiply", "n": "${item}", "by": by},
                    "retries": {"max_attempts": 3, "backoff_initial_ms": 200, "backoff_max_ms": 500},
                },
                "audit": {
                    "type": "job", "depends_on": ["big"], "when": "steps.big.output", "allow_failure": true,
                    "topic": "job.denied", "input": {"do": "nothing"},
                },
                "reduce": {
                    "type": "job", "depends_on": ["map"], "topic": "job.native",
                    "input": {"do": "add", "list": "${steps.map.output}"},
                    "retries": {"max_attempts": 5, "backoff_initial_ms": 100, "backoff_max_ms": 500},
                },
                "report": {
                    "type": "transform", "depends_on": ["audit", "reduce"], "join": "any",
                    "value": {"sum": "${steps.reduce.output}", "audit": "${steps.audit.state}"},
                },
            },
            "output": {"report": "${steps.report.output}", "items": "${steps.map.output}"},
        }),
        STRICT => json!({
            "timeout_ms": 9_000,
            "steps": {
                "slow": {
                    "type": "job", "topic": "job.slow", "input": {"do": "multiply", "n": "${input.n}", "by": by},
                    "retries": {"max_attempts": 2, "backoff_initial_ms": 300, "backoff_max_ms": 300},
                },
                "all": {
                    "type": "for_each", "items": "[1, 2, 3, 4]", "topic": "job.native",
                    "input": {"do": "multiply", "n": "${item}", "by": "${input.n}"},
                    "retries": {"max_attempts": 2, "backoff_initial_ms": 2_000, "backoff_max_ms": 2_000},
                },
                "share": {"type": "transform", "depends_on": ["slow"], "value": "${steps.slow.output / input.n}"},
            },
            "output": {"share": "${steps.share.output}", "all": "${steps.all.output}"},
        }),
        PATIENT => json!({
            "steps": {
                "asked": {
                    "type": "job", "topic": "job.approval", "timeout_ms": 2_000, "allow_failure": true,
                    "input": {"do": "nothing"},
                    "retries": {"max_attempts": 2, "backoff_initial_ms": 1_500, "backoff_max_ms": 1_500},
                },
                "unserved": {
                    "type": "for_each", "items": "[1, 2, 3]", "topic": "job.unserved", "max_parallel": 2,
                    "allow_failure": true, "input": {"do": "nothing"},
                },
            },
            "output": {"items": "${steps.unserved.output}"},
        }),
        SHAKY => json!({
            "steps": {
                "each": {
                    "type": "for_each", "items": "[input.n, 1]", "topic": "job.native", "allow_failure": true,
                    "input": {"do": "multiply", "n": "${6 / item}", "by": by},
                    "retries": {"max_attempts": 2, "backoff_initial_ms": 100, "backoff_max_ms": 100},
                },
                "share": {"type": "transform", "value": "${input.strict ? 6 / input.n : 0}"},
            },
            "output": {"share": "${steps.share.output}", "each": "${steps.each.output}"},
        }),
        TIRED => json!({
            "timeout_ms": 3_500,
            "steps": {"vain": {
                "type": "job", "topic": "job.unserved", "input": {"do": "nothing"},
                "retries": {"max_attempts": 3, "backoff_initial_ms": 5_000, "backoff_max_ms": 5_000},
            }},
        }),
        _ => json!({
            "steps": {"times": {"type": "transform", "value": {"n": format!("${{input.n * {by}}}")}}},
            "output": "${steps.times.output.n}",
        }),
    };
    document["apiVersion"] = json!("busbar/v1");
    document["kind"] = json!("Workflow");
    document["id"] = json!(id);
    document.to_string().into()
}

/// An input for a run.
pub(crate) fn input(id: &str, chaos: &Chaos) -> Value {
    let number = |below: u64| json!(chaos.below(below));
    match id {
        SUMS => json!({"numbers": (0..chaos.below(7)).map(|_| number(100)).collect::<Vec<Value>>()}),
        // No number can be divided by nothing: a run that fails by its expression.
        STRICT => json!({"n": number(8)}),
        SHAKY => json!({"n": number(3), "strict": chaos.chance(500)}),
        _ => json!({"n": number(1_000)}),
    }
}

/// What a worker gives for the input of a job of a run.
pub(crate) fn work(input: &Value) -> Value {
    let number = |name: &str| input[name].as_i64().unwrap_or_default();
    match input["do"].as_str() {
        Some("multiply") => json!(number("n") * number("by")),
        Some("add") => json!(input["list"].as_array().into_iter().flatten().filter_map(Value::as_i64).sum::<i64>()),
        _ => Value::Null,
    }
}

/// The output of a run that succeeded. `state` says how a step or an item of it ended.
pub(crate) fn output(id: &str, version: u32, input: &Value, state: impl Fn(&str, Option<u32>) -> StepState) -> Value {
    let by = factor(version);
    let number = input["n"].as_i64().unwrap_or_default();
    let items = |step: &str, values: Vec<i64>| -> Vec<Option<i64>> {
        let kept = |(place, value)| (state(step, u32::try_from(place).ok()) == StepState::Succeeded).then_some(value);
        values.into_iter().enumerate().map(kept).collect()
    };
    match id {
        SUMS => {
            let numbers: Vec<i64> = input["numbers"].as_array().into_iter().flatten().filter_map(Value::as_i64).collect();
            let audit = if numbers.len() > 3 { "failed" } else { "skipped" };
            let products = items("map", numbers.iter().map(|number| number * by).collect());
            let sum: i64 = products.iter().flatten().sum();
            json!({"report": {"sum": sum, "audit": audit}, "items": products})
        }
        STRICT => json!({"share": by, "all": items("all", (1..=4).map(|item| item * number).collect())}),
        PATIENT => json!({"items": [null, null, null]}),
        SHAKY => {
            let share = if input["strict"] == true { 6 / number } else { 0 };
            let each = [number, 1].map(|item| if item == 0 { 0 } else { 6 / item * by });
            json!({"share": share, "each": items("each", each.to_vec())})
        }
        TIRED => json!("its time is up before"),
        _ => json!(number * by),
    }
}
