//! The trust handshake, performed: answers workers that prove their key, enrols and revokes, and tells what speaks against a packet.
//!
//! ```text
//!  busbar.scheduler.enrol ─────────────▶ the record of all keys, then memory, then the answer
//!  sys.worker.handshake.challenge ─────▶ signature right ─▶ challenge kept for half a minute ─▶ sent
//!  sys.worker.handshake.authenticate ──▶ answer right ─▶ one unit: challenge gone, session there ─▶ token sent
//! ```
//!
//! Sessions and challenges stand in the store, so that whoever is active next knows them. Where the store cannot be asked, nobody is
//! believed.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use busbar_protocol::busbar::{EnrolReply, EnrolRequest, EnrolledKey, EnrolmentsDocument, Problem, WorkerSession};
use busbar_protocol::cap::{
    BusPacket, WorkerHandshakeChallenge, WorkerHandshakePurpose, WorkerHandshakeRejectionReason as Reason,
};
use busbar_protocol::codes::Code;
use busbar_protocol::envelope::PacketError;
use busbar_protocol::handshake::{self, Answered, Authority, Fresh, NONCE_BYTES, Refused, Verdict};
use busbar_protocol::ports::{Answer, Clock, CommitClass, CommitId, Records, StoreError, Unit, commit_all};
use busbar_protocol::prost::{DecodeError, Message as _};
use busbar_protocol::signing::packet;
use busbar_protocol::signing::production::{self, Expected, Verified};
use busbar_protocol::{hex, ids, keys, subjects};

use crate::config::SchedulerConfig;
use crate::core::cell::Owners;
use crate::core::commit;
use crate::core::trust::{self, Bindings, Doubt, Enrolments, Mode};
use crate::{intake, secrets};

/// How many sessions are remembered; more are read from the store each time.
const REMEMBERED_MAX: usize = 10_000;

/// What the active scheduler knows of its workers' keys.
pub(crate) struct Trust<R, C> {
    records: R,
    clock: C,
    epoch: u64,
    authority: Option<Authority>,
    sessions_mode: Mode,
    signatures_mode: Mode,
    /// The keys as they stand in the store, with the revision of their record.
    keys: Mutex<(Enrolments, u64)>,
    /// Sessions by the keys of their records. Whether one lives is asked anew each time.
    sessions: Mutex<HashMap<String, WorkerSession>>,
}

/// Whom a revocation leaves without any key.
pub(crate) type Strangers = Vec<String>;

impl<R: Records, C: Clock> Trust<R, C> {
    /// Reads the keys.
    ///
    /// # Errors
    /// [`StoreError`], also where the record cannot be understood.
    pub(crate) async fn load(config: &SchedulerConfig, records: R, clock: C, epoch: u64) -> Result<Self, StoreError> {
        let known = read_keys(&records).await?;
        Ok(Self {
            records,
            clock,
            epoch,
            authority: config.voice.authority().cloned(),
            sessions_mode: config.worker_trust,
            signatures_mode: config.signatures,
            keys: Mutex::new(known),
            sessions: Mutex::default(),
        })
    }

    /// Whether workers can prove their keys here.
    pub(crate) const fn answers(&self) -> bool {
        self.authority.is_some()
    }

    /// Whether what workers without a session say changes nothing.
    pub(crate) const fn enforces(&self) -> bool {
        matches!(self.sessions_mode, Mode::Enforce)
    }

    fn known(&self) -> MutexGuard<'_, (Enrolments, u64)> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remembered(&self) -> MutexGuard<'_, HashMap<String, WorkerSession>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enrols and revokes; who has no key any more. One request at a time: the caller sees to that. A request that wants nothing
    /// done is answered with what stands in the store, too: what is in memory may be of a term that is over.
    pub(crate) async fn enrol(&self, request: EnrolRequest) -> (EnrolReply, Strangers) {
        match self.try_enrol(request).await {
            Ok((keys, strangers)) => (EnrolReply { keys, problem: None }, strangers),
            Err(problem) => (EnrolReply { keys: Vec::new(), problem: Some(problem) }, Vec::new()),
        }
    }

    async fn try_enrol(&self, request: EnrolRequest) -> Result<(Vec<EnrolledKey>, Strangers), Problem> {
        let unavailable = |error: StoreError| intake::problem(Code::StoreUnavailable, error.to_string());
        let (mut next, revision) = read_keys(&self.records).await.map_err(unavailable)?;
        let asks_only = request.enrol.is_empty() && request.revoke.is_empty();
        for name in &request.revoke {
            next.revoke(name);
        }
        for key in request.enrol {
            let key = EnrolledKey { enrolment_id: ids::generate(), ..key };
            next.enrol(key).map_err(|error| intake::problem(Code::FieldInvalid, error.to_string()))?;
        }
        if !asks_only {
            let unit = commit::document(keys::ENROLMENTS, &next.to_record(), revision, self.epoch, CommitId::generate());
            match self.commit(unit).await.map_err(unavailable)? {
                Answer::Applied { .. } | Answer::Already => *self.known() = (next.clone(), revision + 1),
                Answer::Conflict { .. } | Answer::GuardFailed { .. } => {
                    return Err(intake::problem(Code::SchedulerUnavailable, "this scheduler was replaced"));
                }
            }
        }
        let strangers = request.revoke.into_iter().map(|name| name.worker_id).filter(|worker| !next.knows(worker));
        Ok((next.keys(), strangers.collect()))
    }

    /// The packet that challenges a worker.
    pub(crate) async fn challenge(&self, bytes: &Bytes) -> Result<Bytes, Refused> {
        let authority = self.authority.as_ref().ok_or(INTERNAL)?;
        let asked = handshake::read_request(bytes)?;
        let fresh = Fresh { challenge_id: hex::encode(&draw()?), server_nonce: draw()? };
        let (challenge, packet) = {
            let known = self.known();
            let (enrolled, _) = known.0.find(&asked.request.worker_id, &asked.request.proof_key_id).ok_or(UNKNOWN)?;
            handshake::challenge(&asked, enrolled, authority, fresh, self.clock.now())?
        };
        match self.commit(trust::issue(&challenge, self.epoch, CommitId::generate())).await {
            Ok(Answer::Applied { .. } | Answer::Already) => Ok(packet),
            Ok(Answer::Conflict { .. } | Answer::GuardFailed { .. }) | Err(_) => Err(INTERNAL),
        }
    }

    /// The packet that tells a worker what we think of its answer; why we do not believe it, too, if so.
    pub(crate) async fn authenticate(&self, bytes: &Bytes) -> Result<(Bytes, Option<Refused>), Refused> {
        let authority = self.authority.as_ref().ok_or(INTERNAL)?;
        let answered = handshake::read_answer(bytes)?;
        let (verdict, refused) = match self.accept(&answered).await {
            Ok(verdict) => (verdict, None),
            Err(refused) => (Verdict::Rejected(refused.reason), Some(refused)),
        };
        let packet = handshake::verdict(&answered.challenge, authority, verdict, self.clock.now())?;
        Ok((packet, refused))
    }

    async fn accept(&self, answered: &Answered) -> Result<Verdict, Refused> {
        let name = &answered.challenge.challenge_id;
        let stored = self.records.read(vec![keys::challenge(name)]).await.map_err(|_| INTERNAL)?.pop().flatten();
        let issued = stored.and_then(|stored| WorkerHandshakeChallenge::decode(stored.value).ok()).ok_or(USED)?;
        let now = self.clock.now();
        let (session, revision) = {
            let known = self.known();
            let (enrolled, enrolment_id) = known.0.find(&issued.worker_id, &issued.proof_key_id).ok_or(UNKNOWN)?;
            handshake::judge(answered, &issued, enrolled, now)?;
            (trust::session(enrolled, enrolment_id, now), known.1)
        };
        let renews = issued.purpose() == WorkerHandshakePurpose::Renew;
        if renews && !self.vouches(&issued.worker_id, &answered.token).await.map_err(|_| INTERNAL)? {
            return Err(EXPIRED);
        }
        let token = hex::encode(&draw()?);
        match self.commit(trust::accept(name, &token, &session, revision, self.epoch, CommitId::generate())).await {
            Ok(Answer::Applied { .. } | Answer::Already) => {
                Ok(Verdict::Accepted { token, expires_at: now.after_millis(trust::SESSION_MS) })
            }
            Ok(Answer::Conflict { guard: trust::CHALLENGE_GUARD }) => Err(USED),
            // The keys changed meanwhile, or we were replaced: the worker may ask again.
            Ok(Answer::Conflict { .. } | Answer::GuardFailed { .. }) | Err(_) => Err(INTERNAL),
        }
    }

    /// What speaks against a packet in which a worker speaks of itself, under this name. Its payload may have been taken out of it.
    ///
    /// # Errors
    /// [`StoreError`] when that cannot be known now.
    pub(crate) async fn doubt_worker(
        &self,
        worker_id: &str,
        packet: &BusPacket,
        bytes: &Bytes,
    ) -> Result<Option<Doubt>, StoreError> {
        match self.doubt_session(worker_id, packet).await? {
            Some(doubt) => Ok(Some(doubt)),
            None => Ok(self.doubt_signature(packet, bytes)),
        }
    }

    /// What speaks against a packet in which a worker tells a result. One that speaks CAP-PRODUCTION must have signed it for this subject.
    ///
    /// # Errors
    /// [`StoreError`] when that cannot be known now.
    pub(crate) async fn doubt_result(
        &self,
        worker_id: &str,
        packet: &BusPacket,
        bytes: &Bytes,
    ) -> Result<Option<Doubt>, StoreError> {
        if !self.sessions_mode.looks() || !self.known().0.speaks_production(worker_id) {
            return self.doubt_worker(worker_id, packet, bytes).await;
        }
        if let Some(doubt) = self.doubt_session(worker_id, packet).await? {
            return Ok(Some(doubt));
        }
        let verified = match self.verify_production(subjects::RESULT, packet, bytes) {
            Ok(verified) => verified,
            Err(error) => return Ok(Some(self.sessions_mode.doubt(error))),
        };
        Ok(self.is_replay(&verified).await?.then(|| self.sessions_mode.doubt(PacketError::Signature)))
    }

    fn verify_production(&self, audience: &str, packet: &BusPacket, bytes: &Bytes) -> Result<Verified, PacketError> {
        let key_id = &packet.signature_metadata.as_ref().ok_or(PacketError::Unsigned)?.key_id;
        let known = self.known();
        let enrolled = known.0.production_key(&packet.sender_id, key_id).ok_or(PacketError::Signature)?;
        let expected = Expected {
            audience,
            tenant_id: &enrolled.tenant_id,
            sender_id: &enrolled.worker_id,
            key: (key_id, &enrolled.key),
            now: self.clock.now(),
            skew: production::SKEW_MAX,
        };
        production::verify(bytes, &expected).map_err(|_| PacketError::Signature)
    }

    /// Whether another message of the same name was taken before. The same one may come again: the stream delivers it until it is
    /// settled, and a result counts once anyhow.
    async fn is_replay(&self, verified: &Verified) -> Result<bool, StoreError> {
        let Verified { packet, message_id, digest, remember_until } = verified;
        let tenant_id = packet.identity.as_ref().map_or("", |identity| identity.tenant_id.as_str());
        let key = keys::taken_message(tenant_id, subjects::RESULT, &packet.sender_id, message_id);
        let expire = remember_until.since(self.clock.now()).max(Duration::from_millis(1));
        match self.commit(trust::take_message(key.clone(), digest, expire, self.epoch, CommitId::generate())).await? {
            Answer::Applied { .. } | Answer::Already => Ok(false),
            Answer::Conflict { .. } | Answer::GuardFailed { .. } => {
                let before = self.records.read(vec![key]).await?.pop().flatten();
                Ok(before.is_some_and(|before| before.value != digest.as_slice()))
            }
        }
    }

    /// The workers that speak CAP-PRODUCTION.
    pub(crate) fn bindings(&self) -> Bindings {
        self.known().0.bindings()
    }

    /// On whose account workers speak.
    pub(crate) fn owners(&self) -> Owners {
        self.known().0.owners()
    }

    async fn doubt_session(&self, worker_id: &str, packet: &BusPacket) -> Result<Option<Doubt>, StoreError> {
        let BusPacket { sender_id, auth_token, .. } = packet;
        if !self.sessions_mode.looks() || sender_id == worker_id && self.vouches(sender_id, auth_token).await? {
            return Ok(None);
        }
        Ok(Some(self.sessions_mode.doubt(PacketError::Session { sender_id: sender_id.clone() })))
    }

    /// What speaks against the signature of a packet.
    pub(crate) fn doubt_signature(&self, packet: &BusPacket, bytes: &Bytes) -> Option<Doubt> {
        if !self.signatures_mode.looks() {
            return None;
        }
        let error = if packet.signature.is_empty() {
            PacketError::Unsigned
        } else {
            let keys: Vec<_> = self.known().0.of(&packet.sender_id).map(|enrolled| enrolled.key).collect();
            if keys.iter().any(|key| packet::verify(bytes, key).is_ok()) {
                return None;
            }
            PacketError::Signature
        };
        Some(self.signatures_mode.doubt(error))
    }

    /// Whether a native worker may have this name: not where workers must prove themselves and somebody else has proved to be it.
    pub(crate) fn may_be_native(&self, worker_id: &str) -> bool {
        !self.enforces() || !self.known().0.knows(worker_id)
    }

    /// Whether the token is that of a live session of the sender.
    async fn vouches(&self, sender_id: &str, token: &str) -> Result<bool, StoreError> {
        // Whoever cannot have a session must not make us read.
        if !handshake::is_token(token) || !self.known().0.knows(sender_id) {
            return Ok(false);
        }
        let key = keys::worker_session(token);
        let remembered = self.remembered().get(&key).cloned();
        let session = match remembered {
            Some(session) => session,
            None => {
                let Some(stored) = self.records.read(vec![key.clone()]).await?.pop().flatten() else { return Ok(false) };
                let corrupt = |error: DecodeError| StoreError::Corrupt { key: key.clone(), detail: error.to_string() };
                let session = WorkerSession::decode(stored.value).map_err(corrupt)?;
                self.remember(key, session.clone());
                session
            }
        };
        Ok(self.known().0.vouches(&session, sender_id, self.clock.now()))
    }

    fn remember(&self, key: String, session: WorkerSession) {
        let mut sessions = self.remembered();
        if sessions.len() >= REMEMBERED_MAX {
            sessions.clear();
        }
        sessions.insert(key, session);
    }

    async fn commit(&self, unit: Unit) -> Result<Answer, StoreError> {
        let mut answers = commit_all(&self.records, &self.clock, CommitClass::Advance, vec![unit]).await?;
        answers.pop().flatten().ok_or_else(|| StoreError::Refused { detail: "the store gave no answer".to_owned() })
    }
}

const UNKNOWN: Refused = Refused { reason: Reason::AuthenticationFailed, detail: "no such key is enrolled" };
const USED: Refused = Refused { reason: Reason::ReplayDetected, detail: "the challenge was answered, or is over" };
const EXPIRED: Refused = Refused { reason: Reason::SessionInvalid, detail: "the session that is to be renewed does not live" };
const INTERNAL: Refused = Refused { reason: Reason::InternalError, detail: "the scheduler cannot answer now" };

/// The enrolled keys as they stand in the store, and the revision of their record.
async fn read_keys<R: Records>(records: &R) -> Result<(Enrolments, u64), StoreError> {
    let key = keys::ENROLMENTS.to_owned();
    let corrupt = |detail: String| StoreError::Corrupt { key: key.clone(), detail };
    let Some(stored) = records.read(vec![key.clone()]).await?.pop().flatten() else { return Ok((Enrolments::default(), 0)) };
    let record = EnrolmentsDocument::decode(stored.value).map_err(|error| corrupt(error.to_string()))?;
    Ok((Enrolments::from_record(record).map_err(|error| corrupt(error.to_string()))?, stored.revision))
}

fn draw() -> Result<[u8; NONCE_BYTES], Refused> {
    secrets::draw().ok_or(INTERNAL)
}
