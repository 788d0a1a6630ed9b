//! Who calls, for which tenant, in which roles: found by the API key that a request carries.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, header};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use busbar_api::Problem;
use busbar_protocol::busbar::ApiKeyRecord;
use busbar_protocol::codes::Code;
use busbar_protocol::keys;
use busbar_protocol::pointers::Sha256Hex;
use busbar_protocol::ports::Records;
use busbar_protocol::prost::Message as _;

use crate::core::role::{Need, Role};
use crate::error::{internal, of_store};

/// How many keys are remembered. A flood of wrong ones must not fill the memory.
const CACHE_ENTRIES_MAX: usize = 10_000;
/// A key that is not there may be made at any moment.
const UNKNOWN_FOR: Duration = Duration::from_secs(1);

/// Under these names a browser, which sets no headers, offers its key as a subprotocol of a WebSocket: `NAME, KEY` or `NAME.KEY`,
/// the key in the URL-safe form of base64.
pub(crate) const SUBPROTOCOLS: [&str; 2] = ["busbar-api-key", "cordum-api-key"];

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Principal {
    /// The key's name.
    pub(crate) name: String,
    /// The SHA-256 of the key.
    pub(crate) digest: String,
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
        let principal = self.find(Sha256Hex::of(&key).as_str()).await?;
        principal.ok_or_else(|| Problem::new(Code::KeyUnknown, "this API key is not known here"))
    }

    /// The owner of the key with this SHA-256.
    pub(crate) async fn find(&self, digest: &str) -> Result<Option<Arc<Principal>>, Problem> {
        match self.remembered(digest) {
            Some(cached) => Ok(cached.principal),
            None => self.look_up(digest).await,
        }
    }

    fn remembered(&self, digest: &str) -> Option<Cached> {
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.get(digest).filter(|cached| cached.until > Instant::now()).cloned()
    }

    async fn look_up(&self, digest: &str) -> Result<Option<Arc<Principal>>, Problem> {
        let stored = self.records.read(vec![keys::api_key(digest)]).await.map_err(|error| of_store(&error))?;
        let principal = match stored.into_iter().next().flatten() {
            None => None,
            Some(stored) => Some(Arc::new(decode(digest, &stored.value).map_err(|error| internal(&error))?)),
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

fn decode(digest: &str, value: &[u8]) -> Result<Principal, busbar_protocol::prost::DecodeError> {
    let record = ApiKeyRecord::decode(value)?;
    // A role of a later version gives nothing here.
    let roles = record.roles.iter().filter_map(|role| role.parse().ok()).collect();
    Ok(Principal { name: record.name, digest: digest.to_owned(), tenant_id: record.tenant_id, roles })
}

fn key_of(headers: &HeaderMap) -> Option<Cow<'_, [u8]>> {
    let own = headers.get("x-api-key").map(|value| value.as_bytes());
    let bearer = || {
        let value = headers.get(header::AUTHORIZATION)?.as_bytes();
        let (scheme, key) = value.split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then_some(key)
    };
    let given = own.or_else(bearer).map(<[u8]>::trim_ascii).filter(|key| !key.is_empty());
    given.map(Cow::Borrowed).or_else(|| subprotocol_key(headers).map(Cow::Owned))
}

fn subprotocol_key(headers: &HeaderMap) -> Option<Vec<u8>> {
    let offers: Vec<&str> =
        headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok()).collect();
    let offers: Vec<&str> = offers.iter().flat_map(|value| value.split(',')).map(str::trim).collect();
    let encoded = SUBPROTOCOLS.iter().find_map(|name| {
        let place = offers.iter().position(|offer| offer == name);
        let joined = || offers.iter().find_map(|offer| offer.strip_prefix(name)?.strip_prefix('.'));
        place.and_then(|place| offers.get(place + 1).copied()).or_else(joined)
    })?;
    URL_SAFE_NO_PAD.decode(encoded.trim_end_matches('=')).ok().filter(|key| !key.is_empty())
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
        let key = Some(Cow::Borrowed(&b"abc"[..]));
        assert_eq!(key_of(&headers("x-api-key", "abc")), key);
        assert_eq!(key_of(&headers("authorization", "Bearer abc")), key);
        assert_eq!(key_of(&headers("authorization", "bearer  abc ")), key);
        for offer in ["busbar-api-key, YWJj", "cordum-api-key,YWJj=", "x, cordum-api-key.YWJj", "busbar-api-key.YWJj, y"] {
            assert_eq!(key_of(&headers("sec-websocket-protocol", offer)), key, "{offer}");
        }
        for offer in ["busbar-api-key", "busbar-api-key, !", "YWJj", "busbar-api-key."] {
            assert_eq!(key_of(&headers("sec-websocket-protocol", offer)), None, "{offer}");
        }
        for (name, value) in [("x-api-key", ""), ("authorization", "Basic abc"), ("authorization", "Bearer "), ("cookie", "abc")]
        {
            assert_eq!(key_of(&headers(name, value)), None, "{name}: {value}");
        }
    }

    #[test]
    fn roles_that_are_not_known_give_nothing() {
        let record =
            ApiKeyRecord { tenant_id: "t".into(), roles: vec!["viewer".into(), "emperor".into()], ..ApiKeyRecord::default() };
        let principal = decode("x", &record.encode_to_vec()).expect("ours");
        assert_eq!(principal.require(Need::ReadJobs), Ok(()));
        assert_eq!(principal.require(Need::WriteJobs).map_err(|p| p.code), Err("forbidden".into()));
    }
}
