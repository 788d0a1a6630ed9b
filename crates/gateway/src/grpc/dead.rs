//! `busbar.v1.DeadLetters`: between messages and operations; nothing is decided here.

use busbar_protocol::busbar::{
    DeadJob, DiscardDeadLetterReply, DiscardDeadLetterRequest, GetDeadLetterRequest, ListDeadLettersReply,
    ListDeadLettersRequest, RedriveDeadLetterReply, RedriveDeadLetterRequest, RedriveDeadLettersReply, RedriveDeadLettersRequest,
};
use busbar_protocol::ports::{Bus, Records};
use busbar_rpc::busbar::dead_letters_server::DeadLetters;
use busbar_rpc::tonic::{self, Request, Response, Status};

use super::guard::Call;
use super::refusal::status;
use crate::app::Shared;
use crate::core::dead::{Filter, Meant};
use crate::core::dead_message;
use crate::core::role::Need;
use crate::ops::{dead, redrive, scan};

/// The service.
pub(crate) struct Service<B, R> {
    pub(crate) app: Shared<B, R>,
}

#[tonic::async_trait]
impl<B: Bus, R: Records> DeadLetters for Service<B, R> {
    async fn list(&self, mut request: Request<ListDeadLettersRequest>) -> Result<Response<ListDeadLettersReply>, Status> {
        let call = Call::of(&mut request, Need::ReadJobs)?;
        let ListDeadLettersRequest { topic, reason_code, since, until, redriven, page_size, page_token } = request.into_inner();
        let (since, until) = (since.map(|time| time.to_string()), until.map(|time| time.to_string()));
        let list = async {
            let filter = Filter::new(Meant {
                topic: Some(&topic),
                reason_code: Some(&reason_code),
                since: since.as_deref(),
                until: until.as_deref(),
                redriven,
            })?;
            let limit = scan::limit(Some(page_size).filter(|size| *size > 0).map(|size| size as usize))?;
            let after = scan::after(Some(&page_token))?;
            dead::list(&self.app, call.caller.tenant_id(), &filter, limit, after.as_ref()).await
        };
        list.await.map(|list| Response::new(dead_message::page(list))).map_err(|problem| status(&problem))
    }

    async fn get(&self, mut request: Request<GetDeadLetterRequest>) -> Result<Response<DeadJob>, Status> {
        let call = Call::of(&mut request, Need::ReadJobs)?;
        let detail = dead::get(&self.app, call.caller.tenant_id(), &request.into_inner().job_id).await;
        detail.map(|detail| Response::new(dead_message::whole(detail))).map_err(|problem| status(&problem))
    }

    async fn redrive(&self, mut request: Request<RedriveDeadLetterRequest>) -> Result<Response<RedriveDeadLetterReply>, Status> {
        let call = Call::of(&mut request, Need::WriteJobs)?;
        let (job_id, wish) = dead_message::one(request.into_inner()).map_err(|problem| status(&problem))?;
        let reply = redrive::one(&self.app, &call.caller, job_id, wish).await;
        reply.map(|reply| Response::new(dead_message::redriven(reply))).map_err(|problem| status(&problem))
    }

    async fn redrive_many(
        &self,
        mut request: Request<RedriveDeadLettersRequest>,
    ) -> Result<Response<RedriveDeadLettersReply>, Status> {
        let call = Call::of(&mut request, Need::WriteJobs)?;
        let many = redrive::Many::new(&dead_message::many(request.into_inner())).map_err(|problem| status(&problem))?;
        let reply = redrive::many(&self.app, &call.caller, many).await;
        reply.map(|reply| Response::new(dead_message::many_redriven(reply))).map_err(|problem| status(&problem))
    }

    async fn discard(&self, mut request: Request<DiscardDeadLetterRequest>) -> Result<Response<DiscardDeadLetterReply>, Status> {
        let call = Call::of(&mut request, Need::WriteJobs)?;
        let done = dead::discard(&self.app, &call.caller, request.into_inner().job_id).await;
        done.map(|()| Response::new(DiscardDeadLetterReply {})).map_err(|problem| status(&problem))
    }
}
