//! Attempts on their way to native workers, many in one message.
//!
//! What one flush has decided leaves together: an attempt waits for no other but those that become true with it. Each message wants to
//! know whether anybody is there, as one that carries a single attempt does.

use std::collections::{BTreeMap, VecDeque};

use busbar_protocol::busbar::{DispatchBatch, DispatchItem};
use busbar_protocol::limits::{DISPATCH_BYTES_MAX, DISPATCH_ITEMS_MAX};
use busbar_protocol::prost::Message as _;

use crate::core::job::Hold;
use crate::core::workers::AttemptKey;

/// What a message adds to each item at most.
const ITEM_OVERHEAD_BYTES: usize = 16;
/// Word that nobody is there comes at once: of so many messages it is known what was in them.
const REMEMBERED_MAX: usize = 64;

/// Attempts for one worker.
#[derive(Debug, PartialEq)]
pub(crate) struct Batch {
    pub(crate) worker_id: String,
    pub(crate) attempts: Vec<AttemptKey>,
    pub(crate) message: DispatchBatch,
}

/// Attempts by worker, as far as they have not left.
#[derive(Debug, Default)]
pub(crate) struct Batches {
    open: BTreeMap<String, (Batch, usize)>,
}

impl Batches {
    /// Adds an attempt behind those that are there; a batch that it has no place in leaves now.
    pub(crate) fn add(&mut self, hold: &Hold, attempt: AttemptKey, item: DispatchItem) -> Option<Batch> {
        let bytes = item.encoded_len() + ITEM_OVERHEAD_BYTES;
        let full = self.open.get(&hold.worker_id).is_some_and(|(batch, filled)| {
            batch.message.incarnation != hold.incarnation
                || batch.attempts.len() >= DISPATCH_ITEMS_MAX
                || filled + bytes > DISPATCH_BYTES_MAX
        });
        let leaves = if full { self.open.remove(&hold.worker_id).map(|(batch, _)| batch) } else { None };
        let (batch, filled) = self.open.entry(hold.worker_id.clone()).or_insert_with(|| {
            let message = DispatchBatch { incarnation: hold.incarnation.clone(), items: Vec::new() };
            (Batch { worker_id: hold.worker_id.clone(), attempts: Vec::new(), message }, 0)
        });
        batch.attempts.push(attempt);
        batch.message.items.push(item);
        *filled += bytes;
        leaves
    }

    /// Everything that has not left.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = Batch> + use<> {
        std::mem::take(&mut self.open).into_values().map(|(batch, _)| batch)
    }
}

/// What was in the last messages.
#[derive(Debug, Default)]
pub(crate) struct SentBatches {
    next: u64,
    last: VecDeque<(u64, String, Vec<AttemptKey>)>,
}

impl SentBatches {
    /// Remembers a message that is about to leave; its number.
    pub(crate) fn remember(&mut self, worker_id: String, attempts: Vec<AttemptKey>) -> u64 {
        self.next += 1;
        if self.last.len() >= REMEMBERED_MAX {
            self.last.pop_front();
        }
        self.last.push_back((self.next, worker_id, attempts));
        self.next
    }

    /// Whom the message was for and what was in it, once. What is not known any more is sent again when its worker does not show it.
    pub(crate) fn forget(&mut self, number: u64) -> Option<(String, Vec<AttemptKey>)> {
        let place = self.last.iter().position(|(sent, ..)| *sent == number)?;
        self.last.remove(place).map(|(_, worker_id, attempts)| (worker_id, attempts))
    }
}

#[cfg(test)]
mod tests {
    use busbar_protocol::busbar::WorkerKind;
    use busbar_protocol::ids::JobId;
    use busbar_protocol::time::Timestamp;
    use bytes::Bytes;

    use super::*;

    fn hold(worker_id: &str, incarnation: &str) -> Hold {
        let now = Timestamp::from_millis(1);
        Hold {
            worker_id: worker_id.to_owned(),
            kind: WorkerKind::Native,
            incarnation: incarnation.to_owned(),
            since: now,
            heard: now,
        }
    }

    fn key(number: usize) -> AttemptKey {
        (JobId::parse(format!("j{number}")).expect("an id"), 1)
    }

    fn item(bytes: usize) -> DispatchItem {
        DispatchItem { packet: Bytes::from(vec![1; bytes]), ..DispatchItem::default() }
    }

    #[test]
    fn attempts_leave_by_worker_and_in_order() {
        let mut batches = Batches::default();
        for number in 0..4 {
            let worker = ["a", "b"][number % 2];
            assert_eq!(batches.add(&hold(worker, "1"), key(number), item(10)), None);
        }
        let left: Vec<Batch> = batches.take().collect();
        let attempts: Vec<_> = left.iter().map(|batch| (batch.worker_id.as_str(), batch.attempts.clone())).collect();
        assert_eq!(attempts, [("a", vec![key(0), key(2)]), ("b", vec![key(1), key(3)])]);
        assert!(left.iter().all(|batch| batch.message.items.len() == 2 && batch.message.incarnation == "1"));
        assert_eq!(batches.take().count(), 0);
    }

    #[test]
    fn no_message_is_too_large_or_for_two_starts() {
        let sizes = |items: Vec<(&str, usize)>| {
            let mut batches = Batches::default();
            let add = |(number, (start, bytes)): (usize, (&str, usize))| batches.add(&hold("w", start), key(number), item(bytes));
            let mut sizes: Vec<usize> = items.into_iter().enumerate().filter_map(add).map(|batch| batch.attempts.len()).collect();
            sizes.extend(batches.take().map(|batch| batch.attempts.len()));
            sizes
        };
        assert_eq!(sizes(vec![("1", 10); DISPATCH_ITEMS_MAX + 1]), [DISPATCH_ITEMS_MAX, 1]);
        assert_eq!(sizes(vec![("1", DISPATCH_BYTES_MAX / 3); 5]), [2, 2, 1]);
        assert_eq!(sizes(vec![("1", 10), ("1", DISPATCH_BYTES_MAX), ("1", 10)]), [1, 1, 1]);
        assert_eq!(sizes(vec![("1", 10), ("1", 10), ("2", 10)]), [2, 1]);
    }

    #[test]
    fn the_last_messages_are_known_once() {
        let mut sent = SentBatches::default();
        let numbers: Vec<u64> = (0..=REMEMBERED_MAX).map(|n| sent.remember("w".to_owned(), vec![key(n)])).collect();
        assert_eq!(sent.forget(numbers[0]), None);
        assert_eq!(sent.forget(numbers[1]), Some(("w".to_owned(), vec![key(1)])));
        assert_eq!(sent.forget(numbers[1]), None);
    }
}
