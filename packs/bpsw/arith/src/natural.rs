//! Natural numbers of any size: just enough to read, print, step and divide by small numbers.

use std::cmp::Ordering;
use std::fmt;

/// Bits in a limb; see `wide` for why not 32.
pub const LIMB_BITS: u32 = 28;
/// The low `LIMB_BITS` bits.
pub const LIMB_MASK: u64 = (1 << LIMB_BITS) - 1;
/// The longest number that is read: it fits 122 limbs.
pub const DIGITS_MAX: usize = 1024;

/// A natural number; limbs of 28 bits, lowest first, without leading zeros (zero has no limbs).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Natural {
    limbs: Vec<u32>,
}

/// Why a text is not a number that we take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// There was nothing.
    #[error("is empty; a decimal number is wanted")]
    Empty,
    /// Something other than a digit.
    #[error("is not a decimal number: {found:?} at position {position}")]
    NotADigit {
        /// The offending character.
        found: char,
        /// Which character of the text, from 1.
        position: usize,
    },
    /// A number has one spelling, so that equal inputs are equal texts.
    #[error("starts with a zero; numbers are written without leading zeros")]
    LeadingZero,
    /// Longer than `DIGITS_MAX`.
    #[error("has {digits} digits; at most {DIGITS_MAX} are allowed")]
    TooLong {
        /// How many there were.
        digits: usize,
    },
}

impl Natural {
    /// Reads a decimal number without sign, spaces or leading zeros.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if let Some((index, found)) = text.chars().enumerate().find(|(_, c)| !c.is_ascii_digit()) {
            return Err(ParseError::NotADigit { found, position: index + 1 });
        }
        match text.len() {
            0 => return Err(ParseError::Empty),
            digits if digits > DIGITS_MAX => return Err(ParseError::TooLong { digits }),
            digits if digits > 1 && text.starts_with('0') => return Err(ParseError::LeadingZero),
            _ => {}
        }
        let mut number = Self { limbs: Vec::new() };
        for digits in text.as_bytes().chunks(8) {
            let (mut factor, mut addend) = (1, 0);
            for digit in digits {
                factor *= 10;
                addend = addend * 10 + u64::from(digit - b'0');
            }
            number.multiply_add(factor, addend);
        }
        Ok(number)
    }

    /// The limbs, lowest first, the last one not zero.
    pub fn limbs(&self) -> &[u32] {
        &self.limbs
    }

    /// Bit length; 0 for zero.
    pub fn bits(&self) -> u32 {
        let Some(top) = self.limbs.last() else { return 0 };
        let below = u32::try_from(self.limbs.len() - 1).expect("numbers are shorter than 2^32 bits");
        below * LIMB_BITS + (u32::BITS - top.leading_zeros())
    }

    /// Whether 2 does not divide it.
    pub fn is_odd(&self) -> bool {
        self.limbs.first().is_some_and(|low| low & 1 == 1)
    }

    /// As a machine word, if it fits.
    pub fn to_u64(&self) -> Option<u64> {
        (self.bits() <= u64::BITS).then(|| self.limbs.iter().rev().fold(0, |sum, limb| sum << LIMB_BITS | u64::from(*limb)))
    }

    /// `self + addend`.
    #[must_use]
    pub fn plus(&self, addend: u64) -> Self {
        let mut limbs = self.limbs.clone();
        let mut carry = addend;
        for limb in &mut limbs {
            // The carry is split first: added whole it could overflow.
            let sum = u64::from(*limb) + (carry & LIMB_MASK);
            *limb = low_limb(sum);
            carry = (carry >> LIMB_BITS) + (sum >> LIMB_BITS);
        }
        push_carry(&mut limbs, carry);
        Self { limbs }
    }

    /// `self - other`, if it is not negative and below 2^64.
    pub fn distance_from(&self, other: &Self) -> Option<u64> {
        if self < other {
            return None;
        }
        let mut difference = self.clone();
        difference.subtract(other);
        difference.to_u64()
    }

    /// The remainder on division by `divisor`, which must not be zero.
    pub fn remainder(&self, divisor: u32) -> u32 {
        let divisor = u64::from(divisor);
        let rest = self.limbs.iter().rev().fold(0, |rest, limb| (rest << LIMB_BITS | u64::from(*limb)) % divisor);
        u32::try_from(rest).expect("a remainder is below its divisor")
    }

    /// Whether it is the square of a natural number.
    pub fn is_square(&self) -> bool {
        // Few numbers are squares modulo all of these, so that the root is rarely taken.
        const FILTERS: [u32; 6] = [64, 63, 65, 11, 17, 19];
        let residue_of_square = |modulus: u32| {
            let rest = self.remainder(modulus);
            (0..modulus).any(|root| root * root % modulus == rest)
        };
        FILTERS.into_iter().all(residue_of_square) && self.has_root()
    }

    /// The schoolbook binary square root, one bit of the root at a time.
    fn has_root(&self) -> bool {
        let mut rest = Self { limbs: Vec::new() };
        let mut root = Self { limbs: Vec::new() };
        for pair in (0..self.bits().div_ceil(2)).rev() {
            rest.multiply_add(4, u64::from(self.bit(2 * pair + 1)) * 2 + u64::from(self.bit(2 * pair)));
            // The candidate is 2 * (2 * root) + 1: what the square grows by when the next bit is one.
            let mut candidate = root.clone();
            candidate.multiply_add(4, 1);
            root.multiply_add(2, 0);
            if rest >= candidate {
                rest.subtract(&candidate);
                root.multiply_add(1, 1);
            }
        }
        rest.limbs.is_empty()
    }

    fn bit(&self, index: u32) -> bool {
        self.limbs.get((index / LIMB_BITS) as usize).is_some_and(|limb| limb >> (index % LIMB_BITS) & 1 == 1)
    }

    /// `self = self * factor + addend`, for factors below 2^32.
    fn multiply_add(&mut self, factor: u64, addend: u64) {
        let mut carry = addend;
        for limb in &mut self.limbs {
            let product = u64::from(*limb) * factor + carry;
            *limb = low_limb(product);
            carry = product >> LIMB_BITS;
        }
        push_carry(&mut self.limbs, carry);
    }

    /// `self -= other`, which must not be larger.
    fn subtract(&mut self, other: &Self) {
        let mut borrow = 0;
        for (index, limb) in self.limbs.iter_mut().enumerate() {
            let taken = other.limbs.get(index).copied().unwrap_or(0);
            let difference = u64::from(*limb) + (LIMB_MASK + 1) - u64::from(taken) - borrow;
            *limb = low_limb(difference);
            borrow = 1 - (difference >> LIMB_BITS);
        }
        self.trim();
    }

    fn trim(&mut self) {
        while self.limbs.last() == Some(&0) {
            self.limbs.pop();
        }
    }
}

impl From<u64> for Natural {
    fn from(number: u64) -> Self {
        let mut limbs = Vec::new();
        push_carry(&mut limbs, number);
        Self { limbs }
    }
}

impl Ord for Natural {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_length = self.limbs.len().cmp(&other.limbs.len());
        by_length.then_with(|| self.limbs.iter().rev().cmp(other.limbs.iter().rev()))
    }
}

impl PartialOrd for Natural {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Natural {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const GROUP: u64 = 1_000_000_000;
        let mut rest = self.clone();
        let mut groups = Vec::new();
        while !rest.limbs.is_empty() {
            let mut remainder = 0;
            for limb in rest.limbs.iter_mut().rev() {
                let dividend = remainder << LIMB_BITS | u64::from(*limb);
                *limb = low_limb(dividend / GROUP);
                remainder = dividend % GROUP;
            }
            groups.push(remainder);
            rest.trim();
        }
        let mut text = groups.pop().unwrap_or(0).to_string();
        for group in groups.iter().rev() {
            text.push_str(&format!("{group:09}"));
        }
        f.pad_integral(true, "", &text)
    }
}

/// The low 28 bits.
#[inline]
pub(crate) fn low_limb(number: u64) -> u32 {
    (number & LIMB_MASK) as u32
}

fn push_carry(limbs: &mut Vec<u32>, mut carry: u64) {
    while carry > 0 {
        limbs.push(low_limb(carry));
        carry >>= LIMB_BITS;
    }
}

#[cfg(test)]
mod tests {
    use num_bigint::BigUint;

    use super::*;

    fn number(text: &str) -> Natural {
        Natural::parse(text).expect("decimal")
    }

    #[test]
    fn reads_and_prints() {
        let long = format!("1{}7", "0".repeat(1022));
        for text in ["0", "1", "268435456", "18446744073709551615", "18446744073709551616", &long] {
            assert_eq!(number(text).to_string(), text);
        }
        assert_eq!(number("18446744073709551615").to_u64(), Some(u64::MAX));
        assert_eq!(number("18446744073709551616").to_u64(), None);
        assert_eq!(Natural::from(u64::MAX).plus(u64::MAX).plus(2), number("36893488147419103232"));
    }

    #[test]
    fn refuses_what_is_not_a_number() {
        assert_eq!(Natural::parse(""), Err(ParseError::Empty));
        assert_eq!(Natural::parse("12x"), Err(ParseError::NotADigit { found: 'x', position: 3 }));
        assert_eq!(Natural::parse("-1"), Err(ParseError::NotADigit { found: '-', position: 1 }));
        assert_eq!(Natural::parse("1\u{663}"), Err(ParseError::NotADigit { found: '\u{663}', position: 2 }));
        assert_eq!(Natural::parse("007"), Err(ParseError::LeadingZero));
        assert_eq!(Natural::parse(&"9".repeat(1025)), Err(ParseError::TooLong { digits: 1025 }));
    }

    #[test]
    fn measures_distances_and_remainders() {
        let base = number("100000000000000000001");
        assert_eq!(base.plus(12_345).distance_from(&base), Some(12_345));
        assert_eq!(base.distance_from(&base.plus(1)), None);
        assert_eq!(base.distance_from(&Natural::from(1)), None, "does not fit 64 bits");
        assert_eq!(Natural::from(5).distance_from(&base), None);
        assert_eq!(base.remainder(97), (0..20).fold(1, |power, _| power * 10 % 97) + 1);
    }

    #[test]
    fn knows_squares() {
        let root = BigUint::from(10u32).pow(150) + 57u32;
        let square = number(&(&root * &root).to_string());
        assert!(square.is_square());
        assert!(!square.plus(2).is_square());
        let small: Vec<u64> = (0..200).filter(|n| Natural::from(*n).is_square()).collect();
        assert_eq!(small, (0..15).map(|n| n * n).collect::<Vec<u64>>());
    }
}
