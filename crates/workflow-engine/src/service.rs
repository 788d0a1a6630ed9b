//! The shell's outer loop: stand by, become active, stand by again.

use std::future::Future;
use std::pin::pin;

use busbar_protocol::keys;
use busbar_protocol::ports::{Bus, BusError, Clock, Records, StoreError};
use busbar_service::Telemetry;
use tokio::sync::watch;

use crate::active::{self, Left};
use crate::config::EngineConfig;
use crate::meters::Meters;
use crate::office::Office;

/// The world, as the engine needs it.
#[derive(Clone, Debug)]
pub struct Ports<B, R, C> {
    /// The message bus.
    pub bus: B,
    /// The store.
    pub records: R,
    /// The clock.
    pub clock: C,
}

/// Why the engine cannot go on. What passes by itself is waited for and is no error.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The store refuses in a way that waiting will not change.
    #[error("the store cannot be used")]
    Store(#[source] StoreError),
}

/// Why a term as the active engine did not begin.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TermError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Bus(#[from] BusError),
}

/// Runs a replica of the engine until `shutdown`.
///
/// # Errors
/// [`EngineError`] when the store refuses for good.
pub async fn run<B: Bus, R: Records, C: Clock>(
    config: EngineConfig,
    ports: Ports<B, R, C>,
    telemetry: Telemetry,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), EngineError> {
    let meters = Meters::register(&telemetry);
    let (stop, stopping) = watch::channel(false);
    let mut shutdown = pin!(shutdown);
    let mut serve = pin!(serve(&config, &ports, &meters, stopping));
    tokio::select! {
        biased;
        outcome = &mut serve => return outcome,
        () = &mut shutdown => {}
    }
    stop.send_replace(true);
    let outcome = serve.await;
    if let Err(error) = ports.records.release(keys::LOCK_ENGINE, &config.owner).await {
        tracing::debug!(%error, "the lease was not given back and runs out by itself");
    }
    outcome
}

async fn serve<B: Bus, R: Records, C: Clock>(
    config: &EngineConfig,
    ports: &Ports<B, R, C>,
    meters: &Meters,
    stopping: watch::Receiver<bool>,
) -> Result<(), EngineError> {
    let mut term = 0;
    while !*stopping.borrow() {
        match ports.records.lease(keys::LOCK_ENGINE, &config.owner, config.lease_ttl).await {
            Ok(lease) if lease.held => {
                tracing::info!(owner = config.owner, epoch = lease.epoch, "active");
                term += 1;
                let office = Office { epoch: lease.epoch, term };
                let left = active::term(config, ports, office, meters, stopping.clone()).await;
                meters.end();
                match left {
                    Ok(Left::Stopped) => return Ok(()),
                    Ok(Left::Replaced) => tracing::info!(epoch = lease.epoch, "standing by"),
                    Ok(Left::Reload) => tracing::warn!(epoch = lease.epoch, "memory is read again from the store"),
                    Err(TermError::Store(error @ StoreError::Refused { .. })) => return Err(EngineError::Store(error)),
                    Err(error) => tracing::warn!(%error, "a term ended"),
                }
            }
            Ok(_) => {}
            Err(error @ StoreError::Refused { .. }) => return Err(EngineError::Store(error)),
            Err(error) => tracing::debug!(%error, "the lease cannot be asked for now"),
        }
        ports.clock.sleep(config.lease_poll).await;
    }
    Ok(())
}
