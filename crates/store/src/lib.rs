//! Redis: units with guards, records, indexes, logs, leases and payloads.
//!
//! The one crate that speaks to Redis. [`Store`] implements the port [`busbar_protocol::ports::Records`]:
//!
//! ```text
//!  commit ─► encode ─► group (admit)   ─┐ one call at a time each,      ┌───────────────────────────────┐
//!  commit ─► encode ─► group (advance) ─┤ with what gathered meanwhile  │ redis-server                  │
//!  read ───────────► group (read)      ─┼─► lane ── one connection ───► │  function library busbar_v2:  │
//!  lease, index, log, time             ─┘   each, reconnecting          │  each unit atomic, answered   │
//!  read, very many ───► bulk ──────────────► lanes of their own ──────►  │                               │
//!  payloads ─────────────────────────────► lane ─────────────────────►  └───────────────────────────────┘
//! ```
//!
//! - A flush leaves as soon as the previous one returned, with everything that gathered meanwhile: no timer, no latency added
//!   when it is quiet, up to 256 units in a call when it is busy.
//! - Every call ends within [`StoreConfig::call_timeout`]. A lost connection is made again by itself, a lost function library
//!   is loaded again, and what can be repeated without harm is repeated until then.
//! - Repeated without harm is what puts a record: the library recognises the unit by it. Units without a record (counters,
//!   indexes or logs alone) are sent once; after [`busbar_protocol::ports::StoreError::Unavailable`] they may have been applied.
//! - [`Bare`] is the client library without all this, for measurements.
//! - Redis Cluster, replicas, servers older than 7.0, and servers that could lose work are refused at connect.

mod bare;
mod bulk;
mod config;
mod connect;
mod decode;
mod encode;
mod group;
mod lane;
mod library;
mod store;

pub use bare::Bare;
pub use config::StoreConfig;
pub use store::{Memory, Store};
