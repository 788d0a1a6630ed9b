//! Signatures of the four packets of the trust handshake: challenge request, challenge, authenticate, result.
//!
//! A digest is SHA-256 over the phase's domain, a zero byte and the canonical packet without its signature: so no phase's signature
//! serves for another, nor for an ordinary packet. Fields that are not known refuse the packet, at any depth.

use bytes::Bytes;

use super::{PrivateKey, PublicKey, SIGNATURE_FIELD, SignatureError, digest_in};
use crate::canonical::Tree;
use crate::schema::bus_packet;

/// The largest packet of a handshake, in bytes.
pub const PACKET_BYTES_MAX: usize = 65_536;

/// A packet of the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The worker asks.
    ChallengeRequest,
    /// The scheduler challenges.
    Challenge,
    /// The worker answers the challenge.
    Authenticate,
    /// The scheduler's verdict.
    Result,
}

impl Phase {
    const ALL: [Self; 4] = [Self::ChallengeRequest, Self::Challenge, Self::Authenticate, Self::Result];

    /// The domain of its signatures.
    #[must_use]
    pub const fn domain(self) -> &'static str {
        match self {
            Self::ChallengeRequest => "CAP-WORKER-HANDSHAKE-CHALLENGE-REQUEST-V1",
            Self::Challenge => "CAP-WORKER-HANDSHAKE-CHALLENGE-V1",
            Self::Authenticate => "CAP-WORKER-HANDSHAKE-AUTHENTICATE-V1",
            Self::Result => "CAP-WORKER-HANDSHAKE-RESULT-V1",
        }
    }

    /// The field of `BusPacket` that holds it.
    const fn field(self) -> u32 {
        match self {
            Self::ChallengeRequest => 19,
            Self::Challenge => 20,
            Self::Authenticate => 21,
            Self::Result => 22,
        }
    }
}

/// Signs an encoded packet of the handshake; what comes back is canonical.
///
/// # Errors
/// [`SignatureError::Rule`] when it belongs to no phase, is too large or holds what is not known.
pub fn sign(packet: &[u8], key: &PrivateKey) -> Result<Bytes, SignatureError> {
    let mut tree = parse(packet)?;
    tree.take_bytes(SIGNATURE_FIELD);
    let signature = key.sign(&digest_of(&tree)?)?;
    tree.set_bytes(SIGNATURE_FIELD, &signature);
    Ok(tree.encode().into())
}

/// Checks the signature of a packet of the handshake as it came, and says which phase it belongs to.
///
/// # Errors
/// [`SignatureError`] says why it does not count.
pub fn verify(packet: &[u8], key: &PublicKey) -> Result<Phase, SignatureError> {
    let mut tree = parse(packet)?;
    let signature = tree.take_bytes(SIGNATURE_FIELD).ok_or(SignatureError::Missing)?;
    key.verify(&digest_of(&tree)?, signature)?;
    phase_of(&tree)
}

/// What the signature of a packet of the handshake is made over: SHA-256.
///
/// # Errors
/// [`SignatureError`] when it is no packet of the handshake.
pub fn digest(packet: &[u8]) -> Result<[u8; 32], SignatureError> {
    let mut tree = parse(packet)?;
    tree.take_bytes(SIGNATURE_FIELD);
    digest_of(&tree)
}

fn parse(packet: &[u8]) -> Result<Tree<'_>, SignatureError> {
    if packet.len() > PACKET_BYTES_MAX {
        return Err(SignatureError::Rule { rule: "a packet of the handshake must have at most 65,536 bytes" });
    }
    let tree = Tree::parse(bus_packet(), packet)?;
    if tree.has_unknown() {
        return Err(SignatureError::Rule { rule: "a packet of the handshake must hold nothing that is not known" });
    }
    Ok(tree)
}

fn phase_of(tree: &Tree<'_>) -> Result<Phase, SignatureError> {
    let phase = Phase::ALL.into_iter().find(|phase| tree.holds(phase.field()));
    phase.ok_or(SignatureError::Rule { rule: "the packet belongs to no phase of the handshake" })
}

fn digest_of(unsigned: &Tree<'_>) -> Result<[u8; 32], SignatureError> {
    Ok(digest_in(phase_of(unsigned)?.domain(), &unsigned.encode()))
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::cap::bus_packet::Payload;
    use crate::cap::{
        BusPacket, Heartbeat, WorkerHandshakeAuthenticate, WorkerHandshakeChallenge, WorkerHandshakeChallengeRequest,
        WorkerHandshakeResult,
    };

    fn phases() -> [(Phase, Vec<u8>); 4] {
        [
            (Phase::ChallengeRequest, Payload::WorkerHandshakeChallengeRequest(WorkerHandshakeChallengeRequest::default())),
            (Phase::Challenge, Payload::WorkerHandshakeChallenge(WorkerHandshakeChallenge::default())),
            (Phase::Authenticate, Payload::WorkerHandshakeAuthenticate(WorkerHandshakeAuthenticate::default())),
            (Phase::Result, Payload::WorkerHandshakeResult(WorkerHandshakeResult::default())),
        ]
        .map(|(phase, payload)| {
            let packet = BusPacket { auth_token: "t".into(), payload: Some(payload), ..BusPacket::default() };
            (phase, packet.encode_to_vec())
        })
    }

    #[test]
    fn each_phase_has_signatures_of_its_own() {
        let key = PrivateKey::from_secret(&[9; 32]).expect("a key");
        let mut digests = Vec::new();
        for (phase, packet) in phases() {
            let signed = sign(&packet, &key).expect("signed");
            assert_eq!(verify(&signed, &key.public()), Ok(phase));
            digests.push(digest(&signed).expect("a digest"));
            assert_eq!(verify(&packet, &key.public()), Err(SignatureError::Missing));
            // A signature of the ordinary profile is none here.
            let ordinary = super::super::packet::sign(&packet, &key).expect("signed");
            assert_eq!(verify(&ordinary, &key.public()), Err(SignatureError::Invalid));
        }
        digests.sort_unstable();
        digests.dedup();
        assert_eq!(digests.len(), 4);
    }

    #[test]
    fn what_does_not_belong_here_is_refused() {
        let rule = |packet: &[u8]| matches!(digest(packet), Err(SignatureError::Rule { .. }));
        let beat = BusPacket { payload: Some(Payload::Heartbeat(Heartbeat::default())), ..BusPacket::default() };
        assert!(rule(&beat.encode_to_vec()));
        for (_, mut packet) in phases() {
            let mut large = packet.clone();
            large.extend_from_slice(b"\x0a\x80\x80\x04");
            large.extend(std::iter::repeat_n(b'x', PACKET_BYTES_MAX));
            assert!(rule(&large));
            // Field 23, which is reserved.
            packet.extend_from_slice(b"\xb8\x01\x01");
            assert!(rule(&packet));
        }
    }
}
