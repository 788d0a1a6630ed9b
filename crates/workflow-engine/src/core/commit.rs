//! Turns changes of a run into the unit that makes them durable: record, steps, outputs, indexes and log together.

use std::collections::BTreeSet;
use std::time::Duration;

use busbar_protocol::busbar::{RunEvent, RunIdempotencyRecord};
use busbar_protocol::keys;
use busbar_protocol::ports::{CommitId, Guard, Unit, Write};
use busbar_protocol::prost::Message as _;

use super::run::{Outcome, Over, Progress, RECORD_VERSION, Run, Spot, StepRun, output_key};

/// How long what is over stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Ended runs with their steps and outputs.
    pub runs: Duration,
    /// Entries of the log.
    pub log_entries: u64,
    /// Entries of one run's timeline.
    pub timeline_entries: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self { runs: Duration::from_secs(7 * 24 * 60 * 60), log_entries: 1_000_000, timeline_entries: 50_000 }
    }
}

/// What has changed about a run since it was written last.
#[derive(Clone, Debug, Default)]
pub struct Changed {
    /// Steps and items.
    pub spots: BTreeSet<Spot>,
    /// Results of jobs that become outputs: from, to.
    pub kept: Vec<(String, String)>,
    /// Values that were written before and take their places now: from, to.
    pub staged: Vec<(String, String)>,
    /// What the log tells.
    pub events: Vec<RunEvent>,
}

/// A run on its way into the store.
#[derive(Clone, Debug)]
pub struct Change<'a> {
    /// The run as it will be.
    pub run: &'a Run,
    /// What has changed about it.
    pub changed: &'a Changed,
    /// The revision that stands in the store; 0 where nothing does.
    pub revision: u64,
    /// The epoch under which we write.
    pub epoch: u64,
    /// The commit's id.
    pub id: CommitId,
}

/// The place of the guard against a run that exists in the unit of a new run.
pub const GUARD_RUN_ABSENT: usize = 1;
/// The place of the guard that the input is still there in the unit of a new run.
pub const GUARD_INPUT: usize = 2;
/// The place of the guard that the workflow is still there in the unit of a new run.
pub const GUARD_WORKFLOW: usize = 3;
/// The place of the guard against a used idempotency key in the unit of a new run that has one.
pub const GUARD_KEY_UNUSED: usize = 4;

/// Builds the unit.
#[must_use]
pub fn unit(change: &Change<'_>, retention: &Retention) -> Unit {
    let run = change.run;
    let key = keys::run(&run.head.id);
    let revision = change.revision + 1;
    let mut guards = vec![Guard::Epoch { lock: keys::LOCK_ENGINE.to_owned(), epoch: change.epoch }];
    guards.push(match change.revision {
        0 => Guard::Absent { key: key.clone() },
        revision => Guard::Revision { key: key.clone(), revision },
    });
    let expire = run.is_over().then_some(retention.runs);
    let value = run.to_record().encode_to_vec().into();
    let mut writes = vec![Write::Put { key, revision, value, expire }];
    if change.revision == 0 {
        begin(run, &mut guards, &mut writes, retention);
    }
    for spot in &change.changed.spots {
        if let Some(record) = run.step_record(*spot) {
            let value = record.encode_to_vec().into();
            writes.push(Write::Put { key: spot_key(run, *spot), revision, value, expire });
        }
    }
    for (from, to) in &change.changed.staged {
        guards.push(Guard::Exists { key: from.clone() });
        writes.push(Write::Copy { from: from.clone(), to: to.clone(), expire: None });
        writes.push(Write::Delete { key: from.clone() });
    }
    let kept = change.changed.kept.iter();
    writes.extend(kept.map(|(from, to)| Write::Copy { from: from.clone(), to: to.clone(), expire: None }));
    for event in &change.changed.events {
        let value: bytes::Bytes = event.encode_to_vec().into();
        let timeline = keys::run_timeline(&run.head.id);
        writes.push(Write::Append { log: timeline, value: value.clone(), keep: retention.timeline_entries });
        writes.push(Write::Append { log: keys::LOG_RUNS.to_owned(), value, keep: retention.log_entries });
    }
    if let Progress::Ended { output_bytes, .. } = run.progress {
        end(run, output_bytes, change, &mut writes, retention);
    }
    Unit { id: change.id, guards, writes }
}

/// What only the first commit of a run does: its input stays, its key is taken, it is listed.
fn begin(run: &Run, guards: &mut Vec<Guard>, writes: &mut Vec<Write>, retention: &Retention) {
    let head = &*run.head;
    let input = keys::run_input(&head.id);
    guards.push(Guard::Exists { key: input.clone() });
    let version = keys::workflow_version(&head.workflow_tenant_id, &head.workflow_id, head.workflow_version);
    guards.push(Guard::Exists { key: version });
    if !head.idempotency_key.is_empty() {
        let key = keys::run_idempotency(&head.tenant_id, &head.idempotency_key);
        guards.push(Guard::Absent { key: key.clone() });
        let record = RunIdempotencyRecord {
            version: RECORD_VERSION,
            run_id: head.id.clone(),
            workflow_id: head.workflow_id.clone(),
            workflow_version: head.workflow_version,
        };
        let value = record.encode_to_vec().into();
        writes.push(Write::Put { key, revision: 1, value, expire: Some(retention.runs) });
    }
    writes.push(Write::Persist { key: input });
    let created = i64::try_from(head.created.millis()).unwrap_or(i64::MAX);
    let below = created.saturating_sub(i64::try_from(retention.runs.as_millis()).unwrap_or(i64::MAX));
    writes.push(Write::IndexAdd { index: keys::INDEX_LIVE_RUNS.to_owned(), member: head.id.clone(), score: created });
    for index in [keys::index_runs(&head.tenant_id), keys::index_runs_of(&head.tenant_id, &head.workflow_id)] {
        writes.push(Write::IndexTrim { index: index.clone(), below: below.saturating_sub(LONG_RUN_MS) });
        writes.push(Write::IndexAdd { index, member: head.id.clone(), score: created });
    }
}

/// Runs are listed by when they were started: one that lived long is listed for this much longer than its record lives after it.
const LONG_RUN_MS: i64 = 366 * 24 * 3600 * 1000;

/// What only the last commit of a run does: everything that belongs to it expires, and it is live no more.
fn end(run: &Run, output_bytes: u64, change: &Change<'_>, writes: &mut Vec<Write>, retention: &Retention) {
    let head = &*run.head;
    let after = retention.runs;
    writes.push(Write::IndexRemove { index: keys::INDEX_LIVE_RUNS.to_owned(), member: head.id.clone() });
    writes.push(Write::Expire { key: keys::run_input(&head.id), after });
    writes.push(Write::Expire { key: keys::run_timeline(&head.id), after });
    if output_bytes > 0 {
        writes.push(Write::Expire { key: keys::run_output(&head.id), after });
    }
    // There may be thousands of items: they are made to expire afterwards, a few at a time.
    if !run.items.is_empty() {
        let score = i64::try_from(run.updated.millis()).unwrap_or(i64::MAX);
        writes.push(Write::IndexAdd { index: keys::INDEX_RETIRING.to_owned(), member: head.id.clone(), score });
    }
    for spot in (0..run.steps.len()).map(|step| Spot { step, item: None }) {
        // What this commit has written expires already.
        if !change.changed.spots.contains(&spot) && run.step_record(spot).is_some() {
            writes.push(Write::Expire { key: spot_key(run, spot), after });
        }
        let Some(over) = over(run, spot) else { continue };
        if over.output_bytes > 0 {
            writes.push(Write::Expire { key: output_key(run, spot), after });
        }
        if over.counts.is_some() {
            writes.push(Write::Expire { key: keys::step_items(&head.id, &run.workflow.steps[spot.step].id), after });
        }
    }
}

/// The end of a step, if it is over and did something.
fn over(run: &Run, spot: Spot) -> Option<&Over> {
    match run.steps.get(spot.step)? {
        StepRun::Over(over) if over.outcome != Outcome::Skipped => Some(over),
        StepRun::Idle | StepRun::Trying(_) | StepRun::Fan(_) | StepRun::Over(_) => None,
    }
}

/// The record of a spot.
#[must_use]
pub fn spot_key(run: &Run, spot: Spot) -> String {
    let step_id = run.workflow.steps.get(spot.step).map_or("", |step| &step.id);
    match spot.item {
        None => keys::step(&run.head.id, step_id),
        Some(item) => keys::step_item(&run.head.id, step_id, item),
    }
}
