//! Taking over: what a replica reads when it becomes active. It is the same whether a predecessor died, left or never was.

use busbar_protocol::keys;
use busbar_protocol::ports::{Bus, Clock, IndexRange, Judge, Records, StoreError};
use busbar_protocol::time::Timestamp;

use crate::Ports;
use crate::core::cell::Cell;
use crate::core::job::Job;
use crate::intake;

/// Reads all live jobs.
pub(crate) async fn load<B: Bus, R: Records, C: Clock, J: Judge>(
    ports: &Ports<B, R, C, J>,
    cell: &mut Cell,
) -> Result<(), StoreError> {
    const PAGE: u64 = 512;
    let doubt = doubtful_since(&ports.records.log_end(keys::LOG_JOBS).await?);
    let mut offset = 0;
    loop {
        let range = IndexRange { min: i64::MIN, max: i64::MAX, newest_first: false, offset, limit: PAGE };
        let page = ports.records.index(keys::INDEX_LIVE, range).await?;
        let full = page.len() as u64 == PAGE;
        offset += page.len() as u64;
        let records = ports.records.read(page.iter().map(|entry| keys::job(&entry.member)).collect()).await?;
        let now = ports.clock.now();
        for (entry, stored) in page.iter().zip(records) {
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
        if !full {
            return Ok(());
        }
    }
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
