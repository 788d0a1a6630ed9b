//! A stand-in for the workflow engine: it speaks its messages and keeps its records, and lets the tests decide what happens to a run.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use busbar_bus::NatsBus;
use busbar_protocol::busbar::{
    DefineReply, DefineRequest, Problem, RemoveReply, RemoveRequest, RunCancelReply, RunCancelRequest, RunEnd, RunEvent,
    RunEventBatch, RunEventEntry, RunHoldRequest, RunRecord, RunState, StartReply, StartRequest, Started, StepRecord,
    WorkflowHead, WorkflowVersion, run_cancel_reply, start_reply,
};
use busbar_protocol::ports::{Answer, Bus, CommitClass, CommitId, Guard, Headers, Message, Records, Unit, Write};
use busbar_protocol::prost::Message as _;
use busbar_protocol::{keys, subjects};
use busbar_store::Store;
use futures::StreamExt as _;
use serde_json::Value;

use crate::support::Fixture;

/// When the first run began.
const START_MS: u64 = 1_700_000_000_000;

#[derive(Clone)]
pub(crate) struct Engine {
    bus: NatsBus,
    store: Store,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    heads: BTreeMap<String, WorkflowHead>,
    runs: BTreeMap<String, RunRecord>,
    starts: Vec<StartRequest>,
    clock_ms: u64,
    cursor: u64,
    /// Commits, but never answers.
    mute: bool,
    /// How many more starts are refused because another engine takes over.
    replaced: u32,
}

fn refused(code: &str) -> Problem {
    Problem { code: code.to_owned(), detail: format!("{code} says the engine"), retry_after_ms: 0 }
}

impl Engine {
    pub(crate) async fn start(fixture: &Fixture) -> Self {
        let engine = Self { bus: fixture.bus.clone(), store: fixture.store.clone(), state: Arc::default() };
        for subject in [
            subjects::ENGINE_DEFINE,
            subjects::ENGINE_REMOVE,
            subjects::ENGINE_START,
            subjects::ENGINE_CANCEL,
            subjects::ENGINE_PAUSE,
            subjects::ENGINE_RESUME,
        ] {
            let mut requests = engine.bus.subscribe(subject, None).await.expect("subscribed");
            let own = engine.clone();
            tokio::spawn(async move {
                while let Some(message) = requests.next().await {
                    own.answer(message).await;
                }
            });
        }
        engine
    }

    pub(crate) fn be_mute(&self) {
        self.state.lock().expect("not poisoned").mute = true;
    }

    pub(crate) fn be_replaced(&self, starts: u32) {
        self.state.lock().expect("not poisoned").replaced = starts;
    }

    /// What it was asked to start.
    pub(crate) fn starts(&self) -> Vec<StartRequest> {
        self.state.lock().expect("not poisoned").starts.clone()
    }

    async fn answer(&self, message: Message) {
        let payload = message.payload.clone();
        let reply = match message.subject.as_str() {
            subjects::ENGINE_DEFINE => self.define(DefineRequest::decode(payload).expect("a definition")).await.encode_to_vec(),
            subjects::ENGINE_REMOVE => self.remove(&RemoveRequest::decode(payload).expect("a removal")).encode_to_vec(),
            subjects::ENGINE_START => self.begin(StartRequest::decode(payload).expect("a start")).await.encode_to_vec(),
            subjects::ENGINE_PAUSE => {
                self.hold(&RunHoldRequest::decode(payload).expect("a pause"), RunState::Paused).encode_to_vec()
            }
            subjects::ENGINE_RESUME => {
                self.hold(&RunHoldRequest::decode(payload).expect("a resumption"), RunState::Running).encode_to_vec()
            }
            _ => self.cancel(&RunCancelRequest::decode(payload).expect("a cancellation")).await.encode_to_vec(),
        };
        if !self.state.lock().expect("not poisoned").mute {
            self.bus.publish(&message.reply.expect("a request"), Headers::new(), reply.into()).await.expect("published");
        }
    }

    pub(crate) async fn define(&self, request: DefineRequest) -> DefineReply {
        let document: Value = serde_json::from_slice(&request.document).expect("JSON");
        let Some(id) = document["id"].as_str().map(str::to_owned) else {
            return DefineReply { problem: Some(refused("workflow_invalid")), ..DefineReply::default() };
        };
        let (head, created) = self.next_head(&request, &id, &document);
        if created {
            let version = WorkflowVersion {
                version: 1,
                workflow_id: id.clone(),
                tenant_id: request.tenant_id.clone(),
                number: head.newest,
                document: request.document,
                created_ms: head.updated_ms,
                created_by: request.requested_by,
            };
            let number = head.newest;
            self.put(keys::workflow(&head.tenant_id, &id), head.encode_to_vec(), Vec::new()).await;
            let index = keys::index_workflows(&head.tenant_id);
            let listed = Write::IndexAdd { index, member: id.clone(), score: i64::try_from(head.updated_ms).expect("small") };
            self.put(keys::workflow_version(&head.tenant_id, &id, number), version.encode_to_vec(), vec![listed]).await;
        }
        DefineReply { workflow_id: id, number: head.newest, created, problem: None }
    }

    fn next_head(&self, request: &DefineRequest, id: &str, document: &Value) -> (WorkflowHead, bool) {
        let mut state = self.state.lock().expect("not poisoned");
        let now = state.tick();
        let head = state.heads.entry(keys::workflow(&request.tenant_id, id)).or_default();
        let created = head.sha256 != request.document;
        if created {
            *head = WorkflowHead {
                version: 1,
                workflow_id: id.to_owned(),
                tenant_id: request.tenant_id.clone(),
                newest: head.newest + 1,
                sha256: request.document.clone(),
                title: document["title"].as_str().unwrap_or_default().to_owned(),
                pack_id: request.pack_id.clone(),
                updated_ms: now,
                ..WorkflowHead::default()
            };
        }
        (head.clone(), created)
    }

    fn remove(&self, request: &RemoveRequest) -> RemoveReply {
        let mut state = self.state.lock().expect("not poisoned");
        let live = |run: &RunRecord| run.workflow_id == request.workflow_id && run.state() == RunState::Running;
        if state.runs.values().any(live) {
            return RemoveReply { problem: Some(refused("workflow_in_use")) };
        }
        let removed = state.heads.remove(&keys::workflow(&request.tenant_id, &request.workflow_id));
        RemoveReply { problem: removed.is_none().then(|| refused("workflow_not_found")) }
    }

    async fn begin(&self, request: StartRequest) -> StartReply {
        let answer = match self.admit(&request) {
            Ok(record) => {
                let created = i64::try_from(record.created_ms).expect("small");
                let listed = [keys::index_runs(&record.tenant_id), keys::index_runs_of(&record.tenant_id, &record.workflow_id)];
                let listed = listed.map(|index| Write::IndexAdd { index, member: record.run_id.clone(), score: created });
                let mut writes = vec![Write::Persist { key: keys::run_input(&record.run_id) }];
                writes.extend(listed);
                self.put(keys::run(&record.run_id), record.encode_to_vec(), writes).await;
                self.tell(&record, None).await;
                start_reply::Answer::Started(Started {
                    run_id: record.run_id,
                    workflow_id: record.workflow_id,
                    workflow_version: record.workflow_version,
                    state: record.state,
                    existing: false,
                })
            }
            Err(problem) => start_reply::Answer::Rejected(problem),
        };
        StartReply { answer: Some(answer) }
    }

    fn admit(&self, request: &StartRequest) -> Result<RunRecord, Problem> {
        let mut state = self.state.lock().expect("not poisoned");
        state.starts.push(request.clone());
        if state.replaced > 0 {
            state.replaced -= 1;
            return Err(refused("engine_unavailable"));
        }
        let head = state.heads.get(&keys::workflow(&request.tenant_id, &request.workflow_id)).cloned();
        let head = head.ok_or_else(|| refused("workflow_not_found"))?;
        let created_ms = state.tick();
        let record = RunRecord {
            version: 1,
            run_id: request.run_id.clone(),
            tenant_id: request.tenant_id.clone(),
            workflow_id: head.workflow_id,
            workflow_version: if request.workflow_version == 0 { head.newest } else { request.workflow_version },
            workflow_tenant_id: head.tenant_id,
            trace_id: request.trace_id.clone(),
            labels: request.labels.clone(),
            created_ms,
            steps: vec!["split".to_owned(), "map".to_owned()],
            state: RunState::Running.into(),
            ..RunRecord::default()
        };
        state.runs.insert(record.run_id.clone(), record.clone());
        Ok(record)
    }

    async fn cancel(&self, request: &RunCancelRequest) -> RunCancelReply {
        let run = self.state.lock().expect("not poisoned").runs.get(&request.run_id).cloned();
        let answer = match run.filter(|run| run.tenant_id == request.tenant_id) {
            None => run_cancel_reply::Answer::Rejected(refused("run_not_found")),
            Some(run) if run.state() != RunState::Running => run_cancel_reply::Answer::Rejected(refused("run_terminal")),
            Some(run) => {
                self.finish(&run.run_id, RunState::Cancelled, None).await;
                run_cancel_reply::Answer::State(RunState::Cancelled.into())
            }
        };
        RunCancelReply { answer: Some(answer) }
    }

    /// A run that has not ended is said to be in the state that was asked for.
    fn hold(&self, request: &RunHoldRequest, state: RunState) -> RunCancelReply {
        let run = self.state.lock().expect("not poisoned").runs.get(&request.run_id).cloned();
        let answer = match run.filter(|run| run.tenant_id == request.tenant_id) {
            None => run_cancel_reply::Answer::Rejected(refused("run_not_found")),
            Some(run) if run.state() != RunState::Running => run_cancel_reply::Answer::Rejected(refused("run_terminal")),
            Some(_) => run_cancel_reply::Answer::State(state.into()),
        };
        RunCancelReply { answer: Some(answer) }
    }

    /// Writes a step of a run, and tells of it.
    pub(crate) async fn step(&self, run_id: &str, step: StepRecord) {
        let run = self.state.lock().expect("not poisoned").runs.get(run_id).cloned().expect("a run");
        self.put(keys::step(run_id, &step.step_id), step.encode_to_vec(), Vec::new()).await;
        self.tell(&run, Some(&step)).await;
    }

    /// Ends a run, with an output where it succeeded.
    pub(crate) async fn finish(&self, run_id: &str, end: RunState, output: Option<&str>) {
        let run = {
            let mut state = self.state.lock().expect("not poisoned");
            let ended_ms = state.tick();
            let run = state.runs.get_mut(run_id).expect("a run");
            run.state = end.into();
            run.ended_ms = ended_ms;
            run.output_bytes = output.map_or(0, |output| output.len() as u64);
            if output.is_none() {
                let (error_code, step_id) = ("step_failed".to_owned(), "map".to_owned());
                run.ending = Some(RunEnd { state: end.into(), error_code, error_message: "it failed".to_owned(), step_id });
            }
            run.clone()
        };
        if let Some(output) = output {
            self.store.put_payload(&keys::run_output(run_id), output.to_owned().into(), None).await.expect("stored");
        }
        self.put(keys::run(run_id), run.encode_to_vec(), Vec::new()).await;
        self.tell(&run, None).await;
    }

    async fn tell(&self, run: &RunRecord, step: Option<&StepRecord>) {
        let (after, cursor, at_ms) = {
            let mut state = self.state.lock().expect("not poisoned");
            state.cursor += 1;
            (format!("{}-0", state.cursor - 1), format!("{}-0", state.cursor), state.tick())
        };
        let change = |step: &StepRecord| busbar_protocol::busbar::StepChange {
            step_id: step.step_id.clone(),
            state: step.state,
            attempt: step.attempt,
            job_id: step.job_id.clone(),
            ..Default::default()
        };
        let event = RunEvent {
            run_id: run.run_id.clone(),
            at_ms,
            state: run.state,
            ending: run.ending.clone(),
            changes: step.map(change).into_iter().collect(),
            ..RunEvent::default()
        };
        let log = keys::run_timeline(&run.run_id);
        self.commit(Unit {
            id: CommitId::generate(),
            guards: Vec::new(),
            writes: vec![Write::Append { log, value: event.encode_to_vec().into(), keep: 1000 }],
        })
        .await;
        let batch = RunEventBatch { after, entries: vec![RunEventEntry { cursor, event: Some(event) }] };
        self.bus.publish(subjects::RUN_EVENT, Headers::new(), batch.encode_to_vec().into()).await.expect("published");
    }

    /// Writes a record over whatever stands there.
    async fn put(&self, key: String, value: Vec<u8>, more: Vec<Write>) {
        let present = self.store.read(vec![key.clone()]).await.expect("read").remove(0).map_or(0, |stored| stored.revision);
        let guard = match present {
            0 => Guard::Absent { key: key.clone() },
            revision => Guard::Revision { key: key.clone(), revision },
        };
        let mut writes = vec![Write::Put { key, revision: present + 1, value: value.into(), expire: None }];
        writes.extend(more);
        self.commit(Unit { id: CommitId::generate(), guards: vec![guard], writes }).await;
    }

    async fn commit(&self, unit: Unit) {
        let answers = self.store.commit(CommitClass::Advance, vec![unit]).await.expect("committed");
        assert!(matches!(answers[..], [Answer::Applied { .. }]), "{answers:?}");
    }
}

impl State {
    fn tick(&mut self) -> u64 {
        self.clock_ms = self.clock_ms.max(START_MS) + 1;
        self.clock_ms
    }
}
