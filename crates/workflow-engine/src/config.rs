//! The engine's settings.

use std::time::Duration;

use crate::core::engine::Settings;

/// The engine's settings; the defaults suit production.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// The name under which this replica asks for the lease; unique for each start of the process.
    pub owner: String,
    /// How long the lease outlives its last renewal: a killed engine is replaced after this time.
    pub lease_ttl: Duration,
    /// How often the active replica renews the lease, and a standby asks for it.
    pub lease_poll: Duration,
    /// The most live runs that the cell takes.
    pub live_runs_max: usize,
    /// What the core needs.
    pub settings: Settings,
}

impl EngineConfig {
    /// The defaults for a replica of this name.
    #[must_use]
    pub fn new(owner: String) -> Self {
        Self {
            owner,
            lease_ttl: Duration::from_secs(2),
            lease_poll: Duration::from_millis(250),
            live_runs_max: 10_000,
            settings: Settings::default(),
        }
    }
}
