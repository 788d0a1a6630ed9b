//! How a safety kernel is set up.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The section `safety_kernel` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KernelConfig {
    /// Where the kernel listens, and where others ask it: `host:port`.
    pub addr: String,
    /// The operator's own bundle: a YAML file, read again at every refresh. None means none.
    pub policy_path: Option<PathBuf>,
    /// How often file and records are read again, in milliseconds, in case word of a change was lost.
    pub refresh_ms: u64,
}

impl Default for KernelConfig {
    fn default() -> Self {
        Self { addr: "127.0.0.1:50051".to_owned(), policy_path: None, refresh_ms: 10_000 }
    }
}

impl KernelConfig {
    /// The interval between refreshes; at least 100 ms.
    #[must_use]
    pub fn refresh(&self) -> Duration {
        Duration::from_millis(self.refresh_ms.max(100))
    }
}
