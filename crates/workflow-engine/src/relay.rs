//! The relay: tells on the bus, in order and at least once, what the log of runs holds.
//!
//! ```text
//! ev:runs ──read after the cursor──▶ busbar.run.event, in batches
//!         ◀──cursor, once the server has it all──
//! ```

use std::time::Duration;

use busbar_protocol::busbar::{RunEvent, RunEventBatch, RunEventEntry};
use busbar_protocol::keys;
use busbar_protocol::ports::{
    Answer, Bus, BusError, Clock, CommitClass, CommitId, Guard, Headers, LogEntry, Records, StoreError, Unit, Write,
};
use busbar_protocol::prost::Message as _;
use busbar_protocol::subjects;
use tokio::sync::Notify;

use crate::service::Ports;

/// The most entries of one batch.
const BATCH: u64 = 128;
/// The most bytes of one batch: a message holds 1 MiB.
const BATCH_BYTES: usize = 512 << 10;
/// How long the relay waits when nobody wakes it.
const IDLE: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(100);
/// The cursor is saved after so many entries, or when the log is caught up.
const SAVE_EVERY: usize = 4096;

#[derive(Debug, thiserror::Error)]
enum RelayError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error("the connection was made again: what was told before may not have arrived")]
    Reconnected,
    #[error("somebody else has saved a cursor, or is active")]
    Overtaken,
}

struct Position {
    cursor: String,
    revision: u64,
    unsaved: usize,
    /// The connection over which everything since the saved cursor was told.
    generation: u64,
}

/// Relays for ever; `wake` says that there may be something new.
pub(crate) async fn run<B: Bus, R: Records, C: Clock>(ports: Ports<B, R, C>, epoch: u64, wake: std::sync::Arc<Notify>) {
    let mut position = None;
    loop {
        if let Err(error) = relay(&ports, epoch, &mut position).await {
            tracing::debug!(%error, "the relay pauses");
            position = None;
            ports.clock.sleep(PAUSE).await;
            continue;
        }
        tokio::select! {
            biased;
            () = wake.notified() => {}
            () = ports.clock.sleep(IDLE) => {}
        }
    }
}

/// Relays until the log is caught up.
async fn relay<B: Bus, R: Records, C: Clock>(
    ports: &Ports<B, R, C>,
    epoch: u64,
    position: &mut Option<Position>,
) -> Result<(), RelayError> {
    if position.is_none() {
        *position = Some(load(ports).await?);
    }
    let Some(at) = position else { return Ok(()) };
    loop {
        let entries = ports.records.log_after(keys::LOG_RUNS, &at.cursor, BATCH).await?;
        let Some(last) = entries.last().map(|entry| entry.cursor.clone()) else { break };
        for batch in batches(&at.cursor, &entries) {
            ports.bus.publish(subjects::RUN_EVENT, Headers::new(), batch.encode_to_vec().into()).await?;
        }
        at.cursor = last;
        at.unsaved += entries.len();
        if at.unsaved >= SAVE_EVERY {
            save(ports, epoch, at).await?;
        }
    }
    if at.unsaved > 0 { save(ports, epoch, at).await } else { Ok(()) }
}

/// Where a predecessor, or we before a mishap, left off.
async fn load<B: Bus, R: Records, C: Clock>(ports: &Ports<B, R, C>) -> Result<Position, RelayError> {
    let generation = ports.bus.connection().borrow().generation;
    let stored = ports.records.read(vec![keys::LOG_RUNS_RELAYED.to_owned()]).await?.pop().flatten();
    Ok(match stored {
        None => Position { cursor: "0".to_owned(), revision: 0, unsaved: 0, generation },
        Some(stored) => Position {
            cursor: String::from_utf8_lossy(&stored.value).into_owned(),
            revision: stored.revision,
            unsaved: 0,
            generation,
        },
    })
}

/// Entries in messages that the bus takes.
fn batches(after: &str, entries: &[LogEntry]) -> Vec<RunEventBatch> {
    let mut batches = vec![RunEventBatch { after: after.to_owned(), entries: Vec::new() }];
    let mut bytes = 0;
    let mut last = after;
    for entry in entries {
        if bytes > 0 && bytes + entry.value.len() > BATCH_BYTES {
            batches.push(RunEventBatch { after: last.to_owned(), entries: Vec::new() });
            bytes = 0;
        }
        bytes += entry.value.len();
        last = &entry.cursor;
        match RunEvent::decode(entry.value.clone()) {
            Ok(event) => {
                let told = RunEventEntry { cursor: entry.cursor.clone(), event: Some(event) };
                batches.last_mut().into_iter().for_each(|batch| batch.entries.push(told.clone()));
            }
            Err(error) => tracing::error!(cursor = entry.cursor, %error, "an entry of the log cannot be read and is passed over"),
        }
    }
    batches
}

/// Saves the cursor, once a round trip over the same connection has shown that everything before has arrived.
async fn save<B: Bus, R: Records, C: Clock>(ports: &Ports<B, R, C>, epoch: u64, at: &mut Position) -> Result<(), RelayError> {
    ports.bus.round_trip().await?;
    if ports.bus.connection().borrow().generation != at.generation {
        return Err(RelayError::Reconnected);
    }
    let key = keys::LOG_RUNS_RELAYED.to_owned();
    let present = match at.revision {
        0 => Guard::Absent { key: key.clone() },
        revision => Guard::Revision { key: key.clone(), revision },
    };
    let value = at.cursor.clone().into_bytes().into();
    let unit = Unit {
        id: CommitId::generate(),
        guards: vec![Guard::Epoch { lock: keys::LOCK_ENGINE.to_owned(), epoch }, present],
        writes: vec![Write::Put { key, revision: at.revision + 1, value, expire: None }],
    };
    let answers = ports.records.commit(CommitClass::Advance, vec![unit]).await?;
    if !matches!(answers.first(), Some(Answer::Applied { .. } | Answer::Already)) {
        return Err(RelayError::Overtaken);
    }
    at.revision += 1;
    at.unsaved = 0;
    Ok(())
}
