//! Natural numbers of any size: strict decimal text around `num-bigint`, and the few questions that the tests ask.

use std::fmt;

use num_bigint::BigUint;

/// The longest number that is read, in decimal digits: every number of 4,096 bits fits.
pub const DIGITS_MAX: usize = 1234;

/// A natural number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Natural(BigUint);

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
            0 => Err(ParseError::Empty),
            digits if digits > DIGITS_MAX => Err(ParseError::TooLong { digits }),
            digits if digits > 1 && text.starts_with('0') => Err(ParseError::LeadingZero),
            _ => Ok(Self(BigUint::parse_bytes(text.as_bytes(), 10).expect("only digits"))),
        }
    }

    /// The number itself, to calculate with.
    pub fn value(&self) -> &BigUint {
        &self.0
    }

    /// Bit length; 0 for zero.
    pub fn bits(&self) -> u32 {
        u32::try_from(self.0.bits()).expect("numbers are shorter than 2^32 bits")
    }

    /// Whether 2 does not divide it.
    pub fn is_odd(&self) -> bool {
        self.0.bit(0)
    }

    /// As a machine word, if it fits.
    pub fn to_u64(&self) -> Option<u64> {
        u64::try_from(&self.0).ok()
    }

    /// `self + addend`.
    #[must_use]
    pub fn plus(&self, addend: u64) -> Self {
        Self(&self.0 + addend)
    }

    /// `self - other`, if it is not negative and below 2^64.
    pub fn distance_from(&self, other: &Self) -> Option<u64> {
        (self >= other).then(|| &self.0 - &other.0).and_then(|difference| u64::try_from(difference).ok())
    }

    /// The remainder on division by `divisor`, which must not be zero.
    pub fn remainder(&self, divisor: u32) -> u32 {
        u32::try_from(&self.0 % divisor).expect("a remainder is below its divisor")
    }

    /// Whether it is the square of a natural number.
    pub fn is_square(&self) -> bool {
        // Few numbers are squares modulo all of these, so that the root is rarely taken.
        const FILTERS: [u32; 6] = [64, 63, 65, 11, 17, 19];
        let residue_of_square = |modulus: u32| {
            let rest = self.remainder(modulus);
            (0..modulus).any(|root| root * root % modulus == rest)
        };
        FILTERS.into_iter().all(residue_of_square) && self.0.sqrt().pow(2) == self.0
    }
}

impl From<u64> for Natural {
    fn from(number: u64) -> Self {
        Self(number.into())
    }
}

impl From<BigUint> for Natural {
    fn from(number: BigUint) -> Self {
        Self(number)
    }
}

impl fmt::Display for Natural {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Natural {
        Natural::parse(text).expect("decimal")
    }

    #[test]
    fn reads_and_prints() {
        let long = format!("1{}7", "0".repeat(DIGITS_MAX - 2));
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
        assert_eq!(Natural::parse(&"9".repeat(1235)), Err(ParseError::TooLong { digits: 1235 }));
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
