//! Signatures of ordinary packets, as CAP's SDKs make them when they are given a private key.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::{PrivateKey, PublicKey, SIGNATURE_FIELD, SignatureError, strip};
use crate::canonical::{Tree, canonical};
use crate::schema::bus_packet;

/// Signs an encoded packet; what comes back is canonical. A signature that it carried is replaced.
///
/// # Errors
/// [`SignatureError::Malformed`] when it is no packet.
pub fn sign(packet: &[u8], key: &PrivateKey) -> Result<Bytes, SignatureError> {
    let mut tree = Tree::parse(bus_packet(), packet)?;
    tree.take_bytes(SIGNATURE_FIELD);
    let signature = key.sign(&Sha256::digest(tree.encode()).into())?;
    tree.set_bytes(SIGNATURE_FIELD, &signature);
    Ok(tree.encode().into())
}

/// Checks the signature of a packet as it came.
///
/// What is signed is canonical, and senders mostly send it that way: so the bytes that came are hashed first, without field 14, and
/// only if that fails and they were not canonical the canonical ones are. Both are forms of one and the same packet.
///
/// # Errors
/// [`SignatureError`] says why it does not count.
pub fn verify(packet: &[u8], key: &PublicKey) -> Result<(), SignatureError> {
    let stripped = strip(packet)?;
    let signature = stripped.signature.ok_or(SignatureError::Missing)?;
    let as_it_came = key.verify(&Sha256::digest(&stripped.unsigned).into(), signature);
    if as_it_came.is_ok() {
        return Ok(());
    }
    let canonical = canonical(bus_packet(), &stripped.unsigned)?;
    if canonical == stripped.unsigned {
        return as_it_came;
    }
    key.verify(&Sha256::digest(&canonical).into(), signature)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::cap::bus_packet::Payload;
    use crate::cap::{BusPacket, JobRequest, WorkerHandshakeResult};

    fn key(byte: u8) -> PrivateKey {
        PrivateKey::from_secret(&[byte; 32]).expect("a key")
    }

    fn packets() -> Vec<BusPacket> {
        let request = JobRequest { job_id: "j".into(), labels: [("a".into(), String::new())].into(), ..JobRequest::default() };
        let payloads = [
            Payload::JobRequest(request),
            Payload::WorkerHandshakeResult(WorkerHandshakeResult { accepted: true, ..WorkerHandshakeResult::default() }),
        ];
        let packet =
            |payload| BusPacket { sender_id: "s".into(), auth_token: "t".into(), payload: Some(payload), ..BusPacket::default() };
        payloads.into_iter().map(packet).collect()
    }

    #[test]
    fn what_is_signed_verifies_in_any_order_of_its_fields() {
        for packet in packets() {
            let signed = sign(&packet.encode_to_vec(), &key(1)).expect("signed");
            assert_eq!(verify(&signed, &key(1).public()), Ok(()));
            assert_eq!(verify(&signed, &key(2).public()), Err(SignatureError::Invalid));
            let again = BusPacket::decode(signed.clone()).expect("a packet");
            // What prost writes has another order, and leaves the empty value out.
            assert_ne!(again.encode_to_vec(), signed);
            assert_eq!(verify(&again.encode_to_vec(), &key(1).public()), Ok(()));
            assert_eq!(sign(&signed, &key(1)), Ok(signed), "signing again changes nothing");
        }
    }

    #[test]
    fn every_change_of_a_bit_is_noticed() {
        let signed = sign(&packets()[0].encode_to_vec(), &key(1)).expect("signed");
        for bit in 0..signed.len() * 8 {
            let mut changed = signed.to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(verify(&changed, &key(1).public()).is_err(), "bit {bit} of {signed:?}");
        }
    }

    #[test]
    fn what_is_not_signed_is_told_apart() {
        let bare = packets()[0].encode_to_vec();
        assert_eq!(verify(&bare, &key(1).public()), Err(SignatureError::Missing));
        let empty = [bare.as_slice(), b"\x72\x00"].concat();
        assert_eq!(verify(&empty, &key(1).public()), Err(SignatureError::Missing));
        assert!(matches!(verify(b"\xff", &key(1).public()), Err(SignatureError::Malformed(_))));
    }
}
