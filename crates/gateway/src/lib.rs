//! The gateway: the way in for clients and operators. It checks the form of what it is given, knows who calls, stores
//! payloads, and asks the services that decide; it decides nothing about jobs itself.
//!
//! HTTP (`routes`) and gRPC (`grpc`) are two ways to the same operations (`ops`).
//!
//! ```text
//!                        key ─► records (key:…)
//!  POST jobs ─► form ─► busbar.scheduler.admit, with the input; a large one ─► ctx:<job> before that ─► 202
//!  GET job ───► record of the job ◄─ woken by busbar.job.event        result ◄─ res:<job>:<n>, blobs
//!  Watch ─────► busbar.job.event, and ev:jobs where the bus left a gap
//!  GET jobs ──► busbar.scheduler.list (live) + job:recent:<tenant> (finished)
//!  GET stream ► hub ◄─ ev:jobs, ev:runs, packets of the bus
//!  POST runs ─► form ─► wf:in:<run> ─► busbar.engine.start ─► 202
//!  GET run ───► records of the run and its steps ◄─ woken by busbar.run.event
//!  artifacts ─► blobs + art:<id>
//!  packs ─────► blobs, cfg:pack:<id>, cfg:topics, busbar.kernel.publish, busbar.engine.define
//! ```
//!
//! The gateway keeps no state of its own besides caches: any number of them may run side by side.

mod admit;
mod app;
mod body;
mod config;
mod core;
mod error;
mod grpc;
mod keyring;
mod keys;
mod listener;
mod metrics;
mod openapi;
mod ops;
mod packs;
mod routes;
mod service;
mod stream;
mod sweep;
mod traces;
mod watch;

pub use crate::config::GatewayConfig;
pub use crate::core::role::Role;
pub use crate::keyring::{
    BOOTSTRAP_KEY, KEY_CHARS_MIN, KeptKey, NewKey, RevokeError, create_key, install_key, list_keys, revoke_key,
};
pub use crate::service::{Gateway, GatewayError, Grpc, Kit, Listeners};
pub use crate::sweep::{SweepError, sweep};
