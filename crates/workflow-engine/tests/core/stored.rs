//! A run that is put together again from its records is the run that it was, whatever happened before.

use std::sync::Arc;

use busbar_protocol::busbar::{RunRecord, StepRecord};
use busbar_protocol::prost::Message as _;
use busbar_rules::expr::Value;
use busbar_workflow_engine::core::records::Kept;
use busbar_workflow_engine::core::run::{Outcome, Progress, Run, Spot, StepRun};
use busbar_workflow_engine::core::transition::Event;
use serde_json::{Value as Json, json};

use crate::play::{Play, failure};

/// What stands in the store of a spot, read again.
fn kept(run: &Run, spot: Spot, record: &StepRecord) -> Kept {
    let output = match (spot.item, &run.steps[spot.step]) {
        (None, StepRun::Over(over)) if over.output_bytes > 0 => over.output.clone(),
        (None, _) => Value::null(),
        (Some(item), _) => match &run.items[&(spot.step, item)] {
            busbar_workflow_engine::core::run::ItemRun::Over(over) => over.output.clone(),
            busbar_workflow_engine::core::run::ItemRun::Trying(_) => Value::null(),
        },
    };
    let list = match &run.steps[spot.step] {
        StepRun::Fan(fan) if spot.item.is_none() => fan.list.clone(),
        _ => Value::null(),
    };
    Kept { record: StepRecord::decode(record.encode_to_vec().as_slice()).expect("read"), output, list }
}

fn again(run: &Run) -> Run {
    let record = RunRecord::decode(run.to_record().encode_to_vec().as_slice()).expect("read");
    let mut copy = Run::restore(record, Arc::clone(&run.workflow), run.input.clone()).expect("restored");
    let steps = (0..run.steps.len()).map(|step| Spot { step, item: None });
    let items = run.items.keys().map(|(step, item)| Spot { step: *step, item: Some(*item) });
    for spot in steps.chain(items) {
        if let Some(record) = run.step_record(spot) {
            copy.restore_spot(spot, kept(run, spot, &record)).expect("restored");
        }
    }
    for step in 0..copy.steps.len() {
        let next = match &copy.steps[step] {
            StepRun::Over(over) => over.counts.map_or(0, |counts| counts.next),
            StepRun::Idle | StepRun::Trying(_) | StepRun::Fan(_) => 0,
        };
        let (collected, done) = copy.collected(step, next);
        if let StepRun::Over(over) = &mut copy.steps[step]
            && over.counts.is_some()
            && over.outcome == Outcome::Succeeded
        {
            (over.output, over.done) = (collected, done);
        }
    }
    copy
}

fn assert_same(run: &Run) {
    if run.is_over() {
        return;
    }
    let copy = again(run);
    assert_eq!(copy.head, run.head);
    assert_eq!((&copy.progress, &copy.steps, &copy.items), (&run.progress, &run.steps, &run.items));
    assert_eq!((&copy.active, copy.values_bytes, copy.updated), (&run.active, run.values_bytes, run.updated));
}

/// A small generator, so that a failure can be repeated by its seed.
struct Dice(u64);

impl Dice {
    /// One of `n`, counted from 0.
    fn choose(&mut self, n: usize) -> usize {
        // xorshift64*, Vigna 2014.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from((self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % n.max(1) as u64).expect("small")
    }
}

/// A workflow of up to eight steps of every kind.
fn any_steps(dice: &mut Dice) -> Json {
    let mut steps = json!({});
    for n in 0..=dice.choose(7) {
        let before: Vec<String> = (0..n).filter(|_| dice.choose(3) == 0).map(|before| format!("s{before}")).collect();
        let retries = json!({"max_attempts": 1 + dice.choose(3), "backoff_initial_ms": 10});
        let mut step = match dice.choose(4) {
            0 => json!({"type": "job", "topic": "job.echo", "retries": retries}),
            1 => {
                let items = format!("range(0, {})", dice.choose(6));
                json!({"type": "for_each", "topic": "job.echo", "items": items, "max_parallel": 1 + dice.choose(3), "retries": retries})
            }
            2 => json!({"type": "condition", "condition": if dice.choose(2) == 0 { "true" } else { "size(input) > 5" }}),
            _ => json!({"type": "transform", "value": {"n": n, "input": "${input}"}}),
        };
        step["depends_on"] = json!(before);
        step["allow_failure"] = json!(dice.choose(2) == 0);
        if dice.choose(4) == 0 {
            step["join"] = json!("any");
        }
        if dice.choose(6) == 0 {
            step["when"] = json!(if dice.choose(2) == 0 { "false" } else { "size(input) == 3" });
        }
        steps[format!("s{n}")] = step;
    }
    steps
}

/// One thing that may happen.
fn happen(play: &mut Play, dice: &mut Dice) {
    let out = play.out();
    match dice.choose(12) {
        0 => {
            let reason = "any".to_owned();
            let _ = play.apply(&Event::CancelAsked { requested_by: reason.clone(), reason });
        }
        1..=3 => {
            let _ = play.pass(7);
        }
        4..=5 if !out.is_empty() => {
            let job = out[dice.choose(out.len())].clone();
            play.end(&job, failure(dice.choose(3) > 0)).expect("it was out");
        }
        6 => {
            let _ = play.apply(&Event::Proceed);
        }
        _ if !out.is_empty() => {
            let job = out[dice.choose(out.len())].clone();
            play.succeed(&job, &json!({"of": job}));
        }
        _ => {
            let _ = play.pass(7);
        }
    }
}

#[test]
fn any_run_comes_to_its_end_and_survives_being_read_again() {
    for seed in 1..=1_500_u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let mut play = Play::ready(&crate::play::document(&any_steps(&mut dice), &json!("${input}")), &json!([1, 2, 3]));
        play.apply(&Event::Proceed).expect("it begins");
        for turn in 0.. {
            assert!(turn < 5_000, "seed {seed}: it does not end");
            assert_same(&play.run);
            if play.run.is_over() {
                break;
            }
            assert!(!play.run.active.is_empty(), "seed {seed}: nothing is out, and it has not ended: {:?}", play.run.progress);
            happen(&mut play, &mut dice);
            if dice.choose(5) == 0 && !play.run.is_over() {
                play.run = again(&play.run);
            }
        }
        let done = matches!(play.run.progress, Progress::Ended { end: None, .. });
        let all_over = play.run.steps.iter().all(|step| matches!(step, StepRun::Over(_)));
        assert!(!done || all_over, "seed {seed}: it succeeded with steps that are not over");
        assert!(play.out().is_empty() && play.run.active.is_empty(), "seed {seed}: something is still out");
    }
}
