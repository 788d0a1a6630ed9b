//! The keys that CAP workers prove to have.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What `PUT /api/v1/workers/{id}/keys/{key_id}` takes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EnrolRequest {
    /// The public key: on the curve P-256, `BEGIN PUBLIC KEY` in PEM.
    pub public_key: String,
    /// Which agent the worker is: what its SDK calls `expected_agent_id`. By default its own id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<String>,
    /// Whose the worker is: what its SDK calls `tenant_id`. By default the tenant of the API key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
    /// The worker speaks CAP-PRODUCTION: it gets jobs of that tenant alone, signed for its subject, and must sign its results so.
    #[serde(default)]
    pub production: bool,
}

/// What `GET /api/v1/worker-keys` answers, and `GET` and `DELETE` of a worker's keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkerKeyList {
    /// The enrolled keys, by worker and name.
    pub items: Vec<WorkerKeyView>,
}

/// An enrolled key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkerKeyView {
    /// The worker that may prove to have it.
    pub worker_id: String,
    /// Its name: what the worker's SDK calls `proof_key_id`.
    pub key_id: String,
    /// Which agent the worker is.
    pub agent_id: String,
    /// Whose the worker is.
    pub tenant_id: String,
    /// Whether the worker speaks CAP-PRODUCTION.
    pub production: bool,
    /// The public key in PEM.
    pub public_key: String,
    /// When it was enrolled (RFC 3339).
    pub enrolled_at: String,
    /// Who did: the name of a key.
    pub enrolled_by: String,
}
