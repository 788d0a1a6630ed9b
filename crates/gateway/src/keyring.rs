//! The API keys that are kept: made, listed, taken away.
//!
//! Only the SHA-256 of a key is kept. Keys are long and random, so that a plain digest is enough.

use busbar_protocol::busbar::ApiKeyRecord;
use busbar_protocol::keys;
use busbar_protocol::pointers::Sha256Hex;
use busbar_protocol::ports::{Answer, CommitClass, CommitId, Guard, IndexRange, Records, StoreError, Stored, Unit, Write};
use busbar_protocol::prost::Message as _;
use busbar_protocol::time::Timestamp;
use busbar_service::config::Secret;
use uuid::Uuid;

use crate::core::role::Role;

/// The name of the key that the configuration brings; no other key should have it.
pub const BOOTSTRAP_KEY: &str = "bootstrap";
/// A shorter text is too easily guessed to be a key.
pub const KEY_CHARS_MIN: usize = 32;
/// So much of an id is needed to name a key by it.
const ID_CHARS_MIN: usize = 8;
/// The most keys that are listed.
const KEYS_MAX: u64 = 10_000;
const PAGE: u64 = 256;
/// How often a record is written again when somebody else was quicker.
const TRIES: u32 = 5;

/// A key that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewKey {
    /// Names the key, and those who use it, in logs and records.
    pub name: String,
    /// Whose jobs it sees.
    pub tenant_id: String,
    /// What it may do.
    pub roles: Vec<Role>,
}

/// A key as it is kept: everything but the key itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptKey {
    /// The SHA-256 of the key, in hexadecimal. A part from its beginning, 8 characters or more, names the key too.
    pub id: String,
    /// What it is called; several may be called the same.
    pub name: String,
    /// Whose jobs it sees.
    pub tenant_id: String,
    /// What it may do; roles of a later version are among them.
    pub roles: Vec<String>,
    /// When it was made.
    pub created: Timestamp,
}

/// Why a key was not taken away.
#[derive(Debug, thiserror::Error)]
pub enum RevokeError {
    /// No key is called so.
    #[error("no key has the name or id {0:?}")]
    Unknown(String),
    /// Several keys are called so.
    #[error("{count} keys are called {name:?}; name one by its id")]
    Ambiguous {
        /// What was asked for.
        name: String,
        /// How many there are.
        count: usize,
    },
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Makes a key and returns it: the only time that it can be seen.
///
/// # Errors
/// [`StoreError`] when it could not be kept.
pub async fn create_key<R: Records>(records: &R, new: &NewKey) -> Result<String, StoreError> {
    let key = format!("bb_{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    install_key(records, &key, new).await?;
    Ok(key)
}

/// Keeps a key that somebody brings, or gives an existing one another name, tenant and roles.
///
/// # Errors
/// [`StoreError`] when it could not be kept.
pub async fn install_key<R: Records>(records: &R, key: &str, new: &NewKey) -> Result<(), StoreError> {
    let id = Sha256Hex::of(key.as_bytes());
    let record = ApiKeyRecord {
        version: 1,
        name: new.name.clone(),
        tenant_id: new.tenant_id.clone(),
        roles: new.roles.iter().map(ToString::to_string).collect(),
        created_ms: Timestamp::wall_clock().millis(),
    };
    let score = i64::try_from(record.created_ms).unwrap_or(i64::MAX);
    let value = record.encode_to_vec();
    change(records, id.as_str(), |key, stored| {
        let put = Write::Put {
            key: key.to_owned(),
            revision: stored.map_or(0, |stored| stored.revision) + 1,
            value: value.clone().into(),
            expire: None,
        };
        let listed = Write::IndexAdd { index: keys::INDEX_API_KEYS.into(), member: id.as_str().to_owned(), score };
        vec![put, listed]
    })
    .await
}

/// The keys that are kept, the oldest first, at most 10,000.
///
/// # Errors
/// [`StoreError`].
pub async fn list_keys<R: Records>(records: &R) -> Result<Vec<KeptKey>, StoreError> {
    let mut kept = Vec::new();
    for offset in (0..KEYS_MAX).step_by(usize::try_from(PAGE).unwrap_or(usize::MAX)) {
        let range = IndexRange { min: i64::MIN, max: i64::MAX, newest_first: false, offset, limit: PAGE };
        let ids: Vec<String> = records.index(keys::INDEX_API_KEYS, range).await?.into_iter().map(|entry| entry.member).collect();
        if ids.is_empty() {
            break;
        }
        let stored = records.read(ids.iter().map(|id| keys::api_key(id)).collect()).await?;
        for (id, stored) in ids.into_iter().zip(stored) {
            // One that was taken away between the two reads is not there any more.
            kept.extend(stored.map(|stored| kept_key(id, &stored)).transpose()?);
        }
    }
    Ok(kept)
}

/// Takes the key with this name or id away, and returns what it was. Gateways believe it for `key_cache_ms` more.
///
/// # Errors
/// [`RevokeError`].
pub async fn revoke_key<R: Records>(records: &R, which: &str) -> Result<KeptKey, RevokeError> {
    let mut found: Vec<KeptKey> = list_keys(records).await?.into_iter().filter(|key| is_called(key, which)).collect();
    match (found.pop(), found.len()) {
        (None, _) => Err(RevokeError::Unknown(which.to_owned())),
        (Some(key), 0) => {
            remove(records, &key.id).await?;
            Ok(key)
        }
        (Some(_), others) => Err(RevokeError::Ambiguous { name: which.to_owned(), count: others + 1 }),
    }
}

/// Makes the key of the configuration known, if there is one, and takes away those that it replaces.
pub(crate) async fn keep_bootstrap_key<R: Records>(records: &R, key: &Secret) -> Result<(), StoreError> {
    if key.is_empty() {
        return Ok(());
    }
    let id = Sha256Hex::of(key.expose().as_bytes());
    let bootstrap: Vec<KeptKey> = list_keys(records).await?.into_iter().filter(|key| key.name == BOOTSTRAP_KEY).collect();
    if !bootstrap.iter().any(|key| key.id == id.as_str()) {
        let new = NewKey { name: BOOTSTRAP_KEY.into(), tenant_id: "default".into(), roles: vec![Role::Admin] };
        install_key(records, key.expose(), &new).await?;
    }
    for replaced in bootstrap.iter().filter(|key| key.id != id.as_str()) {
        remove(records, &replaced.id).await?;
        tracing::info!(key = &replaced.id[..ID_CHARS_MIN], "the former bootstrap key was taken away");
    }
    Ok(())
}

fn is_called(key: &KeptKey, which: &str) -> bool {
    key.name == which || (which.len() >= ID_CHARS_MIN && key.id.starts_with(which))
}

fn kept_key(id: String, stored: &Stored) -> Result<KeptKey, StoreError> {
    let corrupt =
        |error: busbar_protocol::prost::DecodeError| StoreError::Corrupt { key: keys::api_key(&id), detail: error.to_string() };
    let ApiKeyRecord { version: _, name, tenant_id, roles, created_ms } =
        ApiKeyRecord::decode(stored.value.clone()).map_err(corrupt)?;
    Ok(KeptKey { id, name, tenant_id, roles, created: Timestamp::from_millis(created_ms) })
}

async fn remove<R: Records>(records: &R, id: &str) -> Result<(), StoreError> {
    change(records, id, |key, stored| {
        let unlisted = Write::IndexRemove { index: keys::INDEX_API_KEYS.into(), member: id.to_owned() };
        let deleted = stored.map(|_| Write::Delete { key: key.to_owned() });
        deleted.into_iter().chain([unlisted]).collect()
    })
    .await
}

/// Commits what follows from the record as it stands, trying again when somebody else was quicker.
async fn change<R: Records>(
    records: &R,
    id: &str,
    writes: impl Fn(&str, Option<&Stored>) -> Vec<Write>,
) -> Result<(), StoreError> {
    let key = keys::api_key(id);
    for _ in 0..TRIES {
        let stored = records.read(vec![key.clone()]).await?.into_iter().next().flatten();
        let guard = match &stored {
            None => Guard::Absent { key: key.clone() },
            Some(stored) => Guard::Revision { key: key.clone(), revision: stored.revision },
        };
        let unit = Unit { id: CommitId::generate(), guards: vec![guard], writes: writes(&key, stored.as_ref()) };
        match records.commit(CommitClass::Admit, vec![unit]).await?.first() {
            Some(Answer::Applied { .. } | Answer::Already) => return Ok(()),
            Some(Answer::Conflict { .. } | Answer::GuardFailed { .. }) | None => {}
        }
    }
    Err(StoreError::Unavailable { detail: format!("others keep writing {key}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_named_by_its_name_or_the_beginning_of_its_id() {
        let key = KeptKey {
            id: "0123456789abcdef".into(),
            name: "ci".into(),
            tenant_id: "default".into(),
            roles: vec!["viewer".into()],
            created: Timestamp::from_millis(1),
        };
        for (which, called) in [("ci", true), ("01234567", true), ("0123456789abcdef", true), ("0123456", false), ("c", false)] {
            assert_eq!(is_called(&key, which), called, "{which}");
        }
    }
}
