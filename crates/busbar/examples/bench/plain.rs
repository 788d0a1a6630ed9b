//! The same messages and the same Redis steps without a control plane: what the servers and the worker cost by themselves.
//!
//! ```text
//!  admit unit (≤ 256 together) ─► queue ─► dispatch unit ─► busbar.worker.jobs.<id> ─► the same `worker` program
//!                                                                                                         │
//!  busbar.job.event ◄─ relay ◄─ finish unit ◄─ busbar.worker.report (≤ 256 together) ◄─────────────────────┘
//! ```
//!
//! The units are those of the scheduler, made from the record of a job that it ran itself. What is left out is what a control
//! plane does: HTTP, admission requests, checks, decisions, queues, placement, limits, timers, and a second process for them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use busbar_bus::NatsBus;
use busbar_protocol::busbar::{
    DispatchBatch, DispatchItem, JobEventBytes, JobState, ReportReply, ReportRequest, WorkerBeat, WorkerKind, job_event_bytes,
};
use busbar_protocol::cap::bus_packet::Payload;
use busbar_protocol::cap::{DispatchIdentity, JobRequest, JobResult};
use busbar_protocol::ids::{self, JobId};
use busbar_protocol::pointers::Pointer;
use busbar_protocol::ports::{
    Answer, Bus as _, CommitClass, CommitId, Headers, Message, Records as _, Subscription, Unit, appended,
};
use busbar_protocol::prost::Message as _;
use busbar_protocol::subjects;
use busbar_protocol::time::Timestamp;
use busbar_protocol::{envelope, inline, keys};
use busbar_scheduler::core::commit::{self, Birth, Change, Retention};
use busbar_scheduler::core::job::{End, Hold, Job, Outcome as Ended, ResultPlace, Source, State};
use busbar_servers::{Companion, Durability, Stack, StackOptions};
use busbar_store::Store;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::Outcome;
use crate::dev::{World, start_worker};
use crate::follower::Follower;
use crate::usage::Process;

const WORKER: &str = "plain-worker";
const WORKER_WITHIN: Duration = Duration::from_secs(60);
/// As many as one commit or pull of the scheduler takes.
const GROUP: usize = 256;
/// As many submissions are on their way at once as the gateway has.
const SUBMISSIONS: usize = 4;
/// As many reports are under way at once as a worker has.
const REPORTS: usize = 4;
/// Longer than any measurement.
const LEASE: Duration = Duration::from_secs(24 * 60 * 60);

/// The plain program with servers and a worker of its own. Dropping it kills them.
pub(crate) struct Plain {
    steps: Arc<Steps>,
    follower: Follower,
    processes: Vec<Process>,
    _tasks: JoinSet<()>,
    worker: Companion,
    servers: Stack,
}

/// What the steps share.
struct Steps {
    bus: NatsBus,
    store: Store,
    epoch: u64,
    /// A job as the scheduler left it.
    template: Job,
    slots: Semaphore,
    ready: mpsc::UnboundedSender<(Job, Bytes)>,
    out: Mutex<BTreeMap<String, Job>>,
    /// What was written to the log.
    logged: mpsc::UnboundedSender<job_event_bytes::Entry>,
    /// The start of the worker's process.
    incarnation: String,
}

impl Plain {
    /// Starts servers and worker; `template` is the record of an echo job that Busbar has run.
    pub(crate) async fn start(dir: &Path, slots: u16, template: Job, durability: Durability) -> Outcome<Self> {
        let options = StackOptions { durability, monitored: true, ..StackOptions::new(dir) };
        let servers = tokio::task::spawn_blocking(move || Stack::start(&options)).await??;
        let World { bus, store, follower } = World::connect(&servers.nats.url(), &servers.redis.url()).await?;
        bus.ensure_streams().await?;
        let reports = bus.subscribe(subjects::REPORT, None).await?;
        let (worker, incarnation) = start_worker_and_wait(&bus, &servers, dir, slots).await?;
        let epoch = store.lease(keys::LOCK_SCHEDULER, "plain", LEASE).await?.epoch;
        let (ready, queue) = mpsc::unbounded_channel();
        let (logged, log) = mpsc::unbounded_channel();
        let steps = Arc::new(Steps {
            bus,
            store,
            epoch,
            template,
            slots: Semaphore::new(slots.into()),
            ready,
            out: Mutex::default(),
            logged,
            incarnation,
        });
        let mut tasks = JoinSet::new();
        let alarm = follower.alarm();
        let (one, two, three) = (Arc::clone(&steps), Arc::clone(&steps), Arc::clone(&steps));
        let told = alarm.clone();
        tasks.spawn(async move { one.dispatch(queue).await.unwrap_or_else(|error| told.raise(format!("dispatch: {error}"))) });
        let told = alarm.clone();
        tasks.spawn(async move { two.finish(reports).await.unwrap_or_else(|error| told.raise(format!("finish: {error}"))) });
        tasks.spawn(async move { three.relay(log).await.unwrap_or_else(|error| alarm.raise(format!("relay: {error}"))) });
        let processes = vec![
            Process::of_file("nats-server", &dir.join("nats/nats-server.pid"))?,
            Process::of_file("redis-server", &dir.join("redis/redis-server.pid"))?,
            Process { name: "worker", pid: worker.pid().ok_or("the worker is gone")? },
        ];
        Ok(Self { steps, follower, processes, _tasks: tasks, worker, servers })
    }

    /// Its servers and its worker.
    pub(crate) fn processes(&self) -> &[Process] {
        &self.processes
    }

    /// Its servers.
    pub(crate) fn servers(&self) -> &Stack {
        &self.servers
    }

    pub(crate) fn follower(&self) -> &Follower {
        &self.follower
    }

    /// Commits and queues jobs with these inputs.
    pub(crate) async fn submit(&self, inputs: Vec<Bytes>) -> Outcome<()> {
        let groups: Vec<Vec<Bytes>> = inputs.chunks(GROUP).map(<[Bytes]>::to_vec).collect();
        let admitted = stream::iter(groups).map(|group| self.steps.admit(group)).buffered(SUBMISSIONS);
        admitted.try_for_each(|()| async { Ok(()) }).await
    }

    /// Commits one job, waits for its end and fetches its result.
    pub(crate) async fn run(&self, input: Bytes) -> Outcome<()> {
        let job = self.steps.job()?;
        let ended = self.follower.end_of(job.id.as_str());
        let id = job.id.clone();
        self.steps.admit_jobs(vec![(job, input)]).await?;
        ended.await?;
        let result = self.steps.store.payloads(vec![keys::attempt_result(id.as_str(), 1)]).await?;
        if result.first().is_some_and(Option::is_some) { Ok(()) } else { Err(format!("job {id} has no result").into()) }
    }

    /// Ends worker and servers in order.
    pub(crate) async fn stop(self) -> Outcome<()> {
        let Self { worker, servers, .. } = self;
        let ended = move || {
            worker.stop();
            servers.stop();
        };
        Ok(tokio::task::spawn_blocking(ended).await?)
    }
}

async fn start_worker_and_wait(bus: &NatsBus, servers: &Stack, dir: &Path, slots: u16) -> Outcome<(Companion, String)> {
    let mut beats = bus.subscribe(subjects::BEAT, None).await?;
    let blobs = format!("file://{}", dir.join("blobs").display());
    let worker = start_worker(WORKER, &servers.nats.url(), &servers.redis.url(), &blobs, slots, dir.join("worker"))?;
    let there = async {
        while let Some(message) = beats.next().await {
            let beat = WorkerBeat::decode(message.payload).ok().filter(|beat| beat.worker_id == WORKER);
            if let Some(beat) = beat {
                return Ok(beat.incarnation);
            }
        }
        Err("the bus was closed")
    };
    let incarnation = timeout(WORKER_WITHIN, there).await.map_err(|_| "the worker of the plain program did not come")??;
    Ok((worker, incarnation))
}

impl Steps {
    /// A new job like the template.
    fn job(&self) -> Outcome<Job> {
        let id = JobId::generate();
        let mut request = JobRequest::decode(self.template.request.clone())?;
        request.job_id = id.to_string();
        request.context_ptr = Pointer::Redis(keys::context(id.as_str())).to_string();
        let now = Timestamp::wall_clock();
        Ok(Job {
            id,
            trace_id: ids::generate_trace(),
            request: request.encode_to_vec().into(),
            created: now,
            updated: now,
            attempt: 0,
            state: State::Scheduled { since: now, not_before: now },
            ..self.template.clone()
        })
    }

    async fn admit(&self, inputs: Vec<Bytes>) -> Outcome<()> {
        let jobs = inputs.into_iter().map(|input| Ok((self.job()?, input))).collect::<Outcome<Vec<_>>>()?;
        self.admit_jobs(jobs).await
    }

    async fn admit_jobs(&self, jobs: Vec<(Job, Bytes)>) -> Outcome<()> {
        let passed = [JobState::Pending, JobState::Scheduled];
        let unit = |(job, input): &(Job, Bytes)| {
            let birth = Birth { input: Some(input.clone()), ..Birth::default() };
            commit::birth(&self.change(job, 0, &passed), &birth, &Retention::default()).0
        };
        self.commit(CommitClass::Admit, jobs.iter().map(unit).collect()).await?;
        for ready in jobs {
            self.ready.send(ready)?;
        }
        Ok(())
    }

    fn change<'a>(&self, job: &'a Job, revision: u64, passed: &'a [JobState]) -> Change<'a> {
        Change { job, revision, passed, epoch: self.epoch, id: CommitId::generate() }
    }

    fn unit(&self, job: &Job, revision: u64, passed: &[JobState]) -> Unit {
        commit::unit(&self.change(job, revision, passed), &Retention::default())
    }

    async fn commit(&self, class: CommitClass, units: Vec<Unit>) -> Outcome<()> {
        let appends: Vec<Vec<Bytes>> = units.iter().map(|unit| appended(unit, keys::LOG_JOBS)).collect();
        let answers = self.store.commit(class, units).await?;
        for (event, answer) in appends.into_iter().zip(answers) {
            match (event.into_iter().next(), answer) {
                (Some(event), Answer::Applied { appended: Some(cursor) }) => {
                    self.logged.send(job_event_bytes::Entry { cursor, event })?;
                }
                (_, other) => return Err(format!("a unit was not applied, or tells nothing: {other:?}").into()),
            }
        }
        Ok(())
    }

    /// Sends what is queued to the worker, for as long as it has free slots.
    async fn dispatch(&self, mut queue: mpsc::UnboundedReceiver<(Job, Bytes)>) -> Outcome<()> {
        while let Some(first) = queue.recv().await {
            self.slots.acquire().await?.forget();
            let mut jobs = vec![first];
            while jobs.len() < GROUP {
                let Ok(slot) = self.slots.try_acquire() else { break };
                let Ok(job) = queue.try_recv() else { break };
                slot.forget();
                jobs.push(job);
            }
            self.dispatch_all(jobs).await?;
        }
        Ok(())
    }

    async fn dispatch_all(&self, mut jobs: Vec<(Job, Bytes)>) -> Outcome<()> {
        let now = Timestamp::wall_clock();
        for (job, _) in &mut jobs {
            let hold =
                Hold { worker_id: WORKER.into(), kind: WorkerKind::Native, incarnation: String::new(), since: now, heard: now };
            (job.attempt, job.updated, job.state) = (1, now, State::Dispatched { hold });
        }
        let units = jobs.iter().map(|(job, _)| self.unit(job, 1, &[JobState::Dispatched])).collect();
        self.commit(CommitClass::Advance, units).await?;
        let items = jobs.iter().map(|(job, input)| item(job, input, now)).collect();
        let named = jobs.into_iter().map(|(job, _)| (job.id.to_string(), job));
        self.out.lock().unwrap_or_else(PoisonError::into_inner).extend(named);
        let batch = DispatchBatch { incarnation: self.incarnation.clone(), items };
        Ok(self.bus.publish(&subjects::worker_batches(WORKER), Headers::new(), batch.encode_to_vec().into()).await?)
    }

    /// Takes reports, commits the ends and answers.
    async fn finish(&self, reports: Subscription) -> Outcome<()> {
        reports.map(Ok).try_for_each_concurrent(REPORTS, |message| self.finish_all(message)).await
    }

    async fn finish_all(&self, message: Message) -> Outcome<()> {
        let reply = message.reply.ok_or("a report that wants no answer")?;
        let mut jobs = Vec::new();
        for item in ReportRequest::decode(message.payload)?.items {
            let Payload::JobResult(result) = envelope::decode(&item.packet)?.payload else {
                return Err("a report has something in it that is no result".into());
            };
            let out = self.out.lock().unwrap_or_else(PoisonError::into_inner).remove(&result.job_id);
            let output = (!item.output.is_empty()).then_some(item.output);
            jobs.push(ended(out.ok_or("a result of an unknown job")?, result, output));
        }
        let units = jobs.iter().map(|job| self.unit(job, 2, &[JobState::Succeeded])).collect();
        self.commit(CommitClass::Advance, units).await?;
        self.slots.add_permits(jobs.len());
        Ok(self.bus.publish(&reply, Headers::new(), ReportReply::default().encode_to_vec().into()).await?)
    }

    /// Tells what was written to the log, in batches.
    async fn relay(&self, mut log: mpsc::UnboundedReceiver<job_event_bytes::Entry>) -> Outcome<()> {
        let mut after = "0".to_owned();
        loop {
            let mut entries = Vec::new();
            log.recv_many(&mut entries, GROUP).await;
            let Some(last) = entries.last().map(|entry| entry.cursor.clone()) else { return Ok(()) };
            let batch = JobEventBytes { after: std::mem::replace(&mut after, last), entries };
            self.bus.publish(subjects::JOB_EVENT, Headers::new(), batch.encode_to_vec().into()).await?;
        }
    }
}

/// What takes an attempt to the worker.
fn item(job: &Job, input: &Bytes, now: Timestamp) -> DispatchItem {
    let dispatch = DispatchIdentity { dispatch_id: format!("{}/1", job.id), attempt: 1, assigned_worker_id: WORKER.to_owned() };
    let patch = JobRequest { dispatch: Some(dispatch), ..JobRequest::default() };
    let request = envelope::patch_request(&job.request, &patch);
    let packet = envelope::packet_with_request(&job.trace_id, subjects::SCHEDULER_SENDER, now, &request);
    let output_bytes_max = u32::try_from(inline::BYTES_MAX).unwrap_or(u32::MAX);
    DispatchItem { packet, traceparent: job.traceparent.clone(), input: input.clone(), output_bytes_max }
}

fn ended(job: Job, result: JobResult, output: Option<Bytes>) -> Job {
    let now = Timestamp::wall_clock();
    let place = result.result_ref.map(|reference| ResultPlace {
        pointer: result.result_ptr,
        sha256: reference.sha256,
        size: reference.size_bytes,
        source: output.map_or(Source::There, Source::Message),
        ..ResultPlace::default()
    });
    let end = End {
        outcome: Ended::Succeeded,
        at: now,
        worker_id: result.worker_id,
        code: String::new(),
        message: String::new(),
        result: place,
        execution_ms: result.execution_ms,
        decided_here: false,
    };
    Job { updated: now, state: State::Ended(end), ..job }
}
