//! A segmented sieve over odd numbers: takes out what a small prime divides, before the expensive tests.

use crate::natural::Natural;

/// Odd numbers in one segment: as many bytes fit a core's nearest cache.
const SEGMENT: u32 = 1 << 15;

/// Walks the odd numbers from a first one, segment by segment.
pub struct Sieve {
    strikers: Vec<Striker>,
    first: u64,
    count: u64,
    composite: Vec<bool>,
}

/// One prime, and the index (among all odd numbers of the walk) of its next multiple.
struct Striker {
    prime: u32,
    next: u64,
}

impl Sieve {
    /// Over `count` odd numbers from `first_odd` on, by the odd primes up to `bound`. A prime never strikes itself.
    pub fn new(first_odd: &Natural, count: u64, bound: u32) -> Self {
        let small = first_odd.to_u64();
        let striker = |prime| Striker { prime, next: first_multiple(first_odd, small, prime) };
        Self { strikers: odd_primes(bound).into_iter().map(striker).collect(), first: 0, count, composite: Vec::new() }
    }

    /// Calls `visit` with the index of every odd number that no prime struck, ascending.
    pub fn for_each(mut self, mut visit: impl FnMut(u64)) {
        while self.first < self.count {
            let length = u32::try_from(self.count - self.first).unwrap_or(SEGMENT).min(SEGMENT);
            self.strike(length);
            let survivors = self.composite.iter().zip(self.first..).filter(|(composite, _)| !**composite);
            survivors.for_each(|(_, index)| visit(index));
            self.first += u64::from(length);
        }
    }

    fn strike(&mut self, length: u32) {
        self.composite.clear();
        self.composite.resize(length as usize, false);
        let end = self.first + u64::from(length);
        for striker in &mut self.strikers {
            while striker.next < end {
                let offset = usize::try_from(striker.next - self.first).expect("inside the segment");
                self.composite[offset] = true;
                // Odd multiples of p are 2p apart, that is p odd numbers.
                striker.next += u64::from(striker.prime);
            }
        }
    }
}

/// The index of the first odd multiple of `prime` that is at least `prime` squared.
fn first_multiple(first_odd: &Natural, small: Option<u64>, prime: u32) -> u64 {
    let wide = u64::from(prime);
    if let Some(first) = small
        && first < wide * wide
    {
        return (wide * wide - first) / 2;
    }
    // Smallest i with first + 2 i = 0 modulo p; (p + 1) / 2 is the inverse of 2.
    let rest = u64::from(first_odd.remainder(prime));
    (wide - rest) % wide * (wide.div_ceil(2)) % wide
}

/// The odd primes up to `bound`.
fn odd_primes(bound: u32) -> Vec<u32> {
    // Index i stands for 2 i + 3.
    let mut composite = vec![false; (bound.saturating_sub(1) / 2) as usize];
    let mut primes = Vec::new();
    for index in 0..composite.len() {
        if composite[index] {
            continue;
        }
        let prime = 2 * index + 3;
        primes.push(u32::try_from(prime).expect("at most the bound"));
        for multiple in (prime.saturating_mul(prime).saturating_sub(3) / 2..composite.len()).step_by(prime) {
            composite[multiple] = true;
        }
    }
    primes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn survivors(first: u64, count: u64, bound: u32) -> Vec<u64> {
        let mut found = Vec::new();
        Sieve::new(&Natural::from(first), count, bound).for_each(|index| found.push(first + 2 * index));
        found
    }

    #[test]
    fn small_primes() {
        assert_eq!(odd_primes(2), [] as [u32; 0]);
        assert_eq!(odd_primes(3), [3]);
        assert_eq!(odd_primes(31), [3, 5, 7, 11, 13, 17, 19, 23, 29, 31]);
        assert_eq!(odd_primes(1 << 16).len(), 6541);
    }

    #[test]
    fn leaves_exactly_what_no_prime_divides() {
        for (first, bound) in [(3, 100), (5, 3), (1001, 50), (999_983, 1000), (u64::MAX - 2_000_000, 300)] {
            let primes = odd_primes(bound);
            let free = |n: &u64| primes.iter().all(|p| !n.is_multiple_of(u64::from(*p)) || *n < u64::from(*p).pow(2));
            let expected: Vec<u64> = (0..100_000).map(|i| first + 2 * i).filter(free).collect();
            assert_eq!(survivors(first, 100_000, bound), expected, "from {first} by primes to {bound}");
        }
    }
}
