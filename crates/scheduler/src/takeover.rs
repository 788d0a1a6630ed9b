//! Taking over: what a replica reads when it becomes active. It is the same whether a predecessor died, left or never was.

use std::pin::pin;

use futures::{Stream, TryStreamExt as _, stream};

use busbar_protocol::busbar::{HoldsDocument, JobState};
use busbar_protocol::keys;
use busbar_protocol::ports::{Bus, Clock, IndexEntry, IndexRange, Judge, Records, StoreError, UNITS_MAX};
use busbar_protocol::prost::Message as _;
use busbar_protocol::time::Timestamp;

use crate::Ports;
use crate::core::cell::Cell;
use crate::core::job::Job;
use crate::intake;

/// How many jobs are read at once.
const PAGE: u64 = 512;
/// How many pages are under way at once: while one is taken in, the store works on the next ones.
const PAGES_AHEAD: usize = 4;

/// Reads all live jobs, the oldest first.
pub(crate) async fn load<B: Bus, R: Records, C: Clock, J: Judge>(
    ports: &Ports<B, R, C, J>,
    cell: &mut Cell,
) -> Result<(), StoreError> {
    let doubt = doubtful_since(&ports.records.log_end(keys::LOG_JOBS).await?);
    let records = |page: Vec<IndexEntry>| async move {
        let stored = ports.records.read(page.iter().map(|entry| keys::job(&entry.member)).collect()).await?;
        Ok::<_, StoreError>((page, stored))
    };
    let mut pages = pin!(live_pages(&ports.records).map_ok(records).try_buffered(PAGES_AHEAD));
    while let Some((page, stored)) = pages.try_next().await? {
        let now = ports.clock.now();
        for (entry, stored) in page.iter().zip(stored) {
            let Some(stored) = stored else {
                tracing::error!(job = entry.member, "a job is listed as live but has no record");
                continue;
            };
            let key = keys::job(&entry.member);
            let job = Job::decode(&stored.value).map_err(|detail| StoreError::Corrupt { key, detail })?;
            let class = intake::class_of(&job);
            let (id, doubtful) = (job.id.clone(), job.hold().is_some_and(|hold| hold.since >= doubt));
            cell.insert(job, stored.revision, class, now);
            if doubtful {
                cell.send_again(&id);
            }
        }
    }
    follow_parents(&ports.records, cell).await
}

/// The index of live jobs, page by page. A page begins at the score of the last entry before it, behind those of that score that
/// were read: passing over all that were read would cost more with each page.
fn live_pages<R: Records>(records: &R) -> impl Stream<Item = Result<Vec<IndexEntry>, StoreError>> {
    stream::try_unfold(Some((i64::MIN, 0_u64)), move |from| async move {
        let Some((min, offset)) = from else { return Ok(None) };
        let range = IndexRange { min, max: i64::MAX, newest_first: false, offset, limit: PAGE };
        let page = records.index(keys::INDEX_LIVE, range).await?;
        let Some(last) = page.last().map(|entry| entry.score) else { return Ok(None) };
        let ties = page.iter().rev().take_while(|entry| entry.score == last).count() as u64;
        let before = if min == last { offset } else { 0 };
        let next = (page.len() as u64 == PAGE).then_some((last, before + ties));
        Ok(Some((page, next)))
    })
}

/// What is paused and what drains, with the revision of that record.
pub(crate) async fn holds<R: Records>(records: &R) -> Result<(HoldsDocument, u64), StoreError> {
    let key = keys::HOLDS.to_owned();
    let Some(stored) = records.read(vec![key.clone()]).await?.pop().flatten() else { return Ok((HoldsDocument::default(), 0)) };
    let record = HoldsDocument::decode(stored.value).map_err(|error| StoreError::Corrupt { key, detail: error.to_string() })?;
    Ok((record, stored.revision))
}

/// The jobs that live ones belong to may have been cancelled, and their children not yet: that goes on.
async fn follow_parents<R: Records>(records: &R, cell: &mut Cell) -> Result<(), StoreError> {
    for parents in cell.absent_parents().chunks(UNITS_MAX) {
        let stored = records.read(parents.iter().map(|parent| keys::job(parent)).collect()).await?;
        for (parent, stored) in parents.iter().zip(stored) {
            let job = stored.and_then(|stored| Job::decode(&stored.value).ok());
            if job.is_some_and(|job| job.state.tag() == JobState::Cancelled) {
                cell.parent_was_cancelled(parent);
            }
        }
    }
    Ok(())
}

/// From when on a sending of our predecessor is in doubt: shortly before the last thing that it wrote to the log.
fn doubtful_since(log_end: &str) -> Timestamp {
    const MARGIN_MS: u64 = 1_000;
    let last = log_end.split_once('-').and_then(|(millis, _)| millis.parse::<u64>().ok()).unwrap_or(0);
    Timestamp::from_millis(last.saturating_sub(MARGIN_MS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubt_begins_a_second_before_the_end_of_the_log() {
        assert_eq!(doubtful_since("1700000005000-3"), Timestamp::from_millis(1_700_000_004_000));
        assert_eq!(doubtful_since("0"), Timestamp::from_millis(0));
    }
}
