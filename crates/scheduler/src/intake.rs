//! From a submission to a job that is ready to be committed: form, topic, input schema, decision.
//!
//! This runs beside the event loop, many submissions at a time. What must be exact (duplicates, caps, order) is left to the loop.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use busbar_protocol::busbar::{AdmitItem, JobPlaces, JobPlan, JobState, Problem, TopicDocument};
use busbar_protocol::cap::{DecisionType, JobMetadata, JobRequest};
use busbar_protocol::codes::Code;
use busbar_protocol::envelope;
use busbar_protocol::ids::{self, JobId};
use busbar_protocol::inline;
use busbar_protocol::labels;
use busbar_protocol::limits::PAYLOAD_BYTES_MAX;
use busbar_protocol::pointers::Pointer;
use busbar_protocol::ports::{CommitClass, CommitId, Judge, Records, StoreError, Stored};
use busbar_protocol::prost::Message as _;
use busbar_protocol::subjects;
use busbar_protocol::time::Timestamp;

use crate::core::cell::replica_id;
use crate::core::commit::{self, Birth};
use crate::core::job::{End, Job, State};
use crate::core::line::Class;
use crate::core::sketch::{Found, Kind};
use crate::core::transition::{self, Event, Limits};
use crate::core::verdict;
use crate::library::Library;
use crate::traces::Traces;
use crate::verify;

/// How long an undecided job waits before the kernel is asked again, in milliseconds.
const UNDECIDED_RETRY_MS: u64 = 1_000;

const MAX_ATTEMPTS_DEFAULT: u32 = 3;
const CRASH_LIMIT_DEFAULT: u32 = 3;
const BACKOFF_INITIAL_MS_DEFAULT: u64 = 500;
const BACKOFF_MAX_MS_DEFAULT: u64 = 30_000;
const START_TO_CLOSE_MS_DEFAULT: u64 = 15 * 60 * 1000;

/// A job that is ready to be committed.
#[derive(Clone, Debug)]
pub(crate) struct Prepared {
    /// The job, decided where the kernel answered.
    pub job: Arc<Job>,
    /// The request as it was submitted: a decision may have changed that of the job.
    pub submitted: Bytes,
    /// The same as a message, until the kernel was asked: most submissions are read once.
    pub request: Option<Box<JobRequest>>,
    /// Its class.
    pub class: Arc<Class>,
    /// The states that it has passed.
    pub passed: Vec<JobState>,
    /// What is special about its first commit.
    pub birth: Birth,
    /// What speaks against it, unless it repeats a submission that was taken when nothing did.
    pub against: Option<Problem>,
}

/// A submission that is ready, or why it was refused.
pub(crate) type Outcome = Result<Prepared, Problem>;

/// A submission from the bare bus: what was refused still becomes a job, one that has ended, so that its end is told once. What
/// cannot even be named stays refused.
pub(crate) fn from_bus(outcome: Outcome, item: &AdmitItem, now: Timestamp) -> Outcome {
    let refusal = match outcome {
        Ok(mut prepared) => {
            Arc::make_mut(&mut prepared.job).from_bus = true;
            return Ok(prepared);
        }
        Err(refusal) => refusal,
    };
    let request = JobRequest::decode(item.request.clone()).unwrap_or_default();
    let Ok(id) = JobId::parse(request.job_id.clone()) else { return Err(refusal) };
    let job = Arc::new(Job { from_bus: true, ..job(id, item, &request, &TopicDocument::default(), now) });
    let mut prepared = Prepared {
        class: Arc::new(class(&request)),
        job,
        submitted: item.request.clone(),
        request: None,
        passed: Vec::new(),
        birth: Birth::default(),
        against: None,
    };
    refuse(&mut prepared, &refusal);
    Ok(prepared)
}

/// Makes of a submission a job that has ended before it began.
pub(crate) fn refuse(prepared: &mut Prepared, refusal: &Problem) {
    let job = Arc::make_mut(&mut prepared.job);
    job.plan.idempotency_key.clear();
    job.state = State::Ended(End {
        outcome: crate::core::job::Outcome::Failed,
        at: job.created,
        worker_id: String::new(),
        code: refusal.code.clone(),
        message: refusal.detail.clone(),
        result: None,
        execution_ms: 0,
        decided_here: true,
    });
    prepared.passed = vec![job.state.tag()];
    prepared.birth = Birth { refused: true, ..Birth::default() };
}

/// The refusal of a submission whose parent was cancelled.
pub(crate) fn parent_cancelled(parent: &str) -> Problem {
    problem(Code::ParentCancelled, format!("the job {parent}, to which it would belong, was cancelled"))
}

/// The refusal of what would check a result for a job that has ended.
pub(crate) fn parent_ended(parent: &str) -> Problem {
    problem(Code::ParentCancelled, format!("the job {parent}, whose result it would check, has ended"))
}

/// Prepares submissions; one outcome per item, in order.
///
/// # Errors
/// [`StoreError`] when inputs could not be read; then nothing is known of any item.
pub(crate) async fn prepare<R: Records, J: Judge>(
    items: &[AdmitItem],
    library: &Library,
    records: &R,
    judge: &J,
    traces: &Traces,
    limits: &Limits,
    now: Timestamp,
) -> Result<Vec<Outcome>, StoreError> {
    let mut outcomes: Vec<Outcome> = items.iter().map(|item| form(item, library, now)).collect();
    check_parents(&mut outcomes, records).await?;
    check_inputs(&mut outcomes, library, records).await?;
    let mut unseen = decide(outcomes.iter_mut().flatten().collect(), judge, traces, limits, now).await;
    if !unseen.is_empty() {
        lay_open(&mut unseen, records).await?;
        decide(unseen, judge, traces, limits, now).await;
    }
    Ok(outcomes)
}

/// A refusal.
#[must_use]
pub(crate) fn problem(code: Code, detail: impl Into<String>) -> Problem {
    let retry_after_ms = if code.http_status() == 503 || code.http_status() == 429 { 1_000 } else { 0 };
    Problem { code: code.to_string(), detail: detail.into(), retry_after_ms }
}

fn form(item: &AdmitItem, library: &Library, now: Timestamp) -> Outcome {
    let request = JobRequest::decode(item.request.clone())
        .map_err(|error| problem(Code::PacketMalformed, format!("the request is not a JobRequest: {error}")))?;
    envelope::check_request(&request).map_err(|error| problem(error.code(), error.to_string()))?;
    let id = JobId::parse(request.job_id.clone()).map_err(|error| problem(Code::JobIdInvalid, error.to_string()))?;
    if !subjects::is_topic(&request.topic) {
        return Err(problem(Code::TopicInvalid, format!("topic {:?} is not a plain subject below job.", request.topic)));
    }
    if let Some(name) = request.env.keys().find(|name| name.starts_with("BUSBAR_")) {
        return Err(problem(Code::EnvReserved, format!("env.{name}: names that begin with BUSBAR_ are the scheduler's")));
    }
    let document = library
        .topics
        .resolve(&request.topic)
        .ok_or_else(|| problem(Code::UnknownTopic, format!("no topic document matches {}", request.topic)))?;
    if !request.context_ptr.is_empty() && !Pointer::parse(&request.context_ptr).is_ok_and(|p| p.is_context_of(id.as_str())) {
        let detail = format!("context_ptr {:?} must be redis://ctx:{id}", request.context_ptr);
        return Err(problem(Code::PointerInvalid, detail));
    }
    if !request.context_ptr.is_empty() && item.input_bytes > PAYLOAD_BYTES_MAX as u64 {
        let detail = format!("the input has {} bytes, more than {PAYLOAD_BYTES_MAX}", item.input_bytes);
        return Err(problem(Code::PayloadTooLarge, detail));
    }
    if let Some(replication) = &document.replication {
        if replica_id(&id, replication.replicas_max).is_none() {
            let detail = format!("jobs of topic {} have replicas, and {id} is too long to name them after it", request.topic);
            return Err(problem(Code::JobIdInvalid, detail));
        }
        let is_large = request.context_ref.is_some() || item.input_bytes > verify::INPUT_BYTES_MAX as u64;
        if !replication.verifier.is_empty() && is_large {
            let (topic, most) = (&request.topic, verify::INPUT_BYTES_MAX);
            let detail = format!(
                "results of topic {topic} are checked by {}, which can be given inputs of up to {most} bytes",
                replication.verifier
            );
            return Err(problem(Code::PayloadTooLarge, detail));
        }
    }
    let input = carried(item, &request)?;
    let birth = Birth { input, revocable: item.revocable, ..Birth::default() };
    let class = Arc::new(class(&request));
    let job = Arc::new(job(id, item, &request, document, now));
    let submitted = item.request.clone();
    let request = Some(Box::new(request));
    Ok(Prepared { job, submitted, request, class, passed: vec![JobState::Pending], birth, against: None })
}

/// The input that came with a submission, in memory of its own: a part of the message would keep all of it.
fn carried(item: &AdmitItem, request: &JobRequest) -> Result<Option<Bytes>, Problem> {
    let bytes = item.input.len();
    if bytes == 0 {
        return Ok(None);
    }
    if bytes > inline::BYTES_MAX {
        let detail = format!("the input that came with it has {bytes} bytes, more than {}", inline::BYTES_MAX);
        return Err(problem(Code::PayloadTooLarge, detail));
    }
    // A worker would prefer a reference, and look for nothing where there is no pointer.
    if request.context_ptr.is_empty() || request.context_ref.is_some() {
        let detail =
            format!("an input that comes with it stands at redis://ctx:{}: context_ptr must say so alone", request.job_id);
        return Err(problem(Code::PointerInvalid, detail));
    }
    Ok(Some(Bytes::copy_from_slice(&item.input)))
}

fn job(id: JobId, item: &AdmitItem, request: &JobRequest, document: &TopicDocument, now: Timestamp) -> Job {
    let meta = request.meta.clone().unwrap_or_default();
    let trace_id = if item.trace_id.is_empty() { ids::generate_trace() } else { item.trace_id.clone() };
    Job {
        tenant_id: tenant(item, request, &meta),
        trace_id,
        traceparent: item.traceparent.clone(),
        // What came with its input must not keep the inputs of the whole message in memory.
        request: if item.input.is_empty() { item.request.clone() } else { Bytes::copy_from_slice(&item.request) },
        topic: request.topic.clone(),
        priority: request.priority(),
        created: now,
        updated: now,
        parent_job_id: request.parent_job_id.clone(),
        plan: plan(item, request, &meta, document, now),
        ..Job::new(id, State::Pending { not_before: now })
    }
}

fn plan(item: &AdmitItem, request: &JobRequest, meta: &JobMetadata, document: &TopicDocument, now: Timestamp) -> JobPlan {
    let asked = request.budget.as_ref().and_then(|budget| u64::try_from(budget.deadline_ms).ok()).unwrap_or(0);
    let deadline_ms = first([asked, document.deadline_ms]);
    let options = item.options.clone().unwrap_or_default();
    JobPlan {
        max_attempts: first([item.max_attempts, document.max_attempts, MAX_ATTEMPTS_DEFAULT]),
        backoff_initial_ms: first([document.backoff_initial_ms, BACKOFF_INITIAL_MS_DEFAULT]),
        backoff_max_ms: first([document.backoff_max_ms, BACKOFF_MAX_MS_DEFAULT]),
        schedule_to_start_ms: first([options.schedule_to_start_ms, document.schedule_to_start_ms]),
        start_to_close_ms: first([options.start_to_close_ms, document.start_to_close_ms, START_TO_CLOSE_MS_DEFAULT]),
        heartbeat_timeout_ms: first([options.heartbeat_timeout_ms, document.heartbeat_timeout_ms]),
        not_before_ms: options.not_before_ms,
        idempotency_policy: options.idempotency_policy,
        non_retryable_codes: first([options.non_retryable_codes, document.non_retryable_codes.clone()]),
        crash_limit: first([document.crash_limit, CRASH_LIMIT_DEFAULT]),
        concurrency_key: first([options.concurrency_key, label(request, "concurrency_key").unwrap_or_default()]),
        deadline_at_ms: if deadline_ms == 0 { 0 } else { now.after_millis(deadline_ms).millis() },
        module: document.module.clone(),
        limits: document.limits.clone(),
        idempotency_key: meta.idempotency_key.clone(),
        // A larger input stands in a blob, whose reference tells its size.
        input_bytes: match (request.context_ptr.is_empty(), item.input.len()) {
            (true, _) => 0,
            (false, 0) => item.input_bytes,
            (false, carried) => carried as u64,
        },
        requires: meta.requires.clone(),
        result_ttl_ms: document.result_ttl_ms,
        replication: document.replication.clone(),
    }
}

/// The first value that is not the default.
fn first<T: Default + PartialEq, const N: usize>(values: [T; N]) -> T {
    values.into_iter().find(|value| *value != T::default()).unwrap_or_default()
}

fn tenant(item: &AdmitItem, request: &JobRequest, meta: &JobMetadata) -> String {
    let named = [&item.tenant_id, &request.tenant_id, &meta.tenant_id];
    named.into_iter().find(|tenant| !tenant.is_empty()).map_or_else(|| ids::DEFAULT_TENANT.to_owned(), Clone::clone)
}

/// What placement needs to know of a request.
#[must_use]
pub(crate) fn class(request: &JobRequest) -> Class {
    let requires: BTreeSet<String> =
        request.meta.iter().flat_map(|meta| &meta.requires).map(|r| r.trim().to_lowercase()).filter(|r| !r.is_empty()).collect();
    let placement = |(name, value): (&String, &String)| {
        name.strip_prefix(labels::PLACEMENT_PREFIX).map(|rest| (rest.to_owned(), value.clone()))
    };
    let wanted: BTreeMap<String, String> = request.labels.iter().filter_map(placement).collect();
    let [pool, worker] = [labels::PREFERRED_POOL, labels::PREFERRED_WORKER_ID].map(|name| label(request, name));
    let [excluded, avoided] = [labels::EXCLUDED_WORKER_IDS, labels::AVOIDED_WORKER_IDS].map(|name| workers(request, name));
    Class {
        topic: request.topic.clone(),
        requires,
        labels: wanted,
        pool,
        worker,
        excluded,
        avoided,
        tenant: None,
        known_only: false,
    }
}

/// The workers that a label names, with commas between them.
fn workers(request: &JobRequest, name: &str) -> BTreeSet<String> {
    let named = request.labels.get(name).map(String::as_str).unwrap_or_default().split(',').map(str::trim);
    named.filter(|id| !id.is_empty()).map(str::to_owned).collect()
}

/// The value of a label, where it has one.
fn label(request: &JobRequest, name: &str) -> Option<String> {
    request.labels.get(name).filter(|value| !value.is_empty()).cloned()
}

/// The class of a job that was read from the store.
#[must_use]
pub(crate) fn class_of(job: &Job) -> Arc<Class> {
    Arc::new(stored_class(&job.topic, &job.request))
}

fn stored_class(topic: &str, request: &Bytes) -> Class {
    let request = JobRequest::decode(request.clone()).unwrap_or_default();
    Class { topic: topic.to_owned(), ..class(&request) }
}

/// The kinds of many jobs that were read from the store: most ask for nothing but their topic, and most are like the one before.
#[derive(Debug, Default)]
pub(crate) struct Kinds {
    kinds: Vec<Kind>,
    numbers: BTreeMap<Kind, u32>,
    /// The last one that asked for nothing, and the number of its kind.
    last: Option<(Found, u32)>,
}

impl Kinds {
    /// The number of the kind of a job.
    pub(crate) fn of(&mut self, found: &Found) -> u32 {
        if asks_for_a_place(&found.request) {
            return self.number_of(found, stored_class(found.topic(), &found.request));
        }
        if let Some((last, number)) = &self.last
            && last.is_like(found)
        {
            return *number;
        }
        let number = self.number_of(found, Class { topic: found.topic().to_owned(), ..Class::default() });
        self.last = Some((found.clone(), number));
        number
    }

    /// The kinds, by their numbers.
    pub(crate) fn into_list(self) -> Vec<Kind> {
        self.kinds
    }

    fn number_of(&mut self, found: &Found, class: Class) -> u32 {
        let Found { priority, replicated, .. } = *found;
        let kind = Kind { tenant_id: found.tenant_id().to_owned(), class: Arc::new(class), priority, replicated };
        if let Some(number) = self.numbers.get(&kind) {
            return *number;
        }
        // There are no more of them than jobs in a page.
        let number = u32::try_from(self.kinds.len()).unwrap_or(u32::MAX);
        self.kinds.push(kind.clone());
        self.numbers.insert(kind, number);
        number
    }
}

/// Whether there may be more in a job's class than its topic: whether its request requires something, or has a label, which may
/// name a place.
fn asks_for_a_place(request: &Bytes) -> bool {
    let places = JobPlaces::decode(request.clone()).unwrap_or_default();
    !places.labels.is_empty() || places.meta.is_some_and(|meta| !meta.requires.is_empty())
}

/// Speaks against what belongs to a job that was cancelled. A parent that is not known, or not any more, cancels nothing.
async fn check_parents<R: Records>(outcomes: &mut [Outcome], records: &R) -> Result<(), StoreError> {
    let parents: BTreeSet<String> =
        outcomes.iter().flatten().map(|p| p.job.parent_job_id.clone()).filter(|parent| !parent.is_empty()).collect();
    if parents.is_empty() {
        return Ok(());
    }
    let stored = records.read(parents.iter().map(|parent| busbar_protocol::keys::job(parent)).collect()).await?;
    let is_cancelled = |stored: &Stored| {
        let job = Job::decode(&stored.value).ok();
        job.is_some_and(|job| job.cancel.is_some() || job.state.tag() == JobState::Cancelled)
    };
    let cancelled: BTreeSet<&String> = parents
        .iter()
        .zip(&stored)
        .filter(|(_, stored)| stored.as_ref().is_some_and(is_cancelled))
        .map(|(name, _)| name)
        .collect();
    for prepared in outcomes.iter_mut().flatten().filter(|prepared| cancelled.contains(&prepared.job.parent_job_id)) {
        prepared.against = Some(parent_cancelled(&prepared.job.parent_job_id));
    }
    Ok(())
}

/// Validates the inputs of topics that have a schema. Those are read that did not come with their submissions.
async fn check_inputs<R: Records>(outcomes: &mut [Outcome], library: &Library, records: &R) -> Result<(), StoreError> {
    let has_schema = |prepared: &&Prepared| library.input_schema(&prepared.job.topic).is_some();
    let stored = outcomes.iter().flatten().filter(has_schema).filter(|prepared| prepared.birth.input.is_none());
    let keys: Vec<String> = stored.map(|prepared| busbar_protocol::keys::context(prepared.job.id.as_str())).collect();
    let read = if keys.is_empty() { Vec::new() } else { records.payloads(keys).await? };
    let mut read = read.into_iter();
    for outcome in outcomes.iter_mut() {
        let Some(prepared) = outcome.as_ref().ok().filter(has_schema) else { continue };
        let input = prepared.birth.input.clone().or_else(|| read.next().flatten());
        if let Err(refusal) = check_input(prepared, library, input) {
            *outcome = Err(refusal);
        }
    }
    Ok(())
}

fn check_input(prepared: &Prepared, library: &Library, input: Option<Bytes>) -> Result<(), Problem> {
    let topic = &prepared.job.topic;
    let Some(schema) = library.input_schema(topic) else { return Ok(()) };
    let id = &prepared.job.id;
    let input = input.ok_or_else(|| problem(Code::PayloadMissing, format!("there is nothing at redis://ctx:{id}")))?;
    schema.validate(&input).map_err(|violation| problem(Code::InputInvalid, violation.to_string()))
}

/// Asks the kernel. Where it does not answer, the jobs stay undecided. Returns those that it would redact and whose inputs it cannot
/// have seen, undecided too.
async fn decide<'a, J: Judge>(
    mut undecided: Vec<&'a mut Prepared>,
    judge: &J,
    traces: &Traces,
    limits: &Limits,
    now: Timestamp,
) -> Vec<&'a mut Prepared> {
    let ask = |prepared: &mut &mut Prepared| {
        let request = prepared.request.take();
        traces.question(&prepared.job, request.map(|request| *request))
    };
    let questions: Vec<_> = undecided.iter_mut().map(ask).collect();
    if questions.is_empty() {
        return Vec::new();
    }
    let answers = match judge.check(questions).await {
        Ok(answers) if answers.responses.len() == undecided.len() => answers.responses,
        Ok(_) | Err(_) => {
            for prepared in undecided {
                Arc::make_mut(&mut prepared.job).state = State::Pending { not_before: now.after_millis(UNDECIDED_RETRY_MS) };
            }
            return Vec::new();
        }
    };
    let mut unseen = Vec::new();
    for (prepared, answer) in undecided.into_iter().zip(answers) {
        if answer.decision() == DecisionType::Redact && prepared.birth.input.is_some() {
            unseen.push(prepared);
            continue;
        }
        let event = Event::Decided(verdict::verdict(&prepared.job, &answer, now));
        if let Ok(change) = transition::decide(&prepared.job, &event, limits, now) {
            prepared.job = Arc::new(change.next);
            prepared.passed.push(prepared.job.state.tag());
            prepared.passed.dedup();
        }
    }
    unseen
}

/// Puts inputs that came with their submissions where the kernel finds them, as if their submitters had done so: what it puts in
/// their place must not be overwritten, and no worker may get the originals.
async fn lay_open<R: Records>(unseen: &mut [&mut Prepared], records: &R) -> Result<(), StoreError> {
    let put = |prepared: &mut &mut Prepared| {
        let input = prepared.birth.input.take()?;
        Some(commit::put_input(prepared.job.id.as_str(), input, CommitId::generate()))
    };
    records.commit(CommitClass::Admit, unseen.iter_mut().filter_map(put).collect::<Vec<_>>()).await.map(drop)
}
