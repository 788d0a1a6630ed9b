//! The client: submit jobs straight onto the bus, and wait for them.
//!
//! ```text
//!  submit ── input ──► ctx:<job> (ten minutes to live) ── busbar.scheduler.admit ──► committed, or refused with a code
//!  wait ◄── busbar.job.event wakes; the record is the truth, and is looked at every two seconds anyway
//! ```

mod follow;
mod submit;

use std::sync::Arc;
use std::time::Duration;

use busbar_blobs::Blobs;
use busbar_bus::{BusConfig, NatsBus};
pub use busbar_protocol::busbar::JobState;
use busbar_protocol::busbar::{CancelItem, CancelReply, CancelRequest, Ended, JobEvent, JobRecord, cancel_answer, job_record};
use busbar_protocol::pointers::Pointer;
use busbar_protocol::ports::{Bus, BusError, Headers, Records, StoreError};
use busbar_protocol::prost::Message as _;
use busbar_protocol::{ids, keys, subjects};
use busbar_store::{Store, StoreConfig};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};

use crate::blob;
use follow::{Follower, News};
pub use submit::{Refusal, Submission, Submitted};

/// How often a record is looked at while its event does not come.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Where the client submits, and for whom. [`Default`] is the default tenant on this machine's standard ports.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Where NATS is.
    pub nats_url: String,
    /// Where Redis is.
    pub redis_url: String,
    /// Where blobs are; without it, inputs and results above 1 MiB are out of reach.
    pub blobs_url: Option<String>,
    /// Whose jobs they are.
    pub tenant: String,
    /// What the client calls itself.
    pub name: String,
    /// How long a submission may take until it is refused with `scheduler_unavailable`.
    pub admit_within: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            nats_url: "nats://127.0.0.1:4222".to_owned(),
            redis_url: "redis://127.0.0.1:6379".to_owned(),
            blobs_url: None,
            tenant: ids::DEFAULT_TENANT.to_owned(),
            name: "busbar-client".to_owned(),
            admit_within: Duration::from_secs(5),
        }
    }
}

/// Why a call of the client did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// One of the servers could not be reached, or is unfit.
    #[error("could not connect")]
    Connect(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The bus did not do its part.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The store did not do its part.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The scheduler, or the client itself, refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The input or output is not JSON of the type that was named.
    #[error("not the JSON that was expected")]
    Json(#[from] serde_json::Error),
    /// No job with this id is known, or it has expired.
    #[error("no job {job_id} is known")]
    NotFound {
        /// The job.
        job_id: String,
    },
    /// The job has not ended within the time given. It goes on.
    #[error("job {job_id} is still {} after {waited:?}", state.as_str_name())]
    StillLive {
        /// The job.
        job_id: String,
        /// Its state.
        state: JobState,
        /// How long was waited.
        waited: Duration,
    },
    /// The job ended otherwise than SUCCEEDED.
    #[error("job {} ended {}: {}: {}", .0.job_id, .0.state.as_str_name(), .0.error_code, .0.error_message)]
    Ended(Box<Finished>),
    /// What stands in the store can not be read.
    #[error("{what} can not be read: {detail}")]
    Unreadable {
        /// What.
        what: String,
        /// Why not.
        detail: String,
    },
}

/// A job that has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// The job.
    pub job_id: String,
    /// How it ended.
    pub state: JobState,
    /// How many attempts there were.
    pub attempts: u32,
    /// Who did the last one.
    pub worker_id: String,
    /// The result: one JSON value. `None` where there is none, or where it has expired.
    pub result: Option<Bytes>,
    /// Where the result stands.
    pub result_ptr: String,
    /// Why it did not succeed; empty if it did.
    pub error_code: String,
    /// The same for a person.
    pub error_message: String,
    /// How long the handler ran.
    pub execution: Duration,
}

impl Finished {
    /// The result in a type of the caller's choice.
    ///
    /// # Errors
    /// [`ClientError::Ended`] when the job did not succeed, [`ClientError::Json`] when the result is something else.
    pub fn output<O: DeserializeOwned>(self) -> Result<O, ClientError> {
        if self.state != JobState::Succeeded {
            return Err(ClientError::Ended(Box::new(self)));
        }
        Ok(serde_json::from_slice(self.result.as_deref().unwrap_or(b"null"))?)
    }
}

/// Submits jobs and waits for them. Clones share the connections.
pub struct Client<B = NatsBus, R = Store> {
    inner: Arc<Inner<B, R>>,
}

impl<B, R> Clone for Client<B, R> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

struct Inner<B, R> {
    options: ClientOptions,
    bus: B,
    records: R,
    blobs: Option<Blobs>,
    follower: Follower,
}

impl Client {
    /// Connects to NATS, Redis and, where one is named, the blob store.
    ///
    /// # Errors
    /// [`ClientError::Connect`] says which of them refused.
    pub async fn connect(options: ClientOptions) -> Result<Self, ClientError> {
        let bus = NatsBus::connect(BusConfig::new(&options.nats_url, &options.name)).await;
        let bus = bus.map_err(|error| ClientError::Connect(error.into()))?;
        let records =
            Store::connect(StoreConfig { client_name: options.name.clone(), ..StoreConfig::new(&options.redis_url) }).await;
        let records = records.map_err(|error| ClientError::Connect(error.into()))?;
        let blobs = options.blobs_url.as_deref().map(Blobs::open).transpose();
        let blobs = blobs.map_err(|error| ClientError::Connect(error.into()))?;
        Self::with_ports(options, bus, records, blobs).await
    }
}

impl<B: Bus, R: Records> Client<B, R> {
    /// A client on given ports; the URLs of the options are not used.
    ///
    /// # Errors
    /// [`ClientError::Bus`] when the events can not be followed.
    pub async fn with_ports(options: ClientOptions, bus: B, records: R, blobs: Option<Blobs>) -> Result<Self, ClientError> {
        let follower = Follower::start(&bus).await?;
        Ok(Self { inner: Arc::new(Inner { options, bus, records, blobs, follower }) })
    }

    /// Submits one job. When this returns, the job is committed.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with a code, [`ClientError::Json`].
    pub async fn submit<I: Serialize + ?Sized>(&self, topic: &str, input: &I) -> Result<Submitted, ClientError> {
        self.submit_one(Submission::new(topic, input)?).await
    }

    /// Submits one job with all that can be said about it.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with a code.
    pub async fn submit_one(&self, submission: Submission) -> Result<Submitted, ClientError> {
        Ok(self.inner.submit_as(ids::JobId::generate(), submission).await?)
    }

    /// Submits any number of jobs; one answer each, in order. Jobs whose answer is [`Ok`] are committed.
    pub async fn submit_many(&self, submissions: Vec<Submission>) -> Vec<Result<Submitted, Refusal>> {
        self.inner.submit_many(submissions).await
    }

    /// Waits until a job has ended, and fetches its result.
    ///
    /// # Errors
    /// [`ClientError::StillLive`] when it has not ended in time, [`ClientError::NotFound`], or what the servers said.
    pub async fn wait(&self, job_id: &str, within: Duration) -> Result<Finished, ClientError> {
        let news = self.inner.follower.watch(job_id);
        self.inner.wait(job_id, within, news, true).await
    }

    /// Submits one job and waits for its output.
    ///
    /// # Errors
    /// As [`Client::submit`] and [`Client::wait`]; [`ClientError::Ended`] when the job did not succeed.
    pub async fn run<I, O>(&self, topic: &str, input: &I, within: Duration) -> Result<O, ClientError>
    where
        I: Serialize + ?Sized,
        O: DeserializeOwned,
    {
        // Watched before anybody else can know of it, so that there is nothing to look at before there is news.
        let job_id = ids::JobId::generate();
        let news = self.inner.follower.watch(job_id.as_str());
        let submitted = self.inner.submit_as(job_id, Submission::new(topic, input)?).await?;
        self.inner.wait(&submitted.job_id, within, news, submitted.state.is_terminal()).await?.output()
    }

    /// Cancels a job; returns the state after that. A job that had ended stays as it is.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with a code, [`ClientError::Bus`].
    pub async fn cancel(&self, job_id: &str, reason: &str) -> Result<JobState, ClientError> {
        let options = &self.inner.options;
        let item = CancelItem {
            job_id: job_id.to_owned(),
            tenant_id: options.tenant.clone(),
            reason: reason.to_owned(),
            requested_by: options.name.clone(),
            attempt: 0,
        };
        let request = CancelRequest { items: vec![item] }.encode_to_vec().into();
        let answer = self.inner.bus.request(subjects::SCHEDULER_CANCEL, Headers::new(), request, options.admit_within).await?;
        let reply = CancelReply::decode(answer.payload).map_err(|error| unreadable("the answer", &error))?;
        let answer = reply.answers.into_iter().next().and_then(|answer| answer.answer);
        match (reply.problem, answer) {
            (Some(problem), _) | (None, Some(cancel_answer::Answer::Rejected(problem))) => Err(Refusal::from(problem).into()),
            (None, Some(cancel_answer::Answer::State(state))) => Ok(JobState::try_from(state).unwrap_or_default()),
            (None, None) => Err(unreadable("the answer", &"it is empty")),
        }
    }
}

impl<B: Bus, R: Records> Inner<B, R> {
    /// Waits for the end of a job that is watched; `looks` at its record before that.
    async fn wait(&self, job_id: &str, within: Duration, mut news: News, mut looks: bool) -> Result<Finished, ClientError> {
        let ends = Instant::now() + within;
        loop {
            let record = if looks { Some(self.record(job_id).await?) } else { None };
            match record.map(|record| (record.attempt, record.state)) {
                Some((attempts, Some(job_record::State::Ended(ended)))) => {
                    return self.finished(by_record(job_id, attempts, ended)).await;
                }
                Some((_, state)) if Instant::now() >= ends => {
                    return Err(ClientError::StillLive {
                        job_id: job_id.to_owned(),
                        state: live_state(state.as_ref()),
                        waited: within,
                    });
                }
                _ => looks = true,
            }
            match timeout_at(ends.min(Instant::now() + LOOK_EVERY), news.ended()).await {
                Ok(end) if end.tenant_id == self.options.tenant => return self.finished(by_event(&end)).await,
                // The record is looked at again.
                _ => {}
            }
        }
    }

    async fn record(&self, job_id: &str) -> Result<JobRecord, ClientError> {
        let key = keys::job(job_id);
        let stored = self.records.read(vec![key.clone()]).await?.into_iter().next().flatten();
        let stored = stored.ok_or_else(|| ClientError::NotFound { job_id: job_id.to_owned() })?;
        let record = JobRecord::decode(stored.value).map_err(|error| unreadable(&key, &error))?;
        // Whose job it is not may not even know that it exists.
        if record.tenant_id != self.options.tenant {
            return Err(ClientError::NotFound { job_id: job_id.to_owned() });
        }
        Ok(record)
    }

    /// The same with its result.
    async fn finished(&self, finished: Finished) -> Result<Finished, ClientError> {
        Ok(Finished { result: self.result(&finished.result_ptr).await?, ..finished })
    }

    async fn result(&self, pointer: &str) -> Result<Option<Bytes>, ClientError> {
        if pointer.is_empty() {
            return Ok(None);
        }
        match Pointer::parse(pointer).map_err(|error| unreadable(pointer, &error))? {
            Pointer::Redis(key) => Ok(self.records.payloads(vec![key]).await?.into_iter().next().flatten()),
            Pointer::Blob(digest) => {
                let blob = blob::read(self.blobs.as_ref(), &digest).await;
                blob.map(Some).map_err(|failure| unreadable(pointer, &failure.message))
            }
        }
    }
}

/// What a record says of the end of its job.
fn by_record(job_id: &str, attempts: u32, ended: Ended) -> Finished {
    Finished {
        job_id: job_id.to_owned(),
        state: ended.state(),
        attempts,
        result: None,
        worker_id: ended.worker_id,
        result_ptr: ended.result_ptr,
        error_code: ended.error_code,
        error_message: ended.error_message,
        execution: millis(ended.execution_ms),
    }
}

/// What the change says by which a job ended.
fn by_event(end: &JobEvent) -> Finished {
    Finished {
        job_id: end.job_id.clone(),
        state: end.states().next_back().unwrap_or_default(),
        attempts: end.attempt,
        result: None,
        worker_id: end.worker_id.clone(),
        result_ptr: end.result_ptr.clone(),
        error_code: end.error_code.clone(),
        error_message: end.error_message.clone(),
        execution: millis(end.execution_ms),
    }
}

fn millis(count: i64) -> Duration {
    Duration::from_millis(u64::try_from(count).unwrap_or(0))
}

fn live_state(state: Option<&job_record::State>) -> JobState {
    use job_record::State;
    match state {
        Some(State::Pending(_)) => JobState::Pending,
        Some(State::ApprovalRequired(_)) => JobState::ApprovalRequired,
        Some(State::Scheduled(_)) => JobState::Scheduled,
        Some(State::Dispatched(_) | State::Replicated(_)) => JobState::Dispatched,
        Some(State::Running(_)) => JobState::Running,
        Some(State::Ended(ended)) => ended.state(),
        None => JobState::Unspecified,
    }
}

fn unreadable(what: &str, detail: &impl ToString) -> ClientError {
    ClientError::Unreadable { what: what.to_owned(), detail: detail.to_string() }
}
