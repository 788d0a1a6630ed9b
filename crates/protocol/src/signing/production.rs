//! CAP-PRODUCTION: signatures over the exact bytes of a packet, for one audience and for a short time.
//!
//! `signature_metadata` names the profile, the key, the NATS subject that the packet is published to (the audience), when the
//! signature expires, and sixteen random bytes. What is hashed is a domain, a zero byte and the packet without field 14, as it stands
//! on the wire: so the wire must leave no room for a second reading. Nothing stands twice, nothing is unknown, every number takes as
//! few bytes as it can. Whoever verifies must also refuse a message that was taken before; [`Verified`] says what to remember.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;

use super::{PrivateKey, PublicKey, SIGNATURE_FIELD, SignatureError, Stripped, digest_in, strip};
use crate::canonical::{DEPTH_MAX, Tree};
use crate::cap::{BusPacket, SignatureMetadata};
use crate::schema::{Shape, bus_packet};
use crate::time::Timestamp;
use crate::wire::{Raw, Reader, put_bytes};

/// The profile's name.
pub const PROFILE: &str = "cap-production-v1";
/// The one algorithm of the profile.
pub const ALGORITHM: &str = "ECDSA-P256-SHA256";
/// The largest packet, signature included, in bytes.
pub const PACKET_BYTES_MAX: usize = 1 << 20;
/// The longest that a signature may be valid.
pub const LIFETIME_MAX: Duration = Duration::from_secs(300);
/// The most that clocks may differ.
pub const SKEW_MAX: Duration = Duration::from_secs(60);

const DOMAIN: &str = "CAP-PRODUCTION-SIGNATURE-V1";
const MESSAGE_ID_BYTES: usize = 16;
const VERSION_FIELD: u32 = 4;

/// What a packet must say to count.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The subject that it came on.
    pub audience: &'a str,
    /// `identity.tenant_id`.
    pub tenant_id: &'a str,
    /// `sender_id`.
    pub sender_id: &'a str,
    /// `signature_metadata.key_id`, and the key of that name.
    pub key: (&'a str, &'a PublicKey),
    /// What time it is.
    pub now: Timestamp,
    /// How far clocks may differ; at most [`SKEW_MAX`] counts.
    pub skew: Duration,
}

/// A packet whose signature counts, unless it was taken before.
#[derive(Clone, Debug, PartialEq)]
pub struct Verified {
    /// The packet.
    pub packet: BusPacket,
    /// With tenant, audience and sender: the name under which it must be remembered.
    pub message_id: [u8; MESSAGE_ID_BYTES],
    /// What was signed; the same name with another digest is an attack, with the same a redelivery.
    pub digest: [u8; 32],
    /// Until when it must be remembered: it does not count afterwards.
    pub remember_until: Timestamp,
}

/// Signs an encoded packet that carries its `signature_metadata`.
///
/// # Errors
/// [`SignatureError::Rule`] when the packet breaks a rule of the profile.
pub fn sign(packet: &[u8], key: &PrivateKey) -> Result<Bytes, SignatureError> {
    let mut tree = Tree::parse(bus_packet(), packet)?;
    tree.take_bytes(SIGNATURE_FIELD);
    let unsigned = tree.encode();
    strict(&unsigned)?;
    let decoded = decode(&unsigned)?;
    check_metadata(metadata(&decoded)?)?;
    let mut signed = unsigned;
    let signature = key.sign(&digest(&signed))?;
    put_bytes(SIGNATURE_FIELD, &signature, &mut signed);
    require(signed.len() <= PACKET_BYTES_MAX, "a packet must have at most 1 MiB")?;
    Ok(signed.into())
}

/// Checks a packet as it came.
///
/// # Errors
/// [`SignatureError`] says why it does not count.
pub fn verify(packet: &[u8], expected: &Expected<'_>) -> Result<Verified, SignatureError> {
    require(packet.len() <= PACKET_BYTES_MAX, "a packet must have at most 1 MiB")?;
    strict(packet)?;
    let Stripped { unsigned, signature } = strip(packet)?;
    let signature = signature.ok_or(SignatureError::Missing)?;
    let mut decoded = decode(&unsigned)?;
    let metadata = metadata(&decoded)?.clone();
    check_metadata(&metadata)?;
    require(metadata.audience == expected.audience, "the audience must be the subject")?;
    let tenant = decoded.identity.as_ref().map_or("", |identity| identity.tenant_id.as_str());
    require(!tenant.is_empty() && tenant == expected.tenant_id, "the tenant must be the key's")?;
    require(decoded.sender_id == expected.sender_id, "the sender must be the key's")?;
    let (key_id, key) = expected.key;
    require(metadata.key_id == key_id, "the key must be one that is known")?;
    let remember_until = check_time(&metadata, &decoded, expected)?;
    let digest = digest(&unsigned);
    key.verify(&digest, signature)?;
    decoded.signature = Bytes::copy_from_slice(signature);
    let message_id = metadata.message_id.as_ref().try_into().map_err(|_| SignatureError::Invalid)?;
    Ok(Verified { packet: decoded, message_id, digest, remember_until })
}

/// Which key a packet says that it was signed with; nothing of it is checked.
///
/// # Errors
/// [`SignatureError`] when it is no packet, or names none.
pub fn key_id(packet: &[u8]) -> Result<String, SignatureError> {
    Ok(metadata(&BusPacket::decode(packet).map_err(|_| MALFORMED)?)?.key_id.clone())
}

const MALFORMED: SignatureError = SignatureError::Rule { rule: "the packet must be a CAP packet" };

fn require(holds: bool, rule: &'static str) -> Result<(), SignatureError> {
    if holds { Ok(()) } else { Err(SignatureError::Rule { rule }) }
}

fn digest(unsigned: &[u8]) -> [u8; 32] {
    digest_in(DOMAIN, unsigned)
}

/// The rules of the exact wire, at the level of the envelope.
fn strict(packet: &[u8]) -> Result<(), SignatureError> {
    let schema = bus_packet();
    let mut seen = BTreeSet::new();
    let mut payloads = 0;
    let mut reader = Reader::new(packet);
    while let Some((raw, _)) = reader.field(DEPTH_MAX)? {
        let field = schema.field(raw.number()).filter(|field| field.kind.wire_type() == raw.wire_type());
        let field = field.ok_or(SignatureError::Rule { rule: "nothing in the packet may be unknown" })?;
        require(seen.insert(field.number), "nothing in the packet may stand twice")?;
        payloads += u32::from(matches!(field.shape, Shape::Choice(_)));
        require(payloads <= 1, "the packet must carry one payload")?;
        require(raw.number() != VERSION_FIELD || matches!(raw, Raw::Varint(_, 1)), "protocol_version must be 1")?;
    }
    require(reader.is_minimal(), "numbers must take as few bytes as they can")?;
    require(seen.contains(&VERSION_FIELD), "protocol_version must be 1")
}

fn decode(unsigned: &[u8]) -> Result<BusPacket, SignatureError> {
    require(!Tree::parse(bus_packet(), unsigned)?.has_unknown(), "nothing in the packet may be unknown")?;
    BusPacket::decode(unsigned).map_err(|_| MALFORMED)
}

fn metadata(packet: &BusPacket) -> Result<&SignatureMetadata, SignatureError> {
    packet.signature_metadata.as_ref().ok_or(SignatureError::Rule { rule: "signature_metadata must be present" })
}

fn check_metadata(metadata: &SignatureMetadata) -> Result<(), SignatureError> {
    let ours = metadata.profile_version == PROFILE && metadata.algorithm == ALGORITHM;
    require(ours, "the profile must be cap-production-v1 with ECDSA-P256-SHA256")?;
    require(metadata.message_id.len() == MESSAGE_ID_BYTES, "message_id must have 16 bytes")?;
    require(!metadata.audience.is_empty() && !metadata.key_id.is_empty(), "audience and key_id must not be empty")?;
    require(metadata.expires_at.is_some(), "expires_at must be present")
}

/// Whether the signature is valid now, and when it ceases to be.
fn check_time(metadata: &SignatureMetadata, packet: &BusPacket, expected: &Expected<'_>) -> Result<Timestamp, SignatureError> {
    let lifetime = i128::try_from(LIFETIME_MAX.as_nanos()).unwrap_or(i128::MAX);
    let skew = i128::try_from(expected.skew.min(SKEW_MAX).as_nanos()).unwrap_or(0);
    let now = i128::from(expected.now.millis()) * 1_000_000;
    let expires = nanos(metadata.expires_at.as_ref())?;
    let created = nanos(packet.created_at.as_ref())?;
    require(expires > now - skew, "the signature has expired")?;
    // The published SDK counts the lifetime from the moment of signing, which is a little after that of making the packet.
    let in_time = expires <= now + lifetime + skew && expires - created <= lifetime + skew;
    require(in_time, "the signature must expire within 5 minutes")?;
    // A millisecond more than it counts, because the rest of one is cut off.
    let until = u64::try_from((expires + skew) / 1_000_000 + 1).map_err(|_| MALFORMED)?;
    Ok(Timestamp::from_millis(until))
}

fn nanos(time: Option<&prost_types::Timestamp>) -> Result<i128, SignatureError> {
    let time = time.ok_or(SignatureError::Rule { rule: "created_at and expires_at must be present" })?;
    require((0..1_000_000_000).contains(&time.nanos), "a time must have less than a second of nanoseconds")?;
    Ok(i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cap::bus_packet::Payload;
    use crate::cap::{IdentityBinding, JobResult};

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
    const SUBJECT: &str = "sys.job.result";

    fn key() -> PrivateKey {
        PrivateKey::from_secret(&[3; 32]).expect("a key")
    }

    fn packet() -> BusPacket {
        let later = Timestamp::from_millis(NOW.millis() + 60_000);
        BusPacket {
            trace_id: "t".into(),
            sender_id: "w".into(),
            created_at: Some(NOW.to_proto()),
            protocol_version: 1,
            signature_metadata: Some(SignatureMetadata {
                profile_version: PROFILE.into(),
                algorithm: ALGORITHM.into(),
                message_id: Bytes::from_static(&[5; 16]),
                audience: SUBJECT.into(),
                expires_at: Some(later.to_proto()),
                key_id: "k".into(),
            }),
            identity: Some(IdentityBinding { tenant_id: "acme".into(), ..IdentityBinding::default() }),
            payload: Some(Payload::JobResult(JobResult { job_id: "j".into(), status: 5, ..JobResult::default() })),
            ..BusPacket::default()
        }
    }

    fn expected(key: &PublicKey) -> Expected<'_> {
        Expected { audience: SUBJECT, tenant_id: "acme", sender_id: "w", key: ("k", key), now: NOW, skew: Duration::from_secs(5) }
    }

    /// The vector that CAP publishes for this profile, `production-signing-v1.json`, made by its Go SDK. It has no `created_at`, so that only
    /// its bytes can be compared.
    #[test]
    fn the_published_vector_has_its_digest_and_counts() {
        let unsigned = [
            b"\n\x0cvector-go-v1\x12\rworker-vector \x01".as_slice(),
            b"*\\\n\x11cap-production-v1\x12\x11ECDSA-P256-SHA256\x1a\x100123456789abcdef\"\x0esys.job.vector",
            b"*\x06\x08\x80\xc7\x94\x95\x0f2\nvector-key",
            b"2!\n\rtenant-vector\x12\x10principal-vector\x82\x01\x15\n\njob-vector\x12\x07fixture",
        ]
        .concat();
        let signed = "72483046022100da72a0008bb006bf7c8191182555e82006f126eebee0c26616d8dc96f4e4fbcd022100b2d44a7ef3c0d7fec58f00fd3ffc140184446a8ac0ec46cac7d31c938cf1575e";
        let public = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEaxfR8uEsQkf4vOblY6RA8ncDfYEt\n6zOg9KE5RdiYwpZP40Li/hp/m47n60p8D54WK84zV2sxXs7LtkBoN79R9Q==\n-----END PUBLIC KEY-----\n";
        let packet = [unsigned.as_slice(), &unhex(signed)].concat();
        strict(&packet).expect("strict");
        let stripped = strip(&packet).expect("a packet");
        assert_eq!(stripped.unsigned.as_ref(), unsigned);
        let digest = digest(&unsigned);
        assert_eq!(digest.as_slice(), unhex("fb95efe952150b9681905c3044e3f18ba2836269f42403fac0f9996b8b8d4006"));
        let key = PublicKey::from_pem(public).expect("a key");
        key.verify(&digest, stripped.signature.expect("signed")).expect("it counts");
    }

    fn unhex(text: &str) -> Vec<u8> {
        let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal");
        (0..text.len()).step_by(2).map(byte).collect()
    }

    fn check(packet: &[u8]) -> Result<Verified, SignatureError> {
        verify(packet, &expected(&key().public()))
    }

    fn rule(outcome: &Result<Verified, SignatureError>) -> &'static str {
        match outcome {
            Err(SignatureError::Rule { rule }) => rule,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_signed_verifies_and_says_what_to_remember() {
        let signed = sign(&packet().encode_to_vec(), &key()).expect("signed");
        let verified = check(&signed).expect("verified");
        assert_eq!((verified.message_id, verified.packet.payload), ([5; 16], packet().payload));
        assert_eq!(verified.remember_until, Timestamp::from_millis(NOW.millis() + 65_001));
        assert_eq!(key_id(&signed), Ok("k".to_owned()));
    }

    #[test]
    fn each_expectation_counts() {
        let signed = sign(&packet().encode_to_vec(), &key()).expect("signed");
        let (public, other) = (key().public(), PrivateKey::from_secret(&[4; 32]).expect("a key").public());
        let good = expected(&public);
        assert_eq!(verify(&signed, &Expected { key: ("k", &other), ..good }), Err(SignatureError::Invalid));
        let cases = [
            ("audience", Expected { audience: "sys.heartbeat", ..good }),
            ("tenant", Expected { tenant_id: "other", ..good }),
            ("sender", Expected { sender_id: "v", ..good }),
            ("key", Expected { key: ("l", &public), ..good }),
        ];
        for (word, expected) in cases {
            assert!(rule(&verify(&signed, &expected)).contains(word), "{word}");
        }
        let at = |millis| verify(&signed, &Expected { now: Timestamp::from_millis(NOW.millis() + millis), ..good });
        assert!(at(64_999).is_ok());
        assert!(rule(&at(65_000)).contains("expired"));
    }

    #[test]
    fn the_wire_has_one_reading() {
        let signed = sign(&packet().encode_to_vec(), &key()).expect("signed");
        // A second trace_id, an unknown field, a second payload, a key and a value longer than needed.
        for more in [&b"\x0a\x01t"[..], b"\xb8\x01\x01", b"\x62\x00", b"\x8a\x00\x01t", b"\x92\x01\x81\x00t"] {
            let packet = [&signed[..], more].concat();
            assert!(matches!(check(&packet), Err(SignatureError::Rule { .. } | SignatureError::Malformed(_))));
        }
        let unsigned = packet().encode_to_vec();
        assert_eq!(check(&unsigned), Err(SignatureError::Missing));
    }

    #[test]
    fn what_breaks_the_profile_is_not_signed() {
        let refused = |change: fn(&mut BusPacket)| {
            let mut packet = packet();
            change(&mut packet);
            matches!(sign(&packet.encode_to_vec(), &key()), Err(SignatureError::Rule { .. }))
        };
        assert!(refused(|packet| packet.signature_metadata = None));
        assert!(refused(|packet| packet.protocol_version = 2));
        assert!(refused(|packet| packet.protocol_version = 0));
        assert!(refused(|packet| packet.signature_metadata.as_mut().expect("set").message_id = Bytes::new()));
        assert!(refused(|packet| packet.signature_metadata.as_mut().expect("set").algorithm = "none".into()));
    }
}
