//! Pauses between repetitions of what must succeed in the end, and other waiting by chance, so that a thousand workers which
//! lost the same server do not come back to it in the same instant.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);

/// Doubling pauses from 50 ms to 2 s, of which up to a half is left out by chance.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(crate) const fn new() -> Self {
        Self { next: FIRST }
    }

    /// Waits, longer each time.
    pub(crate) async fn pause(&mut self) {
        let half = self.advance() / 2;
        tokio::time::sleep(half + part_of(half)).await;
    }

    fn advance(&mut self) -> Duration {
        let now = self.next;
        self.next = (now * 2).min(LONGEST);
        now
    }
}

/// Some part of a duration, down to nothing, that differs between calls and processes.
pub(crate) fn part_of(whole: Duration) -> Duration {
    let chance = RandomState::new().hash_one(0) >> 32;
    whole.mul_f64(chance as f64 / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_takes_a_part() {
        let whole = Duration::from_millis(250);
        let parts: Vec<Duration> = (0..64).map(|_| part_of(whole)).collect();
        assert!(parts.iter().all(|part| *part <= whole), "{parts:?}");
        assert!(parts.windows(2).any(|pair| pair[0] != pair[1]), "{parts:?}");
    }

    #[test]
    fn pauses_double_up_to_two_seconds() {
        let mut backoff = Backoff::new();
        let pauses: Vec<u128> = (0..8).map(|_| backoff.advance().as_millis()).collect();
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1600, 2000, 2000]);
    }
}
