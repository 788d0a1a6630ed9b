//! The server of the model: who is connected, who listens, what is under way.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use busbar_protocol::ports::{BusError, Connection, Delivery, Message, NOT_STORED, Settlement, Subscription};
use busbar_protocol::subjects::Stream;
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use super::stream::{ModelStream, read_token};
use super::{BusCounters, BusFaults};
use crate::chaos::Chaos;
use crate::watch::Watched;

/// One life of a client.
pub(super) type ClientId = u64;

#[derive(Debug)]
pub(super) struct Server {
    pub(super) chaos: Chaos,
    pub(super) watched: Watched,
    state: Mutex<State>,
    /// Told when a stream, a connection or a life changes.
    changed: Notify,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) faults: BusFaults,
    pub(super) counters: BusCounters,
    clients: BTreeMap<ClientId, Client>,
    listeners: BTreeMap<u64, Listener>,
    taps: Vec<(String, mpsc::UnboundedSender<Message>)>,
    streams: BTreeMap<Stream, ModelStream>,
    next_id: u64,
}

#[derive(Debug)]
struct Client {
    name: String,
    alive: bool,
    connection: watch::Sender<Connection>,
}

#[derive(Debug)]
struct Listener {
    client: ClientId,
    pattern: String,
    queue: Option<String>,
    sender: mpsc::UnboundedSender<Message>,
    /// The number of the latest message that it got.
    latest: u64,
}

impl State {
    pub(super) fn stream(&mut self, stream: Stream) -> &mut ModelStream {
        self.streams.entry(stream).or_insert_with(|| ModelStream::new(stream))
    }

    pub(super) fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn connected(&self, id: ClientId) -> bool {
        self.clients.get(&id).is_some_and(|client| client.alive && client.connection.borrow().connected)
    }

    /// Who gets a message: every listener without a group, and one of each group.
    fn receivers(&self, chaos: &Chaos, subject: &str) -> Vec<u64> {
        let mut receivers = Vec::new();
        let mut groups: BTreeMap<(&str, &str), Vec<u64>> = BTreeMap::new();
        let hearing = |listener: &&Listener| self.connected(listener.client) && matches(&listener.pattern, subject);
        for (id, listener) in self.listeners.iter().filter(|(_, listener)| hearing(listener)) {
            match &listener.queue {
                None => receivers.push(*id),
                Some(queue) => groups.entry((&listener.pattern, queue)).or_default().push(*id),
            }
        }
        for members in groups.values() {
            let chosen = chaos.below(members.len() as u64);
            receivers.extend(usize::try_from(chosen).ok().and_then(|chosen| members.get(chosen)));
        }
        receivers
    }

    /// Gives a listener a message, the `number`-th of all.
    fn hand_over(&mut self, listener: u64, number: u64, message: Message) {
        let reached = self.listeners.get(&listener).filter(|found| self.connected(found.client));
        match reached.map(|found| found.sender.send(message)) {
            Some(Ok(())) => self.counters.delivered += 1,
            Some(Err(_)) | None => self.counters.dropped += 1,
        }
        if let Some(found) = self.listeners.get_mut(&listener) {
            self.counters.reordered += u64::from(number < found.latest);
            found.latest = found.latest.max(number);
        }
    }
}

impl Server {
    pub(super) fn new(chaos: Chaos) -> Self {
        let state = State {
            faults: BusFaults::default(),
            counters: BusCounters::default(),
            clients: BTreeMap::new(),
            listeners: BTreeMap::new(),
            taps: Vec::new(),
            streams: BTreeMap::new(),
            next_id: 0,
        };
        Self { chaos, watched: Watched::default(), state: Mutex::new(state), changed: Notify::new() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn notify(&self) {
        self.changed.notify_waiters();
    }

    /// Resolves at the next change after this call, even if it is awaited only later.
    pub(super) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }

    /// The client of that name that lives, or a new one.
    pub(super) fn admit(&self, name: &str) -> (ClientId, watch::Receiver<Connection>) {
        let mut state = self.lock();
        let living = state.clients.iter().find(|(_, client)| client.alive && client.name == name);
        if let Some((id, client)) = living {
            return (*id, client.connection.subscribe());
        }
        let id = state.fresh_id();
        let connection = watch::Sender::new(Connection { connected: true, generation: 1 });
        let receiver = connection.subscribe();
        state.clients.insert(id, Client { name: name.to_owned(), alive: true, connection });
        (id, receiver)
    }

    pub(super) fn set_connected(&self, whom: impl Fn(&str) -> bool, connected: bool) {
        let state = self.lock();
        for client in state.clients.values().filter(|client| client.alive && whom(&client.name)) {
            client.connection.send_if_modified(|now| {
                let changes = now.connected != connected;
                now.connected = connected;
                now.generation += u64::from(changes && connected);
                changes
            });
        }
        drop(state);
        self.notify();
    }

    pub(super) fn kill(&self, name: &str) {
        let mut state = self.lock();
        let mut killed = Vec::new();
        for (id, client) in state.clients.iter_mut().filter(|(_, client)| client.alive && client.name == name) {
            client.alive = false;
            killed.push(*id);
        }
        state.listeners.retain(|_, listener| !killed.contains(&listener.client));
        drop(state);
        self.notify();
    }

    pub(super) fn is_alive(&self, id: ClientId) -> bool {
        self.lock().clients.get(&id).is_some_and(|client| client.alive)
    }

    pub(super) fn connected(&self, id: ClientId) -> bool {
        self.lock().connected(id)
    }

    pub(super) fn is_connected(&self, name: &str) -> bool {
        let state = self.lock();
        state.clients.iter().any(|(id, client)| client.name == name && state.connected(*id))
    }

    pub(super) fn listen(self: &Arc<Self>, client: ClientId, pattern: &str, queue: Option<&str>) -> Listening {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut state = self.lock();
        let id = state.fresh_id();
        let queue = queue.map(str::to_owned);
        state.listeners.insert(id, Listener { client, pattern: pattern.to_owned(), queue, sender, latest: 0 });
        drop(state);
        Listening { server: Arc::clone(self), client, id, receiver }
    }

    pub(super) fn tap(&self, pattern: &str) -> Subscription {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.lock().taps.push((pattern.to_owned(), sender));
        futures::stream::unfold(receiver, |mut receiver| async move {
            let message = receiver.recv().await?;
            Some((message, receiver))
        })
        .boxed()
    }

    /// How long something is under way.
    pub(super) fn delay(&self) -> Duration {
        let longest = self.lock().faults.delay_ms_max;
        if longest == 0 {
            return Duration::ZERO;
        }
        let delay = Duration::from_millis(self.chaos.below(longest + 1));
        self.lock().counters.delayed += u64::from(!delay.is_zero());
        delay
    }

    /// Whether something sent gets lost.
    pub(super) fn loses(&self) -> bool {
        let mut state = self.lock();
        let lost = self.chaos.chance(state.faults.drop_per_mille);
        state.counters.dropped += u64::from(lost);
        lost
    }

    fn duplicates(&self) -> bool {
        let mut state = self.lock();
        let twice = self.chaos.chance(state.faults.duplicate_per_mille);
        state.counters.duplicated += u64::from(twice);
        twice
    }

    /// A message has reached the server without a promise: listeners and the stream get it, or not.
    pub(super) fn publish(self: &Arc<Self>, message: &Message) {
        let listened = self.spread(message);
        let stream = stream_of(&message.subject);
        if let Some(stream) = stream
            && !message.headers.contains_key(NOT_STORED.0)
            && !self.loses()
        {
            self.store(stream, "", message);
        }
        if let Some(reply) = &message.reply
            && !listened
            && stream.is_none()
        {
            self.lock().counters.no_responders += 1;
            self.spread(&nobody(reply));
        }
    }

    /// Brings a message to whoever listens; says whether somebody does.
    pub(super) fn spread(self: &Arc<Self>, message: &Message) -> bool {
        self.watched.tell(|watcher| watcher.published(message));
        let mut state = self.lock();
        state.counters.published += 1;
        let number = state.counters.published;
        state.taps.retain(|(pattern, tap)| !matches(pattern, &message.subject) || tap.send(message.clone()).is_ok());
        let receivers = state.receivers(&self.chaos, &message.subject);
        drop(state);
        for receiver in &receivers {
            self.bring(*receiver, number, message);
        }
        !receivers.is_empty()
    }

    fn bring(self: &Arc<Self>, listener: u64, number: u64, message: &Message) {
        if self.loses() {
            return;
        }
        let copies = 1 + usize::from(self.duplicates());
        for _ in 0..copies {
            let message = message.clone();
            self.later(self.delay(), move |server| server.lock().hand_over(listener, number, message));
        }
    }

    /// Does something when a time is over; at once when there is none to wait for.
    fn later(self: &Arc<Self>, delay: Duration, what: impl FnOnce(&Self) + Send + 'static) {
        if delay.is_zero() {
            return what(self);
        }
        let server = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            what(&server);
        });
    }

    /// Stores a message, unless its id is known.
    pub(super) fn store(&self, stream: Stream, id: &str, message: &Message) {
        // A work queue may be read in any order; readers of the other streams are promised theirs.
        let delay = if stream.is_work_queue() { self.delay() } else { Duration::ZERO };
        let mut state = self.lock();
        let known = state.stream(stream).recognise(id);
        if known && !self.chaos.chance(state.faults.forget_id_per_mille) {
            state.counters.recognised += 1;
            return;
        }
        let stored = Message { reply: None, ..message.clone() };
        state.stream(stream).store(stored, Instant::now() + delay);
        state.counters.stored += 1;
        drop(state);
        self.notify();
    }

    /// What a reader gets of a work queue now.
    pub(super) fn take(&self, stream: Stream, max: usize) -> Vec<Delivery> {
        let now = Instant::now();
        let mut batch = Vec::new();
        while batch.len() < max {
            let Some((sequence, late, delivery)) = self.lock().stream(stream).take(now) else {
                break;
            };
            self.lock().counters.reordered += u64::from(late);
            let repeated = delivery.deliveries > 1;
            self.count_pulled(repeated);
            if self.loses() {
                continue;
            }
            batch.push(delivery);
            if self.duplicates() {
                batch.extend(self.lock().stream(stream).again(sequence));
                self.count_pulled(true);
            }
        }
        batch
    }

    fn count_pulled(&self, repeated: bool) {
        let mut state = self.lock();
        state.counters.pulled += 1;
        state.counters.redelivered += u64::from(repeated);
    }

    /// A settlement has been sent.
    pub(super) fn settle(self: &Arc<Self>, delivery: &Delivery, settlement: Settlement) {
        let Some((stream, sequence)) = read_token(&delivery.token) else {
            return;
        };
        self.watched.tell(|watcher| watcher.settled(delivery, settlement));
        if self.loses() {
            return;
        }
        self.later(self.delay(), move |server| {
            let mut state = server.lock();
            state.stream(stream).settle(sequence, settlement, Instant::now());
            state.counters.settled += 1;
            drop(state);
            server.notify();
        });
    }
}

/// What one subscription hears.
#[derive(Debug)]
pub(super) struct Listening {
    server: Arc<Server>,
    client: ClientId,
    id: u64,
    receiver: mpsc::UnboundedReceiver<Message>,
}

impl futures::Stream for Listening {
    type Item = Message;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Message>> {
        if !self.server.is_alive(self.client) {
            // A process that is gone hears nothing more, not even the end.
            return Poll::Pending;
        }
        match self.receiver.poll_recv(context) {
            // The listener is only removed with the client's life or with this subscription.
            Poll::Ready(None) => Poll::Pending,
            other => other,
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.server.lock().listeners.remove(&self.id);
    }
}

/// The stream that captures a subject.
pub(super) fn stream_of(subject: &str) -> Option<Stream> {
    Stream::ALL.into_iter().find(|stream| stream.subject() == subject)
}

/// What a requester hears when nobody listens, as NATS says it.
fn nobody(reply: &str) -> Message {
    Message {
        subject: reply.to_owned(),
        reply: None,
        headers: [("Status".to_owned(), "503".to_owned())].into(),
        payload: Bytes::new(),
    }
}

/// Whether a subject falls under a pattern with `*` and `>`.
pub(super) fn matches(pattern: &str, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    for wanted in pattern.split('.') {
        let token = tokens.next();
        match (wanted, token) {
            (">", Some(_)) => return true,
            (_, None) => return false,
            ("*", Some(_)) => {}
            (wanted, Some(token)) if wanted == token => {}
            (_, Some(_)) => return false,
        }
    }
    tokens.next().is_none()
}

pub(super) fn unavailable(detail: &str) -> BusError {
    BusError::Unavailable { detail: detail.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_like_those_of_nats() {
        for (pattern, subject, expected) in [
            ("a.b", "a.b", true),
            ("a.b", "a.b.c", false),
            ("a.*", "a.b", true),
            ("a.*", "a", false),
            ("a.*.c", "a.b.c", true),
            ("a.>", "a.b.c", true),
            ("a.>", "a", false),
            (">", "a", true),
        ] {
            assert_eq!(matches(pattern, subject), expected, "{pattern} {subject}");
        }
    }
}
