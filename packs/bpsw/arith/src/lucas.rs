//! The strong Lucas test with Selfridge's parameters, and the two congruences that Baillie, Fiori and Wagstaff add to it.
//!
//! With roots a and b of x^2 - Px + Q, all that is asked of U and V can be asked of W(k) = (a/b)^k + (b/a)^k, the sequence V with
//! parameters P^2/Q - 2 and 1. It takes two products for each bit where U, V and Q^k take three. For an odd d, and for n that
//! shares no factor with 2PQD:
//!
//! - W(k) = V(2k) / Q^k, so V(2k) = 0 where W(k) = 0;
//! - V(d)^2 = Q^d (W(d) + 2) and D U(d)^2 = Q^d (W(d) - 2), and U(d) V(d) = 0 where 2 W(d+1) = (P^2/Q - 2) W(d). Where W(d) = 2, V(d) is
//!   a unit, so that the latter says U(d) = 0; where W(d) = -2, U(d) is one, and it says V(d) = 0. No root of 0 slips through.
//!
//! A number that shares a factor with Q fails: modulo that factor, U and V are powers of P.

use crate::ring::Ring;

/// How a number fared in the strong test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lucas {
    /// It is a perfect square, for which no discriminant exists.
    Square,
    /// The search for a discriminant met this proper factor.
    Factor(u32),
    /// It fails the strong test.
    Fails,
    /// It passes the strong test with this discriminant.
    Passes(i32),
}

impl Lucas {
    /// Whether the strong test was passed.
    pub fn passes(self) -> bool {
        matches!(self, Self::Passes(_))
    }
}

/// What the test must know of the number besides its ring.
pub trait Subject {
    /// The number modulo `divisor`.
    fn remainder(&self, divisor: u32) -> u32;
    /// Whether it equals `small`.
    fn equals(&self, small: u32) -> bool;
    /// Whether it is a perfect square.
    fn is_square(&self) -> bool;
}

/// The strong Lucas-Selfridge test of an odd number above 1, the modulus of `ring` (Baillie and Wagstaff 1980, method A).
pub fn strong_lucas<R: Ring>(ring: &R, subject: &impl Subject) -> Lucas {
    match selfridge(subject) {
        Selfridge::Square => Lucas::Square,
        Selfridge::Factor(factor) => Lucas::Factor(factor),
        Selfridge::Discriminant(discriminant) => match walk(ring, subject, discriminant) {
            Walk { passes: true, .. } => Lucas::Passes(discriminant),
            Walk { passes: false, .. } => Lucas::Fails,
        },
    }
}

/// Whether the strong test with `discriminant`, V(n+1) = 2Q and Q^((n+1)/2) = Q (Q/n) all hold modulo n, as they do for every prime of
/// which `discriminant` is a non-residue (Baillie, Fiori and Wagstaff 2021, method A*: P = Q = 5 where D = 5, for which the
/// strong test comes out the same).
pub fn congruences_hold<R: Ring>(ring: &R, subject: &impl Subject, discriminant: i32) -> bool {
    let walked = walk(ring, subject, discriminant);
    let Some(half) = walked.half else { return false };
    let q = i64::from(parameters(discriminant).q);
    // Q^((n+1)/2) is Q^(d * 2^(s-1)).
    let above = ring.above();
    let scaled = |factor| ring.scale(&ring.one(), factor);
    let mut power = scaled(q);
    for index in (0..above.bits - 1).rev() {
        power = ring.mul(&power, &power);
        if R::bit(&above.odd, index) {
            power = ring.scale(&power, q);
        }
    }
    for _ in 1..above.twos {
        power = ring.mul(&power, &power);
    }
    let expected = match jacobi_over(parameters(discriminant).q, subject) {
        Jacobi::Residue => scaled(q),
        Jacobi::NonResidue => scaled(-q),
        Jacobi::SharedFactor(_) => return false,
    };
    // W((n+1)/2) Q^((n+1)/2) is V(n+1).
    walked.passes && power == expected && ring.mul(&half, &power) == scaled(2 * q)
}

/// P and Q; P^2 - 4Q is the discriminant, or 5 for a discriminant of 5, whichever of the two ways of reaching it is taken.
pub(crate) struct Parameters {
    pub(crate) p: i32,
    pub(crate) q: i32,
}

/// Method A*: P = 1 and Q = (1 - D) / 4, but P = Q = 5 where D = 5.
pub(crate) fn parameters(discriminant: i32) -> Parameters {
    match discriminant {
        5 => Parameters { p: 5, q: 5 },
        other => Parameters { p: 1, q: (1 - other) / 4 },
    }
}

/// The outcome of the search for a discriminant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selfridge {
    /// There is none: the number is a perfect square.
    Square,
    /// A proper factor was met.
    Factor(u32),
    /// The first that is a non-residue.
    Discriminant(i32),
}

/// The first of 5, -7, 9, -11, 13, ... that is a non-residue. Squares have none, so they are looked for once the first
/// tries have failed; after that a non-residue must come.
pub fn selfridge(subject: &impl Subject) -> Selfridge {
    const SQUARE_CHECK_AT: u32 = 23;
    let mut magnitude = 5;
    loop {
        if magnitude == SQUARE_CHECK_AT && subject.is_square() {
            return Selfridge::Square;
        }
        // Every D of the sequence is 1 modulo 4, so (D/n) = (n/|D|) whatever the sign of D.
        match jacobi(subject.remainder(magnitude), magnitude) {
            Jacobi::NonResidue => return Selfridge::Discriminant(signed(magnitude)),
            Jacobi::SharedFactor(factor) if !subject.equals(factor) => return Selfridge::Factor(factor),
            Jacobi::SharedFactor(_) | Jacobi::Residue => magnitude += 2,
        }
    }
}

pub(crate) fn signed(magnitude: u32) -> i32 {
    let value = i32::try_from(magnitude).expect("discriminants stay small");
    if magnitude % 4 == 1 { value } else { -value }
}

/// A Jacobi symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Jacobi {
    Residue,
    NonResidue,
    SharedFactor(u32),
}

impl Jacobi {
    const fn flipped_if(self, condition: bool) -> Self {
        match self {
            Self::Residue if condition => Self::NonResidue,
            Self::NonResidue if condition => Self::Residue,
            Self::Residue | Self::NonResidue | Self::SharedFactor(_) => self,
        }
    }
}

/// The Jacobi symbol (numerator / denominator) for an odd denominator.
pub(crate) const fn jacobi(numerator: u32, denominator: u32) -> Jacobi {
    let (mut top, mut bottom) = (numerator % denominator, denominator);
    let mut is_flipped = false;
    while top != 0 {
        let twos = top.trailing_zeros();
        top >>= twos;
        is_flipped ^= twos % 2 == 1 && matches!(bottom % 8, 3 | 5);
        is_flipped ^= top % 4 == 3 && bottom % 4 == 3;
        (top, bottom) = (bottom % top, top);
    }
    if bottom == 1 { Jacobi::Residue.flipped_if(is_flipped) } else { Jacobi::SharedFactor(bottom) }
}

/// The Jacobi symbol (numerator / subject), by reciprocity.
pub(crate) fn jacobi_over(numerator: i32, subject: &impl Subject) -> Jacobi {
    let twos = numerator.trailing_zeros();
    let odd = numerator.unsigned_abs() >> twos;
    let rest = subject.remainder(8);
    let minus_one_flips = numerator < 0 && rest % 4 == 3;
    let two_flips = twos % 2 == 1 && matches!(rest, 3 | 5);
    let reciprocity_flips = odd % 4 == 3 && rest % 4 == 3;
    jacobi(subject.remainder(odd), odd).flipped_if(minus_one_flips ^ two_flips ^ reciprocity_flips)
}

/// Where the walk along W came to.
struct Walk<E> {
    passes: bool,
    /// W((n+1)/2); none where n shares a factor with Q.
    half: Option<E>,
}

/// W from index 1 to (n+1)/2, left to right over the bits of the odd part of n + 1.
fn walk<R: Ring>(ring: &R, subject: &impl Subject, discriminant: i32) -> Walk<R::Element> {
    let Parameters { p, q } = parameters(discriminant);
    let magnitude = q.unsigned_abs();
    if shares_factor(subject, magnitude) {
        return Walk { passes: false, half: None };
    }
    let (one, zero) = (ring.one(), ring.zero());
    let two = ring.add(&one, &one);
    let fraction = ring.divide(&ring.scale(&one, i64::from(p * p) * i64::from(q.signum())), magnitude);
    let first = ring.sub(&fraction, &two);
    let above = ring.above();
    // W(k) and W(k+1).
    let (mut low, mut high) = (first, ring.sub(&ring.mul(&first, &first), &two));
    for index in (0..above.bits - 1).rev() {
        let between = ring.sub(&ring.mul(&low, &high), &first);
        if R::bit(&above.odd, index) {
            (low, high) = (between, ring.sub(&ring.mul(&high, &high), &two));
        } else {
            (low, high) = (ring.sub(&ring.mul(&low, &low), &two), between);
        }
    }
    let is_end = low == two || low == ring.neg(&two);
    let mut passes = is_end && ring.add(&high, &high) == ring.mul(&first, &low);
    for _ in 1..above.twos {
        passes |= low == zero;
        low = ring.sub(&ring.mul(&low, &low), &two);
    }
    Walk { passes, half: Some(low) }
}

/// Whether the subject shares a factor with `magnitude`, which is small.
fn shares_factor(subject: &impl Subject, magnitude: u32) -> bool {
    let odd = magnitude >> magnitude.trailing_zeros();
    matches!(jacobi(subject.remainder(odd), odd), Jacobi::SharedFactor(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::word::Word;

    fn test(n: u64) -> Lucas {
        strong_lucas(&Word::new(n), &n)
    }

    fn is_prime(n: u64) -> bool {
        (3..).step_by(2).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d))
    }

    /// The test as it is defined: U, V and Q^k with P = 1, left to right, in plain numbers.
    fn by_definition(n: u64) -> bool {
        let Selfridge::Discriminant(discriminant) = selfridge(&n) else { return false };
        let n = i128::from(n);
        let (d, q) = (i128::from(discriminant), i128::from((1 - discriminant) / 4));
        let half = |x: i128| (if x % 2 == 0 { x } else { x + n } / 2).rem_euclid(n);
        let (mut u, mut v, mut power) = (1, 1, q.rem_euclid(n));
        let twos = (n + 1).trailing_zeros();
        let odd = (n + 1) >> twos;
        for index in (0..odd.ilog2()).rev() {
            (u, v, power) = (u * v % n, (v * v - 2 * power).rem_euclid(n), power * power % n);
            if odd >> index & 1 == 1 {
                (u, v, power) = (half((u + v) % n), half((d * u + v).rem_euclid(n)), (power * q).rem_euclid(n));
            }
        }
        let mut passes = u == 0 || v == 0;
        for _ in 1..twos {
            (v, power) = ((v * v - 2 * power).rem_euclid(n), power * power % n);
            passes |= v == 0;
        }
        passes
    }

    #[test]
    fn agrees_with_the_definition() {
        for n in (3..200_000).step_by(2) {
            assert_eq!(test(n).passes(), by_definition(n), "{n}");
        }
        let mut state = 1u64;
        for _ in 0..20_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let n = (state >> 4) | 1;
            assert_eq!(test(n).passes(), by_definition(n), "{n}");
        }
    }

    #[test]
    fn known_strong_lucas_pseudoprimes_and_no_others() {
        let found: Vec<u64> = (3..60_000).step_by(2).filter(|n| test(*n).passes() && !is_prime(*n)).collect();
        assert_eq!(found, [5459, 5777, 10_877, 16_109, 18_971, 22_499, 24_569, 25_199, 40_309, 58_519]);
    }

    #[test]
    fn every_small_prime_passes_with_its_congruences() {
        for n in (3..100_000).step_by(2).filter(|n| is_prime(*n)) {
            let Lucas::Passes(discriminant) = test(n) else { panic!("{n}: {:?}", test(n)) };
            assert!(congruences_hold(&Word::new(n), &n, discriminant), "{n}");
        }
    }

    #[test]
    fn no_known_pseudoprime_keeps_the_congruences() {
        for n in [5459u64, 5777, 10_877, 16_109, 18_971, 22_499, 24_569, 25_199, 40_309, 58_519] {
            let Lucas::Passes(discriminant) = test(n) else { panic!("{n} is a strong Lucas pseudoprime") };
            assert!(!congruences_hold(&Word::new(n), &n, discriminant), "{n}");
        }
    }

    /// V(n+1) = 2Q alone, by method A*, holds for five composites below 10^15 (Baillie, Fiori and Wagstaff 2021).
    #[test]
    fn the_five_that_keep_the_congruence_of_v_fail_the_strong_test() {
        for n in [913u64, 150_267_335_403, 430_558_874_533, 14_760_229_232_131, 936_916_995_253_453] {
            let Selfridge::Discriminant(discriminant) = selfridge(&n) else { panic!("{n} has a discriminant") };
            let ring = Word::new(n);
            let walked = walk(&ring, &n, discriminant);
            let q = i64::from(parameters(discriminant).q);
            let power = (0..n.div_ceil(2).ilog2()).rev().fold(ring.scale(&ring.one(), q), |power, index| {
                let square = ring.mul(&power, &power);
                if n.div_ceil(2) >> index & 1 == 1 { ring.scale(&square, q) } else { square }
            });
            let half = walked.half.expect("no factor in common with Q");
            assert_eq!(ring.mul(&half, &power), ring.scale(&ring.one(), 2 * q), "{n}");
            assert!(!walked.passes, "{n}");
        }
    }

    #[test]
    fn plain_lucas_pseudoprimes_that_are_not_strong_fail() {
        for n in [323, 377, 1159, 1829, 3827, 9071, 9179] {
            assert!(!test(n).passes(), "{n}");
        }
    }

    #[test]
    fn squares_end_the_search() {
        for root in [3u64, 5, 7, 11, 1093, 3511, 4_294_967_291] {
            assert!(!test(root * root).passes(), "{root}");
        }
        assert_eq!(test(1093 * 1093), Lucas::Square);
        assert_eq!(test(3511 * 3511), Lucas::Square);
    }

    #[test]
    fn rejects_what_passes_nine_prime_bases() {
        let n = 3_825_123_056_546_413_051;
        assert_eq!(test(n), Lucas::Fails);
        assert_eq!(selfridge(&n), Selfridge::Discriminant(-7));
    }

    #[test]
    fn symbols_agree_with_eulers_criterion() {
        for p in [3u64, 5, 7, 11, 13, 101] {
            for top in -30i32..30 {
                if top == 0 {
                    continue;
                }
                let reduced = u64::try_from(i64::from(top).rem_euclid(i64::try_from(p).expect("small"))).expect("reduced");
                let power = (0..(p - 1) / 2).fold(1, |power, _| power * reduced % p);
                let symbol = jacobi_over(top, &p);
                match power {
                    0 => assert!(matches!(symbol, Jacobi::SharedFactor(_)), "({top}/{p})"),
                    1 => assert_eq!(symbol, Jacobi::Residue, "({top}/{p})"),
                    _ => assert_eq!(symbol, Jacobi::NonResidue, "({top}/{p})"),
                }
            }
        }
    }
}
