//! Chernick's products (6k+1)(12k+1)(18k+1)(36k+1)..., Carmichael numbers where all factors are prime (Chernick 1939).
//!
//! A calibration: it yields strong pseudoprimes to base 2 in plenty and, as far as is known, nothing that passes the Lucas half. Odd k are left
//! out, because then 12k+1 is 5 modulo 8 and the order of 2 modulo it is 4 times an odd number, while modulo 6k+1, which is 3 modulo 4, it is at
//! most twice one: no such product is a strong pseudoprime to base 2.

use crate::family::{Family, Tally};
use crate::natural::Natural;
use crate::product::Product;
use crate::sieve::odd_primes;
use crate::verdict::is_prime;

/// The primes up to this bound are sieved by.
const SIEVE_TO: u32 = 1 << 14;

/// Products of so many factors.
#[derive(Clone, Copy, Debug)]
pub struct Chernick {
    multipliers: &'static [u32],
}

impl Chernick {
    /// Of 3, 4 or 5 factors.
    pub fn new(factors: u32) -> Option<Self> {
        const MULTIPLIERS: [u32; 5] = [6, 12, 18, 36, 72];
        // m factors ask for 2^(m-4) | k: no more than that k is even, which it is anyway.
        matches!(factors, 3..=5).then(|| Self { multipliers: &MULTIPLIERS[..factors as usize] })
    }

    fn factor(k: &Natural, multiplier: u32) -> Natural {
        Natural::from(k.value() * multiplier + 1u32)
    }

    /// Which of `count` numbers from `first` on have no small factor in any of their forms, and are even.
    fn survivors(self, first: &Natural, count: u64) -> Vec<u64> {
        let length = usize::try_from(count).expect("a block is small");
        let mut struck = vec![false; length];
        // A form that is itself a small prime must not be struck: small k are tested as they are.
        if first.value().bits() > u64::from(SIEVE_TO.ilog2()) {
            for prime in odd_primes(SIEVE_TO).into_iter().filter(|prime| *prime > 3) {
                let rest = first.remainder(prime);
                for multiplier in self.multipliers {
                    strike(&mut struck, prime, *multiplier, rest);
                }
            }
        }
        let first_even = u64::from(first.is_odd());
        let suits = |index: &u64| index % 2 == first_even && !struck[usize::try_from(*index).expect("in the block")];
        (0..count).filter(suits).collect()
    }
}

/// Strikes each index for which `multiplier * (rest + index) + 1` is a multiple of a prime above 3.
fn strike(struck: &mut [bool], prime: u32, multiplier: u32, rest: u32) {
    // The root k has multiplier * k + 1 = t * prime for a t up to the multiplier, which is small and no multiple of the prime.
    let ends = |t: u32| t * prime - 1;
    let root =
        (1..=multiplier).map(ends).find(|end| end.is_multiple_of(multiplier)).expect("the multiplier is a unit") / multiplier;
    for index in (((root + prime - rest) % prime) as usize..struck.len()).step_by(prime as usize) {
        struck[index] = true;
    }
}

impl Family for Chernick {
    fn name(&self) -> String {
        format!("chernick {}", self.multipliers.len())
    }

    fn block(&self) -> u64 {
        1 << 17
    }

    fn counters(&self) -> &'static [&'static str] {
        &["tuples", "spsp2", "t1_pass", "t2_pass", "lucas_pass"]
    }

    fn search(&self, first: &Natural, count: u64, tally: &mut Tally) {
        for index in self.survivors(first, count) {
            let k = first.plus(index);
            if k == Natural::from(0) {
                continue;
            }
            let factors = self.multipliers.iter().map(|multiplier| Self::factor(&k, *multiplier));
            let Some(factors) = factors.map(|factor| is_prime(&factor).then_some(factor)).collect() else { continue };
            let Some(product) = Product::new(factors) else { continue };
            tally.count_if("tuples", true);
            tally.carmichael(&index.to_string(), product);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::FamilySearch;

    fn search(factors: u32, from: &str, to: &str) -> (Vec<u64>, String) {
        let mut search = FamilySearch::new(Chernick::new(factors).expect("3 to 5"), from, to).expect("a range");
        while search.step() {}
        assert!(search.findings().counterexamples.is_empty());
        (search.findings().counters.values().copied().collect(), search.digest())
    }

    #[test]
    fn the_first_are_known() {
        // Of k = 1, 6, 35, 45, 51, 55, 56, 100 (Chernick's triples up to 100) three are even; the counters are in alphabetical order.
        assert_eq!(search(3, "1", "100").0[4], 3);
        // The four-factor product of k = 1 is odd; the next is of k = 45, and k = 56 is the first even one.
        assert_eq!(search(4, "1", "100").0[4], 1);
    }

    #[test]
    fn many_pass_base_two_and_none_the_lucas_half() {
        let (counters, _) = search(3, "20000", "200000");
        let [lucas, spsp2, _, t2, tuples] = counters[..] else { panic!("five counters: {counters:?}") };
        assert!(tuples > 300 && spsp2 * 4 > tuples && spsp2 < tuples, "{counters:?}");
        assert_eq!((lucas, t2), (0, 0));
    }

    #[test]
    fn sieving_loses_none() {
        let admissible = |k: &u64| [6, 12, 18].iter().all(|multiplier| is_prime(&Natural::from(multiplier * k + 1)));
        let expected = (100_000..110_000).step_by(2).filter(admissible).count() as u64;
        assert_eq!(search(3, "100000", "109999").0[4], expected);
    }
}
