//! Which version of the protocol two peers speak with each other: CAP specification, "Capability negotiation".

use crate::envelope::PROTOCOL_VERSION;

/// The versions that we speak.
pub const SPOKEN: &[i32] = &[PROTOCOL_VERSION];

/// The highest version that both speak; none if there is none, and then nothing may be dispatched. A peer that lists no version is
/// older than the list: it speaks the first one.
#[must_use]
pub fn common_version(ours: &[i32], theirs: &[i32]) -> Option<i32> {
    let theirs = if theirs.is_empty() { &[1] } else { theirs };
    ours.iter().copied().filter(|version| theirs.contains(version)).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_common_version_is_spoken() {
        for (ours, theirs, common) in [
            (&[1, 2, 3][..], &[2, 3][..], Some(3)),
            (&[3, 1, 2], &[2, 1], Some(2)),
            (&[3], &[1, 2], None),
            (&[1], &[], Some(1)),
            (&[2], &[], None),
            (&[], &[1], None),
        ] {
            assert_eq!(common_version(ours, theirs), common, "{ours:?} and {theirs:?}");
        }
    }
}
