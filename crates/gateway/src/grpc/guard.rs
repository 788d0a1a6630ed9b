//! What stands before every call: the key, a place, the client's deadline. A call without them is answered before its message is
//! read.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::http::{HeaderMap, Request, Response};
use busbar_api::Problem;
use busbar_protocol::ports::{Bus, Records};
use busbar_protocol::trace::TraceContext;
use busbar_rpc::tonic::body::Body;
use busbar_rpc::tonic::codegen::{BoxFuture, Service};
use busbar_rpc::tonic::server::NamedService;
use busbar_rpc::tonic::{self, Status};
use tokio::sync::Semaphore;

use super::refusal::{named, refused_with, status, too_late};
use crate::app::{Caller, Shared};
use crate::core::deadline;
use crate::core::role::Need;
use crate::error::{busy, internal};
use crate::metrics::GatewayMetrics;
use crate::ops::submit::place_for_batch;
use crate::traces;

/// How many calls of all connections are answered at once.
const CALLS_AT_ONCE: usize = 4096;

/// What is known of a call before its message is read.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) caller: Caller,
    pub(crate) trace: Option<TraceContext>,
    pub(crate) until: Option<tokio::time::Instant>,
}

impl Call {
    /// Takes out what the guard put in, and refuses unless one of the caller's roles allows it.
    pub(crate) fn of<T>(request: &mut tonic::Request<T>, need: Need) -> Result<Self, Status> {
        let call = request.extensions_mut().remove::<Self>();
        let call = call.ok_or_else(|| status(&internal(&"a call came past the guard")))?;
        call.caller.require(need).map_err(|problem| status(&problem))?;
        Ok(call)
    }
}

/// Makes guarded services.
#[derive(Clone)]
pub(crate) struct Guard<B, R> {
    app: Shared<B, R>,
    metrics: GatewayMetrics,
    calls: Arc<Semaphore>,
}

impl<B: Bus, R: Records> Guard<B, R> {
    pub(crate) fn new(app: Shared<B, R>, metrics: GatewayMetrics) -> Self {
        Self { app, metrics, calls: Arc::new(Semaphore::new(CALLS_AT_ONCE)) }
    }

    /// The service behind this guard.
    pub(crate) fn before<S>(&self, service: S) -> Guarded<B, R, S> {
        Guarded { guard: self.clone(), service }
    }

    async fn look_at(&self, headers: &HeaderMap) -> Result<Call, Problem> {
        let until = headers.get("grpc-timeout").and_then(|value| deadline::parse(value.to_str().ok()?));
        let until = until.map(|left| tokio::time::Instant::now() + left);
        let caller = Caller(self.app.keys.authenticate(headers).await?);
        Ok(Call { caller, trace: traces::of_headers(headers), until })
    }

    async fn answer<S: Inner>(&self, mut service: S, mut request: Request<Body>) -> Response<Body> {
        let Ok(_place) = self.calls.try_acquire() else {
            return status(&busy("as many calls are open as may")).into_http();
        };
        let call = match self.look_at(request.headers()).await {
            Ok(call) => call,
            Err(problem) => return status(&problem).into_http(),
        };
        let until = call.until;
        request.extensions_mut().insert(call);
        let answered = async { service.call(request).await.unwrap_or_else(|never| match never {}) };
        match until {
            None => named(answered.await),
            Some(until) => tokio::time::timeout_at(until, answered).await.map_or_else(|_| too_late().into_http(), named),
        }
    }
}

/// A service that answers every call somehow.
pub(crate) trait Inner:
    Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send> + Clone + Send + 'static
{
}

impl<S> Inner for S where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send> + Clone + Send + 'static
{
}

/// A service behind the guard.
#[derive(Clone)]
pub(crate) struct Guarded<B, R, S> {
    guard: Guard<B, R>,
    service: S,
}

impl<B, R, S: NamedService> NamedService for Guarded<B, R, S> {
    const NAME: &'static str = S::NAME;
}

impl<B: Bus, R: Records, S: Inner> Service<Request<Body>> for Guarded<B, R, S> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Response<Body>, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Self { guard, service } = self.clone();
        Box::pin(async move {
            let (begun, path) = (Instant::now(), request.uri().path().to_owned());
            let response = guard.answer(service, request).await;
            let (kind, code) = refused_with(&response).unwrap_or((tonic::Code::Ok, None));
            // Paths that nobody serves have no bound.
            let route = if kind == tonic::Code::Unimplemented { "none".to_owned() } else { path };
            guard.metrics.answered("GRPC".to_owned(), route, (kind as i32).to_string(), begun, code);
            Ok(response)
        })
    }
}

/// A service that takes large messages in one call only, and only so many of those at once.
#[derive(Clone)]
pub(crate) struct BySize<S> {
    pub(crate) large_path: &'static str,
    pub(crate) small: S,
    pub(crate) large: S,
    pub(crate) places: Arc<Semaphore>,
}

impl<S: NamedService> NamedService for BySize<S> {
    const NAME: &'static str = S::NAME;
}

impl<S: Inner> Service<Request<Body>> for BySize<S> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Response<Body>, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if request.uri().path() != self.large_path {
            return Box::pin(self.small.call(request));
        }
        let (mut service, places) = (self.large.clone(), self.places.clone());
        Box::pin(async move {
            let _place = match place_for_batch(&places).await {
                Ok(place) => place,
                Err(problem) => return Ok(status(&problem).into_http()),
            };
            service.call(request).await
        })
    }
}
