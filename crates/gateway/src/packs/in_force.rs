//! Waits until the scheduler works with the topics that stand in the store.
//!
//! ```text
//!  cfg:topics written ─► busbar.scheduler.workers ─► read cfg:topics ─► the same commit? ─► the answer
//!                                  ▲                                          │ no
//!                                  └────────────── a little later ◄───────────┘
//! ```
//!
//! A scheduler reads the topics anew when it hears that they changed. Without this wait, whoever installs a pack and submits to it
//! at once would be told `unknown_topic` now and then.

use std::time::Duration;

use busbar_protocol::busbar::{WorkersReply, WorkersRequest};
use busbar_protocol::ports::{Bus, Records};
use busbar_protocol::subjects;

use super::{World, records};
use crate::app::ask;

/// How long the scheduler has. What is installed stays installed: it is in force as soon as a scheduler is there.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long one answer may take: it may be lost with a scheduler that is being replaced.
const ONE_ANSWER: Duration = Duration::from_secs(1);
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(200);

impl<B: Bus, R: Records> World<B, R> {
    /// Waits until the scheduler has in force what stands in `cfg:topics`, but not for ever: that it is away or slow is no reason
    /// to call a finished installation a failure.
    pub(super) async fn await_in_force(&self, pack_id: &str) {
        if tokio::time::timeout(PATIENCE, self.until_in_force()).await.is_err() {
            let waited = PATIENCE.as_millis();
            tracing::warn!(pack = pack_id, waited_ms = waited, "the scheduler does not say that the changed topics are in force");
        }
    }

    async fn until_in_force(&self) {
        let mut pause = PAUSE_MIN;
        while !self.is_in_force().await {
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(PAUSE_MAX);
        }
    }

    /// The record is read after the answer has come, since another installation may write it in between: where both agree, the
    /// answer told of a record that already had our change.
    async fn is_in_force(&self) -> bool {
        let asked = ask::<_, _, WorkersReply>(&self.bus, subjects::SCHEDULER_WORKERS, &WorkersRequest {}, ONE_ANSWER).await;
        let Some(scheduler) = asked.ok().and_then(|reply| reply.scheduler) else { return false };
        records::topics_commit(&self.records).await.is_ok_and(|standing| scheduler.topics_commit == standing)
    }
}
