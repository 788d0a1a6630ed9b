//! Whom of CAP's workers the scheduler believes: keys that operators enrolled, and sessions of workers that proved to hold one.

use std::collections::BTreeMap;

use busbar_protocol::busbar::{EnrolledKey, EnrolledKeyName, EnrolmentsDocument, WorkerSession};
use busbar_protocol::cap::WorkerHandshakeChallenge;
use busbar_protocol::envelope::PacketError;
use busbar_protocol::handshake::{self, Enrolled};
use busbar_protocol::keys;
use busbar_protocol::ports::{CommitId, Guard, Unit, Write};
use busbar_protocol::prost::Message as _;
use busbar_protocol::signing::PublicKey;
use busbar_protocol::time::Timestamp;

use super::cell::Owners;
use super::commit;

/// The version of the records that this code writes.
const RECORD_VERSION: u32 = 1;
/// The most bytes of all enrolled keys of a cell: they stand in one record, and travel in one message.
pub const KEYS_BYTES_MAX: usize = 700 << 10;
/// How long a session lives, in milliseconds. Workers renew theirs after half of it.
pub const SESSION_MS: u64 = 60 * 60 * 1_000;

/// What becomes of what a sender says that has not proved who it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Nobody looks.
    #[default]
    Off,
    /// It counts, and operators are told.
    Warn,
    /// It changes nothing, and operators are told.
    Enforce,
}

/// What speaks against a packet whose sender has not proved who it is, and whether it counts all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// What is missing.
    pub error: PacketError,
    /// It changes nothing, unless a native worker is meant: those are known by their beats.
    pub refuses: bool,
}

impl Mode {
    /// Whether anybody looks.
    #[must_use]
    pub const fn looks(self) -> bool {
        match self {
            Self::Off => false,
            Self::Warn | Self::Enforce => true,
        }
    }

    /// What follows from something that is missing.
    #[must_use]
    pub const fn doubt(self, error: PacketError) -> Doubt {
        Doubt { error, refuses: matches!(self, Self::Enforce) }
    }
}

/// Why a key is not enrolled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnrolError {
    /// A name cannot stand in the handshake.
    #[error("{0}: must be 1 to 256 visible characters of ASCII")]
    Name(&'static str),
    /// The key is none.
    #[error("public_key: must be a key on the curve P-256, BEGIN PUBLIC KEY in PEM")]
    Key,
    /// Another key of the worker binds it to another tenant.
    #[error("tenant_id: the production keys of a worker must be of one tenant")]
    Tenants,
    /// There are too many.
    #[error("the enrolled keys would take more than {} KiB: revoke what is not needed", KEYS_BYTES_MAX >> 10)]
    Full,
}

/// Workers that speak CAP-PRODUCTION, each with the tenant whose jobs alone it gets.
pub type Bindings = BTreeMap<String, String>;

/// The enrolled keys.
#[derive(Clone, Debug, Default)]
pub struct Enrolments(BTreeMap<(String, String), Entry>);

#[derive(Clone, Debug)]
struct Entry {
    record: EnrolledKey,
    enrolled: Enrolled,
}

impl Enrolments {
    /// Reads the record.
    ///
    /// # Errors
    /// [`EnrolError`]: a key that cannot be read must not silently be one that is missing.
    pub fn from_record(record: EnrolmentsDocument) -> Result<Self, EnrolError> {
        let mut enrolments = Self::default();
        record.keys.into_iter().try_for_each(|key| enrolments.enrol(key))?;
        Ok(enrolments)
    }

    /// The record.
    #[must_use]
    pub fn to_record(&self) -> EnrolmentsDocument {
        EnrolmentsDocument { version: RECORD_VERSION, keys: self.keys() }
    }

    /// All keys, by worker and name.
    #[must_use]
    pub fn keys(&self) -> Vec<EnrolledKey> {
        self.0.values().map(|entry| entry.record.clone()).collect()
    }

    /// Enrols a key. One of the same names is replaced; its sessions end, unless nothing but who enrolled it, and when, is new.
    ///
    /// # Errors
    /// [`EnrolError`].
    pub fn enrol(&mut self, mut record: EnrolledKey) -> Result<(), EnrolError> {
        let names = [
            ("worker_id", &record.worker_id),
            ("proof_key_id", &record.proof_key_id),
            ("agent_id", &record.agent_id),
            ("tenant_id", &record.tenant_id),
        ];
        if let Some((what, _)) = names.into_iter().find(|(_, name)| !handshake::is_name(name)) {
            return Err(EnrolError::Name(what));
        }
        let key = PublicKey::from_pem(&record.public_key).map_err(|_| EnrolError::Key)?;
        let enrolled = Enrolled {
            worker_id: record.worker_id.clone(),
            proof_key_id: record.proof_key_id.clone(),
            key,
            agent_id: record.agent_id.clone(),
            tenant_id: record.tenant_id.clone(),
        };
        let place = (record.worker_id.clone(), record.proof_key_id.clone());
        let mut own = self.0.iter().filter(|(other, _)| other.0 == record.worker_id && **other != place);
        if record.production && own.any(|(_, entry)| entry.record.production && entry.record.tenant_id != record.tenant_id) {
            return Err(EnrolError::Tenants);
        }
        match self.0.get(&place) {
            Some(before) if before.enrolled == enrolled && before.record.production == record.production => {
                record.enrolment_id.clone_from(&before.record.enrolment_id);
            }
            Some(_) | None => {}
        }
        let others = self.0.iter().filter(|(other, _)| **other != place).map(|(_, entry)| room(&entry.record));
        if others.sum::<usize>() + room(&record) > KEYS_BYTES_MAX {
            return Err(EnrolError::Full);
        }
        self.0.insert(place, Entry { record, enrolled });
        Ok(())
    }

    /// Takes a key away, and with it every session of its; whether there was one.
    pub fn revoke(&mut self, name: &EnrolledKeyName) -> bool {
        self.0.remove(&(name.worker_id.clone(), name.proof_key_id.clone())).is_some()
    }

    /// The key of these names, with the id of its enrolment.
    #[must_use]
    pub fn find(&self, worker_id: &str, proof_key_id: &str) -> Option<(&Enrolled, &str)> {
        let entry = self.0.get(&(worker_id.to_owned(), proof_key_id.to_owned()))?;
        Some((&entry.enrolled, &entry.record.enrolment_id))
    }

    /// The keys of a worker.
    pub fn of<'a>(&'a self, worker_id: &'a str) -> impl Iterator<Item = &'a Enrolled> {
        self.entries(worker_id).map(|entry| &entry.enrolled)
    }

    fn entries<'a>(&'a self, worker_id: &'a str) -> impl Iterator<Item = &'a Entry> {
        let from = (worker_id.to_owned(), String::new());
        self.0.range(from..).take_while(move |((worker, _), _)| worker == worker_id).map(|(_, entry)| entry)
    }

    /// Whether a worker speaks CAP-PRODUCTION.
    #[must_use]
    pub fn speaks_production(&self, worker_id: &str) -> bool {
        self.entries(worker_id).any(|entry| entry.record.production)
    }

    /// The production key of these names.
    #[must_use]
    pub fn production_key(&self, worker_id: &str, proof_key_id: &str) -> Option<&Enrolled> {
        let entry = self.0.get(&(worker_id.to_owned(), proof_key_id.to_owned()))?;
        entry.record.production.then_some(&entry.enrolled)
    }

    /// The workers that speak CAP-PRODUCTION, each with the tenant that it is bound to.
    #[must_use]
    pub fn bindings(&self) -> Bindings {
        let bound = self.0.values().filter(|entry| entry.record.production);
        bound.map(|entry| (entry.record.worker_id.clone(), entry.record.tenant_id.clone())).collect()
    }

    /// On whose account workers speak: the agent that each was enrolled as.
    #[must_use]
    pub fn owners(&self) -> Owners {
        // The name of an agent must not be that of a worker that speaks for itself.
        let owner = |entry: &Entry| (entry.record.worker_id.clone(), format!("agent:{}", entry.record.agent_id));
        self.0.values().map(owner).collect()
    }

    /// Whether any key of the worker is enrolled.
    #[must_use]
    pub fn knows(&self, worker_id: &str) -> bool {
        self.of(worker_id).next().is_some()
    }

    /// Whether a session lives and speaks for this sender: its time is not over, and its key is still enrolled as it was.
    #[must_use]
    pub fn vouches(&self, session: &WorkerSession, sender_id: &str, now: Timestamp) -> bool {
        session.worker_id == sender_id
            && now.millis() < session.expires_ms
            && self.find(&session.worker_id, &session.proof_key_id).is_some_and(|(_, id)| id == session.enrolment_id)
    }
}

/// What a key takes of the record: itself, its tag and its length.
fn room(key: &EnrolledKey) -> usize {
    key.encoded_len() + 4
}

/// The session of a worker that proved its key just now.
#[must_use]
pub fn session(enrolled: &Enrolled, enrolment_id: &str, now: Timestamp) -> WorkerSession {
    WorkerSession {
        version: RECORD_VERSION,
        worker_id: enrolled.worker_id.clone(),
        proof_key_id: enrolled.proof_key_id.clone(),
        enrolment_id: enrolment_id.to_owned(),
        expires_ms: now.after_millis(SESSION_MS).millis(),
    }
}

/// The unit that keeps a challenge as long as it may be answered.
#[must_use]
pub fn issue(challenge: &WorkerHandshakeChallenge, epoch: u64, id: CommitId) -> Unit {
    let key = keys::challenge(&challenge.challenge_id);
    let put = Write::Put {
        key: key.clone(),
        revision: 1,
        value: challenge.encode_to_vec().into(),
        expire: Some(std::time::Duration::from_millis(handshake::CHALLENGE_MS)),
    };
    Unit { id, guards: vec![commit::owner(epoch), Guard::Absent { key }], writes: vec![put] }
}

/// Which guard of [`accept`] fails when somebody has answered the challenge already, or its time is over.
pub const CHALLENGE_GUARD: usize = 1;

/// The unit that turns a challenge into a session: of all who answer the same challenge, one gets through. The keys must stand as they
/// were when the answer was judged, so that no session begins after its key was revoked.
#[must_use]
pub fn accept(challenge_id: &str, token: &str, session: &WorkerSession, keys_revision: u64, epoch: u64, id: CommitId) -> Unit {
    let (challenge, key) = (keys::challenge(challenge_id), keys::worker_session(token));
    let guards = vec![
        commit::owner(epoch),
        Guard::Revision { key: challenge.clone(), revision: 1 },
        Guard::Absent { key: key.clone() },
        Guard::Revision { key: keys::ENROLMENTS.to_owned(), revision: keys_revision },
    ];
    let expire = Some(std::time::Duration::from_millis(SESSION_MS));
    let put = Write::Put { key, revision: 1, value: session.encode_to_vec().into(), expire };
    Unit { id, guards, writes: vec![put, Write::Delete { key: challenge }] }
}

/// The unit that remembers a production-signed message: only the first of its name gets through.
#[must_use]
pub fn take_message(key: String, digest: &[u8], expire: std::time::Duration, epoch: u64, id: CommitId) -> Unit {
    let put = Write::Put { key: key.clone(), revision: 1, value: digest.to_vec().into(), expire: Some(expire) };
    Unit { id, guards: vec![commit::owner(epoch), Guard::Absent { key }], writes: vec![put] }
}

#[cfg(test)]
mod tests {
    use busbar_protocol::signing::PrivateKey;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000);

    fn key(worker_id: &str, secret: u8, enrolment_id: &str) -> EnrolledKey {
        let public = PrivateKey::from_secret(&[secret; 32]).expect("a key").public();
        EnrolledKey {
            worker_id: worker_id.to_owned(),
            proof_key_id: "k".to_owned(),
            public_key: public.to_pem().expect("written"),
            agent_id: "agent".to_owned(),
            tenant_id: "default".to_owned(),
            enrolment_id: enrolment_id.to_owned(),
            ..EnrolledKey::default()
        }
    }

    fn enrolled(worker_id: &str) -> (Enrolments, WorkerSession) {
        let mut enrolments = Enrolments::default();
        enrolments.enrol(key(worker_id, 1, "first")).expect("a good key");
        let (found, id) = enrolments.find(worker_id, "k").expect("it is enrolled");
        let session = session(found, id, NOW);
        (enrolments, session)
    }

    #[test]
    fn a_session_vouches_for_its_worker_alone_and_only_in_its_time() {
        let (enrolments, session) = enrolled("w");
        assert!(enrolments.vouches(&session, "w", NOW));
        assert!(!enrolments.vouches(&session, "v", NOW) && !enrolments.vouches(&session, "", NOW));
        let last = NOW.after_millis(SESSION_MS - 1);
        assert!(enrolments.vouches(&session, "w", last) && !enrolments.vouches(&session, "w", last.after_millis(1)));
        assert!(!Enrolments::default().vouches(&session, "w", NOW));
    }

    #[test]
    fn sessions_end_with_their_enrolment_and_do_not_come_back() {
        let (mut enrolments, session) = enrolled("w");
        enrolments.enrol(key("w", 1, "same key, told again")).expect("a good key");
        assert!(enrolments.vouches(&session, "w", NOW), "nothing changed");
        enrolments.enrol(key("w", 2, "another key")).expect("a good key");
        assert!(!enrolments.vouches(&session, "w", NOW));
        let (mut enrolments, session) = enrolled("w");
        let name = EnrolledKeyName { worker_id: "w".into(), proof_key_id: "k".into() };
        assert!(enrolments.revoke(&name) && !enrolments.revoke(&name));
        enrolments.enrol(key("w", 1, "later")).expect("a good key");
        assert!(!enrolments.vouches(&session, "w", NOW), "the old session belongs to the old enrolment");
    }

    #[test]
    fn production_keys_bind_their_worker_to_one_tenant() {
        let mut enrolments = Enrolments::default();
        enrolments.enrol(key("plain", 1, "a")).expect("a good key");
        let bound = EnrolledKey { production: true, ..key("bound", 1, "a") };
        enrolments.enrol(bound.clone()).expect("a good key");
        assert_eq!(enrolments.bindings(), [("bound".to_owned(), "default".to_owned())].into());
        assert!(enrolments.speaks_production("bound") && !enrolments.speaks_production("plain"));
        assert!(enrolments.production_key("bound", "k").is_some() && enrolments.production_key("plain", "k").is_none());
        let elsewhere = EnrolledKey { proof_key_id: "k2".into(), tenant_id: "acme".into(), ..bound.clone() };
        assert_eq!(enrolments.enrol(elsewhere), Err(EnrolError::Tenants));
        enrolments.enrol(EnrolledKey { tenant_id: "acme".into(), ..bound }).expect("its only key may change");
        assert_eq!(enrolments.bindings()["bound"], "acme");
    }

    #[test]
    fn there_is_room_for_so_many_bytes_of_keys() {
        let mut enrolments = Enrolments::default();
        let long = |number: usize| format!("{number:0>256}");
        let refused = (0..2_000).find_map(|number| enrolments.enrol(key(&long(number), 1, "x")).err());
        assert_eq!(refused, Some(EnrolError::Full));
        assert!(enrolments.to_record().encoded_len() <= KEYS_BYTES_MAX);
        enrolments.enrol(key(&long(0), 2, "y")).expect("what is replaced needs no more room");
    }

    #[test]
    fn the_record_reads_back_and_what_is_no_key_is_refused() {
        let (enrolments, _) = enrolled("w");
        let again = Enrolments::from_record(enrolments.to_record()).expect("a good record");
        assert_eq!(again.keys(), enrolments.keys());
        assert!(again.knows("w") && !again.knows("v") && !again.knows(""));
        let mut enrolments = Enrolments::default();
        let nameless = EnrolledKey { agent_id: "two words".into(), ..key("w", 1, "") };
        assert_eq!(enrolments.enrol(nameless), Err(EnrolError::Name("agent_id")));
        let keyless = EnrolledKey { public_key: "PEM".into(), ..key("w", 1, "") };
        assert_eq!(enrolments.enrol(keyless), Err(EnrolError::Key));
        assert!(enrolments.keys().is_empty());
    }
}
