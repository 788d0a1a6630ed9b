//! The gRPC services: ours for batches, CAP's for everybody else. Both read the current snapshot and decide; they change nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use busbar_protocol::busbar::{CheckBatchRequest, CheckBatchResponse};
use busbar_protocol::cap::{ListSnapshotsRequest, ListSnapshotsResponse, PolicyCheckRequest, PolicyCheckResponse};
use busbar_protocol::ports::{Span, SpanKind, Tracer};
use busbar_protocol::trace::TraceContext;
use busbar_rpc::busbar::kernel_server::{Kernel, KernelServer};
use busbar_rpc::cap::safety_kernel_server::{SafetyKernel, SafetyKernelServer};
use busbar_rpc::tonic::service::Routes;
use busbar_rpc::tonic::{self, Request, Response, Status};
use busbar_rpc::{CHECKS_MAX, MESSAGE_BYTES_MAX};
use busbar_service::Telemetry;
use busbar_service::telemetry::{Counters, Histograms, millis};
use tokio::sync::watch;

use crate::core::bundle::Tier;
use crate::core::evaluate::{evaluate, explain};
use crate::core::snapshot::Snapshot;

/// How many names of former snapshots are remembered.
const RECENT_MAX: usize = 10;

/// What is decided by, and by what it was decided before.
#[derive(Clone, Debug)]
pub(crate) struct Current {
    pub(crate) snapshot: Arc<Snapshot>,
    /// The newest first, the present one included.
    recent: VecDeque<String>,
}

impl Current {
    pub(crate) fn new(snapshot: Snapshot) -> Self {
        let recent = VecDeque::from([snapshot.id().to_owned()]);
        Self { snapshot: Arc::new(snapshot), recent }
    }

    pub(crate) fn replace(&mut self, snapshot: Snapshot) {
        self.recent.retain(|id| id != snapshot.id());
        self.recent.push_front(snapshot.id().to_owned());
        self.recent.truncate(RECENT_MAX);
        self.snapshot = Arc::new(snapshot);
    }
}

/// Decides by the current snapshot, counts and traces: both services, and what is asked in the same process.
#[derive(Clone, Debug)]
pub(crate) struct Answers {
    current: watch::Receiver<Current>,
    decisions: Counters,
    duration_ms: Histograms,
    tracer: Tracer,
}

/// The services, ready to be served.
pub(crate) fn routes(answers: Answers) -> Routes {
    let batch = KernelServer::new(answers.clone())
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let single = SafetyKernelServer::new(answers)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    Routes::new(batch).add_service(single)
}

impl Answers {
    pub(crate) fn new(current: watch::Receiver<Current>, telemetry: &Telemetry) -> Self {
        let metrics = &telemetry.metrics;
        Self {
            current,
            decisions: metrics.counters("kernel_decisions", "Decisions by what was decided, and by the tier whose rule decided"),
            duration_ms: metrics.histograms_ms("kernel_call_ms", "Time that a call took in the kernel"),
            tracer: telemetry.tracer.clone(),
        }
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        self.current.borrow().snapshot.clone()
    }

    fn decide(&self, snapshot: &Snapshot, request: &PolicyCheckRequest) -> PolicyCheckResponse {
        let judgement = evaluate(snapshot, request);
        let tier = judgement.tier.map_or("none", Tier::as_str);
        let labels = vec![("decision", judgement.decision.as_str().to_owned()), ("tier", tier.to_owned())];
        self.decisions.get_or_create(&labels).inc();
        judgement.to_wire(snapshot, request)
    }

    /// Decides, and tells of it where somebody wants to see it.
    fn decide_traced(&self, snapshot: &Snapshot, request: &PolicyCheckRequest, traceparent: &str) -> PolicyCheckResponse {
        let wanted = TraceContext::parse(traceparent).filter(|parent| self.tracer.is_on() && parent.is_sampled());
        let Some(parent) = wanted else { return self.decide(snapshot, request) };
        let started = SystemTime::now();
        let response = self.decide(snapshot, request);
        // The same job is asked about again under the next snapshot.
        let own = parent.child(&format!("check {}", snapshot.id()));
        let span = Span::over("check", SpanKind::Server, parent, own, started)
            .text("busbar.job_id", &request.job_id)
            .text("busbar.tenant_id", &request.tenant)
            .text("busbar.topic", &request.topic)
            .text("busbar.decision", response.decision().as_str_name())
            .text("busbar.rule_id", &response.rule_id)
            .text("busbar.snapshot", snapshot.id());
        self.tracer.tell(span);
        response
    }

    /// Decides a batch: each request in its trace context, or an empty text.
    pub(crate) fn decide_all<'a>(&self, requests: impl Iterator<Item = (&'a PolicyCheckRequest, &'a str)>) -> CheckBatchResponse {
        self.measured("check_batch", || {
            // One snapshot for the whole batch, however soon the next one comes.
            let snapshot = self.snapshot();
            let responses = requests.map(|(request, place)| self.decide_traced(&snapshot, request, place)).collect();
            CheckBatchResponse { responses, snapshot: snapshot.id().to_owned() }
        })
    }

    fn measured<T>(&self, call: &str, work: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let answer = work();
        let labels = vec![("call", call.to_owned())];
        self.duration_ms.get_or_create(&labels).observe(millis(begun.elapsed()));
        answer
    }

    fn timed<T>(&self, call: &str, work: impl FnOnce() -> T) -> Response<T> {
        Response::new(self.measured(call, work))
    }
}

#[tonic::async_trait]
impl Kernel for Answers {
    async fn check_batch(&self, request: Request<CheckBatchRequest>) -> Result<Response<CheckBatchResponse>, Status> {
        let CheckBatchRequest { requests, traceparents } = request.into_inner();
        if requests.len() > CHECKS_MAX {
            return Err(Status::invalid_argument(format!(
                "{} requests are more than the {CHECKS_MAX} of one call",
                requests.len()
            )));
        }
        let places = traceparents.iter().map(String::as_str).chain(std::iter::repeat(""));
        Ok(Response::new(self.decide_all(requests.iter().zip(places))))
    }
}

#[tonic::async_trait]
impl SafetyKernel for Answers {
    async fn check(&self, request: Request<PolicyCheckRequest>) -> Result<Response<PolicyCheckResponse>, Status> {
        Ok(self.timed("check", || self.decide(&self.snapshot(), request.get_ref())))
    }

    async fn evaluate(&self, request: Request<PolicyCheckRequest>) -> Result<Response<PolicyCheckResponse>, Status> {
        Ok(self.timed("evaluate", || self.decide(&self.snapshot(), request.get_ref())))
    }

    /// The answer of `Check`, with a line in its reason for every rule that was tried.
    async fn explain(&self, request: Request<PolicyCheckRequest>) -> Result<Response<PolicyCheckResponse>, Status> {
        Ok(self.timed("explain", || {
            let (snapshot, request) = (self.snapshot(), request.get_ref());
            let (judgement, reason) = explain(&snapshot, request);
            PolicyCheckResponse { reason, ..judgement.to_wire(&snapshot, request) }
        }))
    }

    /// The answer of `Check`, without being counted as a decision.
    async fn simulate(&self, request: Request<PolicyCheckRequest>) -> Result<Response<PolicyCheckResponse>, Status> {
        Ok(self.timed("simulate", || {
            let (snapshot, request) = (self.snapshot(), request.get_ref());
            evaluate(&snapshot, request).to_wire(&snapshot, request)
        }))
    }

    async fn list_snapshots(&self, _: Request<ListSnapshotsRequest>) -> Result<Response<ListSnapshotsResponse>, Status> {
        let snapshots = self.current.borrow().recent.iter().cloned().collect();
        Ok(Response::new(ListSnapshotsResponse { snapshots }))
    }
}
