//! How long a call waits for the end of a job or a run.

use std::time::Duration;

use busbar_api::{Problem, WAIT_MS_MAX};
use busbar_protocol::codes::Code;

/// Reads `30s`, `500ms` or plain seconds.
pub(crate) fn parse(text: &str) -> Result<Duration, Problem> {
    let refuse =
        || Problem::new(Code::FieldInvalid, format!("wait {text:?}: give `30s`, `500ms` or whole seconds, at most 60 s"));
    let (digits, factor) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(digits), _) => (digits, 1),
        (None, Some(digits)) => (digits, 1000),
        (None, None) => (text, 1000),
    };
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let millis = digits.parse::<u64>().ok().filter(|_| plain).and_then(|n| n.checked_mul(factor)).ok_or_else(refuse)?;
    if millis > WAIT_MS_MAX { Err(refuse()) } else { Ok(Duration::from_millis(millis)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_forms() {
        for (text, millis) in [("30s", 30_000), ("500ms", 500), ("7", 7_000), ("0", 0), ("60s", 60_000)] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "s", "-1", "+1", "1.5s", "61s", "60001ms", "1m", "99999999999999999999", "1 s"] {
            assert_eq!(parse(bad).map_err(|p| p.code), Err("field_invalid".into()), "{bad:?}");
        }
    }
}
