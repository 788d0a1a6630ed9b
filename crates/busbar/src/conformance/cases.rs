//! The cases of CAP's conformance kit that a control plane answers. Each plays its scene in the scheduler's core and compares what
//! becomes of the job with what the specification says.
//!
//! Where the rule of a case is switched off, the core is not told the fact that the rule goes by: then the case must fail, or it
//! proves nothing.

use std::collections::BTreeMap;

use busbar_protocol::busbar::JobState;
use busbar_protocol::cap::{DecisionType, ErrorCode};
use busbar_protocol::codes::Code;
use busbar_protocol::envelope::PacketError;
use busbar_protocol::negotiation::{SPOKEN, common_version};
use busbar_scheduler::core::transition::{Event, Rejected, Reported, Verdict};

use super::scene::{Arrival, Evidence, Scene, TOPIC, WORKER, dispatches};

/// What a runner gives along with a case.
pub(super) type Params = BTreeMap<String, String>;

/// Why a case did not pass.
#[derive(Debug)]
pub(super) enum Unmet {
    /// The core did something else.
    Violated(String),
    /// The runner's parameters cannot be read.
    Unreadable(String),
}

/// One case.
pub(super) struct Case {
    /// Its name in the kit.
    pub(super) name: &'static str,
    /// Plays it, with its rule or without.
    pub(super) check: fn(&Params, rule: bool) -> Result<Evidence, Unmet>,
}

/// Every case that a control plane answers.
pub(super) const CASES: &[Case] = &[
    Case { name: "lifecycle/cp-pending-to-scheduled", check: pending_to_scheduled },
    Case { name: "lifecycle/cp-scheduled-to-dispatched", check: scheduled_to_dispatched },
    Case { name: "lifecycle/cp-scheduled-to-denied", check: scheduled_to_denied },
    Case { name: "lifecycle/cp-dispatched-to-timeout", check: dispatched_to_timeout },
    Case { name: "lifecycle/cp-rejects-backwards-transition", check: rejects_backwards },
    Case { name: "cancellation/cp-cancel-from-pending", check: cancel_from_pending },
    Case { name: "cancellation/cp-cancel-from-running", check: cancel_from_running },
    Case { name: "cancellation/cp-rejects-cancel-after-terminal", check: rejects_cancel_after_terminal },
    Case { name: "safety/allow-precedes-dispatch", check: scheduled_to_dispatched },
    Case { name: "safety/deny-blocks-dispatch", check: |_, rule| blocks(DecisionType::Deny, JobState::Denied, rule) },
    Case {
        name: "safety/require-human-pauses-dispatch",
        check: |_, rule| blocks(DecisionType::RequireHuman, JobState::ApprovalRequired, rule),
    },
    Case {
        name: "safety/throttle-blocks-immediate-dispatch",
        check: |_, rule| blocks(DecisionType::Throttle, JobState::Pending, rule),
    },
    Case { name: "negotiation/selects-highest-common-version", check: selects_highest },
    Case { name: "negotiation/rejects-when-no-common-version", check: rejects_without_common },
    Case { name: "negotiation/required-capability-filters-dispatch", check: filters_by_capability },
    Case { name: "negotiation/ready-topics-filters-dispatch", check: filters_by_ready_topics },
    Case { name: "negotiation/missing-ready-topics-is-unspecified-not-error", check: missing_ready_topics },
    Case { name: "retries/cp-ignores-stale-attempt-result", check: |params, rule| stale(Word::Result, params, rule) },
    Case { name: "retries/cp-ignores-stale-attempt-progress", check: |params, rule| stale(Word::Progress, params, rule) },
    Case { name: "retries/cp-ignores-stale-attempt-cancel", check: |params, rule| stale(Word::Cancel, params, rule) },
    Case { name: "duplicates/cp-duplicate-result-applies-once", check: duplicate_result },
];

fn pending_to_scheduled(_: &Params, rule: bool) -> Result<Evidence, Unmet> {
    let mut scene = Scene::new(&for_nobody());
    stands(&scene, JobState::Pending)?;
    if rule {
        scene.decide(DecisionType::Allow);
    }
    scene.turn();
    stands(&scene, JobState::Scheduled)?;
    Ok(evidence(&scene))
}

fn scheduled_to_dispatched(_: &Params, rule: bool) -> Result<Evidence, Unmet> {
    let mut scene = Scene::new(&Arrival::default());
    scene.announce_good();
    if !rule {
        // As if the policy had spoken before it was asked.
        scene.decide(DecisionType::Allow);
    }
    same("dispatches before the decision", dispatches(&scene.turn()), 0)?;
    scene.decide(DecisionType::Allow);
    same("dispatches after the decision", dispatches(&scene.turn()), 1)?;
    stands(&scene, JobState::Dispatched)?;
    Ok(evidence(&scene))
}

fn scheduled_to_denied(_: &Params, rule: bool) -> Result<Evidence, Unmet> {
    let mut scene = Scene::new(&for_nobody());
    scene.decide(DecisionType::Allow);
    scene.turn();
    stands(&scene, JobState::Scheduled)?;
    if rule {
        scene.change_policy();
    }
    scene.turn();
    scene.decide(DecisionType::Deny);
    same("dispatches", dispatches(&scene.turn()), 0)?;
    stands(&scene, JobState::Denied)?;
    Ok(evidence(&scene))
}

fn dispatched_to_timeout(_: &Params, rule: bool) -> Result<Evidence, Unmet> {
    let mut scene = Scene::new(&Arrival::default());
    scene.bring_out(1);
    stands(&scene, JobState::Dispatched)?;
    if rule {
        scene.pass_an_attempt();
    }
    stands(&scene, JobState::Timeout)?;
    Ok(evidence(&scene))
}

fn rejects_backwards(_: &Params, rule: bool) -> Result<Evidence, Unmet> {
    let mut scene = Scene::new(&Arrival { attempts_max: 2, ..Arrival::default() });
    scene.bring_out(1);
    let again =
        Verdict { decision: Default::default(), redacted_request: None, run_ms_max: None, attempts_max: None, limits: None };
    same("the decision once more", scene.apply(&Event::Decided(again)), Err(Rejected::WrongState))?;
    if !rule {
        // As if its worker had died, which is the one way back.
        let lost = Event::AttemptOver { attempt: 1, code: Code::WorkerLost, message: String::new(), unreached: false };
        let _ = scene.apply(&lost);
    }
    same("dispatches", dispatches(&scene.turn()), 0)?;
    stands(&scene, JobState::Dispatched)?;
    Ok(evidence(&scene))
}

fn cancel_from_pending(_: &Params, rule: bool) -> Result<Evidence, Unmet> {
    let mut scene = Scene::new(&Arrival::default());
    stands(&scene, JobState::Pending)?;
    if rule {
        same("the cancellation", scene.apply(&cancel(0)), Ok(()))?;
    }
    scene.turn();
    stands(&scene, JobState::Cancelled)?;
    Ok(evidence(&scene))
}

fn cancel_from_running(_: &Params, rule: bool) -> Result<Evidence, Unmet> {
    let mut scene = Scene::new(&Arrival::default());
    scene.bring_out(1);
    same("the progress", scene.apply(&Event::Evidence { attempt: 1, percent: Some(50) }), Ok(()))?;
    stands(&scene, JobState::Running)?;
    if rule {
        same("the cancellation", scene.apply(&cancel(0)), Ok(()))?;
    }
    let told = scene.turn();
    same("words to the worker", told.len(), 1)?;
    same("its answer", scene.report(1, Reported::Cancelled), Ok(()))?;
    scene.turn();
    stands(&scene, JobState::Cancelled)?;
    Ok(evidence(&scene))
}

fn rejects_cancel_after_terminal(_: &Params, rule: bool) -> Result<Evidence, Unmet> {
    let mut scene = Scene::new(&Arrival::default());
    scene.bring_out(1);
    if rule {
        same("the result", scene.report(1, Reported::Succeeded(None)), Ok(()))?;
    }
    same("the cancellation", scene.apply(&cancel(0)), Err(Rejected::Terminal))?;
    scene.turn();
    stands(&scene, JobState::Succeeded)?;
    Ok(evidence(&scene))
}

fn blocks(decision: DecisionType, state: JobState, rule: bool) -> Result<Evidence, Unmet> {
    let mut scene = Scene::new(&Arrival::default());
    scene.announce_good();
    scene.decide(if rule { decision } else { DecisionType::Allow });
    same("dispatches", dispatches(&scene.turn()), 0)?;
    stands(&scene, state)?;
    if state == JobState::Denied {
        same("the code", scene.end_code(), Code::SafetyDenied.as_str())?;
    }
    Ok(evidence(&scene))
}

fn selects_highest(params: &Params, rule: bool) -> Result<Evidence, Unmet> {
    let (ours, theirs) = (versions(params, "cpVersions")?, versions(params, "workerVersions")?);
    let wanted = number(params, "expect")?;
    // Without it, only the oldest of the worker's versions is looked at.
    let seen = if rule { theirs } else { theirs.into_iter().min().into_iter().collect() };
    same("the version", common_version(&ours, &seen), Some(wanted))?;
    Ok(Evidence::from([("version", wanted.to_string())]))
}

fn rejects_without_common(params: &Params, rule: bool) -> Result<Evidence, Unmet> {
    let (ours, theirs) = (versions(params, "cpVersions")?, versions(params, "workerVersions")?);
    same("the common version", common_version(&ours, &theirs), None)?;
    // Our own versions are what they are: a worker that knows only later ones comes to a real cell.
    let strange: Vec<i32> = if rule { SPOKEN.iter().map(|version| version + 1).collect() } else { Vec::new() };
    let mut scene = Scene::new(&Arrival::default());
    let refused = match scene.announce(&[TOPIC], &[], &strange) {
        Ok(()) => None,
        Err(error) => Some(error.cap_code()),
    };
    same("the error", refused, Some(ErrorCode::ProtocolVersionMismatch))?;
    scene.decide(DecisionType::Allow);
    let to_worker = scene.turn().iter().filter(|order| order.worker_id == WORKER).count();
    same("dispatches to the worker", to_worker, 0)?;
    Ok(Evidence::from([
        ("err", ErrorCode::ProtocolVersionMismatch.as_str_name().to_owned()),
        ("dispatches_to_worker", "0".to_owned()),
    ]))
}

fn filters_by_capability(params: &Params, rule: bool) -> Result<Evidence, Unmet> {
    let needed = param(params, "requiredCapability")?.to_lowercase();
    let has: Vec<&str> = param(params, "workerCapabilities")?.split(',').collect();
    let requires: &[&str] = if rule { &[&needed] } else { &[] };
    let mut scene = Scene::new(&Arrival { requires, ..Arrival::default() });
    announced(scene.announce(&[TOPIC], &has, SPOKEN))?;
    scene.decide(DecisionType::Allow);
    same("dispatches", dispatches(&scene.turn()), 0)?;
    stands(&scene, JobState::Scheduled)?;
    Ok(evidence(&scene))
}

fn filters_by_ready_topics(params: &Params, rule: bool) -> Result<Evidence, Unmet> {
    let topic = ours(param(params, "jobTopic")?);
    let ready: Vec<String> = param(params, "readyTopics")?.split(',').map(ours).collect();
    let mut ready: Vec<&str> = ready.iter().map(String::as_str).collect();
    if !rule {
        ready.push(&topic);
    }
    let mut scene = Scene::new(&Arrival { topic: &topic, ..Arrival::default() });
    announced(scene.announce(&ready, &[], SPOKEN))?;
    scene.decide(DecisionType::Allow);
    // Whoever else listens on the topic may have it, through its queue group.
    let to_worker = scene.turn().iter().filter(|order| order.worker_id == WORKER).count();
    same("dispatches to the worker", to_worker, 0)?;
    Ok(Evidence::from([("dispatches_to_worker", "0".to_owned())]))
}

fn missing_ready_topics(params: &Params, rule: bool) -> Result<Evidence, Unmet> {
    let topic = ours(param(params, "jobTopic")?);
    let mut scene = Scene::new(&Arrival { topic: &topic, ..Arrival::default() });
    announced(scene.announce(&[], &[], SPOKEN))?;
    if !rule {
        // As if it had said that it serves nothing.
        scene.find_nobody(&topic);
    }
    scene.decide(DecisionType::Allow);
    same("dispatches", dispatches(&scene.turn()), 1)?;
    stands(&scene, JobState::Dispatched)?;
    Ok(evidence(&scene))
}

/// What may come for an attempt that is over.
#[derive(Clone, Copy)]
enum Word {
    Result,
    Progress,
    Cancel,
}

fn stale(word: Word, params: &Params, rule: bool) -> Result<Evidence, Unmet> {
    let (old, active) = (attempt(params, "attempt")?, attempt(params, "activeAttempt")?);
    let mut scene = Scene::new(&Arrival { attempts_max: active, ..Arrival::default() });
    scene.bring_out(active);
    same("the attempt that is out", scene.attempt(), active)?;
    let named = if rule { old } else { active };
    let answer = match word {
        Word::Result => scene.report(named, Reported::Succeeded(None)),
        Word::Progress => scene.apply(&Event::Evidence { attempt: named, percent: Some(50) }),
        Word::Cancel => scene.apply(&cancel(named)),
    };
    same("what came for an attempt that is over", answer, Err(Rejected::StaleAttempt))?;
    same("words to the worker", scene.turn().len(), 0)?;
    stands(&scene, JobState::Dispatched)?;
    same("the attempt that is out", scene.attempt(), active)?;
    Ok(evidence(&scene))
}

fn duplicate_result(params: &Params, rule: bool) -> Result<Evidence, Unmet> {
    let deliveries = number(params, "deliveries")?;
    let mut scene = Scene::new(&Arrival::default());
    scene.bring_out(1);
    let mut ends = 0;
    let before = scene.clone();
    for _ in 0..deliveries {
        let _ = scene.report(1, Reported::Succeeded(None));
        scene.turn();
        if !rule {
            // As if nothing were remembered of the first.
            ends += scene.ends();
            scene = before.clone();
        }
    }
    same("ends", ends + scene.ends(), 1)?;
    stands(&scene, JobState::Succeeded)?;
    Ok(evidence(&scene))
}

fn cancel(attempt: u32) -> Event {
    Event::CancelAsked {
        attempt,
        reason: "the case asks for it".to_owned(),
        requested_by: "conformance".to_owned(),
        code: Code::Cancelled,
    }
}

/// The announcement was taken.
fn announced(taken: Result<(), PacketError>) -> Result<(), Unmet> {
    taken.map_err(|error| Unmet::Violated(format!("the announcement was refused: {error}")))
}

/// A job that stays where it is for want of a worker.
fn for_nobody() -> Arrival<'static> {
    Arrival { requires: &["nobody-has-this"], ..Arrival::default() }
}

/// Topics of the kit are any text; ours begin with `job.`.
fn ours(topic: &str) -> String {
    if topic.starts_with("job.") { topic.to_owned() } else { format!("job.{topic}") }
}

fn stands(scene: &Scene, wanted: JobState) -> Result<(), Unmet> {
    same("the state", scene.state(), wanted)
}

fn same<T: PartialEq + std::fmt::Debug + Copy>(what: &str, found: T, wanted: T) -> Result<(), Unmet> {
    if found == wanted { Ok(()) } else { Err(Unmet::Violated(format!("{what}: {found:?} instead of {wanted:?}"))) }
}

fn evidence(scene: &Scene) -> Evidence {
    Evidence::from([("state", scene.state().short_name().to_owned()), ("attempt", scene.attempt().to_string())])
}

fn param<'a>(params: &'a Params, name: &str) -> Result<&'a str, Unmet> {
    params.get(name).map(String::as_str).ok_or_else(|| Unmet::Unreadable(format!("params.{name} is missing")))
}

fn number(params: &Params, name: &str) -> Result<i32, Unmet> {
    let text = param(params, name)?;
    text.parse().map_err(|_| Unmet::Unreadable(format!("params.{name}: {text:?} is no number")))
}

fn attempt(params: &Params, name: &str) -> Result<u32, Unmet> {
    match u32::try_from(number(params, name)?) {
        // Each attempt is played.
        Ok(attempt @ 1..=100) => Ok(attempt),
        _ => Err(Unmet::Unreadable(format!("params.{name} is not between 1 and 100"))),
    }
}

fn versions(params: &Params, name: &str) -> Result<Vec<i32>, Unmet> {
    let text = param(params, name)?;
    let versions: Result<Vec<i32>, _> = text.split(',').map(|version| version.trim().parse()).collect();
    versions.map_err(|_| Unmet::Unreadable(format!("params.{name}: {text:?} is no list of versions")))
}
