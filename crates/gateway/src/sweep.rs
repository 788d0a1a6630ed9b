//! Collects blobs that nobody names any more: results whose time is over, what jobs named that are gone, modules of packs that were uninstalled, artifacts that have expired, what was uploaded and never used.
//!
//! ```text
//!  blobs that nobody has stored for a day ─► minus all that a record names ─► still that old? ─► removed
//!                                               packs, topics, artifacts, dead letters, jobs
//! ```
//!
//! Content is stored before a record names it, and storing it again makes the blob young, whether or not it was there. So what comes to be named while records
//! are read is never removed: it is young by then, and the store looks once more, with its door shut to others, when it removes. What is named by
//! passing a name on, as a redrive does, is read before whatever it is passed on to.
//!
//! A name is whatever looks like one: any 64 hexadecimal digits in a record. That keeps a blob too long at worst, and no field of a later version is overlooked.
//! Only a job's result, once the time is over until which its record says that it is kept, is not named by that any more.

use std::collections::HashSet;
use std::io;
use std::time::Duration;

use busbar_blobs::{BlobError, Blobs};
use busbar_protocol::pointers::Sha256Hex;
use busbar_protocol::ports::{Records, StoreError};
use busbar_protocol::{ids, keys};
use busbar_service::Shutdown;

use crate::core::names::{names_in, names_in_job};

/// How often somebody looks. The lease is never renewed or given back: it lasts as long as the next look takes to come.
const EVERY: Duration = Duration::from_secs(3_600);
/// Before the first look: whoever has started with the wrong Redis, in which nothing names anything, has so long to notice.
const FIRST: Duration = Duration::from_secs(600);
/// After a look that failed.
const AGAIN: Duration = Duration::from_secs(60);
/// How many records are read at once.
const PAGE: usize = 256;

/// Why blobs that nobody names stay for now. None was removed that somebody names.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// Records could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Blobs could not be listed or removed.
    #[error(transparent)]
    Blobs(#[from] BlobError),
}

/// Sweeps every hour, one gateway at a time, until the shutdown.
pub(crate) async fn run<R: Records>(records: R, blobs: Blobs, age: Duration, shutdown: Shutdown) -> io::Result<()> {
    let sweeps = async {
        let (owner, mut wait) = (ids::generate(), FIRST);
        loop {
            tokio::time::sleep(wait).await;
            wait = turn(&records, &blobs, age, &owner).await;
        }
    };
    tokio::select! {
        () = sweeps => {}
        () = shutdown.triggered() => {}
    }
    Ok(())
}

/// One turn; how long to wait for the next.
async fn turn<R: Records>(records: &R, blobs: &Blobs, age: Duration, owner: &str) -> Duration {
    let swept = async {
        let lease = records.lease(keys::LOCK_BLOBS, owner, EVERY).await?;
        if lease.held { sweep(records, blobs, age).await.map(Some) } else { Ok(None) }
    };
    match swept.await {
        Ok(Some(removed)) if removed > 0 => {
            tracing::info!(removed, "blobs that nobody names were removed");
            EVERY
        }
        Ok(_) => EVERY,
        Err(error) => {
            tracing::warn!(%error, "blobs that nobody names stay for now");
            AGAIN
        }
    }
}

/// Removes the blobs that nobody has stored for so long and that no record names; how many those were. The gateway does so every hour.
///
/// # Errors
/// [`SweepError`].
pub async fn sweep<R: Records>(records: &R, blobs: &Blobs, age: Duration) -> Result<usize, SweepError> {
    let mut unnamed: HashSet<Sha256Hex> = blobs.older_than(age).await?.into_iter().collect();
    let now = records.time().await?;
    // Packs give their modules to topics, and topics to jobs; the redrive of a letter makes a job. Where little names much, the many jobs need not be read.
    for prefix in [keys::PACKS, keys::TOPICS, keys::ARTIFACTS, keys::DEAD_LETTERS, keys::JOBS] {
        if unnamed.is_empty() {
            return Ok(0);
        }
        retain_unnamed(records, prefix, &mut unnamed, |record| match prefix {
            keys::JOBS => names_in_job(record, now),
            _ => names_in(record).collect(),
        })
        .await?;
    }
    let mut removed = 0;
    for blob in &unnamed {
        removed += usize::from(blobs.delete_older_than(blob, age).await?);
    }
    Ok(removed)
}

async fn retain_unnamed<R: Records>(
    records: &R,
    prefix: &str,
    unnamed: &mut HashSet<Sha256Hex>,
    names: impl Fn(&[u8]) -> Vec<Sha256Hex>,
) -> Result<(), SweepError> {
    let mut cursor = 0;
    loop {
        let (found, next) = records.keys_with(prefix, cursor).await?;
        for page in found.chunks(PAGE) {
            for record in records.read(page.to_vec()).await?.into_iter().flatten() {
                for name in names(&record.value) {
                    unnamed.remove(&name);
                }
            }
        }
        if next == 0 {
            return Ok(());
        }
        cursor = next;
    }
}
