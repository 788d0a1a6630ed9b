//! The office of the active engine: under which epoch it is held, and keeping it.

use busbar_protocol::keys;
use busbar_protocol::ports::{Bus, Clock, Records};
use tokio::sync::mpsc;

use crate::config::EngineConfig;
use crate::input::Input;
use crate::service::Ports;

/// What a replica was given when it became active.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Office {
    /// The lease's epoch.
    pub(crate) epoch: u64,
    /// Which of this process's terms it is.
    pub(crate) term: u32,
}

/// Renews the lease until somebody else has it, or has had it: a lease that ran out and came back is one of another epoch, and
/// what happened in between is not in memory. What a replica says that was replaced meanwhile does no harm: its commits are
/// fenced by the epoch, and it answers only after a commit or from the store.
pub(crate) async fn keep_lease<B: Bus, R: Records, C: Clock>(
    ports: Ports<B, R, C>,
    config: EngineConfig,
    epoch: u64,
    inputs: mpsc::Sender<Input>,
) {
    loop {
        ports.clock.sleep(config.lease_poll).await;
        match ports.records.lease(keys::LOCK_ENGINE, &config.owner, config.lease_ttl).await {
            Ok(lease) if !lease.held || lease.epoch != epoch => {
                let _ = inputs.send(Input::LeaseLost).await;
                return;
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "the lease was not renewed"),
        }
    }
}
