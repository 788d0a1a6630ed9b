//! Montgomery arithmetic modulo an odd number below 2^64.

use crate::ring::{OddPart, Ring, complement};

/// The ring of residues modulo one odd 64-bit number; residues are kept multiplied by 2^64.
#[derive(Clone, Copy, Debug)]
pub struct Word {
    modulus: u64,
    /// The inverse of the modulus modulo 2^64.
    inverse: u64,
    /// 2^64 reduced, which stands for 1.
    one: u64,
}

impl Word {
    /// The ring modulo `modulus`, which must be odd and above 1.
    pub fn new(modulus: u64) -> Self {
        assert!(modulus > 1 && modulus % 2 == 1, "modulus must be odd and above 1: {modulus}");
        Self { modulus, inverse: inverse(modulus), one: modulus.wrapping_neg() % modulus }
    }
}

impl Ring for Word {
    type Element = u64;
    type Exponent = u64;

    fn zero(&self) -> u64 {
        0
    }

    fn one(&self) -> u64 {
        self.one
    }

    #[inline]
    fn add(&self, a: &u64, b: &u64) -> u64 {
        let gap = self.modulus - b;
        if *a >= gap { a - gap } else { a + b }
    }

    #[inline]
    fn sub(&self, a: &u64, b: &u64) -> u64 {
        if a >= b { a - b } else { self.modulus - (b - a) }
    }

    #[inline]
    fn half(&self, a: &u64) -> u64 {
        // For odd a, (a + n) / 2 without overflow: both are odd, so their halves lose exactly one together.
        if a & 1 == 0 { a >> 1 } else { (a >> 1) + (self.modulus >> 1) + 1 }
    }

    fn divide(&self, a: &u64, divisor: u32) -> u64 {
        let wide = u64::from(divisor);
        let (a_rest, n_rest) = (a % wide, self.modulus % wide);
        let narrow = |rest| u32::try_from(rest).expect("a remainder is below its divisor");
        let times = u64::from(complement(narrow(a_rest), narrow(n_rest), divisor));
        // (a + times * n) / divisor, taken apart so that nothing overflows.
        a / wide + times * (self.modulus / wide) + (a_rest + times * n_rest) / wide
    }

    #[inline]
    fn mul(&self, a: &u64, b: &u64) -> u64 {
        montgomery(*a, *b, self.modulus, self.inverse)
    }

    fn below(&self) -> OddPart<u64> {
        odd_part(self.modulus - 1)
    }

    fn above(&self) -> OddPart<u64> {
        match self.modulus.checked_add(1) {
            Some(above) => odd_part(above),
            None => OddPart { odd: 1, twos: 64, bits: 1 },
        }
    }

    #[inline]
    fn bit(exponent: &u64, index: u32) -> bool {
        exponent >> index & 1 == 1
    }
}

/// The inverse of an odd number modulo 2^64.
#[inline]
pub(crate) fn inverse(odd: u64) -> u64 {
    // Right modulo 32 to begin with; each Newton step doubles the number of right bits.
    let mut inverse = odd.wrapping_mul(3) ^ 2;
    for _ in 0..4 {
        inverse = inverse.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(inverse)));
    }
    inverse
}

/// `a * b / 2^64` modulo an odd number whose inverse modulo 2^64 is given (Montgomery 1985). `a` and `b` are reduced, as is the result.
#[inline(always)]
pub(crate) fn montgomery(a: u64, b: u64, modulus: u64, inverse: u64) -> u64 {
    let (low, high) = product(a, b);
    let folded = product(low.wrapping_mul(inverse), modulus).1;
    let (difference, borrowed) = high.overflowing_sub(folded);
    if borrowed { difference.wrapping_add(modulus) } else { difference }
}

fn odd_part(number: u64) -> OddPart<u64> {
    let twos = number.trailing_zeros();
    let odd = number >> twos;
    OddPart { odd, twos, bits: u64::BITS - odd.leading_zeros() }
}

/// The low and high half of `a * b`.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the two halves of a product are what is asked for")]
pub(crate) fn product(a: u64, b: u64) -> (u64, u64) {
    let whole = u128::from(a) * u128::from(b);
    (whole as u64, (whole >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_agree_with_128_bit_arithmetic() {
        let mut state = 1u64;
        for modulus in [3, 5, 97, u64::from(u32::MAX), (1 << 63) + 1, u64::MAX - 2, u64::MAX] {
            let ring = Word::new(modulus);
            for _ in 0..200 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let (a, b) = (state % modulus, state.rotate_left(31) % modulus);
                let wide = |x: u64| ring.mul(&x, &ring.mul(&ring.one, &ring.one));
                let (a_in, b_in) = (enter(&ring, a), enter(&ring, b));
                assert_eq!(wide(a_in), a_in, "multiplying by 1 changes nothing");
                let expected = u128::from(a) * u128::from(b) % u128::from(modulus);
                assert_eq!(ring.mul(&a_in, &b_in), enter(&ring, u64::try_from(expected).expect("reduced")));
                let half = ring.half(&a_in);
                assert_eq!(ring.add(&half, &half), a_in);
                for divisor in [1, 2, 4, 16, 32] {
                    assert_eq!(ring.scale(&ring.divide(&a_in, divisor), i64::from(divisor)), a_in);
                }
                assert_eq!(ring.sub(&ring.add(&a_in, &b_in), &b_in), a_in);
            }
        }
    }

    fn enter(ring: &Word, number: u64) -> u64 {
        let shifted = (u128::from(number) << 64) % u128::from(ring.modulus);
        u64::try_from(shifted).expect("reduced")
    }

    #[test]
    fn odd_parts_of_the_largest_number() {
        assert_eq!(Word::new(u64::MAX).above(), OddPart { odd: 1, twos: 64, bits: 1 });
        assert_eq!(Word::new(13).below(), OddPart { odd: 3, twos: 2, bits: 2 });
    }
}
