//! Natural numbers of any length in decimal, as far as ranges of them need it: a sum and a distance.

/// A decimal number, and a small one more.
pub(super) fn plus(number: &str, more: u64) -> String {
    let mut carry = more;
    let mut digits: Vec<u8> = number
        .bytes()
        .rev()
        .map(|digit| {
            let sum = u64::from(digit - b'0') + carry % 10;
            carry = carry / 10 + sum / 10;
            digit_of(sum % 10)
        })
        .collect();
    while carry > 0 {
        digits.push(digit_of(carry % 10));
        carry /= 10;
    }
    digits.reverse();
    String::from_utf8_lossy(&digits).into_owned()
}

/// How far one decimal number is above another, if that is no less than 0 and fits.
pub(super) fn distance(from: &str, to: &str) -> Option<u64> {
    if (from.len(), from) > (to.len(), to) {
        return None;
    }
    let padded = format!("{from:0>width$}", width = to.len());
    let mut borrow = 0;
    let mut digits: Vec<u8> = Vec::with_capacity(to.len());
    for (high, low) in to.bytes().rev().zip(padded.bytes().rev()) {
        let taken = low - b'0' + borrow;
        borrow = u8::from(high - b'0' < taken);
        digits.push(high - b'0' + 10 * borrow - taken);
    }
    digits.iter().rev().try_fold(0_u64, |value, digit| value.checked_mul(10)?.checked_add(u64::from(*digit)))
}

/// The longest number that the pack takes: every number of 4,096 bits fits.
const DIGITS_MAX: usize = 1_234;

/// Whether a text is a number without sign and leading zeros.
pub(super) fn parse(text: &str) -> Result<String, String> {
    let text: String = text.chars().filter(|c| *c != '_' && *c != ',').collect();
    let good = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    match text.len() {
        _ if !good => Err("a decimal number without sign and leading zeros is wanted".to_owned()),
        digits if digits > DIGITS_MAX => Err(format!("it has {digits} digits, and at most {DIGITS_MAX} are taken")),
        _ => Ok(text),
    }
}

fn digit_of(value: u64) -> u8 {
    b'0' + u8::try_from(value).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_carry() {
        for (number, more, sum) in [
            ("0", 0, "0"),
            ("9", 1, "10"),
            ("999", 1, "1000"),
            ("5", 123, "128"),
            ("99999999999999999999", 1, "100000000000000000000"),
        ] {
            assert_eq!(plus(number, more), sum);
        }
        assert_eq!(plus("18446744073709551615", u64::MAX), "36893488147419103230");
    }

    #[test]
    fn distances_borrow() {
        assert_eq!(distance("999", "1000"), Some(1));
        assert_eq!(distance("100000000000000000001", "100000000000000019999"), Some(19_998));
        assert_eq!(distance("7", "7"), Some(0));
        assert_eq!(distance("8", "7"), None);
        assert_eq!(distance("1", "100000000000000000000000"), None);
    }

    #[test]
    fn numbers_are_read() {
        assert_eq!(parse("1_000,000").as_deref(), Ok("1000000"));
        let longest = "9".repeat(DIGITS_MAX);
        assert_eq!(parse(&longest).as_ref(), Ok(&longest));
        assert_eq!(parse(&(longest + "9")).expect_err("long"), "it has 1235 digits, and at most 1234 are taken");
        assert!(["", "-1", "01", "1e9", "x"].into_iter().all(|text| parse(text).is_err()));
    }
}
