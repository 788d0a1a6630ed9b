//! The safety kernel.

use std::net::SocketAddr;

use busbar_safety_kernel::KernelConfig;
use busbar_service::TaskSet;

use super::{Kit, World, listen, start_health};
use crate::config::Config;
use crate::failure::Failure;

const ROLE: &str = "safety-kernel";

/// Connects and starts a replica. Returns where it listens.
pub(crate) async fn start(tasks: &mut TaskSet, config: &Config, kit: Kit) -> Result<SocketAddr, Failure> {
    let section = &config.safety_kernel;
    let (listener, address) = listen("the safety kernel", section.listen.as_deref().unwrap_or(&section.addr)).await?;
    let world = World::connect(config, ROLE).await?;
    start_health(tasks, ROLE, config, kit.clone(), world.clone()).await?;
    tracing::info!(role = ROLE, %address, "listening");
    let config =
        KernelConfig { addr: section.addr.clone(), policy_path: section.policy_path.clone(), refresh_ms: section.refresh_ms };
    let Kit { shutdown, readiness, metrics } = kit;
    tasks.spawn(ROLE, busbar_safety_kernel::run(config, world.bus, world.store, listener, readiness, metrics, shutdown));
    Ok(address)
}
