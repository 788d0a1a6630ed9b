//! A small generator of pseudo-random numbers, the same on every target.

use num_bigint::BigUint;
use sha2::{Digest, Sha256};

/// SplitMix64 (Steele, Lea and Flood 2014).
#[derive(Clone, Debug)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// Seeded by a number.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Seeded by the first eight bytes, the highest first, of the SHA-256 of a text.
    pub fn of(text: &str) -> Self {
        let digest: [u8; 32] = Sha256::digest(text).into();
        Self(digest[..8].iter().fold(0, |seed, byte| seed << 8 | u64::from(*byte)))
    }

    /// The next 64 bits.
    pub fn next_word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`: 64 bits more than it has, the highest word first, reduced.
    pub fn below(&mut self, bound: &BigUint) -> BigUint {
        let words = bound.bits().div_ceil(64) + 1;
        (0..words).fold(BigUint::ZERO, |number, _| (number << 64) + self.next_word()) % bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_published_generator() {
        let mut random = SplitMix64(1_234_567);
        assert_eq!([random.next_word(), random.next_word()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
        let bound = BigUint::from(10u32).pow(40);
        let mut random = SplitMix64::of("a");
        assert!((0..100).all(|_| random.below(&bound) < bound));
    }
}
