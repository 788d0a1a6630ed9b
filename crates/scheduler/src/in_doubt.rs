//! Attempts on their way to workers that cannot show what they hold, until it is certain that the bus has them.
//!
//! A native worker tells in its beats what has reached it. Of the others nothing is heard before the result: an attempt that was lost
//! with the server, or word that nobody was there to get it, would hold its slot until its time is over. So they are remembered until
//! a round trip with the server, begun behind them, has come back; what had none when the connection broke is sent again.

use std::collections::{BTreeMap, VecDeque};

use crate::core::workers::AttemptKey;

/// What was sent and may not have arrived.
#[derive(Debug, Default)]
pub(crate) struct InDoubt {
    next: u64,
    /// Numbers and connections rise from the first to the last.
    sent: VecDeque<Sent>,
    /// A round trip is under way.
    asking: bool,
    /// What is sent again once its worker is heard: before, it may not be there yet.
    until_heard: BTreeMap<String, Vec<AttemptKey>>,
}

#[derive(Debug)]
struct Sent {
    number: u64,
    /// The connection that was there, by its count, or the one that was lost last.
    generation: u64,
    /// The worker; empty for a topic's queue group.
    worker_id: String,
    attempt: AttemptKey,
}

impl InDoubt {
    /// An attempt is sent now, perhaps in vain.
    pub(crate) fn add(&mut self, worker_id: &str, attempt: AttemptKey, generation: u64) {
        self.next += 1;
        self.sent.push_back(Sent { number: self.next, generation, worker_id: worker_id.to_owned(), attempt });
    }

    /// Whether a round trip is to begin now; the number by which [`InDoubt::came_back`] knows what was sent before it.
    pub(crate) fn ask(&mut self) -> Option<u64> {
        let last = self.sent.back().filter(|_| !self.asking)?.number;
        self.asking = true;
        Some(last)
    }

    /// A round trip is over: it came back, or nobody knows.
    pub(crate) fn came_back(&mut self, number: u64, arrived: bool) {
        self.asking = false;
        if arrived {
            self.sent.drain(..self.sent.partition_point(|sent| sent.number <= number));
        }
    }

    /// There is a connection again, the one of this count: what must be sent again through queue groups.
    pub(crate) fn connected(&mut self, generation: u64) -> Vec<AttemptKey> {
        let mut of_groups = Vec::new();
        let lost = self.sent.partition_point(|sent| sent.generation < generation);
        for Sent { worker_id, attempt, .. } in self.sent.drain(..lost) {
            if worker_id.is_empty() {
                of_groups.push(attempt);
            } else {
                self.until_heard.entry(worker_id).or_default().push(attempt);
            }
        }
        of_groups
    }

    /// A worker that is addressed by its id was heard: what must be sent to it again.
    pub(crate) fn heard(&mut self, worker_id: &str) -> Vec<AttemptKey> {
        self.until_heard.remove(worker_id).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use busbar_protocol::ids::JobId;

    use super::*;

    fn key(number: usize) -> AttemptKey {
        (JobId::parse(format!("j{number}")).expect("an id"), 1)
    }

    #[test]
    fn what_a_round_trip_has_followed_is_not_in_doubt() {
        let mut doubts = InDoubt::default();
        assert_eq!(doubts.ask(), None);
        doubts.add("", key(1), 1);
        let first = doubts.ask().expect("a round trip");
        doubts.add("", key(2), 1);
        assert_eq!(doubts.ask(), None, "one at a time");
        doubts.came_back(first, true);
        let second = doubts.ask().expect("another one");
        doubts.came_back(second, false);
        assert_eq!(doubts.connected(2), [key(2)]);
        assert_eq!((doubts.connected(3), doubts.ask()), (Vec::new(), None));
    }

    #[test]
    fn what_left_by_the_new_connection_is_not_lost_with_the_old_one() {
        let mut doubts = InDoubt::default();
        doubts.add("", key(1), 1);
        doubts.add("", key(2), 2);
        assert_eq!(doubts.connected(2), [key(1)]);
        assert_eq!(doubts.connected(3), [key(2)]);
    }

    #[test]
    fn a_round_trip_that_ends_late_speaks_of_nothing_newer() {
        let mut doubts = InDoubt::default();
        doubts.add("", key(1), 1);
        let number = doubts.ask().expect("a round trip");
        assert_eq!(doubts.connected(2), [key(1)]);
        doubts.add("", key(1), 2);
        doubts.came_back(number, true);
        assert_eq!(doubts.connected(3), [key(1)]);
    }

    #[test]
    fn a_worker_is_waited_for() {
        let mut doubts = InDoubt::default();
        doubts.add("a", key(1), 1);
        doubts.add("b", key(2), 1);
        assert_eq!(doubts.connected(2), []);
        assert_eq!((doubts.heard("a"), doubts.heard("a")), (vec![key(1)], vec![]));
        assert_eq!(doubts.heard("b"), [key(2)]);
    }
}
