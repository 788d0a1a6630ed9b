//! The way of a job as spans.
//!
//! ```text
//!  submission (the gateway's span, or the client's)
//!   └ admit                        from its arrival to its commit
//!      ├ check                     the safety kernel's own
//!      └ job                       from its admission to its end
//!         ├ dispatch               an attempt waits for a worker, until it is sent
//!         │  └ run                 the worker's own, and below it what its handler tells
//!         └ finish                 from the arrival of the result to its commit
//! ```
//!
//! Where each of them stands follows from the job's record, so that nothing has to be kept of it, and a scheduler that takes over
//! goes on in the same trace.

use std::time::{Duration, Instant};

use busbar_protocol::cap::JobRequest;
use busbar_protocol::ports::{Question, Span, SpanKind, Tracer, ago};
use busbar_protocol::time::Timestamp;
use busbar_protocol::trace::TraceContext;

use crate::core::job::Job;
use crate::core::verdict;

/// Tells of the way of jobs.
#[derive(Clone, Debug)]
pub(crate) struct Traces {
    tracer: Tracer,
}

/// The places in the trace of one job.
#[derive(Clone, Copy, Debug)]
struct Places {
    submission: TraceContext,
    admit: TraceContext,
    job: TraceContext,
}

impl Traces {
    pub(crate) const fn new(tracer: Tracer) -> Self {
        Self { tracer }
    }

    /// Whether anything is told at all.
    pub(crate) fn is_on(&self) -> bool {
        self.tracer.is_on()
    }

    fn places(&self, job: &Job) -> Option<Places> {
        let submission = self.tracer.place(&job.traceparent, &job.trace_id)?;
        // Many jobs of one request stand below the same span.
        let admit = submission.child(&format!("admit {}", job.id));
        Some(Places { submission, admit, job: admit.child("job") })
    }

    /// The question about a job, asked within its admission; its request may be at hand already.
    pub(crate) fn question(&self, job: &Job, request: Option<JobRequest>) -> Question {
        let traceparent = self.places(job).map(|places| places.admit.to_string()).unwrap_or_default();
        Question { request: verdict::question(job, request), traceparent }
    }

    /// What travels with a dispatch: the place below which its worker tells, or else what came with the submission.
    pub(crate) fn of_dispatch(&self, job: &Job) -> String {
        self.places(job).map_or_else(|| job.traceparent.clone(), |places| dispatch(&places, job).to_string())
    }

    /// A submission was dealt with; `refused` says how, unless it was admitted.
    pub(crate) fn admitted(&self, job: &Job, received: Instant, refused: Option<&str>) {
        let Some(places) = self.places(job) else { return };
        let span = Span::over("admit", SpanKind::Server, places.submission, places.admit, ago(received.elapsed()));
        let span = about(span, job).text("busbar.state", job.state.tag().short_name());
        self.tracer.tell(match refused {
            Some(code) => span.failed(code),
            None => span,
        });
    }

    /// An attempt that waited for so long was sent.
    pub(crate) fn dispatched(&self, job: &Job, waited: Duration) {
        let Some(places) = self.places(job) else { return };
        let span = Span::over("dispatch", SpanKind::Producer, places.job, dispatch(&places, job), ago(waited));
        let worker = job.hold().map_or("", |hold| hold.worker_id.as_str());
        self.tracer.tell(about(span, job).number("busbar.attempt", job.attempt).text("busbar.worker_id", worker));
    }

    /// A job has ended. `received` is when its result arrived; without one, we have decided the end ourselves.
    pub(crate) fn ended(&self, job: &Job, received: Option<Instant>, now: Timestamp) {
        let (Some(places), Some(end)) = (self.places(job), job.end()) else { return };
        let began = received.map_or(Duration::ZERO, |at| at.elapsed());
        let state = end.outcome.state().short_name();
        let told = |span: Span| {
            let span = about(span, job).text("busbar.state", state).text("busbar.code", &end.code);
            if end.code.is_empty() { span } else { span.failed(end.code.clone()) }
        };
        let finish = places.job.child("finish");
        self.tracer.tell(told(Span::over("finish", SpanKind::Consumer, places.job, finish, ago(began))));
        let whole = Span::over("job", SpanKind::Internal, places.admit, places.job, ago(now.since(job.created)));
        self.tracer.tell(told(whole).number("busbar.attempts", job.attempt));
    }
}

fn dispatch(places: &Places, job: &Job) -> TraceContext {
    places.job.child(&format!("dispatch {}", job.attempt))
}

fn about(span: Span, job: &Job) -> Span {
    span.text("busbar.job_id", job.id.as_str()).text("busbar.tenant_id", &job.tenant_id).text("busbar.topic", &job.topic)
}
