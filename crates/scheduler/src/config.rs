//! The scheduler's settings.

use std::time::Duration;

use busbar_protocol::inline;

use crate::core::cell::Settings;
use crate::core::trust::Mode;
use crate::voice::Voice;

/// The scheduler's settings; the defaults suit production.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// The name under which this replica asks for the lease; unique for each start of the process.
    pub owner: String,
    /// How long the lease outlives its last renewal: a killed scheduler is replaced after this time.
    pub lease_ttl: Duration,
    /// How often the active replica renews the lease, and a standby asks for it.
    pub lease_poll: Duration,
    /// The most live jobs that the cell takes.
    pub live_jobs_max: usize,
    /// How many jobs are read at once after a takeover.
    pub load_page: u64,
    /// How many of the jobs that wait are read before the first is dispatched; the others follow while work goes on.
    pub load_first: usize,
    /// Up to how many bytes inputs go with dispatches and outputs may come with results; 0 means that none do.
    pub inline_bytes_max: usize,
    /// How much a flush must carry to leave behind another one: where there is little to do, one that is larger costs less.
    pub follows_from: usize,
    /// How it speaks on CAP's subjects.
    pub voice: Voice,
    /// Whether CAP workers must have a session of the trust handshake.
    pub worker_trust: Mode,
    /// Whether packets on CAP's subjects must be signed by an enrolled key of their sender.
    pub signatures: Mode,
    /// What the core needs.
    pub settings: Settings,
}

impl SchedulerConfig {
    /// The defaults for a replica of this name.
    #[must_use]
    pub fn new(owner: String) -> Self {
        Self {
            owner,
            lease_ttl: Duration::from_secs(2),
            lease_poll: Duration::from_millis(250),
            live_jobs_max: 1_000_000,
            load_page: 1_024,
            load_first: 4_096,
            inline_bytes_max: inline::BYTES_MAX,
            follows_from: 64,
            voice: Voice::default(),
            worker_trust: Mode::Off,
            signatures: Mode::Off,
            settings: Settings::default(),
        }
    }
}
