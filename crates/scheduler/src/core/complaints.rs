//! Which packets that were not taken operators are told of: each kind of fault at once, and then at most once in a while, with a count
//! of those that were kept back. Whoever sends nonsense as fast as the bus carries it must not make us send as much.

use std::collections::BTreeMap;
use std::time::Duration;

use busbar_protocol::cap::ErrorCode;
use busbar_protocol::time::Timestamp;

/// How often one kind of fault on one subject is told.
pub const TELL_EVERY: Duration = Duration::from_secs(1);

/// What was told of lately. It is bounded by the subjects that we listen on, times CAP's codes.
#[derive(Clone, Debug, Default)]
pub struct Complaints {
    told: BTreeMap<(&'static str, i32), Told>,
}

#[derive(Clone, Copy, Debug)]
struct Told {
    at: Timestamp,
    kept_back: u64,
}

impl Complaints {
    /// A packet on this subject was not taken. Whether that is told now, and of how many such packets nobody was told since the last
    /// time.
    pub fn hear(&mut self, subject: &'static str, code: ErrorCode, now: Timestamp) -> Option<u64> {
        let kind = (subject, i32::from(code));
        match self.told.get_mut(&kind) {
            // A clock that went back does not silence anybody for long.
            Some(told) if now >= told.at && now.since(told.at) < TELL_EVERY => {
                told.kept_back = told.kept_back.saturating_add(1);
                None
            }
            before => {
                let kept_back = before.map_or(0, |told| told.kept_back);
                self.told.insert(kind, Told { at: now, kept_back: 0 });
                Some(kept_back)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUBJECT: &str = "sys.heartbeat";

    #[test]
    fn a_flood_is_told_once_in_a_while_with_its_number() {
        let mut complaints = Complaints::default();
        let at = Timestamp::from_millis;
        let malformed = ErrorCode::ProtocolMalformedPacket;
        assert_eq!(complaints.hear(SUBJECT, malformed, at(5_000)), Some(0));
        for millis in 5_000..5_999 {
            assert_eq!(complaints.hear(SUBJECT, malformed, at(millis)), None);
        }
        // Other kinds are not kept back by it.
        assert_eq!(complaints.hear(SUBJECT, ErrorCode::ProtocolVersionMismatch, at(5_500)), Some(0));
        assert_eq!(complaints.hear("sys.job.result", malformed, at(5_500)), Some(0));
        assert_eq!(complaints.hear(SUBJECT, malformed, at(6_000)), Some(999));
        assert_eq!(complaints.hear(SUBJECT, malformed, at(7_000)), Some(0));
        assert_eq!(complaints.hear(SUBJECT, malformed, at(1_000)), Some(0), "the clock went back");
    }
}
