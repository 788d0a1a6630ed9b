//! `lock:packs`: one installation at a time in a cell, whichever gateway carries it out.

use std::time::{Duration, Instant};

use busbar_api::Problem;
use busbar_protocol::codes::Code;
use busbar_protocol::ports::{Guard, Records};
use busbar_protocol::{ids, keys};
use tokio::task::JoinHandle;

use super::drive::Stuck;
use crate::error::of_store;

const PAUSE: Duration = Duration::from_millis(50);

/// The lease, held and renewed until it is released or dropped.
#[derive(Debug)]
pub(super) struct Held<R> {
    records: R,
    owner: String,
    epoch: u64,
    ttl: Duration,
    renewing: JoinHandle<()>,
}

impl<R> Drop for Held<R> {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

impl<R: Records> Held<R> {
    /// Takes the lease, waiting for another holder no longer than `patience`. Each holder has a name of its own, so that two
    /// requests of one gateway exclude each other as well.
    pub(super) async fn take(records: &R, ttl: Duration, patience: Duration) -> Result<Self, Problem> {
        let (owner, until) = (ids::generate(), Instant::now() + patience);
        loop {
            let lease = records.lease(keys::LOCK_PACKS, &owner, ttl).await.map_err(|error| of_store(&error))?;
            if lease.held {
                let renewing = tokio::spawn(renew(records.clone(), owner.clone(), ttl));
                return Ok(Self { records: records.clone(), owner, epoch: lease.epoch, ttl, renewing });
            }
            if Instant::now() >= until {
                let detail = "another pack is being installed or uninstalled";
                return Err(Problem::new(Code::PackBusy, detail).retry_after_ms(1000));
            }
            tokio::time::sleep(lease.remaining.min(PAUSE)).await;
        }
    }

    /// Holds as long as nobody else took the lease.
    pub(super) fn guard(&self) -> Guard {
        Guard::Epoch { lock: keys::LOCK_PACKS.to_owned(), epoch: self.epoch }
    }

    /// Renews the lease, or says that it is lost: asked before what no guard can stop.
    pub(super) async fn confirm(&self) -> Result<(), Stuck> {
        let lease = self.records.lease(keys::LOCK_PACKS, &self.owner, self.ttl).await?;
        if lease.held && lease.epoch == self.epoch { Ok(()) } else { Err(Stuck::Lost) }
    }

    /// Gives the lease back. If that fails it runs out.
    pub(super) async fn release(self) {
        self.renewing.abort();
        if let Err(error) = self.records.release(keys::LOCK_PACKS, &self.owner).await {
            tracing::debug!(%error, "the lease on packs runs out by itself");
        }
    }
}

async fn renew<R: Records>(records: R, owner: String, ttl: Duration) {
    loop {
        tokio::time::sleep(ttl / 3).await;
        // Whether it is still ours, the guard of the next commit tells.
        if let Err(error) = records.lease(keys::LOCK_PACKS, &owner, ttl).await {
            tracing::debug!(%error, "the lease on packs could not be renewed");
        }
    }
}
