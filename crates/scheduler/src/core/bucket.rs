//! A token bucket in whole numbers: so many in so much time, and so many at once after a pause.

use busbar_protocol::busbar::Rate;
use busbar_protocol::time::Timestamp;

/// A bucket. A token is `per_ms` parts, and each millisecond brings `count` parts, so that nothing is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    parts: u64,
    at: Timestamp,
    per_ms: u64,
}

impl Bucket {
    /// A bucket that was empty at this time. Whoever takes over begins with empty ones, because nobody knows what its predecessor
    /// took out of them.
    #[must_use]
    pub const fn empty(at: Timestamp) -> Self {
        Self { parts: 0, at, per_ms: 0 }
    }

    /// When a token can be taken: now, or the time from when on there is one. No rate means now.
    pub fn opens(&mut self, rate: Option<&Rate>, now: Timestamp) -> Timestamp {
        let Some(rate) = rate.filter(|rate| rate.count > 0) else { return now };
        self.fill(rate, now);
        let missing = per_ms(rate).saturating_sub(self.parts);
        now.after_millis(missing.div_ceil(u64::from(rate.count)))
    }

    /// Takes a token that is there.
    pub fn take(&mut self, rate: Option<&Rate>, now: Timestamp) {
        let Some(rate) = rate.filter(|rate| rate.count > 0) else { return };
        self.fill(rate, now);
        self.parts = self.parts.saturating_sub(per_ms(rate));
    }

    /// Whether it holds all that it can, so that it need not be kept.
    pub fn is_full(&mut self, rate: Option<&Rate>, now: Timestamp) -> bool {
        let Some(rate) = rate.filter(|rate| rate.count > 0) else { return true };
        self.fill(rate, now);
        self.parts >= most(rate)
    }

    fn fill(&mut self, rate: &Rate, now: Timestamp) {
        let scale = per_ms(rate);
        if self.per_ms != scale {
            // The rate was changed: as many tokens as before, in the parts of the new one.
            self.parts = self.parts.checked_div(self.per_ms).unwrap_or(0).saturating_mul(scale);
            self.per_ms = scale;
        }
        let passed = u64::try_from(now.since(self.at).as_millis()).unwrap_or(u64::MAX);
        self.parts = self.parts.saturating_add(passed.saturating_mul(u64::from(rate.count))).min(most(rate));
        // A clock that went back brings nothing twice: only the time after the latest known one counts.
        self.at = self.at.max(now);
    }
}

fn per_ms(rate: &Rate) -> u64 {
    if rate.per_ms == 0 { 1_000 } else { rate.per_ms }
}

fn most(rate: &Rate) -> u64 {
    let burst = if rate.burst == 0 { rate.count } else { rate.burst };
    u64::from(burst).saturating_mul(per_ms(rate))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn it_never_gives_more_than_its_rate_and_its_burst() {
        let rate = Rate { count: 3, per_ms: 1_000, burst: 5 };
        let mut bucket = Bucket::empty(at(0));
        let mut taken = 0;
        for millis in 0..=10_000 {
            let now = at(millis);
            while bucket.opens(Some(&rate), now) <= now {
                bucket.take(Some(&rate), now);
                taken += 1;
            }
        }
        assert_eq!(taken, 30);
        assert_eq!(bucket.opens(Some(&rate), at(10_001)), at(10_334), "a third of a second later, rounded up");
        let later = at(100_000);
        let mut at_once = 0;
        while bucket.opens(Some(&rate), later) <= later {
            bucket.take(Some(&rate), later);
            at_once += 1;
        }
        assert_eq!(at_once, 5);
    }

    #[test]
    fn no_rate_means_no_bound() {
        let mut bucket = Bucket::empty(at(0));
        assert_eq!(bucket.opens(None, at(5)), at(5));
        assert_eq!(bucket.opens(Some(&Rate::default()), at(5)), at(5));
        assert!(bucket.is_full(None, at(5)));
    }

    #[test]
    fn a_clock_that_goes_back_brings_nothing_twice() {
        let rate = Rate { count: 1, per_ms: 1_000, burst: 1 };
        let mut bucket = Bucket::empty(at(0));
        bucket.take(Some(&rate), at(5_000));
        assert_eq!(bucket.opens(Some(&rate), at(1_000)), at(2_000));
        assert_eq!(bucket.opens(Some(&rate), at(5_000)), at(6_000));
    }

    #[test]
    fn a_changed_rate_keeps_the_tokens() {
        let mut bucket = Bucket::empty(at(0));
        let slow = Rate { count: 10, per_ms: 1_000, burst: 10 };
        assert!(bucket.is_full(Some(&slow), at(1_000)));
        let other = Rate { count: 10, per_ms: 60_000, burst: 10 };
        assert!(bucket.is_full(Some(&other), at(1_000)));
    }
}
