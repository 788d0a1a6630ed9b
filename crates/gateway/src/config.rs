//! What can be set about the gateway.

use busbar_service::config::Secret;
use serde::{Deserialize, Serialize};

/// What can be set about the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GatewayConfig {
    /// The largest artifact that is taken, in bytes.
    pub artifact_bytes_max: u64,
    /// How long an artifact can be named after its upload, in seconds.
    pub artifact_ttl_seconds: u64,
    /// How long a blob stays that no record names, in seconds: at least as long as a worker may take to tell of a result that it has stored.
    pub unnamed_blob_ttl_seconds: u64,
    /// How long a key that was looked up is believed, in milliseconds: a key that is taken away works that much longer.
    pub key_cache_ms: u64,
    /// How long an installation of a pack that was cut off is left alone before somebody goes on with it, in milliseconds.
    pub pack_lease_ms: u64,
    /// A key of role admin, tenant `default`, that is made known at the start, so that a new cell can be entered; it replaces the
    /// one that stood here before. At least [`crate::KEY_CHARS_MIN`] characters.
    pub bootstrap_key: Secret,
    /// How many clients may follow the live stream at a time.
    pub stream_clients_max: usize,
    /// A connection ends whose other side takes nothing for so long, in milliseconds.
    pub write_stall_ms: u64,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            artifact_bytes_max: 1024 * 1024 * 1024,
            artifact_ttl_seconds: 30 * 24 * 3600,
            unnamed_blob_ttl_seconds: 24 * 3600,
            key_cache_ms: 10_000,
            pack_lease_ms: 10_000,
            bootstrap_key: Secret::default(),
            stream_clients_max: 10_000,
            write_stall_ms: 30_000,
        }
    }
}
