//! The deadline of a call, as the metadata `grpc-timeout` tells it.

use std::time::Duration;

/// Reads `<up to eight digits><unit>`, the units being hours, minutes, seconds and the thousandths of them.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let plain = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    let n: u64 = digits.parse().ok().filter(|_| plain)?;
    Some(match unit {
        "H" => Duration::from_secs(n * 3600),
        "M" => Duration::from_secs(n * 60),
        "S" => Duration::from_secs(n),
        "m" => Duration::from_millis(n),
        "u" => Duration::from_micros(n),
        "n" => Duration::from_nanos(n),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_units_are_read_and_nothing_else() {
        for (text, millis) in [("2H", 7_200_000), ("3M", 180_000), ("10S", 10_000), ("250m", 250), ("5000u", 5), ("7000000n", 7)]
        {
            assert_eq!(parse(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "S", "10", "-1S", "+1S", "1.5S", "123456789S", "1s", "1ü"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
