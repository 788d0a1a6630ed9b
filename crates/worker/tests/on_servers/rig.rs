//! Real servers, the worker's process, and what the scheduler and the gateway would do for it.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use busbar_blobs::{Blobs, url_of};
use busbar_bus::{BusConfig, NatsBus};
use busbar_protocol::busbar::{ArtifactRecord, Ended, JobRecord, JobState, WorkerBeat, job_record};
use busbar_protocol::cap::bus_packet::Payload;
use busbar_protocol::cap::{DispatchIdentity, JobCancel, JobRequest, JobResult, JobStatus};
use busbar_protocol::ports::{
    Bus, CommitClass, CommitId, Guard, Headers, PullConsumer, Records, Settlement, Subscription, Unit, Write,
};
use busbar_protocol::prost::Message as _;
use busbar_protocol::subjects::{self, Stream};
use busbar_protocol::time::Timestamp;
use busbar_protocol::{envelope, keys};
use busbar_servers::Stack;
use busbar_store::{Store, StoreConfig};
use bytes::Bytes;
use futures::StreamExt as _;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::timeout;

/// Far longer than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
pub(crate) const WORKER: &str = "w1";
pub(crate) const TENANT: &str = "acme";
/// As many as the tests give their worker.
pub(crate) const SLOTS: u32 = 4;

/// Two servers, a blob store and what the scheduler holds.
pub(crate) struct Rig {
    pub(crate) blobs: Blobs,
    pub(crate) stack: Stack,
    pub(crate) bus: NatsBus,
    store: Store,
    results: <NatsBus as Bus>::Consumer,
    beats: Subscription,
    progress: Subscription,
    ended: HashMap<String, JobResult>,
    incarnations: HashSet<String>,
    folder: TempDir,
}

/// A job as the scheduler would dispatch it.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) id: String,
    pub(crate) topic: &'static str,
    pub(crate) module: Option<String>,
    pub(crate) limits: Option<Value>,
    pub(crate) input: Value,
}

impl Job {
    /// A job for a guest, with the sandbox's own limits.
    pub(crate) fn guest(id: impl Into<String>, module: &str, input: Value) -> Self {
        Self { id: id.into(), topic: "job.test", module: Some(module.to_owned()), limits: None, input }
    }

    pub(crate) fn limited(self, limits: Value) -> Self {
        Self { limits: Some(limits), ..self }
    }

    pub(crate) fn echo(id: &str, input: Value) -> Self {
        Self { id: id.to_owned(), topic: "job.echo", module: None, limits: None, input }
    }
}

impl Rig {
    pub(crate) async fn start() -> Self {
        let stack = Stack::start_temp().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(&url_of(&folder.path().join("blobs"))).unwrap();
        let bus = NatsBus::connect(BusConfig::new(stack.nats.url(), "test")).await.unwrap();
        bus.ensure_streams().await.unwrap();
        let store = Store::connect(StoreConfig::new(stack.redis.url())).await.unwrap();
        let results = bus.consume(Stream::Results).await.unwrap();
        let beats = bus.subscribe(subjects::BEAT, None).await.unwrap();
        let progress = bus.subscribe(subjects::PROGRESS, None).await.unwrap();
        Self { blobs, stack, bus, store, results, beats, progress, ended: HashMap::new(), incarnations: HashSet::new(), folder }
    }

    /// The command line that starts the worker here.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_worker"));
        let log = std::fs::File::options().create(true).append(true).open(self.log_path()).unwrap();
        command
            .args(["--nats", &self.stack.nats.url(), "--redis", &self.stack.redis.url()])
            .args(["--blobs", &url_of(self.blobs.folder()), "--id", WORKER, "--max-parallel", &SLOTS.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        command
    }

    /// What the worker's processes said.
    pub(crate) fn log_path(&self) -> PathBuf {
        self.folder.path().join("worker.log")
    }

    /// Starts the worker and returns when it listens.
    pub(crate) async fn worker(&mut self) -> Process {
        self.worker_with(&[]).await
    }

    /// Starts the worker with more arguments and returns when it listens: when a beat is heard that no earlier process sent.
    pub(crate) async fn worker_with(&mut self, arguments: &[&str]) -> Process {
        let process = Process(self.command().args(arguments).spawn().unwrap());
        let known = std::mem::take(&mut self.incarnations);
        let beat = self.beat(|beat| !known.contains(&beat.incarnation)).await;
        self.incarnations = known;
        self.incarnations.insert(beat.incarnation);
        process
    }

    /// The next beat that is as wanted.
    pub(crate) async fn beat(&mut self, wanted: impl Fn(&WorkerBeat) -> bool) -> WorkerBeat {
        let hear = async {
            loop {
                let beat = WorkerBeat::decode(self.beats.next().await.unwrap().payload).unwrap();
                if wanted(&beat) {
                    return beat;
                }
            }
        };
        let heard = timeout(PATIENCE, hear).await;
        heard.unwrap_or_else(|_| panic!("no such beat; the worker says:\n{}", said(&self.log_path())))
    }

    /// The next progress report of a job, in percent: its guest runs.
    pub(crate) async fn progress(&mut self, job_id: &str) -> i32 {
        let hear = async {
            loop {
                let message = self.progress.next().await.unwrap();
                let Payload::JobProgress(report) = envelope::decode(&message.payload).unwrap().payload else { continue };
                if report.job_id == job_id {
                    return report.percent;
                }
            }
        };
        let heard = timeout(PATIENCE, hear).await;
        heard.unwrap_or_else(|_| panic!("no progress of {job_id}; the worker says:\n{}", said(&self.log_path())))
    }

    /// Stores a module and returns its name.
    pub(crate) async fn module(&self, wasm: impl Into<Bytes>) -> String {
        format!("sha256:{}", self.blobs.put_bytes(wasm.into()).await.unwrap().sha256)
    }

    /// Stores a file as the gateway does.
    pub(crate) async fn artifact(&self, id: &str, content: impl Into<Bytes>) {
        let stored = self.blobs.put_bytes(content.into()).await.unwrap();
        let record = ArtifactRecord {
            version: 1,
            artifact_id: id.to_owned(),
            tenant_id: TENANT.to_owned(),
            sha256: stored.sha256.to_string(),
            size_bytes: stored.size_bytes,
            ..ArtifactRecord::default()
        };
        self.keep(keys::artifact(id), record.encode_to_vec()).await;
    }

    /// What the scheduler leaves of a job that has ended in this state, with its result there.
    pub(crate) async fn ended(&self, id: &str, state: JobState, result_ptr: &str) {
        let ended = Ended { state: state.into(), result_ptr: result_ptr.to_owned(), ..Ended::default() };
        let record = JobRecord {
            version: 1,
            job_id: id.to_owned(),
            tenant_id: TENANT.to_owned(),
            state: Some(job_record::State::Ended(ended)),
            ..JobRecord::default()
        };
        self.keep(keys::job(id), record.encode_to_vec()).await;
    }

    async fn keep(&self, key: String, record: Vec<u8>) {
        let put = Write::Put { key: key.clone(), revision: 1, value: record.into(), expire: None };
        let unit = Unit { id: CommitId::generate(), guards: vec![Guard::Absent { key }], writes: vec![put] };
        self.store.commit(CommitClass::Admit, vec![unit]).await.unwrap();
    }

    /// Dispatches the first attempt.
    pub(crate) async fn dispatch(&self, job: &Job) {
        self.dispatch_for(job, TENANT, 1).await;
    }

    pub(crate) async fn dispatch_for(&self, job: &Job, tenant_id: &str, attempt: u64) {
        self.store.put_payload(&keys::context(&job.id), job.input.to_string().into(), None).await.unwrap();
        let module = job.module.iter().map(|module| ("BUSBAR_MODULE".to_owned(), module.clone()));
        let limits = job.limits.iter().map(|limits| ("BUSBAR_LIMITS".to_owned(), limits.to_string()));
        let request = JobRequest {
            job_id: job.id.clone(),
            topic: job.topic.to_owned(),
            tenant_id: tenant_id.to_owned(),
            context_ptr: format!("redis://{}", keys::context(&job.id)),
            env: module.chain(limits).collect(),
            dispatch: Some(identity(attempt)),
            ..JobRequest::default()
        };
        let packet = envelope::packet("trace-1", "scheduler", Timestamp::wall_clock(), Payload::JobRequest(request));
        self.bus.publish(&subjects::worker_jobs(WORKER), Headers::new(), packet).await.unwrap();
    }

    pub(crate) async fn cancel(&self, job_id: &str) {
        let cancel = JobCancel {
            job_id: job_id.to_owned(),
            reason: "not needed".to_owned(),
            requested_by: "test".to_owned(),
            dispatch: Some(identity(1)),
            ..JobCancel::default()
        };
        let packet = envelope::packet("trace-1", "scheduler", Timestamp::wall_clock(), Payload::JobCancel(cancel));
        self.bus.publish(subjects::CANCEL, Headers::new(), packet).await.unwrap();
    }

    /// Dispatches jobs, never more than the worker takes at once, and returns their results in the same order.
    pub(crate) async fn run(&mut self, jobs: &[Job]) -> Vec<JobResult> {
        let mut results = Vec::new();
        for some in jobs.chunks(2 * SLOTS as usize) {
            for job in some {
                self.dispatch(job).await;
            }
            for job in some {
                results.push(self.result(&job.id).await);
            }
            // A place is free when the worker says so.
            self.beat(|beat| beat.held.is_empty()).await;
        }
        results
    }

    /// Runs one job that succeeds.
    pub(crate) async fn output(&mut self, job: &Job) -> Value {
        self.dispatch(job).await;
        let result = self.result(&job.id).await;
        self.output_of(&result).await
    }

    /// The result of a job.
    pub(crate) async fn result(&mut self, job_id: &str) -> JobResult {
        let pull = async {
            loop {
                if let Some(result) = self.ended.remove(job_id) {
                    return result;
                }
                for delivery in self.results.pull(16, Duration::from_secs(1)).await.unwrap_or_default() {
                    self.bus.settle(&delivery, Settlement::Ack).await.unwrap();
                    let Payload::JobResult(result) = envelope::decode(&delivery.message.payload).unwrap().payload else {
                        panic!("a result")
                    };
                    self.ended.insert(result.job_id.clone(), result);
                }
            }
        };
        let result = timeout(PATIENCE, pull).await;
        result.unwrap_or_else(|_| panic!("no result of {job_id}; the worker says:\n{}", said(&self.log_path())))
    }

    /// What a job that succeeded has put out.
    pub(crate) async fn output_of(&self, result: &JobResult) -> Value {
        serde_json::from_slice(&self.bytes_of(result).await).unwrap()
    }

    /// The same, as it is.
    pub(crate) async fn bytes_of(&self, result: &JobResult) -> Bytes {
        assert_eq!(result.status(), JobStatus::Succeeded, "{}: {} {}", result.job_id, result.error_code, result.error_message);
        let key = result.result_ptr.strip_prefix("redis://").unwrap();
        self.payload(key).await.unwrap()
    }

    /// The payload at a key.
    pub(crate) async fn payload(&self, key: &str) -> Option<Bytes> {
        self.store.payloads(vec![key.to_owned()]).await.unwrap().remove(0)
    }
}

/// How a job ended that did not succeed.
pub(crate) fn end(result: &JobResult) -> (JobStatus, &str) {
    (result.status(), &result.error_code)
}

fn identity(attempt: u64) -> DispatchIdentity {
    DispatchIdentity { dispatch_id: format!("d{attempt}"), attempt, assigned_worker_id: WORKER.to_owned() }
}

fn said(log: &Path) -> String {
    std::fs::read_to_string(log).unwrap_or_default()
}

/// A running worker. Dropping it kills it.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) async fn ended(mut self) -> ExitStatus {
        let waiting = tokio::task::spawn_blocking(move || self.0.wait().unwrap());
        timeout(PATIENCE, waiting).await.expect("the end that was waited for").unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
