//! Seeded chance: the one source of everything that is random in a simulation.

use std::sync::{Arc, Mutex, PoisonError};

/// A seeded generator. Clones share it, so that one seed fixes every roll of a simulation.
#[derive(Clone, Debug)]
pub struct Chaos {
    seed: u64,
    state: Arc<Mutex<u64>>,
}

impl Chaos {
    /// A generator that always tells the same story for the same seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, state: Arc::new(Mutex::new(seed)) }
    }

    /// The seed, to print with a failure.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The next number (SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
    #[must_use]
    pub fn number(&self) -> u64 {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// True that many times in a thousand.
    #[must_use]
    pub fn chance(&self, per_mille: u32) -> bool {
        per_mille > 0 && self.below(1_000) < u64::from(per_mille)
    }

    /// A number below `n`; zero when `n` is zero.
    #[must_use]
    pub fn below(&self, n: u64) -> u64 {
        if n == 0 { 0 } else { self.number() % n }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_fixes_every_roll() {
        let rolls = |seed| -> Vec<u64> {
            let chaos = Chaos::new(seed);
            (0..100).map(|_| chaos.below(1_000)).collect()
        };
        assert_eq!(rolls(7), rolls(7));
        assert_ne!(rolls(7), rolls(8));
    }

    #[test]
    fn chances_are_about_what_they_say() {
        let chaos = Chaos::new(1);
        let hits = (0..100_000).filter(|_| chaos.chance(100)).count();
        assert!((9_000..11_000).contains(&hits), "{hits}");
        assert!(!chaos.chance(0) && chaos.chance(1_000));
    }
}
