//! CAP's signatures: ECDSA on P-256 with SHA-256, in three profiles that differ in the bytes that are hashed.
//!
//! | profile | module | hashed | told by |
//! |---|---|---|---|
//! | ordinary packets | [`packet`] | the canonical packet without field 14 | a key per `sender_id` |
//! | the trust handshake of workers | [`trust`] | the phase's domain, a zero byte, the same bytes | the key that the phase names |
//! | CAP-PRODUCTION | [`production`] | a domain, a zero byte, the packet without field 14 *as it stands on the wire* | `signature_metadata` |
//!
//! Signatures are ASN.1 (DER) sequences of two integers, in field 14. What signs is deterministic (RFC 6979) and needs no randomness.

mod keys;
pub mod packet;
pub mod production;
pub mod trust;

pub use keys::{KeyError, PrivateKey, PublicKey};

use sha2::{Digest as _, Sha256};

use crate::wire::{Malformed, Raw, Reader};

/// The field number of `BusPacket.signature`.
pub(crate) const SIGNATURE_FIELD: u32 = 14;

/// Why a signature does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// What is signed is no packet.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// There is no signature.
    #[error("the packet is not signed")]
    Missing,
    /// It was not made by this key over these bytes, or is no canonical DER.
    #[error("the signature does not fit the packet and the key")]
    Invalid,
    /// The packet breaks a rule of the profile.
    #[error("{rule}")]
    Rule {
        /// What it must be.
        rule: &'static str,
    },
}

/// What a signature that belongs to a domain is made over: SHA-256 of the domain, a zero byte and the bytes.
pub(crate) fn digest_in(domain: &str, bytes: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(domain);
    hash.update([0]);
    hash.update(bytes);
    hash.finalize().into()
}

/// A packet without its signature, every other byte as it came.
pub(crate) struct Stripped<'a> {
    pub unsigned: Vec<u8>,
    pub signature: Option<&'a [u8]>,
}

/// Takes the signature out of a packet. Of several the last counts, as everywhere in protobuf.
pub(crate) fn strip(packet: &[u8]) -> Result<Stripped<'_>, Malformed> {
    let mut unsigned = Vec::with_capacity(packet.len());
    let mut signature = None;
    let mut reader = Reader::new(packet);
    while let Some((raw, whole)) = reader.field(crate::canonical::DEPTH_MAX)? {
        match raw {
            Raw::Bytes(SIGNATURE_FIELD, bytes) => signature = Some(bytes).filter(|bytes| !bytes.is_empty()),
            _ => unsigned.extend_from_slice(whole),
        }
    }
    Ok(Stripped { unsigned, signature })
}
