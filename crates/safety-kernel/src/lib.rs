//! The safety kernel: decides whether a job may run, and publishes the rules by which it decides.
//!
//! ```text
//!  policy file ─┐                                      scheduler, CAP clients
//!               ├─► load ─► Snapshot ─► gRPC CheckBatch, Check, Evaluate, Explain, Simulate, ListSnapshots
//!  Redis ───────┘              ▲ │
//!    policy:bundle:<id>        │ └────► `busbar.kernel.snapshot` (we decide under a new snapshot from now on)
//!        ▲                     │
//!        └── commit ◄── validate ◄── `busbar.kernel.publish`: publish, check, remove (gateway)
//! ```
//!
//! - A bundle is validated before it is committed: a bad one is refused whole, and the last good snapshot stays.
//! - Every replica decides by itself; replicas agree because a snapshot is a function of what Redis and the policy file hold. One
//!   that hears of another's snapshot, reconnects, or has waited long enough reads the records again.
//! - Nothing here answers "allow" because something failed: without a snapshot there is no server, and whoever asks waits.
//! - Absent on purpose: an allow-all when the policy file is missing. A file that is named and not there is an error.

pub mod config;
pub mod core;
pub mod local;
pub mod perform;
pub mod service;

mod server;

pub use config::KernelConfig;
pub use local::{LocalKernel, Seat, local};
pub use perform::LoadError;
pub use service::{Asked, KernelError, run};
