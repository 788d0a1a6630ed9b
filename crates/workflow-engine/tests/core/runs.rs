//! Steps in order, conditions, retries, ends.

use busbar_protocol::busbar::{RunState, StepState};
use busbar_workflow_engine::core::transition::{Event, Rejected};
use serde_json::{Value as Json, json};

use crate::play::{Play, document, failure};

fn job(depends_on: &[&str]) -> Json {
    json!({"type": "job", "topic": "job.echo", "depends_on": depends_on})
}

fn cancel() -> Event {
    Event::CancelAsked { reason: "enough".to_owned(), requested_by: "me".to_owned() }
}

#[test]
fn a_diamond_joins_when_both_sides_are_done() {
    let steps = json!({
        "a": job(&[]), "b": job(&["a"]), "c": job(&["a"]),
        "d": {"type": "job", "topic": "job.echo", "depends_on": ["b", "c"], "input": {"sum": "${steps.b.output + steps.c.output}"}}
    });
    let mut play = Play::begin(&steps, &json!({"all": "${steps.d.output}", "from": "${input.n}"}), &json!({"n": 5}));
    assert_eq!(play.out(), ["a@1"]);
    assert_eq!(play.submitted["a@1"], json!({"n": 5}), "without an input of its own a job gets the run's");
    play.succeed("a@1", &json!(1));
    assert_eq!(play.out(), ["b@1", "c@1"]);
    play.succeed("c@1", &json!(30));
    assert_eq!(play.out(), ["b@1"]);
    play.succeed("b@1", &json!(4));
    assert_eq!(play.submitted["d@1"], json!({"sum": 34}));
    play.succeed("d@1", &json!("done"));
    assert_eq!(play.state(), RunState::Succeeded);
    assert_eq!(play.staged["wf:out"], json!({"all": "done", "from": 5}));
}

#[test]
fn a_chain_of_steps_without_jobs_ends_in_one_transition() {
    let mut steps = json!({"s0": {"type": "transform", "value": "${input + 1}"}});
    for n in 1..100 {
        let (name, before) = (format!("s{n}"), format!("s{}", n - 1));
        steps[name] = json!({"type": "transform", "value": format!("${{steps.{before}.output + 1}}"), "depends_on": [before]});
    }
    let play = Play::begin(&steps, &json!("${steps.s99.output}"), &json!(0));
    assert_eq!((play.state(), &play.staged["wf:out"]), (RunState::Succeeded, &json!(100)));
}

#[test]
fn what_is_not_wanted_is_skipped_with_what_needs_it() {
    let steps = json!({
        "big": {"type": "condition", "condition": "input.n > 10"},
        "yes": {"type": "job", "topic": "job.echo", "depends_on": ["big"], "when": "steps.big.output"},
        "no": {"type": "job", "topic": "job.echo", "depends_on": ["big"], "when": "!steps.big.output"},
        "after_yes": {"type": "job", "topic": "job.echo", "depends_on": ["yes"]},
        "either": {"type": "transform", "value": "${steps.no.state}", "depends_on": ["yes", "no"], "join": "any"},
        "both": {"type": "transform", "value": 1, "depends_on": ["yes", "no"]}
    });
    let mut play = Play::begin(&steps, &json!("${steps.either.output}"), &json!({"n": 3}));
    assert_eq!(play.out(), ["no@1"]);
    play.succeed("no@1", &Json::Null);
    assert_eq!(play.state(), RunState::Succeeded);
    assert_eq!(play.staged["wf:out"], json!("succeeded"));
    for (step, state) in [
        ("yes", StepState::Skipped),
        ("after_yes", StepState::Skipped),
        ("both", StepState::Skipped),
        ("either", StepState::Succeeded),
    ] {
        assert_eq!(play.step(step), Some(state), "{step}");
    }
}

#[test]
fn a_failed_step_ends_the_run_and_the_others_with_it() {
    let mut play = Play::begin(&json!({"a": job(&[]), "b": job(&[]), "c": job(&["a"])}), &Json::Null, &json!(1));
    play.fail("a@1");
    assert_eq!(play.state(), RunState::Running, "b is still out");
    assert_eq!(play.cancelled, ["b@1"]);
    play.succeed("b@1", &json!(2));
    assert_eq!(play.state(), RunState::Failed);
    let (code, message) = play.why();
    assert_eq!(code, "step_failed");
    assert!(message.contains("step a did not succeed: handler_failed: no luck"), "{message}");
    assert_eq!((play.step("b"), play.step("c")), (Some(StepState::Succeeded), None));
    assert_eq!(play.apply(&Event::Tick).expect_err("it has ended"), Rejected::Ended);
}

#[test]
fn a_permitted_failure_does_not() {
    let steps = json!({
        "a": {"type": "job", "topic": "job.echo", "allow_failure": true},
        "b": {"type": "transform", "value": {"code": "${steps.a.error.code}", "output": "${steps.a.output}"}, "depends_on": ["a"]}
    });
    let mut play = Play::begin(&steps, &json!("${steps.b.output}"), &json!(1));
    play.fail("a@1");
    assert_eq!(play.state(), RunState::Succeeded);
    assert_eq!(play.staged["wf:out"], json!({"code": "handler_failed", "output": null}));
}

#[test]
fn retries_wait_longer_each_time_and_come_to_an_end() {
    let retries = json!({"max_attempts": 3, "backoff_initial_ms": 1000, "backoff_max_ms": 1500});
    let steps = json!({"a": {"type": "job", "topic": "job.echo", "retries": retries}});
    let mut play = Play::begin(&steps, &Json::Null, &json!(1));
    play.fail("a@1");
    assert_eq!((play.step("a"), play.out().len()), (Some(StepState::Waiting), 0));
    assert_eq!(play.run.next_timer(), Some(play.now.after_millis(1000)));
    assert_eq!(play.pass(999), Err(Rejected::Unchanged));
    play.pass(1).expect("the time has come");
    assert_eq!(play.out(), ["a@2"]);
    assert_eq!(play.end("a@1", failure(true)), Err(Rejected::Stale), "an attempt that is over");
    play.fail("a@2");
    assert_eq!(play.run.next_timer(), Some(play.now.after_millis(1500)));
    play.pass(1500).expect("the time has come");
    play.fail("a@3");
    assert_eq!(play.state(), RunState::Failed);

    let mut play = Play::begin(&steps, &Json::Null, &json!(1));
    play.end("a@1", failure(false)).expect("taken");
    assert_eq!(play.state(), RunState::Failed, "what must not be tried again is not");
}

#[test]
fn cancelling_ends_what_waits_at_once_and_what_is_out_when_it_is_over() {
    let retries = json!({"max_attempts": 2});
    let steps = json!({"a": {"type": "job", "topic": "job.echo", "retries": retries}, "b": job(&[])});
    let mut play = Play::begin(&steps, &Json::Null, &json!(1));
    play.fail("a@1");
    play.apply(&cancel()).expect("cancelled");
    assert_eq!(
        (play.state(), play.step("a"), &play.cancelled),
        (RunState::Running, Some(StepState::Cancelled), &vec!["b@1".to_owned()])
    );
    assert_eq!(play.apply(&cancel()).expect_err("that was said"), Rejected::Unchanged);
    play.end("b@1", failure(true)).expect("over");
    assert_eq!(play.state(), RunState::Cancelled);
    assert_eq!(play.why(), ("cancelled".to_owned(), "cancelled by me: enough".to_owned()));
}

#[test]
fn a_run_has_a_deadline() {
    let mut document: Json = serde_json::from_slice(&document(&json!({"a": job(&[])}), &Json::Null)).expect("JSON");
    document["timeout_ms"] = json!(5000);
    let mut play = Play::ready(document.to_string().as_bytes(), &json!(1));
    play.apply(&Event::Proceed).expect("it begins");
    assert_eq!(play.run.next_timer(), Some(play.now.after_millis(5000)));
    play.pass(5000).expect("too late");
    assert_eq!(play.cancelled, ["a@1"]);
    play.succeed("a@1", &json!(1));
    assert_eq!((play.state(), play.why().0), (RunState::Timeout, "deadline_exceeded".to_owned()));
}

#[test]
fn an_expression_that_fails_fails_its_step_and_says_where() {
    for (step, told) in [
        (json!({"type": "transform", "value": {"x": "${input.missing}"}}), "value: /x: `input.missing`: there is no member"),
        (json!({"type": "condition", "condition": "input.n"}), "condition: `input.n` is neither true nor false"),
        (json!({"type": "job", "topic": "job.echo", "when": "input.n"}), "when: `input.n` is neither"),
        (json!({"type": "job", "topic": "job.echo", "input": ["${input.n / 0}"]}), "input: /0: `input.n / 0`"),
        (json!({"type": "for_each", "topic": "job.echo", "items": "input.n"}), "items: `input.n` is no list"),
    ] {
        let play = Play::begin(&json!({"a": step}), &Json::Null, &json!({"n": 1}));
        let (code, message) = play.why();
        assert!(play.state() == RunState::Failed && code == "step_failed", "{step}");
        assert!(message.contains("expression_failed") && message.contains(told), "{message}");
        assert!(play.submitted.is_empty());
    }
    let play = Play::begin(&json!({"a": {"type": "transform", "value": 1}}), &json!("${input.none}"), &json!({}));
    assert_eq!(play.why().0, "expression_failed");
}

#[test]
fn a_run_keeps_only_so_much() {
    let mut play = Play::begin(&json!({"a": job(&[]), "b": job(&["a"])}), &Json::Null, &json!(1));
    play.limits.values_bytes_max = 100;
    play.succeed("a@1", &json!("x".repeat(50)));
    assert_eq!(play.out(), ["b@1"]);
    play.succeed("b@1", &json!("x".repeat(50)));
    assert_eq!(play.state(), RunState::Failed);
    assert!(play.why().1.contains("run_too_large"));
}

#[test]
fn a_second_opinion_can_be_asked_of_another_worker() {
    let elsewhere = |strict: bool| {
        let mut steps = json!({
            "one": {"type": "for_each", "items": "input", "topic": "job.echo"},
            "many": {"type": "for_each", "items": "input", "topic": "job.${item}", "depends_on": ["one"], "place": {
                "pool": "${item}", "labels": {"zone": "z-${index}"}, "not_on": "${steps.one.worker[index]}"
            }},
            "last": {"type": "job", "topic": "job.echo", "depends_on": ["many"], "place": {"not_on": "${steps.one.worker}"},
                "input": "${steps.one.execution_ms}"}
        });
        steps["last"]["place"]["strict"] = json!(strict);
        let mut play = Play::begin(&steps, &Json::Null, &json!(["a", "b"]));
        play.succeed_on("one[0]@1", &json!(1), "w-1", 7);
        play.succeed_on("one[1]@1", &json!(2), "w-2", 8);
        play.succeed("many[0]@1", &Json::Null);
        play.succeed("many[1]@1", &Json::Null);
        play
    };
    let play = elsewhere(false);
    let place = json!({"preferred_pool": "b", "placement.zone": "z-1", "avoided_worker_ids": "w-2"});
    assert_eq!(json!(play.places["many[1]@1"]), place);
    assert_eq!(json!(play.places["last@1"]), json!({"avoided_worker_ids": "w-1,w-2"}));
    assert_eq!(play.submitted["last@1"], json!([7, 8]));
    assert_eq!(json!(elsewhere(true).places["last@1"]), json!({"excluded_worker_ids": "w-1,w-2"}));
}

#[test]
fn a_place_or_topic_that_is_none_fails_its_step() {
    let why = |step: Json| Play::begin(&json!({"a": step}), &Json::Null, &json!({"n": 1, "topic": "a b"})).why().1;
    let placed = why(json!({"type": "job", "topic": "job.echo", "place": {"not_on": "${input.n}"}}));
    assert!(placed.contains("place: not_on: a worker's id is wanted"), "{placed}");
    let named = why(json!({"type": "job", "topic": "job.${input.topic}"}));
    assert!(named.contains("topic: \"job.a b\" is none"), "{named}");
}

#[test]
fn a_paused_run_starts_nothing_until_it_goes_on() {
    let steps = json!({
        "map": {"type": "for_each", "items": "input", "topic": "job.echo", "max_parallel": 1, "retries": {"max_attempts": 2}},
        "end": {"type": "transform", "value": "${steps.map.output}", "depends_on": ["map"]}
    });
    let mut play = Play::begin(&steps, &json!("${steps.end.output}"), &json!([1, 2]));
    play.apply(&Event::PauseAsked).expect("paused");
    assert_eq!(play.apply(&Event::PauseAsked).expect_err("again"), Rejected::Unchanged);
    assert_eq!((play.state(), play.out()), (RunState::Paused, vec!["map[0]@1".to_owned()]));
    // What is out goes on to its end; a retry waits.
    play.fail("map[0]@1");
    assert_eq!((play.out().len(), play.run.next_timer()), (0, None));
    assert!(play.pass(3_600_000).is_err(), "time changes nothing");
    play.apply(&Event::ResumeAsked).expect("goes on");
    assert_eq!((play.state(), play.out()), (RunState::Running, vec!["map[0]@2".to_owned()]));
    play.apply(&Event::PauseAsked).expect("paused");
    play.succeed("map[0]@2", &json!("x"));
    assert_eq!(play.out(), Vec::<String>::new());
    play.apply(&Event::ResumeAsked).expect("goes on");
    play.apply(&Event::PauseAsked).expect("paused");
    play.succeed("map[1]@1", &json!("y"));
    assert_eq!((play.state(), play.step("map")), (RunState::Paused, Some(StepState::Succeeded)));
    assert_eq!(play.step("end"), None);
    play.apply(&Event::ResumeAsked).expect("goes on");
    assert_eq!((play.state(), &play.staged["wf:out"]), (RunState::Succeeded, &json!(["x", "y"])));
    assert_eq!(play.apply(&Event::PauseAsked).expect_err("over"), Rejected::Ended);
}

#[test]
fn a_paused_run_can_be_cancelled_and_runs_out_of_time() {
    let steps = json!({"a": job(&[]), "b": job(&["a"])});
    let mut play = Play::begin(&steps, &Json::Null, &json!(1));
    play.apply(&Event::PauseAsked).expect("paused");
    play.apply(&cancel()).expect("cancelled");
    assert_eq!((play.state(), play.cancelled.len()), (RunState::Running, 1), "a is still out");
    assert_eq!(play.apply(&Event::ResumeAsked).expect_err("it is ending"), Rejected::Ending);
    play.succeed("a@1", &json!(1));
    assert_eq!(play.state(), RunState::Cancelled);

    let mut document: Json = serde_json::from_slice(&document(&steps, &Json::Null)).expect("JSON");
    document["timeout_ms"] = json!(1_000);
    let mut play = Play::ready(document.to_string().as_bytes(), &json!(1));
    play.apply(&Event::Proceed).expect("it begins");
    play.apply(&Event::PauseAsked).expect("paused");
    play.pass(1_000).expect("it is late");
    play.succeed("a@1", &json!(1));
    assert_eq!(play.state(), RunState::Timeout);
}
