//! The shell's outer loop: stand by, become active, stand by again.

use std::future::Future;
use std::pin::pin;

use busbar_protocol::keys;
use busbar_protocol::ports::{Bus, BusError, Clock, Judge, Records, StoreError};
use busbar_service::Telemetry;
use tokio::sync::watch;

use crate::active::{self, Left};
use crate::config::SchedulerConfig;
use crate::core::workers::Workers;
use crate::meters::Measured;
use crate::observer::Instruments;
use crate::office::Office;

/// The world, as the scheduler needs it.
#[derive(Clone, Debug)]
pub struct Ports<B, R, C, J> {
    /// The message bus.
    pub bus: B,
    /// The store.
    pub records: R,
    /// The clock.
    pub clock: C,
    /// The safety kernel.
    pub judge: J,
}

/// Why the scheduler cannot go on. What passes by itself is waited for and is no error.
#[derive(Debug, thiserror::Error)]
pub enum SchedulerError {
    /// The store refuses in a way that waiting will not change.
    #[error("the store cannot be used")]
    Store(#[source] StoreError),
}

/// Why a term as the active scheduler did not begin or go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TermError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Bus(#[from] BusError),
}

/// Runs a replica of the scheduler until `shutdown`.
///
/// # Errors
/// [`SchedulerError`] when the store refuses for good.
pub async fn run<B: Bus, R: Records, C: Clock, J: Judge>(
    config: SchedulerConfig,
    ports: Ports<B, R, C, J>,
    telemetry: Telemetry,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), SchedulerError> {
    let instruments = Instruments::new(&telemetry);
    let judge = Measured { judge: ports.judge, meters: instruments.meters.clone() };
    let ports = Ports { bus: ports.bus, records: ports.records, clock: ports.clock, judge };
    let (stop, stopping) = watch::channel(false);
    let mut shutdown = pin!(shutdown);
    let mut serve = pin!(serve(&config, &ports, &instruments, stopping));
    tokio::select! {
        biased;
        outcome = &mut serve => return outcome,
        () = &mut shutdown => {}
    }
    stop.send_replace(true);
    let outcome = serve.await;
    if let Err(error) = ports.records.release(keys::LOCK_SCHEDULER, &config.owner).await {
        tracing::debug!(%error, "the lease was not given back and runs out by itself");
    }
    outcome
}

async fn serve<B: Bus, R: Records, C: Clock, J: Judge>(
    config: &SchedulerConfig,
    ports: &Ports<B, R, C, J>,
    instruments: &Instruments,
    stopping: watch::Receiver<bool>,
) -> Result<(), SchedulerError> {
    let mut known = Workers::default();
    let mut term = 0;
    while !*stopping.borrow() {
        let asked = ports.clock.now();
        match ports.records.lease(keys::LOCK_SCHEDULER, &config.owner, config.lease_ttl).await {
            Ok(lease) if lease.held => {
                tracing::info!(owner = config.owner, epoch = lease.epoch, "active");
                term += 1;
                let office = Office { epoch: lease.epoch, term, since: asked };
                match active::term(config, ports, instruments, office, &mut known, stopping.clone()).await {
                    Ok(Left::Stopped) => return Ok(()),
                    Ok(Left::Replaced) => tracing::info!(epoch = lease.epoch, "standing by"),
                    Ok(Left::Reload) => tracing::warn!(epoch = lease.epoch, "memory is read again from the store"),
                    Err(TermError::Store(StoreError::Refused { detail })) => {
                        return Err(SchedulerError::Store(StoreError::Refused { detail }));
                    }
                    Err(error) => tracing::warn!(%error, "a term ended"),
                }
            }
            Ok(_) => {}
            Err(StoreError::Refused { detail }) => return Err(SchedulerError::Store(StoreError::Refused { detail })),
            Err(error) => tracing::debug!(%error, "the lease cannot be asked for now"),
        }
        ports.clock.sleep(config.lease_poll).await;
    }
    Ok(())
}
