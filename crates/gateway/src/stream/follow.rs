//! Reads the logs into the ring.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use busbar_protocol::busbar::{JobEvent, JobState, RunEvent};
use busbar_protocol::cursor::LogCursor;
use busbar_protocol::ports::{Bus, LogEntry, Records, StoreError};
use busbar_protocol::prost::Message as _;

use super::{Board, Hub, position};
use crate::core::stream::cursor::{Log, entries_to_read, holds_all_after};
use crate::core::stream::item::Item;
use crate::core::stream::latest::Key;
use crate::core::stream::owners::Whose;
use crate::core::stream::ring::Entry;

/// How many entries are read at once.
const PAGE: u16 = 512;
/// How often the logs are looked at when nobody wakes us: a lost event costs this much.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Follows both logs until the shutdown, as long as somebody is connected.
pub(super) async fn follow<B: Bus, R: Records>(hub: Arc<Hub<B, R>>) -> Result<(), Infallible> {
    let mut following = false;
    let mut woken = &Log::ALL[..];
    loop {
        following = hub.is_watched() && catch_up(&hub, following, woken).await;
        hub.pace().await;
        woken = tokio::select! {
            () = hub.wake_jobs.notified() => &[Log::Jobs],
            () = hub.wake_runs.notified() => &[Log::Runs],
            () = tokio::time::sleep(LOOK_EVERY) => &Log::ALL,
            () = hub.shutdown.triggered() => return Ok(()),
        }
    }
}

/// Reads to the end of the logs in which there may be something new. Returns whether the ring goes on from where it is now.
async fn catch_up<B: Bus, R: Records>(hub: &Hub<B, R>, following: bool, woken: &[Log]) -> bool {
    let read = async {
        if !following {
            restart(hub).await?;
        }
        for log in woken {
            read_to_end(hub, *log).await?;
        }
        Ok::<(), StoreError>(())
    };
    match read.await {
        Ok(()) => true,
        Err(error) => {
            tracing::debug!(%error, "the stream waits for the store");
            // What was read stays good; what comes next is read later.
            following
        }
    }
}

async fn restart<B: Bus, R: Records>(hub: &Hub<B, R>) -> Result<(), StoreError> {
    let ends = hub.ends().await?;
    hub.board().ring.restart(ends);
    hub.tell();
    Ok(())
}

async fn read_to_end<B: Bus, R: Records>(hub: &Hub<B, R>, log: Log) -> Result<(), StoreError> {
    loop {
        let place = hub.board().ring.end().at(log);
        let Some(page) = page(&hub.records, log, place).await? else {
            tracing::warn!(log = log.key(), "the log was trimmed before it was read: clients begin anew");
            return restart(hub).await;
        };
        if page.is_empty() && hub.end(log).await? < place {
            tracing::warn!(log = log.key(), "the log ends earlier than it did: the store has lost entries");
            return restart(hub).await;
        }
        if page.is_empty() {
            return Ok(());
        }
        push(&mut hub.board(), log, &page)?;
        hub.tell();
        if page.len() < usize::from(PAGE) {
            return Ok(());
        }
    }
}

/// What comes next in a log. `None` where some of it was trimmed.
pub(super) async fn page<R: Records>(records: &R, log: Log, place: LogCursor) -> Result<Option<Vec<LogEntry>>, StoreError> {
    let mut page = records.log_after(log.key(), &place.to_string(), entries_to_read(place, u64::from(PAGE))).await?;
    // Looked up afterwards: what is not trimmed now was not trimmed when the page was read.
    let first = records.log_after(log.key(), "0", 1).await?;
    let first = first.first().map(|entry| position(log, &entry.cursor)).transpose()?;
    let all = holds_all_after(place, first, page.len());
    page.truncate(usize::from(PAGE));
    Ok(all.then_some(page))
}

fn push(board: &mut Board, log: Log, page: &[LogEntry]) -> Result<(), StoreError> {
    for entry in page {
        if log == Log::Jobs {
            learn(board, entry);
        }
        board.ring.push(read(log, entry)?);
    }
    Ok(())
}

/// One entry of a log.
pub(super) fn read(log: Log, entry: &LogEntry) -> Result<Entry, StoreError> {
    let item = match log {
        Log::Jobs => JobEvent::decode(entry.value.clone()).ok().and_then(|event| Item::of_job(&event)),
        Log::Runs => RunEvent::decode(entry.value.clone()).ok().and_then(|event| Item::of_run(&event)),
    };
    if item.is_none() {
        tracing::warn!(log = log.key(), cursor = entry.cursor, "an entry of the log cannot be read and is passed over");
    }
    Ok(Entry { log, position: position(log, &entry.cursor)?, item })
}

/// Remembers whose a live job is, and forgets what is of no more interest of one that has ended.
fn learn(board: &mut Board, entry: &LogEntry) {
    let Ok(event) = JobEvent::decode(entry.value.clone()) else { return };
    if event.states().next_back().is_some_and(JobState::is_terminal) {
        board.owners.forget(&event.job_id);
        board.latest.forget(&Key::Progress(event.job_id));
    } else {
        board.owners.learn(&event.job_id, Whose { tenant_id: event.tenant_id, topic: event.topic });
    }
}
