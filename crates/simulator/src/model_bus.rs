//! A bus without a network: the same port as NATS, in one thread, under seeded faults and paused time.
//!
//! ```text
//!  client "gateway-1" ─┐                      ┌─► subscriptions: may drop, duplicate, delay (and so reorder)
//!  client "worker-1"  ─┼─► one server, in ────┤
//!  client "sched-1"   ─┘   memory             └─► streams: what was acknowledged is kept until it is settled
//! ```
//!
//! - A client stands for one process. It can be disconnected, reconnected, and killed: a killed client's futures and
//!   subscriptions never finish, like those of a process that is gone, whether or not its tasks are ended.
//! - Streams exist from the start. They lose no acknowledged message, but acknowledgements, deliveries and settlements may
//!   get lost, and ids may be forgotten.
//! - Nothing here depends on threads, on the machine's time, or on chance other than the [`Chaos`] that it was given. Run it
//!   on a current-thread runtime with paused time, and with shells that use `select!` only with `biased`.

mod client;
mod server;
mod stream;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use busbar_protocol::ports::Subscription;
use busbar_protocol::subjects::Stream;

use crate::chaos::Chaos;
use crate::watch::Watch;
use server::Server;

pub use client::{ModelClient, ModelConsumer};

/// How unreliable the bus is; all zero is a perfect one. Chances are per thousand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BusFaults {
    /// Something sent does not arrive: a message at one of its subscribers, a publication at a stream, a delivery of a stream
    /// at its reader, a settlement.
    pub drop_per_mille: u32,
    /// Something arrives twice.
    pub duplicate_per_mille: u32,
    /// The longest time that something is under way; different times reorder.
    pub delay_ms_max: u64,
    /// A stream's word that it has stored a message gets lost.
    pub lose_ack_per_mille: u32,
    /// A stream has forgotten an id that it has seen.
    pub forget_id_per_mille: u32,
    /// A stream refuses a durable publication, as one that is full does.
    pub refuse_durable_per_mille: u32,
}

/// What happened on the bus so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BusCounters {
    /// Messages that reached the server.
    pub published: u64,
    /// Messages handed to subscriptions.
    pub delivered: u64,
    /// Messages, deliveries and settlements that were lost.
    pub dropped: u64,
    /// Messages and deliveries that arrived twice.
    pub duplicated: u64,
    /// Messages and settlements that arrived late.
    pub delayed: u64,
    /// Messages and first deliveries that arrived after one that was sent later.
    pub reordered: u64,
    /// Times that nobody listened where an answer was expected.
    pub no_responders: u64,
    /// Messages stored in streams.
    pub stored: u64,
    /// Durable publications that a stream recognised by their id.
    pub recognised: u64,
    /// Stored messages whose publisher was not told.
    pub acks_lost: u64,
    /// Deliveries of streams, repeated ones included.
    pub pulled: u64,
    /// Deliveries of streams that were not the first of their message.
    pub redelivered: u64,
    /// Settlements that arrived.
    pub settled: u64,
}

/// The bus as the simulation sees it. Clones are the same bus.
#[derive(Clone, Debug)]
pub struct ModelBus {
    server: Arc<Server>,
}

impl ModelBus {
    /// A bus without faults and without clients.
    #[must_use]
    pub fn new(chaos: Chaos) -> Self {
        Self { server: Arc::new(Server::new(chaos)) }
    }

    /// The bus as one simulated process sees it. The same name gives the same client until it is killed, then a new one.
    #[must_use]
    pub fn client(&self, name: &str) -> ModelClient {
        ModelClient::new(&self.server, name)
    }

    /// Lets somebody watch from now on.
    pub fn watch(&self, watcher: Arc<dyn Watch>) {
        self.server.watched.set(watcher);
    }

    /// From now on, this unreliable.
    pub fn set_faults(&self, faults: BusFaults) {
        self.server.lock().faults = faults;
    }

    /// How unreliable it is.
    #[must_use]
    pub fn faults(&self) -> BusFaults {
        self.server.lock().faults
    }

    /// Cuts a client off: what is under way to and from it is lost, and it knows.
    pub fn disconnect(&self, name: &str) {
        self.server.set_connected(|client| client == name, false);
    }

    /// Lets it in again, with the subscriptions it had.
    pub fn reconnect(&self, name: &str) {
        self.server.set_connected(|client| client == name, true);
    }

    /// Cuts everybody off, as a server that dies does; streams stay.
    pub fn disconnect_all(&self) {
        self.server.set_connected(|_| true, false);
    }

    /// Lets everybody in again.
    pub fn reconnect_all(&self) {
        self.server.set_connected(|_| true, true);
    }

    /// Ends a client for ever. What it had sent still arrives.
    pub fn kill(&self, name: &str) {
        self.server.kill(name);
    }

    /// Whether a client of that name lives and is connected.
    #[must_use]
    pub fn is_connected(&self, name: &str) -> bool {
        self.server.is_connected(name)
    }

    /// Everything that reaches the server on matching subjects, seen without faults: for the checks of a simulation.
    #[must_use]
    pub fn tap(&self, pattern: &str) -> Subscription {
        self.server.tap(pattern)
    }

    /// How many messages a stream holds.
    #[must_use]
    pub fn stream_len(&self, stream: Stream) -> usize {
        self.server.lock().stream(stream).len()
    }

    /// Empties a stream, as a server whose disk was lost does.
    pub fn wipe(&self, stream: Stream) {
        self.server.lock().stream(stream).wipe();
        self.server.notify();
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> BusCounters {
        self.server.lock().counters
    }
}
