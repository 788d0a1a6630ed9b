//! Submitting one job, or many.

use std::sync::Arc;
use std::time::{Duration, Instant};

use busbar_api::{BATCH_JOBS_MAX, BATCH_TOO_LARGE, JobState, JobView, Problem, SubmitReply, SubmitRequest};
use busbar_protocol::busbar::Admitted;
use busbar_protocol::codes::Code;
use busbar_protocol::ids::JobId;
use busbar_protocol::keys;
use busbar_protocol::limits::INPUT_TTL;
use busbar_protocol::ports::{Bus, Clock as _, Records, Span, SpanKind, ago};
use busbar_protocol::trace::TraceContext;
use futures::{Stream, StreamExt as _, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::jobs;
use super::waiting::Waiting;
use crate::app::{App, Caller};
use crate::core::submission::{self, Familiar, Prepared, Submitter};
use crate::error::{internal, no_scheduler, of_store};
use crate::metrics::GatewayMetrics;

/// How many jobs of a batch are on their way at once.
const PIPELINE: usize = 1024;

/// A submission as far as it could be read.
pub(crate) type Read = Result<(SubmitRequest, Familiar), Problem>;

/// Submits jobs on behalf of one caller.
#[derive(Debug)]
pub(crate) struct Submit<'a, B, R> {
    pub(crate) app: &'a App<B, R>,
    pub(crate) caller: &'a Caller,
    pub(crate) metrics: &'a GatewayMetrics,
    /// The client's trace; without one each job begins its own.
    pub(crate) trace: Option<TraceContext>,
}

/// A submission on its way to the scheduler.
struct Begun {
    since: Instant,
    root: TraceContext,
    place: TraceContext,
    prepared: Result<Prepared, Problem>,
}

/// A place for a batch, which is kept until it is answered: each may be large.
pub(crate) async fn place_for_batch(places: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Problem> {
    places.clone().acquire_owned().await.map_err(|_| no_scheduler())
}

/// Refuses a batch of too many.
pub(crate) fn check_count(jobs: usize) -> Result<(), Problem> {
    if jobs > BATCH_JOBS_MAX { Err(Problem::new(Code::BatchTooLarge, BATCH_TOO_LARGE)) } else { Ok(()) }
}

impl<B: Bus, R: Records> Submit<'_, B, R> {
    /// From one submission to its acceptance.
    pub(crate) async fn one(&self, read: Read) -> Result<SubmitReply, Problem> {
        self.deliver(self.begin(read)).await
    }

    /// From one submission to its end, if it comes in time. What cannot be looked at then was accepted all the same.
    pub(crate) async fn one_to_its_end(&self, read: Read, patience: Duration) -> Result<(SubmitReply, Option<JobView>), Problem> {
        let app = self.app;
        let begun = self.begin(read);
        // It is watched before anybody else can know of it.
        let watch = |Prepared { job_id, .. }: &Prepared| {
            (job_id.clone(), Waiting::new(app.jobs.register(job_id), patience, &app.shutdown))
        };
        let watched = begun.prepared.as_ref().map(watch).ok();
        let reply = self.deliver(begun).await?;
        let Some((job_id, mut waiting)) = watched else { return Ok((reply, None)) };
        let view = if reply.job_id == job_id && !reply.state.is_terminal() {
            // It had not ended when it was admitted: there is nothing to look at before there is news.
            waiting.news().await;
            jobs::show_ended(app, self.caller.tenant_id(), &job_id, waiting).await
        } else {
            jobs::get(app, self.caller.tenant_id(), &reply.job_id, patience).await
        };
        Ok((reply, view.ok().filter(|view| view.state.is_terminal())))
    }

    /// All that is to be done before somebody must be waited for.
    fn begin(&self, read: Read) -> Begun {
        let since = Instant::now();
        let root = self.app.tracer.begin();
        let place = self.trace.unwrap_or_else(|| root.child("submit"));
        let prepared = read.and_then(|(request, familiar)| self.prepare(&request, familiar, &place));
        Begun { since, root, place, prepared }
    }

    async fn deliver(&self, Begun { since, root, place, prepared }: Begun) -> Result<SubmitReply, Problem> {
        let outcome = match prepared {
            Ok(prepared) => self.store_and_admit(prepared).await,
            Err(problem) => Err(problem),
        };
        if self.trace.is_none() {
            self.app.tracer.tell(Span::over("submit", SpanKind::Server, root, place, ago(since.elapsed())));
        }
        self.metrics.admit_took(since.elapsed());
        self.metrics.submitted(outcome.as_ref().map_or_else(|problem| problem.code.as_str(), |_| "admitted"));
        outcome
    }

    /// Submits many; the outcomes come in the same order. They are read one by one, as there is room for them.
    pub(crate) fn many<T>(
        &self,
        submissions: impl IntoIterator<Item = T>,
        read: impl Fn(T) -> Read,
    ) -> impl Stream<Item = Result<SubmitReply, Problem>> {
        stream::iter(submissions).map(move |submission| self.deliver(self.begin(read(submission)))).buffered(PIPELINE)
    }

    fn prepare(&self, request: &SubmitRequest, familiar: Familiar, trace: &TraceContext) -> Result<Prepared, Problem> {
        let who = Submitter { tenant_id: self.caller.tenant_id(), principal_id: self.caller.name() };
        submission::prepare(request, familiar, &who, &JobId::generate(), trace, self.app.clock.now())
    }

    async fn store_and_admit(&self, prepared: Prepared) -> Result<SubmitReply, Problem> {
        let Prepared { job_id, input, item } = prepared;
        if let Some(input) = input {
            let stored = self.app.records.put_payload(&keys::context(&job_id), input, Some(INPUT_TTL)).await;
            stored.map_err(|error| of_store(&error))?;
        }
        accepted(self.app.admitter.admit(job_id, item).await?)
    }
}

/// The answer to a submission that the scheduler admitted.
pub(crate) fn accepted(admitted: Admitted) -> Result<SubmitReply, Problem> {
    let state = JobState::from_protocol(admitted.state()).ok_or_else(|| internal(&"the scheduler admitted a job in no state"))?;
    Ok(SubmitReply { job_id: admitted.job_id, trace_id: admitted.trace_id, state, existing: admitted.existing })
}
