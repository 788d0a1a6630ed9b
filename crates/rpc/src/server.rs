//! A gRPC server from its start to its end.

use std::future::Future;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::service::Routes;
use tonic::transport::Server;

/// How many calls one connection may have open.
const STREAMS_MAX: u32 = 1024;

/// How often an idle connection is asked for a sign of life, and how long it may take to give one.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));

/// How long open calls may take after the end was asked for.
const GRACE: Duration = Duration::from_secs(5);

/// A server that ended because it had to.
#[derive(Debug, thiserror::Error)]
#[error("the gRPC server failed")]
pub struct ServeError {
    #[source]
    source: tonic::transport::Error,
}

/// Serves until `shutdown` is done; then open calls get up to five seconds to end.
///
/// # Errors
/// [`ServeError`] when the listener fails.
pub async fn serve(
    listener: TcpListener,
    routes: Routes,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    let (tell, told) = tokio::sync::oneshot::channel::<()>();
    // Decisions are small and waited for: each goes out at once.
    let incoming = TcpListenerStream::new(listener).map(|stream| stream.inspect(|stream| drop(stream.set_nodelay(true))));
    let server = Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE.0))
        .http2_keepalive_timeout(Some(KEEPALIVE.1))
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, async move {
            shutdown.await;
            drop(tell);
        });
    tokio::select! {
        result = server => result.map_err(|source| ServeError { source }),
        () = async { let _ = told.await; tokio::time::sleep(GRACE).await } => Ok(()),
    }
}
