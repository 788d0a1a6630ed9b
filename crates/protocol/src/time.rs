//! Points in time and their text form.

use std::fmt;
use std::time::Duration;

/// Milliseconds since 1970-01-01 00:00:00 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// A point in time from its milliseconds since 1970.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// What the wall clock of this machine says.
    #[must_use]
    pub fn wall_clock() -> Self {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// Milliseconds since 1970.
    #[must_use]
    pub const fn millis(self) -> u64 {
        self.0
    }

    /// This point plus a duration, stopping at the end of time.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        self.after_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }

    /// This point plus milliseconds, stopping at the end of time.
    #[must_use]
    pub const fn after_millis(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    /// How long ago `earlier` was; zero when it lies ahead.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// Reads the protobuf form. Whatever lies outside of what can be told here is the nearest point that can.
    #[must_use]
    pub fn from_proto(time: &prost_types::Timestamp) -> Self {
        let seconds = u64::try_from(time.seconds).unwrap_or(0);
        let millis = u64::try_from(time.nanos / 1_000_000).unwrap_or(0);
        Self(seconds.saturating_mul(1000).saturating_add(millis))
    }

    /// The protobuf form.
    #[must_use]
    pub fn to_proto(self) -> prost_types::Timestamp {
        let seconds = i64::try_from(self.0 / 1000).unwrap_or(i64::MAX);
        let nanos = i32::try_from(self.0 % 1000 * 1_000_000).unwrap_or(0);
        prost_types::Timestamp { seconds, nanos }
    }
}

/// RFC 3339 in UTC with milliseconds, for example `2026-11-21T09:30:00.125Z`.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = i64::try_from(self.0).unwrap_or(i64::MAX);
        match jiff::Timestamp::from_millisecond(millis) {
            Ok(time) => write!(f, "{time:.3}"),
            Err(_) => write!(f, "{}ms", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_has_milliseconds_and_utc() {
        assert_eq!(Timestamp::from_millis(1_700_000_000_000).to_string(), "2023-11-14T22:13:20.000Z");
        assert_eq!(Timestamp::from_millis(1_700_000_000_125).to_string(), "2023-11-14T22:13:20.125Z");
    }

    #[test]
    fn the_protobuf_form_reads_back_and_garbage_stays_in_bounds() {
        let time = Timestamp::from_millis(1_700_000_000_125);
        assert_eq!(Timestamp::from_proto(&time.to_proto()), time);
        let garbage = |seconds, nanos| Timestamp::from_proto(&prost_types::Timestamp { seconds, nanos });
        assert_eq!(garbage(i64::MIN, i32::MIN), Timestamp::from_millis(0));
        assert_eq!(garbage(i64::MAX, i32::MAX), Timestamp::from_millis(u64::MAX));
    }

    #[test]
    fn since_never_underflows() {
        assert_eq!(Timestamp::from_millis(1).since(Timestamp::from_millis(5)), Duration::ZERO);
    }
}
