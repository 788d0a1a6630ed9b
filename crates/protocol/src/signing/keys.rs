//! Keys on the curve P-256.

use std::fmt;

use p256::ecdsa::signature::hazmat::{PrehashSigner as _, PrehashVerifier as _};
use p256::ecdsa::{DerSignature, Signature, SigningKey, VerifyingKey};
use p256::pkcs8::{DecodePrivateKey as _, DecodePublicKey as _, EncodePrivateKey as _, EncodePublicKey as _, LineEnding};

use super::SignatureError;

/// A text or a number that is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a key on the curve P-256: {wanted}")]
pub struct KeyError {
    /// What it must be.
    pub wanted: &'static str,
}

/// A key that signs.
#[derive(Clone)]
pub struct PrivateKey(SigningKey);

impl fmt::Debug for PrivateKey {
    /// Shows the public half only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PrivateKey").field(&self.public()).finish()
    }
}

impl PrivateKey {
    /// Reads PKCS #8 (RFC 5958) in PEM: `BEGIN PRIVATE KEY`.
    ///
    /// # Errors
    /// [`KeyError`] for anything else, keys on other curves included.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let key = SigningKey::from_pkcs8_pem(text).map_err(|_| KeyError { wanted: "PKCS #8 in PEM, BEGIN PRIVATE KEY" })?;
        Ok(Self(key))
    }

    /// Takes the secret number itself: 32 bytes from a good source of randomness.
    ///
    /// # Errors
    /// [`KeyError`] when the number is zero or beyond the curve's order, which chance does not give.
    pub fn from_secret(secret: &[u8; 32]) -> Result<Self, KeyError> {
        let key = SigningKey::from_slice(secret).map_err(|_| KeyError { wanted: "a number above 0 and below the order" })?;
        Ok(Self(key))
    }

    /// The key as PKCS #8 in PEM. Whoever has it can sign.
    ///
    /// # Errors
    /// [`KeyError`] when it cannot be written, which is not expected.
    pub fn to_pem(&self) -> Result<String, KeyError> {
        let pem = self.0.to_pkcs8_pem(LineEnding::LF).map_err(|_| KeyError { wanted: "a key that can be written" })?;
        Ok(pem.to_string())
    }

    /// The half that verifies.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(*self.0.verifying_key())
    }

    /// Signs a digest; DER.
    pub(crate) fn sign(&self, digest: &[u8; 32]) -> Result<Vec<u8>, SignatureError> {
        let signature: DerSignature = self.0.sign_prehash(digest).map_err(|_| SignatureError::Invalid)?;
        Ok(signature.as_bytes().to_vec())
    }
}

/// A key that verifies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo (RFC 5280) in PEM: `BEGIN PUBLIC KEY`.
    ///
    /// # Errors
    /// [`KeyError`] for anything else, keys on other curves included.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let key = VerifyingKey::from_public_key_pem(text).map_err(|_| KeyError { wanted: "BEGIN PUBLIC KEY in PEM" })?;
        Ok(Self(key))
    }

    /// The same, in PEM.
    ///
    /// # Errors
    /// [`KeyError`] when it cannot be written, which is not expected.
    pub fn to_pem(&self) -> Result<String, KeyError> {
        self.0.to_public_key_pem(LineEnding::LF).map_err(|_| KeyError { wanted: "a key that can be written" })
    }

    /// Checks a signature over a digest: DER, in the one form that DER allows.
    pub(crate) fn verify(&self, digest: &[u8; 32], der: &[u8]) -> Result<(), SignatureError> {
        let signature = Signature::from_der(der).map_err(|_| SignatureError::Invalid)?;
        if signature.to_der().as_bytes() != der {
            return Err(SignatureError::Invalid);
        }
        self.0.verify_prehash(digest, &signature).map_err(|_| SignatureError::Invalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> PrivateKey {
        PrivateKey::from_secret(&[7; 32]).expect("a key")
    }

    #[test]
    fn keys_survive_pem() {
        let private = PrivateKey::from_pem(&key().to_pem().expect("written")).expect("read");
        assert_eq!(private.public(), key().public());
        assert_eq!(PublicKey::from_pem(&key().public().to_pem().expect("written")), Ok(key().public()));
        assert!(PublicKey::from_pem(&key().to_pem().expect("written")).is_err());
        assert!(PrivateKey::from_secret(&[0; 32]).is_err());
    }

    #[test]
    fn a_private_key_is_not_shown() {
        let pem = key().to_pem().expect("written");
        let secret: String = [7u8; 32].iter().map(|byte| format!("{byte:02x}")).collect();
        let shown = format!("{:?}", key());
        assert!(!shown.to_lowercase().contains(&secret) && !pem.is_empty(), "{shown}");
    }

    #[test]
    fn only_the_one_form_of_a_signature_counts() {
        let der = key().sign(&[1; 32]).expect("signed");
        assert_eq!(key().public().verify(&[1; 32], &der), Ok(()));
        assert_eq!(key().public().verify(&[2; 32], &der), Err(SignatureError::Invalid));
        let longer = [der.as_slice(), &[0]].concat();
        let mut long_length = vec![der[0], 0x81];
        long_length.extend_from_slice(&der[1..]);
        for other in [longer, long_length, der[..der.len() - 1].to_vec(), Vec::new()] {
            assert_eq!(key().public().verify(&[1; 32], &other), Err(SignatureError::Invalid));
        }
    }
}
