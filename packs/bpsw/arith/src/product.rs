//! Products of known primes: composite by construction, so that one which passes both halves is a counterexample whose factors prove it.

use num_bigint::BigUint;
use num_integer::Integer;

use crate::lucas::{Jacobi, Selfridge, jacobi_over, parameters, selfridge};
use crate::natural::{DIGITS_MAX, Natural};
use crate::verdict::{Effort, judge};

/// A product of two or more distinct odd primes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Product {
    factors: Vec<Natural>,
    value: Natural,
}

/// How a product fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Halves {
    /// It is a strong pseudoprime to base 2.
    pub base_two: bool,
    /// It is a strong Lucas pseudoprime.
    pub lucas: bool,
}

impl Product {
    /// Of these factors, in ascending order; none where it has more digits than are tested, a factor comes twice, or there is only one.
    pub fn new(mut factors: Vec<Natural>) -> Option<Self> {
        factors.sort();
        let is_distinct = factors.len() > 1 && factors.windows(2).all(|pair| pair[0] < pair[1]);
        let value = Natural::from(factors.iter().fold(BigUint::from(1u32), |product, factor| product * factor.value()));
        let fits = value.to_string().len() <= DIGITS_MAX;
        (is_distinct && fits).then_some(Self { factors, value })
    }

    /// The number itself.
    pub fn value(&self) -> &Natural {
        &self.value
    }

    /// Its factors, ascending.
    pub fn factors(&self) -> &[Natural] {
        &self.factors
    }

    /// Whether p - 1 divides n - 1 for each factor p: it is a Carmichael number (Korselt 1899).
    pub fn is_carmichael(&self) -> bool {
        let below = self.value.value() - 1u32;
        self.factors.iter().all(|factor| (&below % (factor.value() - 1u32)).bits() == 0)
    }

    /// What a Carmichael number must be to pass the Lucas half: with its discriminant D, (D/p) = -1 for each factor p, and their count is odd.
    /// Were (D/p) = 1, the rank of p would divide p - 1, so n - 1, and n + 1 too, so it would divide 2; but U(1) = U(2) = 1.
    pub fn signs_suit(&self) -> bool {
        let Selfridge::Discriminant(discriminant) = selfridge(&self.value) else { return false };
        let is_inert = |factor: &Natural| jacobi_over(discriminant, factor) == Jacobi::NonResidue;
        self.factors.len() % 2 == 1 && self.factors.iter().all(is_inert)
    }

    /// What it must be besides: the rank of each factor p divides p + 1 and n + 1, so that p divides U(gcd(p + 1, n + 1)).
    pub fn ranks_suit(&self) -> bool {
        let Selfridge::Discriminant(discriminant) = selfridge(&self.value) else { return false };
        let above = self.value.value() + 1u32;
        self.factors.iter().all(|factor| {
            let index = above.gcd(&(factor.value() + 1u32));
            divides_u(factor.value(), &index, discriminant)
        })
    }

    /// Both halves, run.
    pub fn halves(&self) -> Halves {
        let judged = judge(&self.value, Effort::Both);
        Halves { base_two: judged.base_two, lucas: judged.lucas.is_some_and(|lucas| lucas.passes()) }
    }
}

/// Whether an odd p divides U(index), with Selfridge's parameters and p no factor of 2QD. (Q may be 5 where D = 5: U differs by a unit.)
fn divides_u(p: &BigUint, index: &BigUint, discriminant: i32) -> bool {
    let residue = |small: i32| {
        let magnitude = BigUint::from(small.unsigned_abs()) % p;
        if small < 0 { (p - magnitude) % p } else { magnitude }
    };
    let half = |x: BigUint| if x.bit(0) { (x + p) >> 1 } else { x >> 1 };
    let q = if discriminant == 5 { -1 } else { parameters(discriminant).q };
    let (q, d) = (residue(q), residue(discriminant));
    let (mut u, mut v, mut power) = (BigUint::ZERO, BigUint::from(2u32), BigUint::from(1u32));
    for bit in (0..index.bits()).rev() {
        u = &u * &v % p;
        v = (&v * &v + (p << 1) - (&power << 1)) % p;
        power = &power * &power % p;
        if index.bit(bit) {
            (u, v) = (half((&u + &v) % p), half((&d * &u + &v) % p));
            power = &power * &q % p;
        }
    }
    u.bits() == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product(factors: &[u64]) -> Product {
        Product::new(factors.iter().map(|factor| Natural::from(*factor)).collect()).expect("distinct")
    }

    #[test]
    fn carmichael_numbers_and_others() {
        assert!(product(&[3, 11, 17]).is_carmichael());
        assert!(product(&[7, 13, 19]).is_carmichael());
        assert!(!product(&[3, 5, 7]).is_carmichael());
        assert_eq!(Product::new(vec![Natural::from(3), Natural::from(3)]), None);
        assert_eq!(Product::new(vec![Natural::from(3)]), None);
    }

    #[test]
    fn the_filters_let_every_lucas_pseudoprime_pass() {
        // Pomerance's second condition alone: D = 5, and p + 1 divides n + 1.
        for factors in [[107, 1907, 3923], [947, 2843, 67_307], [587, 7307, 194_963]] {
            let product = product(&factors);
            assert!(product.signs_suit() && product.ranks_suit(), "{factors:?}");
            assert_eq!(product.halves(), Halves { base_two: false, lucas: true });
        }
        // His first condition alone.
        for factors in [[619, 2267, 26_987], [547, 2731, 31_123], [331, 2971, 49_171]] {
            let product = product(&factors);
            assert!(product.is_carmichael() && !product.ranks_suit(), "{factors:?}");
            assert_eq!(product.halves(), Halves { base_two: true, lucas: false });
        }
    }
}
