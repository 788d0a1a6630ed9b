//! The gateway over gRPC: `busbar.v1.Jobs`, `busbar.v1.DeadLetters` and `cordum.v1.CordumApi`, with health and reflection.
//!
//! ```text
//!  call ─► guard: key, deadline, a place ─► jobs, cordum: messages into our own words ─► ops, as for HTTP
//!                                     ◄── every refusal with its stable code ◄──
//! ```

mod cordum;
mod dead;
mod guard;
mod jobs;
mod refusal;

use busbar_protocol::ports::{Bus, Records};
use busbar_rpc::busbar::dead_letters_server::{DeadLettersServer, SERVICE_NAME as DEAD_LETTERS};
use busbar_rpc::busbar::jobs_server::{JobsServer, SERVICE_NAME as JOBS};
use busbar_rpc::cordum_api::cordum_api_server::{CordumApiServer, SERVICE_NAME as CORDUM_API};
use busbar_rpc::tonic::service::Routes;
use busbar_rpc::{Health, ServeError, ServeOptions, add_standard};

use crate::app::Shared;
use crate::metrics::GatewayMetrics;
use crate::service::{DRAIN, Grpc, Kit};
use guard::{BySize, Guard};

/// How many calls one connection may have open.
const CALLS_PER_CONNECTION_MAX: u32 = 256;
/// The largest message of a call that carries many jobs, in bytes: as over HTTP.
const BATCH_BYTES_MAX: usize = busbar_api::BODY_BYTES_MAX;
/// The largest message of any other call, in bytes.
const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
const SUBMIT_MANY: &str = "/busbar.v1.Jobs/SubmitMany";

/// Serves until the shutdown.
pub(crate) async fn serve<B: Bus, R: Records>(
    grpc: Grpc,
    app: Shared<B, R>,
    metrics: GatewayMetrics,
    kit: Kit,
) -> Result<(), ServeError> {
    let guard = Guard::new(app.clone(), metrics.clone());
    let jobs = JobsServer::new(jobs::Service { app: app.clone(), metrics: metrics.clone() });
    let jobs = BySize {
        large_path: SUBMIT_MANY,
        small: jobs.clone().max_decoding_message_size(MESSAGE_BYTES_MAX),
        large: jobs.max_decoding_message_size(BATCH_BYTES_MAX),
        places: app.batches.clone(),
    };
    let dead = DeadLettersServer::new(dead::Service { app: app.clone() }).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let cordum = CordumApiServer::new(cordum::Service { app, metrics }).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let mut routes = Routes::builder();
    routes.add_service(guard.before(jobs)).add_service(guard.before(dead)).add_service(guard.before(cordum));
    let health = add_standard(&mut routes, &[JOBS, DEAD_LETTERS, CORDUM_API]).await;
    let options = ServeOptions { tls: grpc.tls, calls_max: CALLS_PER_CONNECTION_MAX, grace: DRAIN };
    let shutdown = kit.shutdown.clone();
    let server = busbar_rpc::serve(grpc.listener, routes.routes(), options, async move { shutdown.triggered().await });
    tokio::pin!(server);
    tokio::select! {
        ended = &mut server => ended,
        () = follow_readiness(health, kit) => server.await,
    }
}

/// Keeps health true to readiness, and says that nothing is served any more before the end.
async fn follow_readiness(health: Health, kit: Kit) {
    let mut changes = kit.readiness.changes();
    loop {
        health.set(kit.readiness.is_ready()).await;
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { break },
            () = kit.shutdown.triggered() => break,
        }
    }
    health.set(false).await;
}
