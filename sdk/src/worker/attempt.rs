//! One attempt from its acceptance to the acknowledgement of its result.
//!
//! ```text
//!  wait for a slot ─► fetch input ─► handler (reports go out meanwhile) ─► rest of the log ─► store output ─► tell result
//!        └── cancelled ────┴───────────────────────────────────────────────────────────────────────────────────────▲
//!        └── handed back, if the worker leaves before the handler runs ────────────────────────────────────────────┘
//! ```

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use busbar_protocol::cap::bus_packet::Payload;
use busbar_protocol::cap::{JobResult, JobStatus};
use busbar_protocol::codes::Code;
use busbar_protocol::envelope;
use busbar_protocol::ports::{Bus, Clock, Headers, Records, Span, SpanKind, TRACEPARENT, ago};
use busbar_protocol::trace::TraceContext;
use bytes::Bytes;
use tokio::task::JoinError;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use super::report::Reporter;
use super::results::Told;
use super::run::{Shared, Slot};
use crate::context::{About, CancelFlag, Context, Stop};
use crate::core::dispatch::Dispatch;
use crate::failure::{Failure, MESSAGE_BYTES_MAX, cap_code, shorten};
use crate::handler::{Handler, Request, panic_message};
use crate::payloads::Placed;

/// How an attempt ended.
struct Outcome {
    end: End,
    execution: Duration,
}

enum End {
    Succeeded(Placed),
    Failed(Failure),
    Stopped(Stop),
}

impl Outcome {
    /// An end before the handler ran.
    fn unstarted(end: End) -> Self {
        Self { end, execution: Duration::ZERO }
    }
}

/// Does an accepted attempt, tells its result and lets go of it. Its future is copied several times on its way into its task and out of it,
/// so that what is large in it is boxed.
pub(super) async fn work<B: Bus, R: Records>(shared: Arc<Shared<B, R>>, dispatch: Box<Dispatch>, cancel: CancelFlag, slot: Slot) {
    let lines = tracing::error_span!(
        "attempt",
        trace_id = dispatch.trace_id,
        job_id = dispatch.key.job_id,
        tenant_id = dispatch.request.tenant_id,
        attempt = dispatch.key.attempt
    );
    do_and_tell(shared, dispatch, cancel, slot).instrument(lines).await;
}

async fn do_and_tell<B: Bus, R: Records>(shared: Arc<Shared<B, R>>, mut dispatch: Box<Dispatch>, cancel: CancelFlag, slot: Slot) {
    let accepted = Instant::now();
    let place = shared.place(&mut dispatch);
    let outcome = shared.execute(&dispatch, &cancel, slot).await;
    shared.desk.ledger().end(&dispatch.key);
    if let Some((parent, own)) = place {
        shared.tracer.tell(outcome.span(parent, own, ago(accepted.elapsed()), &dispatch, &shared.worker_id));
    }
    tracing::debug!(outcome = outcome.end.word(), execution = ?outcome.execution, "an attempt has ended");
    let told = shared.compose(&dispatch, outcome);
    shared.results.tell(&format!("{}/{}/result", dispatch.key.job_id, dispatch.key.attempt), &told).await;
    shared.desk.ledger().finish(dispatch.key, told);
    shared.desk.changed.notify_one();
}

impl<B: Bus, R: Records> Shared<B, R> {
    /// The place of an attempt in its trace, and of what is above it, if anybody wants to see it. What is said about the attempt
    /// from now on is said below its place.
    fn place(&self, dispatch: &mut Dispatch) -> Option<(TraceContext, TraceContext)> {
        let parent = self.tracer.place(dispatch.traceparent.as_deref().unwrap_or_default(), &dispatch.trace_id)?;
        let own = parent.child(&format!("run {} {}", dispatch.key.job_id, dispatch.key.attempt));
        dispatch.traceparent = Some(own.to_string());
        Some((parent, own))
    }

    async fn execute(&self, dispatch: &Dispatch, cancel: &CancelFlag, slot: Slot) -> Outcome {
        let slot = tokio::select! {
            biased;
            stop = cancel.stopped() => return Outcome::unstarted(End::Stopped(stop)),
            slot = slot => slot.expect("the slots are never closed"),
        };
        if !self.desk.ledger().start(&dispatch.key) {
            // It is being handed back, which its flag says, or will in a moment.
            return Outcome::unstarted(End::Stopped(cancel.stopped().await));
        }
        let input = tokio::select! {
            biased;
            stop = cancel.stopped() => return Outcome::unstarted(End::Stopped(stop)),
            input = self.payloads.input(dispatch) => input,
        };
        let handler = self.routes.find(&dispatch.request.topic).ok_or_else(|| unknown_topic(&dispatch.request.topic));
        let (input, handler) = match (input, handler) {
            (Ok(input), Ok(handler)) => (input, handler),
            (Err(failure), _) | (_, Err(failure)) => return Outcome::unstarted(End::Failed(failure)),
        };
        let (result, execution) = self.call(&handler, dispatch, cancel, input).await;
        drop(slot);
        let end = match result {
            Ok(output) => self.payloads.place(dispatch, output).await.map_or_else(End::Failed, End::Succeeded),
            Err(failure) => End::Failed(failure),
        };
        Outcome { end, execution }.heeding(cancel)
    }

    /// Runs the handler and passes on what it reports meanwhile.
    async fn call(
        &self,
        handler: &Handler,
        dispatch: &Dispatch,
        cancel: &CancelFlag,
        input: Bytes,
    ) -> (Result<Bytes, Failure>, Duration) {
        let context = Context::new(about(dispatch, &self.worker_id), cancel.clone());
        let request = Request { topic: dispatch.request.topic.clone(), env: dispatch.request.env.clone(), input };
        let started = Instant::now();
        // A task of its own: a panic ends the handler, not the worker.
        let work = handler(context.clone(), request).in_current_span();
        let mut running = AbortOnDropHandle::new(tokio::spawn(work));
        let mut reporter = Reporter::new(self, dispatch, context.report());
        let joined = loop {
            tokio::select! {
                biased;
                due = reporter.due() => reporter.pass_on(due).await,
                joined = &mut running => break joined,
            }
        };
        let execution = started.elapsed();
        // From here on a cancellation comes too late.
        self.desk.ledger().end(&dispatch.key);
        reporter.finish().await;
        (joined.unwrap_or_else(|error| Err(ended_badly(error))), execution)
    }

    /// The packet that tells how an attempt ended.
    fn compose(&self, dispatch: &Dispatch, outcome: Outcome) -> Told {
        let mut result = JobResult {
            job_id: dispatch.key.job_id.clone(),
            worker_id: self.worker_id.clone(),
            // Rounded up: 0 says that the handler did not run.
            execution_ms: i64::try_from(outcome.execution.as_nanos().div_ceil(1_000_000)).unwrap_or(i64::MAX),
            dispatch: dispatch.request.dispatch.clone(),
            identity: dispatch.request.identity.clone(),
            ..JobResult::default()
        };
        let output = outcome.end.write(&mut result);
        let packet = envelope::packet(&dispatch.trace_id, &self.worker_id, self.clock.now(), Payload::JobResult(result));
        Told { headers: headers(dispatch), packet, output }
    }
}

impl Outcome {
    fn span(&self, parent: TraceContext, own: TraceContext, started: SystemTime, dispatch: &Dispatch, worker_id: &str) -> Span {
        let span = Span::over("run", SpanKind::Consumer, parent, own, started)
            .text("busbar.job_id", &dispatch.key.job_id)
            .text("busbar.tenant_id", &dispatch.request.tenant_id)
            .text("busbar.topic", &dispatch.request.topic)
            .number("busbar.attempt", dispatch.key.attempt)
            .text("busbar.worker_id", worker_id)
            .number("busbar.execution_ms", self.execution.as_millis())
            .text("busbar.outcome", self.end.word());
        match &self.end {
            End::Failed(failure) => span.failed(failure.code.clone()),
            End::Succeeded(_) | End::Stopped(_) => span,
        }
    }

    /// A handler that gave up after it was told to stop was stopped; one that succeeded nevertheless has succeeded.
    fn heeding(self, cancel: &CancelFlag) -> Self {
        match (self.end, cancel.stop()) {
            (End::Failed(_), Some(stop)) => Self { end: End::Stopped(stop), ..self },
            (end, _) => Self { end, ..self },
        }
    }
}

impl End {
    const fn word(&self) -> &'static str {
        match self {
            Self::Succeeded(_) => "succeeded",
            Self::Failed(_) => "failed",
            Self::Stopped(Stop::Cancelled(_)) => "cancelled",
            Self::Stopped(Stop::WorkerLeaves) => "left",
        }
    }

    /// Says in a result how the attempt ended; returns the output that goes with it.
    fn write(self, result: &mut JobResult) -> Option<Bytes> {
        let (status, failure) = match self {
            Self::Succeeded(placed) => {
                result.set_status(JobStatus::Succeeded);
                let (pointer, reference, carried) = match placed {
                    Placed::Pointer { pointer, reference, carried } => (pointer, reference, carried),
                    Placed::Reference(reference) => (String::new(), reference, None),
                };
                result.result_ptr = pointer;
                result.result_ref = Some(reference);
                return carried;
            }
            Self::Failed(failure) if failure.retryable => (JobStatus::FailedRetryable, failure),
            Self::Failed(failure) => (JobStatus::Failed, failure),
            Self::Stopped(Stop::Cancelled(reason)) => (JobStatus::Cancelled, Failure::of(Code::Cancelled, reason)),
            // Not cancelled, which would be the end of the job: nobody but the worker wanted it.
            Self::Stopped(Stop::WorkerLeaves) => {
                (JobStatus::FailedRetryable, Failure::of(Code::WorkerLeft, "the worker ended before the attempt did"))
            }
        };
        result.set_status(status);
        result.set_error_code_enum(cap_code(&failure.code));
        result.error_code = failure.code;
        result.error_message = shorten(failure.message, MESSAGE_BYTES_MAX);
        None
    }
}

fn about(dispatch: &Dispatch, worker_id: &str) -> About {
    About {
        job_id: dispatch.key.job_id.clone(),
        attempt: dispatch.key.attempt,
        topic: dispatch.request.topic.clone(),
        tenant_id: dispatch.request.tenant_id.clone(),
        trace_id: dispatch.trace_id.clone(),
        traceparent: dispatch.traceparent.clone(),
        worker_id: worker_id.to_owned(),
        labels: dispatch.request.labels.clone(),
    }
}

/// Another worker may have a handler, so that another attempt makes sense.
fn unknown_topic(topic: &str) -> Failure {
    Failure { retryable: true, ..Failure::of(Code::UnknownTopic, format!("this worker has no handler for {topic}")) }
}

fn ended_badly(error: JoinError) -> Failure {
    match error.try_into_panic() {
        Ok(panic) => Failure::of(Code::HandlerFailed, panic_message(&*panic)),
        Err(error) => Failure::retry(format!("the handler was stopped: {error}")),
    }
}

/// The headers of everything that is said about an attempt.
pub(super) fn headers(dispatch: &Dispatch) -> Headers {
    dispatch.traceparent.iter().map(|trace| (TRACEPARENT.to_owned(), trace.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use busbar_protocol::cap::{ErrorCode, ResourceRef};

    /// How large the future is that such a function returns, in bytes.
    fn size<A, B, C, D, F: Future>(_: fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_attempt_is_small() {
        let bytes = size(work::<busbar_bus::NatsBus, busbar_store::Store>);
        assert!(bytes <= 2 << 10, "{bytes} bytes: box what is seldom waited for");
    }

    fn done(pointer: &str) -> End {
        let (pointer, reference) = (pointer.to_owned(), ResourceRef::default());
        End::Succeeded(Placed::Pointer { pointer, reference, carried: None })
    }

    fn told(end: End) -> JobResult {
        let mut result = JobResult::default();
        end.write(&mut result);
        result
    }

    #[test]
    fn every_end_has_its_status() {
        let done = told(done("redis://res:j:1"));
        assert_eq!((done.status(), done.result_ptr.as_str()), (JobStatus::Succeeded, "redis://res:j:1"));
        assert_eq!(told(End::Failed(Failure::retry("later"))).status(), JobStatus::FailedRetryable);
        let failed = told(End::Failed(Failure::new("limit_memory", "x".repeat(MESSAGE_BYTES_MAX + 1))));
        assert_eq!((failed.status(), failed.error_code.as_str()), (JobStatus::Failed, "limit_memory"));
        assert_eq!((failed.error_code_enum(), failed.error_message.len()), (ErrorCode::JobResourceExhausted, MESSAGE_BYTES_MAX));
        let cancelled = told(End::Stopped(Stop::Cancelled("not needed".to_owned())));
        assert_eq!((cancelled.status(), cancelled.error_message.as_str()), (JobStatus::Cancelled, "not needed"));
        let left = told(End::Stopped(Stop::WorkerLeaves));
        assert_eq!((left.status(), left.error_code.as_str()), (JobStatus::FailedRetryable, "worker_left"));
    }

    #[test]
    fn only_a_failure_becomes_a_stop() {
        let cancel = CancelFlag::new();
        let failed = || Outcome::unstarted(End::Failed(Failure::cancelled()));
        assert!(matches!(failed().heeding(&cancel).end, End::Failed(_)));
        let stop = Stop::Cancelled("reason".to_owned());
        cancel.set(stop.clone());
        cancel.set(Stop::WorkerLeaves);
        assert!(matches!(failed().heeding(&cancel).end, End::Stopped(first) if first == stop));
        let done = Outcome::unstarted(done(""));
        assert!(matches!(done.heeding(&cancel).end, End::Succeeded(_)));
    }
}
