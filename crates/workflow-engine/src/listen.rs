//! What the engine hears: questions, and word about jobs. What needs the store to be answered is prepared here, several at once;
//! what changes something goes into the loop.

use std::sync::Arc;
use std::time::Duration;

use busbar_protocol::busbar::{
    DefineReply, DefineRequest, JobEventGists, JobState, Problem, RemoveReply, RemoveRequest, RunCancelReply, RunCancelRequest,
    RunHoldRequest, StartReply, StartRequest, WorkflowHead, WorkflowVersion, run_cancel_reply, start_reply,
};
use busbar_protocol::codes::Code;
use busbar_protocol::ports::{
    Answer, Bus, BusError, Clock, CommitClass, CommitId, Guard, Headers, Message, Records, StoreError, Unit, Write,
};
use busbar_protocol::prost::{self, Message as _};
use busbar_protocol::time::Timestamp;
use busbar_protocol::{ids, keys, subjects};
use busbar_rules::expr::Value;
use futures::StreamExt as _;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::core::run::{Head, RECORD_VERSION, Run};
use crate::core::workflow::Workflow;
use crate::input::Input;
use crate::library::{self, Library, LibraryError};
use crate::service::Ports;
use crate::starts::{self, Wanted};

/// How many questions are prepared at once.
const PREPARE_MAX: usize = 32;
/// The most versions of one workflow: whoever saves so often can take it away and begin again.
const VERSIONS_MAX: u32 = 1_000;
/// The most labels of a run.
const LABELS_MAX: usize = 40;
const LABEL_BYTES_MAX: usize = 256;
/// How often jobs are looked at of which nothing was heard.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What the listeners work with.
pub(crate) struct Ears<B, R, C> {
    pub(crate) ports: Ports<B, R, C>,
    pub(crate) inputs: mpsc::Sender<Input>,
    pub(crate) library: Library,
    pub(crate) epoch: u64,
}

/// A refusal.
pub(crate) fn problem(code: Code, detail: impl Into<String>) -> Problem {
    let retry_after_ms = if matches!(code, Code::StoreUnavailable | Code::MemoryShort | Code::RunsFull) { 1_000 } else { 0 };
    Problem { code: code.as_str().to_owned(), detail: detail.into(), retry_after_ms }
}

fn of_store(error: &StoreError) -> Problem {
    let code = match error {
        StoreError::Unavailable { .. } => Code::StoreUnavailable,
        StoreError::MemoryShort => Code::MemoryShort,
        StoreError::Refused { .. } | StoreError::Corrupt { .. } => Code::Internal,
    };
    problem(code, error.to_string())
}

fn of_library(error: LibraryError) -> Problem {
    match error {
        LibraryError::Store(error) => of_store(&error),
        LibraryError::Problem { code, detail } => problem(code, detail),
    }
}

impl<B: Bus, R: Records, C: Clock> Ears<B, R, C> {
    /// Starts to listen. When this returns, the server knows of it.
    pub(crate) async fn start(self: Arc<Self>, tasks: &mut JoinSet<()>) -> Result<(), BusError> {
        for subject in subjects::ENGINE_QUESTIONS {
            let messages = self.ports.bus.subscribe(subject, Some(subjects::ENGINE_QUEUE)).await?;
            let ears = Arc::clone(&self);
            tasks.spawn(async move {
                let each = |message| {
                    let ears = Arc::clone(&ears);
                    async move { ears.hear(subject, message).await }
                };
                messages.for_each_concurrent(PREPARE_MAX, each).await;
            });
        }
        let events = self.ports.bus.subscribe(subjects::JOB_EVENT, None).await?;
        let ears = Arc::clone(&self);
        tasks.spawn(async move { ears.follow(events).await });
        tasks.spawn(async move {
            loop {
                self.ports.clock.sleep(LOOK_EVERY).await;
                self.send(Input::Look).await;
            }
        });
        Ok(())
    }

    async fn send(&self, input: Input) {
        // The loop ends before its ears do; what arrives afterwards is for whoever is active then.
        let _ = self.inputs.send(input).await;
    }

    /// Follows the ends of jobs. A gap means that something was missed.
    async fn follow(&self, mut events: busbar_protocol::ports::Subscription) {
        let mut last: Option<String> = None;
        while let Some(message) = events.next().await {
            let Ok(batch) = JobEventGists::decode(message.payload) else { continue };
            if last.as_ref().is_some_and(|last| *last != batch.after) {
                self.send(Input::Missed).await;
            }
            last = Some(batch.entries.last().map_or_else(|| batch.after.clone(), |entry| entry.cursor.clone()));
            let over = batch.entries.into_iter().filter_map(|entry| entry.event);
            let over = over.filter(|event| event.states().next_back().is_some_and(JobState::is_terminal));
            // Only jobs of runs have a colon in their names after a run's id; the loop knows which are ours.
            let ended: Vec<String> = over.map(|event| event.job_id).filter(|id| id.contains(':')).collect();
            if !ended.is_empty() {
                self.send(Input::Ended(ended)).await;
            }
        }
    }

    async fn hear(&self, subject: &'static str, message: Message) {
        let Some(reply) = message.reply else { return };
        match subject {
            subjects::ENGINE_DEFINE => {
                let answer = match DefineRequest::decode(message.payload) {
                    Ok(request) => self.define(request).await,
                    Err(error) => Err(malformed(&error)),
                };
                let refused = |refusal| DefineReply { problem: Some(refusal), ..DefineReply::default() };
                self.answer(&reply, &answer.unwrap_or_else(refused)).await;
            }
            subjects::ENGINE_REMOVE => {
                let outcome = match RemoveRequest::decode(message.payload) {
                    Ok(request) => self.remove(request, &reply).await,
                    Err(error) => Err(malformed(&error)),
                };
                if let Err(refusal) = outcome {
                    self.answer(&reply, &RemoveReply { problem: Some(refusal) }).await;
                }
            }
            subjects::ENGINE_START => {
                let refused = match StartRequest::decode(message.payload) {
                    Ok(request) => self.begin(request, &reply).await,
                    Err(error) => Err(malformed(&error)),
                };
                if let Err(refusal) = refused {
                    self.answer(&reply, &StartReply { answer: Some(start_reply::Answer::Rejected(refusal)) }).await;
                }
            }
            subjects::ENGINE_CANCEL => match RunCancelRequest::decode(message.payload) {
                Ok(request) => self.send(Input::Cancel { request, reply }).await,
                Err(error) => {
                    let answer = Some(run_cancel_reply::Answer::Rejected(malformed(&error)));
                    self.answer(&reply, &RunCancelReply { answer }).await;
                }
            },
            subjects::ENGINE_PAUSE | subjects::ENGINE_RESUME => match RunHoldRequest::decode(message.payload) {
                Ok(request) => self.send(Input::Hold { request, pause: subject == subjects::ENGINE_PAUSE, reply }).await,
                Err(error) => {
                    let answer = Some(run_cancel_reply::Answer::Rejected(malformed(&error)));
                    self.answer(&reply, &RunCancelReply { answer }).await;
                }
            },
            _ => self.send(Input::Status { reply }).await,
        }
    }

    async fn answer<M: prost::Message>(&self, reply: &str, message: &M) {
        if let Err(error) = self.ports.bus.publish(reply, Headers::new(), message.encode_to_vec().into()).await {
            tracing::debug!(%error, "an answer was not sent");
        }
    }

    /// Saves a workflow.
    async fn define(&self, request: DefineRequest) -> Result<DefineReply, Problem> {
        let invalid = |detail: String| problem(Code::WorkflowInvalid, detail);
        let workflow = Workflow::compile(&request.document).map_err(|broken| invalid(broken.to_string()))?;
        let prefix = workflow.id.split_once('.').map(|(pack, _)| pack);
        if !request.pack_id.is_empty() && !request.tenant_id.is_empty() {
            return Err(invalid("a pack's workflow belongs to no tenant".to_owned()));
        }
        if !request.pack_id.is_empty() && prefix != Some(request.pack_id.as_str()) {
            return Err(invalid(format!("id: the workflows of the pack {0} must begin with `{0}.`", request.pack_id)));
        }
        if request.pack_id.is_empty() && (request.tenant_id.is_empty() || ids::check(&request.tenant_id).is_err()) {
            return Err(problem(Code::FieldInvalid, "tenant_id: a workflow belongs to a tenant or to a pack"));
        }
        let present =
            library::head(&self.ports.records, &request.tenant_id, &workflow.id).await.map_err(|error| of_store(&error))?;
        if let Some((head, _)) = &present
            && head.pack_id != request.pack_id
        {
            return Err(invalid(format!("id: the workflow {} belongs to the pack {}", workflow.id, head.pack_id)));
        }
        let sha256 = Sha256::digest(&request.document).to_vec();
        match &present {
            Some((head, _)) if head.sha256 == sha256 => {
                return Ok(DefineReply { workflow_id: workflow.id, number: head.newest, ..DefineReply::default() });
            }
            Some((head, _)) if head.newest >= VERSIONS_MAX => {
                return Err(invalid(format!("it has {VERSIONS_MAX} versions already: take it away and save it again")));
            }
            _ => {}
        }
        let number = present.as_ref().map_or(1, |(head, _)| head.newest + 1);
        let reply = DefineReply { workflow_id: workflow.id.clone(), number, created: true, problem: None };
        if request.check_only {
            return Ok(reply);
        }
        let unit =
            define_unit(&Definition { request, workflow, sha256, present, number, epoch: self.epoch }, self.ports.clock.now());
        match self.commit(unit).await? {
            Answer::Applied { .. } | Answer::Already => Ok(reply),
            Answer::Conflict { .. } | Answer::GuardFailed { .. } => Err(problem(
                Code::StoreUnavailable,
                "somebody else saved it at the same time, or the engine was replaced: try again",
            )),
        }
    }

    async fn commit(&self, unit: Unit) -> Result<Answer, Problem> {
        let answers = self.ports.records.commit(CommitClass::Admit, vec![unit]).await.map_err(|error| of_store(&error))?;
        answers.into_iter().next().ok_or_else(|| problem(Code::Internal, "the store gave no answer"))
    }

    /// Finds what is to be taken away; the loop knows whether runs of it are live.
    async fn remove(&self, request: RemoveRequest, reply: &str) -> Result<(), Problem> {
        let RemoveRequest { workflow_id, tenant_id, pack_id, check_only } = request;
        let present = library::head(&self.ports.records, &tenant_id, &workflow_id).await.map_err(|error| of_store(&error))?;
        let found = present.filter(|(head, _)| head.pack_id == pack_id);
        let Some((head, revision)) = found else {
            return Err(problem(
                Code::WorkflowNotFound,
                format!("no workflow {workflow_id:?} is known that could be taken away so"),
            ));
        };
        self.send(Input::Remove { head, revision, check_only, reply: reply.to_owned() }).await;
        Ok(())
    }

    /// Answers where the run is there already, or makes one and sends it into the loop. What is there is found before anything
    /// is checked that may have changed since it began.
    async fn begin(&self, request: StartRequest, reply: &str) -> Result<(), Problem> {
        let field = |detail: &str| problem(Code::FieldInvalid, detail);
        if uuid::Uuid::parse_str(&request.run_id).is_err() {
            return Err(field("run_id: a UUID is wanted"));
        }
        if ids::check(&request.tenant_id).is_err() {
            return Err(field("tenant_id: an identifier is wanted"));
        }
        let wanted = Wanted {
            run_id: &request.run_id,
            tenant_id: &request.tenant_id,
            workflow_id: &request.workflow_id,
            idempotency_key: &request.idempotency_key,
        };
        match starts::find(&self.ports.records, wanted).await.map_err(|error| of_store(&error))? {
            Some(answer) => self.answer(reply, &StartReply { answer: Some(answer) }).await,
            None => {
                let run = Box::new(self.prepare(request).await?);
                self.send(Input::Start { run, reply: reply.to_owned() }).await;
            }
        }
        Ok(())
    }

    /// Makes a run of a question.
    async fn prepare(&self, request: StartRequest) -> Result<Run, Problem> {
        let labels_good = request.labels.len() <= LABELS_MAX
            && request
                .labels
                .iter()
                .all(|(name, value)| (1..=LABEL_BYTES_MAX).contains(&name.len()) && value.len() <= LABEL_BYTES_MAX)
            && !request.labels.keys().any(|name| name.starts_with("approval_"));
        if !labels_good {
            return Err(problem(
                Code::FieldInvalid,
                format!(
                    "labels: at most {LABELS_MAX}, names and values of at most {LABEL_BYTES_MAX} bytes, none beginning with approval_"
                ),
            ));
        }
        let records = &self.ports.records;
        let head = Library::find(records, &request.tenant_id, &request.workflow_id).await.map_err(of_library)?;
        let number = if request.workflow_version == 0 { head.newest } else { request.workflow_version };
        let workflow = self.library.version(records, &head.tenant_id, &head.workflow_id, number).await.map_err(of_library)?;
        let input = self.input(&request.run_id).await?;
        if let Some(schema) = &workflow.input_schema {
            let broken = |violation: busbar_rules::Violation| problem(Code::InputInvalid, format!("{violation}"));
            schema.validate_value(&input).map_err(broken)?;
        }
        let now = self.ports.clock.now();
        let run = Head {
            id: request.run_id,
            tenant_id: request.tenant_id,
            workflow_id: head.workflow_id,
            workflow_tenant_id: head.tenant_id,
            workflow_version: number,
            trace_id: if request.trace_id.is_empty() { ids::generate_trace() } else { request.trace_id },
            traceparent: request.traceparent,
            requested_by: request.requested_by,
            idempotency_key: request.idempotency_key,
            labels: request.labels.into_iter().collect(),
            created: now,
            input_bytes: request.input_bytes,
            deadline: workflow.timeout.map(|timeout| now.after(timeout)),
        };
        Ok(Run::new(run, workflow, Value::from_json(&input)))
    }

    async fn input(&self, run_id: &str) -> Result<serde_json::Value, Problem> {
        let stored = self.ports.records.payloads(vec![keys::run_input(run_id)]).await.map_err(|error| of_store(&error))?;
        let Some(bytes) = stored.into_iter().next().flatten() else {
            return Err(problem(Code::PayloadMissing, format!("there is no input at {}", keys::run_input(run_id))));
        };
        serde_json::from_slice(&bytes).map_err(|error| problem(Code::InputInvalid, format!("the input is no JSON: {error}")))
    }
}

/// What is to be saved.
struct Definition {
    request: DefineRequest,
    workflow: Workflow,
    sha256: Vec<u8>,
    present: Option<(WorkflowHead, u64)>,
    number: u32,
    epoch: u64,
}

fn define_unit(definition: &Definition, now: Timestamp) -> Unit {
    let Definition { request, workflow, sha256, present, number, epoch } = definition;
    let key = keys::workflow(&request.tenant_id, &workflow.id);
    let (guard, revision) = match present {
        Some((_, revision)) => (Guard::Revision { key: key.clone(), revision: *revision }, revision + 1),
        None => (Guard::Absent { key: key.clone() }, 1),
    };
    let head = WorkflowHead {
        version: RECORD_VERSION,
        workflow_id: workflow.id.clone(),
        tenant_id: request.tenant_id.clone(),
        newest: *number,
        sha256: sha256.clone().into(),
        title: workflow.title.clone(),
        description: workflow.description.clone(),
        pack_id: request.pack_id.clone(),
        created_ms: present.as_ref().map_or(now.millis(), |(head, _)| head.created_ms),
        updated_ms: now.millis(),
    };
    let version = WorkflowVersion {
        version: RECORD_VERSION,
        workflow_id: workflow.id.clone(),
        tenant_id: request.tenant_id.clone(),
        number: *number,
        document: request.document.clone(),
        created_ms: now.millis(),
        created_by: request.requested_by.clone(),
    };
    let version_key = keys::workflow_version(&request.tenant_id, &workflow.id, *number);
    let score = i64::try_from(now.millis()).unwrap_or(i64::MAX);
    let index = keys::index_workflows(&request.tenant_id);
    Unit {
        id: CommitId::generate(),
        guards: vec![Guard::Epoch { lock: keys::LOCK_ENGINE.to_owned(), epoch: *epoch }, guard],
        writes: vec![
            Write::Put { key, revision, value: head.encode_to_vec().into(), expire: None },
            Write::Put { key: version_key, revision: 1, value: version.encode_to_vec().into(), expire: None },
            Write::IndexAdd { index, member: workflow.id.clone(), score },
        ],
    }
}

fn malformed(error: &prost::DecodeError) -> Problem {
    problem(Code::PacketMalformed, error.to_string())
}
