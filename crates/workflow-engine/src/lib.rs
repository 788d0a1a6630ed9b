//! The workflow engine: keeps workflows, and carries their runs from step to step.
//!
//! ```text
//!  gateway ──busbar.engine.define, remove──▶┐                 ┌──▶ ctx:<job>, busbar.scheduler.admit   (jobs of steps)
//!  gateway ──busbar.engine.start, cancel,…─▶│ listen, prepare │──▶ busbar.scheduler.cancel
//!  scheduler ──busbar.job.event────────────▶│        │        │
//!                                           │        ▼        │
//!                                           │   event loop    │
//!                                           │ decide ▸ commit ▸ perform
//!                                           │        │        │
//!                                           └────────▼────────┘
//!                       Redis: definitions, runs, steps, outputs, ev:runs ──relay──▶ busbar.run.event
//! ```
//!
//! One replica of a cell is active, the others stand by for its lease; whatever the active one writes carries its epoch. Its
//! memory is a copy of what it has committed. The jobs of steps have names that follow from run, step and attempt, so that a
//! submission that is repeated is the same job. Events about jobs are hints: what counts is the job's record, which is also
//! looked at now and then. Recovery is that look.

mod active;
mod config;
pub mod core;
mod input;
mod janitor;
mod jobs;
mod library;
mod listen;
mod meters;
mod office;
mod perform;
mod relay;
mod service;
mod starts;
mod takeover;

pub use config::EngineConfig;
pub use service::{EngineError, Ports, run};
