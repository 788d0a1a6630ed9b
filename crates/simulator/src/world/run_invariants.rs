//! What must hold of runs, whatever happened.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use busbar_protocol::busbar::{EngineStatus, RunEvent, RunRecord, RunState, StepChange, StepRecord, StepState};
use busbar_protocol::keys;
use busbar_protocol::ports::{Bus as _, Clock as _, Headers};
use busbar_protocol::prost::Message;
use busbar_protocol::subjects;
use busbar_scheduler::core::job::{Job, Outcome};
use bytes::Bytes;
use serde_json::Value;

use super::invariants::relayed;
use super::{Story, World, workflows};
use crate::model_bus::ModelClient;
use crate::model_store::Content;

/// What is over stays at least so long after everything has come to rest.
const STAYS: Duration = Duration::from_secs(24 * 3600);

/// Every change that the life of a run allows; `NEW` is before its first commit, `ENDING` while attempts are still out.
const ALLOWED_RUN: &[(&str, &[&str])] = &[
    ("NEW", &["RUNNING", "SUCCEEDED", "FAILED"]),
    ("RUNNING", &["PAUSED", "ENDING", "SUCCEEDED", "FAILED", "CANCELLED", "TIMEOUT"]),
    ("PAUSED", &["RUNNING", "ENDING", "SUCCEEDED", "FAILED", "CANCELLED", "TIMEOUT"]),
    ("ENDING", &["FAILED", "CANCELLED", "TIMEOUT"]),
];

/// Every change that the life of a step or an item allows.
const ALLOWED_STEP: &[(StepState, &[StepState])] = {
    use StepState::{Cancelled, Failed, Running, Skipped, Succeeded, Timeout, Unspecified, Waiting};
    &[
        (Unspecified, &[Running, Succeeded, Failed, Skipped]),
        (Running, &[Waiting, Succeeded, Failed, Cancelled, Timeout]),
        (Waiting, &[Running, Cancelled]),
    ]
};

/// The changes that a long run of the simulator must have seen.
pub const EXPECTED: &[&str] = &[
    "run NEW>RUNNING",
    "run NEW>SUCCEEDED",
    "run NEW>FAILED",
    "run RUNNING>SUCCEEDED",
    "run RUNNING>FAILED",
    "run RUNNING>CANCELLED",
    "run RUNNING>TIMEOUT",
    "run RUNNING>PAUSED",
    "run PAUSED>RUNNING",
    "run PAUSED>ENDING",
    "run RUNNING>ENDING",
    "run ENDING>FAILED",
    "run ENDING>CANCELLED",
    "run ENDING>TIMEOUT",
    "step NEW>RUNNING",
    "step NEW>SUCCEEDED",
    "step NEW>FAILED",
    "step NEW>SKIPPED",
    "step RUNNING>WAITING",
    "step RUNNING>SUCCEEDED",
    "step RUNNING>FAILED",
    "step RUNNING>CANCELLED",
    "step RUNNING>TIMEOUT",
    "step WAITING>RUNNING",
    "step WAITING>CANCELLED",
    "fan NEW>RUNNING",
    "fan RUNNING>SUCCEEDED",
    "fan RUNNING>FAILED",
    "fan RUNNING>CANCELLED",
    "item NEW>RUNNING",
    "item NEW>FAILED",
    "item RUNNING>WAITING",
    "item RUNNING>SUCCEEDED",
    "item RUNNING>FAILED",
    "item RUNNING>CANCELLED",
    "item RUNNING>TIMEOUT",
    "item WAITING>RUNNING",
    "item WAITING>CANCELLED",
];

/// A step of a run, or an item of one.
type Spot = (String, Option<u32>);

/// Why runs are not at rest yet.
pub(crate) async fn unrest(world: &World, probe: &ModelClient) -> Option<String> {
    if !world.with_runs {
        return None;
    }
    let live = world.store.members(keys::INDEX_LIVE_RUNS).len();
    let retiring = world.store.members(keys::INDEX_RETIRING).len();
    let relayed = relayed(world, keys::LOG_RUNS, keys::LOG_RUNS_RELAYED);
    let asked = probe.request(subjects::ENGINE_STATUS, Headers::new(), Bytes::new(), Duration::from_secs(2)).await;
    let status = asked.ok().and_then(|message| EngineStatus::decode(message.payload).ok());
    let known = status.map(|status| status.live_runs);
    let rests = live == 0 && retiring == 0 && relayed && known == Some(0);
    (!rests).then(|| {
        format!("{live} runs live ({known:?} known to the engine), {retiring} retiring, their relay caught up: {relayed}")
    })
}

/// A run as everything tells it.
struct Told {
    record: RunRecord,
    steps: BTreeMap<Spot, StepRecord>,
    /// Its jobs, by spot and attempt.
    jobs: BTreeMap<(Spot, u32), Job>,
    history: Vec<RunEvent>,
}

/// Judges all runs.
pub(crate) fn judge(world: &World, story: &mut Story, broken: &mut Vec<String>) {
    if !world.with_runs {
        return;
    }
    let runs = gather(world, broken);
    for (id, run) in &runs {
        let mut found = Vec::new();
        follow(run, story, &mut found);
        jobs(world, run, &mut found);
        fans(run, &mut found);
        values(world, id, run, &mut found);
        broken.extend(found.into_iter().map(|what| format!("run {id} of {}: {what}", run.record.workflow_id)));
    }
    stays(world, &runs, broken);
    let ledger = world.ledger();
    for id in ledger.started.iter().filter(|id| !runs.contains_key(*id)) {
        broken.push(format!("run {id} was acknowledged and is gone"));
    }
    for (key, told) in ledger.keyed.iter().filter(|(_, told)| told.len() > 1) {
        broken.push(format!("the idempotency key {key} stood for {told:?}"));
    }
    for (id, told) in &ledger.cancelled {
        let state = runs.get(id).map(|run| run.record.state());
        let kept = match told {
            RunState::Running | RunState::Paused => state != Some(RunState::Succeeded),
            told => state == Some(*told),
        };
        if !kept {
            broken.push(format!("run {id} was cancelled, {told:?} was told, and it is {state:?}"));
        }
    }
    story.runs = ledger.started.len();
}

fn gather(world: &World, broken: &mut Vec<String>) -> BTreeMap<String, Told> {
    let mut runs = BTreeMap::new();
    for record in read::<RunRecord>(world, "wf:run:", broken) {
        let told = Told { record: record.clone(), steps: BTreeMap::new(), jobs: BTreeMap::new(), history: Vec::new() };
        runs.insert(record.run_id, told);
    }
    for (id, run) in &mut runs {
        let prefix = format!("wf:step:{id}:");
        for (key, stored) in world.store.records(&prefix) {
            let spot = match key[prefix.len()..].split_once(':') {
                None => (key[prefix.len()..].to_owned(), None),
                Some((step, item)) => (step.to_owned(), item.parse().ok()),
            };
            match StepRecord::decode(stored.value) {
                Ok(record) => drop(run.steps.insert(spot, record)),
                Err(error) => broken.push(format!("{key} cannot be read: {error}")),
            }
        }
    }
    for (key, stored) in world.store.records("job:meta:") {
        let Some((run_id, name)) = key["job:meta:".len()..].split_once(':') else { continue };
        let Ok(job) = Job::decode(&stored.value) else { continue };
        match (runs.get_mut(run_id), spot_of(name)) {
            (Some(run), Some(spot)) => drop(run.jobs.insert(spot, job)),
            (None, _) => broken.push(format!("{key} belongs to no run")),
            (_, None) => broken.push(format!("{key} belongs to no step")),
        }
    }
    for entry in world.store.logged(keys::LOG_RUNS) {
        if !world.ledger().told.contains(&entry.cursor) {
            broken.push(format!("log entry {} was never told", entry.cursor));
        }
        match RunEvent::decode(entry.value) {
            Ok(event) => match runs.get_mut(&event.run_id) {
                Some(run) => run.history.push(event),
                None => broken.push(format!("the log tells of {}, which is no run", event.run_id)),
            },
            Err(error) => broken.push(format!("log entry {} cannot be read: {error}", entry.cursor)),
        }
    }
    runs
}

fn read<M: Message + Default>(world: &World, prefix: &str, broken: &mut Vec<String>) -> Vec<M> {
    let mut all = Vec::new();
    for (key, stored) in world.store.records(prefix) {
        match M::decode(stored.value) {
            Ok(record) => all.push(record),
            Err(error) => broken.push(format!("{key} cannot be read: {error}")),
        }
    }
    all
}

/// From `map[3]@1` to the spot and the attempt.
fn spot_of(name: &str) -> Option<(Spot, u32)> {
    let (spot, attempt) = name.split_once('@')?;
    let spot = match spot.split_once('[') {
        None => (spot.to_owned(), None),
        Some((step, item)) => (step.to_owned(), Some(item.strip_suffix(']')?.parse().ok()?)),
    };
    Some((spot, attempt.parse().ok()?))
}

/// A run's history: legal changes, one end and nothing after it, and the records are where the log ends.
fn follow(run: &Told, story: &mut Story, broken: &mut Vec<String>) {
    let mut now = "NEW".to_owned();
    let mut decided: Option<RunState> = None;
    let mut spots: BTreeMap<Spot, (StepState, u32)> = BTreeMap::new();
    for event in &run.history {
        let ending = event.ending.as_ref().map(|end| end.state());
        let state = match (event.state(), ending) {
            (RunState::Running, Some(_)) => "ENDING".to_owned(),
            (state, _) => state.as_str_name().trim_start_matches("RUN_STATE_").to_owned(),
        };
        if decided.is_some() && ending != decided {
            broken.push(format!("it was to end {decided:?} and then {ending:?}"));
        }
        for change in &event.changes {
            if decided.is_some() && matches!(change.state(), StepState::Running | StepState::Waiting) {
                broken.push(format!("{} went on after it was decided how the run ends", change.step_id));
            }
            step(change, &mut spots, story, broken);
        }
        if state != now || !ALLOWED_RUN.iter().any(|(from, _)| *from == now) {
            let allowed = ALLOWED_RUN.iter().find(|(from, _)| *from == now).map_or(&[][..], |(_, to)| to);
            if !allowed.contains(&state.as_str()) {
                broken.push(format!("it went from {now} to {state}"));
            }
            *story.transitions.entry(format!("run {now}>{state}")).or_default() += 1;
        }
        decided = ending;
        now = state;
    }
    let record = &run.record;
    if record.state().as_str_name() != format!("RUN_STATE_{now}") || record.ended_ms == 0 {
        broken.push(format!("its record says {}, the log ends with {now}", record.state().as_str_name()));
    }
    let kept: BTreeMap<Spot, (StepState, u32)> =
        run.steps.iter().map(|(spot, step)| (spot.clone(), (step.state(), step.attempt))).collect();
    if kept != spots {
        broken.push(format!("its steps are {kept:?}, the log says {spots:?}"));
    }
}

fn step(change: &StepChange, spots: &mut BTreeMap<Spot, (StepState, u32)>, story: &mut Story, broken: &mut Vec<String>) {
    let spot: Spot = (change.step_id.clone(), change.item.checked_sub(1));
    let (before, attempt) = spots.get(&spot).copied().unwrap_or_default();
    let state = change.state();
    let kind = match (change.item, &change.items) {
        (0, None) => "step",
        (0, Some(_)) => "fan",
        _ => "item",
    };
    let name = |state: StepState| match state {
        StepState::Unspecified => "NEW",
        state => state.as_str_name().trim_start_matches("STEP_STATE_"),
    };
    *story.transitions.entry(format!("{kind} {}>{}", name(before), name(state))).or_default() += 1;
    let allowed = ALLOWED_STEP.iter().find(|(from, _)| *from == before).map_or(&[][..], |(_, to)| to);
    if !allowed.contains(&state) {
        broken.push(format!("{spot:?} went from {} to {}", name(before), name(state)));
    }
    let right = match (kind, before, state) {
        ("fan", _, _) => change.attempt == 0,
        (_, StepState::Unspecified, StepState::Running) => change.attempt == 1,
        (_, StepState::Running, StepState::Waiting) => change.attempt == attempt + 1,
        // An attempt that never began does not count.
        (_, _, StepState::Cancelled) => [attempt, attempt.saturating_sub(1)].contains(&change.attempt),
        _ => change.attempt == attempt,
    };
    if !right {
        broken.push(format!("{spot:?} went to attempt {} as {} after attempt {attempt}", change.attempt, name(state)));
    }
    spots.insert(spot, (state, change.attempt));
}

/// Jobs: none that nobody submitted, each the last chance before the next, all over before their run.
fn jobs(world: &World, run: &Told, broken: &mut Vec<String>) {
    for ((spot, attempt), job) in &run.jobs {
        let id = &job.id;
        match job.end() {
            None => broken.push(format!("{id} is live after its run")),
            // Clocks of schedulers that are wrong prove nothing.
            Some(end) if end.at.millis() > run.record.ended_ms && world.jumps_ms == 0 => {
                broken.push(format!("{id} ended after its run"));
            }
            Some(end) if end.outcome == Outcome::Succeeded => {
                if run.jobs.contains_key(&(spot.clone(), attempt + 1)) {
                    broken.push(format!("{id} succeeded, and another attempt was made"));
                }
            }
            Some(_) => {}
        }
        match run.steps.get(spot) {
            None => broken.push(format!("{id} is of a step that has no record")),
            Some(step) if *attempt > step.attempt => broken.push(format!("{id} is of an attempt that was not made")),
            Some(_) => {}
        }
    }
    for (spot, step) in run.steps.iter().filter(|(_, step)| step.attempt > 0 && step.items.is_none()) {
        let made: BTreeSet<u32> = run.jobs.keys().filter(|(of, _)| of == spot).map(|(_, attempt)| *attempt).collect();
        if !made.iter().copied().eq(1..=step.attempt) {
            broken.push(format!("{spot:?} had {} attempts, and jobs for {made:?}", step.attempt));
        }
        let last = run.jobs.get(&(spot.clone(), step.attempt)).and_then(Job::end).map(|end| end.outcome);
        let succeeded = step.state() == StepState::Succeeded;
        if succeeded != (last == Some(Outcome::Succeeded)) {
            broken.push(format!("{spot:?} is {:?}, its last job {last:?}", step.state()));
        }
    }
}

/// A `for_each` step counts its items, and has succeeded only where none of them was given up for the run's end.
fn fans(run: &Told, broken: &mut Vec<String>) {
    for ((step, _), record) in &run.steps {
        let Some(counts) = &record.items else { continue };
        let ended = |state: StepState| {
            let of_step = run.steps.iter().filter(|((of, item), _)| of == step && item.is_some());
            u32::try_from(of_step.filter(|(_, item)| item.state() == state).count()).unwrap_or(u32::MAX)
        };
        let (succeeded, cancelled) = (ended(StepState::Succeeded), ended(StepState::Cancelled));
        let failed = ended(StepState::Failed) + ended(StepState::Timeout) + cancelled;
        if (counts.succeeded, counts.failed, counts.next) != (succeeded, failed, succeeded + failed) {
            broken.push(format!("{step} counts {counts:?}, and {succeeded} succeeded and {failed} did not"));
        }
        if record.state() == StepState::Succeeded && (cancelled > 0 || counts.next < counts.total) {
            broken.push(format!("{step} succeeded, and {cancelled} of its {} items were cancelled", counts.total));
        }
    }
}

/// Outputs: each is what its job gave, and that of the run what follows from them.
fn values(world: &World, id: &str, run: &Told, broken: &mut Vec<String>) {
    let read = |key: &str| payload(world, key);
    for ((step, item), record) in run.steps.iter().filter(|(_, record)| record.output_bytes > 0) {
        let key = match item {
            None => keys::step_output(id, step),
            Some(item) => keys::item_output(id, step, *item),
        };
        let output = read(&key);
        if output.as_ref().map(|output| output.len() as u64) != Some(record.output_bytes) {
            broken.push(format!("{key} is {output:?} and should have {} bytes", record.output_bytes));
        }
        let job = run.jobs.get(&((step.clone(), *item), record.attempt)).and_then(Job::end);
        let result = job.and_then(|end| end.result.as_ref()).map(|result| result.pointer.trim_start_matches("redis://"));
        if let Some(result) = result
            && read(result) != output
        {
            broken.push(format!("{key} is {output:?}, its job gave {:?}", read(result)));
        }
    }
    let state = run.record.state();
    let output = read(&keys::run_output(id)).and_then(|output| serde_json::from_slice::<Value>(&output).ok());
    let input = read(&keys::run_input(id)).and_then(|input| serde_json::from_slice::<Value>(&input).ok());
    let Some(input) = input else { return broken.push("its input is gone".to_owned()) };
    let ended = |step: &str, item| run.steps.get(&(step.to_owned(), item)).map_or(StepState::Unspecified, StepRecord::state);
    let expected = (state == RunState::Succeeded)
        .then(|| workflows::output(&run.record.workflow_id, run.record.workflow_version, &input, ended));
    if output != expected {
        broken.push(format!("it is {} and gives {output:?}, not {expected:?}", state.as_str_name()));
    }
}

fn payload(world: &World, key: &str) -> Option<Bytes> {
    let found = world.store.contents(key).into_iter().find(|(there, _, _)| there == key)?;
    match found.1 {
        Content::Text(bytes) => Some(bytes),
        Content::Index(_) | Content::Log { .. } | Content::Lock { .. } => None,
    }
}

/// Everything that belongs to a run expires, and not too soon. What is left of a start that came to nothing expires as well.
fn stays(world: &World, runs: &BTreeMap<String, Told>, broken: &mut Vec<String>) {
    let soon = world.clock.now().after(STAYS).millis();
    for prefix in ["wf:run:", "wf:step:", "wf:in:", "wf:out:", "wf:items:", "wf:idem:", "wf:staged:"] {
        for (key, _, expires_at) in world.store.contents(prefix) {
            let of_run = key.split(':').any(|part| runs.contains_key(part));
            match expires_at {
                None => broken.push(format!("{key} stays for ever")),
                Some(at) if of_run && at < soon => broken.push(format!("{key} expires too soon")),
                Some(_) => {}
            }
        }
    }
}
