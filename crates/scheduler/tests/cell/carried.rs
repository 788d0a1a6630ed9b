//! Payloads that come along: what the units write of them, and how long an input is kept.

use std::time::Duration;

use bytes::Bytes;

use busbar_protocol::busbar::{JobRecord, job_record};
use busbar_protocol::keys;
use busbar_protocol::pointers::{Pointer, Sha256Hex};
use busbar_protocol::ports::{CommitId, Guard};
use busbar_protocol::prost::Message as _;
use busbar_scheduler::core::commit::{self, Birth, Change, Demand, Retention};
use busbar_scheduler::core::job::Source;
use busbar_scheduler::core::queue::WholeRoom;
use busbar_scheduler::core::transition::Verdict;

use super::*;

const INPUT: &[u8] = b"[1]";

fn of_payload(unit: &Unit) -> Vec<&Write> {
    let is_payload = |write: &&Write| {
        matches!(write, Write::PutPayload { .. } | Write::Persist { .. } | Write::Expire { .. } | Write::Copy { .. })
    };
    unit.writes.iter().filter(is_payload).collect()
}

#[test]
fn an_input_that_came_along_is_written_and_not_demanded() {
    let mut scene = Scene::new(LimitsDocument::default());
    let job = scheduled("a", "acme", at(T0), |job| job.plan.input_bytes = 3);
    let birth = |input: Option<&'static [u8]>, revocable| Birth { input: input.map(Bytes::from), revocable, ..Birth::default() };
    let (ctx, revoked) = (keys::context("a"), Guard::Absent { key: keys::revoked("a") });
    let put = Write::PutPayload { key: ctx.clone(), value: INPUT.into(), expire: None };

    let (unit, demands) = scene.cell.admission(&job, &[], &birth(Some(INPUT), false));
    assert_eq!((of_payload(&unit), demands.len()), (vec![&put], 2), "epoch and name are all that is demanded");
    let (unit, demands) = scene.cell.admission(&job, &[], &birth(Some(INPUT), true));
    assert_eq!((unit.guards.last(), demands.last()), (Some(&revoked), Some(&Demand::NotRevoked)));
    let (unit, demands) = scene.cell.admission(&job, &[], &birth(None, false));
    assert_eq!(of_payload(&unit), [&Write::Persist { key: ctx }]);
    assert_eq!(demands.last(), Some(&Demand::InputThere));
    // A job that was refused on the bus never was one.
    let refused = Birth { refused: true, ..birth(Some(INPUT), false) };
    assert!(of_payload(&scene.cell.admission(&job, &[], &refused).0).is_empty());
}

#[test]
fn the_end_writes_an_output_that_came_along() {
    let mut scene = Scene::new(LimitsDocument::default());
    scene.job("a", "acme", |job| job.plan.result_ttl_ms = 5_000);
    assert_eq!(scene.turn(1), ["a"]);
    let pointer = format!("redis://{}", keys::attempt_result("a", 1));
    let place = ResultPlace { pointer, source: Source::Message("7".into()), ..ResultPlace::default() };
    scene.succeeds_with("a", place);
    let (_, unit) = scene.cell.take_units().pop().expect("its end");
    let after = Duration::from_secs(5);
    let put = Write::PutPayload { key: keys::attempt_result("a", 1), value: "7".into(), expire: Some(after) };
    assert_eq!(of_payload(&unit), [&Write::Expire { key: keys::context("a"), after }, &put]);
}

/// A result in Redis expires by itself; of one in blobs the record tells until when it is kept.
#[test]
fn the_end_says_how_long_a_result_in_blobs_is_kept() {
    let mut scene = Scene::new(LimitsDocument::default());
    let blob = Pointer::Blob(Sha256Hex::of(b"7")).to_string();
    for (name, result_ttl_ms, pointer, kept_ms) in
        [("a", 5_000, &*blob, Some(5_000)), ("b", 0, &*blob, Some(24 * 3_600_000)), ("c", 5_000, "redis://res:c:1", None)]
    {
        scene.job(name, "acme", |job| job.plan.result_ttl_ms = result_ttl_ms);
        assert_eq!(scene.turn(1), [name]);
        scene.succeeds_with(name, ResultPlace { pointer: pointer.to_owned(), ..ResultPlace::default() });
        let (_, unit) = scene.cell.take_units().pop().expect("its end");
        let Some(Write::Put { value, .. }) = unit.writes.first() else { panic!("no record: {unit:?}") };
        let record = JobRecord::decode(&value[..]).expect("ours");
        let Some(job_record::State::Ended(ended)) = record.state else { panic!("not ended: {record:?}") };
        assert_eq!(ended.result_until_ms, kept_ms.map_or(0, |kept_ms| ended.at_ms + kept_ms), "{name}");

        // Its job may still be live: a replica's result stays as long as its record.
        let job = Job { replica: 1, ..Job::decode(value).expect("ours") };
        let change = Change { job: &job, revision: 1, passed: &[], epoch: 1, id: CommitId::generate() };
        let unit = commit::unit(&change, &Retention::default());
        let Some(Write::Put { value, .. }) = unit.writes.first() else { panic!("no record: {unit:?}") };
        let record = JobRecord::decode(&value[..]).expect("ours");
        assert!(matches!(record.state, Some(job_record::State::Ended(ended)) if ended.result_until_ms == 0), "{name}");
    }
}

#[test]
fn an_input_is_kept_for_the_first_dispatch_and_for_what_was_decided() {
    let mut scene = Scene::new(LimitsDocument::default());
    let keep = |scene: &mut Scene, name: &str| {
        scene.job(name, "acme", |_| ());
        scene.cell.keep_input(&id(name), INPUT.into());
    };
    keep(&mut scene, "a");
    assert_eq!(scene.turn(1), ["a"]);
    assert_eq!(scene.cell.take_input(&id("a")).as_deref(), Some(INPUT));
    assert_eq!(scene.cell.take_input(&id("a")), None, "once");

    // Of one that ends before, nothing stays; nor where another payload was put in the place of the input.
    scene.beat("w", 0);
    keep(&mut scene, "b");
    let cancel = Event::CancelAsked { attempt: 0, reason: String::new(), requested_by: String::new(), code: Code::Cancelled };
    scene.cell.apply(&id("b"), &cancel, at(scene.now)).expect("it is live");
    scene.turn(1);
    assert_eq!(scene.cell.take_input(&id("b")), None);
    for (redacted, kept) in [(None, Some(INPUT)), (Some(Bytes::from_static(b"other")), None)] {
        keep(&mut scene, "c");
        let decision = if redacted.is_some() { DecisionType::Redact } else { DecisionType::Allow };
        let verdict = Verdict {
            decision: JobDecision { decision: decision.into(), snapshot: "s".to_owned(), ..JobDecision::default() },
            redacted_request: redacted,
            run_ms_max: None,
            attempts_max: None,
            limits: None,
        };
        scene.cell.apply(&id("c"), &Event::Decided(verdict), at(scene.now)).expect("it waits");
        assert_eq!(scene.cell.take_input(&id("c")).as_deref(), kept);
    }
}

#[test]
fn of_what_is_shelved_no_input_is_kept() {
    let room = WholeRoom { cell: 1, lane: 1 };
    let mut scene = Scene::with(LimitsDocument::default(), Settings { whole: room, ..Settings::default() });
    scene.beat("w", 0);
    for name in ["a", "b", "c", "d", "e", "f"] {
        scene.job(name, "acme", |_| ());
        scene.cell.keep_input(&id(name), INPUT.into());
    }
    for name in ["a", "b", "c", "d", "e", "f"] {
        let is_whole = scene.cell.job(&id(name)).is_some();
        assert_eq!(scene.cell.take_input(&id(name)).is_some(), is_whole, "{name}");
    }
    assert!(scene.cell.is_shelved(&id("f")));
}
