//! API keys: who calls, for which tenant, in which roles.
//!
//! Only the SHA-256 of a key is kept. Keys are long and random, so that a plain digest is enough.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, header};
use busbar_api::Problem;
use busbar_protocol::busbar::ApiKeyRecord;
use busbar_protocol::codes::Code;
use busbar_protocol::keys;
use busbar_protocol::pointers::Sha256Hex;
use busbar_protocol::ports::{Answer, CommitClass, CommitId, Guard, Records, StoreError, Unit, Write};
use busbar_protocol::prost::Message as _;
use busbar_protocol::time::Timestamp;
use uuid::Uuid;

use crate::core::role::{Need, Role};
use crate::error::{internal, of_store};

/// How many keys are remembered. A flood of wrong ones must not fill the memory.
const CACHE_ENTRIES_MAX: usize = 10_000;
/// A key that is not there may be made at any moment.
const UNKNOWN_FOR: Duration = Duration::from_secs(1);

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
    let name = keys::api_key(Sha256Hex::of(key.as_bytes()).as_str());
    let record = ApiKeyRecord {
        version: 1,
        name: new.name.clone(),
        tenant_id: new.tenant_id.clone(),
        roles: new.roles.iter().map(ToString::to_string).collect(),
        created_ms: Timestamp::wall_clock().millis(),
    };
    put_record(records, &name, record.encode_to_vec()).await
}

/// Writes a record over whatever stands there, trying again when somebody else was quicker.
async fn put_record<R: Records>(records: &R, key: &str, value: Vec<u8>) -> Result<(), StoreError> {
    for _ in 0..5 {
        let present = records.read(vec![key.to_owned()]).await?.into_iter().next().flatten();
        let (guard, revision) = match present {
            None => (Guard::Absent { key: key.to_owned() }, 1),
            Some(stored) => (Guard::Revision { key: key.to_owned(), revision: stored.revision }, stored.revision + 1),
        };
        let put = Write::Put { key: key.to_owned(), revision, value: value.clone().into(), expire: None };
        let unit = Unit { id: CommitId::generate(), guards: vec![guard], writes: vec![put] };
        match records.commit(CommitClass::Admit, vec![unit]).await?.first() {
            Some(Answer::Applied { .. } | Answer::Already) => return Ok(()),
            Some(Answer::Conflict { .. } | Answer::GuardFailed { .. }) | None => {}
        }
    }
    Err(StoreError::Unavailable { detail: format!("others keep writing {key}") })
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Principal {
    /// The key's name.
    pub(crate) name: String,
    pub(crate) tenant_id: String,
    roles: Vec<Role>,
}

impl Principal {
    /// Refuses unless one of the roles allows it.
    pub(crate) fn require(&self, need: Need) -> Result<(), Problem> {
        if self.roles.iter().any(|role| role.allows(need)) {
            return Ok(());
        }
        Err(Problem::new(Code::Forbidden, format!("this call needs a key with the role {}", need.roles())))
    }
}

#[derive(Clone, Debug)]
struct Cached {
    principal: Option<Arc<Principal>>,
    until: Instant,
}

/// Finds out who calls.
#[derive(Debug)]
pub(crate) struct Keys<R> {
    records: R,
    believe_for: Duration,
    cache: Mutex<HashMap<String, Cached>>,
}

impl<R: Records> Keys<R> {
    pub(crate) fn new(records: R, believe_for: Duration) -> Self {
        Self { records, believe_for, cache: Mutex::default() }
    }

    /// The owner of the key that the request carries.
    pub(crate) async fn authenticate(&self, headers: &HeaderMap) -> Result<Arc<Principal>, Problem> {
        let key = key_of(headers)
            .ok_or_else(|| Problem::new(Code::Unauthenticated, "give an API key in X-API-Key, or in Authorization: Bearer"))?;
        let digest = Sha256Hex::of(key);
        let principal = match self.remembered(digest.as_str()) {
            Some(cached) => cached.principal,
            None => self.look_up(digest.as_str()).await?,
        };
        principal.ok_or_else(|| Problem::new(Code::KeyUnknown, "this API key is not known here"))
    }

    fn remembered(&self, digest: &str) -> Option<Cached> {
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.get(digest).filter(|cached| cached.until > Instant::now()).cloned()
    }

    async fn look_up(&self, digest: &str) -> Result<Option<Arc<Principal>>, Problem> {
        let stored = self.records.read(vec![keys::api_key(digest)]).await.map_err(|error| of_store(&error))?;
        let principal = match stored.into_iter().next().flatten() {
            None => None,
            Some(stored) => Some(Arc::new(decode(&stored.value).map_err(|error| internal(&error))?)),
        };
        let believe_for = if principal.is_some() { self.believe_for } else { UNKNOWN_FOR };
        let cached = Cached { principal: principal.clone(), until: Instant::now() + believe_for };
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= CACHE_ENTRIES_MAX {
            cache.clear();
        }
        cache.insert(digest.to_owned(), cached);
        Ok(principal)
    }
}

fn decode(value: &[u8]) -> Result<Principal, busbar_protocol::prost::DecodeError> {
    let record = ApiKeyRecord::decode(value)?;
    // A role of a later version gives nothing here.
    let roles = record.roles.iter().filter_map(|role| role.parse().ok()).collect();
    Ok(Principal { name: record.name, tenant_id: record.tenant_id, roles })
}

fn key_of(headers: &HeaderMap) -> Option<&[u8]> {
    let own = headers.get("x-api-key").map(|value| value.as_bytes());
    let bearer = || {
        let value = headers.get(header::AUTHORIZATION)?.as_bytes();
        let (scheme, key) = value.split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then_some(key)
    };
    own.or_else(bearer).map(<[u8]>::trim_ascii).filter(|key| !key.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().expect("a header value"));
        headers
    }

    #[test]
    fn a_key_comes_in_either_header() {
        assert_eq!(key_of(&headers("x-api-key", "abc")), Some(&b"abc"[..]));
        assert_eq!(key_of(&headers("authorization", "Bearer abc")), Some(&b"abc"[..]));
        assert_eq!(key_of(&headers("authorization", "bearer  abc ")), Some(&b"abc"[..]));
        for (name, value) in [("x-api-key", ""), ("authorization", "Basic abc"), ("authorization", "Bearer "), ("cookie", "abc")]
        {
            assert_eq!(key_of(&headers(name, value)), None, "{name}: {value}");
        }
    }

    #[test]
    fn roles_that_are_not_known_give_nothing() {
        let record =
            ApiKeyRecord { tenant_id: "t".into(), roles: vec!["viewer".into(), "emperor".into()], ..ApiKeyRecord::default() };
        let principal = decode(&record.encode_to_vec()).expect("ours");
        assert_eq!(principal.require(Need::ReadJobs), Ok(()));
        assert_eq!(principal.require(Need::WriteJobs).map_err(|p| p.code), Err("forbidden".into()));
    }
}
