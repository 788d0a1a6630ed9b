//! A stream of the model: a work queue, or a log that everyone reads from its start.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use busbar_protocol::ports::{Delivery, Message, Settlement};
use busbar_protocol::subjects::Stream;
use tokio::time::Instant;

/// How long a delivery waits for its settlement before it comes again.
pub(super) const ACK_WAIT: Duration = Duration::from_secs(30);

#[derive(Debug)]
struct Entry {
    message: Message,
    deliveries: u64,
    /// When it may be delivered (again).
    ready_at: Instant,
}

#[derive(Debug)]
pub(super) struct ModelStream {
    stream: Stream,
    entries: BTreeMap<u64, Entry>,
    ids: BTreeSet<String>,
    last: u64,
    /// The latest message that was delivered.
    latest: u64,
}

impl ModelStream {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, entries: BTreeMap::new(), ids: BTreeSet::new(), last: 0, latest: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn wipe(&mut self) {
        *self = Self::new(self.stream);
    }

    /// Whether a message with that id was stored before; remembers the id.
    pub(super) fn recognise(&mut self, id: &str) -> bool {
        !id.is_empty() && !self.ids.insert(id.to_owned())
    }

    pub(super) fn store(&mut self, message: Message, ready_at: Instant) {
        self.last += 1;
        self.entries.insert(self.last, Entry { message, deliveries: 0, ready_at });
    }

    /// The next message of a work queue that is ready, marked as delivered; and whether a later one went before it.
    pub(super) fn take(&mut self, now: Instant) -> Option<(u64, bool, Delivery)> {
        let (sequence, entry) = self.entries.iter_mut().find(|(_, entry)| entry.ready_at <= now)?;
        entry.ready_at = now + ACK_WAIT;
        let late = entry.deliveries == 0 && *sequence < self.latest;
        self.latest = self.latest.max(*sequence);
        Some((*sequence, late, deliver(self.stream, *sequence, entry)))
    }

    /// The same message again.
    pub(super) fn again(&mut self, sequence: u64) -> Option<Delivery> {
        let entry = self.entries.get_mut(&sequence)?;
        Some(deliver(self.stream, sequence, entry))
    }

    /// When the next message of a work queue gets ready.
    pub(super) fn ready_next(&self) -> Option<Instant> {
        self.entries.values().map(|entry| entry.ready_at).min()
    }

    /// The message of a kept stream after that one.
    pub(super) fn after(&self, sequence: u64) -> Option<(u64, Delivery)> {
        // A stream that was wiped counts from one again.
        let from = if sequence > self.last { 0 } else { sequence };
        let (sequence, entry) = self.entries.range(from + 1..).next()?;
        let token = token(self.stream, *sequence, 1);
        Some((*sequence, Delivery { message: entry.message.clone(), token, deliveries: 1 }))
    }

    pub(super) fn settle(&mut self, sequence: u64, settlement: Settlement, now: Instant) {
        if !self.stream.is_work_queue() {
            return;
        }
        match settlement {
            Settlement::Ack | Settlement::Term => {
                self.entries.remove(&sequence);
            }
            Settlement::Nak(delay) => {
                if let Some(entry) = self.entries.get_mut(&sequence) {
                    entry.ready_at = now + delay;
                }
            }
        }
    }
}

fn deliver(stream: Stream, sequence: u64, entry: &mut Entry) -> Delivery {
    entry.deliveries += 1;
    let token = token(stream, sequence, entry.deliveries);
    Delivery { message: entry.message.clone(), token, deliveries: entry.deliveries }
}

fn token(stream: Stream, sequence: u64, delivery: u64) -> String {
    format!("{}.{sequence}.{delivery}", stream.name())
}

/// The stream and the sequence that a token names.
pub(super) fn read_token(token: &str) -> Option<(Stream, u64)> {
    let mut parts = token.split('.');
    let name = parts.next()?;
    let stream = Stream::ALL.into_iter().find(|stream| stream.name() == name)?;
    Some((stream, parts.next()?.parse().ok()?))
}
