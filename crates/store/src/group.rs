//! Calls of many callers in one call to Redis, without a timer.
//!
//! A task per kind of call takes what has gathered, sends it, and starts again; answers are dealt out as they come. While as many calls
//! are under way as may be, callers queue up: the busier it is, the larger the groups. Calls leave in the order in which they were asked for.

use std::sync::Arc;
use std::time::Duration;

use busbar_protocol::ports::StoreError;
use fred::types::{Resp3Frame as Frame, Value};
use futures::future::FutureExt as _;
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::{mpsc, oneshot};

use crate::decode;
use crate::lane::{Lane, Repeat};

/// How many callers may wait; the next one waits for a place.
const QUEUE: usize = 4096;
/// A call does not grow beyond this by what it gathers; what one caller brings may be larger.
const BYTES_MAX: usize = 2 << 20;

/// What every call of a group begins with, and how much it carries.
pub(crate) struct Kind {
    /// The command.
    pub(crate) command: &'static str,
    /// Its first arguments, one choice of them after the other.
    pub(crate) prefixes: Vec<Vec<Value>>,
    /// How many parts a call may carry. A part is what gets one element of the answer.
    pub(crate) parts_max: usize,
    /// How many calls may be under way.
    pub(crate) calls_max: usize,
}

/// What one caller brings. It is answered with one frame for each part.
pub(crate) struct Parcel {
    /// Which of the first arguments its call has.
    pub(crate) prefix: usize,
    /// Arguments.
    pub(crate) args: Vec<Value>,
    /// How many parts they are.
    pub(crate) parts: usize,
    /// How many bytes they are.
    pub(crate) bytes: usize,
    /// Whether they may be sent again.
    pub(crate) repeat: Repeat,
}

struct Waiting {
    parcel: Parcel,
    reply: oneshot::Sender<Result<Vec<Frame>, StoreError>>,
}

/// Where callers bring their parcels.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    queue: mpsc::Sender<Waiting>,
    call_timeout: Duration,
}

impl Group {
    /// Starts the task; it ends when the last handle is dropped.
    pub(crate) fn start(lane: Arc<Lane>, kind: Kind, call_timeout: Duration) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        tokio::spawn(run(lane, kind, waiting));
        Self { queue, call_timeout }
    }

    /// Sends a parcel with the next call and waits for its answers.
    pub(crate) async fn send(&self, parcel: Parcel) -> Result<Vec<Frame>, StoreError> {
        let (reply, answer) = oneshot::channel();
        let exchange = async {
            self.enqueue(Waiting { parcel, reply }).await?;
            answer.await.ok()
        };
        match tokio::time::timeout(self.call_timeout, exchange).await {
            Ok(Some(result)) => result,
            Ok(None) => Err(unavailable("the store is closed")),
            Err(_) => Err(unavailable("no answer in time")),
        }
    }

    /// At the first poll, while there is room: an async send may also wait because the task has used up its turn, and then
    /// calls that one task makes in order would queue up in another.
    async fn enqueue(&self, waiting: Waiting) -> Option<()> {
        match self.queue.try_send(waiting) {
            Ok(()) => Some(()),
            Err(mpsc::error::TrySendError::Full(waiting)) => self.queue.send(waiting).await.ok(),
            Err(mpsc::error::TrySendError::Closed(_)) => None,
        }
    }
}

fn unavailable(detail: &str) -> StoreError {
    StoreError::Unavailable { detail: detail.into() }
}

async fn run(lane: Arc<Lane>, kind: Kind, mut queue: mpsc::Receiver<Waiting>) {
    let mut left_over = None;
    let mut calls = FuturesUnordered::new();
    loop {
        let first = tokio::select! {
            biased;
            Some(()) = calls.next() => continue,
            first = next(&mut left_over, &mut queue), if calls.len() < kind.calls_max => first,
        };
        let Some(first) = first else { break };
        let mut call = Box::pin(flush(&lane, &kind, gather(first, &kind, &mut queue, &mut left_over)));
        // It is on its way before the next one is made.
        if (&mut call).now_or_never().is_none() {
            calls.push(call);
        }
    }
    calls.collect::<()>().await;
}

async fn next(left_over: &mut Option<Waiting>, queue: &mut mpsc::Receiver<Waiting>) -> Option<Waiting> {
    match left_over.take() {
        Some(waiting) => Some(waiting),
        None => queue.recv().await,
    }
}

/// The first parcel and what else is there and fits. The first that does not fit is left over, so that order is kept.
fn gather(first: Waiting, kind: &Kind, queue: &mut mpsc::Receiver<Waiting>, left_over: &mut Option<Waiting>) -> Vec<Waiting> {
    let (mut parts, mut bytes, prefix) = (first.parcel.parts, first.parcel.bytes, first.parcel.prefix);
    let mut group = vec![first];
    while let Ok(next) = queue.try_recv() {
        let fits = parts + next.parcel.parts <= kind.parts_max && bytes + next.parcel.bytes <= BYTES_MAX;
        if !fits || next.parcel.prefix != prefix {
            *left_over = Some(next);
            break;
        }
        parts += next.parcel.parts;
        bytes += next.parcel.bytes;
        group.push(next);
    }
    group
}

async fn flush(lane: &Lane, kind: &Kind, mut group: Vec<Waiting>) {
    // Whoever has given up is told nothing, so nothing is done for them.
    group.retain(|waiting| !waiting.reply.is_closed());
    let Some(first) = group.first() else { return };
    let mut args = kind.prefixes.get(first.parcel.prefix).cloned().unwrap_or_default();
    let once = group.iter().any(|waiting| waiting.parcel.repeat == Repeat::Never);
    for waiting in &mut group {
        args.append(&mut waiting.parcel.args);
    }
    let repeat = if once { Repeat::Never } else { Repeat::Harmless };
    let result = lane.call(kind.command, args, repeat).await.and_then(decode::array);
    deal(group, result);
}

/// Gives each caller as many frames as it brought parts.
fn deal(group: Vec<Waiting>, result: Result<Vec<Frame>, StoreError>) {
    let expected = group.iter().map(|waiting| waiting.parcel.parts).sum::<usize>();
    let result = result.and_then(|frames| match frames.len() {
        length if length == expected => Ok(frames),
        length => Err(decode::refused(&format!("Redis gave {length} answers to {expected} questions"))),
    });
    match result {
        Ok(frames) => {
            let mut frames = frames.into_iter();
            for Waiting { parcel, reply } in group {
                // The caller may have given up meanwhile.
                let _ = reply.send(Ok(frames.by_ref().take(parcel.parts).collect()));
            }
        }
        Err(error) => {
            for waiting in group {
                let _ = waiting.reply.send(Err(error.clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(parts: usize, bytes: usize) -> (Waiting, oneshot::Receiver<Result<Vec<Frame>, StoreError>>) {
        let (reply, answer) = oneshot::channel();
        (Waiting { parcel: Parcel { prefix: 0, args: vec![], parts, bytes, repeat: Repeat::Harmless }, reply }, answer)
    }

    fn kind() -> Kind {
        Kind { command: "FCALL", prefixes: vec![], parts_max: 256, calls_max: 1 }
    }

    fn gathered(sizes: &[(usize, usize)]) -> (usize, bool) {
        let (sender, mut queue) = mpsc::channel(16);
        let mut all = sizes.iter().map(|(parts, bytes)| waiting(*parts, *bytes).0);
        let first = all.next().expect("a first one");
        for next in all {
            assert!(sender.try_send(next).is_ok(), "no place in the queue");
        }
        let mut left_over = None;
        let group = gather(first, &kind(), &mut queue, &mut left_over);
        (group.len(), left_over.is_some())
    }

    #[test]
    fn a_group_ends_before_what_does_not_fit() {
        assert_eq!(gathered(&[(100, 1), (100, 1), (56, 1)]), (3, false));
        assert_eq!(gathered(&[(100, 1), (157, 1), (1, 1)]), (1, true));
        assert_eq!(gathered(&[(1, BYTES_MAX + 1)]), (1, false));
        assert_eq!(gathered(&[(1, BYTES_MAX), (1, 1)]), (1, true));
    }

    #[test]
    fn a_group_ends_before_what_goes_to_another_function() {
        let (sender, mut queue) = mpsc::channel(16);
        let of = |prefix| {
            let (mut next, _) = waiting(1, 1);
            next.parcel.prefix = prefix;
            next
        };
        for prefix in [0, 1, 0] {
            assert!(sender.try_send(of(prefix)).is_ok(), "no place in the queue");
        }
        let mut left_over = None;
        assert_eq!(gather(of(0), &kind(), &mut queue, &mut left_over).len(), 2);
        assert_eq!(left_over.map(|next| next.parcel.prefix), Some(1));
    }

    #[test]
    fn each_caller_gets_exactly_its_answers() {
        let (first, mut of_first) = waiting(2, 1);
        let (second, mut of_second) = waiting(1, 1);
        let frames = [1, 2, 3].map(|data| Frame::Number { data, attributes: None });
        deal(vec![first, second], Ok(frames.to_vec()));
        assert_eq!(of_first.try_recv().expect("answered"), Ok(frames[..2].to_vec()));
        assert_eq!(of_second.try_recv().expect("answered"), Ok(frames[2..].to_vec()));
    }

    #[test]
    fn a_wrong_number_of_answers_is_nobodys_answer() {
        let (only, mut answer) = waiting(2, 1);
        deal(vec![only], Ok(vec![Frame::Null]));
        assert!(answer.try_recv().expect("answered").is_err());
    }
}
