//! The gateway.

use std::net::SocketAddr;

use busbar_blobs::Blobs;
use busbar_gateway::{Gateway, Grpc, Listeners};
use busbar_rpc::Tls;
use busbar_service::{TaskSet, Telemetry};

use super::{Kit, World, listen};
use crate::config::Config;
use crate::failure::Failure;

pub(super) const ROLE: &str = "gateway";

/// The gateway has no use without a place for artifacts and modules.
#[derive(Debug, thiserror::Error)]
#[error("blobs.url (BLOBS_URL) is not set; file:///some/folder is wanted")]
struct NoBlobs;

/// Where it answers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    pub(crate) http: SocketAddr,
    pub(crate) grpc: SocketAddr,
}

/// Connects, and answers.
pub(crate) async fn start(tasks: &mut TaskSet, config: &Config, kit: Kit) -> Result<Addresses, Failure> {
    let url = config.blobs.url.as_deref().ok_or(NoBlobs).map_err(Failure::start("the gateway"))?;
    let tls = config.grpc.tls_files().map(|(certificate, key)| Tls::from_files(certificate, key)).transpose();
    let tls = tls.map_err(Failure::start("the gateway"))?;
    let (http, http_address) = listen("the gateway", &config.http.listen.to_string()).await?;
    let (grpc, grpc_address) = listen("the gateway's gRPC server", &config.grpc.address()).await?;
    let world = World::connect(config, ROLE).await?;
    let blobs = Blobs::open(url).map_err(Failure::start("the gateway"))?;
    let Telemetry { metrics, tracer } = kit.telemetry;
    let kit = busbar_gateway::Kit { shutdown: kit.shutdown, readiness: kit.readiness, metrics, tracer };
    let listeners = Listeners { http, grpc: Some(Grpc { listener: grpc, tls }) };
    let gateway = Gateway::start(config.gateway.clone(), world.bus, world.store, blobs, listeners, kit)
        .await
        .map_err(Failure::start("the gateway"))?;
    let tls = config.grpc.tls_files().is_some();
    tracing::info!(role = ROLE, address = %http_address, grpc = %grpc_address, grpc_tls = tls, "answering");
    tasks.spawn(ROLE, gateway.join());
    Ok(Addresses { http: http_address, grpc: grpc_address })
}
