//! The function library in Redis: loaded when it is missing or older than ours.

/// Its source.
pub(crate) const SOURCE: &str = include_str!("library.lua");
/// Its name, which carries the version of the arguments and answers.
pub(crate) const NAME: &str = "busbar_v2";
/// Functions that a client calls.
pub(crate) const ADMIT: &str = "busbar_v2_admit";
pub(crate) const ADVANCE: &str = "busbar_v2_advance";
pub(crate) const LEASE: &str = "busbar_v2_lease";
pub(crate) const RELEASE: &str = "busbar_v2_release";
pub(crate) const PUT_PAYLOADS: &str = "busbar_v2_put_payloads";
pub(crate) const PUT_RESULTS: &str = "busbar_v2_put_results";
pub(crate) const APPEND_PAYLOAD: &str = "busbar_v2_append_payload";

/// Whether ours should replace the one whose source is given. One of the same revision that differs is a development build.
pub(crate) fn replaces(other: &str) -> bool {
    match (revision(SOURCE), revision(other)) {
        (Some(ours), Some(theirs)) => ours > theirs || (ours == theirs && other != SOURCE),
        _ => true,
    }
}

fn revision(source: &str) -> Option<u64> {
    let line = source.lines().find_map(|line| line.strip_prefix("local REVISION = "))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_replaces_older_and_unknown_ones_only() {
        assert!(revision(SOURCE).is_some());
        assert!(!replaces(SOURCE));
        assert!(replaces("#!lua name=busbar_v2\nreturn 1"));
        assert!(replaces("local REVISION = 0"));
        assert!(!replaces("local REVISION = 999999"));
    }

    #[test]
    fn the_source_registers_what_we_call() {
        assert!(SOURCE.starts_with(&format!("#!lua name={NAME}\n")));
        for function in [ADMIT, ADVANCE, LEASE, RELEASE, PUT_PAYLOADS, PUT_RESULTS, APPEND_PAYLOAD] {
            assert!(SOURCE.contains(&format!("'{function}'")), "{function}");
        }
    }
}
