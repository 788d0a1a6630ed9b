//! Dead letters, tried again or thrown away.
//!
//! ```text
//!  busbar.scheduler.redrive ─▶ read the letters ─▶ a submission each, with the dead job's input ─▶ admitted as any other,
//!                                                                                                  together with the letter's mark
//! ```
//!
//! That a letter is tried again once follows from one unit: it makes the new job and marks the letter, which must be as it was read.

use busbar_protocol::busbar::{AdmitItem, DeadLetter, JobOptions, JobPlan, Problem, RedriveItem};
use busbar_protocol::cap::JobRequest;
use busbar_protocol::codes::Code;
use busbar_protocol::ids::JobId;
use busbar_protocol::limits::INPUT_TTL;
use busbar_protocol::pointers::Pointer;
use busbar_protocol::ports::{Answer, CommitClass, CommitId, Records, StoreError};
use busbar_protocol::prost::Message as _;
use busbar_protocol::{envelope, keys};

use crate::core::commit::{self, Letter};
use crate::intake;

/// A dead letter with the submission that tries it again.
pub(crate) struct Again {
    /// The letter.
    pub letter: Letter,
    /// The submission.
    pub item: AdmitItem,
}

/// Reads the letters that items name; one outcome per item, in order.
///
/// # Errors
/// [`StoreError`] when nothing could be read.
pub(crate) async fn read<R: Records>(items: &[RedriveItem], records: &R) -> Result<Vec<Result<Letter, Problem>>, StoreError> {
    let stored = records.read(items.iter().map(|item| keys::dead_letter(&item.job_id)).collect()).await?;
    let outcomes = items.iter().zip(stored).map(|(item, stored)| {
        let missing = || intake::problem(Code::DeadLetterNotFound, format!("no dead letter of the job {}", item.job_id));
        let stored = stored.ok_or_else(missing)?;
        let letter = DeadLetter::decode(stored.value).map_err(|error| intake::problem(Code::Internal, error.to_string()))?;
        let is_theirs = item.tenant_id.is_empty() || item.tenant_id == letter.tenant_id;
        if !is_theirs {
            return Err(missing());
        }
        Ok(Letter { revision: stored.revision, letter })
    });
    Ok(outcomes.collect())
}

/// The submission that tries a letter again. Its input is put in place, where the asker has not done so.
///
/// # Errors
/// A [`Problem`] of this letter alone.
pub(crate) async fn prepare<R: Records>(item: &RedriveItem, letter: Letter, records: &R) -> Result<Again, Problem> {
    let dead = &letter.letter;
    if !dead.redriven_as.is_empty() && dead.redriven_as != item.new_job_id {
        let detail = format!("the dead letter {} was tried again as {}", dead.job_id, dead.redriven_as);
        return Err(intake::problem(Code::DeadLetterRedriven, detail));
    }
    let id = JobId::parse(item.new_job_id.clone()).map_err(|error| intake::problem(Code::JobIdInvalid, error.to_string()))?;
    let plan = dead.plan.clone().unwrap_or_default();
    let input_bytes = if item.edited_input_bytes > 0 { item.edited_input_bytes } else { plan.input_bytes };
    if item.edited_input_bytes == 0 && plan.input_bytes > 0 {
        copy_input(&dead.job_id, id.as_str(), records).await?;
    }
    let context_ptr = if input_bytes > 0 { Pointer::Redis(keys::context(id.as_str())).to_string() } else { String::new() };
    let patch = JobRequest { job_id: id.to_string(), context_ptr, ..JobRequest::default() };
    let item = AdmitItem {
        request: envelope::patch_request(&dead.request, &patch),
        tenant_id: dead.tenant_id.clone(),
        trace_id: dead.trace_id.clone(),
        traceparent: String::new(),
        max_attempts: plan.max_attempts,
        input_bytes,
        options: Some(options(&plan, item.not_before_ms)),
    };
    Ok(Again { letter, item })
}

/// The options of the dead job, but for what belonged to that time.
fn options(plan: &JobPlan, not_before_ms: u64) -> JobOptions {
    JobOptions {
        not_before_ms,
        schedule_to_start_ms: plan.schedule_to_start_ms,
        start_to_close_ms: plan.start_to_close_ms,
        heartbeat_timeout_ms: plan.heartbeat_timeout_ms,
        concurrency_key: plan.concurrency_key.clone(),
        non_retryable_codes: plan.non_retryable_codes.clone(),
        idempotency_policy: 0,
    }
}

async fn copy_input<R: Records>(dead: &str, id: &str, records: &R) -> Result<(), Problem> {
    let unavailable = |error: StoreError| intake::problem(Code::StoreUnavailable, error.to_string());
    let input = records.payloads(vec![keys::context(dead)]).await.map_err(unavailable)?.pop().flatten();
    let Some(input) = input else {
        return Err(intake::problem(Code::PayloadMissing, format!("there is nothing at redis://ctx:{dead} any more")));
    };
    records.put_payload(&keys::context(id), input, Some(INPUT_TTL)).await.map_err(unavailable)
}

/// Throws a letter away.
///
/// # Errors
/// A [`Problem`] of this letter alone.
pub(crate) async fn discard<R: Records>(letter: &Letter, epoch: u64, records: &R) -> Result<(), Problem> {
    let unit = commit::discard(&letter.letter, letter.revision, epoch, CommitId::generate());
    match records.commit(CommitClass::Advance, vec![unit]).await {
        Ok(answers) => match answers.first() {
            Some(Answer::Applied { .. } | Answer::Already) => Ok(()),
            Some(Answer::GuardFailed { .. }) => {
                Err(intake::problem(Code::SchedulerUnavailable, "this scheduler was replaced".to_owned()))
            }
            Some(Answer::Conflict { .. }) | None => {
                let job = &letter.letter.job_id;
                Err(intake::problem(
                    Code::DeadLetterNotFound,
                    format!("the dead letter of {job} was changed or thrown away meanwhile"),
                ))
            }
        },
        Err(error) => Err(intake::problem(Code::StoreUnavailable, error.to_string())),
    }
}
