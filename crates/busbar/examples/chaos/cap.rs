//! Workers as CAP SDKs make them: no beats, no memory of what they have seen, each result told once and not again. They write down
//! what they execute as the native worker does, and know `ms`, `fails` and `fatal` of its inputs.

use std::fs::{File, OpenOptions};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use busbar_bus::{BusConfig, NatsBus};
use busbar_protocol::cap::bus_packet::Payload;
use busbar_protocol::cap::{ComponentRole, Handshake, Heartbeat, JobRequest, JobResult, JobStatus};
use busbar_protocol::pointers::Pointer;
use busbar_protocol::ports::{Bus as _, Headers, Message, Records as _};
use busbar_protocol::time::Timestamp;
use busbar_protocol::{envelope, ids, keys, limits, subjects};
use busbar_store::{Store, StoreConfig};
use clap::{Args, ValueEnum};
use futures::StreamExt as _;
use futures::stream::{self, FuturesUnordered};
use tokio::time::{interval, sleep};

use crate::Outcome;
use crate::worker::{Input, note};

/// The topic of the worker that announces itself.
pub(crate) const ANNOUNCED: &str = "job.chaos.announced";
/// The topic of the worker that is only a member of its queue group.
pub(crate) const SILENT: &str = "job.chaos.silent";
/// How many jobs the worker that announces itself takes at once.
const CAPACITY: i32 = 4;
const HEARTBEAT_EVERY: Duration = Duration::from_secs(1);
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Sends a handshake and heartbeats.
    Announced,
    /// Sends nothing but results.
    Silent,
}

impl Kind {
    /// Its id.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Announced => "announced",
            Self::Silent => "silent",
        }
    }

    /// What it serves.
    const fn topic(self) -> &'static str {
        match self {
            Self::Announced => ANNOUNCED,
            Self::Silent => SILENT,
        }
    }
}

#[derive(Clone, Debug, Args)]
pub(crate) struct CapWorkerArgs {
    #[arg(long, env = "NATS_URL")]
    nats: String,
    #[arg(long, env = "REDIS_URL")]
    redis: String,
    #[arg(long)]
    kind: Kind,
    /// Gets a line `<job> <attempt> start` or `end` for each; several workers may share it.
    #[arg(long)]
    file: PathBuf,
}

struct CapWorker {
    bus: NatsBus,
    store: Store,
    kind: Kind,
    file: File,
}

/// Runs until it is killed. Servers that are being broken may be away when it starts; then it ends, and is started again.
pub(crate) async fn run(args: CapWorkerArgs) -> Outcome<()> {
    let file = OpenOptions::new().create(true).append(true).open(&args.file)?;
    let name = args.kind.name();
    let store = Store::connect(StoreConfig { client_name: name.into(), ..StoreConfig::new(args.redis) }).await?;
    let bus = NatsBus::connect(BusConfig::new(args.nats, name)).await?;
    let worker = Arc::new(CapWorker { bus, store, kind: args.kind, file });
    let topic = args.kind.topic();
    let in_group = worker.bus.subscribe(topic, Some(topic)).await?;
    let direct = worker.bus.subscribe(&subjects::worker_jobs(name), None).await?;
    let mut jobs = stream::select(in_group, direct);
    if args.kind == Kind::Announced {
        let handshake = Handshake {
            component_id: name.to_owned(),
            role: ComponentRole::Worker.into(),
            ready_topics: vec![topic.to_owned()],
            ..Handshake::default()
        };
        worker.say(subjects::HANDSHAKE, Payload::Handshake(handshake)).await;
    }
    let mut beats = interval(HEARTBEAT_EVERY);
    let mut work = FuturesUnordered::new();
    loop {
        tokio::select! {
            message = jobs.next() => {
                let Some(message) = message else { return Ok(()) };
                work.push(tokio::spawn(Arc::clone(&worker).job(message)));
            }
            Some(_) = work.next(), if !work.is_empty() => {}
            _ = beats.tick(), if args.kind == Kind::Announced => {
                let active_jobs = i32::try_from(work.len()).unwrap_or(CAPACITY);
                let beat = Heartbeat { worker_id: name.to_owned(), max_parallel_jobs: CAPACITY, active_jobs, ..Heartbeat::default() };
                worker.say(subjects::HEARTBEAT, Payload::Heartbeat(beat)).await;
            }
        }
    }
}

impl CapWorker {
    /// Does a job as an SDK does: the result stands under the job's name, and is told once.
    async fn job(self: Arc<Self>, message: Message) -> Outcome<()> {
        let Payload::JobRequest(request) = envelope::decode(&message.payload)?.payload else { return Ok(()) };
        let attempt = request.dispatch.as_ref().map_or(0, |dispatch| dispatch.attempt);
        let Input { ms, fails, fatal, .. } = self.input(&request).await?;
        note(&self.file, &request.job_id, attempt, "start")?;
        sleep(Duration::from_millis(ms)).await;
        note(&self.file, &request.job_id, attempt, "end")?;
        let status = match (fatal, attempt <= u64::from(fails)) {
            (true, _) => JobStatus::FailedFatal,
            (false, true) => JobStatus::FailedRetryable,
            (false, false) => JobStatus::Succeeded,
        };
        let key = keys::result(&request.job_id);
        while self.store.put_result(&key, "{}".into(), limits::INPUT_TTL).await.is_err() {
            sleep(TRY_AGAIN_AFTER).await;
        }
        let result = JobResult {
            job_id: request.job_id,
            status: status.into(),
            result_ptr: Pointer::Redis(key).to_string(),
            worker_id: self.kind.name().to_owned(),
            ..JobResult::default()
        };
        self.say(subjects::RESULT, Payload::JobResult(result)).await;
        Ok(())
    }

    async fn input(&self, request: &JobRequest) -> Outcome<Input> {
        let key = keys::context(&request.job_id);
        loop {
            if let Ok(mut found) = self.store.payloads(vec![key.clone()]).await {
                let bytes = found.pop().flatten().ok_or("the input is gone")?;
                return Ok(serde_json::from_slice(&bytes)?);
            }
            sleep(TRY_AGAIN_AFTER).await;
        }
    }

    /// Says it once; nobody hears it while the bus is away.
    async fn say(&self, subject: &str, payload: Payload) {
        let packet = envelope::packet(&ids::generate_trace(), self.kind.name(), Timestamp::wall_clock(), payload);
        drop(self.bus.publish(subject, Headers::new(), packet).await);
    }
}
