//! Small payloads that travel with the messages that speak of them, so that nobody has to fetch them from Redis or put them there.
//!
//! ```text
//!  client ── input in AdmitItem ──► scheduler ── header Busbar-Input ──► native worker
//!                                   scheduler ◄── output in ReportItem, or header Busbar-Output ── native worker
//! ```
//!
//! The pointers in CAP's packets stay what they were, and what they point to stands in Redis: the scheduler writes it, in the unit that
//! admits or ends the job. A header is not covered by a packet's signature; what binds a result to its packet is the digest that the
//! packet states.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use crate::cap::ResourceRef;
use crate::pointers::Sha256Hex;

/// The largest payload that travels with a message, in bytes.
pub const BYTES_MAX: usize = 4096;

/// The header of a dispatch that holds the job's input, in base64.
pub const INPUT: &str = "Busbar-Input";

/// The header of a dispatch that says up to how many bytes an output may come back in [`OUTPUT`].
pub const OUTPUT_BYTES_MAX: &str = "Busbar-Output-Bytes-Max";

/// The header of a result in the stream that holds the attempt's output, in base64, where the worker did not write it to Redis.
pub const OUTPUT: &str = "Busbar-Output";

/// Why a header is not the payload that it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InlineError {
    /// It is not base64.
    #[error("it is not base64")]
    Base64,
    /// It is larger than what may travel.
    #[error("it has {bytes} bytes, more than {BYTES_MAX}")]
    TooLarge {
        /// About its size.
        bytes: usize,
    },
    /// It is not what the packet speaks of.
    #[error("the packet states another digest or size, or none")]
    Unbound,
}

/// The payload, if it may travel with a message; else nothing. An empty one does not: on the wire, nothing is no payload.
#[must_use]
pub fn carried(payload: &Bytes) -> Bytes {
    if payload.len() <= BYTES_MAX { payload.clone() } else { Bytes::new() }
}

/// A payload as the value of a header.
#[must_use]
pub fn encode(payload: &[u8]) -> String {
    STANDARD.encode(payload)
}

/// The payload that the value of a header stands for.
///
/// # Errors
/// [`InlineError::Base64`], [`InlineError::TooLarge`].
pub fn decode(value: &str) -> Result<Bytes, InlineError> {
    let bytes = value.len() / 4 * 3;
    // Up to two bytes of the last group may be padding.
    if bytes > BYTES_MAX + 2 {
        return Err(InlineError::TooLarge { bytes });
    }
    let payload = STANDARD.decode(value).map_err(|_| InlineError::Base64)?;
    if payload.len() > BYTES_MAX { Err(InlineError::TooLarge { bytes: payload.len() }) } else { Ok(payload.into()) }
}

/// The payload that the value of a header stands for, if it is the one that the reference speaks of.
///
/// # Errors
/// [`InlineError`].
pub fn decode_as(value: &str, reference: &ResourceRef) -> Result<Bytes, InlineError> {
    bound(decode(value)?, reference)
}

/// A payload that travelled as it is, if it is the one that the reference speaks of.
///
/// # Errors
/// [`InlineError::TooLarge`], [`InlineError::Unbound`].
pub fn bound(payload: Bytes, reference: &ResourceRef) -> Result<Bytes, InlineError> {
    if payload.len() > BYTES_MAX {
        return Err(InlineError::TooLarge { bytes: payload.len() });
    }
    let is_stated = reference.size_bytes == payload.len() as u64 && reference.sha256 == Sha256Hex::of(&payload).to_bytes();
    if is_stated { Ok(payload) } else { Err(InlineError::Unbound) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_small_travels_and_comes_back() {
        for length in [1, 2, 3, 300, BYTES_MAX - 1, BYTES_MAX] {
            let payload = Bytes::from(vec![0xf7; length]);
            assert_eq!(carried(&payload), payload);
            assert_eq!(decode(&encode(&payload)), Ok(payload), "{length}");
        }
        let large = Bytes::from(vec![0; BYTES_MAX + 1]);
        assert_eq!(carried(&large), Bytes::new());
        assert_eq!(decode(&encode(&large)), Err(InlineError::TooLarge { bytes: BYTES_MAX + 1 }));
        assert!(matches!(decode(&"A".repeat(1 << 20)), Err(InlineError::TooLarge { .. })));
        assert_eq!(decode("a header"), Err(InlineError::Base64));
        assert_eq!(decode("abcde"), Err(InlineError::Base64), "a group is not whole");
    }

    #[test]
    fn a_header_is_the_payload_of_its_packet_or_nothing() {
        let reference = |bytes: &[u8], size_bytes| ResourceRef {
            sha256: Sha256Hex::of(bytes).to_bytes(),
            size_bytes,
            ..ResourceRef::default()
        };
        let value = encode(b"[1]");
        assert_eq!(decode_as(&value, &reference(b"[1]", 3)), Ok("[1]".into()));
        assert_eq!(decode_as(&value, &reference(b"[2]", 3)), Err(InlineError::Unbound));
        assert_eq!(decode_as(&value, &reference(b"[1]", 4)), Err(InlineError::Unbound));
        assert_eq!(decode_as(&value, &ResourceRef::default()), Err(InlineError::Unbound));
    }
}
