//! The strong probable-prime test (Miller-Rabin with a given base).

use crate::ring::Ring;

/// Whether the modulus of `ring` is a strong probable prime to `base`: with `n - 1 = d * 2^s`, `base^d` is 1 or one of its
/// first `s` squarings is -1. A base that the modulus divides tells nothing and counts as passed.
pub fn is_strong_probable_prime<R: Ring>(ring: &R, base: u32) -> bool {
    let one = ring.one();
    let minus_one = ring.neg(&one);
    let root = ring.scale(&one, i64::from(base));
    if root == ring.zero() {
        return true;
    }
    let exponent = ring.below();
    let mut power = root;
    for index in (0..exponent.bits - 1).rev() {
        power = ring.mul(&power, &power);
        if R::bit(&exponent.odd, index) {
            power = if base == 2 { ring.add(&power, &power) } else { ring.mul(&power, &root) };
        }
    }
    if power == one || power == minus_one {
        return true;
    }
    (1..exponent.twos).any(|_| {
        power = ring.mul(&power, &power);
        power == minus_one
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::word::Word;

    #[test]
    fn known_strong_pseudoprimes() {
        for n in [2047, 3277, 4033, 4681, 8321, 15_841, 29_341, 42_799, 49_141, 52_633, 1_194_649, 12_327_121] {
            assert!(is_strong_probable_prime(&Word::new(n), 2), "{n}");
        }
        for base in [2, 3, 5, 7] {
            assert!(is_strong_probable_prime(&Word::new(3_215_031_751), base));
        }
        assert!(!is_strong_probable_prime(&Word::new(3_215_031_751), 11));
        for base in [2, 3, 5, 7, 11, 13, 17, 19, 23] {
            assert!(is_strong_probable_prime(&Word::new(3_825_123_056_546_413_051), base));
        }
    }

    #[test]
    fn the_first_of_them_and_no_others() {
        let is_prime = |n: u64| (3..).step_by(2).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d));
        let pseudoprimes = |n: &u64| is_strong_probable_prime(&Word::new(*n), 2) && !is_prime(*n);
        let found: Vec<u64> = (3..60_000).step_by(2).filter(pseudoprimes).collect();
        assert_eq!(found, [2047, 3277, 4033, 4681, 8321, 15_841, 29_341, 42_799, 49_141, 52_633]);
    }
}
