//! Pomerance's construction (Pomerance 1984; Chen and Greene 2003): primes that suit two moduli, and products of them that would pass both halves.
//!
//! With M a product of distinct primes that are 1 modulo 4, without 5, and N one of primes that are 3 modulo 4, a prime p suits if p = 3 modulo 8, (5/p) = -1,
//! (p-1)/2 divides M and (p+1)/4 divides N. A product n of an odd number of distinct ones that is 1 modulo M and -1 modulo N passes both halves:
//!
//! - n is 3 modulo 8 and (5/n) = -1, so Selfridge's D is 5, P = 1 and Q = -1;
//! - (n-1)/2 is an odd multiple of (p-1)/2 and 2^((p-1)/2) = -1 modulo each p, so 2^((n-1)/2) = -1 modulo n;
//! - (n+1)/2 is an odd multiple of (p+1)/2 and V((p+1)/2) = 0 modulo each p, as the square of α^((p+1)/2) is Q = -1; so V((n+1)/2) = 0 modulo n.
//!
//! Such a product can be hoped for where 2^|primes| exceeds the number of classes modulo MN. Where it does not, the largest primes of M and N are left out until
//! it does: the products then keep part of the conditions, and the search is a calibration.

use num_bigint::BigUint;

use crate::family::{Family, Tally};
use crate::natural::Natural;
use crate::product::Product;
use crate::subsets::Subsets;
use crate::verdict::is_prime;

/// The most primes of either modulus: M and N have at most 4,096 bits.
const MODULUS_PRIMES_MAX: usize = 128;
/// The most primes that products are made of.
const PRIMES_MAX: usize = 4096;

/// The two moduli, as primes in ascending order.
#[derive(Clone, Debug)]
pub struct Moduli {
    m: Vec<u32>,
    n: Vec<u32>,
}

impl Moduli {
    /// Of the primes of M and of N. None where one is no prime, comes twice, is 5, has the wrong remainder modulo 4, or where a list is empty or has more than
    /// 128.
    pub fn new(mut m: Vec<u32>, mut n: Vec<u32>) -> Option<Self> {
        let suits = |list: &mut Vec<u32>, remainder: u32| {
            list.sort_unstable();
            let size_fits = (1..=MODULUS_PRIMES_MAX).contains(&list.len());
            let is_right = |q: &u32| q % 4 == remainder && *q != 5 && is_prime(&Natural::from(u64::from(*q)));
            size_fits && list.windows(2).all(|pair| pair[0] < pair[1]) && list.iter().all(is_right)
        };
        (suits(&mut m, 1) && suits(&mut n, 3)).then_some(Self { m, n })
    }

    fn value_m(&self) -> BigUint {
        product_of(&self.m)
    }

    fn value_n(&self) -> BigUint {
        product_of(&self.n)
    }

    /// Whether a prime suits, and shares no factor with either modulus (else no product that it divides could be in the class).
    fn admits(&self, prime: &Natural) -> bool {
        let value = prime.value();
        let (half, quarter) = (value >> 1u32, (value + 1u32) >> 2u32);
        prime.remainder(8) == 3
            && matches!(prime.remainder(5), 2 | 3)
            && divides(&half, &self.value_m())
            && divides(&quarter, &self.value_n())
            && !divides(value, &self.value_n())
            && is_prime(prime)
    }

    fn text(&self) -> String {
        let list = |primes: &[u32]| primes.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        format!("{} {}", list(&self.m), list(&self.n))
    }
}

fn product_of(primes: &[u32]) -> BigUint {
    primes.iter().fold(BigUint::from(1u32), |product, prime| product * prime)
}

fn divides(divisor: &BigUint, number: &BigUint) -> bool {
    divisor <= number && (number % divisor).bits() == 0
}

/// The search for primes: an item is a subset of the primes of N by number, its product b, and p = 4b - 1.
#[derive(Clone, Debug)]
pub struct SuitingPrimes {
    moduli: Moduli,
    m: BigUint,
}

impl SuitingPrimes {
    /// Of these moduli.
    pub fn new(moduli: Moduli) -> Self {
        let m = moduli.value_m();
        Self { moduli, m }
    }

    /// The prime of a subset, if it suits. One that divides N suits too, though no product in the class has it.
    fn prime(&self, subset: &Natural) -> Option<Natural> {
        let chosen = self.moduli.n.iter().enumerate().filter(|(index, _)| subset.value().bit(*index as u64));
        let b = chosen.fold(BigUint::from(1u32), |product, (_, q)| product * *q);
        let half = (&b << 1u32) - 1u32;
        if !divides(&half, &self.m) {
            return None;
        }
        // b is odd, so p is 3 modulo 8.
        let prime = Natural::from((half << 1u32) + 1u32);
        (matches!(prime.remainder(5), 2 | 3) && is_prime(&prime)).then_some(prime)
    }
}

impl Family for SuitingPrimes {
    fn name(&self) -> String {
        format!("pomerance_modular primes {}", self.moduli.text())
    }

    fn block(&self) -> u64 {
        1 << 16
    }

    fn last(&self) -> Option<Natural> {
        Some(Natural::from((BigUint::from(1u32) << self.moduli.n.len()) - 1u32))
    }

    fn counters(&self) -> &'static [&'static str] {
        &["primes_found"]
    }

    fn search(&self, first: &Natural, count: u64, tally: &mut Tally) {
        for index in 0..count {
            if let Some(prime) = self.prime(&first.plus(index)) {
                tally.count_if("primes_found", true);
                tally.line(format!("{index}:{prime}"));
                tally.prime(prime);
            }
        }
    }
}

/// The search for products: an item is a far subset of the primes by number (see `subsets`).
#[derive(Clone, Debug)]
pub struct SuitingProducts {
    name: String,
    subsets: Subsets,
    is_calibration: bool,
}

impl SuitingProducts {
    /// Products of these primes. None where there are none or more than 4,096, or one comes twice, does not suit, or divides N.
    pub fn new(moduli: &Moduli, mut primes: Vec<Natural>) -> Option<Self> {
        primes.sort();
        let size_fits = (1..=PRIMES_MAX).contains(&primes.len());
        let is_distinct = primes.windows(2).all(|pair| pair[0] < pair[1]);
        if !size_fits || !is_distinct || !primes.iter().all(|prime| moduli.admits(prime)) {
            return None;
        }
        let mut kept: Vec<u32> = moduli.m.iter().chain(&moduli.n).copied().collect();
        kept.sort_unstable();
        let all = kept.len();
        while !kept.is_empty() && primes.len() as u64 <= classes(&kept).bits() {
            kept.pop();
        }
        // What is 1 modulo M and -1 modulo N, of the primes that are kept.
        let target = |modulus: &BigUint| {
            let n = product_of(&kept.iter().copied().filter(|q| q % 4 == 3).collect::<Vec<_>>());
            let m = modulus / &n;
            // 1 + M x with M x = -2 modulo N; where N is 1, x is 0.
            let inverse = (&m % &n).modinv(&n).unwrap_or_default();
            BigUint::from(1u32) + &m * ((&n * 2u32 - 2u32) * inverse % &n)
        };
        let subsets = Subsets::new(&primes, &kept, target);
        let list = primes.iter().map(Natural::to_string).collect::<Vec<_>>().join(",");
        let name = format!("pomerance_modular products {} {list}", moduli.text());
        Some(Self { name, subsets, is_calibration: kept.len() < all })
    }

    /// What products are asked for a remainder by: MN, or a divisor of it in a calibration.
    pub fn modulus(&self) -> Natural {
        Natural::from(self.subsets.modulus().clone())
    }

    /// Whether primes of the moduli were left out, so that what is found need not pass either half.
    pub fn is_calibration(&self) -> bool {
        self.is_calibration
    }
}

/// How many classes there are modulo a product of distinct primes: of those prime to it.
fn classes(primes: &[u32]) -> BigUint {
    primes.iter().fold(BigUint::from(1u32), |product, q| product * (q - 1))
}

impl Family for SuitingProducts {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn block(&self) -> u64 {
        256
    }

    fn last(&self) -> Option<Natural> {
        Some(self.subsets.last())
    }

    fn counters(&self) -> &'static [&'static str] {
        &["pairs_tried", "partial_matches", "products", "too_long", "half_fermat", "half_lucas"]
    }

    fn search(&self, first: &Natural, count: u64, tally: &mut Tally) {
        for index in 0..count {
            tally.count("pairs_tried", self.subsets.near_count());
            let meetings = self.subsets.meetings(&first.plus(index)).into_iter();
            // A single prime is no product, and of an even number of factors (5/n) would be 1.
            for meeting in meetings.filter(|meeting| meeting.factors.len() > 1 && meeting.factors.len() % 2 == 1) {
                tally.count_if("partial_matches", true);
                if !meeting.is_whole {
                    continue;
                }
                match Product::new(meeting.factors) {
                    Some(product) => {
                        tally.count_if("products", true);
                        tally.halves(&format!("{index}:{}", meeting.near), product);
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
    use crate::family::{FamilyFindings, FamilySearch};
    use crate::sieve::odd_primes;

    fn whole(family: impl Family) -> FamilyFindings {
        let last = family.last().expect("finite").to_string();
        let mut search = FamilySearch::new(family, "0", &last).expect("in order");
        while search.step() {}
        search.findings().clone()
    }

    fn below(bound: u32) -> Moduli {
        let of = |remainder: u32| odd_primes(bound).into_iter().filter(|q| q % 4 == remainder && *q != 5).collect();
        Moduli::new(of(1), of(3)).expect("right")
    }

    #[test]
    fn few_primes_suit_small_moduli() {
        let moduli = Moduli::new(vec![13, 17, 29, 37, 41], vec![3, 7, 11, 19, 23]).expect("right");
        let found = whole(SuitingPrimes::new(moduli.clone()));
        assert_eq!((&found.primes[..], found.checked), (&[Natural::from(3), Natural::from(83)][..], 32));
        // 3 divides N, so that no product in the class has it.
        assert!(SuitingProducts::new(&moduli, found.primes).is_none());
        assert!(SuitingProducts::new(&moduli, vec![Natural::from(83)]).is_some_and(|products| products.is_calibration()));
    }

    /// Those that suit the moduli of all primes below 200, and for 400 those up to (p+1)/4 = 10^9 that do not divide N, as an independent program lists them.
    const BELOW_200: [u64; 7] = [3, 83, 227, 29_867, 73_883, 479_027, 5_696_123];
    const BELOW_400: [u64; 20] = [
        563,
        11_867,
        29_867,
        40_763,
        73_883,
        123_323,
        129_083,
        203_627,
        281_867,
        479_027,
        893_147,
        1_558_307,
        4_999_187,
        5_696_123,
        14_472_803,
        17_182_283,
        19_821_107,
        32_604_563,
        197_808_827,
        300_507_563,
    ];

    #[test]
    fn the_primes_are_those_that_others_find() {
        let moduli = below(200);
        let walked: Vec<u64> = (3..6_000_000).step_by(8).filter(|p| moduli.admits(&Natural::from(*p))).collect();
        assert_eq!(walked, BELOW_200[2..], "3 and 83 divide N");
        // Of the primes of N, those that any of the seven needs; else there are 2^24 subsets.
        let is_needed = |q: &u32| BELOW_200.iter().any(|p| (p + 1) % u64::from(*q) == 0);
        let n: Vec<u32> = moduli.n.iter().copied().filter(is_needed).collect();
        assert!(n.len() < 16, "{n:?}");
        let mut found = whole(SuitingPrimes::new(Moduli::new(moduli.m, n).expect("right"))).primes;
        found.sort();
        assert_eq!(found, BELOW_200.map(Natural::from));
    }

    #[test]
    fn products_of_too_few_primes_are_a_calibration() {
        let moduli = below(400);
        let products = SuitingProducts::new(&moduli, BELOW_400.map(Natural::from).to_vec()).expect("they suit");
        let modulus = products.modulus();
        assert!(products.is_calibration() && moduli.value_m() * moduli.value_n() > *modulus.value());
        // Each that is found keeps what is asked of it.
        let (mut count, last) = (0, products.subsets.last().to_u64().expect("few"));
        for meeting in (0..=last).flat_map(|far| products.subsets.meetings(&Natural::from(far))) {
            let Some(product) = meeting.is_whole.then(|| Product::new(meeting.factors)).flatten() else { continue };
            count += u64::from(product.factors().len() % 2 == 1);
            for q in moduli.m.iter().chain(&moduli.n).filter(|q| modulus.remainder(**q) == 0) {
                assert_eq!(product.value().remainder(*q), if q % 4 == 1 { 1 } else { q - 1 }, "{product:?} modulo {q}");
            }
        }
        let found = whole(products);
        assert_eq!(found.counters["pairs_tried"], 1 << 20);
        assert!(count > 0 && found.counters["products"] == count, "{count} {:?}", found.counters);
        assert!(found.counterexamples.is_empty());
    }

    #[test]
    fn what_is_no_modulus_is_refused() {
        for (m, n) in [(vec![5], vec![3]), (vec![13, 13], vec![3]), (vec![13], vec![9]), (vec![3], vec![13]), (vec![], vec![3])] {
            assert!(Moduli::new(m.clone(), n.clone()).is_none(), "{m:?} {n:?}");
        }
        let moduli = Moduli::new(vec![13, 41], vec![3, 7]).expect("right");
        for primes in [&[83, 83][..], &[107], &[]] {
            assert!(SuitingProducts::new(&moduli, primes.iter().map(|p| Natural::from(*p)).collect()).is_none(), "{primes:?}");
        }
    }
}
