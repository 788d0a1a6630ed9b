//! What has become of the jobs of steps, as their records say it.

use std::collections::BTreeMap;
use std::time::Duration;

use busbar_protocol::busbar::{Ended, JobRecord, JobState, job_record};
use busbar_protocol::codes::Code;
use busbar_protocol::keys;
use busbar_protocol::pointers::Pointer;
use busbar_protocol::ports::{Bus, Clock, Records, StoreError};
use busbar_rules::expr::Value;
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::core::run::{Done, Outcome};
use crate::core::transition::JobOutcome;
use crate::input::{Found, Input, What};
use crate::library::decode;
use crate::service::Ports;

/// How many records are read at once.
const PAGE: usize = 256;
/// How long a read is repeated after the store was away.
const RETRY: Duration = Duration::from_millis(100);

/// Why jobs are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expecting {
    /// Nothing is known of them.
    Nothing,
    /// They have ended, so that results are read along with records: those of first attempts, as most are.
    Ends,
}

/// Looks at jobs, and tells the loop what is over or unknown.
pub(crate) async fn look<B: Bus, R: Records, C: Clock>(
    ports: Ports<B, R, C>,
    job_ids: Vec<String>,
    expecting: Expecting,
    inputs: mpsc::Sender<Input>,
) {
    for page in job_ids.chunks(PAGE) {
        loop {
            match find(&ports.records, page, expecting).await {
                Ok(found) if found.is_empty() => break,
                Ok(found) => {
                    if inputs.send(Input::Found(found)).await.is_err() {
                        return;
                    }
                    break;
                }
                Err(StoreError::Unavailable { .. }) => ports.clock.sleep(RETRY).await,
                Err(error) => {
                    tracing::error!(%error, "the jobs of runs cannot be looked at");
                    break;
                }
            }
        }
    }
}

async fn find<R: Records>(records: &R, job_ids: &[String], expecting: Expecting) -> Result<Vec<Found>, StoreError> {
    let names: Vec<String> = job_ids.iter().map(|job_id| keys::job(job_id)).collect();
    let (stored, mut beside) = match expecting {
        Expecting::Nothing => (records.read(names.clone()).await?, BTreeMap::new()),
        Expecting::Ends => {
            let first: Vec<String> = job_ids.iter().map(|job_id| keys::attempt_result(job_id, 1)).collect();
            let (stored, payloads) = records.read_beside(names.clone(), first.clone()).await?;
            (stored, first.into_iter().zip(payloads).filter_map(|(key, payload)| Some((key, payload?))).collect())
        }
    };
    let mut found = Vec::new();
    let mut results: Vec<(String, String, Done)> = Vec::new();
    for ((job_id, key), stored) in job_ids.iter().zip(&names).zip(stored) {
        let Some(stored) = stored else {
            found.push(Found { job_id: job_id.clone(), what: What::Unknown });
            continue;
        };
        let record: JobRecord = decode(key, &stored.value)?;
        let Some(job_record::State::Ended(ended)) = record.state else { continue };
        match result_key(&ended) {
            Ok(Some(key)) => match beside.remove(&key) {
                Some(payload) => {
                    let outcome = with_result(key, Some(payload), done(&ended));
                    found.push(Found { job_id: job_id.clone(), what: What::Over(outcome) });
                }
                None => results.push((job_id.clone(), key, done(&ended))),
            },
            Err(outcome) => found.push(Found { job_id: job_id.clone(), what: What::Over(outcome) }),
            Ok(None) => found.push(Found { job_id: job_id.clone(), what: What::Over(without_result(&ended)) }),
        }
    }
    let payloads = if results.is_empty() {
        Vec::new()
    } else {
        records.payloads(results.iter().map(|(_, key, _)| key.clone()).collect()).await?
    };
    for ((job_id, key, done), payload) in results.into_iter().zip(payloads) {
        found.push(Found { job_id, what: What::Over(with_result(key, payload, done)) });
    }
    Ok(found)
}

/// Where the result of a job that succeeded stands, if it has one; or how the job counts whose result cannot be read.
fn result_key(ended: &Ended) -> Result<Option<String>, JobOutcome> {
    if ended.state() != JobState::Succeeded || ended.result_ptr.is_empty() {
        return Ok(None);
    }
    match Pointer::parse(&ended.result_ptr) {
        Ok(Pointer::Redis(key)) => Ok(Some(key)),
        // Whether that is too large is up to the step.
        Ok(Pointer::Blob(_)) => Err(JobOutcome::SucceededLarge { bytes: ended.result_bytes, done: done(ended) }),
        Err(error) => Err(unusable(Code::OutputInvalid, error.to_string())),
    }
}

/// A job that succeeded, with a result of which nothing can be made.
fn unusable(code: Code, message: String) -> JobOutcome {
    JobOutcome::NotSucceeded { outcome: Outcome::Failed, code: code.as_str().to_owned(), message, retryable: false }
}

fn without_result(ended: &Ended) -> JobOutcome {
    let (outcome, retryable) = match ended.state() {
        // A job without a result has done what it should and says nothing.
        JobState::Succeeded => {
            return JobOutcome::Succeeded { output: Value::null(), bytes: 0, key: String::new(), done: done(ended) };
        }
        JobState::Timeout => (Outcome::Timeout, true),
        JobState::Cancelled => (Outcome::Cancelled, false),
        JobState::Denied => (Outcome::Failed, false),
        JobState::Failed
        | JobState::Unspecified
        | JobState::Pending
        | JobState::ApprovalRequired
        | JobState::Scheduled
        | JobState::Dispatched
        | JobState::Running => (Outcome::Failed, true),
    };
    JobOutcome::NotSucceeded { outcome, code: ended.error_code.clone(), message: ended.error_message.clone(), retryable }
}

/// By whom a job was done, and in which time.
fn done(ended: &Ended) -> Done {
    Done::by(&ended.worker_id, ended.execution_ms.unsigned_abs())
}

fn with_result(key: String, payload: Option<Bytes>, done: Done) -> JobOutcome {
    let Some(payload) = payload else {
        return unusable(Code::PayloadMissing, format!("the job succeeded, but its result at {key} has expired"));
    };
    match serde_json::from_slice::<serde_json::Value>(&payload) {
        Ok(value) => JobOutcome::Succeeded { output: Value::from_json(&value), bytes: payload.len() as u64, key, done },
        Err(error) => unusable(Code::OutputInvalid, format!("the job's result is no JSON: {error}")),
    }
}
