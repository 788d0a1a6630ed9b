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
    let kept_bytes = dead.plan.as_ref().map_or(0, |plan| plan.input_bytes);
    if item.edited_input_bytes == 0 && kept_bytes > 0 {
        copy_input(&dead.job_id, id.as_str(), records).await?;
    }
    let item = submission(item, dead, &id);
    Ok(Again { letter, item })
}

/// What the dead job was submitted with, as another job. Another input takes the place of a blob too: the worker would prefer the
/// reference to it.
fn submission(item: &RedriveItem, dead: &DeadLetter, id: &JobId) -> AdmitItem {
    let plan = dead.plan.clone().unwrap_or_default();
    let (request, input_bytes) = match item.edited_input_bytes {
        0 => (dead.request.clone(), plan.input_bytes),
        edited => (envelope::without_context_ref(&dead.request), edited),
    };
    let context_ptr = if input_bytes > 0 { Pointer::Redis(keys::context(id.as_str())).to_string() } else { String::new() };
    let patch = JobRequest { job_id: id.to_string(), context_ptr, ..JobRequest::default() };
    AdmitItem {
        request: envelope::patch_request(&request, &patch),
        tenant_id: dead.tenant_id.clone(),
        trace_id: dead.trace_id.clone(),
        traceparent: String::new(),
        max_attempts: plan.max_attempts,
        input_bytes,
        options: Some(options(&plan, item.not_before_ms)),
        ..AdmitItem::default()
    }
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
    // Whoever asks again may find the new job there, whose input stays as it is.
    let put = commit::put_input(id, input, CommitId::generate());
    records.commit(CommitClass::Admit, vec![put]).await.map(drop).map_err(unavailable)
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

#[cfg(test)]
mod tests {
    use busbar_protocol::cap::ResourceRef;

    use super::*;

    /// The request that tries a job again, and the bytes of its input.
    fn again(request: &JobRequest, input_bytes: u64, edited_input_bytes: u64) -> (JobRequest, u64) {
        let plan = JobPlan { input_bytes, ..JobPlan::default() };
        let dead = DeadLetter { request: request.encode_to_vec().into(), plan: Some(plan), ..DeadLetter::default() };
        let item = RedriveItem { edited_input_bytes, ..RedriveItem::default() };
        let item = submission(&item, &dead, &JobId::parse("new").expect("a good id"));
        (JobRequest::decode(item.request).expect("a request"), item.input_bytes)
    }

    fn old() -> JobRequest {
        JobRequest { job_id: "old".into(), topic: "job.echo".into(), ..JobRequest::default() }
    }

    fn blob() -> ResourceRef {
        ResourceRef { resolver_id: "busbar.blobs".into(), uri: "blob:sha256:0".into(), size_bytes: 9, ..ResourceRef::default() }
    }

    #[test]
    fn an_input_that_was_a_blob_stays_one_until_it_is_edited() {
        let large = JobRequest { context_ref: Some(blob()), ..old() };
        let same = JobRequest { job_id: "new".into(), ..large.clone() };
        assert_eq!(again(&large, 0, 0), (same, 0));
        let edited = JobRequest { job_id: "new".into(), context_ptr: "redis://ctx:new".into(), ..old() };
        assert_eq!(again(&large, 0, 5), (edited, 5), "the worker would prefer the blob");
    }

    #[test]
    fn an_input_in_the_context_moves_to_that_of_the_new_job() {
        let small = JobRequest { context_ptr: "redis://ctx:old".into(), ..old() };
        let moved = JobRequest { job_id: "new".into(), context_ptr: "redis://ctx:new".into(), ..old() };
        assert_eq!(again(&small, 3, 0), (moved.clone(), 3));
        assert_eq!(again(&small, 3, 5), (moved, 5));
    }
}
