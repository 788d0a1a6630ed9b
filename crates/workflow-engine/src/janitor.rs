//! The janitor: makes the items of ended runs expire, a few at a time, since there may be thousands.

use std::time::Duration;

use busbar_protocol::busbar::{RunRecord, StepRecord};
use busbar_protocol::keys;
use busbar_protocol::ports::{Bus, Clock, CommitClass, CommitId, Guard, IndexRange, Records, StoreError, Unit, Write};

use crate::library::decode;
use crate::service::Ports;

const EVERY: Duration = Duration::from_secs(5);
/// How many runs are looked at in one round.
const RUNS: u64 = 64;
/// How many items are made to expire by one unit.
const ITEMS: u32 = 128;

/// Tidies for ever.
pub(crate) async fn run<B: Bus, R: Records, C: Clock>(ports: Ports<B, R, C>, epoch: u64, retention: Duration) {
    loop {
        ports.clock.sleep(EVERY).await;
        if let Err(error) = tidy(&ports.records, epoch, retention).await {
            tracing::debug!(%error, "the janitor pauses");
        }
    }
}

async fn tidy<R: Records>(records: &R, epoch: u64, retention: Duration) -> Result<(), StoreError> {
    let range = IndexRange { min: i64::MIN, max: i64::MAX, newest_first: false, offset: 0, limit: RUNS };
    for entry in records.index(keys::INDEX_RETIRING, range).await? {
        retire(records, epoch, retention, &entry.member).await?;
    }
    Ok(())
}

/// Makes the items of one run expire. What was done before is done again without harm.
async fn retire<R: Records>(records: &R, epoch: u64, retention: Duration, run_id: &str) -> Result<(), StoreError> {
    let key = keys::run(run_id);
    let steps = match records.read(vec![key.clone()]).await?.pop().flatten() {
        Some(stored) => decode::<RunRecord>(&key, &stored.value)?.steps,
        None => Vec::new(),
    };
    let names: Vec<String> = steps.iter().map(|step_id| keys::step(run_id, step_id)).collect();
    let stored = if names.is_empty() { Vec::new() } else { records.read(names.clone()).await? };
    for ((step_id, key), stored) in steps.iter().zip(&names).zip(stored) {
        let Some(stored) = stored else { continue };
        let next = decode::<StepRecord>(key, &stored.value)?.items.map_or(0, |items| items.next);
        let mut first = 0;
        while first < next {
            let last = next.min(first + ITEMS);
            let writes = (first..last).flat_map(|item| {
                [keys::step_item(run_id, step_id, item), keys::item_output(run_id, step_id, item)]
                    .map(|key| Write::Expire { key, after: retention })
            });
            commit(records, epoch, writes.collect()).await?;
            first = last;
        }
    }
    let over = Write::IndexRemove { index: keys::INDEX_RETIRING.to_owned(), member: run_id.to_owned() };
    commit(records, epoch, vec![over]).await
}

async fn commit<R: Records>(records: &R, epoch: u64, writes: Vec<Write>) -> Result<(), StoreError> {
    let guards = vec![Guard::Epoch { lock: keys::LOCK_ENGINE.to_owned(), epoch }];
    records.commit(CommitClass::Advance, vec![Unit { id: CommitId::generate(), guards, writes }]).await.map(drop)
}
