//! The CAP envelope: decoding, checking and building packets.
//!
//! Two things matter here beyond the plain protobuf. Fields that we do not know are kept: what came in is never re-encoded from
//! its decoded form; instead [`Decoded::raw_payload`] holds the bytes as they were, and a change is made by *appending* an encoded
//! patch, because protobuf defines the concatenation of two messages as their merge (scalars: last wins, maps: by key,
//! sub-messages: merged). And the same rules are checked on what we send as on what we get, so that no packet of ours is
//! dropped by a published SDK.

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field};
use prost::{DecodeError, Message as _};

use crate::cap::bus_packet::Payload;
use crate::cap::{AlertSeverity, BusPacket, ErrorCode, JobPriority, JobRequest, JobStatus};
use crate::codes::Code;
use crate::handshake::Refused;
use crate::inline::{InlineError, OUTPUT};
use crate::negotiation;
use crate::time::Timestamp;

/// The one version of the CAP protocol.
pub const PROTOCOL_VERSION: i32 = 1;

/// The most risk tags, requirements or labels that a request may carry (CAP SDKs refuse more).
pub const LIST_ENTRIES_MAX: usize = 1000;

/// The largest token budget that CAP SDKs take.
const BUDGET_TOKENS_MAX: i64 = 10_000_000_000;

/// The field number of `BusPacket.job_request`.
const JOB_REQUEST_FIELD: u32 = 10;

/// The field number of `JobRequest.context_ref`.
const CONTEXT_REF_FIELD: u32 = 20;

/// A packet that was understood and keeps the rules.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// The packet as we understand it, without its payload.
    pub packet: BusPacket,
    /// The payload as we understand it.
    pub payload: Payload,
    /// The payload's bytes as they came, unknown fields included.
    pub raw_payload: Bytes,
}

/// Why a packet is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// Not a protobuf message of this kind.
    #[error("not a CAP packet: {detail}")]
    Malformed {
        /// What the decoder said.
        detail: String,
    },
    /// A field breaks a rule.
    #[error("{field}: {rule}")]
    Rule {
        /// The field.
        field: &'static str,
        /// What it must be.
        rule: &'static str,
    },
    /// Another protocol version.
    #[error("protocol_version: {found} is not {PROTOCOL_VERSION}")]
    Version {
        /// The version found.
        found: i32,
    },
    /// No payload, or one of a kind that we do not know.
    #[error("the packet carries no payload that is known")]
    UnknownPayload,
    /// Its sender has no live session of the trust handshake.
    #[error("auth_token: {sender_id} has no live session")]
    Session {
        /// Who it says it is.
        sender_id: String,
    },
    /// It must be signed, and is not.
    #[error("signature: the packet must be signed")]
    Unsigned,
    /// It is not signed by a key of its sender.
    #[error("signature: the signature is of no enrolled key of the sender")]
    Signature,
    /// A step of the trust handshake that was refused.
    #[error("the handshake was refused: {0}")]
    Handshake(Refused),
    /// The output in a result's header is not the one that the packet speaks of.
    #[error("header {OUTPUT}: {0}")]
    Carried(InlineError),
}

impl PacketError {
    /// The stable code of this error.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Version { .. } => Code::PacketVersion,
            Self::Session { .. } => Code::SessionRequired,
            Self::Unsigned => Code::SignatureMissing,
            Self::Signature => Code::SignatureInvalid,
            Self::Handshake(_) => Code::HandshakeRefused,
            Self::Malformed { .. } | Self::Rule { .. } | Self::UnknownPayload | Self::Carried(_) => Code::PacketMalformed,
        }
    }

    /// The code that CAP gives to this error.
    #[must_use]
    pub const fn cap_code(&self) -> ErrorCode {
        match self {
            Self::Version { .. } => ErrorCode::ProtocolVersionMismatch,
            Self::UnknownPayload => ErrorCode::ProtocolUnknownPayload,
            Self::Malformed { .. } | Self::Rule { .. } | Self::Carried(_) => ErrorCode::ProtocolMalformedPacket,
            // CAP has no code for sessions.
            Self::Session { .. } => ErrorCode::JobPermissionDenied,
            Self::Unsigned => ErrorCode::ProtocolSignatureMissing,
            Self::Signature => ErrorCode::ProtocolSignatureInvalid,
            Self::Handshake(refused) => refused.cap_code(),
        }
    }
}

/// Decodes a packet and checks it.
///
/// # Errors
/// [`PacketError`] says which rule it breaks.
pub fn decode(bytes: &Bytes) -> Result<Decoded, PacketError> {
    let mut packet = BusPacket::decode(bytes.clone()).map_err(|error| PacketError::Malformed { detail: error.to_string() })?;
    check(&packet)?;
    let payload = packet.payload.take().ok_or(PacketError::UnknownPayload)?;
    let raw_payload = raw_field(bytes, field_number(&payload))?;
    Ok(Decoded { packet, payload, raw_payload })
}

/// Builds a packet around a payload.
#[must_use]
pub fn packet(trace_id: &str, sender_id: &str, now: Timestamp, payload: Payload) -> Bytes {
    let packet = BusPacket { payload: Some(payload), ..header(trace_id, sender_id, now) };
    debug_assert_eq!(check(&packet), Ok(()), "our own packets keep the rules");
    packet.encode_to_vec().into()
}

/// Builds a packet around a job request that is already encoded.
#[must_use]
pub fn packet_with_request(trace_id: &str, sender_id: &str, now: Timestamp, request: &[u8]) -> Bytes {
    let header = header(trace_id, sender_id, now);
    let mut bytes = BytesMut::with_capacity(header.encoded_len() + request.len() + 12);
    // Encoding into a growing buffer cannot run out of room.
    header.encode_raw(&mut bytes);
    encode_key(JOB_REQUEST_FIELD, WireType::LengthDelimited, &mut bytes);
    encode_varint(request.len() as u64, &mut bytes);
    bytes.put_slice(request);
    bytes.freeze()
}

/// Changes a job request without losing fields that we do not know: the patch's fields win, its map entries are added.
#[must_use]
pub fn patch_request(request: &[u8], patch: &JobRequest) -> Bytes {
    let mut bytes = BytesMut::with_capacity(request.len() + patch.encoded_len());
    bytes.put_slice(request);
    patch.encode_raw(&mut bytes);
    bytes.freeze()
}

/// Takes the reference to an input out of a job request: whoever executes the job prefers it to the context pointer, and a patch can
/// only add to it. Every other field stays as it came, also those that we do not know.
#[must_use]
pub fn without_context_ref(request: &[u8]) -> Bytes {
    let mut kept = BytesMut::with_capacity(request.len());
    let mut rest = request;
    while !rest.is_empty() {
        let from_here = rest;
        match pass_field(&mut rest) {
            Ok(CONTEXT_REF_FIELD) => {}
            Ok(_) => kept.put_slice(&from_here[..from_here.len() - rest.len()]),
            // What is no protobuf holds no reference either.
            Err(_) => {
                kept.put_slice(from_here);
                break;
            }
        }
    }
    kept.freeze()
}

/// Moves behind the next field, and says which it was.
fn pass_field(rest: &mut &[u8]) -> Result<u32, DecodeError> {
    let (number, wire_type) = decode_key(rest)?;
    skip_field(wire_type, number, rest, DecodeContext::default())?;
    Ok(number)
}

fn header(trace_id: &str, sender_id: &str, now: Timestamp) -> BusPacket {
    BusPacket {
        trace_id: trace_id.to_owned(),
        sender_id: sender_id.to_owned(),
        created_at: Some(now.to_proto()),
        protocol_version: PROTOCOL_VERSION,
        ..BusPacket::default()
    }
}

/// Checks a packet against the rules that the published CAP SDKs apply to what they send and get.
///
/// # Errors
/// [`PacketError`] names the first rule that is broken.
pub fn check(packet: &BusPacket) -> Result<(), PacketError> {
    require(!packet.trace_id.is_empty(), "trace_id", "must not be empty")?;
    require(!packet.sender_id.is_empty(), "sender_id", "must not be empty")?;
    if packet.protocol_version != PROTOCOL_VERSION {
        return Err(PacketError::Version { found: packet.protocol_version });
    }
    require(packet.created_at.is_some(), "created_at", "must be present")?;
    match packet.payload.as_ref().ok_or(PacketError::UnknownPayload)? {
        Payload::JobRequest(request) => check_request(request),
        Payload::JobResult(result) => {
            require(!result.job_id.is_empty(), "job_result.job_id", "must not be empty")?;
            let status = JobStatus::try_from(result.status).unwrap_or(JobStatus::Unspecified);
            require(status != JobStatus::Unspecified, "job_result.status", "must be a known status")?;
            require(result.worker_id == packet.sender_id, "job_result.worker_id", "must equal sender_id")?;
            require(result.execution_ms >= 0, "job_result.execution_ms", "must not be negative")
        }
        Payload::Heartbeat(beat) => require(beat.worker_id == packet.sender_id, "heartbeat.worker_id", "must equal sender_id"),
        Payload::Handshake(shake) => {
            require(shake.component_id == packet.sender_id, "handshake.component_id", "must equal sender_id")?;
            let common = negotiation::common_version(negotiation::SPOKEN, &shake.supported_versions);
            let found = shake.supported_versions.iter().max().copied().unwrap_or_default();
            common.map(drop).ok_or(PacketError::Version { found })
        }
        Payload::JobProgress(progress) => {
            require(!progress.job_id.is_empty(), "job_progress.job_id", "must not be empty")?;
            require((0..=100).contains(&progress.percent), "job_progress.percent", "must be between 0 and 100")?;
            require(JobStatus::try_from(progress.status).is_ok(), "job_progress.status", "must be a known status")
        }
        Payload::JobCancel(cancel) => {
            require(!cancel.job_id.is_empty(), "job_cancel.job_id", "must not be empty")?;
            require(!cancel.requested_by.is_empty(), "job_cancel.requested_by", "must not be empty")
        }
        Payload::Alert(alert) => {
            let old = [&alert.level, &alert.message, &alert.component, &alert.code].iter().all(|text| !text.is_empty());
            let new = AlertSeverity::try_from(alert.severity).is_ok_and(|s| s != AlertSeverity::Unspecified)
                && alert.error_code_enum != 0
                && !alert.message.is_empty()
                && alert.source_component == packet.sender_id;
            require(old || new, "alert", "must be complete in its older or its newer form")
        }
        Payload::WorkerHandshakeChallengeRequest(_)
        | Payload::WorkerHandshakeChallenge(_)
        | Payload::WorkerHandshakeAuthenticate(_)
        | Payload::WorkerHandshakeResult(_) => Ok(()),
    }
}

/// Checks a job request by itself.
///
/// # Errors
/// [`PacketError`] names the first rule that is broken.
pub fn check_request(request: &JobRequest) -> Result<(), PacketError> {
    require(!request.job_id.is_empty(), "job_request.job_id", "must not be empty")?;
    require(!request.topic.is_empty(), "job_request.topic", "must not be empty")?;
    require(JobPriority::try_from(request.priority).is_ok(), "job_request.priority", "must be between 0 and 3")?;
    require(request.step_index >= 0, "job_request.step_index", "must not be negative")?;
    require(request.labels.len() <= LIST_ENTRIES_MAX, "job_request.labels", "must have at most 1,000 entries")?;
    if let Some(meta) = &request.meta {
        require(meta.risk_tags.len() <= LIST_ENTRIES_MAX, "job_request.meta.risk_tags", "must have at most 1,000 entries")?;
        require(meta.requires.len() <= LIST_ENTRIES_MAX, "job_request.meta.requires", "must have at most 1,000 entries")?;
        require(meta.labels.len() <= LIST_ENTRIES_MAX, "job_request.meta.labels", "must have at most 1,000 entries")?;
    }
    if let Some(budget) = &request.budget {
        let tokens = [budget.max_input_tokens, budget.max_output_tokens, budget.max_total_tokens];
        let bounded = tokens.iter().all(|n| (0..=BUDGET_TOKENS_MAX).contains(n));
        require(bounded, "job_request.budget", "token budgets must be between 0 and 10,000,000,000")?;
        require(budget.deadline_ms >= 0, "job_request.budget.deadline_ms", "must not be negative")?;
    }
    Ok(())
}

fn require(holds: bool, field: &'static str, rule: &'static str) -> Result<(), PacketError> {
    if holds { Ok(()) } else { Err(PacketError::Rule { field, rule }) }
}

const fn field_number(payload: &Payload) -> u32 {
    match payload {
        Payload::JobRequest(_) => JOB_REQUEST_FIELD,
        Payload::JobResult(_) => 11,
        Payload::Heartbeat(_) => 12,
        Payload::Alert(_) => 13,
        Payload::JobProgress(_) => 15,
        Payload::JobCancel(_) => 16,
        Payload::Handshake(_) => 17,
        Payload::WorkerHandshakeChallengeRequest(_) => 19,
        Payload::WorkerHandshakeChallenge(_) => 20,
        Payload::WorkerHandshakeAuthenticate(_) => 21,
        Payload::WorkerHandshakeResult(_) => 22,
    }
}

/// All occurrences of a length-delimited field, joined: protobuf merges a sub-message that stands more than once.
fn raw_field(packet: &Bytes, wanted: u32) -> Result<Bytes, PacketError> {
    let malformed = |detail: &str| PacketError::Malformed { detail: detail.to_owned() };
    let mut rest = packet.clone();
    let mut found: Option<Bytes> = None;
    while !rest.is_empty() {
        let (number, wire) = decode_key(&mut rest).map_err(|error| malformed(&error.to_string()))?;
        let skip = match wire {
            WireType::Varint => {
                decode_varint(&mut rest).map_err(|error| malformed(&error.to_string()))?;
                0
            }
            WireType::SixtyFourBit => 8,
            WireType::ThirtyTwoBit => 4,
            WireType::LengthDelimited => {
                let length = decode_varint(&mut rest).map_err(|error| malformed(&error.to_string()))?;
                usize::try_from(length).map_err(|_| malformed("length too large"))?
            }
            WireType::StartGroup | WireType::EndGroup => return Err(malformed("groups are not part of the wire")),
        };
        if skip > rest.len() {
            return Err(malformed("a field ends beyond the packet"));
        }
        let value = rest.split_to(skip);
        if number != wanted || wire != WireType::LengthDelimited {
            continue;
        }
        // Nearly always it stands once, and nothing is copied.
        found = Some(match found {
            None => value,
            Some(before) => [before, value].concat().into(),
        });
    }
    Ok(found.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cap::{Compensation, DispatchIdentity, Handshake, Heartbeat, JobResult, ResourceRef};

    fn now() -> Timestamp {
        Timestamp::from_millis(1_700_000_000_123)
    }

    fn request() -> JobRequest {
        JobRequest { job_id: "j".into(), topic: "job.echo".into(), ..JobRequest::default() }
    }

    #[test]
    fn a_packet_reads_back() {
        let bytes = packet("t", "s", now(), Payload::JobRequest(request()));
        let decoded = decode(&bytes).expect("valid");
        assert_eq!(decoded.payload, Payload::JobRequest(request()));
        assert_eq!(decoded.raw_payload, request().encode_to_vec());
        assert_eq!(packet_with_request("t", "s", now(), &decoded.raw_payload), bytes);
    }

    #[test]
    fn unknown_fields_survive_a_patch() {
        let mut raw = request().encode_to_vec();
        // Field 999, a string that no version of ours knows.
        encode_key(999, WireType::LengthDelimited, &mut raw);
        encode_varint(3, &mut raw);
        raw.extend_from_slice(b"new");
        let dispatch = DispatchIdentity { dispatch_id: "d".into(), attempt: 2, assigned_worker_id: "w".into() };
        let patch = JobRequest { dispatch: Some(dispatch.clone()), ..JobRequest::default() };
        let bytes = packet_with_request("t", "s", now(), &patch_request(&raw, &patch));
        let decoded = decode(&bytes).expect("valid");
        let Payload::JobRequest(seen) = decoded.payload else { panic!("a request") };
        assert_eq!((seen.topic.as_str(), seen.dispatch), ("job.echo", Some(dispatch)));
        assert!(decoded.raw_payload.windows(3).any(|w| w == b"new"));
    }

    #[test]
    fn only_the_reference_to_the_input_is_taken_out() {
        let reference = ResourceRef { uri: "blob:sha256:0".into(), size_bytes: 1, ..ResourceRef::default() };
        let compensation = Compensation { context_ref: Some(reference.clone()), ..Compensation::default() };
        let kept = JobRequest { context_ptr: "redis://ctx:a".into(), compensation: Some(compensation), ..request() };
        let mut raw = JobRequest { context_ref: Some(reference.clone()), ..kept.clone() }.encode_to_vec();
        // Field 999, which no version of ours knows, and the reference once more: protobuf merges the two.
        encode_key(999, WireType::Varint, &mut raw);
        encode_varint(3, &mut raw);
        let raw = patch_request(&raw, &JobRequest { context_ref: Some(reference), ..JobRequest::default() });
        let without = without_context_ref(&raw);
        assert_eq!(JobRequest::decode(without.clone()), Ok(kept.clone()));
        assert_eq!(without.len(), kept.encoded_len() + 3, "what is unknown stays");
        assert_eq!(without_context_ref(&without), without);
        assert_eq!(without_context_ref(b"\xff"), &b"\xff"[..]);
    }

    #[test]
    fn rules_are_named() {
        let rule = |packet: &BusPacket| match check(packet) {
            Err(PacketError::Rule { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        let good = BusPacket { payload: Some(Payload::JobRequest(request())), ..header("t", "s", now()) };
        assert_eq!(check(&good), Ok(()));
        assert_eq!(rule(&BusPacket { trace_id: String::new(), ..good.clone() }), "trace_id");
        assert_eq!(rule(&BusPacket { created_at: None, ..good.clone() }), "created_at");
        assert_eq!(check(&BusPacket { protocol_version: 2, ..good.clone() }), Err(PacketError::Version { found: 2 }));
        assert_eq!(check(&BusPacket { payload: None, ..good.clone() }), Err(PacketError::UnknownPayload));
        let with = |payload| BusPacket { payload: Some(payload), ..good.clone() };
        let no_topic = JobRequest { topic: String::new(), ..request() };
        assert_eq!(rule(&with(Payload::JobRequest(no_topic))), "job_request.topic");
        let result = JobResult { job_id: "j".into(), status: 5, worker_id: "x".into(), ..JobResult::default() };
        assert_eq!(rule(&with(Payload::JobResult(result))), "job_result.worker_id");
        let shake = |versions: &[i32]| {
            let shake = Handshake { component_id: "s".into(), supported_versions: versions.into(), ..Handshake::default() };
            check(&with(Payload::Handshake(shake)))
        };
        assert_eq!((shake(&[]), shake(&[1]), shake(&[3, 1])), (Ok(()), Ok(()), Ok(())));
        assert_eq!(shake(&[3, 2]), Err(PacketError::Version { found: 3 }));
        let beat = Heartbeat { worker_id: "x".into(), ..Heartbeat::default() };
        assert_eq!(rule(&with(Payload::Heartbeat(beat))), "heartbeat.worker_id");
    }

    proptest::proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = decode(&Bytes::from(bytes));
        }
    }
}
