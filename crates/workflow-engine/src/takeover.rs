//! Taking over: what a replica reads when it becomes active. It is the same whether a predecessor died, left or never was.

use busbar_protocol::busbar::{RunRecord, StepRecord};
use busbar_protocol::keys;
use busbar_protocol::ports::{Bus, Clock, IndexRange, Records, StoreError};
use busbar_rules::expr::Value;
use futures::{StreamExt as _, stream};

use crate::core::engine::Engine;
use crate::core::records::{Impossible, Kept};
use crate::core::run::{Outcome, Run, Spot, StepRun, output_key};
use crate::library::{Library, LibraryError, decode};
use crate::service::Ports;

/// How many runs are listed at once.
const PAGE: u64 = 256;
/// How many runs are read at the same time.
const AT_ONCE: usize = 16;
/// How many records or values are read at once.
const READ: usize = 128;

#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Library(#[from] LibraryError),
    #[error(transparent)]
    Impossible(#[from] Impossible),
    #[error("its value at {key} is gone or no JSON")]
    Value { key: String },
}

impl LoadError {
    /// The store is away: nothing is known about the run.
    fn passes(self) -> Result<Self, StoreError> {
        match self {
            Self::Store(error @ StoreError::Unavailable { .. })
            | Self::Library(LibraryError::Store(error @ StoreError::Unavailable { .. })) => Err(error),
            other => Ok(other),
        }
    }
}

/// Reads all live runs.
pub(crate) async fn load<B: Bus, R: Records, C: Clock>(
    ports: &Ports<B, R, C>,
    library: &Library,
    engine: &mut Engine,
) -> Result<(), StoreError> {
    let mut offset = 0;
    loop {
        let range = IndexRange { min: i64::MIN, max: i64::MAX, newest_first: false, offset, limit: PAGE };
        let page = ports.records.index(keys::INDEX_LIVE_RUNS, range).await?;
        let full = page.len() as u64 == PAGE;
        offset += page.len() as u64;
        let mut runs = stream::iter(page)
            .map(|entry| async move {
                let run = load_run(&ports.records, library, &entry.member).await;
                (entry.member, run)
            })
            .buffered(AT_ONCE);
        while let Some((run_id, run)) = runs.next().await {
            match run {
                Ok((run, revision)) => engine.adopt(run, revision, ports.clock.now()),
                Err(error) => {
                    let error = error.passes()?;
                    tracing::error!(run_id, %error, "a live run cannot be read and does not go on");
                }
            }
        }
        if !full {
            return Ok(());
        }
    }
}

async fn load_run<R: Records>(records: &R, library: &Library, run_id: &str) -> Result<(Run, u64), LoadError> {
    let key = keys::run(run_id);
    let stored = records.read(vec![key.clone()]).await?.pop().flatten();
    let stored = stored.ok_or_else(|| LoadError::Value { key: key.clone() })?;
    let record: RunRecord = decode(&key, &stored.value)?;
    let (owner, id, number) = (&record.workflow_tenant_id, &record.workflow_id, record.workflow_version);
    let workflow = library.version(records, owner, id, number).await?;
    let input = values(records, vec![keys::run_input(run_id)]).await?.pop().unwrap_or_else(Value::null);
    let mut run = Run::restore(record, workflow, input)?;
    let steps: Vec<Spot> = (0..run.steps.len()).map(|step| Spot { step, item: None }).collect();
    restore(records, &mut run, &steps).await?;
    for step in 0..run.steps.len() {
        let next = match &run.steps[step] {
            StepRun::Fan(fan) => fan.counts.next,
            StepRun::Over(over) => over.counts.map_or(0, |counts| counts.next),
            StepRun::Idle | StepRun::Trying(_) => 0,
        };
        let items: Vec<Spot> = (0..next).map(|item| Spot { step, item: Some(item) }).collect();
        restore(records, &mut run, &items).await?;
        let (collected, done) = run.collected(step, next);
        if let StepRun::Over(over) = &mut run.steps[step]
            && over.counts.is_some()
            && over.outcome == Outcome::Succeeded
        {
            (over.output, over.done) = (collected, done);
        }
    }
    Ok((run, stored.revision))
}

/// Puts steps or items back in their places.
async fn restore<R: Records>(records: &R, run: &mut Run, spots: &[Spot]) -> Result<(), LoadError> {
    for page in spots.chunks(READ) {
        let names: Vec<String> = page.iter().map(|spot| crate::core::commit::spot_key(run, *spot)).collect();
        let stored = records.read(names.clone()).await?;
        let mut found: Vec<(Spot, StepRecord)> = Vec::new();
        for ((spot, key), stored) in page.iter().zip(&names).zip(stored) {
            if let Some(stored) = stored {
                found.push((*spot, decode(key, &stored.value)?));
            }
        }
        let wanted: Vec<Option<String>> = found.iter().map(|(spot, record)| value_key(run, *spot, record)).collect();
        let mut read = values(records, wanted.iter().flatten().cloned().collect()).await?.into_iter();
        for ((spot, record), wanted) in found.into_iter().zip(wanted) {
            let value = wanted.and_then(|_| read.next()).unwrap_or_else(Value::null);
            let at_work = record.ended_ms == 0;
            let (output, list) = if at_work { (Value::null(), value) } else { (value, Value::null()) };
            run.restore_spot(spot, Kept { record, output, list })?;
        }
    }
    Ok(())
}

/// Where the value stands that belongs to a spot as it is now, if one does.
fn value_key(run: &Run, spot: Spot, record: &StepRecord) -> Option<String> {
    if record.output_bytes > 0 {
        return Some(output_key(run, spot));
    }
    let fan_at_work = record.items.is_some() && record.ended_ms == 0;
    fan_at_work.then(|| keys::step_items(&run.head.id, &record.step_id))
}

async fn values<R: Records>(records: &R, names: Vec<String>) -> Result<Vec<Value>, LoadError> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let payloads = records.payloads(names.clone()).await?;
    let parsed = names.into_iter().zip(payloads).map(|(key, payload)| {
        let json = payload.and_then(|payload| serde_json::from_slice::<serde_json::Value>(&payload).ok());
        json.map(|json| Value::from_json(&json)).ok_or(LoadError::Value { key })
    });
    parsed.collect()
}
