//! Reading a stream: pull requests on one subscription, so that what arrives while nobody waits for it is not lost.
//!
//! A request asks for "what you have, or else the next within a few seconds"; the server answers with messages and ends with a
//! status. While it waits it sends heartbeats. A request without heartbeats, on a connection that is gone, or for a consumer
//! that does not exist is forgotten, the consumer looked at and made again if need be, and the request repeated.

use std::collections::VecDeque;
use std::time::Duration;

use async_nats::Subscriber;
use async_nats::jetstream;
use busbar_protocol::ports::{Bus, BusError, Connection, Delivery, PullConsumer, Settlement};
use busbar_protocol::subjects::Stream;
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use tokio::sync::watch;
use tokio::task::unconstrained;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::convert::{self, unavailable};
use crate::nats::NatsBus;
use crate::streams::{self, CONSUMER};

/// The bounds of how long one request waits at the server: short, so that one the server forgot is soon repeated.
const EXPIRES_MIN: Duration = Duration::from_secs(1);
const EXPIRES_MAX: Duration = Duration::from_secs(5);
/// How long after its end a request without word from the server is given up.
const OVERDUE: Duration = Duration::from_millis(500);
/// How long to wait for the rest of a batch whose first message is here.
const GATHER: Duration = Duration::from_millis(5);
/// How long nothing may come before the server is asked whether there is something.
const QUIET: Duration = Duration::from_secs(10);
/// The pauses between attempts to repair.
const REPAIR_PAUSE_MIN: Duration = Duration::from_millis(50);
const REPAIR_PAUSE_MAX: Duration = Duration::from_secs(2);

/// Reads one stream. What it holds when it is dropped goes back to the stream.
#[derive(Debug)]
pub struct NatsConsumer {
    bus: NatsBus,
    stream: Stream,
    inbox: String,
    arriving: Subscriber,
    connection: watch::Receiver<Connection>,
    arrived: VecDeque<Delivery>,
    open: Option<Request>,
    requests: u64,
    source: Source,
    /// The connection under which the consumer was last seen on the server.
    seen: Option<u64>,
    quiet_since: Instant,
    suspicion: Suspicion,
}

/// What on the server the messages come from.
#[derive(Debug)]
enum Source {
    /// The durable consumer of a work queue, shared by all who read it.
    Queue,
    /// A reader of our own, which begins at the start of the stream and gets every message once and in order.
    Reader(Reader),
}

#[derive(Debug, Default)]
struct Reader {
    name: String,
    /// The last message that was read.
    stream_sequence: u64,
    /// How many messages this reader has sent.
    consumer_sequence: u64,
}

/// A pull request that the server works on.
#[derive(Debug)]
struct Request {
    inbox: String,
    left: usize,
    generation: u64,
    /// When it will be given up without further word.
    until: Instant,
    heartbeat: Duration,
    ends: Instant,
}

impl Request {
    fn heard(&mut self, now: Instant) {
        self.until = (now + self.heartbeat * 2 + OVERDUE).min(self.ends);
    }
}

/// Whether the server withholds messages, which has happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Suspicion {
    #[default]
    None,
    /// There was something to deliver and nothing came, once.
    Raised,
}

/// What follows from a look at a quiet consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finding {
    Innocent,
    Suspicious,
    Stuck,
}

fn judge(before: Suspicion, pending: u64, unsettled: u64, unsettled_max: u64, paused: bool) -> Finding {
    let should_deliver = pending > 0 && unsettled < unsettled_max && !paused;
    match (should_deliver, before) {
        (false, _) => Finding::Innocent,
        (true, Suspicion::None) => Finding::Suspicious,
        (true, Suspicion::Raised) => Finding::Stuck,
    }
}

impl NatsConsumer {
    pub(crate) async fn open(bus: NatsBus, stream: Stream) -> Result<Self, BusError> {
        let inbox = bus.inbox();
        let arriving = bus.listen(&format!("{inbox}.*"), None).await?;
        let source = if stream.is_work_queue() { Source::Queue } else { Source::Reader(Reader::default()) };
        let mut consumer = Self {
            connection: bus.connection(),
            bus,
            stream,
            inbox,
            arriving,
            arrived: VecDeque::new(),
            open: None,
            requests: 0,
            source,
            seen: None,
            quiet_since: Instant::now(),
            suspicion: Suspicion::None,
        };
        consumer.prepare().await?;
        Ok(consumer)
    }

    /// Makes sure that stream and consumer are there.
    async fn prepare(&mut self) -> Result<(), BusError> {
        let generation = self.bus.generation();
        if self.seen == Some(generation) {
            return Ok(());
        }
        let info = streams::ensure(self.bus.context(), self.bus.limits(), self.stream).await?;
        match &mut self.source {
            Source::Queue => streams::ensure_consumer(self.bus.context(), self.bus.limits(), self.stream).await?,
            Source::Reader(reader) => {
                if info.state.last_sequence < reader.stream_sequence {
                    tracing::warn!(stream = self.stream.name(), "the stream was made anew: read from its start");
                    reader.stream_sequence = 0;
                }
                reader.name = streams::open_reader(self.bus.context(), self.stream, reader.stream_sequence + 1).await?;
                reader.consumer_sequence = 0;
            }
        }
        self.seen = Some(generation);
        Ok(())
    }

    /// Has a request under way, of the connection that is.
    async fn ask(&mut self, max: usize, wait: Duration, deadline: Instant) -> Result<(), BusError> {
        let generation = self.bus.generation();
        if self.open.as_ref().is_some_and(|open| open.generation != generation || open.until <= Instant::now()) {
            self.forget_request();
        }
        if self.open.is_some() {
            return Ok(());
        }
        self.bus.until_connected(deadline).await?;
        self.prepare().await?;
        self.watch_over().await?;
        self.requests += 1;
        let expires = wait.clamp(EXPIRES_MIN, EXPIRES_MAX);
        let heartbeat = expires / 3;
        let inbox = format!("{}.{}", self.inbox, self.requests);
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", self.stream.name(), self.name());
        let body = format!(
            r#"{{"batch":{max},"no_wait":true,"expires":{},"idle_heartbeat":{}}}"#,
            expires.as_nanos(),
            heartbeat.as_nanos()
        );
        let now = Instant::now();
        let mut request = Request { inbox, left: max, generation, until: now, heartbeat, ends: now + expires + OVERDUE };
        request.heard(now);
        self.bus.publish_with_reply(&subject, &request.inbox, [].into(), Bytes::from(body)).await?;
        self.open = Some(request);
        Ok(())
    }

    fn name(&self) -> &str {
        match &self.source {
            Source::Queue => CONSUMER,
            Source::Reader(reader) => &reader.name,
        }
    }

    /// Gives a request up that the server seems to have forgotten, and looks at the consumer before the next one.
    fn forget_request(&mut self) {
        self.open = None;
        self.seen = None;
    }

    /// Asks the server about a consumer that has been quiet for long, and makes it anew when it is stuck.
    async fn watch_over(&mut self) -> Result<(), BusError> {
        if self.quiet_since.elapsed() < QUIET {
            return Ok(());
        }
        self.quiet_since = Instant::now();
        let Some(info) = streams::consumer_info(self.bus.context(), self.stream, self.name()).await? else {
            self.seen = None;
            return self.prepare().await;
        };
        let unsettled_max = u64::try_from(info.config.max_ack_pending).unwrap_or(u64::MAX);
        let unsettled = info.num_ack_pending as u64;
        match judge(self.suspicion, info.num_pending, unsettled, unsettled_max, info.paused) {
            Finding::Innocent => self.suspicion = Suspicion::None,
            Finding::Suspicious => self.suspicion = Suspicion::Raised,
            Finding::Stuck => {
                tracing::warn!(stream = self.stream.name(), pending = info.num_pending, "consumer is stuck and is made anew");
                streams::delete_consumer(self.bus.context(), self.stream, self.name()).await;
                self.suspicion = Suspicion::None;
                self.seen = None;
                return self.prepare().await;
            }
        }
        Ok(())
    }

    /// Waits for a message, the end of a request, a new connection, or the time.
    async fn wait_for_news(&mut self, deadline: Instant) -> Result<(), BusError> {
        let until = self.open.as_ref().map_or(deadline, |open| open.until.min(deadline));
        tokio::select! {
            biased;
            message = self.arriving.next() => match message {
                Some(message) => self.absorb(message),
                None => return Err(unavailable("the bus was closed")),
            },
            changed = self.connection.changed() => changed.map_err(|_| unavailable("the bus was closed"))?,
            () = sleep_until(until) => {}
        }
        Ok(())
    }

    /// Takes in what has arrived, without waiting.
    fn take_in(&mut self) {
        // Unconstrained, or else tokio would say after 128 messages that there are no more.
        while let Some(Some(message)) = unconstrained(self.arriving.next()).now_or_never() {
            self.absorb(message);
        }
    }

    /// Waits a moment for the rest of the batch.
    async fn gather(&mut self, max: usize) {
        let until = Instant::now() + GATHER;
        while self.arrived.len() < max && self.open.is_some() {
            match timeout_at(until, self.arriving.next()).await {
                Ok(Some(message)) => self.absorb(message),
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn absorb(&mut self, message: async_nats::Message) {
        let now = Instant::now();
        let Some(status) = message.status else {
            self.count_one(now);
            return self.deliver(message);
        };
        // Only a status names the request that it belongs to.
        let Some(open) = self.open.as_mut().filter(|open| open.inbox == *message.subject) else {
            return;
        };
        match status.as_u16() {
            100 => open.heard(now),
            // All was delivered, or nothing came in time.
            404 | 408 => self.open = None,
            code => {
                let detail = message.description.as_deref().unwrap_or_default();
                tracing::debug!(stream = self.stream.name(), code, detail, "pull request ended by the server");
                self.forget_request();
            }
        }
    }

    fn count_one(&mut self, now: Instant) {
        if let Some(open) = &mut self.open {
            open.heard(now);
            open.left = open.left.saturating_sub(1);
            if open.left == 0 {
                self.open = None;
            }
        }
    }

    fn deliver(&mut self, message: async_nats::Message) {
        let Some((token, place)) = place(&message, self.bus.context()) else {
            tracing::warn!(stream = self.stream.name(), "message without a place in the stream left out");
            return;
        };
        if let Source::Reader(reader) = &mut self.source {
            if place.consumer != reader.name {
                return;
            }
            if place.consumer_sequence != reader.consumer_sequence + 1 {
                tracing::debug!(stream = self.stream.name(), "gap: read again from the last message");
                return self.forget_request();
            }
            reader.consumer_sequence = place.consumer_sequence;
            reader.stream_sequence = place.stream_sequence;
        }
        self.quiet_since = Instant::now();
        self.suspicion = Suspicion::None;
        let mut message = convert::message(message);
        // An answer to the stream's own subject would count as a settlement.
        message.reply = None;
        self.arrived.push_back(Delivery { message, token, deliveries: place.deliveries });
    }

    fn take(&mut self, max: usize) -> Vec<Delivery> {
        let count = self.arrived.len().min(max);
        self.arrived.drain(..count).collect()
    }
}

/// Where in the stream a message stands.
struct Place {
    consumer: String,
    stream_sequence: u64,
    consumer_sequence: u64,
    deliveries: u64,
}

fn place(message: &async_nats::Message, context: &jetstream::Context) -> Option<(String, Place)> {
    let token = message.reply.as_ref()?.to_string();
    let message = jetstream::Message { message: message.clone(), context: context.clone() };
    let info = message.info().ok()?;
    let place = Place {
        consumer: info.consumer.to_owned(),
        stream_sequence: info.stream_sequence,
        consumer_sequence: info.consumer_sequence,
        deliveries: u64::try_from(info.delivered).unwrap_or(1),
    };
    Some((token, place))
}

impl PullConsumer for NatsConsumer {
    /// Cancel safe: what has arrived stays here for the next call.
    async fn pull(&mut self, max: usize, wait: Duration) -> Result<Vec<Delivery>, BusError> {
        let max = max.max(1);
        let deadline = Instant::now() + wait;
        let mut pause = REPAIR_PAUSE_MIN;
        loop {
            self.take_in();
            if !self.arrived.is_empty() {
                self.gather(max).await;
                return Ok(self.take(max));
            }
            let asked = self.ask(max, wait, deadline).await;
            if Instant::now() >= deadline {
                return asked.map(|()| Vec::new());
            }
            match asked {
                Ok(()) => self.wait_for_news(deadline).await?,
                Err(error) => {
                    tracing::debug!(stream = self.stream.name(), %error, "stream can not be read, repairing");
                    sleep_until(deadline.min(Instant::now() + pause)).await;
                    pause = (pause * 2).min(REPAIR_PAUSE_MAX);
                }
            }
        }
    }
}

impl Drop for NatsConsumer {
    fn drop(&mut self) {
        self.take_in();
        let held: Vec<Delivery> = self.arrived.drain(..).collect();
        if held.is_empty() || !self.stream.is_work_queue() {
            return;
        }
        // Without a runtime they come again after the acknowledgement time, as after a kill.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let bus = self.bus.clone();
            runtime.spawn(async move {
                for delivery in &held {
                    if bus.settle(delivery, Settlement::Nak(Duration::ZERO)).await.is_err() {
                        return;
                    }
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consumer_is_stuck_when_it_withholds_twice() {
        assert_eq!(judge(Suspicion::None, 0, 0, 10, false), Finding::Innocent);
        assert_eq!(judge(Suspicion::None, 5, 0, 10, false), Finding::Suspicious);
        assert_eq!(judge(Suspicion::Raised, 5, 0, 10, false), Finding::Stuck);
        assert_eq!(judge(Suspicion::Raised, 5, 10, 10, false), Finding::Innocent, "all that may be unsettled is");
        assert_eq!(judge(Suspicion::Raised, 5, 0, 10, true), Finding::Innocent, "an operator paused it");
    }
}
