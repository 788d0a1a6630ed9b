//! A gateway on real servers, a stand-in for the scheduler, and a small HTTP client.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use busbar_blobs::Blobs;
use busbar_bus::{BusConfig, NatsBus};
use busbar_gateway::{Gateway, GatewayConfig, Grpc, Kit, Listeners, NewKey, Role, create_key};
use busbar_protocol::busbar::{
    AdmitAnswer, AdmitItem, AdmitReply, AdmitRequest, Admitted, CancelAnswer, CancelReply, CancelRequest, Drain, Ended,
    EnrolledKey, JobEvent, JobEventBatch, JobEventEntry, JobOptions, JobPlan, JobRecord, JobState, ListReply, ListRequest, Pause,
    Problem, Scheduled, SchedulerStatus, WorkerKind, WorkerView, WorkersReply, admit_answer, cancel_answer, job_record,
};
use busbar_protocol::cap::JobRequest;
use busbar_protocol::ports::{Answer, Bus, CommitClass, CommitId, Guard, Headers, Message, Records, Unit, Write};
use busbar_protocol::prost::Message as _;
use busbar_protocol::{keys, subjects};
use busbar_rpc::Tls;
use busbar_servers::Stack;
use busbar_store::{Store, StoreConfig};
use bytes::Bytes;
use futures::StreamExt as _;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::contract;

/// No test waits longer than this for anything.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A gateway and everything around it.
pub(crate) struct Fixture {
    pub(crate) bus: NatsBus,
    pub(crate) store: Store,
    pub(crate) kit: Kit,
    pub(crate) address: SocketAddr,
    /// Where it answers over gRPC.
    pub(crate) grpc: SocketAddr,
    /// An admin's key of the tenant `acme`.
    pub(crate) key: String,
    gateway: Option<Gateway>,
    /// Ended last.
    stack: Stack,
}

impl Fixture {
    /// The store of blobs that the gateway has.
    pub(crate) fn blobs(&self) -> Blobs {
        Blobs::open(&busbar_blobs::url_of(&self.stack.temp_dir().expect("temporary").join("blobs"))).expect("blobs")
    }

    /// The keys in Redis that begin with this.
    pub(crate) fn keys(&self, prefix: &str) -> Vec<String> {
        let mut stream = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, self.stack.redis.port())).expect("a connection");
        stream.write_all(format!("KEYS {prefix}*\r\nQUIT\r\n").as_bytes()).expect("written");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        answer.lines().filter(|line| line.starts_with(prefix)).map(str::to_owned).collect()
    }

    pub(crate) async fn start() -> Self {
        Self::start_with(GatewayConfig::default()).await
    }

    pub(crate) async fn start_with(config: GatewayConfig) -> Self {
        Self::start_secured(config, None).await
    }

    /// With TLS on the way in over gRPC.
    pub(crate) async fn start_secured(config: GatewayConfig, tls: Option<Tls>) -> Self {
        let stack = Stack::start_temp().expect("real servers");
        let bus = NatsBus::connect(BusConfig::new(stack.nats.url(), "gateway-test")).await.expect("a bus");
        let store = Store::connect(StoreConfig::new(stack.redis.url())).await.expect("a store");
        let blobs = Blobs::open(&busbar_blobs::url_of(&stack.temp_dir().expect("temporary").join("blobs"))).expect("blobs");
        let kit = Kit::default();
        let listener = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let (http, grpc) = (listener().await.expect("a free port"), listener().await.expect("a free port"));
        let listeners = Listeners { http, grpc: Some(Grpc { listener: grpc, tls }) };
        let gateway = Gateway::start(config, bus.clone(), store.clone(), blobs, listeners, kit.clone()).await.expect("a gateway");
        let (address, key) = (gateway.address(), key(&store, "acme", Role::Admin).await);
        let grpc = gateway.grpc_address().expect("it was asked for");
        Self { bus, store, kit, address, grpc, key, gateway: Some(gateway), stack }
    }

    /// Starts another replica with this configuration, and ends it.
    pub(crate) async fn another(&self, config: GatewayConfig) {
        let blobs = self.blobs();
        let kit = Kit::default();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let gateway =
            Gateway::start(config, self.bus.clone(), self.store.clone(), blobs, listener, kit.clone()).await.expect("a gateway");
        kit.shutdown.trigger();
        gateway.join().await.expect("a clean end");
    }

    /// Asks as the admin of `acme`.
    pub(crate) async fn ask(&self, method: &str, path: &str, body: &str) -> Reply {
        request(self.address, method, path, &[("x-api-key", &self.key)], body.as_bytes()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, "").await
    }

    /// Ends the gateway in good order.
    pub(crate) async fn end(mut self) {
        self.kit.shutdown.trigger();
        self.gateway.take().expect("running").join().await.expect("a clean end");
    }
}

pub(crate) async fn key(store: &Store, tenant: &str, role: Role) -> String {
    let new = NewKey { name: format!("{tenant}-{role}"), tenant_id: tenant.to_owned(), roles: vec![role] };
    create_key(store, &new).await.expect("a key")
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    pub(crate) fn is_problem(&self) -> bool {
        self.headers.get("content-type").is_some_and(|kind| kind == "application/problem+json")
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Checks that this is a problem with its code and status, and returns the detail.
    pub(crate) fn refused(&self, status: u16, code: &str) -> String {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.headers.get("content-type").map(String::as_str), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!((&problem["code"], &problem["status"]), (&Value::from(code), &Value::from(status)), "{problem}");
        problem["detail"].as_str().expect("a detail").to_owned()
    }
}

/// One request over a connection of its own. Its answer must be one that the OpenAPI document allows.
pub(crate) async fn request(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    let reply = exchange(address, method, path, headers, body).await;
    contract::check(method, path, &reply);
    reply
}

/// One request, whatever the answer.
pub(crate) async fn exchange(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let mut stream = TcpStream::connect(address).await.expect("listening");
    stream.write_all(head.as_bytes()).await.expect("sent");
    // A gateway that has answered already may not read on.
    let _ = stream.write_all(body).await;
    let mut answer = Vec::new();
    tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("in time").expect("answered");
    parse(&answer)
}

pub(crate) fn parse(answer: &[u8]) -> Reply {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a status");
    let headers = lines.filter_map(|line| line.split_once(": ")).map(|(name, value)| (name.to_lowercase(), value.to_owned()));
    Reply { status, headers: headers.collect(), body: answer[end + 4..].to_vec() }
}

/// Waits until something holds.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, looking).await.unwrap_or_else(|_| panic!("{what} did not happen in time"))
}

/// What the scheduler is asked for.
const VERBS: [&str; 9] = [
    subjects::ADMIT,
    subjects::SCHEDULER_CANCEL,
    subjects::SCHEDULER_LIST,
    subjects::SCHEDULER_WORKERS,
    subjects::SCHEDULER_EXPLAIN,
    subjects::SCHEDULER_PAUSE,
    subjects::SCHEDULER_DRAIN,
    subjects::SCHEDULER_ENROL,
    subjects::SCHEDULER_REDRIVE,
];

/// Plays the scheduler: admits what has a known topic, keeps records, tells events. Tests end its jobs.
#[derive(Clone)]
pub(crate) struct Scheduler {
    bus: NatsBus,
    pub(crate) store: Store,
    pub(crate) state: Arc<Mutex<State>>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) jobs: BTreeMap<String, JobRecord>,
    /// What each job asked for beyond CAP's request.
    pub(crate) options: BTreeMap<String, JobOptions>,
    /// What is paused, by scope and name.
    pub(crate) pauses: BTreeMap<(i32, String), Pause>,
    pub(crate) drains: BTreeMap<String, Drain>,
    /// The enrolled keys.
    pub(crate) keys: Vec<EnrolledKey>,
    /// How many redrives came in each message, with the times before which nothing starts.
    pub(crate) redrives: Vec<Vec<u64>>,
    /// What the last job that tries another again was to be called.
    pub(crate) last_redrive: String,
    /// How many more redrives are answered only after they were carried out and their answers lost.
    pub(crate) redrives_unanswered: u32,
    /// Items and bytes of every message that came.
    messages: Vec<(usize, usize)>,
    cursor: u64,
    /// Commits, but never answers.
    mute: bool,
    /// How many more admissions are refused because another scheduler takes over.
    replaced: u32,
    created_ms: u64,
    created: BTreeMap<String, u64>,
}

impl Scheduler {
    pub(crate) async fn start(fixture: &Fixture) -> Self {
        let scheduler = Self { bus: fixture.bus.clone(), store: fixture.store.clone(), state: Arc::default() };
        for subject in VERBS {
            let mut requests = scheduler.bus.subscribe(subject, None).await.expect("subscribed");
            let own = scheduler.clone();
            tokio::spawn(async move {
                while let Some(message) = requests.next().await {
                    own.answer(message).await;
                }
            });
        }
        scheduler
    }

    pub(crate) fn be_mute(&self) {
        self.state.lock().expect("not poisoned").mute = true;
    }

    pub(crate) fn be_replaced(&self, admissions: u32) {
        self.state.lock().expect("not poisoned").replaced = admissions;
    }

    pub(crate) fn messages(&self) -> Vec<(usize, usize)> {
        self.state.lock().expect("not poisoned").messages.clone()
    }

    pub(crate) fn job(&self, job_id: &str) -> JobRecord {
        self.state.lock().expect("not poisoned").jobs.get(job_id).cloned().expect("an admitted job")
    }

    /// The live jobs.
    pub(crate) fn live(&self) -> Vec<String> {
        self.state.lock().expect("not poisoned").jobs.keys().cloned().collect()
    }

    /// When a job was created, also after its end.
    pub(crate) fn created_ms(&self, job_id: &str) -> u64 {
        self.state.lock().expect("not poisoned").created.get(job_id).copied().expect("an admitted job")
    }

    async fn answer(&self, message: Message) {
        let reply = match message.subject.as_str() {
            subjects::ADMIT => self.admit(&message).await,
            subjects::SCHEDULER_CANCEL => self.cancel(&message).await,
            subjects::SCHEDULER_LIST => self.list(&message),
            subjects::SCHEDULER_EXPLAIN => self.explain(&message),
            subjects::SCHEDULER_PAUSE => self.pause(&message),
            subjects::SCHEDULER_DRAIN => self.drain(&message),
            subjects::SCHEDULER_ENROL => self.enrol(&message),
            subjects::SCHEDULER_REDRIVE => match self.redrive(&message).await {
                Some(reply) => reply,
                None => return,
            },
            _ => self.workers(),
        };
        let to = message.reply.expect("a request");
        if !self.state.lock().expect("not poisoned").mute {
            self.bus.publish(&to, Headers::new(), reply.into()).await.expect("published");
        }
    }

    async fn admit(&self, message: &Message) -> Vec<u8> {
        let request = AdmitRequest::decode(message.payload.clone()).expect("an admission");
        self.state.lock().expect("not poisoned").messages.push((request.items.len(), message.payload.len()));
        let inputs: Vec<Bytes> = request.items.iter().map(|item| item.input.clone()).collect();
        let decided: Vec<_> = request.items.into_iter().map(|item| self.decide(item)).collect();
        let records: Vec<JobRecord> = decided.iter().filter_map(|answer| answer.as_ref().ok()).cloned().collect();
        let with_inputs = decided.iter().zip(inputs).filter(|(_, input)| !input.is_empty());
        let puts = with_inputs.filter_map(|(decided, input)| {
            let key = keys::context(&decided.as_ref().ok()?.job_id);
            Some(async move { self.store.put_payload(&key, input, None).await.expect("stored") })
        });
        futures::future::join_all(puts).await;
        self.write(&records, None).await;
        let answers = decided.into_iter().map(|decided| {
            let answer = match decided {
                Ok(record) => admit_answer::Answer::Admitted(Admitted {
                    job_id: record.job_id,
                    trace_id: record.trace_id,
                    state: JobState::Scheduled.into(),
                    existing: false,
                }),
                Err(problem) => admit_answer::Answer::Rejected(problem),
            };
            AdmitAnswer { answer: Some(answer) }
        });
        AdmitReply { answers: answers.collect(), problem: None }.encode_to_vec()
    }

    fn decide(&self, item: AdmitItem) -> Result<JobRecord, Problem> {
        let request = JobRequest::decode(item.request.clone()).expect("a request");
        if request.topic == "job.old" && !item.input.is_empty() {
            return Err(Problem { code: "payload_missing".into(), detail: "no input".into(), retry_after_ms: 0 });
        }
        if request.topic.starts_with("job.unknown") {
            let detail = format!("no topic document matches {}", request.topic);
            return Err(Problem { code: "unknown_topic".into(), detail, retry_after_ms: 0 });
        }
        if request.topic == "job.fast" {
            return Err(Problem { code: "rate_exceeded".into(), detail: "too fast".into(), retry_after_ms: 0 });
        }
        if request.topic == "job.full" {
            return Err(Problem { code: "backlog_full".into(), detail: "too many".into(), retry_after_ms: 2500 });
        }
        let mut state = self.state.lock().expect("not poisoned");
        if state.replaced > 0 {
            state.replaced -= 1;
            return Err(Problem { code: "scheduler_unavailable".into(), detail: "replaced".into(), retry_after_ms: 100 });
        }
        state.created_ms = state.created_ms.max(1_700_000_000_000) + 1;
        let record = JobRecord {
            version: 1,
            job_id: request.job_id.clone(),
            tenant_id: item.tenant_id,
            trace_id: item.trace_id,
            traceparent: item.traceparent,
            request: item.request,
            created_ms: state.created_ms,
            updated_ms: state.created_ms,
            plan: Some(JobPlan {
                max_attempts: item.max_attempts,
                concurrency_key: item.options.as_ref().map(|options| options.concurrency_key.clone()).unwrap_or_default(),
                ..JobPlan::default()
            }),
            topic: request.topic,
            priority: request.priority,
            parent_job_id: request.parent_job_id,
            state: Some(job_record::State::Scheduled(Scheduled::default())),
            ..JobRecord::default()
        };
        state.created.insert(request.job_id.clone(), record.created_ms);
        state.options.extend(item.options.map(|options| (request.job_id.clone(), options)));
        state.jobs.insert(request.job_id, record.clone());
        Ok(record)
    }

    /// Writes records, over whatever stands there; with `finished`, into the tenant's index as well.
    pub(crate) async fn write(&self, records: &[JobRecord], finished: Option<()>) {
        for chunk in records.chunks(128) {
            let keys = chunk.iter().map(|record| keys::job(&record.job_id)).collect();
            let present = self.store.read(keys).await.expect("read");
            let units = chunk.iter().zip(present).map(|(record, present)| {
                let key = keys::job(&record.job_id);
                let revision = present.map_or(0, |stored| stored.revision);
                let guard = match revision {
                    0 => Guard::Absent { key: key.clone() },
                    revision => Guard::Revision { key: key.clone(), revision },
                };
                let mut writes =
                    vec![Write::Put { key, revision: revision + 1, value: record.encode_to_vec().into(), expire: None }];
                if finished.is_some() {
                    let score = i64::try_from(record.created_ms).expect("a small number");
                    let index = keys::index_finished(&record.tenant_id);
                    writes.push(Write::IndexAdd { index, member: record.job_id.clone(), score });
                }
                Unit { id: CommitId::generate(), guards: vec![guard], writes }
            });
            let answers = self.store.commit(CommitClass::Advance, units.collect::<Vec<_>>()).await.expect("committed");
            assert!(answers.iter().all(|answer| matches!(answer, Answer::Applied { .. })), "{answers:?}");
        }
    }

    /// Ends a job, with a result where it succeeded.
    pub(crate) async fn finish(&self, job_id: &str, state: JobState, result: Option<&str>) {
        let mut record = self.job(job_id);
        record.attempt = 1;
        record.updated_ms += 5;
        let mut ended = Ended { state: state.into(), worker_id: "w1".into(), execution_ms: 5, ..Ended::default() };
        match result {
            Some(result) => {
                let key = keys::attempt_result(job_id, 1);
                ended.result_ptr = format!("redis://{key}");
                ended.result_bytes = result.len() as u64;
                self.store.put_payload(&key, result.as_bytes().to_vec().into(), None).await.expect("stored");
            }
            None => ended.error_code = "handler_failed".into(),
        }
        record.state = Some(job_record::State::Ended(ended));
        self.state.lock().expect("not poisoned").jobs.remove(job_id);
        self.write(std::slice::from_ref(&record), Some(())).await;
        self.tell(&record, state).await;
    }

    async fn tell(&self, record: &JobRecord, job_state: JobState) {
        let (after, cursor) = {
            let mut state = self.state.lock().expect("not poisoned");
            state.cursor += 1;
            (format!("{}-0", state.cursor - 1), format!("{}-0", state.cursor))
        };
        let result_ptr = match &record.state {
            Some(job_record::State::Ended(ended)) => ended.result_ptr.clone(),
            _ => String::new(),
        };
        let event = JobEvent { job_id: record.job_id.clone(), states: vec![job_state.into()], result_ptr, ..JobEvent::default() };
        let batch = JobEventBatch { after, entries: vec![JobEventEntry { cursor, event: Some(event) }] };
        self.bus.publish(subjects::JOB_EVENT, Headers::new(), batch.encode_to_vec().into()).await.expect("published");
    }

    async fn cancel(&self, message: &Message) -> Vec<u8> {
        let request = CancelRequest::decode(message.payload.clone()).expect("a cancellation");
        let mut answers = Vec::new();
        for item in request.items {
            let known = self.state.lock().expect("not poisoned").jobs.get(&item.job_id).cloned();
            let answer = match known.filter(|record| record.tenant_id == item.tenant_id) {
                Some(record) => {
                    self.finish(&record.job_id, JobState::Cancelled, None).await;
                    cancel_answer::Answer::State(JobState::Cancelled.into())
                }
                None => {
                    let problem = Problem { code: "job_not_found".into(), detail: "unknown".into(), retry_after_ms: 0 };
                    cancel_answer::Answer::Rejected(problem)
                }
            };
            answers.push(CancelAnswer { answer: Some(answer) });
        }
        CancelReply { answers, problem: None }.encode_to_vec()
    }

    fn list(&self, message: &Message) -> Vec<u8> {
        let request = ListRequest::decode(message.payload.clone()).expect("a list");
        let state = self.state.lock().expect("not poisoned");
        let mut jobs: Vec<JobRecord> =
            state.jobs.values().filter(|record| record.tenant_id == request.tenant_id).cloned().collect();
        let place = |record: &JobRecord| (record.created_ms, record.job_id.clone());
        jobs.retain(|record| request.topic.is_empty() || record.topic == request.topic);
        jobs.retain(|_| matches!(request.state(), JobState::Unspecified | JobState::Scheduled));
        jobs.retain(|record| request.before_ms == 0 || place(record) < (request.before_ms, request.before_id.clone()));
        jobs.sort_by_key(|record| std::cmp::Reverse(place(record)));
        jobs.truncate(request.limit as usize);
        ListReply { jobs, ..ListReply::default() }.encode_to_vec()
    }

    fn workers(&self) -> Vec<u8> {
        let drain = self.state.lock().expect("not poisoned").drains.get("w1").cloned();
        let worker = WorkerView {
            worker_id: "w1".into(),
            kind: WorkerKind::Native.into(),
            pool: "default".into(),
            status: if drain.is_some() { "draining" } else { "online" }.into(),
            reason: drain.map(|drain| drain.reason).unwrap_or_default(),
            capacity: 8,
            in_flight: 3,
            last_seen_ms: 1_700_000_000_000,
            prefetch: 2,
            worker_type: "gpu".into(),
            ..WorkerView::default()
        };
        let scheduler = SchedulerStatus {
            owner: "s1".into(),
            epoch: 2,
            live: [("RUNNING".to_owned(), 3)].into(),
            ..SchedulerStatus::default()
        };
        WorkersReply { workers: vec![worker], scheduler: Some(scheduler), problem: None }.encode_to_vec()
    }
}
