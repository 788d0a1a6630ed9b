//! Random products under the first of Pomerance's conditions (Pomerance 1984): an odd number of distinct primes p = 3 modulo 8 with (5/p) = -1.
//!
//! A calibration: nothing makes p - 1 divide n - 1 or p + 1 divide n + 1, so that neither half is expected to be passed, ever. The number
//! of factors is always odd, or (5/n) would be 1.

use num_bigint::BigUint;

use crate::family::{Family, Tally};
use crate::natural::{DIGITS_MAX, Natural};
use crate::product::Product;
use crate::random::SplitMix64;
use crate::verdict::is_prime;

/// Products of primes of one size.
#[derive(Clone, Copy, Debug)]
pub struct PomeranceLite {
    target_digits: u32,
    prime_digits: u32,
}

/// The most draws for one prime: about one in ninety numbers of a hundred digits that suit is prime.
const DRAWS_MAX: u32 = 100_000;

impl PomeranceLite {
    /// Products of at least `target_digits` decimal digits, of primes of exactly `prime_digits`. None where the products would be too long, or where
    /// primes have fewer than 3 digits (there are too few) or more than a third of the target.
    pub fn new(target_digits: u32, prime_digits: u32) -> Option<Self> {
        // The last two primes can exceed the target.
        let longest = u64::from(target_digits) + 2 * u64::from(prime_digits);
        let suits = prime_digits >= 3 && target_digits / prime_digits >= 2 && longest <= DIGITS_MAX as u64;
        let has_room = prime_digits >= 7 || target_digits <= 100;
        (suits && has_room).then_some(Self { target_digits, prime_digits })
    }

    /// The product of a seed; none where no prime was found in so many draws.
    fn product(self, seed: &Natural) -> Option<Product> {
        let mut random = SplitMix64::of(&format!("pomerance_lite {} {} {seed}", self.target_digits, self.prime_digits));
        let target = BigUint::from(10u32).pow(self.target_digits - 1);
        let (mut factors, mut value): (Vec<Natural>, _) = (Vec::new(), BigUint::from(1u32));
        while value < target || factors.len() % 2 == 0 {
            let prime = self.prime(&mut random, &factors)?;
            value *= prime.value();
            factors.push(prime);
        }
        Product::new(factors)
    }

    /// A prime that suits and is not there yet.
    fn prime(self, random: &mut SplitMix64, factors: &[Natural]) -> Option<Natural> {
        let least = BigUint::from(10u32).pow(self.prime_digits - 1);
        let eighth = &least * 9u32 / 8u32;
        (0..DRAWS_MAX).find_map(|_| {
            // The least number that is 3 modulo 8, and some eights.
            let candidate = (&least - &least % 8u32) + 11u32 + random.below(&(&eighth - 2u32)) * 8u32;
            let candidate = Natural::from(candidate);
            let is_inert = matches!(candidate.remainder(5), 2 | 3);
            let suits = is_inert && candidate.remainder(3) != 0 && !factors.contains(&candidate) && is_prime(&candidate);
            suits.then_some(candidate)
        })
    }
}

impl Family for PomeranceLite {
    fn name(&self) -> String {
        format!("pomerance_lite {} {}", self.target_digits, self.prime_digits)
    }

    fn block(&self) -> u64 {
        256
    }

    fn counters(&self) -> &'static [&'static str] {
        &["products", "generation_failed", "half_fermat", "half_lucas"]
    }

    fn search(&self, first: &Natural, count: u64, tally: &mut Tally) {
        for index in 0..count {
            let Some(product) = self.product(&first.plus(index)) else {
                tally.count_if("generation_failed", true);
                tally.line(format!("{index}:none"));
                continue;
            };
            tally.count_if("products", true);
            tally.halves(&format!("{index}:{}", product.value()), product);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::FamilySearch;

    #[test]
    fn products_are_as_the_condition_says() {
        for (target, digits) in [(22, 7), (100, 18), (60, 5)] {
            let family = PomeranceLite::new(target, digits).expect("it fits");
            for seed in 1..20u64 {
                let product = family.product(&Natural::from(seed)).expect("primes are found");
                let length = product.value().to_string().len();
                assert!(length >= target as usize && product.factors().len() % 2 == 1, "seed {seed}: {product:?}");
                assert_eq!(
                    (product.value().remainder(8), matches!(product.value().remainder(5), 2 | 3)),
                    (3, true),
                    "seed {seed}"
                );
                for prime in product.factors() {
                    assert_eq!(prime.to_string().len(), digits as usize, "seed {seed}: {prime}");
                    assert!(prime.remainder(8) == 3 && matches!(prime.remainder(5), 2 | 3), "seed {seed}: {prime}");
                }
                assert_eq!(family.product(&Natural::from(seed)), Some(product), "the same seed, the same product");
            }
        }
        assert!(
            PomeranceLite::new(10, 7).is_none() && PomeranceLite::new(1234, 19).is_none() && PomeranceLite::new(22, 2).is_none()
        );
        assert!(PomeranceLite::new(1000, 19).is_some());
    }

    #[test]
    fn neither_half_is_passed() {
        let family = PomeranceLite::new(22, 7).expect("it fits");
        let mut search = FamilySearch::new(family, "1", "300").expect("seeds");
        while search.step() {}
        let found = search.findings();
        assert_eq!((found.checked, found.blocks.len(), found.counterexamples.len()), (300, 2, 0));
        assert_eq!((found.counters["products"], found.counters["half_fermat"], found.counters["half_lucas"]), (300, 0, 0));
    }
}
