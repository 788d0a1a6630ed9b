//! The scheduler: admits, decides, places, dispatches and finishes jobs.
//!
//! ```text
//!  gateway, engine, SDK ──busbar.scheduler.admit──▶┐                ┌──▶ busbar.worker.jobs.<id>, worker.<id>.jobs, job.<topic>
//!  bus clients ──────────sys.job.submit (stream)──▶│ listen, intake │──▶ sys.job.cancel                  (stop)
//!  workers ──────────────sys.job.result (stream)──▶│       │        │
//!  workers ──beats, heartbeats, progress──────────▶│       ▼        │
//!                                                  │   event loop   │
//!                                                  │ decide ▸ commit ▸ perform ▸ settle
//!                                                  │       │        │
//!                                                  └───────▼────────┘
//!                                             Redis: records, indexes, ev:jobs ──relay──▶ busbar.job.event, sys.job.result, sys.job.dlq
//! ```
//!
//! One replica of a cell is active, the others stand by for its lease. Whatever the active one writes carries its epoch, so that
//! a replica that was replaced while it slept can change nothing. Its memory is a copy of what it has committed; when a commit
//! does not go through as expected, the copy is thrown away and read again.
//!
//! What it tells of itself follows from facts that are durable: `observer` turns them into counts, spans and log lines.

mod active;
mod admission;
mod batches;
mod config;
pub mod core;
mod in_doubt;
mod input;
mod intake;
mod library;
mod listen;
mod meters;
mod objections;
mod observer;
mod office;
mod perform;
mod receipts;
mod redrive;
mod relay;
mod secrets;
mod service;
mod takeover;
mod tasks;
mod traces;
mod trust;
mod verify;
mod voice;

pub use config::SchedulerConfig;
pub use core::trust::Mode as TrustMode;
pub use service::{Ports, SchedulerError, run};
pub use voice::Voice;
