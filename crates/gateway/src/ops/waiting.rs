//! Waiting for the end of a job or of a run: the record is read again when an event, or the time, says so.

use std::time::Duration;

use busbar_api::Problem;
use busbar_protocol::codes::Code;
use busbar_service::Shutdown;
use tokio::time::Instant;

use crate::watch::Waiter;

/// A lost event costs a waiter no more than this.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// A store that is away comes back soon: a call that waits anyway looks again after this.
pub(crate) const STORE_PAUSE: Duration = Duration::from_millis(200);

/// One call that waits.
pub(crate) struct Waiting<'a> {
    waiter: Waiter,
    until: Instant,
    shutdown: &'a Shutdown,
}

impl<'a> Waiting<'a> {
    /// Register the waiter before the first look, so that nothing is missed in between.
    pub(crate) fn new(waiter: Waiter, patience: Duration, shutdown: &'a Shutdown) -> Self {
        Self { waiter, until: Instant::now() + patience, shutdown }
    }

    /// Where the result stands, as far as an event has told; empty before.
    pub(crate) fn told(&self) -> String {
        self.waiter.told()
    }

    /// Returns true when it is time to look again, and false when what was seen is the answer.
    pub(crate) async fn again<T>(&mut self, seen: &Result<T, Problem>, has_ended: impl Fn(&T) -> bool) -> bool {
        let over = Instant::now() >= self.until || self.shutdown.is_triggered();
        let pause = match seen {
            Ok(record) if over || has_ended(record) => return false,
            Ok(_) => LOOK_AGAIN,
            Err(problem) if !over && problem.code == Code::StoreUnavailable.as_str() => STORE_PAUSE,
            Err(_) => return false,
        };
        self.pause(pause).await;
        true
    }

    /// Returns when something may be there to look at, or when it is time to look anyway.
    pub(crate) async fn news(&mut self) {
        self.pause(LOOK_AGAIN).await;
    }

    async fn pause(&mut self, pause: Duration) {
        tokio::select! {
            () = self.waiter.woken() => {}
            () = tokio::time::sleep_until(self.until.min(Instant::now() + pause)) => {}
            () = self.shutdown.triggered() => {}
        }
    }
}
