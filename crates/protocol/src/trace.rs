//! W3C Trace Context: which trace a piece of work belongs to, and which span of it is its parent.
//!
//! The names of spans *follow*: a child's identifier is drawn from its parent's and a word that says what it is. So the same
//! history has the same spans, whoever tells of it and however often: a scheduler that takes over goes on in the trace of its
//! predecessor although nothing of it was kept but the submission's `traceparent`.

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::{hex, ids};

/// A place in a trace: the trace, the span that is there, and whether anybody wants to see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace: [u8; 16],
    /// Zero at the root, where no span is yet.
    span: [u8; 8],
    sampled: bool,
}

impl TraceContext {
    /// Reads a `traceparent`; `None` when it has not the form of version 00, or names nothing.
    #[must_use]
    pub fn parse(header: &str) -> Option<Self> {
        let mut parts = header.trim().split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let [version_number] = hex::decode::<1>(version)?;
        // Later versions may append parts; version ff does not exist.
        if version_number == 0xff || (version_number == 0 && parts.next().is_some()) {
            return None;
        }
        let [flags] = hex::decode::<1>(flags)?;
        let context = Self { trace: hex::decode(trace)?, span: hex::decode(span)?, sampled: flags & 1 == 1 };
        (context.trace != [0; 16] && context.span != [0; 8]).then_some(context)
    }

    /// The root of a new trace.
    #[must_use]
    pub fn begin(sampled: bool) -> Self {
        Self { trace: ids::generate_trace_bytes(), span: [0; 8], sampled }
    }

    /// The root of the trace of this name: 32 hexadecimal digits stand for themselves, anything else for what is drawn from it.
    #[must_use]
    pub fn root(trace_id: &str, sampled: bool) -> Self {
        let named = hex::decode(trace_id).filter(|trace| *trace != [0; 16]);
        Self { trace: named.unwrap_or_else(|| draw(&[trace_id.as_bytes()])), span: [0; 8], sampled }
    }

    /// The span of this name below the present one.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        Self { span: draw(&[&self.trace, &self.span, name.as_bytes()]), ..*self }
    }

    /// The trace: 32 hexadecimal digits.
    #[must_use]
    pub fn trace_id(&self) -> String {
        hex::encode(&self.trace)
    }

    /// The bytes of the trace's identifier.
    #[must_use]
    pub const fn trace(&self) -> [u8; 16] {
        self.trace
    }

    /// The bytes of the span's identifier; `None` at the root.
    #[must_use]
    pub fn span(&self) -> Option<[u8; 8]> {
        (self.span != [0; 8]).then_some(self.span)
    }

    /// Whether anybody wants to see it.
    #[must_use]
    pub const fn is_sampled(&self) -> bool {
        self.sampled
    }

    /// Where the trace stands between 0 and 1: of all traces, a share of `ratio` stands below `ratio`.
    #[must_use]
    pub fn lot(&self) -> f64 {
        let [.., a, b, c, d] = self.trace;
        f64::from(u32::from_be_bytes([a, b, c, d])) / (f64::from(u32::MAX) + 1.0)
    }
}

/// The `traceparent`. A root has none of its own: it gives the name of a span that nobody tells of.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = if self.span == [0; 8] { self.child("root").span } else { self.span };
        let mut text = String::with_capacity(55);
        for (before, bytes) in [("00-", &self.trace[..]), ("-", &span), ("-", &[u8::from(self.sampled)])] {
            text.push_str(before);
            hex::append(&mut text, bytes);
        }
        f.write_str(&text)
    }
}

/// Bytes that follow from what is given and are not all zero.
fn draw<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let digest = parts.iter().fold(Sha256::new(), |hash, part| hash.chain_update(part)).finalize();
    let mut bytes = [0; N];
    bytes.copy_from_slice(&digest[..N]);
    bytes[0] |= 1;
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_reads_back() {
        let context = TraceContext::parse(GOOD).expect("well formed");
        assert_eq!(context.to_string(), GOOD);
        assert_eq!(context.trace_id(), "0af7651916cd43dd8448eb211c80319c");
        assert!(context.is_sampled());
        assert_eq!(TraceContext::parse(&format!("01{}-later", &GOOD[2..])), Some(context));
        assert!(!TraceContext::parse(&GOOD.replace("-01", "-00")).expect("well formed").is_sampled());
    }

    #[test]
    fn what_is_no_traceparent_is_not_taken() {
        let zeros = "00-00000000000000000000000000000000-b7ad6b7169203331-01";
        let loud = GOOD.to_uppercase();
        for bad in ["", "00", zeros, &loud, &format!("ff{}", &GOOD[2..]), &format!("{GOOD}-x"), &GOOD[..50], "00-ä-b-01"] {
            assert_eq!(TraceContext::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn children_follow_from_their_parents() {
        let parent = TraceContext::parse(GOOD).expect("well formed");
        let (first, second) = (parent.child("dispatch 1"), parent.child("dispatch 2"));
        assert_eq!(first, parent.child("dispatch 1"));
        assert_ne!(first.span(), second.span());
        assert_eq!(first.trace_id(), parent.trace_id());
        assert_eq!(TraceContext::parse(&first.to_string()), Some(first));
    }

    #[test]
    fn every_name_of_a_trace_has_a_root() {
        let own = TraceContext::root("0af7651916cd43dd8448eb211c80319c", true);
        assert_eq!((own.trace_id().as_str(), own.span()), ("0af7651916cd43dd8448eb211c80319c", None));
        let drawn = TraceContext::root("run 7 of whoever", true);
        assert_eq!(drawn, TraceContext::root("run 7 of whoever", true));
        assert!(TraceContext::parse(&drawn.to_string()).is_some());
        assert!((0.0..1.0).contains(&drawn.lot()));
    }
}
