//! The ports: what a shell may do to the world.
//!
//! Shells are generic over [`Bus`], [`Records`], [`Clock`] and, where they need judgement, [`Judge`]. Production gives them
//! NATS, Redis, the system's clock and a gRPC client; the simulator gives them seeded models of the same.

mod bus;
mod clock;
mod judge;
mod records;
mod units;

pub use bus::{Bus, BusError, Connection, Delivery, Headers, Message, PullConsumer, Settlement, Subscription, TRACEPARENT};
pub use clock::{Clock, SystemClock};
pub use judge::{Judge, JudgeError};
pub use records::{
    Answer, CommitClass, CommitId, Guard, IndexEntry, IndexRange, Lease, LogEntry, Records, StoreError, Stored, UNITS_MAX, Unit,
    Write,
};
pub use units::unit_fault;
