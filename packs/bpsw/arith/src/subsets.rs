//! Subsets of a set of primes whose product lies in a wanted class, found by a meeting in the middle.
//!
//! The smallest primes are the near part: the inverses of all its subset products stand in a sorted table. A subset of the others, the far part, has
//! a number, bit i of which says whether the i-th of them belongs to it. Where its product is the target times an entry, the two together are what is
//! wanted. Moduli beyond a word are met in a divisor that fits one, and what meets there is checked in full.

use num_bigint::BigUint;

use crate::natural::Natural;

/// The largest near part: a table of 2^18 entries takes 4 MiB.
const NEAR_MAX: u64 = 18;

/// Primes, and the class that is wanted.
#[derive(Clone, Debug)]
pub struct Subsets {
    near: Vec<Natural>,
    far: Vec<Natural>,
    far_residues: Vec<u64>,
    modulus: BigUint,
    target: BigUint,
    partial: u64,
    /// The target times the inverse of each near product, modulo `partial`, with the near subset; sorted.
    table: Vec<(u64, u32)>,
}

/// A far and a near subset whose product meets the target modulo a divisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meeting {
    /// The near subset: bit i stands for the i-th smallest prime.
    pub near: u32,
    /// All primes of both.
    pub factors: Vec<Natural>,
    /// Whether it meets the target modulo the whole modulus.
    pub is_whole: bool,
}

impl Subsets {
    /// Subsets of `primes`, ascending and no divisors of the modulus, whose product is `target` modulo the product of `moduli`, each of which fits 32 bits.
    pub fn new(primes: &[Natural], moduli: &[u32], target: impl Fn(&BigUint) -> BigUint) -> Self {
        let modulus = moduli.iter().fold(BigUint::from(1u32), |product, factor| product * factor);
        let target = target(&modulus) % &modulus;
        let fitting = |product: u64, factor: &u32| product.checked_mul(u64::from(*factor)).filter(|next| *next >> 63 == 0);
        let partial = moduli.iter().fold(1, |product, factor| fitting(product, factor).unwrap_or(product));
        // With as many entries as there are classes, or a few times more, a far subset meets about one near subset.
        let classes = u64::from(partial.ilog2()) + 1;
        let size = usize::try_from((primes.len() as u64 / 2).min(classes).min(NEAR_MAX)).expect("small");
        let (near, far) = primes.split_at(size);
        let far_residues = far.iter().map(|prime| residue(prime.value(), partial)).collect();
        let table = table(near, residue(&target, partial), partial);
        Self { near: near.to_vec(), far: far.to_vec(), far_residues, modulus, target, partial, table }
    }

    /// How many near subsets each far subset is tried with.
    pub fn near_count(&self) -> u64 {
        1 << self.near.len()
    }

    /// The number of the far subset that has all of the far part.
    pub fn last(&self) -> Natural {
        Natural::from((BigUint::from(1u32) << self.far.len()) - 1u32)
    }

    /// The modulus.
    pub fn modulus(&self) -> &BigUint {
        &self.modulus
    }

    /// What the far subset of this number meets, in the order of the near subsets.
    pub fn meetings(&self, far: &Natural) -> Vec<Meeting> {
        let chosen = |index: &usize| far.value().bit(*index as u64);
        let wanted = (0..self.far.len())
            .filter(chosen)
            .fold(1 % self.partial, |product, index| multiply(product, self.far_residues[index], self.partial));
        let start = self.table.partition_point(|(residue, _)| *residue < wanted);
        let equal = self.table[start..].iter().take_while(|(residue, _)| *residue == wanted);
        equal.map(|(_, near)| self.meeting(*near, (0..self.far.len()).filter(chosen).map(|index| &self.far[index]))).collect()
    }

    fn meeting<'a>(&'a self, near: u32, far: impl Iterator<Item = &'a Natural>) -> Meeting {
        let chosen = self.near.iter().enumerate().filter(|(index, _)| near >> index & 1 == 1);
        let factors: Vec<Natural> = chosen.map(|(_, prime)| prime).chain(far).cloned().collect();
        let one = BigUint::from(1u32) % &self.modulus;
        let product = factors.iter().fold(one, |product, factor| product * factor.value() % &self.modulus);
        Meeting { near, factors, is_whole: product == self.target }
    }
}

fn residue(number: &BigUint, modulus: u64) -> u64 {
    u64::try_from(number % modulus).expect("a remainder is below its divisor")
}

fn multiply(a: u64, b: u64, modulus: u64) -> u64 {
    u64::try_from(u128::from(a) * u128::from(b) % u128::from(modulus)).expect("a remainder is below its divisor")
}

fn table(near: &[Natural], target: u64, modulus: u64) -> Vec<(u64, u32)> {
    let mut table = vec![(target, 0)];
    for (index, prime) in near.iter().enumerate() {
        let inverse = prime.value().modinv(&BigUint::from(modulus)).unwrap_or_default();
        let inverse = residue(&inverse, modulus);
        let with = |(value, subset): &(u64, u32)| (multiply(*value, inverse, modulus), subset | 1 << index);
        let more: Vec<(u64, u32)> = table.iter().map(with).collect();
        table.extend(more);
    }
    table.sort_unstable();
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naturals(numbers: &[u64]) -> Vec<Natural> {
        numbers.iter().map(|number| Natural::from(*number)).collect()
    }

    fn whole(subsets: &Subsets) -> Vec<BigUint> {
        let last = subsets.last().to_u64().expect("few");
        let meetings = (0..=last).flat_map(|far| subsets.meetings(&Natural::from(far)));
        let product = |factors: &[Natural]| factors.iter().fold(BigUint::from(1u32), |product, prime| product * prime.value());
        let mut found: Vec<BigUint> =
            meetings.filter(|meeting| meeting.is_whole).map(|meeting| product(&meeting.factors)).collect();
        found.sort();
        found
    }

    fn all(primes: &[u64], modulus: &BigUint, target: &BigUint) -> Vec<BigUint> {
        let product = |subset: u32| {
            let chosen = primes.iter().enumerate().filter(|(index, _)| subset >> index & 1 == 1);
            chosen.fold(BigUint::from(1u32), |product, (_, prime)| product * *prime)
        };
        let mut found: Vec<BigUint> = (0..1 << primes.len()).map(product).filter(|n| n % modulus == *target).collect();
        found.sort();
        found
    }

    #[test]
    fn finds_just_what_trying_all_finds() {
        let primes = [17, 19, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79];
        for moduli in [&[8, 9][..], &[1], &[5, 7, 11], &[2]] {
            for residue in [1u32, 5] {
                let subsets = Subsets::new(&naturals(&primes), moduli, |_| BigUint::from(residue));
                let target = BigUint::from(residue) % subsets.modulus();
                assert_eq!(whole(&subsets), all(&primes, subsets.modulus(), &target), "{residue} modulo {moduli:?}");
            }
        }
    }

    #[test]
    fn what_meets_in_a_divisor_is_checked_in_full() {
        // A modulus of 93 bits, with a target that one subset hits.
        let primes = [17, 19, 29, 31, 37, 41];
        let hit = BigUint::from(17u32 * 29 * 41);
        let subsets = Subsets::new(&naturals(&primes), &[2_147_483_647, 2_147_483_629, 2_147_483_587], |_| hit.clone());
        assert_eq!(whole(&subsets), [hit]);
        let many = Subsets::new(&naturals(&primes), &[3, 4_294_967_291, 4_294_967_279], |_| BigUint::from(1u32));
        assert!(many.modulus().bits() > 64);
        assert_eq!(whole(&many), [BigUint::from(1u32)], "the empty product");
    }
}
