//! The HTTP gateway: the way in for clients and operators. It checks the form of what it is given, knows who calls, stores
//! payloads, and asks the services that decide; it decides nothing about jobs itself.
//!
//! ```text
//!                        key ─► records (key:…)
//!  POST jobs ─► form ─► ctx:<job> ─► busbar.scheduler.admit ─► 202
//!  GET job ───► record of the job ◄─ woken by busbar.job.event        result ◄─ res:<job>:<n>, blobs
//!  GET jobs ──► busbar.scheduler.list (live) + job:recent:<tenant> (finished)
//!  artifacts ─► blobs + art:<id>
//!  at start ──► packs ─► blobs, cfg:topics, busbar.kernel.publish
//! ```
//!
//! The gateway keeps no state of its own besides caches: any number of them may run side by side.

mod admit;
mod app;
mod body;
mod config;
mod core;
mod error;
mod keys;
mod metrics;
mod packs;
mod routes;
mod service;
mod watch;

pub use crate::config::GatewayConfig;
pub use crate::core::pack::Broken;
pub use crate::core::role::Role;
pub use crate::keys::{NewKey, create_key, install_key};
pub use crate::packs::{Pack, PackError, load_packs, publish_policies};
pub use crate::service::{Gateway, GatewayError, Kit};
