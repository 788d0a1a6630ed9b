//! Where the time went: how long something that many jobs share has stood at each gate.
//!
//! Millions of jobs wait behind a few classes, tenants and keys. So it is these that keep the time, as sums that only grow, with a
//! few earlier readings of the sums; what one job has spent at a gate is the sum now, less the reading from when it came.

use std::collections::VecDeque;
use std::time::Duration;

use busbar_protocol::time::Timestamp;

/// What a job that could otherwise run waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gate {
    /// Somebody paused its topic, tenant or key.
    Pause,
    /// Its tenant or topic has as many attempts out as it may.
    Quota,
    /// Its tenant or topic has started as many attempts as it may in this time.
    Rate,
    /// Its key has as many attempts out, or has started as many, as it may.
    Key,
    /// No worker that may have it has a free slot.
    Worker,
}

const GATES: usize = 5;
/// The most earlier readings; when there are more, every second one goes, so that what is long ago is known less exactly.
const READINGS_MAX: usize = 64;
/// The smallest distance of two readings at the beginning, in milliseconds.
const DISTANCE_MS: u64 = 250;

/// Sums of time by gate.
#[derive(Clone, Debug)]
pub struct Timeline {
    sums: [u64; GATES],
    at: Option<(Gate, Timestamp)>,
    readings: VecDeque<(Timestamp, [u64; GATES])>,
    distance_ms: u64,
}

impl Default for Timeline {
    fn default() -> Self {
        Self { sums: [0; GATES], at: None, readings: VecDeque::new(), distance_ms: DISTANCE_MS }
    }
}

impl Timeline {
    /// It stands at this gate from now on, or at none.
    pub fn stand_at(&mut self, gate: Option<Gate>, now: Timestamp) {
        if self.at.map(|(gate, _)| gate) == gate {
            return;
        }
        self.read(now);
        self.at = gate.map(|gate| (gate, now));
    }

    /// The gate at which it stands, and since when.
    #[must_use]
    pub const fn stands_at(&self) -> Option<(Gate, Timestamp)> {
        self.at
    }

    /// How long it has stood at a gate between a time and now; exact for what was not long ago.
    #[must_use]
    pub fn spent(&self, gate: Gate, since: Timestamp, now: Timestamp) -> Duration {
        let mut sum = self.sums[gate as usize];
        if let Some((_, begun)) = self.at.filter(|(at, _)| *at == gate) {
            sum += millis(now, begun);
        }
        let before = self.readings.iter().rev().find(|(at, _)| *at <= since).map_or(0, |(_, sums)| sums[gate as usize]);
        Duration::from_millis(sum.saturating_sub(before).min(millis(now, since)))
    }

    fn read(&mut self, now: Timestamp) {
        if let Some((gate, begun)) = self.at {
            self.sums[gate as usize] += millis(now, begun);
            self.at = Some((gate, now));
        }
        if self.readings.back().is_some_and(|(last, _)| millis(now, *last) < self.distance_ms) {
            return;
        }
        self.readings.push_back((now, self.sums));
        if self.readings.len() > READINGS_MAX {
            let mut keep = false;
            self.readings.retain(|_| {
                keep = !keep;
                keep
            });
            self.distance_ms *= 2;
        }
    }
}

fn millis(now: Timestamp, then: Timestamp) -> u64 {
    u64::try_from(now.since(then).as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn time_is_counted_at_the_gate_where_it_passed() {
        let mut line = Timeline::default();
        line.stand_at(Some(Gate::Worker), at(1_000));
        line.stand_at(Some(Gate::Worker), at(2_000));
        line.stand_at(Some(Gate::Pause), at(4_000));
        line.stand_at(None, at(4_500));
        let spent = |gate, since| line.spent(gate, at(since), at(10_000)).as_millis();
        assert_eq!((spent(Gate::Worker, 0), spent(Gate::Pause, 0), spent(Gate::Quota, 0)), (3_000, 500, 0));
        assert_eq!(spent(Gate::Worker, 4_000), 0, "what passed before a job came is not its own");
    }

    #[test]
    fn what_is_under_way_counts() {
        let mut line = Timeline::default();
        line.stand_at(Some(Gate::Key), at(1_000));
        assert_eq!(line.spent(Gate::Key, at(500), at(3_000)).as_millis(), 2_000);
        assert_eq!(line.spent(Gate::Key, at(2_500), at(3_000)).as_millis(), 500);
    }

    #[test]
    fn a_long_history_is_bounded_and_about_right() {
        let mut line = Timeline::default();
        for second in 0..100_000 {
            line.stand_at(Some(if second % 2 == 0 { Gate::Worker } else { Gate::Rate }), at(second * 1_000));
        }
        assert!(line.readings.len() <= READINGS_MAX);
        let spent = line.spent(Gate::Worker, at(50_000_000), at(100_000_000)).as_secs();
        assert!((23_000..=27_000).contains(&spent), "{spent}");
    }
}
