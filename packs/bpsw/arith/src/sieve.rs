//! A segmented sieve over odd numbers: takes out what a small prime divides, before the expensive tests.

use crate::natural::Natural;

/// Primes below this strike whole words by a pattern that repeats after as many words as the prime says.
const PATTERN_BELOW: u32 = 64;

/// Walks the odd numbers from a first one on, segment by segment.
pub struct Sieve {
    patterns: Vec<Pattern>,
    /// The larger primes, and beside them the offset of the next multiple of each from the start of the next segment.
    primes: Vec<u32>,
    next: Vec<u64>,
    struck: Vec<u64>,
}

/// A small prime: its words, and which of them is the first of the next segment.
struct Pattern {
    words: Vec<u64>,
    /// The offset of the next multiple.
    next: u64,
    /// The prime's own place, which is not struck; none where the walk begins beyond it.
    own: Option<u64>,
}

impl Sieve {
    /// Over `count` odd numbers from `first_odd` on, by the odd primes up to `bound`. A prime never strikes itself.
    pub fn new(first_odd: &Natural, count: u64, bound: u32) -> Self {
        let small = first_odd.to_u64();
        let mut sieve = Self { patterns: Vec::new(), primes: Vec::new(), next: Vec::new(), struck: Vec::new() };
        for prime in odd_primes(bound) {
            if prime < PATTERN_BELOW {
                sieve.patterns.push(Pattern::new(first_odd, prime));
                continue;
            }
            let next = first_multiple(first_odd, small, prime);
            if next < count {
                sieve.primes.push(prime);
                sieve.next.push(next);
            }
        }
        sieve
    }

    /// Appends the offsets, from the start of this segment, of those among its `length` odd numbers that no prime struck, ascending. The
    /// next call goes on behind it.
    pub fn segment(&mut self, length: u32, survivors: &mut Vec<u32>) {
        self.struck.clear();
        self.struck.resize(length.div_ceil(u64::BITS) as usize, 0);
        for pattern in &mut self.patterns {
            pattern.strike(&mut self.struck, length);
        }
        strike(&mut self.struck, &self.primes, &mut self.next, length);
        for (word, base) in self.struck.iter().zip((0..length).step_by(64)) {
            let left = length - base;
            let mut alive = !word & if left < 64 { (1 << left) - 1 } else { u64::MAX };
            while alive != 0 {
                survivors.push(base + alive.trailing_zeros());
                alive &= alive - 1;
            }
        }
    }
}

fn strike(struck: &mut [u64], primes: &[u32], next: &mut [u64], length: u32) {
    for (&prime, next) in primes.iter().zip(next) {
        // Odd multiples of p are 2p apart, that is p odd numbers.
        let (step, end) = (u64::from(prime), u64::from(length));
        let mut offset = *next;
        while offset < end {
            if let Some(word) = struck.get_mut((offset >> 6) as usize) {
                *word |= 1 << (offset & 63);
            }
            offset += step;
        }
        *next = offset - end;
    }
}

impl Pattern {
    fn new(first_odd: &Natural, prime: u32) -> Self {
        let mut words = vec![0; prime as usize];
        for multiple in (0..u64::from(prime) * 64).step_by(prime as usize) {
            words[(multiple >> 6) as usize] |= 1 << (multiple & 63);
        }
        let own = first_odd.to_u64().and_then(|first| u64::from(prime).checked_sub(first)).map(|distance| distance / 2);
        Self { words, next: first_residue(first_odd, prime), own }
    }

    fn strike(&mut self, struck: &mut [u64], length: u32) {
        let prime = self.words.len() as u64;
        // Words of the pattern begin at multiples of 64 offsets; the one that has its bits where they belong comes first.
        let mut word = (0..self.words.len())
            .find(|word| (*word as u64 * 64 + self.next).is_multiple_of(prime))
            .expect("64 is a unit modulo the prime");
        for target in struck.iter_mut() {
            *target |= self.words[word];
            word += 1;
            if word == self.words.len() {
                word = 0;
            }
        }
        if let Some(own) = self.own {
            if let Some(target) = struck.get_mut((own >> 6) as usize) {
                *target &= !(1 << (own & 63));
            }
            self.own = own.checked_sub(length.into());
        }
        self.next = (prime - (u64::from(length) + prime - self.next) % prime) % prime;
    }
}

/// The index of the first odd multiple of `prime` that is at least `prime` squared.
fn first_multiple(first_odd: &Natural, small: Option<u64>, prime: u32) -> u64 {
    let wide = u64::from(prime);
    let Some(first) = small else { return first_residue(first_odd, prime) };
    if first < wide * wide {
        return (wide * wide - first) / 2;
    }
    halved((wide - first % wide) % wide, wide)
}

/// The index of the first multiple of `prime`.
fn first_residue(first_odd: &Natural, prime: u32) -> u64 {
    let rest = u64::from(first_odd.remainder(prime));
    halved((u64::from(prime) - rest) % u64::from(prime), prime.into())
}

/// Smallest i with 2 i = `distance` modulo an odd number that `distance` is below.
fn halved(distance: u64, odd: u64) -> u64 {
    if distance.is_multiple_of(2) { distance / 2 } else { (distance + odd) / 2 }
}

/// The odd primes up to `bound`.
pub(crate) fn odd_primes(bound: u32) -> Vec<u32> {
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

    fn survivors(first: u64, count: u64, bound: u32, segment: u32) -> Vec<u64> {
        let mut sieve = Sieve::new(&Natural::from(first), count, bound);
        let (mut found, mut done) = (Vec::new(), 0);
        while done < count {
            let length = u32::try_from(count - done).expect("short").min(segment);
            let mut offsets = Vec::new();
            sieve.segment(length, &mut offsets);
            found.extend(offsets.into_iter().map(|offset| first + 2 * (done + u64::from(offset))));
            done += u64::from(length);
        }
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
        for (first, bound) in [(3, 100), (5, 3), (41, 70), (1001, 50), (999_983, 1000), (u64::MAX - 2_000_000, 300)] {
            let primes = odd_primes(bound);
            let free = |n: &u64| primes.iter().all(|p| !n.is_multiple_of(u64::from(*p)) || *n == u64::from(*p));
            let expected: Vec<u64> = (0..100_000).map(|i| first + 2 * i).filter(free).collect();
            for segment in [100_000, 1 << 15, 1001, 37] {
                assert_eq!(survivors(first, 100_000, bound, segment), expected, "from {first} by primes to {bound} in {segment}");
            }
        }
    }
}
