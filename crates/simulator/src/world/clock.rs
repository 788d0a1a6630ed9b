//! The clocks of the simulation: the true one, and those of processes, which may be wrong and may jump.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use busbar_protocol::ports::Clock;
use busbar_protocol::time::Timestamp;
use tokio::time::Instant;

use super::START;

/// The virtual clock.
#[derive(Clone, Copy, Debug)]
pub struct SimClock {
    since: Instant,
}

impl SimClock {
    /// A clock that starts now.
    #[must_use]
    pub(super) fn start() -> Self {
        Self { since: Instant::now() }
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        START.after(self.since.elapsed())
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

/// The clock of one process. Between two processes time may go in either direction; within one it only leaps ahead, as the port
/// promises.
#[derive(Clone, Debug)]
pub(crate) struct ProcessClock {
    truth: SimClock,
    ahead_ms: Arc<AtomicI64>,
}

impl ProcessClock {
    /// A clock that is so many milliseconds ahead of the truth.
    pub(crate) fn new(truth: SimClock, ahead_ms: i64) -> Self {
        Self { truth, ahead_ms: Arc::new(AtomicI64::new(ahead_ms)) }
    }

    /// Leaps ahead, to no more than so far ahead of the truth.
    pub(crate) fn leap(&self, ms: u64, ahead_ms_max: u64) {
        let signed = |ms: u64| i64::try_from(ms).unwrap_or(0);
        let ahead = self.ahead_ms.load(Ordering::Relaxed);
        self.ahead_ms.store((ahead + signed(ms)).min(signed(ahead_ms_max)).max(ahead), Ordering::Relaxed);
    }
}

impl Clock for ProcessClock {
    fn now(&self) -> Timestamp {
        let ahead = self.ahead_ms.load(Ordering::Relaxed);
        Timestamp::from_millis(self.truth.now().millis().saturating_add_signed(ahead))
    }

    async fn sleep(&self, duration: Duration) {
        self.truth.sleep(duration).await;
    }
}
