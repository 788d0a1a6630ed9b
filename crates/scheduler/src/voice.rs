//! What the scheduler says on CAP's subjects: signed, where it has a key, so that workers and clients can tell it from others.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use busbar_protocol::cap::{BusPacket, IdentityBinding, SignatureMetadata};
use busbar_protocol::handshake::Authority;
use busbar_protocol::prost::Message as _;
use busbar_protocol::signing::{PrivateKey, packet, production};
use busbar_protocol::subjects;
use busbar_protocol::time::Timestamp;

use crate::secrets;

/// How long a production signature of ours is valid: a minute less than CAP allows, since a worker's clock may be behind ours and the
/// SDK allows no difference.
const LIFETIME: Duration = production::LIFETIME_MAX.saturating_sub(Duration::from_secs(60));

/// The scheduler's way to speak. Without a key it speaks unsigned.
#[derive(Clone, Debug, Default)]
pub struct Voice(Option<Arc<Authority>>);

impl PartialEq for Voice {
    fn eq(&self, other: &Self) -> bool {
        let told = |voice: &Self| voice.0.as_ref().map(|own| (own.key_id.clone(), own.key.public()));
        told(self) == told(other)
    }
}

impl Eq for Voice {}

impl Voice {
    /// Signs what it says with this key, which workers know under this name.
    #[must_use]
    pub fn signing(key_id: String, key: PrivateKey) -> Self {
        Self(Some(Arc::new(Authority { sender_id: subjects::SCHEDULER_SENDER.to_owned(), key_id, key })))
    }

    /// Who answers workers that prove their keys; nobody without a key.
    #[must_use]
    pub(crate) fn authority(&self) -> Option<&Authority> {
        self.0.as_deref()
    }

    /// The packet as it is published.
    #[must_use]
    pub(crate) fn seal(&self, unsigned: Bytes) -> Bytes {
        let Some(own) = &self.0 else { return unsigned };
        match packet::sign(&unsigned, &own.key) {
            Ok(signed) => signed,
            // A request that our decoder takes can still be no protobuf for others: nobody else would read it, signed or not.
            Err(error) => {
                tracing::debug!(%error, "a packet cannot be signed");
                unsigned
            }
        }
    }

    /// A packet as it is published on a subject for a worker that speaks CAP-PRODUCTION: signed for that subject, in this name.
    #[must_use]
    pub(crate) fn seal_for(&self, subject: &str, unsigned: &Bytes, identity: IdentityBinding, now: Timestamp) -> Bytes {
        let sealed = self.0.as_ref().zip(secrets::draw::<16>()).map(|(own, message_id)| {
            let metadata = SignatureMetadata {
                profile_version: production::PROFILE.to_owned(),
                algorithm: production::ALGORITHM.to_owned(),
                message_id: Bytes::copy_from_slice(&message_id),
                audience: subject.to_owned(),
                expires_at: Some(now.after(LIFETIME).to_proto()),
                key_id: own.key_id.clone(),
            };
            let envelope = BusPacket { signature_metadata: Some(metadata), identity: Some(identity), ..BusPacket::default() };
            production::sign(&[unsigned, envelope.encode_to_vec().as_slice()].concat(), &own.key)
        });
        match sealed {
            Some(Ok(signed)) => signed,
            // It takes nothing unsigned, and says nothing either: the attempt ends when its time is over.
            Some(Err(error)) => {
                tracing::warn!(subject, %error, "a packet cannot be signed for production");
                unsigned.clone()
            }
            None => unsigned.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use busbar_protocol::cap::JobCancel;
    use busbar_protocol::cap::bus_packet::Payload;
    use busbar_protocol::envelope;

    use super::*;

    #[test]
    fn with_a_key_it_signs_and_without_one_it_does_not() {
        let cancel = JobCancel { job_id: "j".into(), requested_by: "t".into(), ..JobCancel::default() };
        let unsigned = envelope::packet("t", "s", Timestamp::from_millis(1), Payload::JobCancel(cancel));
        assert_eq!(Voice::default().seal(unsigned.clone()), unsigned);
        let key = PrivateKey::from_secret(&[5; 32]).expect("a key");
        let sealed = Voice::signing("k".into(), key.clone()).seal(unsigned.clone());
        assert_eq!(packet::verify(&sealed, &key.public()), Ok(()));
        let read = BusPacket::decode(sealed).expect("a packet");
        assert_eq!(BusPacket { signature: Bytes::new(), ..read }.encode_to_vec(), unsigned);
    }
}
