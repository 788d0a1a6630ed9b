//! Both halves of the test for several numbers of machine size side by side: a processor starts a product each cycle but has to
//! wait several for its outcome, so what one number waits for is spent on its neighbours.
//!
//! It answers exactly as `strong` and `lucas` do over a [`crate::word::Word`], one number at a time; numbers that do not suit a lane
//! are handed to them.

use crate::lucas::{Jacobi, Selfridge, jacobi, parameters, selfridge, strong_lucas};
use crate::strong::is_strong_probable_prime;
use crate::word::{Word, inverse, montgomery};

/// Numbers side by side in the strong test, of one product at a time each.
const STRONG: usize = 4;
/// Numbers side by side in the Lucas test, of two products at a time each.
const LUCAS: usize = 2;
/// What lanes are made for: shorter numbers go one by one.
const LEAST: u64 = 1 << 33;
/// Numbers next to a multiple of a higher power of two go one by one.
const TWOS_MAX: u32 = 20;

/// For each odd number above 1, in order, whether it is a strong probable prime to base 2.
pub fn strong_base_two(numbers: &[u64], passes: &mut Vec<bool>) {
    let lanes = numbers.chunks_exact(STRONG);
    let rest = lanes.remainder();
    for lane in lanes {
        let lane: &[u64; STRONG] = lane.try_into().expect("a whole chunk");
        if lane.iter().all(|n| suits(*n, lane[0], (n - 1).trailing_zeros())) {
            passes.extend_from_slice(&strong_lane(lane));
        } else {
            passes.extend(lane.iter().map(|n| is_strong_probable_prime(&Word::new(*n), 2)));
        }
    }
    passes.extend(rest.iter().map(|n| is_strong_probable_prime(&Word::new(*n), 2)));
}

/// For each odd number above 1, in order, whether it passes the strong Lucas-Selfridge test.
pub fn lucas(numbers: &[u64], passes: &mut Vec<bool>) {
    let first = passes.len();
    passes.resize(first + numbers.len(), false);
    let passes = &mut passes[first..];
    let (mut waiting, mut places, mut discriminants) = ([0; LUCAS], [0; LUCAS], [0; LUCAS]);
    let mut filled = 0;
    for (place, &number) in numbers.iter().enumerate() {
        if number < LEAST || number == u64::MAX {
            passes[place] = strong_lucas(&Word::new(number), &number).passes();
            continue;
        }
        let Selfridge::Discriminant(discriminant) = first_discriminant(number) else { continue };
        (waiting[filled], places[filled], discriminants[filled]) = (number, place, discriminant);
        filled += 1;
        if filled == LUCAS {
            filled = 0;
            if waiting.iter().all(|n| suits(*n, waiting[0], (n + 1).trailing_zeros())) {
                let outcome = lucas_lane(&waiting, discriminants);
                places.iter().zip(outcome).for_each(|(place, outcome)| passes[*place] = outcome);
            } else {
                places.iter().zip(waiting).for_each(|(place, n)| passes[*place] = strong_lucas(&Word::new(n), &n).passes());
            }
        }
    }
    for (place, number) in places.into_iter().zip(waiting).take(filled) {
        passes[place] = strong_lucas(&Word::new(number), &number).passes();
    }
}

/// Whether a number can stand in a lane with `first`.
fn suits(number: u64, first: u64, twos: u32) -> bool {
    number >= LEAST && number.leading_zeros() == first.leading_zeros() && twos < TWOS_MAX
}

/// As [`selfridge`], for numbers of at least `LEAST`: one division serves all of the first discriminants.
pub(crate) fn first_discriminant(number: u64) -> Selfridge {
    discriminant_by_remainder(remainder(number), || selfridge(&number))
}

/// What the first discriminants are divided by at once: 3 * 5 * 7 * 11 * 13 * 17 * 19 * 23.
pub(crate) const REMAINDER_OF: u32 = 111_546_435;

/// A number modulo `REMAINDER_OF`.
pub(crate) fn remainder(number: u64) -> u32 {
    u32::try_from(number % u64::from(REMAINDER_OF)).expect("below the divisor")
}

/// As [`first_discriminant`], from the number modulo `REMAINDER_OF`; what that does not decide, `otherwise` does.
#[inline]
pub(crate) fn discriminant_by_remainder(rest: u32, otherwise: impl Fn() -> Selfridge) -> Selfridge {
    macro_rules! try_magnitudes {
        ($($magnitude:literal $discriminant:literal),*) => {
            $({
                const SYMBOLS: [Jacobi; $magnitude] = symbols();
                match SYMBOLS[(rest % $magnitude) as usize] {
                    Jacobi::NonResidue => return Selfridge::Discriminant($discriminant),
                    Jacobi::SharedFactor(_) => return otherwise(),
                    Jacobi::Residue => {}
                }
            })*
        };
    }
    try_magnitudes!(5 5, 7 -7, 9 9, 11 -11, 13 13, 15 -15, 17 17, 19 -19, 21 21);
    otherwise()
}

/// The symbols of all residues modulo an odd number.
#[expect(clippy::cast_possible_truncation, reason = "a discriminant is small")]
const fn symbols<const MAGNITUDE: usize>() -> [Jacobi; MAGNITUDE] {
    let mut symbols = [Jacobi::Residue; MAGNITUDE];
    let mut rest = 0;
    while rest < MAGNITUDE {
        symbols[rest] = jacobi(rest as u32, MAGNITUDE as u32);
        rest += 1;
    }
    symbols
}

/// Moduli side by side, of one bit length, with what Montgomery's product needs of each.
struct Lane<const K: usize> {
    modulus: [u64; K],
    inverse: [u64; K],
    one: [u64; K],
}

impl<const K: usize> Lane<K> {
    #[inline(always)]
    fn new(numbers: &[u64; K]) -> Self {
        Self { modulus: *numbers, inverse: numbers.map(inverse), one: numbers.map(|n| n.wrapping_neg() % n) }
    }

    #[inline(always)]
    fn mul(&self, a: &[u64; K], b: &[u64; K]) -> [u64; K] {
        std::array::from_fn(|k| montgomery(a[k], b[k], self.modulus[k], self.inverse[k]))
    }

    #[inline(always)]
    fn sub(&self, a: &[u64; K], b: &[u64; K]) -> [u64; K] {
        std::array::from_fn(|k| {
            let (difference, borrowed) = a[k].overflowing_sub(b[k]);
            if borrowed { difference.wrapping_add(self.modulus[k]) } else { difference }
        })
    }

    fn is_minus_one(&self, residue: u64, k: usize) -> bool {
        residue == self.modulus[k] - self.one[k]
    }
}

/// The strong test to base 2 by powers of 1/2, which is 1 or -1 to the same exponents as 2. A power of 1/2 up to 2^-63 needs no
/// product in Montgomery's form, where 2^(64-e) stands for 2^-e.
#[inline(never)]
fn strong_lane(numbers: &[u64; STRONG]) -> [bool; STRONG] {
    let lane = Lane::new(numbers);
    let below = numbers.map(|n| n - 1);
    let twos = below.map(u64::trailing_zeros);
    let most = twos.into_iter().max().expect("a lane is not empty");
    let start = u64::BITS - numbers[0].leading_zeros() - 6;
    let mut power = below.map(|exponent| 1 << (64 - (exponent >> start)));
    let mut passes = [false; STRONG];
    for index in (0..start).rev() {
        power = lane.mul(&power, &power);
        for k in 0..STRONG {
            let half = (power[k] >> 1) + (((numbers[k] >> 1) + 1) & (power[k] & 1).wrapping_neg());
            power[k] = if below[k] >> index & 1 == 1 { half } else { power[k] };
        }
        if index > most || index == 0 {
            continue;
        }
        for k in 0..STRONG {
            passes[k] |= index == twos[k] && power[k] == lane.one[k] || index <= twos[k] && lane.is_minus_one(power[k], k);
        }
    }
    passes
}

/// The walk along W that `lucas` describes, over the bits of n + 1.
#[inline(never)]
fn lucas_lane(numbers: &[u64; LUCAS], discriminants: [i32; LUCAS]) -> [bool; LUCAS] {
    let lane = Lane::new(numbers);
    let above = numbers.map(|n| n + 1);
    let twos = above.map(u64::trailing_zeros);
    let most = twos.into_iter().max().expect("a lane is not empty");
    let two = lane.sub(&lane.one, &std::array::from_fn(|k| numbers[k] - lane.one[k]));
    let minus_two = lane.sub(&[0; LUCAS], &two);
    let mut first = [0; LUCAS];
    for k in 0..LUCAS {
        let Some(value) = first_term(numbers[k], discriminants[k]) else {
            return std::array::from_fn(|k| strong_lucas(&Word::new(numbers[k]), &numbers[k]).passes());
        };
        first[k] = value;
    }
    let (mut low, mut high) = (first, lane.sub(&lane.mul(&first, &first), &two));
    let mut passes = [false; LUCAS];
    for index in (0..u64::BITS - 1 - numbers[0].leading_zeros()).rev() {
        let between = lane.sub(&lane.mul(&low, &high), &first);
        let bits = above.map(|exponent| exponent >> index & 1 == 1);
        let root = std::array::from_fn(|k| if bits[k] { high[k] } else { low[k] });
        let square = lane.sub(&lane.mul(&root, &root), &two);
        low = std::array::from_fn(|k| if bits[k] { between[k] } else { square[k] });
        high = std::array::from_fn(|k| if bits[k] { square[k] } else { between[k] });
        if index > most {
            continue;
        }
        let (twice, product) = (lane.sub(&high, &lane.sub(&[0; LUCAS], &high)), lane.mul(&first, &low));
        for k in 0..LUCAS {
            let is_end = index == twos[k] && (low[k] == two[k] || low[k] == minus_two[k]) && twice[k] == product[k];
            passes[k] |= is_end || (2..=twos[k]).contains(&index) && low[k] == 0;
        }
    }
    passes
}

/// W(1) = P^2/Q - 2; none where the number shares a factor with Q.
#[inline(always)]
fn first_term(number: u64, discriminant: i32) -> Option<u64> {
    use crate::ring::Ring;
    let word = Word::new(number);
    let one = word.one();
    let two = word.add(&one, &one);
    match discriminant {
        // 25/5 - 2.
        5 => Some(word.add(&two, &one)),
        // 1/2 - 2, for Q = 2.
        -7 => Some(word.sub(&word.half(&one), &two)),
        other => {
            let q = parameters(other).q;
            let magnitude = q.unsigned_abs();
            let odd = magnitude >> magnitude.trailing_zeros();
            let rest = u32::try_from(number % u64::from(odd)).expect("below its divisor");
            if matches!(jacobi(rest, odd), Jacobi::SharedFactor(_)) {
                return None;
            }
            let fraction = word.divide(&one, magnitude);
            Some(word.sub(&if q < 0 { word.neg(&fraction) } else { fraction }, &two))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agree(numbers: &[u64]) {
        let (mut base_two, mut lucas_half) = (Vec::new(), Vec::new());
        strong_base_two(numbers, &mut base_two);
        lucas(numbers, &mut lucas_half);
        for (index, n) in numbers.iter().enumerate() {
            let ring = Word::new(*n);
            assert_eq!(base_two[index], is_strong_probable_prime(&ring, 2), "{n}, base 2");
            assert_eq!(lucas_half[index], strong_lucas(&ring, n).passes(), "{n}, Lucas");
            if *n >= LEAST {
                assert_eq!(first_discriminant(*n), selfridge(n), "{n}");
            }
        }
    }

    #[test]
    fn lanes_answer_as_numbers_one_by_one() {
        for first in [3, LEAST - 4001, (1 << 63) - 4001, 10_u64.pow(18) + 1, u64::MAX - 8000] {
            agree(&(0..4000).map(|index| first + 2 * index).collect::<Vec<_>>());
        }
        // Next to powers of two, and pseudoprimes of either kind.
        agree(&(34..64).flat_map(|bits| [(1u64 << bits) - 1, (1 << bits) + 1, (1 << bits) + 3]).collect::<Vec<_>>());
        agree(&[37_870_128_451, 46_493_311_411, 48_354_810_571, 181_212_049_547, 836_237_054_267, 3_825_123_056_546_413_051]);
        agree(&[18_446_744_073_709_551_615, 18_446_744_073_709_551_557, 18_446_744_073_709_551_533, 18_446_744_073_709_551_521]);
    }

    #[test]
    fn random_numbers_of_every_length_agree() {
        let mut state = 99u64;
        for bits in 34..=64 {
            let mut number = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state.rotate_left(32) | 1 << 63) >> (64 - bits) | 1
            };
            agree(&(0..500).map(|_| number()).collect::<Vec<_>>());
        }
    }
}
