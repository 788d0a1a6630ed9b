//! Montgomery arithmetic modulo an odd number of any size up to 66 words of 64 bits.
//!
//! Products of words are 128 bits wide. That is one instruction natively and, with wide arithmetic, in wasm; without it such a
//! product would be a call, which is why the guest is built with it.

use crate::natural::Natural;
use crate::ring::{OddPart, Ring, complement};
use crate::word::inverse;

/// The ring of residues modulo one odd number of at most `64 * N` bits; residues are kept multiplied by `2^(64 N)`.
#[derive(Clone, Debug)]
pub struct Wide<const N: usize> {
    modulus: [u64; N],
    /// Minus the inverse of the modulus, modulo 2^64.
    negated_inverse: u64,
    one: [u64; N],
}

impl<const N: usize> Wide<N> {
    /// The ring modulo `modulus`, which must be odd, above 1, and fit `N` words.
    pub fn new(modulus: &Natural) -> Self {
        assert!(modulus.is_odd() && modulus.bits() > 1, "modulus must be odd and above 1: {modulus}");
        let words = padded(modulus);
        let mut ring = Self { modulus: words, negated_inverse: inverse(words[0]).wrapping_neg(), one: [0; N] };
        ring.one = ring.radix(modulus.bits());
        ring
    }

    /// `2^(64 N)` reduced: the power of two just below the modulus, doubled until it is there.
    fn radix(&self, modulus_bits: u32) -> [u64; N] {
        let top = modulus_bits - 1;
        let mut power = [0; N];
        power[(top / u64::BITS) as usize] = 1 << (top % u64::BITS);
        for _ in top..u32::try_from(N).expect("few words") * u64::BITS {
            power = self.add(&power, &power);
        }
        power
    }

    /// `value - modulus` where that is not negative, else `value`; `carry` is a bit above the value.
    #[inline]
    fn reduced(&self, value: [u64; N], carry: bool) -> [u64; N] {
        let (difference, borrowed) = subtract(&value, &self.modulus);
        if carry || !borrowed { difference } else { value }
    }
}

impl<const N: usize> Ring for Wide<N> {
    type Element = [u64; N];
    type Exponent = [u64; N];

    fn zero(&self) -> [u64; N] {
        [0; N]
    }

    fn one(&self) -> [u64; N] {
        self.one
    }

    #[inline]
    fn add(&self, a: &[u64; N], b: &[u64; N]) -> [u64; N] {
        let (total, carry) = sum(a, b);
        self.reduced(total, carry)
    }

    #[inline]
    fn sub(&self, a: &[u64; N], b: &[u64; N]) -> [u64; N] {
        let (difference, borrowed) = subtract(a, b);
        // The carry of this sum cancels the borrow.
        if borrowed { sum(&difference, &self.modulus).0 } else { difference }
    }

    #[inline]
    fn half(&self, a: &[u64; N]) -> [u64; N] {
        if a[0] & 1 == 0 {
            return shifted_down(a, 1, 0);
        }
        let (even, carry) = sum(a, &self.modulus);
        shifted_down(&even, 1, u64::from(carry))
    }

    fn divide(&self, a: &[u64; N], divisor: u32) -> [u64; N] {
        let times = complement(remainder(a, divisor), remainder(&self.modulus, divisor), divisor);
        let (mut total, mut carry) = ([0; N], 0);
        for j in 0..N {
            (total[j], carry) = fused(self.modulus[j], times.into(), a[j], carry);
        }
        let mut rest = u128::from(carry);
        for word in total.iter_mut().rev() {
            let dividend = rest << 64 | u128::from(*word);
            *word = low(dividend / u128::from(divisor));
            rest = dividend % u128::from(divisor);
        }
        total
    }

    fn mul(&self, a: &[u64; N], b: &[u64; N]) -> [u64; N] {
        let mut columns = [0; N];
        let mut top = false;
        for &word in a {
            let (lowest, mut carry) = fused(word, b[0], columns[0], 0);
            // The lowest column becomes a multiple of 2^64 and is shifted out; only its carry stays.
            let fold = lowest.wrapping_mul(self.negated_inverse);
            let (_, mut folded) = fused(fold, self.modulus[0], lowest, 0);
            for j in 1..N {
                let column;
                (column, carry) = fused(word, b[j], columns[j], carry);
                (columns[j - 1], folded) = fused(fold, self.modulus[j], column, folded);
            }
            let (highest, first) = carry.overflowing_add(folded);
            let (highest, second) = highest.overflowing_add(u64::from(top));
            columns[N - 1] = highest;
            top = first || second;
        }
        self.reduced(columns, top)
    }

    fn below(&self) -> OddPart<[u64; N]> {
        let mut below = self.modulus;
        below[0] -= 1;
        odd_part(&below, 0)
    }

    fn above(&self) -> OddPart<[u64; N]> {
        let mut one = [0; N];
        one[0] = 1;
        let (above, carry) = sum(&self.modulus, &one);
        odd_part(&above, u64::from(carry))
    }

    #[inline]
    fn bit(exponent: &[u64; N], index: u32) -> bool {
        exponent[(index / u64::BITS) as usize] >> (index % u64::BITS) & 1 == 1
    }
}

fn padded<const N: usize>(number: &Natural) -> [u64; N] {
    let mut words = [0; N];
    let digits = number.value().to_u64_digits();
    assert!(digits.len() <= N, "{number} does not fit {N} words");
    words[..digits.len()].copy_from_slice(&digits);
    words
}

/// The low word.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
fn low(wide: u128) -> u64 {
    wide as u64
}

/// The low and high word of `a * b + c + d`, which always fits.
#[inline(always)]
fn fused(a: u64, b: u64, c: u64, d: u64) -> (u64, u64) {
    let wide = u128::from(a) * u128::from(b) + u128::from(c) + u128::from(d);
    (low(wide), low(wide >> 64))
}

/// `a + b` modulo `2^(64 N)`, and the carry.
#[inline]
fn sum<const N: usize>(a: &[u64; N], b: &[u64; N]) -> ([u64; N], bool) {
    let (mut result, mut carry) = ([0; N], false);
    for j in 0..N {
        let (partial, first) = a[j].overflowing_add(b[j]);
        let (total, second) = partial.overflowing_add(u64::from(carry));
        result[j] = total;
        carry = first | second;
    }
    (result, carry)
}

/// `a - b` modulo `2^(64 N)`, and whether it was negative.
#[inline]
fn subtract<const N: usize>(a: &[u64; N], b: &[u64; N]) -> ([u64; N], bool) {
    let (mut result, mut borrow) = ([0; N], false);
    for j in 0..N {
        let (partial, first) = a[j].overflowing_sub(b[j]);
        let (total, second) = partial.overflowing_sub(u64::from(borrow));
        result[j] = total;
        borrow = first | second;
    }
    (result, borrow)
}

fn remainder<const N: usize>(number: &[u64; N], divisor: u32) -> u32 {
    let divisor = u128::from(divisor);
    let rest = number.iter().rev().fold(0, |rest, word| (rest << 64 | u128::from(*word)) % divisor);
    u32::try_from(rest).expect("a remainder is below its divisor")
}

/// The odd part of `number + carry * 2^(64 N)`; only `2^(64 N)` itself may carry.
fn odd_part<const N: usize>(number: &[u64; N], carry: u64) -> OddPart<[u64; N]> {
    let word_bits = |words: usize| u32::try_from(words).expect("few words") * u64::BITS;
    let mut odd = [0; N];
    if carry == 1 {
        odd[0] = 1;
        return OddPart { odd, twos: word_bits(N), bits: 1 };
    }
    let zero_words = number.iter().take_while(|word| **word == 0).count();
    odd[..N - zero_words].copy_from_slice(&number[zero_words..]);
    let zero_bits = odd[0].trailing_zeros();
    if zero_bits > 0 {
        odd = shifted_down(&odd, zero_bits, 0);
    }
    let top = odd.iter().rposition(|word| *word != 0).expect("a neighbour of the modulus is not zero");
    let bits = word_bits(top) + (u64::BITS - odd[top].leading_zeros());
    OddPart { odd, twos: word_bits(zero_words) + zero_bits, bits }
}

/// `(number + above * 2^(64 N)) >> bits`, for 0 < bits < 64.
#[inline]
fn shifted_down<const N: usize>(number: &[u64; N], bits: u32, above: u64) -> [u64; N] {
    let mut result = [0; N];
    for j in 0..N {
        let next = if j + 1 < N { number[j + 1] } else { above };
        result[j] = number[j] >> bits | next << (u64::BITS - bits);
    }
    result
}

#[cfg(test)]
mod tests {
    use num_bigint::BigUint;

    use super::*;

    fn big(words: &[u64]) -> BigUint {
        words.iter().rev().fold(BigUint::from(0u32), |sum, word| (sum << 64) + word)
    }

    /// Pseudo-random words below `modulus`.
    fn below<const N: usize>(state: &mut u64, modulus: &BigUint) -> [u64; N] {
        let mut number = BigUint::from(0u32);
        for _ in 0..2 * N {
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            number = (number << 32) + (*state >> 32);
        }
        padded(&(number % modulus).into())
    }

    fn agrees<const N: usize>(n: &BigUint) {
        let ring = Wide::<N>::new(&n.clone().into());
        assert_eq!(big(&ring.modulus), *n);
        let radix = BigUint::from(1u32) << (N * 64);
        assert_eq!(big(&ring.one), &radix % n);
        let mut state = 7;
        for _ in 0..100 {
            let (a, b) = (below::<N>(&mut state, n), below::<N>(&mut state, n));
            let product = ring.mul(&a, &b);
            assert_eq!(big(&product) * &radix % n, big(&a) * big(&b) % n);
            assert_eq!(big(&ring.add(&a, &b)), (big(&a) + big(&b)) % n);
            assert_eq!(big(&ring.sub(&a, &b)), (big(&a) + n - big(&b)) % n);
            let half = ring.half(&a);
            assert_eq!(ring.add(&half, &half), a);
            for divisor in [1, 2, 4, 8] {
                assert_eq!(ring.scale(&ring.divide(&a, divisor), divisor.into()), a);
            }
            assert_eq!(big(&ring.scale(&a, -13)), (n * 13u32 - big(&a) * 13u32 % n) % n);
        }
        // Minus one squared: the largest columns that occur.
        let largest = ring.neg(&ring.one());
        assert_eq!(ring.mul(&largest, &largest), ring.one());
        let (above, below) = (ring.above(), ring.below());
        assert_eq!(big(&above.odd) << above.twos, n + 1u32);
        assert_eq!((big(&below.odd) << below.twos) + 1u32, *n);
        assert_eq!(u64::from(below.bits), big(&below.odd).bits());
        assert_eq!(u64::from(above.bits), big(&above.odd).bits());
    }

    #[test]
    fn agrees_with_big_integers() {
        let power = |bits: u32| BigUint::from(1u32) << bits;
        agrees::<2>(&3u32.into());
        agrees::<2>(&(BigUint::from(10u32).pow(20) + 39u32));
        // Every bit set, no room above; and just above a power of two.
        agrees::<2>(&(power(128) - 1u32));
        agrees::<3>(&(power(128) + 1u32));
        agrees::<5>(&(power(300) + 7u32));
        agrees::<16>(&(BigUint::from(10u32).pow(301) + 1u32));
        agrees::<66>(&(BigUint::from(10u32).pow(1234) - 1u32));
    }
}
