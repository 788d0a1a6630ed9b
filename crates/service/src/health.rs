//! What others may know of a process: whether it lives, whether it is ready, and its metrics.
//!
//! *Alive* means that the process answers. *Ready* means that every named check holds: each part of the service declares its
//! check at the start as not holding, and sets it when a round trip with the world has happened.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::shutdown::Shutdown;
use crate::telemetry::Metrics;

/// What Prometheus expects of the text of [`Metrics::render`].
pub const METRICS_CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The named checks of one process. All clones speak of the same ones.
#[derive(Clone, Debug)]
pub struct Readiness {
    checks: watch::Sender<BTreeMap<String, bool>>,
}

impl Default for Readiness {
    fn default() -> Self {
        Self { checks: watch::Sender::new(BTreeMap::new()) }
    }
}

/// The body of `/readyz`.
#[derive(Debug, Serialize)]
struct ReadyView {
    ready: bool,
    checks: BTreeMap<String, bool>,
}

impl Readiness {
    /// No checks yet: ready.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Says whether a check holds. The first word about a check declares it.
    pub fn set(&self, check: &str, holds: bool) {
        self.checks.send_if_modified(|checks| checks.insert(check.to_owned(), holds) != Some(holds));
    }

    /// Whether every check holds.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.checks.borrow().values().all(|holds| *holds)
    }

    /// All checks.
    #[must_use]
    pub fn checks(&self) -> BTreeMap<String, bool> {
        self.checks.borrow().clone()
    }

    /// Says whenever a check changed; read [`Readiness::is_ready`] then.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<BTreeMap<String, bool>> {
        self.checks.subscribe()
    }

    /// Waits until every check holds.
    pub async fn ready(&self) {
        let mut checks = self.checks.subscribe();
        // The sender lives in `self`, so that the wait cannot fail.
        let _ = checks.wait_for(|checks| checks.values().all(|holds| *holds)).await;
    }
}

/// The HTTP server of a role that has no other one.
#[derive(Debug)]
pub struct HealthServer {
    listener: TcpListener,
    address: SocketAddr,
}

impl HealthServer {
    /// Listens. Port 0 takes a free one.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until the shutdown.
    ///
    /// # Errors
    /// The listener failed.
    pub async fn run(self, readiness: Readiness, metrics: Metrics, shutdown: Shutdown) -> io::Result<()> {
        let (graceful, ended) = (shutdown.clone(), shutdown);
        let server = axum::serve(self.listener, router(readiness, metrics))
            .with_graceful_shutdown(async move { graceful.triggered().await });
        // A probe that keeps its connection open must not hold up the end.
        tokio::select! {
            result = async { server.await } => result,
            () = async { ended.triggered().await; tokio::time::sleep(std::time::Duration::from_millis(500)).await } => Ok(()),
        }
    }
}

/// The three endpoints, for servers that have others as well.
pub fn router(readiness: Readiness, metrics: Metrics) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz).with_state(readiness))
        .route("/metrics", get(render).with_state(metrics))
}

async fn readyz(State(readiness): State<Readiness>) -> Response {
    let checks = readiness.checks();
    let ready = checks.values().all(|holds| *holds);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(ReadyView { ready, checks })).into_response()
}

async fn render(State(metrics): State<Metrics>) -> Response {
    ([(header::CONTENT_TYPE, METRICS_CONTENT_TYPE)], metrics.render()).into_response()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.expect("listening");
        let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answered");
        answer
    }

    #[tokio::test]
    async fn the_three_endpoints_answer() {
        let (readiness, metrics, shutdown) = (Readiness::new(), Metrics::new(), Shutdown::new());
        readiness.set("bus", false);
        metrics.gauge("workers", "Workers online").set(2);
        let server = HealthServer::bind((Ipv4Addr::LOCALHOST, 0).into()).await.expect("bound");
        let address = server.address();
        let running = tokio::spawn(server.run(readiness.clone(), metrics, shutdown.clone()));

        assert!(ask(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        let answer = ask(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with(r#"{"ready":false,"checks":{"bus":false}}"#), "{answer}");
        readiness.set("bus", true);
        readiness.ready().await;
        assert!(ask(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        let answer = ask(address, "/metrics").await;
        assert!(answer.contains("openmetrics-text") && answer.contains("busbar_workers 2\n"), "{answer}");

        shutdown.trigger();
        running.await.expect("no panic").expect("a clean end");
    }
}
