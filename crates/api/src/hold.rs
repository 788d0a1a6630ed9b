//! What is held back: pauses, and workers that drain.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a pause holds back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PauseScope {
    /// Nothing goes to the workers of the pool.
    Pool,
    /// No job of the topic is sent; `*` and `>` as in topic documents.
    Topic,
    /// No job of the tenant is sent.
    Tenant,
    /// No job with a concurrency key is sent: `<tenant> <topic> <key>`.
    Key,
    /// Nothing goes to the worker: it is blocked.
    Worker,
}

/// A text that names no scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownScope(
    /// The text, shortened.
    pub String,
);

impl fmt::Display for UnknownScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} cannot be paused; what can is", self.0)?;
        PauseScope::ALL.iter().try_for_each(|scope| write!(f, " {scope}"))
    }
}

impl std::error::Error for UnknownScope {}

impl PauseScope {
    /// All scopes.
    pub const ALL: [Self; 5] = [Self::Pool, Self::Topic, Self::Tenant, Self::Key, Self::Worker];

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pool => "pool",
            Self::Topic => "topic",
            Self::Tenant => "tenant",
            Self::Key => "key",
            Self::Worker => "worker",
        }
    }
}

impl fmt::Display for PauseScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for PauseScope {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        let found = Self::ALL.into_iter().find(|scope| scope.as_str() == text);
        found.ok_or_else(|| UnknownScope(text.chars().take(40).collect()))
    }
}

/// What `PUT /api/v1/pauses/{scope}/{name}` and `PUT /api/v1/workers/{id}/block` take; the body may be missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PauseRequest {
    /// Why, for those who look later; at most 500 characters are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it ends by itself (RFC 3339); without `until` and `for_ms`, when it is lifted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// The same, in milliseconds from now; not together with `until`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 31_622_400_000_u64)]
    pub for_ms: Option<u64>,
}

/// What `GET /api/v1/pauses` answers, and `DELETE /api/v1/pauses/{scope}/{name}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PauseList {
    /// Everything that is paused, by scope and name.
    pub items: Vec<PauseView>,
}

/// A pause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PauseView {
    /// What kind of thing is paused.
    pub scope: PauseScope,
    /// Its name.
    pub name: String,
    /// Since when (RFC 3339).
    pub since: String,
    /// When it ends by itself; null means when it is lifted.
    #[schema(required)]
    pub until: Option<String>,
    /// Why; empty where nobody said.
    pub reason: String,
    /// Who: the name of a key, or `worker:<id>`.
    pub set_by: String,
}

/// What `POST /api/v1/workers/{id}/drain` takes; the body may be missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DrainRequest {
    /// Why, for those who look later; at most 500 characters are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What `DELETE /api/v1/workers/{id}/drain` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DrainList {
    /// Every worker that drains, by id.
    pub items: Vec<DrainView>,
}

/// A worker that finishes what it holds and gets nothing new.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DrainView {
    /// The worker.
    pub worker_id: String,
    /// Since when (RFC 3339).
    pub since: String,
    /// Why; empty where nobody said.
    pub reason: String,
    /// Who: the name of a key.
    pub set_by: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scope_reads_back() {
        for scope in PauseScope::ALL {
            assert_eq!(scope.as_str().parse(), Ok(scope));
            assert_eq!(serde_json::to_string(&scope).expect("a unit variant"), format!("\"{scope}\""));
        }
        assert!("cell".parse::<PauseScope>().is_err());
    }
}
