//! The trust handshake of workers: what its four packets must say, and what the scheduler answers. Nothing is sent or kept here.
//!
//! ```text
//! worker                                        scheduler
//!   ── challenge request, signed ──────────────▶   read_request, challenge
//!   ◀──────────────────────── challenge, signed ──
//!   ── authenticate: the challenge, signed ────▶   read_answer, judge
//!   ◀──── result with a session token, signed ────  verdict
//! ```
//!
//! Whoever uses it keeps what was issued, sees to it that a challenge is answered once, and makes the random numbers.

use bytes::Bytes;
use prost::Message as _;

use crate::cap::bus_packet::Payload;
use crate::cap::{
    BusPacket, ComponentRole, ErrorCode, Handshake, WorkerHandshakeAuthenticate, WorkerHandshakeChallenge,
    WorkerHandshakeChallengeRequest, WorkerHandshakeProofAlgorithm, WorkerHandshakePurpose,
    WorkerHandshakeRejectionReason as Reason, WorkerHandshakeResult,
};
use crate::envelope::PROTOCOL_VERSION;
use crate::signing::{PrivateKey, PublicKey, SignatureError, trust};
use crate::time::Timestamp;

/// Whom every worker means when it asks.
pub const AUDIENCE: &str = "cordum-scheduler";
/// The length of both nonces, in bytes.
pub const NONCE_BYTES: usize = 32;
/// How far the clocks of worker and scheduler may differ, in milliseconds.
pub const SKEW_MAX_MS: u64 = 60_000;
/// How long a challenge may be answered, in milliseconds; CAP allows no more than a minute.
pub const CHALLENGE_MS: u64 = 30_000;
/// The longest name of anybody, in bytes.
const NAME_BYTES_MAX: usize = 256;
/// The longest session token, in bytes.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// A worker's key, as it was enrolled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolled {
    /// The worker.
    pub worker_id: String,
    /// The name of its key.
    pub proof_key_id: String,
    /// The key.
    pub key: PublicKey,
    /// Which agent it is.
    pub agent_id: String,
    /// Whose it is.
    pub tenant_id: String,
}

/// Who answers.
#[derive(Clone, Debug)]
pub struct Authority {
    /// The scheduler's `sender_id`, which workers expect.
    pub sender_id: String,
    /// The name of its key, under which workers know it.
    pub key_id: String,
    /// The key.
    pub key: PrivateKey,
}

/// Why a worker is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Refused {
    /// CAP's word for it.
    pub reason: Reason,
    /// In more words, for operators.
    pub detail: &'static str,
}

impl Refused {
    /// CAP's error code for it, in alerts.
    #[must_use]
    pub const fn cap_code(&self) -> ErrorCode {
        match self.reason {
            Reason::InvalidRequest => ErrorCode::ProtocolMalformedPacket,
            Reason::UnsupportedVersion => ErrorCode::ProtocolVersionMismatch,
            Reason::AuthenticationFailed => ErrorCode::ProtocolSignatureInvalid,
            Reason::ReplayDetected
            | Reason::ClockSkew
            | Reason::ChallengeExpired
            | Reason::SessionRequired
            | Reason::SessionInvalid
            | Reason::InternalError
            | Reason::Unspecified => ErrorCode::JobPermissionDenied,
        }
    }
}

/// A challenge request whose form is right; nobody has checked its signature.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    bytes: Bytes,
    created_at: i128,
    /// What it asks for.
    pub request: WorkerHandshakeChallengeRequest,
}

/// An answer to a challenge whose form is right; nobody has checked its signature.
#[derive(Clone, Debug, PartialEq)]
pub struct Answered {
    bytes: Bytes,
    created_at: i128,
    /// The challenge that it answers.
    pub challenge: WorkerHandshakeChallenge,
    /// What the worker says of itself.
    pub capability: Handshake,
    /// The session that it has; only in a renewal.
    pub token: String,
}

/// What the scheduler decided about an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The worker is who it says.
    Accepted {
        /// Its new session.
        token: String,
        /// Until when that lives.
        expires_at: Timestamp,
    },
    /// It is not believed.
    Rejected(Reason),
}

/// What must be new in each challenge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fresh {
    /// The challenge's name, which nobody can guess.
    pub challenge_id: String,
    /// Random bytes.
    pub server_nonce: [u8; NONCE_BYTES],
}

/// Reads a challenge request.
///
/// # Errors
/// [`Refused`] when its form is wrong.
pub fn read_request(bytes: &Bytes) -> Result<Asked, Refused> {
    let packet = read(bytes)?;
    let created_at = created(&packet)?;
    let BusPacket { trace_id, sender_id, auth_token, payload, .. } = packet;
    let Some(Payload::WorkerHandshakeChallengeRequest(request)) = payload else {
        return Err(invalid("the packet must carry a challenge request"));
    };
    let WorkerHandshakeChallengeRequest { request_id, worker_id, proof_key_id, audience, sdk_version, .. } = &request;
    require([request_id, worker_id, proof_key_id, sdk_version].into_iter().all(|name| is_name(name)), "names must be set")?;
    require(trace_id == request.trace_id && is_name(&trace_id), "trace_id must be that of the packet")?;
    require(sender_id == *worker_id, "worker_id must be the packet's sender")?;
    require(audience == AUDIENCE, "the audience must be cordum-scheduler")?;
    require(auth_token.is_empty(), "a challenge request must not carry a token")?;
    check_terms(request.protocol_version, request.proof_algorithm, request.purpose)?;
    require(request.client_nonce.len() == NONCE_BYTES, "client_nonce must have 32 bytes")?;
    Ok(Asked { bytes: bytes.clone(), created_at, request })
}

/// Challenges a worker that asked and is enrolled. Gives the challenge, to be kept, and the packet, to be sent.
///
/// # Errors
/// [`Refused`] when the signature is not the enrolled key's, or the clocks differ.
pub fn challenge(
    asked: &Asked,
    enrolled: &Enrolled,
    authority: &Authority,
    fresh: Fresh,
    now: Timestamp,
) -> Result<(WorkerHandshakeChallenge, Bytes), Refused> {
    let request = &asked.request;
    check_signer(&asked.bytes, enrolled, &request.worker_id, &request.proof_key_id, trust::Phase::ChallengeRequest)?;
    check_clock(asked.created_at, now)?;
    let challenge = WorkerHandshakeChallenge {
        request_id: request.request_id.clone(),
        challenge_id: fresh.challenge_id,
        trace_id: request.trace_id.clone(),
        worker_id: request.worker_id.clone(),
        agent_id: enrolled.agent_id.clone(),
        tenant_id: enrolled.tenant_id.clone(),
        proof_key_id: request.proof_key_id.clone(),
        proof_algorithm: request.proof_algorithm,
        server_key_id: authority.key_id.clone(),
        audience: request.audience.clone(),
        purpose: request.purpose,
        client_nonce: request.client_nonce.clone(),
        server_nonce: Bytes::copy_from_slice(&fresh.server_nonce),
        protocol_version: request.protocol_version,
        sdk_version: request.sdk_version.clone(),
        issued_at: Some(now.to_proto()),
        expires_at: Some(now.after_millis(CHALLENGE_MS).to_proto()),
    };
    let payload = Payload::WorkerHandshakeChallenge(challenge.clone());
    let packet = sign(authority, &challenge.trace_id, String::new(), payload, now)?;
    Ok((challenge, packet))
}

/// Reads an answer to a challenge.
///
/// # Errors
/// [`Refused`] when its form is wrong.
pub fn read_answer(bytes: &Bytes) -> Result<Answered, Refused> {
    let packet = read(bytes)?;
    let created_at = created(&packet)?;
    let Some(Payload::WorkerHandshakeAuthenticate(answer)) = packet.payload else {
        return Err(invalid("the packet must carry an answer to a challenge"));
    };
    let WorkerHandshakeAuthenticate { challenge: Some(challenge), capability_handshake: Some(capability) } = answer else {
        return Err(invalid("challenge and capability_handshake must be present"));
    };
    require(packet.trace_id == challenge.trace_id, "trace_id must be the challenge's")?;
    require(packet.sender_id == challenge.worker_id, "the sender must be the challenge's worker")?;
    require(is_name(&challenge.challenge_id), "challenge_id must be set")?;
    check_terms(challenge.protocol_version, challenge.proof_algorithm, challenge.purpose)?;
    check_capability(&capability, &challenge)?;
    let token = packet.auth_token;
    match challenge.purpose() {
        WorkerHandshakePurpose::Renew => require(is_token(&token), "a renewal must carry the current token")
            .map_err(|refused| Refused { reason: Reason::SessionRequired, ..refused })?,
        WorkerHandshakePurpose::Issue | WorkerHandshakePurpose::Unspecified => {
            require(token.is_empty(), "only a renewal carries a token")?;
        }
    }
    Ok(Answered { bytes: bytes.clone(), created_at, challenge, capability, token })
}

/// Whether an answer is right: it repeats the challenge as it was issued, in time, and is signed by the enrolled key. Whether the
/// session of a renewal lives is not decided here.
///
/// # Errors
/// [`Refused`] says why not.
pub fn judge(answered: &Answered, issued: &WorkerHandshakeChallenge, enrolled: &Enrolled, now: Timestamp) -> Result<(), Refused> {
    let refused = |reason, detail| Err(Refused { reason, detail });
    if answered.challenge != *issued {
        return refused(Reason::AuthenticationFailed, "the challenge is not the one that was issued");
    }
    check_signer(&answered.bytes, enrolled, &issued.worker_id, &issued.proof_key_id, trust::Phase::Authenticate)?;
    if issued.agent_id != enrolled.agent_id || issued.tenant_id != enrolled.tenant_id {
        return refused(Reason::AuthenticationFailed, "the key was enrolled anew for somebody else");
    }
    check_clock(answered.created_at, now)?;
    let expires = issued.expires_at.as_ref().map(Timestamp::from_proto).unwrap_or_default();
    if now >= expires {
        return refused(Reason::ChallengeExpired, "the challenge has expired");
    }
    Ok(())
}

/// The packet that tells a worker what was decided about its answer.
///
/// # Errors
/// [`Refused`] when it cannot be signed.
pub fn verdict(
    challenge: &WorkerHandshakeChallenge,
    authority: &Authority,
    verdict: Verdict,
    now: Timestamp,
) -> Result<Bytes, Refused> {
    let result = WorkerHandshakeResult {
        challenge: Some(challenge.clone()),
        issued_at: Some(now.to_proto()),
        ..WorkerHandshakeResult::default()
    };
    let (token, result) = match verdict {
        Verdict::Accepted { token, expires_at } => {
            (token, WorkerHandshakeResult { accepted: true, token_expires_at: Some(expires_at.to_proto()), ..result })
        }
        Verdict::Rejected(reason) => (String::new(), WorkerHandshakeResult { rejection_reason: reason.into(), ..result }),
    };
    sign(authority, &challenge.trace_id, token, Payload::WorkerHandshakeResult(result), now)
}

fn sign(authority: &Authority, trace_id: &str, auth_token: String, payload: Payload, now: Timestamp) -> Result<Bytes, Refused> {
    let packet = BusPacket {
        trace_id: trace_id.to_owned(),
        sender_id: authority.sender_id.clone(),
        created_at: Some(now.to_proto()),
        protocol_version: PROTOCOL_VERSION,
        auth_token,
        payload: Some(payload),
        ..BusPacket::default()
    };
    let signed = trust::sign(&packet.encode_to_vec(), &authority.key);
    signed.map_err(|_| Refused { reason: Reason::InternalError, detail: "the answer cannot be signed" })
}

const fn invalid(detail: &'static str) -> Refused {
    Refused { reason: Reason::InvalidRequest, detail }
}

fn require(holds: bool, detail: &'static str) -> Result<(), Refused> {
    if holds { Ok(()) } else { Err(invalid(detail)) }
}

/// The envelope: canonical enough to be signed, nothing unknown, of our version.
fn read(bytes: &Bytes) -> Result<BusPacket, Refused> {
    trust::digest(bytes).map_err(|error| match error {
        SignatureError::Rule { rule } => invalid(rule),
        SignatureError::Malformed(_) | SignatureError::Missing | SignatureError::Invalid => {
            invalid("the packet must be a CAP packet")
        }
    })?;
    let packet = BusPacket::decode(bytes.clone()).map_err(|_| invalid("the packet must be a CAP packet"))?;
    if packet.protocol_version != PROTOCOL_VERSION {
        return Err(Refused { reason: Reason::UnsupportedVersion, detail: "protocol_version must be 1" });
    }
    require(!packet.signature.is_empty(), "the packet must be signed")?;
    Ok(packet)
}

/// When a packet says that it was made, in nanoseconds since 1970.
fn created(packet: &BusPacket) -> Result<i128, Refused> {
    let time = packet.created_at.as_ref().ok_or(invalid("created_at must be present"))?;
    require((0..1_000_000_000).contains(&time.nanos), "created_at must have less than a second of nanoseconds")?;
    Ok(i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos))
}

fn check_terms(version: i32, algorithm: i32, purpose: i32) -> Result<(), Refused> {
    if version != PROTOCOL_VERSION {
        return Err(Refused { reason: Reason::UnsupportedVersion, detail: "protocol_version must be 1" });
    }
    let p256 = WorkerHandshakeProofAlgorithm::EcdsaP256Sha256;
    require(algorithm == i32::from(p256), "the proof algorithm must be ECDSA P-256 with SHA-256")?;
    let known = WorkerHandshakePurpose::try_from(purpose).is_ok_and(|purpose| purpose != WorkerHandshakePurpose::Unspecified);
    require(known, "the purpose must be to issue or to renew")
}

fn check_capability(capability: &Handshake, challenge: &WorkerHandshakeChallenge) -> Result<(), Refused> {
    let itself = capability.component_id == challenge.worker_id && capability.role() == ComponentRole::Worker;
    require(itself && capability.sdk_version == challenge.sdk_version, "the worker must speak of itself")?;
    require(capability.supported_versions == [PROTOCOL_VERSION], "supported_versions must be 1 alone")?;
    let keys = capability.capabilities.iter().all(|(name, yes)| *yes && is_capability(name));
    require(keys, "capabilities must be true, and their names short and in lower case")?;
    let mut topics: Vec<&str> = capability.ready_topics.iter().map(String::as_str).collect();
    let count = topics.len();
    topics.sort_unstable();
    topics.dedup();
    require(topics.len() == count && topics.iter().all(|topic| !topic.trim().is_empty()), "ready_topics must differ")
}

fn check_signer(bytes: &Bytes, enrolled: &Enrolled, worker_id: &str, key_id: &str, phase: trust::Phase) -> Result<(), Refused> {
    let failed = |detail| Refused { reason: Reason::AuthenticationFailed, detail };
    if enrolled.worker_id != worker_id || enrolled.proof_key_id != key_id {
        return Err(failed("the key is another one"));
    }
    match trust::verify(bytes, &enrolled.key) {
        Ok(found) if found == phase => Ok(()),
        Ok(_) | Err(_) => Err(failed("the signature is not the enrolled key's")),
    }
}

/// Sixty seconds are still good, a nanosecond more is not.
fn check_clock(created_at: i128, now: Timestamp) -> Result<(), Refused> {
    let now = i128::from(now.millis()) * 1_000_000;
    let skew = i128::from(SKEW_MAX_MS) * 1_000_000;
    if (created_at - now).abs() > skew {
        return Err(Refused { reason: Reason::ClockSkew, detail: "the clocks differ by more than a minute" });
    }
    Ok(())
}

fn is_visible(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Whether a text can name somebody in the handshake: 1 to 256 visible characters of ASCII.
#[must_use]
pub fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= NAME_BYTES_MAX && is_visible(text)
}

/// Whether a text can be a session token.
#[must_use]
pub fn is_token(text: &str) -> bool {
    !text.is_empty() && text.len() <= TOKEN_BYTES_MAX && is_visible(text)
}

fn is_capability(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|byte| byte.is_ascii_lowercase())
        && name.len() <= 64
        && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_.-".contains(&byte))
}
