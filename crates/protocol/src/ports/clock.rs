//! Time as a port.

use std::future::Future;
use std::time::{Duration, Instant};

use crate::time::Timestamp;

/// Tells the time and waits.
pub trait Clock: Clone + Send + Sync + 'static {
    /// The present. Never goes backwards within one process.
    fn now(&self) -> Timestamp;

    /// Waits.
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send;
}

/// The machine's clock, read once: afterwards time passes monotonically, so that a clock that is set while we run neither
/// ends leases early nor keeps deadlines from coming.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    anchor: Timestamp,
    since: Instant,
}

impl SystemClock {
    /// A clock that starts from the machine's time.
    #[must_use]
    pub fn start() -> Self {
        Self::anchored(Timestamp::wall_clock())
    }

    /// A clock that starts from a time that somebody else told, for example Redis.
    #[must_use]
    pub fn anchored(anchor: Timestamp) -> Self {
        Self { anchor, since: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        self.anchor.after(self.since.elapsed())
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}
