//! Spans of time as people write and read them.

use jiff::SignedDuration;

/// Reads `10m`, `1h 30m`, `500ms`: milliseconds, at least one.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let refuse = || "a span such as 30s, 10m or 1h30m is wanted".to_owned();
    let span: SignedDuration = text.parse().map_err(|_| refuse())?;
    u64::try_from(span.as_millis()).ok().filter(|ms| *ms > 0).ok_or_else(refuse)
}

/// Tells a span in its two largest units.
pub(crate) fn words(ms: u64) -> String {
    let (seconds, minutes, hours, days) = (ms / 1000, ms / 60_000, ms / 3_600_000, ms / 86_400_000);
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{seconds}.{} s", ms % 1000 / 100),
        60_000..3_600_000 => format!("{minutes} min {} s", seconds % 60),
        3_600_000..86_400_000 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_written_as_people_do() {
        for (text, ms) in [("30s", 30_000), ("10m", 600_000), ("1h30m", 5_400_000), ("1h 30m", 5_400_000), ("250ms", 250)] {
            assert_eq!(parse(text), Ok(ms), "{text}");
        }
        for bad in ["", "10", "soon", "-5s", "0s"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn spans_are_told_in_two_units() {
        let spans = [(7, "7 ms"), (1_250, "1.2 s"), (61_000, "1 min 1 s"), (5_400_000, "1 h 30 min"), (90_000_000, "1 d 1 h")];
        for (ms, text) in spans {
            assert_eq!(words(ms), text);
        }
    }
}
