//! Between the messages about dead letters and the words of the HTTP interface.

use busbar_api::{
    DeadLetterDetail, DeadLetterList, DeadLetterView, Problem, RedriveManyReply, RedriveManyRequest, RedriveReply, RedriveRequest,
};
use busbar_protocol::busbar::{self, redrive_dead_letters_answer};
use bytes::Bytes;

use super::message::{accepted, input, priority_number, time};

/// A letter as lists tell it.
fn short(view: DeadLetterView) -> busbar::DeadJob {
    busbar::DeadJob {
        state: view.state.to_protocol().into(),
        dead_at: time(Some(&view.dead_at)),
        redriven_at: time(view.redriven_at.as_deref()),
        job_id: view.job_id,
        topic: view.topic,
        tenant_id: view.tenant_id,
        trace_id: view.trace_id,
        reason_code: view.reason_code,
        reason: view.reason,
        attempts: view.attempts,
        crashes: view.crashes,
        redriven_as: view.redriven_as.unwrap_or_default(),
        redrive_of: view.redrive_of.unwrap_or_default(),
        ..busbar::DeadJob::default()
    }
}

/// A letter whole.
pub(crate) fn whole(detail: DeadLetterDetail) -> busbar::DeadJob {
    busbar::DeadJob {
        priority: priority_number(detail.priority),
        labels: detail.labels,
        requires: detail.requires,
        max_attempts: detail.max_attempts,
        concurrency_key: detail.concurrency_key.unwrap_or_default(),
        input_ptr: detail.input_ptr.unwrap_or_default(),
        input_bytes: detail.input_bytes,
        input_json: detail.input.map(|input| Bytes::copy_from_slice(input.get().as_bytes())).unwrap_or_default(),
        ..short(detail.letter)
    }
}

/// One page.
pub(crate) fn page(list: DeadLetterList) -> busbar::ListDeadLettersReply {
    busbar::ListDeadLettersReply {
        dead_jobs: list.items.into_iter().map(short).collect(),
        next_page_token: list.next_cursor.unwrap_or_default(),
    }
}

/// What is said of one that is to be tried again.
pub(crate) fn one(request: busbar::RedriveDeadLetterRequest) -> Result<(String, RedriveRequest), Problem> {
    let busbar::RedriveDeadLetterRequest { job_id, input_json, not_before } = request;
    let edited = if input_json.is_empty() { None } else { Some(input(input_json)?) };
    Ok((job_id, RedriveRequest { input: edited, not_before: not_before.map(|time| time.to_string()) }))
}

/// The answer to that.
pub(crate) fn redriven(reply: RedriveReply) -> busbar::RedriveDeadLetterReply {
    busbar::RedriveDeadLetterReply { job_id: reply.redrive_of, redriven: Some(accepted(reply.job)) }
}

/// What is said of many that are to be tried again. Zeros, and what is empty, say nothing.
pub(crate) fn many(request: busbar::RedriveDeadLettersRequest) -> RedriveManyRequest {
    let text = |text: String| Some(text).filter(|text| !text.is_empty());
    RedriveManyRequest {
        topic: text(request.topic),
        reason_code: text(request.reason_code),
        since: request.since.map(|time| time.to_string()),
        until: request.until.map(|time| time.to_string()),
        per_second: Some(request.per_second).filter(|number| *number > 0),
        limit: Some(request.limit as usize).filter(|limit| *limit > 0),
        cursor: text(request.page_token),
    }
}

/// The answer to that.
pub(crate) fn many_redriven(reply: RedriveManyReply) -> busbar::RedriveDeadLettersReply {
    use redrive_dead_letters_answer::Answer;
    let mut rejected = reply.rejected.into_iter();
    let answers = reply.job_ids.into_iter().zip(reply.redriven_as).map(|(job_id, redriven_as)| {
        let answer = redriven_as.map(Answer::RedrivenAs).or_else(|| {
            let refusal = rejected.next()?;
            let retry_after_ms = refusal.retry_after_ms.unwrap_or(0);
            Some(Answer::Rejected(busbar::Refusal { code: refusal.code, detail: refusal.detail, retry_after_ms }))
        });
        busbar::RedriveDeadLettersAnswer { job_id, answer }
    });
    busbar::RedriveDeadLettersReply { answers: answers.collect(), next_page_token: reply.next_cursor.unwrap_or_default() }
}
