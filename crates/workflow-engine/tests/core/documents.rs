//! Which documents are taken, and what is said about the others.

use busbar_workflow_engine::core::workflow::Workflow;
use serde_json::{Value as Json, json};

use crate::play::document;

fn broken(json: &Json) -> String {
    Workflow::compile(json.to_string().as_bytes()).expect_err("it is broken").to_string()
}

fn broken_steps(steps: &Json) -> String {
    Workflow::compile(&document(steps, &Json::Null)).expect_err("it is broken").to_string()
}

fn job(depends_on: &[&str]) -> Json {
    json!({"type": "job", "topic": "job.echo", "depends_on": depends_on})
}

#[test]
fn steps_come_after_those_on_which_they_depend() {
    let steps = json!({"d": job(&["b", "c"]), "b": job(&["a"]), "c": job(&["a"]), "a": job(&[])});
    let workflow = Workflow::compile(&document(&steps, &Json::Null)).expect("good");
    let order: Vec<&str> = workflow.steps.iter().map(|step| step.id.as_str()).collect();
    assert_eq!(order, ["a", "b", "c", "d"]);
}

#[test]
fn a_cycle_is_told_as_a_path() {
    let told = broken_steps(&json!({"a": job(&["c"]), "b": job(&["a"]), "c": job(&["b"]), "free": job(&[])}));
    assert_eq!(told, "steps.a.depends_on: these steps wait for one another: a → c → b → a");
    assert!(broken_steps(&json!({"a": job(&["a"])})).contains("a → a"));
}

#[test]
fn whatever_is_wrong_is_placed() {
    let cases = [
        (json!({"a": job(&["b"])}), "steps.a.depends_on: there is no step \"b\""),
        (json!({"a": job(&[]), "b": job(&["a", "a"])}), "twice"),
        (json!({"a-b": job(&[])}), "steps.a-b: a step's name"),
        (json!({"in": job(&[])}), "steps.in: a step's name"),
        (json!({"a": {"type": "jump"}}), "steps.a: unknown variant `jump`"),
        (json!({"a": {"type": "job", "topic": "job.x", "inputs": 1}}), "steps.a: unknown field `inputs`"),
        (json!({"a": {"type": "job", "topic": "echo"}}), "steps.a.topic: must begin with"),
        (
            json!({"a": {"type": "job", "topic": "job.x", "items": "input"}}),
            "steps.a.items: a step of type job has no such member",
        ),
        (json!({"a": {"type": "transform", "value": 1, "topic": "job.x"}}), "steps.a.topic: a step of type transform"),
        (json!({"a": {"type": "job", "topic": "job.x", "result": "file"}}), "steps.a: unknown variant `file`"),
        (json!({"a": {"type": "condition", "condition": "true", "result": "value"}}), "steps.a.result: a step of type condition"),
        (json!({"a": {"type": "transform"}}), "steps.a.value: a step of type transform needs it"),
        (json!({"a": {"type": "condition"}}), "steps.a.condition: a step of type condition needs it"),
        (json!({"a": {"type": "for_each", "topic": "job.x"}}), "steps.a.items: a step of type for_each needs it"),
        (json!({"a": {"type": "for_each", "topic": "job.x", "items": "input", "max_parallel": 0}}), "steps.a.max_parallel"),
        (json!({"a": {"type": "condition", "condition": "1 +"}}), "steps.a.condition: `1 +`"),
        (json!({"a": {"type": "condition", "condition": "env.HOME == ''"}}), "there is no `env`"),
        (json!({"a": {"type": "transform", "value": {"x": ["${input."]}}}), "steps.a.value.x.0: "),
        (
            json!({"a": {"type": "transform", "value": "${item}"}}),
            "steps.a.value: `item` is there only in the jobs of a for_each step",
        ),
        (json!({"a": {"type": "transform", "value": "${steps}"}}), "must be followed by the name of a step"),
        (json!({"a": {"type": "job", "topic": "job.x", "retries": {"max_attempts": 0}}}), "steps.a.retries.max_attempts"),
        (json!({"a": {"type": "job", "topic": "job.x", "labels": {"approval_granted": "true"}}}), "steps.a.labels"),
        (json!({"a": {"type": "job", "topic": "job.x", "timeout_ms": 0}}), "steps.a.timeout_ms"),
        (json!({}), "steps: must be 1 to 256, not 0"),
    ];
    for (steps, told) in cases {
        let found = broken_steps(&steps);
        assert!(found.contains(told), "{steps}: {found}");
    }
}

#[test]
fn a_step_speaks_only_of_those_before_it() {
    let use_of_b = json!({"a": {"type": "transform", "value": "${steps.b.output}"}, "b": job(&[])});
    assert!(broken_steps(&use_of_b).contains("speaks of the step \"b\", which does not come before it"));
    let through_another = json!({
        "a": job(&[]), "b": job(&["a"]), "c": {"type": "transform", "value": "${steps.a.output}", "depends_on": ["b"]}
    });
    Workflow::compile(&document(&through_another, &json!("${steps.c.output}"))).expect("a comes before b, and b before c");
    assert!(Workflow::compile(&document(&json!({"a": job(&[])}), &json!("${steps.z}"))).is_err());
}

#[test]
fn the_frame_is_closed_too() {
    let good = json!({"apiVersion": "busbar/v1", "kind": "Workflow", "id": "a.b-c_1", "steps": {"a": job(&[])}});
    Workflow::compile(good.to_string().as_bytes()).expect("good");
    for (member, value, told) in [
        ("apiVersion", json!("busbar/v2"), "apiVersion: must be busbar/v1"),
        ("kind", json!("Flow"), "kind: must be Workflow"),
        ("id", json!("A:b"), "id: must be 1 to 64"),
        ("timeout", json!(1), "unknown field `timeout`"),
        ("timeout_ms", json!(0), "timeout_ms: must be"),
        ("input_schema", json!({"type": "nothing"}), "input_schema: "),
        ("steps", json!([]), "the document: "),
    ] {
        let mut bad = good.clone();
        bad[member] = value;
        let found = broken(&bad);
        assert!(found.contains(told), "{member}: {found}");
    }
    assert!(Workflow::compile(b"{").is_err());
    assert!(Workflow::compile(&vec![b' '; 300 * 1024]).expect_err("too large").to_string().contains("262144"));
}
