//! What a census need not run: a small factor can show at once that a number fails a half.
//!
//! Let an odd prime p divide n.
//!
//! - A strong probable prime to base 2 has 2^(n-1) = 1 modulo n, so the order of 2 modulo p divides n - 1. With n - 1 = d 2^s, d odd: where that
//!   order is odd, 2^d = 1 modulo n, so 2 = 2^(d+1) is a square modulo every factor of n, and n is 1 or 7 modulo 8; where it is twice an
//!   odd number, 2^d = -1, so -2 is such a square, and n is 1 or 3 modulo 8.
//! - A strong Lucas probable prime has U(n+1) = 0 modulo n, so the rank of apparition of p (the least k > 0 with p | U(k)) divides n + 1. Where p
//!   divides Q there is no such k, because U(k) = 1 modulo p.
//!
//! A number that breaks one of these fails that half. What none excludes is tested in full.

use crate::lanes::{REMAINDER_OF, discriminant_by_remainder, remainder};
use crate::lucas::{Selfridge, parameters, selfridge};
use crate::sieve::odd_primes;

/// Primes up to this bound are tried as factors.
const BOUND: u32 = 1 << 13;
/// How many discriminants ranks are known for, from 5 on: nearly all numbers have one of these.
const DISCRIMINANTS: usize = 9;

/// What a small factor says of a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Excluded {
    pub(crate) base_two: bool,
    pub(crate) lucas: bool,
}

/// The primes to try, with the order of 2 and the ranks for each, and where a segment stands to them.
pub(crate) struct Factors {
    known: Vec<Factor>,
    /// Which factor each number of the segment has: the index in `known` plus one, 0 for none.
    found: Vec<u16>,
    first: u64,
    /// The first number modulo `REMAINDER_OF`.
    remainder: u32,
}

struct Factor {
    prime: u32,
    order: Divisor,
    /// Of each discriminant; a period of 0 stands for no rank at all.
    ranks: [Divisor; DISCRIMINANTS],
}

/// Something that must divide a neighbour of the number.
#[derive(Clone, Copy, Default)]
struct Divisor {
    period: u32,
    /// The neighbour of the segment's first number modulo the period.
    rest: u32,
}

impl Divisor {
    fn enter(&mut self, neighbour: u64) {
        if self.period > 0 {
            self.rest = u32::try_from(neighbour % u64::from(self.period)).expect("below the period");
        }
    }

    /// Whether it divides the neighbour of the number at this offset.
    #[inline]
    fn divides(self, offset: u32) -> bool {
        (self.rest + 2 * offset).is_multiple_of(self.period)
    }
}

impl Factors {
    pub(crate) fn new() -> Self {
        let smallest = smallest_factors(BOUND as usize + 2);
        let known = odd_primes(BOUND).into_iter().map(|prime| Factor::new(prime, &smallest)).collect();
        Self { known, found: Vec::new(), first: 0, remainder: 0 }
    }

    /// Looks at `length` odd numbers from `first` on, which must suit.
    pub(crate) fn segment(&mut self, first: u64, length: u32) {
        self.found.clear();
        self.found.resize(length as usize, 0);
        (self.first, self.remainder) = (first, remainder(first));
        // Large primes stand last: the larger the order, the more it excludes.
        for (index, factor) in self.known.iter_mut().enumerate() {
            factor.order.enter(first - 1);
            factor.ranks.iter_mut().for_each(|rank| rank.enter(first.wrapping_add(1)));
            let prime = u64::from(factor.prime);
            let distance = (prime - first % prime) % prime;
            let offset = if distance.is_multiple_of(2) { distance / 2 } else { (distance + prime) / 2 };
            let mark = u16::try_from(index + 1).expect("few primes");
            let multiples =
                self.found.iter_mut().skip(usize::try_from(offset).expect("below the prime")).step_by(factor.prime as usize);
            multiples.for_each(|found| *found = mark);
        }
    }

    /// Whether numbers from `first` on are large enough: none of them is one of the primes itself.
    pub(crate) fn suits(first: u64) -> bool {
        first > 1 << 33 && first < u64::MAX
    }

    /// What the factor of the number at this offset of the segment excludes.
    #[inline]
    pub(crate) fn excluded(&self, offset: u32) -> Excluded {
        let Some(index) = self.found[offset as usize].checked_sub(1) else { return Excluded::default() };
        let factor = &self.known[index as usize];
        Excluded { base_two: self.excludes_base_two(factor, offset), lucas: self.excludes_lucas(factor, offset) }
    }

    #[inline]
    fn excludes_base_two(&self, factor: &Factor, offset: u32) -> bool {
        let octave = (self.first + 2 * u64::from(offset)) % 8;
        let suits = match factor.order.period % 4 {
            1 | 3 => octave == 1 || octave == 7,
            2 => octave == 1 || octave == 3,
            _ => true,
        };
        !(suits && factor.order.divides(offset))
    }

    #[inline]
    fn excludes_lucas(&self, factor: &Factor, offset: u32) -> bool {
        let whole = self.remainder + 2 * offset;
        let rest = if whole >= REMAINDER_OF { whole - REMAINDER_OF } else { whole };
        match discriminant_by_remainder(rest, || selfridge(&(self.first + 2 * u64::from(offset)))) {
            Selfridge::Square | Selfridge::Factor(_) => true,
            Selfridge::Discriminant(discriminant) => {
                let index = (discriminant.unsigned_abs() as usize - 5) / 2;
                self.excluded_by(factor.ranks.get(index), offset)
            }
        }
    }

    fn excluded_by(&self, rank: Option<&Divisor>, offset: u32) -> bool {
        rank.is_some_and(|rank| rank.period == 0 || !rank.divides(offset))
    }
}

impl Factor {
    fn new(prime: u32, smallest: &[u32]) -> Self {
        let divisor = |period| Divisor { period, rest: 0 };
        let order = least_period(prime - 1, smallest, |exponent| power_of_two(exponent, prime) == 1);
        let ranks = std::array::from_fn(|index| {
            let magnitude = 5 + 2 * i32::try_from(index).expect("few");
            divisor(rank(prime, if magnitude % 4 == 1 { magnitude } else { -magnitude }, smallest))
        });
        Self { prime, order: divisor(order), ranks }
    }
}

/// The rank of apparition of an odd prime in U with P = 1 and Q = (1 - D) / 4; 0 where there is none. It is the prime itself where it divides D, and
/// divides p - (D/p) otherwise. (P = Q = 5 would change the terms for D = 5 by powers of 5 only.)
fn rank(prime: u32, discriminant: i32, smallest: &[u32]) -> u32 {
    let p = i64::from(prime);
    let q = if discriminant == 5 { -1 } else { i64::from(parameters(discriminant).q) };
    if q % p == 0 {
        return 0;
    }
    let vanishes = |index: u32| u_term(index, q, i64::from(discriminant), p) == 0;
    match i64::from(discriminant) % p {
        0 => prime,
        _ if vanishes(prime + 1) => least_period(prime + 1, smallest, vanishes),
        _ => least_period(prime - 1, smallest, vanishes),
    }
}

/// The least index at which something that comes again with a period vanishes, given a multiple of the period.
fn least_period(multiple: u32, smallest: &[u32], vanishes: impl Fn(u32) -> bool) -> u32 {
    let (mut period, mut rest) = (multiple, multiple);
    while rest > 1 {
        let factor = smallest[rest as usize];
        rest /= factor;
        if vanishes(period / factor) {
            period /= factor;
        }
    }
    period
}

fn power_of_two(exponent: u32, modulus: u32) -> u32 {
    (0..u32::BITS - exponent.leading_zeros()).rev().fold(1 % modulus, |power, bit| {
        let square = power * power % modulus;
        if exponent >> bit & 1 == 1 { 2 * square % modulus } else { square }
    })
}

/// U(index) modulo an odd p, with P = 1.
fn u_term(index: u32, q: i64, d: i64, p: i64) -> i64 {
    let half = |x: i64| (if x % 2 == 0 { x } else { x + p }) / 2;
    let (mut u, mut v, mut power) = (0, 2, 1);
    for bit in (0..u32::BITS - index.leading_zeros()).rev() {
        (u, v, power) = (u * v % p, (v * v - 2 * power).rem_euclid(p), power * power % p);
        if index >> bit & 1 == 1 {
            (u, v, power) = (half((u + v) % p), half((d * u + v).rem_euclid(p)), (power * q).rem_euclid(p));
        }
    }
    u
}

/// The smallest prime factor of each number below `end`.
fn smallest_factors(end: usize) -> Vec<u32> {
    let mut smallest: Vec<u32> = (0..u32::try_from(end).expect("small")).collect();
    for factor in (2..end).take_while(|factor| factor * factor < end) {
        for multiple in (factor * factor..end).step_by(factor) {
            smallest[multiple] = smallest[multiple].min(u32::try_from(factor).expect("small"));
        }
    }
    smallest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lucas::strong_lucas;
    use crate::strong::is_strong_probable_prime;
    use crate::word::Word;

    #[test]
    fn orders_and_ranks() {
        let smallest = smallest_factors(1000);
        // The Fibonacci numbers: 8 is the first index of a multiple of 7, 5 that of a multiple of 5, 10 of 11.
        assert_eq!([7, 5, 11].map(|prime| rank(prime, 5, &smallest)), [8, 5, 10]);
        // Q = 3 for D = -11: no U is a multiple of 3.
        assert_eq!(rank(3, -11, &smallest), 0);
        for prime in odd_primes(900) {
            let factor = Factor::new(prime, &smallest);
            let order = (1..)
                .scan(1, |power, k| {
                    *power = *power * 2 % prime;
                    Some((k, *power))
                })
                .find(|(_, power)| *power == 1);
            assert_eq!(Some(factor.order.period), order.map(|(k, _)| k), "the order of 2 modulo {prime}");
            for (d, q, found) in
                [(5, -1, factor.ranks[0]), (-7, 2, factor.ranks[1]), (-11, 3, factor.ranks[3]), (13, -3, factor.ranks[4])]
            {
                let (mut before, mut term, mut index) = (0i64, 1i64, 1);
                while term != 0 && index <= prime + 1 {
                    (before, term, index) = (term, (term - q * before).rem_euclid(prime.into()), index + 1);
                }
                let rank = if term == 0 { index } else { 0 };
                assert_eq!(found.period, rank, "the rank of {prime} for {d}");
            }
        }
    }

    #[test]
    fn nothing_is_excluded_that_passes() {
        for first in [(1 << 34) + 1, 37_870_128_001, 181_212_040_001, 10_u64.pow(18) + 1, u64::MAX - 20_000] {
            let mut factors = Factors::new();
            factors.segment(first, 10_000);
            let mut excluded = 0;
            for offset in 0..10_000 {
                let number = first + 2 * u64::from(offset);
                let says = factors.excluded(offset);
                excluded += u32::from(says.base_two && says.lucas);
                let ring = Word::new(number);
                assert!(!(says.base_two && is_strong_probable_prime(&ring, 2)), "{number}");
                assert!(!(says.lucas && strong_lucas(&ring, &number).passes()), "{number}");
            }
            assert!(excluded > 7_000, "most are: {excluded}");
        }
    }
}
