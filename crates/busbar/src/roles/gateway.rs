//! The HTTP gateway.

use std::net::SocketAddr;

use busbar_blobs::Blobs;
use busbar_gateway::Gateway;
use busbar_service::TaskSet;

use super::{Kit, World, listen};
use crate::config::Config;
use crate::failure::Failure;

const ROLE: &str = "gateway";

/// The gateway has no use without a place for artifacts and modules.
#[derive(Debug, thiserror::Error)]
#[error("blobs.url (BLOBS_URL) is not set; file:///some/folder is wanted")]
struct NoBlobs;

/// Connects, loads packs where they are configured, and answers. Returns the address.
pub(crate) async fn start(tasks: &mut TaskSet, config: &Config, kit: Kit) -> Result<SocketAddr, Failure> {
    let url = config.blobs.url.as_deref().ok_or(NoBlobs).map_err(Failure::start("the gateway"))?;
    let (listener, address) = listen("the gateway", &config.http.listen.to_string()).await?;
    let world = World::connect(config, ROLE).await?;
    let blobs = Blobs::open(url).map_err(Failure::start("the gateway"))?;
    let kit = busbar_gateway::Kit { shutdown: kit.shutdown, readiness: kit.readiness, metrics: kit.metrics };
    let gateway = Gateway::start(config.gateway.clone(), world.bus, world.store, blobs, listener, kit)
        .await
        .map_err(Failure::start("the gateway"))?;
    tracing::info!(role = ROLE, %address, "answering");
    tasks.spawn(ROLE, gateway.join());
    Ok(address)
}
