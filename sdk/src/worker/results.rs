//! Results on their way to the scheduler.
//!
//! They are reported many in one message, without a timer: what has gathered leaves as long as few messages are under way, so that
//! messages grow with the load. The scheduler answers once it has committed what they say. Whatever has no answer in time goes into the
//! stream that every worker of CAP uses, where it is kept while no scheduler is there.
//!
//! ```text
//!  attempt ─► what it told ─┬─► reported, in batches ─► the scheduler's answer ─► heard by whoever listens ┐
//!                           └─► no answer ─► stored in the stream, and heard ─► its answer ───────────────┴ sys.job.result
//! ```
//!
//! So those who listen hear of a result once it is kept, and nobody waits for their sake.

use std::time::Duration;

use busbar_protocol::busbar::{ReportItem, ReportReply, ReportRequest};
use busbar_protocol::inline;
use busbar_protocol::limits::{REPORT_BYTES_MAX, REPORT_ITEMS_MAX};
use busbar_protocol::ports::{Bus, Headers, NOT_STORED};
use busbar_protocol::prost::Message as _;
use busbar_protocol::subjects;
use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::backoff::Backoff;

/// How many messages may be under way. While they are, the next one gathers.
const MESSAGES_MAX: usize = 4;
/// How long a scheduler may take to commit what was reported to it.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// After a message without an answer, results go into the stream for so long.
const STREAM_FOR: Duration = Duration::from_secs(5);
/// What a message adds to each item at most.
const ITEM_OVERHEAD_BYTES: usize = 16;

/// A result as it was told, to be told again.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) headers: Headers,
    pub(super) packet: Bytes,
    /// The output, where nobody has stored it.
    pub(super) output: Option<Bytes>,
}

/// Tells results until somebody keeps them.
pub(super) struct Results<B> {
    bus: B,
    reports: mpsc::UnboundedSender<Waiting>,
    _reporting: AbortOnDropHandle<()>,
}

/// A result that waits for its message.
struct Waiting {
    item: ReportItem,
    /// Whether the scheduler has committed what it says.
    done: oneshot::Sender<bool>,
}

impl<B: Bus> Results<B> {
    pub(super) fn start(bus: B) -> Self {
        let (reports, waiting) = mpsc::unbounded_channel();
        let reporting = tokio::spawn(report(bus.clone(), waiting));
        Self { bus, reports, _reporting: AbortOnDropHandle::new(reporting) }
    }

    /// Tells a result; returns when it is committed or kept.
    pub(super) async fn tell(&self, message_id: &str, told: &Told) {
        let item = ReportItem { packet: told.packet.clone(), output: told.output.clone().unwrap_or_default() };
        let (done, is_done) = oneshot::channel();
        let is_asked = self.reports.send(Waiting { item, done }).is_ok();
        if !is_asked || !is_done.await.unwrap_or(false) {
            return Box::pin(self.store(message_id, told)).await;
        }
        // For those who only listen.
        let mut headers = told.headers.clone();
        headers.insert(NOT_STORED.0.to_owned(), NOT_STORED.1.to_owned());
        if let Err(error) = self.bus.publish(subjects::RESULT, headers, told.packet.clone()).await {
            tracing::debug!(message_id, %error, "a result is not heard by those who only listen");
        }
    }

    /// Puts a result into the stream.
    pub(super) async fn store(&self, message_id: &str, told: &Told) {
        let mut headers = told.headers.clone();
        headers.extend(told.output.as_ref().map(|output| (inline::OUTPUT.to_owned(), inline::encode(output))));
        insist(&self.bus, subjects::RESULT, message_id, &headers, &told.packet).await;
    }
}

/// Publishes until the stream has acknowledged it; the id is the same each time, so that the stream keeps it once.
pub(super) async fn insist<B: Bus>(bus: &B, subject: &str, message_id: &str, headers: &Headers, packet: &Bytes) {
    let mut backoff = Backoff::new();
    let mut tries: u64 = 1;
    while let Err(error) = bus.publish_durable(subject, message_id, headers.clone(), packet.clone()).await {
        // Once is enough for a person; the rest is for whoever looks closely.
        match tries {
            1 => tracing::warn!(subject, message_id, %error, "not acknowledged yet: it is repeated until it is"),
            _ => tracing::debug!(subject, message_id, %error, tries, "still not acknowledged"),
        }
        tries += 1;
        backoff.pause().await;
    }
}

/// Reports what comes, until nobody can send anything more.
async fn report<B: Bus>(bus: B, mut waiting: mpsc::UnboundedReceiver<Waiting>) {
    let mut left_over = None;
    let mut under_way = FuturesUnordered::new();
    let mut stream_until: Option<Instant> = None;
    loop {
        let first = tokio::select! {
            biased;
            Some(is_answered) = under_way.next() => {
                let is_answered: bool = is_answered;
                if !is_answered {
                    stream_until = Some(Instant::now() + STREAM_FOR);
                }
                continue;
            }
            first = next(&mut left_over, &mut waiting), if under_way.len() < MESSAGES_MAX => first,
        };
        let Some(first) = first else { return };
        let message = gather(first, &mut waiting, &mut left_over);
        if stream_until.is_none_or(|until| until <= Instant::now()) {
            under_way.push(ask(&bus, message));
        }
        // Otherwise it is dropped, so that whoever waits for it looks for the stream.
    }
}

async fn next(left_over: &mut Option<Waiting>, waiting: &mut mpsc::UnboundedReceiver<Waiting>) -> Option<Waiting> {
    match left_over.take() {
        Some(first) => Some(first),
        None => waiting.recv().await,
    }
}

/// The first of a message and what else is there and fits.
fn gather(first: Waiting, waiting: &mut mpsc::UnboundedReceiver<Waiting>, left_over: &mut Option<Waiting>) -> Vec<Waiting> {
    let size = |waiting: &Waiting| waiting.item.encoded_len() + ITEM_OVERHEAD_BYTES;
    let mut bytes = size(&first);
    let mut message = vec![first];
    while message.len() < REPORT_ITEMS_MAX
        && let Ok(next) = waiting.try_recv()
    {
        bytes += size(&next);
        if bytes > REPORT_BYTES_MAX {
            *left_over = Some(next);
            break;
        }
        message.push(next);
    }
    message
}

/// Asks the scheduler; says whether it answered.
async fn ask<B: Bus>(bus: &B, message: Vec<Waiting>) -> bool {
    let (items, waiting): (Vec<_>, Vec<_>) = message.into_iter().map(|Waiting { item, done }| (item, done)).unzip();
    let body = ReportRequest { items }.encode_to_vec();
    let asked = bus.request(subjects::REPORT, Headers::new(), body.into(), ANSWER_WITHIN).await;
    let answer = asked.map_err(|error| error.to_string()).and_then(|answer| {
        let reply = ReportReply::decode(answer.payload).map_err(|error| error.to_string())?;
        reply.problem.as_ref().map_or(Ok(()), |problem| Err(problem.detail.clone()))?;
        Ok(reply)
    });
    match answer {
        Ok(reply) => {
            for (place, done) in (0_u32..).zip(waiting) {
                // An attempt that has been given up waits for nothing.
                let _ = done.send(!reply.again.contains(&place));
            }
            true
        }
        Err(detail) => {
            tracing::debug!(results = waiting.len(), detail, "the scheduler does not answer: the stream keeps them for it");
            false
        }
    }
}
