//! Submissions: what is said about a job, in messages that the scheduler takes.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use busbar_protocol::busbar::{
    AdmitItem, AdmitReply, AdmitRequest, Admitted, IdempotencyPolicy, JobOptions, JobState, Problem, admit_answer,
};
use busbar_protocol::cap::{Budget, JobMetadata, JobPriority, JobRequest};
use busbar_protocol::codes::Code;
use busbar_protocol::limits::{ADMIT_BYTES_MAX, ADMIT_ITEMS_MAX, INPUT_TTL, PAYLOAD_BYTES_MAX};
use busbar_protocol::pointers::Pointer;
use busbar_protocol::ports::{Bus, BusError, Headers, Records, StoreError};
use busbar_protocol::prost::Message as _;
use busbar_protocol::{ids, inline, keys, subjects};
use bytes::Bytes;
use futures::future::join_all;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::Inner;
use crate::blob;

/// What a message adds to each item at most.
const ITEM_OVERHEAD_BYTES: usize = 16;
/// How long to wait before a scheduler that is away is asked again.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// How long one asking may take; a repetition is safe because the job ids are ours.
const ASK_WITHIN: Duration = Duration::from_secs(2);

/// A job to be submitted. Make one with [`Submission::new`] and set what else is to be said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Submission {
    /// The topic.
    pub topic: String,
    /// The input: one JSON value.
    pub input: Bytes,
    /// How urgent it is.
    pub priority: JobPriority,
    /// What it is called by whom.
    pub labels: BTreeMap<String, String>,
    /// Capabilities that its worker must have.
    pub requires: Vec<String>,
    /// A second submission with this key is the same job, or what `idempotency_policy` says; empty for none.
    pub idempotency_key: String,
    /// What a submission means whose idempotency key is taken.
    pub idempotency_policy: IdempotencyPolicy,
    /// The job that this one belongs to, and with which it is cancelled; empty for none.
    pub parent: String,
    /// Jobs of one tenant and topic with the same key share the topic's bounds for keys; empty for none, at most 256 bytes.
    pub concurrency_key: String,
    /// It is not sent to a worker before this time.
    pub not_before: Option<SystemTime>,
    /// How long it may wait for a worker, where that differs from what its topic says, as with all that follows.
    pub schedule_to_start: Option<Duration>,
    /// How long one attempt may take.
    pub start_to_close: Option<Duration>,
    /// How long an attempt may report nothing: neither progress nor that it is alive.
    pub heartbeat_timeout: Option<Duration>,
    /// Error codes after which it is not tried again.
    pub non_retryable_codes: Vec<String>,
    /// When it must have ended, counted from its admission.
    pub deadline: Option<Duration>,
    /// How often it may be tried.
    pub max_attempts: Option<u32>,
}

impl Submission {
    /// A job on a topic with an input.
    ///
    /// # Errors
    /// When the input can not be written as JSON.
    pub fn new<I: Serialize + ?Sized>(topic: impl Into<String>, input: &I) -> Result<Self, serde_json::Error> {
        Ok(Self { topic: topic.into(), input: serde_json::to_vec(input)?.into(), ..Self::default() })
    }
}

/// A job that was committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submitted {
    /// The job.
    pub job_id: String,
    /// Its trace.
    pub trace_id: String,
    /// Its state at that moment.
    pub state: JobState,
    /// The idempotency key named a job that existed already: this one.
    pub existing: bool,
}

/// Why a job was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct Refusal {
    /// A stable lower_snake word.
    pub code: String,
    /// What it was, for a person.
    pub detail: String,
    /// When asking again makes sense; `None` if never.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    pub(super) fn of(code: Code, detail: impl fmt::Display) -> Self {
        Self { code: code.as_str().to_owned(), detail: format!("{detail}"), retry_after: None }
    }

    fn later(code: Code, detail: impl fmt::Display) -> Self {
        Self { retry_after: Some(Duration::from_secs(1)), ..Self::of(code, detail) }
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        let retry_after = (problem.retry_after_ms > 0).then(|| Duration::from_millis(problem.retry_after_ms));
        Self { code: problem.code, detail: problem.detail, retry_after }
    }
}

impl From<Admitted> for Submitted {
    fn from(admitted: Admitted) -> Self {
        let state = admitted.state();
        Self { job_id: admitted.job_id, trace_id: admitted.trace_id, state, existing: admitted.existing }
    }
}

type Answer = Result<Submitted, Refusal>;

impl<B: Bus, R: Records> Inner<B, R> {
    pub(super) async fn submit_many(&self, submissions: Vec<Submission>) -> Vec<Answer> {
        let mut answers = Vec::with_capacity(submissions.len());
        let mut rest = submissions.into_iter().peekable();
        while rest.peek().is_some() {
            let some: Vec<Submission> = rest.by_ref().take(ADMIT_ITEMS_MAX).collect();
            let prepared = some.into_iter().map(|submission| self.prepare(ids::JobId::generate(), submission));
            answers.extend(self.admit_all(join_all(prepared).await).await);
        }
        answers
    }

    /// Submits one job under an id of the caller's.
    pub(super) async fn submit_as(&self, job_id: ids::JobId, submission: Submission) -> Answer {
        let prepared = self.prepare(job_id, submission).await;
        let answer = self.admit_all(vec![prepared]).await.pop();
        answer.unwrap_or_else(|| Err(Refusal::of(Code::Internal, "no answer")))
    }

    /// Writes the item about a job. A small input goes along with it; a larger one is stored.
    async fn prepare(&self, job_id: ids::JobId, submission: Submission) -> Result<AdmitItem, Refusal> {
        check_parent(&submission.parent)?;
        let options = options(&submission);
        let job_id = job_id.to_string();
        let trace_id = ids::generate_trace();
        let mut request = request(&submission, &job_id, &self.options.tenant);
        let input_bytes = submission.input.len();
        let input = inline::carried(&submission.input);
        if input_bytes <= PAYLOAD_BYTES_MAX {
            request.context_ptr = Pointer::Redis(keys::context(&job_id)).to_string();
            if input.is_empty() {
                self.store_input(&job_id, submission.input).await?;
            }
        } else {
            let blob = blob::put(self.blobs.as_ref(), submission.input, "input", Code::PayloadTooLarge).await;
            let blob = blob.map_err(|failure| Refusal { code: failure.code, detail: failure.message, retry_after: None })?;
            request.context_ref = Some(blob);
        }
        Ok(AdmitItem {
            request: request.encode_to_vec().into(),
            tenant_id: self.options.tenant.clone(),
            traceparent: traceparent(&trace_id, &job_id),
            trace_id,
            max_attempts: submission.max_attempts.unwrap_or(0),
            input_bytes: input_bytes as u64,
            options: Some(options),
            input,
            revocable: false,
        })
    }

    async fn store_input(&self, job_id: &str, input: Bytes) -> Result<(), Refusal> {
        let stored = self.records.put_payload(&keys::context(job_id), input, Some(INPUT_TTL)).await;
        stored.map_err(|error| refused_by_store(&error))
    }

    /// Asks about the items that could be prepared; the answers stand where the items stood.
    async fn admit_all(&self, prepared: Vec<Result<AdmitItem, Refusal>>) -> Vec<Answer> {
        let mut answers: Vec<Option<Answer>> = Vec::with_capacity(prepared.len());
        let mut places = Vec::new();
        let mut items = Vec::new();
        for (place, item) in prepared.into_iter().enumerate() {
            answers.push(match item {
                Ok(item) => {
                    places.push(place);
                    items.push(item);
                    None
                }
                Err(refusal) => Some(Err(refusal)),
            });
        }
        let mut told = Vec::with_capacity(items.len());
        for message in messages(items) {
            let first = self.admit(&message).await;
            told.extend(self.store_what_was_missing(message.items, first).await);
        }
        for (place, answer) in places.into_iter().zip(told) {
            answers[place] = Some(answer);
        }
        let unanswered = || Err(Refusal::of(Code::Internal, "the item was not answered"));
        answers.into_iter().map(|answer| answer.unwrap_or_else(unanswered)).collect()
    }

    /// A scheduler of an earlier version does not see the inputs that go along, and misses them: these are stored, and it is asked again.
    async fn store_what_was_missing(&self, items: Vec<AdmitItem>, mut answers: Vec<Answer>) -> Vec<Answer> {
        let mut again = AdmitRequest::default();
        let mut places = Vec::new();
        for (place, item) in items.into_iter().enumerate() {
            let is_missed = |refusal: &Refusal| refusal.code == Code::PayloadMissing.as_str();
            if item.input.is_empty() || !answers[place].as_ref().is_err_and(is_missed) {
                continue;
            }
            let job_id = JobRequest::decode(item.request.clone()).map(|request| request.job_id).unwrap_or_default();
            match self.store_input(&job_id, item.input.clone()).await {
                Ok(()) => {
                    places.push(place);
                    again.items.push(AdmitItem { input: Bytes::new(), ..item });
                }
                Err(refusal) => answers[place] = Err(refusal),
            }
        }
        if !places.is_empty() {
            let told = self.admit(&again).await;
            places.into_iter().zip(told).for_each(|(place, answer)| answers[place] = answer);
        }
        answers
    }

    /// Asks the scheduler, again and again until the time for it is over.
    async fn admit(&self, message: &AdmitRequest) -> Vec<Answer> {
        let count = message.items.len();
        let body = Bytes::from(message.encode_to_vec());
        let ends = Instant::now() + self.options.admit_within;
        loop {
            let left = ends.saturating_duration_since(Instant::now());
            let asked = self.bus.request(subjects::ADMIT, Headers::new(), body.clone(), left.min(ASK_WITHIN)).await;
            let refusal = match asked.map(|answer| AdmitReply::decode(answer.payload)) {
                Ok(Ok(reply)) => match read(reply, count) {
                    Err(refusal) if refusal.code == Code::SchedulerUnavailable.as_str() => refusal,
                    Err(refusal) => return vec![Err(refusal); count],
                    Ok(answers) => return answers,
                },
                Ok(Err(error)) => return vec![Err(Refusal::of(Code::Internal, error)); count],
                Err(error @ BusError::TooLarge { .. }) => return vec![Err(Refusal::of(Code::BatchTooLarge, error)); count],
                Err(error @ BusError::Unavailable { .. }) => Refusal::later(Code::BusUnavailable, error),
                Err(error @ (BusError::NoResponders { .. } | BusError::TimedOut { .. })) => {
                    Refusal::later(Code::SchedulerUnavailable, error)
                }
            };
            if Instant::now() + ASK_AGAIN_AFTER >= ends {
                return vec![Err(refusal); count];
            }
            sleep(ASK_AGAIN_AFTER).await;
        }
    }
}

fn request(submission: &Submission, job_id: &str, tenant: &str) -> JobRequest {
    let meta = JobMetadata {
        tenant_id: tenant.to_owned(),
        idempotency_key: submission.idempotency_key.clone(),
        requires: submission.requires.clone(),
        ..JobMetadata::default()
    };
    let budget = submission
        .deadline
        .map(|deadline| Budget { deadline_ms: i64::try_from(deadline.as_millis()).unwrap_or(i64::MAX), ..Budget::default() });
    JobRequest {
        job_id: job_id.to_owned(),
        topic: submission.topic.clone(),
        priority: submission.priority.into(),
        tenant_id: tenant.to_owned(),
        labels: submission.labels.clone(),
        parent_job_id: submission.parent.clone(),
        meta: Some(meta),
        budget,
        ..JobRequest::default()
    }
}

fn check_parent(parent: &str) -> Result<(), Refusal> {
    if parent.is_empty() {
        return Ok(());
    }
    ids::check(parent).map_err(|error| Refusal::of(Code::JobIdInvalid, format_args!("the parent: {error}")))
}

fn options(submission: &Submission) -> JobOptions {
    JobOptions {
        not_before_ms: submission.not_before.map_or(0, |time| time.duration_since(UNIX_EPOCH).map_or(0, millis)),
        schedule_to_start_ms: submission.schedule_to_start.map_or(0, at_least_1_ms),
        start_to_close_ms: submission.start_to_close.map_or(0, at_least_1_ms),
        heartbeat_timeout_ms: submission.heartbeat_timeout.map_or(0, at_least_1_ms),
        concurrency_key: submission.concurrency_key.clone(),
        non_retryable_codes: submission.non_retryable_codes.clone(),
        idempotency_policy: submission.idempotency_policy.into(),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A time limit on the wire, where 0 would mean that there is none.
fn at_least_1_ms(limit: Duration) -> u64 {
    millis(limit).max(1)
}

/// The W3C trace context in which a job begins: its span is told from the job's own random bits.
fn traceparent(trace_id: &str, job_id: &str) -> String {
    let hex: String = job_id.chars().filter(char::is_ascii_hexdigit).collect();
    let span = &hex[hex.len().saturating_sub(16)..];
    format!("00-{trace_id}-{span}-01")
}

fn refused_by_store(error: &StoreError) -> Refusal {
    match error {
        StoreError::MemoryShort => Refusal::later(Code::MemoryShort, error),
        StoreError::Unavailable { .. } => Refusal::later(Code::StoreUnavailable, error),
        StoreError::Refused { .. } | StoreError::Corrupt { .. } => Refusal::of(Code::StoreUnavailable, error),
    }
}

/// Items in messages that the scheduler takes, in order. An item that is too large for any message gets one of its own, which is
/// refused.
fn messages(items: Vec<AdmitItem>) -> Vec<AdmitRequest> {
    let mut messages: Vec<AdmitRequest> = Vec::new();
    let mut bytes = 0;
    for item in items {
        let size = item.encoded_len() + ITEM_OVERHEAD_BYTES;
        match messages.last_mut() {
            Some(message) if message.items.len() < ADMIT_ITEMS_MAX && bytes + size <= ADMIT_BYTES_MAX => {
                bytes += size;
                message.items.push(item);
            }
            _ => {
                bytes = size;
                messages.push(AdmitRequest { items: vec![item] });
            }
        }
    }
    messages
}

fn read(reply: AdmitReply, count: usize) -> Result<Vec<Answer>, Refusal> {
    if let Some(problem) = reply.problem {
        return Err(problem.into());
    }
    if reply.answers.len() != count {
        return Err(Refusal::of(Code::Internal, format!("{} answers came for {count} items", reply.answers.len())));
    }
    let answers = reply.answers.into_iter().map(|answer| match answer.answer {
        Some(admit_answer::Answer::Admitted(admitted)) => Ok(admitted.into()),
        Some(admit_answer::Answer::Rejected(problem)) => Err(problem.into()),
        None => Err(Refusal::of(Code::Internal, "an empty answer came")),
    });
    Ok(answers.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use busbar_protocol::busbar::AdmitAnswer;

    fn item(bytes: usize) -> AdmitItem {
        AdmitItem { request: vec![0; bytes].into(), ..AdmitItem::default() }
    }

    #[test]
    fn messages_keep_both_bounds_and_the_order() {
        let sizes = |items: Vec<AdmitItem>| messages(items).iter().map(|message| message.items.len()).collect::<Vec<_>>();
        assert_eq!(sizes(vec![item(10); 600]), [256, 256, 88]);
        assert_eq!(sizes(vec![item(200 << 10); 5]), [2, 2, 1]);
        assert_eq!(sizes(vec![item(1), item(600 << 10), item(1)]), [1, 1, 1]);
        assert!(messages(vec![item(200 << 10); 5]).iter().all(|message| message.encoded_len() <= ADMIT_BYTES_MAX));
        assert!(sizes(vec![]).is_empty());
    }

    #[test]
    fn answers_stand_in_the_order_of_the_items() {
        let admitted = Admitted { job_id: "j".into(), state: JobState::Scheduled.into(), ..Admitted::default() };
        let rejected = Problem { code: "unknown_topic".into(), retry_after_ms: 0, ..Problem::default() };
        let answers = [admit_answer::Answer::Admitted(admitted), admit_answer::Answer::Rejected(rejected)];
        let reply = AdmitReply { answers: answers.map(|answer| AdmitAnswer { answer: Some(answer) }).into(), problem: None };
        let answers = read(reply.clone(), 2).expect("two answers");
        assert_eq!(answers[0].as_ref().map(|job| job.state), Ok(JobState::Scheduled));
        assert_eq!(answers[1].as_ref().map_err(|refusal| refusal.code.as_str()), Err("unknown_topic"));
        assert_eq!(read(reply, 3).map_err(|refusal| refusal.code), Err("internal".to_owned()));
    }

    #[test]
    fn what_is_said_of_a_job_reaches_the_scheduler() {
        let plain = Submission::default();
        assert_eq!(options(&plain), JobOptions::default(), "nothing said is what the topic says");
        let said = Submission {
            not_before: Some(UNIX_EPOCH + Duration::from_secs(7)),
            schedule_to_start: Some(Duration::ZERO),
            start_to_close: Some(Duration::from_secs(2)),
            heartbeat_timeout: Some(Duration::MAX),
            concurrency_key: "repository 7".to_owned(),
            non_retryable_codes: vec!["out_of_tea".to_owned()],
            idempotency_policy: IdempotencyPolicy::Reject,
            parent: "above".to_owned(),
            ..plain
        };
        let told = options(&said);
        assert_eq!((told.not_before_ms, told.schedule_to_start_ms, told.start_to_close_ms), (7000, 1, 2000));
        assert_eq!((told.heartbeat_timeout_ms, told.concurrency_key.as_str()), (u64::MAX, "repository 7"));
        assert_eq!(
            (told.non_retryable_codes.as_slice(), told.idempotency_policy()),
            (&["out_of_tea".to_owned()][..], IdempotencyPolicy::Reject)
        );
        assert_eq!(request(&said, "j", "t").parent_job_id, "above");
    }

    #[test]
    fn the_parent_is_an_id() {
        assert_eq!(check_parent(""), Ok(()));
        assert_eq!(check_parent("run:step[3]@2"), Ok(()));
        assert_eq!(check_parent("no id").map_err(|refusal| refusal.code), Err("job_id_invalid".to_owned()));
    }

    #[test]
    fn a_trace_context_has_the_form_of_w3c() {
        let text = traceparent(&ids::generate_trace(), ids::JobId::generate().as_str());
        let lengths: Vec<usize> = text.split('-').map(str::len).collect();
        assert_eq!(lengths, [2, 32, 16, 2], "{text}");
    }
}
