//! `cordum.v1.CordumApi`: the two calls that users of Cordum know, by the same rules.

use std::time::Duration;

use busbar_protocol::cordum_api::{GetJobStatusRequest, GetJobStatusResponse, SubmitJobRequest, SubmitJobResponse};
use busbar_protocol::ports::{Bus, Records};
use busbar_protocol::time::Timestamp;
use busbar_rpc::cordum_api::cordum_api_server::CordumApi;
use busbar_rpc::tonic::{self, Request, Response, Status};

use super::guard::Call;
use super::refusal::status;
use crate::app::Shared;
use crate::core::message;
use crate::core::role::Need;
use crate::metrics::GatewayMetrics;
use crate::ops;
use crate::ops::submit::Submit;

/// The service.
pub(crate) struct Service<B, R> {
    pub(crate) app: Shared<B, R>,
    pub(crate) metrics: GatewayMetrics,
}

#[tonic::async_trait]
impl<B: Bus, R: Records> CordumApi for Service<B, R> {
    async fn submit_job(&self, mut request: Request<SubmitJobRequest>) -> Result<Response<SubmitJobResponse>, Status> {
        let Call { caller, trace, .. } = Call::of(&mut request, Need::WriteJobs)?;
        let created_at = Timestamp::wall_clock().to_string();
        let read = message::familiar_submission(request.into_inner(), caller.tenant_id(), &created_at);
        let submit = Submit { app: &self.app, caller: &caller, metrics: &self.metrics, trace };
        let reply = submit.one(read).await.map_err(|problem| status(&problem))?;
        Ok(Response::new(SubmitJobResponse { job_id: reply.job_id, trace_id: reply.trace_id }))
    }

    async fn get_job_status(&self, mut request: Request<GetJobStatusRequest>) -> Result<Response<GetJobStatusResponse>, Status> {
        let Call { caller, .. } = Call::of(&mut request, Need::ReadJobs)?;
        let job_id = request.into_inner().job_id;
        let view = ops::jobs::get(&self.app, caller.tenant_id(), &job_id, Duration::ZERO).await;
        view.map(|view| Response::new(message::familiar_status(view))).map_err(|problem| status(&problem))
    }
}
