//! `for_each`: one job for each entry, so many at once.

use busbar_protocol::busbar::{RunState, StepState};
use busbar_rules::expr::Value;
use busbar_workflow_engine::core::run::{Done, Outcome, Spot, StepRun};
use busbar_workflow_engine::core::transition::{Event, JobOutcome};
use serde_json::{Value as Json, json};

use crate::play::{Play, RUN, failure};

fn fan(extra: &Json) -> Json {
    let mut step = json!({"type": "for_each", "items": "input", "topic": "job.echo", "max_parallel": 2, "input": {"n": "${item}", "i": "${index}"}});
    for (name, value) in extra.as_object().into_iter().flatten() {
        step[name] = value.clone();
    }
    json!({"map": step, "sum": {"type": "transform", "value": "${size(steps.map.output)}", "depends_on": ["map"]}})
}

#[test]
fn outputs_are_collected_in_the_order_of_the_items() {
    let mut play = Play::begin(&fan(&json!({})), &json!("${steps.map.output}"), &json!([10, 20, 30]));
    assert_eq!(play.out(), ["map[0]@1", "map[1]@1"]);
    assert_eq!(play.submitted["map[1]@1"], json!({"n": 20, "i": 1}));
    play.succeed("map[1]@1", &json!("b"));
    assert_eq!(play.out(), ["map[0]@1", "map[2]@1"]);
    play.succeed("map[2]@1", &json!("c"));
    play.succeed("map[0]@1", &json!("a"));
    assert_eq!((play.state(), &play.staged["wf:out"]), (RunState::Succeeded, &json!(["a", "b", "c"])));
    let last = play.changes.iter().rfind(|change| change.item == 1).expect("told");
    assert_eq!(last.items.map(|items| (items.total, items.succeeded)), Some((3, 3)), "each change tells how far the step is");
}

#[test]
fn an_empty_list_is_done_at_once() {
    let play = Play::begin(&fan(&json!({})), &json!("${steps.sum.output}"), &json!([]));
    assert_eq!((play.state(), &play.staged["wf:out"]), (RunState::Succeeded, &json!(0)));
}

#[test]
fn one_item_that_fails_ends_the_step_and_the_run() {
    let mut play = Play::begin(&fan(&json!({})), &Json::Null, &json!([1, 2, 3, 4]));
    play.fail("map[0]@1");
    assert_eq!(play.cancelled, ["map[1]@1"]);
    assert_eq!(play.out(), ["map[1]@1"], "nothing new is started");
    play.end("map[1]@1", failure(false)).expect("over");
    assert_eq!((play.state(), play.step("map")), (RunState::Failed, Some(StepState::Failed)));
    assert!(play.why().1.contains("step map[0] did not succeed"), "{:?}", play.why());
}

#[test]
fn permitted_failures_give_null() {
    let mut play = Play::begin(&fan(&json!({"allow_failure": true})), &json!("${steps.map.output}"), &json!([1, 2, 3]));
    play.fail("map[0]@1");
    play.succeed("map[1]@1", &json!(2));
    play.succeed("map[2]@1", &json!(3));
    assert_eq!((play.state(), &play.staged["wf:out"]), (RunState::Succeeded, &json!([null, 2, 3])));
}

#[test]
fn items_are_retried_each_for_itself() {
    let mut play =
        Play::begin(&fan(&json!({"retries": {"max_attempts": 2, "backoff_initial_ms": 10}})), &Json::Null, &json!([1, 2, 3]));
    play.fail("map[0]@1");
    assert_eq!(play.out(), ["map[1]@1"], "one that waits still counts");
    play.pass(10).expect("the time has come");
    assert_eq!(play.out(), ["map[0]@2", "map[1]@1"]);
    for job in ["map[0]@2", "map[1]@1", "map[2]@1"] {
        play.succeed(job, &json!(1));
    }
    assert_eq!(play.state(), RunState::Succeeded);
}

#[test]
fn many_items_take_many_transitions() {
    let items: Vec<u32> = (0..1000).collect();
    let mut play = Play::begin(&fan(&json!({"max_parallel": 256})), &json!("${steps.sum.output}"), &json!(items));
    assert_eq!(play.out().len(), 256);
    while let Some(job) = play.out().first().cloned() {
        play.succeed(&job, &json!(1));
        assert!(play.out().len() <= 256);
    }
    assert_eq!((play.state(), &play.staged["wf:out"]), (RunState::Succeeded, &json!(1000)));
}

#[test]
fn two_wide_steps_are_started_over_several_transitions() {
    let wide = json!({"type": "for_each", "items": "input", "topic": "job.echo", "max_parallel": 200});
    let items: Vec<u32> = (0..200).collect();
    let mut play = Play::begin(&json!({"a": wide, "b": wide}), &Json::Null, &json!(items));
    assert_eq!(play.out().len(), 256, "one transition submits only so many");
    play.apply(&Event::Proceed).expect("it goes on");
    assert_eq!(play.out().len(), 400);
}

#[test]
fn cancelling_before_all_items_have_begun() {
    let mut play = Play::begin(&fan(&json!({})), &Json::Null, &json!([1, 2, 3, 4]));
    play.apply(&Event::CancelAsked { reason: String::new(), requested_by: String::new() }).expect("cancelled");
    play.succeed("map[0]@1", &json!(1));
    let cancelled = JobOutcome::NotSucceeded {
        outcome: Outcome::Cancelled,
        code: "cancelled".to_owned(),
        message: String::new(),
        retryable: false,
    };
    play.end("map[1]@1", cancelled).expect("over");
    assert_eq!((play.state(), play.step("map"), play.step("sum")), (RunState::Cancelled, Some(StepState::Cancelled), None));
    let StepRun::Over(over) = &play.run.steps[0] else { panic!("not over") };
    assert_eq!(over.counts.map(|counts| (counts.total, counts.next)), Some((4, 2)));
    assert!(play.run.attempt_at(Spot { step: 0, item: Some(1) }).is_none());
}

#[test]
fn results_that_are_artifacts_stay_where_they_are() {
    let steps = fan(&json!({"result": "artifact"}));
    let mut play = Play::begin(&steps, &json!("${steps.map.output}"), &json!([1, 2, 3]));
    let large = JobOutcome::SucceededLarge { bytes: 5_000_000, done: Done::default() };
    play.end("map[0]@1", large.clone()).expect("taken");
    play.succeed("map[1]@1", &json!("small"));
    play.end("map[2]@1", JobOutcome::Succeeded { output: Value::null(), bytes: 0, key: String::new(), done: Done::default() })
        .expect("taken");
    let at = |item: u32| format!("{RUN}:map[{item}]@1");
    let kept = json!([{"artifact": at(0), "bytes": 5_000_000}, {"artifact": at(1), "bytes": 7}, null]);
    assert_eq!((play.state(), &play.staged["wf:out"]), (RunState::Succeeded, &kept));

    let mut play = Play::begin(&fan(&json!({})), &Json::Null, &json!([1]));
    play.end("map[0]@1", large).expect("taken");
    assert_eq!((play.state(), play.why().0.as_str()), (RunState::Failed, "step_failed"));
    assert!(play.why().1.contains("5000000 bytes"), "{:?}", play.why());
}
