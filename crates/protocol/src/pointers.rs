//! Pointers to payloads: `redis://<key>` and `blob:sha256:<hex>`.
//!
//! A Redis pointer has no host part: everything after the scheme is the key, verbatim. What comes from the bus is honoured
//! only inside the names that belong to the job, because a pointer to any key would let a worker read other tenants' data.

use std::fmt;

use crate::{hex, keys};

const REDIS: &str = "redis://";
const BLOB: &str = "blob:sha256:";

/// Where a payload stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pointer {
    /// A Redis key.
    Redis(String),
    /// A blob, by the SHA-256 of its content.
    Blob(Sha256Hex),
}

/// A pointer that is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PointerError {
    /// Neither `redis://` nor `blob:sha256:`.
    #[error("pointer {found:?} must begin with redis:// or blob:sha256:")]
    Scheme {
        /// The offending text, shortened.
        found: String,
    },
    /// Nothing after the scheme, or a key of more than 1,024 bytes or with other characters than the wire allows.
    #[error("pointer {found:?} does not name a key")]
    Key {
        /// The offending text, shortened.
        found: String,
    },
    /// Not 64 lower-case hexadecimal digits.
    #[error("{found:?} is not a SHA-256 in lower-case hexadecimal digits")]
    Digest {
        /// The offending text, shortened.
        found: String,
    },
}

/// A SHA-256 as 64 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256Hex(String);

impl Sha256Hex {
    /// Takes the digits.
    ///
    /// # Errors
    /// [`PointerError::Digest`] when they are not 64 lower-case hexadecimal digits.
    pub fn parse(text: &str) -> Result<Self, PointerError> {
        let good = text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if good { Ok(Self(text.to_owned())) } else { Err(PointerError::Digest { found: shorten(text) }) }
    }

    /// The digest of some bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::{Digest, Sha256};
        Self::from_bytes(&Sha256::digest(bytes))
    }

    /// The digits of a digest.
    #[must_use]
    pub fn from_bytes(digest: &[u8]) -> Self {
        Self(hex::encode(digest))
    }

    /// The 32 bytes that the digits stand for.
    #[must_use]
    pub fn to_bytes(&self) -> bytes::Bytes {
        let digit = |b: u8| if b.is_ascii_digit() { b - b'0' } else { b - b'a' + 10 };
        self.0.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
    }

    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Sha256Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Pointer {
    /// Reads a pointer.
    ///
    /// # Errors
    /// [`PointerError`] says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, PointerError> {
        if let Some(key) = text.strip_prefix(REDIS) {
            let good = key.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
                && key.len() <= 1024
                && key.bytes().all(|b| b.is_ascii_alphanumeric() || b":._@-[]".contains(&b));
            return if good { Ok(Self::Redis(key.to_owned())) } else { Err(PointerError::Key { found: shorten(text) }) };
        }
        if let Some(digest) = text.strip_prefix(BLOB) {
            return Sha256Hex::parse(digest).map(Self::Blob);
        }
        Err(PointerError::Scheme { found: shorten(text) })
    }

    /// Whether this pointer stays inside the names of a job's own results.
    #[must_use]
    pub fn is_result_of(&self, job_id: &str) -> bool {
        match self {
            Self::Blob(_) => true,
            Self::Redis(key) => {
                let own = keys::result(job_id);
                key.strip_prefix(own.as_str()).is_some_and(|rest| {
                    rest.is_empty()
                        || rest.strip_prefix(':').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
                })
            }
        }
    }

    /// Whether this pointer names the job's own context.
    #[must_use]
    pub fn is_context_of(&self, job_id: &str) -> bool {
        matches!(self, Self::Redis(key) if *key == keys::context(job_id))
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Redis(key) => write!(f, "{REDIS}{key}"),
            Self::Blob(digest) => write!(f, "{BLOB}{digest}"),
        }
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_schemes_read_back() {
        for text in ["redis://ctx:1", "redis://res:run:step[3]@2:1", &format!("blob:sha256:{}", Sha256Hex::of(b"x"))] {
            assert_eq!(Pointer::parse(text).map(|p| p.to_string()), Ok(text.to_owned()));
        }
        for bad in ["", "ctx:1", "redis://", "redis://a b", "blob:sha256:AB", "http://x"] {
            assert!(Pointer::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_result_pointer_stays_with_its_job() {
        let of = |text: &str| Pointer::parse(text).is_ok_and(|p| p.is_result_of("a"));
        assert!(of("redis://res:a") && of("redis://res:a:12"));
        assert!(!of("redis://res:ab") && !of("redis://res:a:") && !of("redis://res:a:1:2") && !of("redis://ctx:a"));
    }
}
