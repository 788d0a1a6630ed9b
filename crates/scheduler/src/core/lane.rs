//! A line of jobs as the queue keeps it: the first ones whole, those behind them perhaps shelved.

use std::collections::BTreeSet;
use std::sync::Arc;

use busbar_protocol::time::Timestamp;

use super::line::{Line, Seat};

/// The jobs of a line.
#[derive(Clone, Debug)]
pub(super) struct Lane {
    /// Whose they are.
    pub(super) line: Arc<Line>,
    /// How it is listed among the lanes of its class: its tenant's clock, and when its oldest job came.
    pub(super) listed: Option<(u64, Timestamp)>,
    whole: BTreeSet<Seat>,
    shelved: BTreeSet<Seat>,
    /// Those of the shelved that were asked for.
    asked: BTreeSet<Seat>,
}

impl Lane {
    pub(super) const fn new(line: Arc<Line>) -> Self {
        Self { line, listed: None, whole: BTreeSet::new(), shelved: BTreeSet::new(), asked: BTreeSet::new() }
    }

    /// The oldest.
    pub(super) fn first(&self) -> Option<Seat> {
        [self.whole.first(), self.shelved.first()].into_iter().flatten().min().copied()
    }

    /// Whether it cannot go on before its oldest, which was asked for, is in memory.
    pub(super) fn is_waiting(&self) -> bool {
        self.first().is_some_and(|first| self.asked.contains(&first))
    }

    /// Whether this one is here and in memory.
    pub(super) fn has_whole(&self, seat: Seat) -> bool {
        self.whole.contains(&seat)
    }

    /// How many are in memory.
    pub(super) fn whole(&self) -> usize {
        self.whole.len()
    }

    pub(super) fn has_shelved(&self) -> bool {
        !self.shelved.is_empty()
    }

    /// How many were asked for and have not come.
    pub(super) fn asked(&self) -> usize {
        self.asked.len()
    }

    pub(super) fn has_unasked(&self) -> bool {
        self.shelved.len() > self.asked.len()
    }

    /// Adds one; false, if it is here.
    pub(super) fn add(&mut self, seat: Seat) -> bool {
        self.whole.insert(seat)
    }

    /// Adds one that is shelved; false, if it is here.
    pub(super) fn add_shelved(&mut self, seat: Seat) -> bool {
        self.shelved.insert(seat)
    }

    /// One leaves memory; false, if it is not one of those.
    pub(super) fn shelve(&mut self, seat: Seat) -> bool {
        self.whole.remove(&seat) && self.shelved.insert(seat)
    }

    /// One that was shelved is in memory; false, if it is not one of those.
    pub(super) fn unshelve(&mut self, seat: Seat) -> bool {
        self.asked.remove(&seat);
        self.shelved.remove(&seat) && self.whole.insert(seat)
    }

    /// Takes one out; tells whether it was in memory, if it was here.
    pub(super) fn remove(&mut self, seat: Seat) -> Option<bool> {
        self.asked.remove(&seat);
        let was_whole = self.whole.remove(&seat);
        (was_whole || self.shelved.remove(&seat)).then_some(was_whole)
    }

    /// Asks for the first of those that are shelved and were not asked for.
    pub(super) fn ask(&mut self, most: usize) -> Vec<Seat> {
        let wanted: Vec<Seat> = self.shelved.iter().filter(|seat| !self.asked.contains(seat)).take(most).copied().collect();
        self.asked.extend(&wanted);
        wanted
    }

    /// How many are before one, as far as `most`.
    pub(super) fn before(&self, seat: Seat, most: usize) -> usize {
        self.whole.range(..seat).chain(self.shelved.range(..seat)).take(most).count()
    }
}
