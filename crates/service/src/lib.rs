//! The process kit: what every service does in the same way. The list of modules is closed.
//!
//! - [`config`]: typed configuration from defaults, a file, the environment and flags.
//! - [`telemetry`]: log lines, metrics, and spans.
//! - [`clock`]: the time.
//! - [`runtime`]: the threads on which everything runs.
//! - [`tasks`]: named tasks; when one ends that should not, the whole service ends, with the reason.
//! - [`health`]: `/healthz`, `/readyz` and `/metrics`.
//! - [`shutdown`]: the word that it is time to end.
//!
//! ```text
//!  main: config::load ─► telemetry::init ─► Shutdown::on_signals ─► TaskSet::spawn(…) ─► TaskSet::join
//!                                                  │                     ▲
//!                         SIGTERM, Ctrl-C ─────────┘    a task ended ────┘ triggers the same shutdown
//! ```

pub mod clock;
pub mod config;
pub mod health;
pub mod runtime;
pub mod shutdown;
pub mod tasks;
pub mod telemetry;

pub use config::Secret;
pub use health::{HealthServer, Readiness};
pub use shutdown::Shutdown;
pub use tasks::{TaskError, TaskSet};
pub use telemetry::{Metrics, Telemetry};
