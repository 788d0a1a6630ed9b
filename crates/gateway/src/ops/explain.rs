//! Why a job is where it is: the scheduler knows of live jobs, the records of ended ones.

use std::time::Duration;

use busbar_api::{ExplainView, Problem};
use busbar_protocol::busbar::{ExplainReply, ExplainRequest};
use busbar_protocol::codes::Code;
use busbar_protocol::ports::{Bus, Clock as _, Records};
use busbar_protocol::subjects;

use super::jobs::{check_job_id, read_job};
use crate::app::App;
use crate::core::explain;
use crate::error::{internal, of_wire};

const PATIENCE: Duration = Duration::from_secs(5);
/// A scheduler that took over a moment ago has not read all jobs yet.
const NOT_READ_RETRY_MS: u64 = 1000;

/// Explains a job of this tenant.
pub(crate) async fn explain<B: Bus, R: Records>(app: &App<B, R>, tenant_id: &str, job_id: &str) -> Result<ExplainView, Problem> {
    check_job_id(job_id)?;
    let question = ExplainRequest { job_id: job_id.to_owned(), tenant_id: tenant_id.to_owned() };
    let reply: ExplainReply = app.ask(subjects::SCHEDULER_EXPLAIN, &question, PATIENCE).await?;
    match reply.problem.clone() {
        None => explain::live(job_id, reply).ok_or_else(|| internal(&"the scheduler explains a job in no state")),
        Some(problem) if problem.code == Code::JobNotFound.as_str() => ended(app, tenant_id, job_id).await,
        Some(problem) => Err(of_wire(problem)),
    }
}

async fn ended<B: Bus, R: Records>(app: &App<B, R>, tenant_id: &str, job_id: &str) -> Result<ExplainView, Problem> {
    let record = read_job(app, tenant_id, job_id).await?;
    explain::ended(&record, app.clock.now()).ok_or_else(|| {
        let detail = "the job is live, but the scheduler has not read it yet";
        Problem::new(Code::SchedulerUnavailable, detail).retry_after_ms(NOT_READ_RETRY_MS)
    })
}
