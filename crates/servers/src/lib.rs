//! Finds, starts, watches and ends real `nats-server` and `redis-server` processes.
//!
//! `busbar dev` and every test that needs a server go through this crate, so that one place knows
//! how a server is found, when it is ready and how it ends:
//!
//! ```text
//!  Search ── finds ──► Binary ── Nats::start / Redis::start ──► keeper thread ── fork, exec ──► server
//!                                   │                               │  waits, reaps, starts again
//!                                   └── probe over TCP until a ─────┘
//!                                       round trip has happened
//! ```
//!
//! - A server listens on 127.0.0.1 only, in a folder of its own that also holds its log
//!   (`<program>.log`) and the id of its process (`<program>.pid`).
//! - A server dies with the process that started it, also when that process is killed.
//! - A later start in the same folder first ends a server that was left there, and refuses the
//!   folder while another living process holds it.
//! - Everything blocks and uses plain threads: the crate has no opinion on an async runtime.

mod companion;
mod error;
mod folder;
mod nats;
mod process;
mod redis;
mod search;
mod stack;

pub use companion::{Companion, CompanionOptions};
pub use error::{Error, Tried};
pub use nats::{Nats, NatsOptions};
pub use redis::{Durability, Redis, RedisOptions, free_port};
pub use search::{Binary, NATS_MINIMUM, REDIS_MINIMUM, Search, Version};
pub use stack::{Stack, StackOptions};
