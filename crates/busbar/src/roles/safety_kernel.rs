//! The safety kernel.

use std::net::SocketAddr;

use busbar_safety_kernel::{Asked, KernelConfig, LocalKernel};
use busbar_service::TaskSet;
use busbar_service::telemetry::Connections;

use super::{Kit, Watched, World, listen, start_health};
use crate::config::Config;
use crate::failure::Failure;

pub(super) const ROLE: &str = "safety-kernel";

/// Connects and starts a replica. Returns where it listens, and the way to ask it from this process.
pub(crate) async fn start(tasks: &mut TaskSet, config: &Config, kit: Kit) -> Result<(SocketAddr, LocalKernel), Failure> {
    let section = &config.safety_kernel;
    let (listener, address) = listen("the safety kernel", section.listen.as_deref().unwrap_or(&section.addr)).await?;
    let world = World::connect(config, ROLE).await?;
    let connections = Connections::register(&kit.telemetry.metrics, "kernel");
    let watched = Watched { role: ROLE, connections, fill: None };
    start_health(tasks, watched, config, kit.clone(), world.clone()).await?;
    tracing::info!(role = ROLE, %address, "listening");
    let config =
        KernelConfig { addr: section.addr.clone(), policy_path: section.policy_path.clone(), refresh_ms: section.refresh_ms };
    let Kit { shutdown, readiness, telemetry } = kit;
    let (local, seat) = busbar_safety_kernel::local();
    let (World { bus, store }, asked) = (world, Asked { listener, seat: Some(seat) });
    tasks.spawn(ROLE, busbar_safety_kernel::run(config, bus, store, asked, readiness, telemetry, shutdown));
    Ok((address, local))
}
