//! Identifiers and the form that they must have.

use std::fmt;

use uuid::Uuid;

use crate::hex;

/// The tenant of whatever names none.
pub const DEFAULT_TENANT: &str = "default";

/// The longest identifier that is taken from outside, in bytes.
pub const ID_BYTES_MAX: usize = 128;

/// What the published CAP SDKs call a worker whose author gave it no name: several may live at once.
pub const SDK_DEFAULT_WORKERS: [&str; 2] = ["cap-runtime", "cap-worker"];

/// An identifier from outside that does not have the form `^[A-Za-z0-9][A-Za-z0-9:._@\-\[\]]{0,127}$`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "identifier {found:?} must begin with a letter or digit, hold only letters, digits and :._@-[] and have at most 128 characters"
)]
pub struct InvalidId {
    /// The offending text, shortened.
    pub found: String,
}

/// Checks an identifier that came from outside.
///
/// # Errors
/// [`InvalidId`] when it does not have the form that the wire allows.
pub fn check(id: &str) -> Result<(), InvalidId> {
    let mut bytes = id.bytes();
    let head_ok = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
    let tail_ok = bytes.all(|b| b.is_ascii_alphanumeric() || b":._@-[]".contains(&b));
    if head_ok && tail_ok && id.len() <= ID_BYTES_MAX {
        return Ok(());
    }
    Err(InvalidId { found: id.chars().take(40).collect() })
}

/// The run to which a job of this name belongs: the engine names jobs `<run>:<step>@<attempt>`, and runs have no colon in their names.
#[must_use]
pub fn run_of(job_id: &str) -> Option<&str> {
    job_id.split_once(':').map(|(run_id, _)| run_id)
}

/// The identifier of a job.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(String);

impl JobId {
    /// A new identifier: a UUID of version 7, whose order is that of creation.
    #[must_use]
    pub fn generate() -> Self {
        Self(Uuid::now_v7().to_string())
    }

    /// Takes an identifier from outside.
    ///
    /// # Errors
    /// [`InvalidId`] when it does not have the form that the wire allows.
    pub fn parse(text: impl Into<String>) -> Result<Self, InvalidId> {
        let text = text.into();
        check(&text)?;
        Ok(Self(text))
    }

    /// The identifier as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A [`JobId`] in the least memory: identifiers that we make ourselves take no more than their sixteen bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackedJobId(Packed);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Packed {
    /// A UUID in its usual spelling: small letters, with hyphens.
    Uuid([u8; 16]),
    Other(Box<str>),
}

impl PackedJobId {
    /// Takes an identifier from outside.
    ///
    /// # Errors
    /// [`InvalidId`] when it does not have the form that the wire allows.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        check(text)?;
        Ok(Self::of(text))
    }

    fn of(id: &str) -> Self {
        let mut spelling = Uuid::encode_buffer();
        let uuid = Uuid::try_parse(id).ok().filter(|uuid| uuid.hyphenated().encode_lower(&mut spelling) == id);
        Self(uuid.map_or_else(|| Packed::Other(id.into()), |uuid| Packed::Uuid(uuid.into_bytes())))
    }
}

impl From<&JobId> for PackedJobId {
    fn from(id: &JobId) -> Self {
        Self::of(&id.0)
    }
}

impl From<&PackedJobId> for JobId {
    fn from(PackedJobId(packed): &PackedJobId) -> Self {
        Self(match packed {
            Packed::Uuid(bytes) => Uuid::from_bytes(*bytes).to_string(),
            Packed::Other(text) => text.to_string(),
        })
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A new identifier for anything that is not a job: a UUID of version 7.
#[must_use]
pub fn generate() -> String {
    Uuid::now_v7().to_string()
}

/// A new trace identifier: 32 hexadecimal digits, the form of W3C Trace Context.
#[must_use]
pub fn generate_trace() -> String {
    hex::encode(&generate_trace_bytes())
}

/// The same as bytes.
pub(crate) fn generate_trace_bytes() -> [u8; 16] {
    Uuid::now_v7().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn form_of_identifiers() {
        for good in ["a", "0", "run:step[3]@2", "A.b_c-d", &"x".repeat(128)] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in ["", ":a", "a b", "a/b", "ä", "a\n", &"x".repeat(129)] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn packing_keeps_every_spelling() {
        let ours = JobId::generate();
        for text in [ours.as_str(), "a", &ours.as_str().to_uppercase(), &ours.as_str().replace('-', ""), &"x".repeat(128)] {
            let id = JobId::parse(text).expect("a good id");
            assert_eq!(JobId::from(&PackedJobId::from(&id)), id);
            assert_eq!(PackedJobId::parse(text), Ok(PackedJobId::from(&id)));
        }
        assert!(matches!(PackedJobId::from(&ours).0, Packed::Uuid(_)));
    }
}
