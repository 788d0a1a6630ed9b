//! W3C Trace Context: which trace a submission belongs to.

/// The trace of one job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trace {
    /// 32 hexadecimal digits.
    pub(crate) trace_id: String,
    /// The `traceparent` that travels on.
    pub(crate) traceparent: String,
}

impl Trace {
    /// Takes the client's `traceparent`; `None` when it has not the form of version 00, or names nothing.
    pub(crate) fn parse(header: &str) -> Option<Self> {
        let mut parts = header.trim().split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let hex = |text: &str, length: usize| {
            text.len() == length && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        let named = |text: &str| text.bytes().any(|b| b != b'0');
        // Later versions may append parts; version ff does not exist.
        let known_length = version != "00" || parts.next().is_none();
        let good = hex(version, 2) && version != "ff" && hex(trace, 32) && hex(span, 16) && hex(flags, 2) && known_length;
        (good && named(trace) && named(span))
            .then(|| Self { trace_id: trace.to_owned(), traceparent: format!("00-{trace}-{span}-{flags}") })
    }

    /// A new trace. `trace_id` has 32 digits; `entropy` has at least 16 and makes the span.
    pub(crate) fn begin(trace_id: String, entropy: &str) -> Self {
        let span = &entropy[entropy.len().saturating_sub(16)..];
        Self { traceparent: format!("00-{trace_id}-{span}-01"), trace_id }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_clients_trace_goes_on() {
        let trace = Trace::parse(GOOD).expect("well formed");
        assert_eq!(trace.trace_id, "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(trace.traceparent, GOOD);
        assert!(Trace::parse(&format!("01{}-later", &GOOD[2..])).is_some());
    }

    #[test]
    fn what_is_no_traceparent_is_not_taken() {
        let zeros = "00-00000000000000000000000000000000-b7ad6b7169203331-01";
        for bad in ["", "00", zeros, &GOOD.to_uppercase(), &format!("ff{}", &GOOD[2..]), &format!("{GOOD}-x"), &GOOD[..50]] {
            assert_eq!(Trace::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_new_trace_has_the_form_that_we_take() {
        let trace = Trace::begin("0af7651916cd43dd8448eb211c80319c".into(), "xx0123456789abcdef");
        assert_eq!(Trace::parse(&trace.traceparent), Some(trace));
    }
}
