//! Clocks and randomness: coarse ones of this machine, or ones that are the same in every run with the same seed.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand::TryRng;
use sha2::{Digest, Sha256};
use wasmtime_wasi::{HostMonotonicClock, HostWallClock};

/// Fine clocks are what timing attacks are made of; no guest of ours needs better.
const RESOLUTION: Duration = Duration::from_millis(1);
/// Where the repeatable clock starts: 2026-01-01T00:00:00Z.
pub(crate) const REPEATABLE_START: Duration = Duration::from_secs(1_767_225_600);

/// This machine's time, in whole milliseconds.
#[derive(Clone, Copy)]
pub(crate) struct CoarseClock {
    started: Instant,
}

impl CoarseClock {
    pub(crate) fn new() -> Self {
        Self { started: Instant::now() }
    }
}

impl HostWallClock for CoarseClock {
    fn resolution(&self) -> Duration {
        RESOLUTION
    }

    fn now(&self) -> Duration {
        coarse(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
    }
}

impl HostMonotonicClock for CoarseClock {
    fn resolution(&self) -> u64 {
        nanoseconds(RESOLUTION)
    }

    fn now(&self) -> u64 {
        nanoseconds(coarse(self.started.elapsed()))
    }
}

/// A clock that moves by one millisecond each time it is read. Clones share the count.
#[derive(Clone, Default)]
pub(crate) struct CountingClock {
    readings: Arc<AtomicU64>,
}

impl CountingClock {
    fn next(&self) -> Duration {
        Duration::from_millis(self.readings.fetch_add(1, Ordering::Relaxed))
    }
}

impl HostWallClock for CountingClock {
    fn resolution(&self) -> Duration {
        RESOLUTION
    }

    fn now(&self) -> Duration {
        REPEATABLE_START + self.next()
    }
}

impl HostMonotonicClock for CountingClock {
    fn resolution(&self) -> u64 {
        nanoseconds(RESOLUTION)
    }

    fn now(&self) -> u64 {
        nanoseconds(self.next())
    }
}

fn coarse(time: Duration) -> Duration {
    Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// SHA-256 of seed and counter, block after block. The generators of `rand` may change from version to version; replicas of a
/// job must agree across versions of ours.
pub(crate) struct SeededRandom {
    seed: [u8; 32],
    counter: u64,
    block: [u8; 32],
    used: usize,
}

impl SeededRandom {
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        Self { seed, counter: 0, block: [0; 32], used: 32 }
    }

    fn next_byte(&mut self) -> u8 {
        if self.used == self.block.len() {
            let mut hash = Sha256::new_with_prefix(self.seed);
            hash.update(self.counter.to_le_bytes());
            self.block = hash.finalize().into();
            self.counter += 1;
            self.used = 0;
        }
        let byte = self.block[self.used];
        self.used += 1;
        byte
    }
}

impl TryRng for SeededRandom {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        bytes.fill_with(|| self.next_byte());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(seed: u8) -> Vec<u8> {
        let mut random = SeededRandom::new([seed; 32]);
        let mut bytes = vec![0; 100];
        let Ok(()) = random.try_fill_bytes(&mut bytes);
        bytes
    }

    #[test]
    fn randomness_depends_on_the_seed_alone() {
        assert_eq!(bytes(1), bytes(1));
        assert_ne!(bytes(1), bytes(2));
        assert_ne!(bytes(1)[..32], bytes(1)[32..64]);
    }

    #[test]
    fn the_counting_clock_moves_with_each_reading() {
        let clock = CountingClock::default();
        assert_eq!(HostWallClock::now(&clock), REPEATABLE_START);
        assert_eq!(HostMonotonicClock::now(&clock), 1_000_000);
    }
}
