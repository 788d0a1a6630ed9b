//! The strong Lucas test with Selfridge's parameters, and the extra congruences that its chain gives for nothing.

use crate::ring::Ring;

/// How a number fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lucas {
    /// It is a perfect square, for which no discriminant exists.
    Square,
    /// The search for a discriminant met this proper factor.
    Factor(u32),
    /// It fails the strong test.
    Fails,
    /// It passes the strong test.
    Passes {
        /// The discriminant that was used.
        discriminant: i32,
        /// Whether `V(n+1) = 2Q` and `Q^((n+1)/2) = Q (Q/n)` hold too, as for every prime (Baillie, Fiori, Wagstaff 2021).
        congruences: bool,
    },
}

impl Lucas {
    /// Whether the strong test was passed.
    pub fn passes(self) -> bool {
        matches!(self, Self::Passes { .. })
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

/// The strong Lucas-Selfridge test of an odd number above 1, the modulus of `ring`.
pub fn strong_lucas<R: Ring>(ring: &R, subject: &impl Subject) -> Lucas {
    match selfridge(subject) {
        Selfridge::Square => Lucas::Square,
        Selfridge::Factor(factor) => Lucas::Factor(factor),
        Selfridge::Discriminant(discriminant) => chain(ring, subject, discriminant),
    }
}

/// Whether `discriminant` shows the modulus composite: the certificate of a failed congruence or Lucas test.
pub fn lucas_passes<R: Ring>(ring: &R, subject: &impl Subject, discriminant: i32) -> bool {
    chain(ring, subject, discriminant) == Lucas::Passes { discriminant, congruences: true }
}

enum Selfridge {
    Square,
    Factor(u32),
    Discriminant(i32),
}

/// The first of 5, -7, 9, -11, 13, ... that is a non-residue. Squares have none, so they are looked for once the first
/// tries have failed; after that a non-residue must come.
fn selfridge(subject: &impl Subject) -> Selfridge {
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

fn signed(magnitude: u32) -> i32 {
    let value = i32::try_from(magnitude).expect("discriminants stay small");
    if magnitude % 4 == 1 { value } else { -value }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Jacobi {
    Residue,
    NonResidue,
    SharedFactor(u32),
}

impl Jacobi {
    fn flipped_if(self, condition: bool) -> Self {
        match self {
            Self::Residue if condition => Self::NonResidue,
            Self::NonResidue if condition => Self::Residue,
            Self::Residue | Self::NonResidue | Self::SharedFactor(_) => self,
        }
    }
}

/// The Jacobi symbol (numerator / denominator) for an odd denominator.
fn jacobi(numerator: u32, denominator: u32) -> Jacobi {
    let (mut top, mut bottom) = (numerator % denominator, denominator);
    let mut flips = 0;
    while top != 0 {
        let twos = top.trailing_zeros();
        top >>= twos;
        flips += u32::from(twos % 2 == 1 && matches!(bottom % 8, 3 | 5));
        flips += u32::from(top % 4 == 3 && bottom % 4 == 3);
        (top, bottom) = (bottom % top, top);
    }
    if bottom == 1 { Jacobi::Residue.flipped_if(flips % 2 == 1) } else { Jacobi::SharedFactor(bottom) }
}

/// The Jacobi symbol (numerator / subject), by reciprocity.
fn jacobi_over(numerator: i32, subject: &impl Subject) -> Jacobi {
    let twos = numerator.trailing_zeros();
    let odd = numerator.unsigned_abs() >> twos;
    let rest = subject.remainder(8);
    let minus_one_flips = numerator < 0 && rest % 4 == 3;
    let two_flips = twos % 2 == 1 && matches!(rest, 3 | 5);
    let reciprocity_flips = odd % 4 == 3 && rest % 4 == 3;
    jacobi(subject.remainder(odd), odd).flipped_if(minus_one_flips ^ two_flips ^ reciprocity_flips)
}

/// U, V and Q^k for one index k.
struct Terms<E> {
    u: E,
    v: E,
    q: E,
}

/// The chain itself, left to right over the bits of the odd part of n + 1, with P = 1 and Q = (1 - D) / 4.
fn chain<R: Ring>(ring: &R, subject: &impl Subject, discriminant: i32) -> Lucas {
    let q = (1 - discriminant) / 4;
    let exponent = ring.above();
    let mut terms = Terms { u: ring.one(), v: ring.one(), q: ring.scale(&ring.one(), i64::from(q)) };
    for index in (0..exponent.bits - 1).rev() {
        terms = doubled(ring, &terms);
        if R::bit(&exponent.odd, index) {
            terms = incremented(ring, &terms, discriminant, q);
        }
    }
    let zero = ring.zero();
    let mut passed = terms.u == zero || terms.v == zero;
    for _ in 1..exponent.twos {
        double_v(ring, &mut terms);
        passed |= terms.v == zero;
    }
    if !passed {
        return Lucas::Fails;
    }
    // Here the index is (n + 1) / 2; one more doubling gives V(n + 1).
    let two_q = ring.scale(&ring.one(), 2 * i64::from(q));
    let v_holds = ring.sub(&ring.mul(&terms.v, &terms.v), &ring.scale(&terms.q, 2)) == two_q;
    let expected = match jacobi_over(q, subject) {
        Jacobi::Residue => ring.scale(&ring.one(), i64::from(q)),
        Jacobi::NonResidue => ring.scale(&ring.one(), -i64::from(q)),
        Jacobi::SharedFactor(_) => zero,
    };
    Lucas::Passes { discriminant, congruences: v_holds && terms.q == expected }
}

/// From index k to 2k.
#[inline]
fn doubled<R: Ring>(ring: &R, terms: &Terms<R::Element>) -> Terms<R::Element> {
    let u = ring.mul(&terms.u, &terms.v);
    let v = ring.sub(&ring.mul(&terms.v, &terms.v), &ring.add(&terms.q, &terms.q));
    Terms { u, v, q: ring.mul(&terms.q, &terms.q) }
}

/// From index k to 2k, where U is no longer wanted.
#[inline]
fn double_v<R: Ring>(ring: &R, terms: &mut Terms<R::Element>) {
    terms.v = ring.sub(&ring.mul(&terms.v, &terms.v), &ring.add(&terms.q, &terms.q));
    terms.q = ring.mul(&terms.q, &terms.q);
}

/// From index k to k + 1.
#[inline]
fn incremented<R: Ring>(ring: &R, terms: &Terms<R::Element>, discriminant: i32, q: i32) -> Terms<R::Element> {
    let u = ring.half(&ring.add(&terms.u, &terms.v));
    let v = ring.half(&ring.add(&ring.scale(&terms.u, i64::from(discriminant)), &terms.v));
    Terms { u, v, q: ring.scale(&terms.q, i64::from(q)) }
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

    #[test]
    fn known_strong_lucas_pseudoprimes_and_no_others() {
        let found: Vec<u64> = (3..60_000).step_by(2).filter(|n| test(*n).passes() && !is_prime(*n)).collect();
        assert_eq!(found, [5459, 5777, 10_877, 16_109, 18_971, 22_499, 24_569, 25_199, 40_309, 58_519]);
    }

    #[test]
    fn every_small_prime_passes_with_its_congruences() {
        for n in (3..100_000).step_by(2).filter(|n| is_prime(*n)) {
            assert!(matches!(test(n), Lucas::Passes { congruences: true, .. }), "{n}: {:?}", test(n));
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
        assert!(matches!(selfridge(&n), Selfridge::Discriminant(-7)));
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
