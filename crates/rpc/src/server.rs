//! A gRPC server from its start to its end.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::service::Routes;
use tonic::transport::{Identity, Server, ServerTlsConfig};

/// How often an idle connection is asked for a sign of life, and how long it may take to give one.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));

/// How much a client may send before we have read it, for one call and for all calls of a connection. Large enough that a batch
/// flows at full speed, and that calls which share a connection do not hold each other up.
const WINDOWS: (u32, u32) = (1024 * 1024, 8 * 1024 * 1024);

/// The most metadata that a call may carry, in bytes.
const METADATA_BYTES_MAX: u32 = 32 * 1024;

const HANDSHAKE: Duration = Duration::from_secs(10);

/// A server that ended because it had to.
#[derive(Debug, thiserror::Error)]
#[error("the gRPC server failed")]
pub struct ServeError {
    #[source]
    source: tonic::transport::Error,
}

/// Why a certificate and its key are of no use.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{} cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The files are no PEM, or do not belong together.
    #[error("{} and {} are no certificate with its key, both in PEM", certificate.display(), key.display())]
    Unusable {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why not.
        source: tonic::transport::Error,
    },
}

/// A certificate with its key, which TLS can be served with.
#[derive(Clone, Debug)]
pub struct Tls(ServerTlsConfig);

impl Tls {
    /// Reads a certificate (with its chain) and its key, both in PEM.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let read = |path: &Path| std::fs::read(path).map_err(|source| TlsError::Unreadable { path: path.to_owned(), source });
        let identity = Identity::from_pem(read(certificate)?, read(key)?);
        let config = ServerTlsConfig::new().identity(identity).timeout(HANDSHAKE);
        let unusable = |source| TlsError::Unusable { certificate: certificate.to_owned(), key: key.to_owned(), source };
        Server::builder().tls_config(config.clone()).map_err(unusable)?;
        Ok(Self(config))
    }
}

/// How a server serves.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// With TLS, or in plain text.
    pub tls: Option<Tls>,
    /// How many calls one connection may have open.
    pub calls_max: u32,
    /// How long open calls may take after the end was asked for.
    pub grace: Duration,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self { tls: None, calls_max: 1024, grace: Duration::from_secs(5) }
    }
}

/// Serves until `shutdown` is done; then open calls get [`ServeOptions::grace`] to end.
///
/// # Errors
/// [`ServeError`] when the listener fails.
pub async fn serve(
    listener: TcpListener,
    routes: Routes,
    options: ServeOptions,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    let (tell, told) = tokio::sync::oneshot::channel::<()>();
    // Answers are waited for: each goes out at once.
    let incoming = TcpListenerStream::new(listener).map(|stream| stream.inspect(|stream| drop(stream.set_nodelay(true))));
    let mut server = Server::builder()
        .max_concurrent_streams(options.calls_max)
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .http2_max_header_list_size(METADATA_BYTES_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE.0))
        .http2_keepalive_timeout(Some(KEEPALIVE.1));
    if let Some(Tls(config)) = options.tls {
        server = server.tls_config(config).map_err(|source| ServeError { source })?;
    }
    let server = server.add_routes(routes).serve_with_incoming_shutdown(incoming, async move {
        shutdown.await;
        drop(tell);
    });
    tokio::select! {
        result = server => result.map_err(|source| ServeError { source }),
        () = async { let _ = told.await; tokio::time::sleep(options.grace).await } => Ok(()),
    }
}
