//! A CAP worker by hand that proves its key, and says what it is told to say.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use busbar_protocol::cap::bus_packet::Payload;
use busbar_protocol::cap::{
    BusPacket, ComponentRole, Handshake, Heartbeat, IdentityBinding, SignatureMetadata, WorkerHandshakeAuthenticate,
    WorkerHandshakeChallenge, WorkerHandshakeChallengeRequest, WorkerHandshakeProofAlgorithm, WorkerHandshakePurpose,
    WorkerHandshakeRejectionReason, WorkerHandshakeResult,
};
use busbar_protocol::envelope::PROTOCOL_VERSION;
use busbar_protocol::handshake::{AUDIENCE, NONCE_BYTES};
use busbar_protocol::prost::Message as _;
use busbar_protocol::signing::{PrivateKey, packet, production, trust};
use busbar_protocol::time::Timestamp;
use busbar_protocol::{ids, subjects};
use bytes::Bytes;

use super::{Dev, DevOptions, Wire, built, cap_pack};

const SDK: &str = "by-hand/1";
const KEY: &str = "proof-1";

/// The worker.
#[derive(Clone, Debug)]
pub(crate) struct Prover {
    id: &'static str,
    key: PrivateKey,
}

/// A file with the public half of the key with which the scheduler of these tests signs.
pub(crate) fn scheduler_public_key(dev: &Dev) -> PathBuf {
    let file = dev.temp().join("scheduler.public.pem");
    fs::write(&file, scheduler_key().public().to_pem().unwrap()).unwrap();
    file
}

/// A stack whose scheduler signs, with these further settings.
pub(crate) fn trusting(settings: &[&str]) -> Dev {
    let args = settings.iter().flat_map(|setting| ["--set".to_owned(), (*setting).to_owned()]);
    // The file must be there before the stack, and goes with the process.
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("scheduler-key.pem");
    fs::write(&file, scheduler_key().to_pem().unwrap()).unwrap();
    let key = ["--set".to_owned(), format!("scheduler.signing_key_file={}", file.display())];
    Dev::start_with(DevOptions { packs: vec![cap_pack()], args: args.chain(key).collect(), ..DevOptions::default() })
}

/// The key with which the scheduler of these tests signs.
pub(crate) fn scheduler_key() -> PrivateKey {
    PrivateKey::from_secret(&[9; 32]).unwrap()
}

/// Runs `ctl` against a stack; what it said, where it went well.
pub(crate) fn ctl(dev: &Dev, args: &[&str]) -> Result<String, String> {
    let output = Command::new(built("ctl")).args(args).arg("--data-dir").arg(dev.data_dir()).output().unwrap();
    let said = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(said(output.stdout)) } else { Err(said(output.stderr)) }
}

impl Prover {
    /// One with a key of its own.
    pub(crate) fn new(id: &'static str, secret: u8) -> Self {
        Self { id, key: PrivateKey::from_secret(&[secret; 32]).unwrap() }
    }

    /// A file with its key.
    pub(crate) fn key_file(&self, dev: &Dev) -> PathBuf {
        let file = dev.temp().join(format!("{}.key.pem", self.id));
        fs::write(&file, self.key.to_pem().unwrap()).unwrap();
        file
    }

    /// Has its key enrolled, as an operator does it.
    pub(crate) fn enrol(&self, dev: &Dev) {
        self.enrol_with(dev, &[]);
    }

    /// The same with more said of it.
    pub(crate) fn enrol_with(&self, dev: &Dev, more: &[&str]) {
        let file = dev.temp().join(format!("{}.pem", self.id));
        fs::write(&file, self.key.public().to_pem().unwrap()).unwrap();
        let file = file.to_str().unwrap();
        let args = ["worker", "enroll", self.id, "--key-id", KEY, "--public-key", file, "--agent-id", "agent"];
        let said = ctl(dev, &[args.as_slice(), more].concat()).unwrap();
        assert!(said.contains(self.id) && said.contains("agent"), "{said}");
    }

    /// Has its key revoked.
    pub(crate) fn revoke(&self, dev: &Dev) {
        ctl(dev, &["worker", "revoke", self.id, KEY]).unwrap();
    }

    /// The request for a challenge.
    pub(crate) fn request(&self, purpose: WorkerHandshakePurpose) -> Bytes {
        let trace_id = ids::generate_trace();
        let request = WorkerHandshakeChallengeRequest {
            request_id: ids::generate(),
            trace_id: trace_id.clone(),
            worker_id: self.id.to_owned(),
            proof_key_id: KEY.to_owned(),
            proof_algorithm: WorkerHandshakeProofAlgorithm::EcdsaP256Sha256.into(),
            audience: AUDIENCE.to_owned(),
            purpose: purpose.into(),
            client_nonce: Bytes::from_static(&[7; NONCE_BYTES]),
            protocol_version: PROTOCOL_VERSION,
            sdk_version: SDK.to_owned(),
        };
        self.prove(trace_id, "", Payload::WorkerHandshakeChallengeRequest(request))
    }

    /// A challenge, from a scheduler that is who it says.
    pub(crate) fn challenge(&self, wire: &Wire, purpose: WorkerHandshakePurpose) -> WorkerHandshakeChallenge {
        let told = wire.ask(subjects::TRUST_CHALLENGE, self.request(purpose)).payload;
        assert_eq!(trust::verify(&told, &scheduler_key().public()), Ok(trust::Phase::Challenge));
        match BusPacket::decode(told).unwrap().payload {
            Some(Payload::WorkerHandshakeChallenge(challenge)) => challenge,
            other => panic!("{other:?}"),
        }
    }

    /// The answer to a challenge, with the token that is to be renewed, if any.
    pub(crate) fn answer(&self, challenge: &WorkerHandshakeChallenge, token: &str) -> Bytes {
        let answer =
            WorkerHandshakeAuthenticate { challenge: Some(challenge.clone()), capability_handshake: Some(self.announcement()) };
        self.prove(challenge.trace_id.clone(), token, Payload::WorkerHandshakeAuthenticate(answer))
    }

    /// A session, or why there is none.
    pub(crate) fn session(&self, wire: &Wire) -> Result<String, WorkerHandshakeRejectionReason> {
        let challenge = self.challenge(wire, WorkerHandshakePurpose::Issue);
        verdict(wire.ask(subjects::TRUST_AUTHENTICATE, self.answer(&challenge, "")).payload)
    }

    /// Announces itself and says that it lives, with this token.
    pub(crate) fn live(&self, wire: &Wire, token: &str) {
        self.say(wire, subjects::HANDSHAKE, token, Payload::Handshake(self.announcement()));
        let beat = Heartbeat { worker_id: self.id.to_owned(), max_parallel_jobs: 1, ..Heartbeat::default() };
        self.say(wire, subjects::HEARTBEAT, token, Payload::Heartbeat(beat));
    }

    /// Says something, signed in the ordinary way.
    pub(crate) fn say(&self, wire: &Wire, subject: &str, token: &str, payload: Payload) {
        let unsigned = self.packet(ids::generate_trace(), token, payload).encode_to_vec();
        wire.send(subject, packet::sign(&unsigned, &self.key).unwrap());
    }

    /// Says how a job has ended, signed for production under this message id.
    pub(crate) fn seal_result(&self, wire: &Wire, token: &str, message_id: [u8; 16], result: Payload) {
        let metadata = SignatureMetadata {
            profile_version: production::PROFILE.to_owned(),
            algorithm: production::ALGORITHM.to_owned(),
            message_id: Bytes::copy_from_slice(&message_id),
            audience: subjects::RESULT.to_owned(),
            expires_at: Some(Timestamp::wall_clock().after_millis(60_000).to_proto()),
            key_id: KEY.to_owned(),
        };
        let identity = IdentityBinding { tenant_id: ids::DEFAULT_TENANT.to_owned(), ..IdentityBinding::default() };
        let packet = self.packet(ids::generate_trace(), token, result);
        let packet = BusPacket { signature_metadata: Some(metadata), identity: Some(identity), ..packet };
        wire.send(subjects::RESULT, production::sign(&packet.encode_to_vec(), &self.key).unwrap());
    }

    fn announcement(&self) -> Handshake {
        Handshake {
            component_id: self.id.to_owned(),
            role: ComponentRole::Worker.into(),
            supported_versions: vec![PROTOCOL_VERSION],
            ready_topics: vec!["job.cap.named".to_owned()],
            sdk_version: SDK.to_owned(),
            ..Handshake::default()
        }
    }

    fn prove(&self, trace_id: String, token: &str, payload: Payload) -> Bytes {
        trust::sign(&self.packet(trace_id, token, payload).encode_to_vec(), &self.key).unwrap()
    }

    fn packet(&self, trace_id: String, token: &str, payload: Payload) -> BusPacket {
        BusPacket {
            trace_id,
            sender_id: self.id.to_owned(),
            created_at: Some(Timestamp::wall_clock().to_proto()),
            protocol_version: PROTOCOL_VERSION,
            auth_token: token.to_owned(),
            payload: Some(payload),
            ..BusPacket::default()
        }
    }
}

/// The token that came with a verdict, or why there is none.
pub(crate) fn verdict(told: Bytes) -> Result<String, WorkerHandshakeRejectionReason> {
    assert_eq!(trust::verify(&told, &scheduler_key().public()), Ok(trust::Phase::Result));
    let packet = BusPacket::decode(told).unwrap();
    let Some(Payload::WorkerHandshakeResult(WorkerHandshakeResult { accepted, rejection_reason, .. })) = packet.payload else {
        panic!("{packet:?}")
    };
    assert_eq!(accepted, !packet.auth_token.is_empty());
    let reason = WorkerHandshakeRejectionReason::try_from(rejection_reason).unwrap();
    if accepted { Ok(packet.auth_token) } else { Err(reason) }
}
