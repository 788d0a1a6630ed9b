//! Real servers, engines as tasks that can be killed, and a client.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::future::Future;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use busbar_bus::{BusConfig, NatsBus};
use busbar_protocol::busbar::{
    DefineReply, DefineRequest, EngineStatus, EngineStatusRequest, RemoveReply, RemoveRequest, RunCancelReply, RunCancelRequest,
    RunRecord, RunState, StartReply, StartRequest, StepRecord,
};
use busbar_protocol::ports::{Bus, Headers, Records, Subscription, SystemClock};
use busbar_protocol::prost::Message;
use busbar_protocol::{ids, keys, subjects};
use busbar_servers::Stack;
use busbar_store::{Store, StoreConfig};
use busbar_workflow_engine::{EngineConfig, Ports};
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use crate::desk::Desk;

/// Far longer than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const TENANT: &str = "default";

pub(crate) struct Rig {
    pub(crate) bus: NatsBus,
    pub(crate) store: Store,
    pub(crate) desk: Desk,
    /// Ends with the rig.
    _tasks: JoinSet<()>,
    pub(crate) stack: Stack,
}

impl Rig {
    pub(crate) async fn start() -> Self {
        let stack = Stack::start_temp().unwrap();
        let bus = NatsBus::connect(BusConfig::new(stack.nats.url(), "test")).await.unwrap();
        let store = Store::connect(StoreConfig::new(stack.redis.url())).await.unwrap();
        let mut tasks = JoinSet::new();
        let desk = Desk::open(bus.clone(), store.clone(), &mut tasks).await;
        Self { bus, store, desk, _tasks: tasks, stack }
    }

    /// Starts a replica with connections of its own; aborting the task is its death.
    pub(crate) async fn engine(&self, name: &str) -> JoinHandle<()> {
        let bus = NatsBus::connect(BusConfig::new(self.stack.nats.url(), name)).await.unwrap();
        let store = Store::connect(StoreConfig::new(self.stack.redis.url())).await.unwrap();
        let ports = Ports { bus, records: store, clock: SystemClock::start() };
        let config = EngineConfig {
            lease_ttl: Duration::from_millis(600),
            lease_poll: Duration::from_millis(100),
            ..EngineConfig::new(name.to_owned())
        };
        tokio::spawn(async move {
            busbar_workflow_engine::run(config, ports, busbar_service::Telemetry::default(), std::future::pending())
                .await
                .unwrap();
        })
    }

    /// Waits until that replica answers.
    pub(crate) async fn active(&self, name: &str) -> EngineStatus {
        let find = async || {
            let status: EngineStatus = self.ask(subjects::ENGINE_STATUS, &EngineStatusRequest {}).await;
            (status.owner == name).then_some(status)
        };
        until("that engine is active", find).await
    }

    /// Asks until somebody answers.
    pub(crate) async fn ask<A: Message + Default>(&self, subject: &str, question: &impl Message) -> A {
        self.ask_raw(subject, question.encode_to_vec()).await
    }

    pub(crate) async fn ask_raw<A: Message + Default>(&self, subject: &str, question: Vec<u8>) -> A {
        let find = async || {
            let asked = self.bus.request(subject, Headers::new(), question.clone().into(), Duration::from_secs(2)).await;
            asked.ok().map(|message| A::decode(message.payload).unwrap())
        };
        until("somebody answers", find).await
    }

    pub(crate) async fn define(&self, document: &Value) -> DefineReply {
        let request =
            DefineRequest { document: document.to_string().into(), tenant_id: TENANT.to_owned(), ..DefineRequest::default() };
        self.ask(subjects::ENGINE_DEFINE, &request).await
    }

    pub(crate) async fn remove(&self, workflow_id: &str, check_only: bool) -> Option<String> {
        let request = RemoveRequest {
            workflow_id: workflow_id.to_owned(),
            tenant_id: TENANT.to_owned(),
            check_only,
            ..RemoveRequest::default()
        };
        let reply: RemoveReply = self.ask(subjects::ENGINE_REMOVE, &request).await;
        reply.problem.map(|problem| problem.code)
    }

    pub(crate) async fn input(&self, run_id: &str, input: &str) {
        self.store.put_payload(&keys::run_input(run_id), input.to_owned().into(), Some(PATIENCE)).await.unwrap();
    }

    /// A start that is in order, once its input stands.
    pub(crate) fn question(workflow_id: &str) -> StartRequest {
        StartRequest {
            run_id: ids::generate(),
            tenant_id: TENANT.to_owned(),
            workflow_id: workflow_id.to_owned(),
            ..StartRequest::default()
        }
    }

    pub(crate) async fn ask_start(&self, request: &StartRequest) -> StartReply {
        self.ask(subjects::ENGINE_START, request).await
    }

    /// Starts a run and says what it is called.
    pub(crate) async fn start_run(&self, workflow_id: &str, input: &Value) -> String {
        let request = Self::question(workflow_id);
        self.input(&request.run_id, &input.to_string()).await;
        let reply = self.ask_start(&request).await;
        assert!(crate::refusals::code(&reply).is_none(), "{reply:?}");
        request.run_id
    }

    pub(crate) async fn cancel(&self, run_id: &str, tenant_id: &str) -> RunCancelReply {
        let request =
            RunCancelRequest { run_id: run_id.to_owned(), tenant_id: tenant_id.to_owned(), ..RunCancelRequest::default() };
        self.ask(subjects::ENGINE_CANCEL, &request).await
    }

    pub(crate) async fn record<M: Message + Default>(&self, key: String) -> Option<M> {
        let stored = self.store.read(vec![key]).await.unwrap().remove(0)?;
        Some(M::decode(stored.value).unwrap())
    }

    pub(crate) async fn step(&self, run_id: &str, step_id: &str) -> Option<StepRecord> {
        self.record(keys::step(run_id, step_id)).await
    }

    /// Waits for the end of a run.
    pub(crate) async fn ended(&self, run_id: &str) -> RunRecord {
        let find = async || {
            let run: RunRecord = self.record(keys::run(run_id)).await?;
            (run.state() != RunState::Running).then_some(run)
        };
        until("the run has ended", find).await
    }

    /// Waits until a run has succeeded, and gives its output.
    pub(crate) async fn output(&self, run_id: &str) -> Value {
        let run = self.ended(run_id).await;
        assert_eq!(run.state(), RunState::Succeeded, "{:?}", run.ending);
        let output = self.store.payloads(vec![keys::run_output(run_id)]).await.unwrap().remove(0);
        serde_json::from_slice(&output.expect("the run gives something")).unwrap()
    }

    /// In how many seconds a key expires: -1 never, -2 not there.
    pub(crate) fn expires_in(&self, key: &str) -> i64 {
        let mut redis = TcpStream::connect((Ipv4Addr::LOCALHOST, self.stack.redis.port())).unwrap();
        redis.write_all(format!("TTL {key}\r\n").as_bytes()).unwrap();
        let mut line = String::new();
        BufReader::new(redis).read_line(&mut line).unwrap();
        line.trim().trim_start_matches(':').parse().unwrap()
    }

    pub(crate) async fn told(&self) -> Subscription {
        self.bus.subscribe(subjects::RUN_EVENT, None).await.unwrap()
    }
}

/// Looks again and again until there is something.
pub(crate) async fn until<T>(what: &str, mut find: impl AsyncFnMut() -> Option<T>) -> T {
    let search = async {
        loop {
            if let Some(found) = find().await {
                return found;
            }
            tokio::task::yield_now().await;
        }
    };
    within(what, search).await
}

pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}, but not in time"))
}

/// The next message that is heard.
pub(crate) async fn heard<M: Message + Default>(messages: &mut Subscription) -> M {
    let message = within("something is told", messages.next()).await.unwrap();
    M::decode(message.payload).unwrap()
}

/// A workflow of these steps.
pub(crate) fn document(id: &str, steps: &Value, output: &Value) -> Value {
    json!({"apiVersion": "busbar/v1", "kind": "Workflow", "id": id, "steps": steps, "output": output})
}

/// Doubles numbers, each by a job, and adds them up by another.
pub(crate) fn map_reduce() -> Value {
    let steps = json!({
        "map": {"type": "for_each", "items": "input.numbers", "max_parallel": 64, "topic": "job.double"},
        "reduce": {"type": "job", "depends_on": ["map"], "topic": "job.sum", "input": "${steps.map.output}"},
    });
    document("doubled", &steps, &json!("${steps.reduce.output}"))
}
