//! Montgomery arithmetic modulo an odd number of any size up to 128 limbs of 28 bits.
//!
//! Limbs hold 28 bits so that a column of products can be summed in 64 bits without a carry until the very end: the
//! inner loop is two products and two additions, which needs no wide product (wasm has none) and can use vectors.

use crate::natural::{LIMB_BITS, LIMB_MASK, Natural, low_limb};
use crate::ring::{OddPart, Ring};

/// The ring of residues modulo one odd number of at most `28 * N - 1` bits; residues are kept multiplied by `2^(28 N)`.
#[derive(Clone, Debug)]
pub struct Wide<const N: usize> {
    modulus: [u32; N],
    above: [u32; N],
    /// Minus the inverse of the modulus, modulo `2^28`.
    negated_inverse: u64,
    one: [u32; N],
}

/// The largest `N`: with more limbs a column of `2 N` products of 56 bits could overflow 64 bits.
pub const LIMBS_MAX: usize = 128;

impl<const N: usize> Wide<N> {
    /// The ring modulo `modulus`, which must be odd, above 1, and shorter than `28 * N` bits.
    pub fn new(modulus: &Natural) -> Self {
        const { assert!(N >= 2 && N <= LIMBS_MAX) };
        let fits = usize::try_from(modulus.bits()).is_ok_and(|bits| bits < N * LIMB_BITS as usize);
        assert!(fits && modulus.is_odd() && modulus.bits() > 1, "modulus does not suit {N} limbs: {modulus}");
        let limbs = padded(modulus);
        let mut ring =
            Self { modulus: limbs, above: padded(&modulus.plus(1)), negated_inverse: negated_inverse(limbs[0]), one: [0; N] };
        ring.one = ring.radix(modulus.bits());
        ring
    }

    /// `2^(28 N)` reduced: the power of two just below the modulus, doubled until it is there.
    fn radix(&self, modulus_bits: u32) -> [u32; N] {
        let top = modulus_bits - 1;
        let mut power = [0; N];
        power[(top / LIMB_BITS) as usize] = 1 << (top % LIMB_BITS);
        let target = u32::try_from(N).expect("at most 128") * LIMB_BITS;
        for _ in top..target {
            power = self.add(&power, &power);
        }
        power
    }

    /// `value - modulus` where that is not negative, else `value`.
    #[inline]
    fn reduced(&self, value: [u32; N]) -> [u32; N] {
        let (difference, borrowed) = subtract(&value, &self.modulus);
        if borrowed { value } else { difference }
    }
}

impl<const N: usize> Ring for Wide<N> {
    type Element = [u32; N];
    type Exponent = [u32; N];

    fn zero(&self) -> [u32; N] {
        [0; N]
    }

    fn one(&self) -> [u32; N] {
        self.one
    }

    #[inline]
    fn add(&self, a: &[u32; N], b: &[u32; N]) -> [u32; N] {
        self.reduced(sum(a, b))
    }

    #[inline]
    fn sub(&self, a: &[u32; N], b: &[u32; N]) -> [u32; N] {
        let (difference, borrowed) = subtract(a, b);
        if borrowed { sum(&difference, &self.modulus) } else { difference }
    }

    #[inline]
    fn half(&self, a: &[u32; N]) -> [u32; N] {
        let even = if a[0] & 1 == 0 { *a } else { sum(a, &self.modulus) };
        shifted_down(&even, 1)
    }

    fn mul(&self, a: &[u32; N], b: &[u32; N]) -> [u32; N] {
        let mut columns = [0u64; N];
        for &limb in a {
            let limb = u64::from(limb);
            let lowest = columns[0] + limb * u64::from(b[0]);
            let fold = ((lowest & LIMB_MASK) * self.negated_inverse) & LIMB_MASK;
            // The lowest column becomes a multiple of 2^28 and is shifted out; only its carry stays.
            let carry = (lowest + fold * u64::from(self.modulus[0])) >> LIMB_BITS;
            for j in 1..N {
                columns[j - 1] = columns[j] + limb * u64::from(b[j]) + fold * u64::from(self.modulus[j]);
            }
            columns[N - 1] = 0;
            columns[0] += carry;
        }
        self.reduced(carried(&columns))
    }

    fn below(&self) -> OddPart<[u32; N]> {
        let mut below = self.modulus;
        below[0] -= 1;
        odd_part(&below)
    }

    fn above(&self) -> OddPart<[u32; N]> {
        odd_part(&self.above)
    }

    #[inline]
    fn bit(exponent: &[u32; N], index: u32) -> bool {
        exponent[(index / LIMB_BITS) as usize] >> (index % LIMB_BITS) & 1 == 1
    }
}

fn padded<const N: usize>(number: &Natural) -> [u32; N] {
    let mut limbs = [0; N];
    limbs[..number.limbs().len()].copy_from_slice(number.limbs());
    limbs
}

fn negated_inverse(odd: u32) -> u64 {
    // Right modulo 8 to begin with; each Newton step doubles the number of right bits.
    let mut inverse = odd;
    for _ in 0..4 {
        inverse = inverse.wrapping_mul(2u32.wrapping_sub(odd.wrapping_mul(inverse)));
    }
    u64::from(inverse.wrapping_neg()) & LIMB_MASK
}

/// `a + b`; a carry out of the top limb cannot happen, because both are below a modulus that leaves the top bit free.
#[inline]
fn sum<const N: usize>(a: &[u32; N], b: &[u32; N]) -> [u32; N] {
    let mut result = [0; N];
    let mut carry = 0;
    for j in 0..N {
        let limb = u64::from(a[j]) + u64::from(b[j]) + carry;
        result[j] = low_limb(limb);
        carry = limb >> LIMB_BITS;
    }
    // When one operand is the negative difference of `sub`, this carry cancels its borrow.
    result
}

/// `a - b` modulo `2^(28 N)`, and whether it was negative.
#[inline]
fn subtract<const N: usize>(a: &[u32; N], b: &[u32; N]) -> ([u32; N], bool) {
    let mut result = [0; N];
    let mut borrow = 0;
    for j in 0..N {
        let limb = u64::from(a[j]) + (LIMB_MASK + 1) - u64::from(b[j]) - borrow;
        result[j] = low_limb(limb);
        borrow = 1 - (limb >> LIMB_BITS);
    }
    (result, borrow == 1)
}

#[inline]
fn carried<const N: usize>(columns: &[u64; N]) -> [u32; N] {
    let mut result = [0; N];
    let mut carry = 0;
    for j in 0..N {
        let limb = columns[j] + carry;
        result[j] = low_limb(limb);
        carry = limb >> LIMB_BITS;
    }
    result
}

fn odd_part<const N: usize>(number: &[u32; N]) -> OddPart<[u32; N]> {
    let zero_limbs = number.iter().take_while(|limb| **limb == 0).count();
    let mut odd = [0; N];
    odd[..N - zero_limbs].copy_from_slice(&number[zero_limbs..]);
    let zero_bits = odd[0].trailing_zeros();
    let odd = shifted_down(&odd, zero_bits);
    let limbs = u32::try_from(zero_limbs).expect("at most 128");
    let top = odd.iter().rposition(|limb| *limb != 0).expect("a neighbour of the modulus is not zero");
    let bits = u32::try_from(top).expect("at most 128") * LIMB_BITS + (u32::BITS - odd[top].leading_zeros());
    OddPart { odd, twos: limbs * LIMB_BITS + zero_bits, bits }
}

/// `number >> bits`, for less than 28 bits.
#[inline]
fn shifted_down<const N: usize>(number: &[u32; N], bits: u32) -> [u32; N] {
    let mut result = [0; N];
    for j in 0..N {
        let above = if j + 1 < N { u64::from(number[j + 1]) } else { 0 };
        result[j] = low_limb((u64::from(number[j]) | above << LIMB_BITS) >> bits);
    }
    result
}

#[cfg(test)]
mod tests {
    use num_bigint::BigUint;

    use super::*;

    fn big(limbs: &[u32]) -> BigUint {
        limbs.iter().rev().fold(BigUint::from(0u32), |sum, limb| (sum << LIMB_BITS) + limb)
    }

    /// Pseudo-random limbs below `modulus`.
    fn below<const N: usize>(state: &mut u64, modulus: &BigUint) -> [u32; N] {
        let mut number = BigUint::from(0u32);
        for _ in 0..N {
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            number = (number << LIMB_BITS) + (*state >> 36);
        }
        padded(&Natural::parse(&(number % modulus).to_string()).expect("decimal"))
    }

    fn agrees<const N: usize>(modulus: &str) {
        let natural = Natural::parse(modulus).expect("decimal");
        let ring = Wide::<N>::new(&natural);
        let n = big(&ring.modulus);
        assert_eq!(n.to_string(), modulus);
        let radix = BigUint::from(1u32) << (N * LIMB_BITS as usize);
        assert_eq!(big(&ring.one), &radix % &n);
        let mut state = 7;
        for _ in 0..100 {
            let (a, b) = (below::<N>(&mut state, &n), below::<N>(&mut state, &n));
            let product = ring.mul(&a, &b);
            assert_eq!(big(&product) * &radix % &n, big(&a) * big(&b) % &n);
            assert_eq!(big(&ring.add(&a, &b)), (big(&a) + big(&b)) % &n);
            assert_eq!(big(&ring.sub(&a, &b)), (big(&a) + &n - big(&b)) % &n);
            let half = ring.half(&a);
            assert_eq!(ring.add(&half, &half), a);
            assert_eq!(big(&ring.scale(&a, -13)), (&n * 13u32 - big(&a) * 13u32) % &n);
        }
        // Minus one squared: the largest columns that occur.
        let largest = ring.neg(&ring.one());
        assert_eq!(ring.mul(&largest, &largest), ring.one());
        let above = ring.above();
        assert_eq!(big(&above.odd) << above.twos, &n + 1u32);
        let below = ring.below();
        assert_eq!((big(&below.odd) << below.twos) + 1u32, n);
        assert_eq!(u64::from(below.bits), big(&below.odd).bits());
    }

    #[test]
    fn agrees_with_big_integers() {
        agrees::<2>("3");
        agrees::<3>("100000000000000000039");
        // 2^83 - 1: every limb full, one bit of room.
        agrees::<3>("9671406556917033397649407");
        agrees::<5>("170141183460469231731687303715884105727");
        agrees::<36>(&format!("1{}1", "0".repeat(300)));
        // The longest numbers that are read, of full limbs.
        agrees::<122>(&((BigUint::from(1u32) << 3400u32) - 1u32).to_string());
    }
}
