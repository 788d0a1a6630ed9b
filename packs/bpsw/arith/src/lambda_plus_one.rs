//! Carmichael numbers after Erdős (1956): products of primes p for which p - 1 divides a number Λ of many small factors, that are 1 modulo Λ.
//!
//! Then p - 1 divides n - 1 for each factor p (Korselt 1899). Nothing is asked of p + 1, so that the Lucas half is the test of the products, and what
//! Carmichael numbers that pass it must be (`product`) is counted beside. That n is 1 modulo Λ is sufficient, not necessary: a Carmichael number
//! whose p - 1 have a smaller common multiple can be missed.

use num_bigint::BigUint;

use crate::family::{Family, Tally};
use crate::natural::Natural;
use crate::product::Product;
use crate::subsets::Subsets;
use crate::verdict::is_prime;

/// The most divisors of Λ.
const DIVISORS_MAX: u64 = 100_000;

/// A number Λ, and the subsets of its primes.
#[derive(Clone, Debug)]
pub struct LambdaPlusOne {
    lambda: u64,
    subsets: Subsets,
}

impl LambdaPlusOne {
    /// Of Λ as primes with exponents. None where a base is no prime or comes twice, an exponent is 0, Λ is 2^63 or more, or it has
    /// more than 100,000 divisors.
    pub fn new(factors: &[(u32, u32)]) -> Option<Self> {
        let mut bases: Vec<u32> = factors.iter().map(|(base, _)| *base).collect();
        bases.sort_unstable();
        let is_distinct = bases.windows(2).all(|pair| pair[0] < pair[1]);
        let is_right = |(base, exponent): &(u32, u32)| *exponent > 0 && is_prime(&Natural::from(u64::from(*base)));
        let exponents_fit = factors.iter().try_fold(1u64, |divisors, (_, exponent)| {
            divisors.checked_mul(u64::from(*exponent) + 1).filter(|divisors| *divisors <= DIVISORS_MAX)
        });
        let lambda = factors.iter().try_fold(1u64, |product, (base, exponent)| {
            u64::from(*base).checked_pow(*exponent).and_then(|power| product.checked_mul(power)).filter(|next| *next >> 63 == 0)
        })?;
        if !is_distinct || exponents_fit.is_none() || !factors.iter().all(is_right) {
            return None;
        }
        let moduli: Vec<u32> =
            factors.iter().flat_map(|(base, exponent)| std::iter::repeat_n(*base, *exponent as usize)).collect();
        let subsets = Subsets::new(&primes(factors, lambda), &moduli, |_| BigUint::from(1u32));
        Some(Self { lambda, subsets })
    }
}

/// The primes p that do not divide Λ and for which p - 1 does, ascending.
fn primes(factors: &[(u32, u32)], lambda: u64) -> Vec<Natural> {
    let mut divisors = vec![1u64];
    for (base, exponent) in factors {
        let powers = (0..=*exponent).map(|power| u64::from(*base).pow(power));
        divisors = powers.flat_map(|power| divisors.iter().map(move |divisor| divisor * power)).collect();
    }
    divisors.sort_unstable();
    let above = divisors.into_iter().map(|divisor| divisor + 1).filter(|prime| !lambda.is_multiple_of(*prime));
    above.map(Natural::from).filter(is_prime).collect()
}

impl Family for LambdaPlusOne {
    fn name(&self) -> String {
        format!("lambda_plus_one {}", self.lambda)
    }

    fn block(&self) -> u64 {
        256
    }

    fn last(&self) -> Option<Natural> {
        Some(self.subsets.last())
    }

    fn counters(&self) -> &'static [&'static str] {
        &["pairs_tried", "too_long", "carmichaels", "spsp2", "t1_pass", "t2_pass", "lucas_pass"]
    }

    fn search(&self, first: &Natural, count: u64, tally: &mut Tally) {
        for index in 0..count {
            tally.count("pairs_tried", self.subsets.near_count());
            for meeting in self.subsets.meetings(&first.plus(index)) {
                // No prime, nor nothing, is a product.
                if meeting.factors.len() < 2 {
                    continue;
                }
                match Product::new(meeting.factors) {
                    Some(product) => {
                        tally.count_if("carmichaels", true);
                        tally.carmichael(&format!("{index}:{}", meeting.near), product);
                    }
                    None => tally.count_if("too_long", true),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::{FamilyFindings, FamilySearch, ItemsError};

    fn whole(factors: &[(u32, u32)]) -> FamilyFindings {
        let family = LambdaPlusOne::new(factors).expect("right");
        let last = family.last().expect("finite").to_string();
        let mut search = FamilySearch::new(family, "0", &last).expect("in order");
        while search.step() {}
        search.findings().clone()
    }

    fn products(family: &LambdaPlusOne) -> Vec<Product> {
        let last = family.subsets.last().to_u64().expect("few");
        let meetings = (0..=last).flat_map(|far| family.subsets.meetings(&Natural::from(far)));
        let mut found: Vec<Product> = meetings.filter_map(|meeting| Product::new(meeting.factors)).collect();
        found.sort_by(|a, b| a.value().cmp(b.value()));
        found
    }

    #[test]
    fn a_hundred_and_twenty_gives_the_three_that_are_known() {
        // Erdős' own example: of the 64 subsets of 7, 11, 13, 31, 41, 61 just these have products that are 1 modulo 120.
        let family = LambdaPlusOne::new(&[(2, 3), (3, 1), (5, 1)]).expect("right");
        let values: Vec<String> = products(&family).iter().map(|product| product.value().to_string()).collect();
        assert_eq!(values, ["41041", "172081", "852841"]);
        let found = whole(&[(2, 3), (3, 1), (5, 1)]);
        assert_eq!((found.counters["carmichaels"], found.counters["pairs_tried"]), (3, 64));
    }

    #[test]
    fn every_product_is_a_carmichael_number_and_none_passes_the_lucas_half() {
        let factors = [(2, 4), (3, 2), (5, 1), (7, 1)];
        let family = LambdaPlusOne::new(&factors).expect("right");
        let some = products(&family);
        assert!(some.len() > 100 && some.iter().all(Product::is_carmichael), "{}", some.len());
        let found = whole(&factors);
        assert_eq!(found.counters["carmichaels"], some.len() as u64);
        assert_eq!((found.counters["lucas_pass"], found.counterexamples.len()), (0, 0));
        assert!(found.counters["t2_pass"] <= found.counters["t1_pass"]);
    }

    #[test]
    fn what_is_no_lambda_is_refused() {
        for wrong in [&[(4, 1)][..], &[(2, 0)], &[(2, 1), (2, 2)], &[(2, 63)], &[(3, 4_000_000_000)], &[(1, 3)]] {
            assert!(LambdaPlusOne::new(wrong).is_none(), "{wrong:?}");
        }
        let large = LambdaPlusOne::new(&[(2, 10), (3, 6), (5, 4), (7, 3), (11, 2), (13, 2), (17, 1)]).expect("27,720 divisors");
        assert!(large.subsets.last().bits() > 100);
        let small = LambdaPlusOne::new(&[(2, 3), (3, 1), (5, 1)]).expect("right");
        assert_eq!(FamilySearch::new(small, "0", "8").err(), Some(ItemsError::Beyond(Natural::from(7))));
    }
}
