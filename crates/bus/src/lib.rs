//! NATS behind the [`Bus`](busbar_protocol::ports::Bus) port: publish, ask, listen, and the streams.
//!
//! ```text
//!  publish, request ──────────► one connection ──────► nats-server
//!  subscribe ── SUB, then a message to ourselves ────►   │   when it came back, the server knows of SUB
//!  consume ──── create, read back, compare ──────────►   │   JetStream
//!  pull ─────── "what you have, or the next" ────────►   │
//!       ◄────── messages, heartbeats, "that was all" ────┘
//!  settle ───── ACK, NAK, TERM ──────────────────────►
//! ```
//!
//! - The connection is made again for ever; [`NatsBus::connection`](busbar_protocol::ports::Bus::connection) tells of it.
//! - While it is away, `publish` and `settle` say so at once; `request` and `publish_durable` wait for it within their
//!   deadlines. So nothing that the caller gave up is sent later, except for what was already on its way.
//! - A round trip is a message that we send to ourselves: async-nats' `flush` only hands bytes to the socket.
//! - [`Bare`] is the client library without all this, for measurements.
//! - In a NATS cluster the round trip proves that the server we are connected to knows; its peers hear a moment later.

mod bare;
mod config;
mod connection;
mod consumer;
mod convert;
mod nats;
mod streams;

pub use bare::{Bare, BareListener};
pub use config::{BusConfig, Login, StreamLimits, Tls};
pub use connection::{ConnectError, NATS_MINIMUM};
pub use consumer::NatsConsumer;
pub use nats::NatsBus;
pub use streams::{CONSUMER, StreamState};
