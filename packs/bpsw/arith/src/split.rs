//! A range in parts, each small enough for one job.

use crate::natural::Natural;
use crate::search::RangeError;

/// The most parts of one range.
pub const PARTS_MAX: usize = 10_000;

/// Why a range is not split.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// An end is no number, or the ends are the wrong way round.
    #[error(transparent)]
    Range(#[from] RangeError),
    /// Parts of no numbers.
    #[error("chunk must be at least 1")]
    EmptyParts,
    /// More than `PARTS_MAX` parts.
    #[error("the range holds more than {PARTS_MAX} parts of {chunk} numbers; take a larger chunk")]
    TooMany {
        /// How many numbers a part has.
        chunk: u64,
    },
}

/// The first `parts_max` parts of the range between two decimal numbers, of `chunk` numbers each, both ends of each inclusive; the
/// last part of the range may be shorter. Without `parts_max` all parts are wanted.
///
/// # Errors
/// [`SplitError`] says what is wrong.
pub fn split(from: &str, to: &str, chunk: u64, parts_max: Option<usize>) -> Result<Vec<(Natural, Natural)>, SplitError> {
    let mut first = Natural::parse(from).map_err(RangeError::From)?;
    let end = Natural::parse(to).map_err(RangeError::To)?;
    if first > end {
        return Err(RangeError::Reversed.into());
    }
    let Some(to_last) = chunk.checked_sub(1) else { return Err(SplitError::EmptyParts) };
    let mut parts = Vec::new();
    while first <= end && parts_max.is_none_or(|most| parts.len() < most) {
        if parts.len() == PARTS_MAX {
            return Err(SplitError::TooMany { chunk });
        }
        let last = first.plus(to_last).min(end.clone());
        let next = last.plus(1);
        parts.push((first, last));
        first = next;
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(from: &str, to: &str, chunk: u64) -> Result<Vec<(String, String)>, String> {
        let parts = split(from, to, chunk, None).map_err(|error| error.to_string())?;
        Ok(parts.into_iter().map(|(from, to)| (from.to_string(), to.to_string())).collect())
    }

    fn pairs(pairs: &[(&str, &str)]) -> Result<Vec<(String, String)>, String> {
        Ok(pairs.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect())
    }

    #[test]
    fn parts_cover_the_range_without_overlap() {
        assert_eq!(texts("3", "12", 4), pairs(&[("3", "6"), ("7", "10"), ("11", "12")]));
        assert_eq!(texts("3", "10", 4), pairs(&[("3", "6"), ("7", "10")]));
        assert_eq!(texts("5", "5", 1), pairs(&[("5", "5")]));
        let huge = ("99999999999999999999998", "100000000000000000000001");
        assert_eq!(texts(huge.0, huge.1, 3), pairs(&[("99999999999999999999998", "100000000000000000000000"), (huge.1, huge.1)]));
        assert_eq!(texts("0", "18446744073709551615", u64::MAX).map(|parts| parts.len()), Ok(2));
    }

    #[test]
    fn the_first_parts_of_a_long_range_can_be_had_alone() {
        let first = split("0", "10000000", 1, Some(2)).expect("two");
        assert_eq!(first, [(Natural::from(0), Natural::from(0)), (Natural::from(1), Natural::from(1))]);
        assert_eq!(split("0", "3", 8, Some(2)).expect("one").len(), 1);
    }

    #[test]
    fn what_cannot_be_split_is_named() {
        assert_eq!(texts("3", "2", 1), Err("from is greater than to".into()));
        assert_eq!(texts("3", "9", 0), Err("chunk must be at least 1".into()));
        assert_eq!(texts("0", "10000", 1), Err("the range holds more than 10000 parts of 1 numbers; take a larger chunk".into()));
        assert_eq!(texts("x", "9", 1), Err("from is not a decimal number: 'x' at position 1".into()));
    }
}
