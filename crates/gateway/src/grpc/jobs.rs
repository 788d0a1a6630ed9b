//! `busbar.v1.Jobs`: between messages and operations; nothing is decided here.

use std::pin::Pin;
use std::time::Duration;

use busbar_api::{Problem, WAIT_MS_MAX};
use busbar_protocol::busbar::{
    CancelJobReply, CancelJobRequest, ExplainJobRequest, GetJobRequest, Job, JobExplanation, ListJobsReply, ListJobsRequest,
    SubmitJobReply, SubmitJobRequest, SubmitJobsReply, SubmitJobsRequest, WaitJobRequest, WatchBegins, WatchJobsReply,
    WatchJobsRequest, watch_jobs_reply,
};
use busbar_protocol::codes::Code;
use busbar_protocol::ports::{Bus, Records};
use busbar_rpc::busbar::jobs_server::Jobs;
use busbar_rpc::tonic::{self, Request, Response, Status};
use futures::{Stream, StreamExt as _, stream};
use tokio::time::Instant;

use super::guard::Call;
use super::refusal::{status, too_late};
use crate::app::Shared;
use crate::core::message;
use crate::core::role::Need;
use crate::core::submission::Familiar;
use crate::metrics::GatewayMetrics;
use crate::ops;
use crate::ops::submit::{Read, Submit};
use crate::ops::watch::{Told, Watch, What};

/// The service.
pub(crate) struct Service<B, R> {
    pub(crate) app: Shared<B, R>,
    pub(crate) metrics: GatewayMetrics,
}

impl<B: Bus, R: Records> Service<B, R> {
    fn submit<'a>(&'a self, call: &'a Call) -> Submit<'a, B, R> {
        Submit { app: &self.app, caller: &call.caller, metrics: &self.metrics, trace: call.trace }
    }

    async fn show(&self, call: &Call, job_id: &str, patience: Duration) -> Result<Response<Job>, Status> {
        let view = ops::jobs::get(&self.app, call.caller.tenant_id(), job_id, patience).await;
        view.map(|view| Response::new(message::job(view))).map_err(|problem| status(&problem))
    }
}

fn read(request: SubmitJobRequest) -> Read {
    Ok((message::submission(request)?, Familiar::default()))
}

#[tonic::async_trait]
impl<B: Bus, R: Records> Jobs for Service<B, R> {
    async fn submit(&self, mut request: Request<SubmitJobRequest>) -> Result<Response<SubmitJobReply>, Status> {
        let call = Call::of(&mut request, Need::WriteJobs)?;
        let reply = Self::submit(self, &call).one(read(request.into_inner())).await;
        reply.map(|reply| Response::new(message::accepted(reply))).map_err(|problem| status(&problem))
    }

    async fn submit_many(&self, mut request: Request<SubmitJobsRequest>) -> Result<Response<SubmitJobsReply>, Status> {
        let call = Call::of(&mut request, Need::WriteJobs)?;
        let jobs = request.into_inner().jobs;
        ops::submit::check_count(jobs.len()).map_err(|problem| status(&problem))?;
        let submit = Self::submit(self, &call);
        let answers = submit.many(jobs, read).map(message::answer).collect().await;
        Ok(Response::new(SubmitJobsReply { answers }))
    }

    async fn get(&self, mut request: Request<GetJobRequest>) -> Result<Response<Job>, Status> {
        let call = Call::of(&mut request, Need::ReadJobs)?;
        self.show(&call, &request.into_inner().job_id, Duration::ZERO).await
    }

    async fn wait(&self, mut request: Request<WaitJobRequest>) -> Result<Response<Job>, Status> {
        let call = Call::of(&mut request, Need::ReadJobs)?;
        let WaitJobRequest { job_id, timeout_ms } = request.into_inner();
        if timeout_ms > WAIT_MS_MAX {
            let detail = format!("timeout_ms: at most {WAIT_MS_MAX} milliseconds, not {timeout_ms}");
            return Err(status(&Problem::new(Code::FieldInvalid, detail)));
        }
        self.show(&call, &job_id, Duration::from_millis(timeout_ms)).await
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchJobsReply, Status>> + Send>>;

    async fn watch(&self, mut request: Request<WatchJobsRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let call = Call::of(&mut request, Need::ReadJobs)?;
        let watch = async {
            let (filter, after) = message::watch(request.into_inner(), call.caller.tenant_id())?;
            Watch::start(self.app.clone(), filter, after).await
        };
        let watch = watch.await.map_err(|problem| status(&problem))?;
        // Messages are made as the client takes them: nothing gathers here for one that is slow.
        let replies = stream::unfold(Some(watch), move |watch| next(watch, call.until));
        Ok(Response::new(Box::pin(replies)))
    }

    async fn cancel(&self, mut request: Request<CancelJobRequest>) -> Result<Response<CancelJobReply>, Status> {
        let call = Call::of(&mut request, Need::WriteJobs)?;
        let CancelJobRequest { job_id, reason } = request.into_inner();
        let reason = Some(reason).filter(|reason| !reason.is_empty());
        let reply = ops::jobs::cancel(&self.app, &call.caller, job_id, reason).await.map_err(|problem| status(&problem))?;
        let (state, reason) = (reply.state.to_protocol().into(), reply.reason.unwrap_or_default());
        Ok(Response::new(CancelJobReply { job_id: reply.id, state, reason }))
    }

    async fn list(&self, mut request: Request<ListJobsRequest>) -> Result<Response<ListJobsReply>, Status> {
        let call = Call::of(&mut request, Need::ReadJobs)?;
        let ListJobsRequest { state, topic, page_size, page_token } = request.into_inner();
        let list = async {
            let limit = Some(page_size).filter(|size| *size > 0).map(|size| size as usize);
            let state = message::state(state)?;
            let wanted = ops::list::Wanted::new(call.caller.tenant_id(), state, Some(&topic), limit, Some(&page_token))?;
            ops::list::list(&self.app, &wanted).await
        };
        let list = list.await.map_err(|problem| status(&problem))?;
        let jobs = list.items.into_iter().map(message::job).collect();
        Ok(Response::new(ListJobsReply { jobs, next_page_token: list.next_cursor.unwrap_or_default() }))
    }

    async fn explain(&self, mut request: Request<ExplainJobRequest>) -> Result<Response<JobExplanation>, Status> {
        let call = Call::of(&mut request, Need::ReadJobs)?;
        let view = ops::explain::explain(&self.app, call.caller.tenant_id(), &request.into_inner().job_id).await;
        view.map(|view| Response::new(message::explanation(view))).map_err(|problem| status(&problem))
    }
}

type Next<B, R> = Option<(Result<WatchJobsReply, Status>, Option<Watch<B, R>>)>;

/// The next message of a watch. Nothing comes after a refusal.
async fn next<B: Bus, R: Records>(watch: Option<Watch<B, R>>, until: Option<Instant>) -> Next<B, R> {
    let mut watch = watch?;
    let told = match until {
        None => watch.next().await,
        Some(until) => match tokio::time::timeout_at(until, watch.next()).await {
            Ok(told) => told,
            Err(_) => return Some((Err(too_late()), None)),
        },
    };
    match told? {
        Ok(told) => Some((Ok(reply(told)), Some(watch))),
        Err(problem) => Some((Err(status(&problem)), None)),
    }
}

fn reply(told: Told) -> WatchJobsReply {
    let what = match told.what {
        What::Job(view) => watch_jobs_reply::What::Job(message::job(*view)),
        What::Change(event) => message::change(*event),
        What::Progress(progress) => message::progress(&progress),
        What::Begins { missed } => watch_jobs_reply::What::Begins(WatchBegins { missed }),
    };
    WatchJobsReply { cursor: told.cursor.to_string(), what: Some(what) }
}
