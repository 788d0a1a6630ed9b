//! Points in time that a client names: as such, or from now.

use busbar_api::{Problem, SPAN_MS_MAX};
use busbar_protocol::codes::Code;
use busbar_protocol::time::Timestamp;

/// Clocks differ: what lies no further back than this is now.
const SKEW_MS: u64 = 60_000;

/// The members of a request that may name one time ahead.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Members {
    /// The one that names it as such.
    pub(crate) at: &'static str,
    /// The one that counts milliseconds from now.
    pub(crate) after: &'static str,
}

/// Reads RFC 3339.
pub(crate) fn parse(member: &str, text: &str) -> Result<Timestamp, Problem> {
    let shown: String = text.chars().take(40).collect();
    let refuse = || invalid(format!("{member}: {shown:?} is no time of RFC 3339 since 1970, as 2026-11-21T09:30:00Z is"));
    let time: jiff::Timestamp = text.parse().map_err(|_| refuse())?;
    u64::try_from(time.as_millisecond()).map(Timestamp::from_millis).map_err(|_| refuse())
}

/// The time ahead that one of two members names; `None` where neither does.
pub(crate) fn ahead(
    members: Members,
    at: Option<&str>,
    after_ms: Option<u64>,
    now: Timestamp,
) -> Result<Option<Timestamp>, Problem> {
    match (at, after_ms) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(invalid(format!("{}: not together with {}", members.at, members.after))),
        (Some(text), None) => check(members.at, parse(members.at, text)?, now).map(Some),
        (None, Some(ms)) if ms <= SPAN_MS_MAX => Ok(Some(now.after_millis(ms))),
        (None, Some(ms)) => Err(invalid(format!("{}: at most {SPAN_MS_MAX} milliseconds, not {ms}", members.after))),
    }
}

/// Refuses a time that lies behind, or further ahead than anybody means.
fn check(member: &str, time: Timestamp, now: Timestamp) -> Result<Timestamp, Problem> {
    if time.after_millis(SKEW_MS) < now {
        return Err(invalid(format!("{member}: {time} lies in the past: it is {now}")));
    }
    if time > now.after_millis(SPAN_MS_MAX) {
        return Err(invalid(format!("{member}: {time} lies more than a year ahead: it is {now}")));
    }
    Ok(time)
}

fn invalid(detail: String) -> Problem {
    Problem::new(Code::FieldInvalid, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
    const MEMBERS: Members = Members { at: "until", after: "for_ms" };

    fn read(at: Option<&str>, after_ms: Option<u64>) -> Result<Option<u64>, String> {
        ahead(MEMBERS, at, after_ms, NOW).map(|time| time.map(Timestamp::millis)).map_err(|problem| problem.detail)
    }

    #[test]
    fn a_time_is_named_or_counted() {
        assert_eq!(read(None, None), Ok(None));
        assert_eq!(read(None, Some(0)), Ok(Some(NOW.millis())));
        assert_eq!(read(Some("2023-11-14T22:13:21.5Z"), None), Ok(Some(NOW.millis() + 1500)));
        assert_eq!(read(Some("2023-11-15T00:13:21+02:00"), None), Ok(Some(NOW.millis() + 1000)));
        // Another clock may be a little behind.
        assert_eq!(read(Some("2023-11-14T22:13:00Z"), None), Ok(Some(NOW.millis() - 20_000)));
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (at, after_ms, named) in [
            (Some("2023-11-14T22:11:00Z"), None, "until: 2023-11-14T22:11:00.000Z lies in the past"),
            (Some("2033-11-14T22:11:00Z"), None, "until: 2033-11-14T22:11:00.000Z lies more than a year ahead"),
            (Some("tomorrow"), None, "until: \"tomorrow\" is no time"),
            (Some("1969-01-01T00:00:00Z"), None, "until: \"1969"),
            (Some("2023-11-15T00:00:00Z"), Some(1), "until: not together with for_ms"),
            (None, Some(SPAN_MS_MAX + 1), "for_ms: at most"),
        ] {
            let told = read(at, after_ms).expect_err(named);
            assert!(told.starts_with(named), "{told}");
        }
    }
}
