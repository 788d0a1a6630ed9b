//! The ports: what a shell may do to the world.
//!
//! Shells are generic over [`Bus`], [`Records`], [`Clock`] and, where they need judgement, [`Judge`]. Production gives them
//! NATS, Redis, the system's clock and a gRPC client; the simulator gives them seeded models of the same. A [`Tracer`] tells of
//! the way that a piece of work takes through all of them. What every shell does alike over its ports stands here, too:
//! [`commit_all`], and the [`Relay`] of a log with its [`LogTail`].

mod bus;
mod clock;
mod commit;
mod judge;
mod records;
mod relay;
mod spans;
mod tail;
mod units;

pub use bus::{
    Bus, BusError, Connection, Delivery, Headers, INCARNATION, Message, NOT_STORED, PullConsumer, Settlement, Subscription,
    TRACEPARENT,
};
pub use clock::{Clock, SystemClock};
pub use commit::{Answers, COMMIT_RETRY, Commits, commit_all};
pub use judge::{Judge, JudgeError, Question};
pub use records::{
    Answer, Beside, CommitClass, CommitId, Guard, IndexEntry, IndexRange, Lease, LogEntry, Records, StoreError, Stored,
    UNITS_MAX, Unit, Write,
};
pub use relay::{Relay, RelayError, RelayProgress, RelayedLog, Teller};
pub use spans::{Span, SpanKind, SpanSink, SpanValue, Tracer, ago};
pub use tail::{LogTail, appended};
pub use units::unit_fault;
