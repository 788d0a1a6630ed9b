//! Real servers, a worker, and the scheduler's side of the conversation in the hands of the test.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::HashSet;
use std::time::Duration;

use busbar_bus::{BusConfig, NatsBus};
use busbar_protocol::busbar::{DispatchBatch, DispatchItem, WorkerBeat};
use busbar_protocol::cap::bus_packet::Payload;
use busbar_protocol::cap::{DispatchIdentity, JobCancel, JobRequest, JobResult};
use busbar_protocol::ports::{Bus, Delivery, Headers, PullConsumer, Records, Settlement, Subscription};
use busbar_protocol::prost::Message as _;
use busbar_protocol::subjects::{self, Stream};
use busbar_protocol::time::Timestamp;
use busbar_protocol::{envelope, keys};
use busbar_sdk::{Worker, WorkerError, WorkerOptions};
use busbar_servers::Stack;
use busbar_store::{Store, StoreConfig};
use bytes::Bytes;
use futures::StreamExt as _;
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Far longer than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const WORKER: &str = "w1";
pub(crate) const TRACEPARENT: &str = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01";

/// Two servers and what the scheduler holds.
pub(crate) struct Rig {
    pub(crate) bus: NatsBus,
    pub(crate) store: Store,
    pub(crate) results: <NatsBus as Bus>::Consumer,
    pub(crate) beats: Subscription,
    pub(crate) stack: Stack,
    /// Of the workers started so far.
    incarnations: HashSet<String>,
}

/// A worker that runs.
pub(crate) struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), WorkerError>>,
}

impl Running {
    /// Begins the drain.
    pub(crate) fn stop(self) -> JoinHandle<Result<(), WorkerError>> {
        self.stop.send(()).unwrap();
        self.task
    }
}

impl Rig {
    pub(crate) async fn start() -> Self {
        let stack = Stack::start_temp().unwrap();
        let bus = NatsBus::connect(BusConfig::new(stack.nats.url(), "test")).await.unwrap();
        bus.ensure_streams().await.unwrap();
        let store = Store::connect(StoreConfig::new(stack.redis.url())).await.unwrap();
        let results = bus.consume(Stream::Results).await.unwrap();
        let beats = bus.subscribe(subjects::BEAT, None).await.unwrap();
        Self { bus, store, results, beats, stack, incarnations: HashSet::new() }
    }

    pub(crate) fn options(&self) -> WorkerOptions {
        WorkerOptions {
            nats_url: self.stack.nats.url(),
            redis_url: self.stack.redis.url(),
            id: WORKER.to_owned(),
            max_parallel: 2,
            ..WorkerOptions::default()
        }
    }

    /// Runs a worker and returns when its first beat was heard: it listens. Beats of earlier workers that were not asked for yet are
    /// passed over.
    pub(crate) async fn work(&mut self, options: WorkerOptions, register: impl FnOnce(&mut Worker)) -> Running {
        let mut worker = Worker::connect(options).await.unwrap();
        register(&mut worker);
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(worker.run(async move { drop(stopped.await) }));
        let earlier = std::mem::take(&mut self.incarnations);
        let beat = self.beat(|beat| !earlier.contains(&beat.incarnation)).await;
        self.incarnations = earlier;
        self.incarnations.insert(beat.incarnation);
        Running { stop, task }
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
        timeout(PATIENCE, hear).await.expect("the beat that was waited for")
    }

    /// A beat that lists exactly these attempts.
    pub(crate) async fn holds(&mut self, attempts: &[(&str, u32)]) -> WorkerBeat {
        self.beat(|beat| beat.held.iter().map(|held| (held.job_id.as_str(), held.attempt)).eq(attempts.iter().copied())).await
    }

    pub(crate) async fn input(&self, job_id: &str, input: &Value) {
        self.store.put_payload(&keys::context(job_id), input.to_string().into(), None).await.unwrap();
    }

    /// Dispatches an attempt, its input being what stands at its context pointer.
    pub(crate) async fn dispatch(&self, job_id: &str, attempt: u64, topic: &str) {
        self.dispatch_as(request(job_id, attempt, topic)).await;
    }

    pub(crate) async fn dispatch_as(&self, request: JobRequest) {
        self.dispatch_with(request, &[]).await;
    }

    /// The same with more headers.
    pub(crate) async fn dispatch_with(&self, request: JobRequest, more: &[(&str, &str)]) {
        let packet = envelope::packet("trace-1", "scheduler", Timestamp::wall_clock(), Payload::JobRequest(request));
        let mut headers = Headers::from([("traceparent".to_owned(), TRACEPARENT.to_owned())]);
        headers.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        self.bus.publish(&subjects::worker_jobs(WORKER), headers, packet).await.unwrap();
    }

    /// Dispatches first attempts in one message, with their inputs.
    pub(crate) async fn dispatch_together(&self, incarnation: &str, jobs: &[(&str, &str, &Value)]) {
        let item = |(job_id, topic, input): &(&str, &str, &Value)| {
            let request = Payload::JobRequest(request(job_id, 1, topic));
            let packet = envelope::packet("trace-1", "scheduler", Timestamp::wall_clock(), request);
            DispatchItem { packet, input: input.to_string().into(), output_bytes_max: 4096, ..DispatchItem::default() }
        };
        let batch = DispatchBatch { incarnation: incarnation.to_owned(), items: jobs.iter().map(item).collect() };
        self.bus.publish(&subjects::worker_batches(WORKER), Headers::new(), batch.encode_to_vec().into()).await.unwrap();
    }

    pub(crate) async fn cancel(&self, job_id: &str, attempt: Option<u64>) {
        let dispatch = attempt.map(identity);
        let cancel = JobCancel {
            job_id: job_id.to_owned(),
            reason: "not needed".to_owned(),
            requested_by: "test".to_owned(),
            dispatch,
            ..JobCancel::default()
        };
        let packet = envelope::packet("trace-1", "scheduler", Timestamp::wall_clock(), Payload::JobCancel(cancel));
        self.bus.publish(subjects::CANCEL, Headers::new(), packet).await.unwrap();
    }

    /// The next result, settled.
    pub(crate) async fn result(&mut self) -> JobResult {
        self.delivery().await.0
    }

    pub(crate) async fn delivery(&mut self) -> (JobResult, Delivery) {
        let pull = async {
            loop {
                // While the server is away the consumer says so, and is asked again.
                let pulled = self.results.pull(1, Duration::from_secs(1)).await.unwrap_or_default();
                if let Some(delivery) = pulled.into_iter().next() {
                    return delivery;
                }
            }
        };
        let delivery = timeout(PATIENCE, pull).await.expect("the result that was waited for");
        self.bus.settle(&delivery, Settlement::Ack).await.unwrap();
        let decoded = envelope::decode(&delivery.message.payload).unwrap();
        assert_eq!((decoded.packet.trace_id.as_str(), decoded.packet.sender_id.as_str()), ("trace-1", WORKER));
        let Payload::JobResult(result) = decoded.payload else { panic!("a result") };
        (result, delivery)
    }

    /// The payload behind a pointer.
    pub(crate) async fn payload(&self, key: &str) -> Option<Bytes> {
        self.store.payloads(vec![key.to_owned()]).await.unwrap().remove(0)
    }
}

pub(crate) fn request(job_id: &str, attempt: u64, topic: &str) -> JobRequest {
    JobRequest {
        job_id: job_id.to_owned(),
        topic: topic.to_owned(),
        context_ptr: format!("redis://{}", keys::context(job_id)),
        dispatch: Some(identity(attempt)),
        ..JobRequest::default()
    }
}

pub(crate) fn identity(attempt: u64) -> DispatchIdentity {
    DispatchIdentity { dispatch_id: format!("d{attempt}"), attempt, assigned_worker_id: WORKER.to_owned() }
}
