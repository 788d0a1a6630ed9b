//! What can be set about the gateway.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What can be set about the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GatewayConfig {
    /// A folder of unpacked packs, one folder each; none means that no packs are loaded at the start.
    pub packs_dir: Option<PathBuf>,
    /// The largest artifact that is taken, in bytes.
    pub artifact_bytes_max: u64,
    /// How long an artifact can be named after its upload, in seconds.
    pub artifact_ttl_seconds: u64,
    /// How long a key that was looked up is believed, in milliseconds: a key that is taken away works that much longer.
    pub key_cache_ms: u64,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            packs_dir: None,
            artifact_bytes_max: 1024 * 1024 * 1024,
            artifact_ttl_seconds: 30 * 24 * 3600,
            key_cache_ms: 10_000,
        }
    }
}
