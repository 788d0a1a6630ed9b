//! The shell: loads, serves, listens, and turns everything that happens into one event after another.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use busbar_protocol::busbar::{BundleAction, Problem, PublishBundleReply, PublishBundleRequest, SnapshotChanged};
use busbar_protocol::codes::Code;
use busbar_protocol::ports::{Bus, Headers, Message, Records, StoreError, Subscription};
use busbar_protocol::prost::Message as _;
use busbar_protocol::subjects;
use busbar_rpc::{ServeError, ServeOptions};
use busbar_service::telemetry::{Counter, Gauge};
use busbar_service::{Metrics, Readiness, Shutdown, Telemetry};
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::KernelConfig;
use crate::core::snapshot::Snapshot;
use crate::local::Seat;
use crate::perform::{self, LoadError};
use crate::server::{self, Answers, Current};

/// The queue group that shares what is asked of any one kernel.
const QUEUE: &str = "busbar-safety-kernel";

/// The names of the checks that readiness is made of.
const READY_POLICY: &str = "kernel_policy";
const READY_BUS: &str = "kernel_bus";

/// How long to wait before trying again what the world did not allow.
const PAUSE: Duration = Duration::from_millis(250);

/// Why a kernel ended although nobody asked it to.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// There is no first snapshot, and waiting would not bring one.
    #[error("there is no policy to decide by")]
    Load(#[from] LoadError),
    /// The server failed.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The server ended without a word.
    #[error("the gRPC server ended although nobody asked it to")]
    ServerEnded,
    /// The bus was closed.
    #[error("the bus was closed")]
    BusClosed,
}

/// What may happen.
enum Event {
    /// A bundle is to be published.
    Publish(Message),
    /// A kernel, maybe this one, told its snapshot.
    Announced(Message),
    /// It is time to read everything again.
    Refresh,
    /// The bus is there again; what was said meanwhile is lost.
    Reconnected,
    /// The server ended.
    Served(Option<ServeError>),
    /// A subscription ended.
    BusClosed,
    /// It is time to end.
    Shutdown,
}

struct Kernel<B, R> {
    bus: B,
    records: R,
    policy_path: Option<PathBuf>,
    current: watch::Sender<Current>,
    meters: Meters,
    /// The present snapshot could not be announced yet.
    announcement_due: bool,
}

/// Where a kernel is asked.
#[derive(Debug)]
pub struct Asked {
    /// By others, over gRPC.
    pub listener: TcpListener,
    /// By those in its own process, if there are any.
    pub seat: Option<Seat>,
}

/// Runs a safety kernel until the shutdown. Sets the readiness checks `kernel_policy` (it decides) and `kernel_bus` (it hears).
///
/// # Errors
/// [`KernelError`]: a policy that cannot be read at the start, a server or bus that ended.
pub async fn run<B: Bus, R: Records>(
    config: KernelConfig,
    bus: B,
    records: R,
    asked: Asked,
    readiness: Readiness,
    telemetry: Telemetry,
    shutdown: Shutdown,
) -> Result<(), KernelError> {
    let Asked { listener, seat } = asked;
    readiness.set(READY_POLICY, false);
    readiness.set(READY_BUS, false);
    let Some(first) = until(&shutdown, first_snapshot(&records, &config)).await else { return Ok(()) };
    let current = watch::Sender::new(Current::new(first?));
    let meters = Meters::register(&telemetry.metrics);
    meters.snapshot(&current.borrow().snapshot);
    tell(&current.borrow().snapshot, "deciding");

    // Decisions need no bus: the server answers as soon as there is a snapshot. Dropping the set ends it.
    let mut server = JoinSet::new();
    let ended = shutdown.clone();
    let answers = Answers::new(current.subscribe(), &telemetry);
    if let Some(seat) = &seat {
        seat.take(answers.clone());
    }
    let routes = server::routes(answers);
    server.spawn(busbar_rpc::serve(listener, routes, ServeOptions::default(), async move { ended.triggered().await }));
    readiness.set(READY_POLICY, true);

    let policy_path = config.policy_path.clone();
    let mut kernel = Kernel { bus, records, policy_path, current, meters, announcement_due: true };
    let subscribe = kernel.subscribe();
    let Some((publish, announced)) = until(&shutdown, subscribe).await else { return finish(server).await };
    readiness.set(READY_BUS, true);
    // Between the load and the subscription others may have published.
    kernel.reload().await;
    kernel.listen(&config, publish, announced, &mut server, &shutdown).await?;
    finish(server).await
}

/// Runs until done, or gives up at the shutdown.
async fn until<T>(shutdown: &Shutdown, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        () = shutdown.triggered() => None,
        done = work => Some(done),
    }
}

/// Waits for open calls, which the server itself bounds.
async fn finish(mut server: JoinSet<Result<(), ServeError>>) -> Result<(), KernelError> {
    match server.join_next().await {
        Some(Ok(result)) => Ok(result?),
        Some(Err(_)) | None => Ok(()),
    }
}

/// Loads until the store answers. What is wrong in itself is an error, because starting without it could allow too much.
async fn first_snapshot<R: Records>(records: &R, config: &KernelConfig) -> Result<Snapshot, LoadError> {
    loop {
        match perform::load(records, config.policy_path.as_deref()).await {
            Err(LoadError::Store(StoreError::Unavailable { detail })) => {
                tracing::warn!(detail, "waiting for the store");
                tokio::time::sleep(PAUSE).await;
            }
            other => return other,
        }
    }
}

/// What is counted about the policy itself.
#[derive(Debug)]
struct Meters {
    bundles: Gauge,
    rules: Gauge,
    snapshots: Counter,
    load_failures: Counter,
}

impl Meters {
    fn register(metrics: &Metrics) -> Self {
        Self {
            bundles: metrics.gauge("kernel_bundles", "Bundles that are decided by"),
            rules: metrics.gauge("kernel_rules", "Rules that are decided by"),
            snapshots: metrics.counter("kernel_snapshots", "Snapshots that were decided by so far"),
            load_failures: metrics.counter("kernel_load_failures", "How often the policy could not be read and stayed as it was"),
        }
    }

    fn snapshot(&self, snapshot: &Snapshot) {
        self.bundles.set(i64::try_from(snapshot.bundles().len()).unwrap_or(i64::MAX));
        self.rules.set(i64::try_from(rules(snapshot)).unwrap_or(i64::MAX));
        self.snapshots.inc();
    }
}

fn rules(snapshot: &Snapshot) -> usize {
    snapshot.bundles().iter().map(|bundle| bundle.rules.len()).sum()
}

fn tell(snapshot: &Snapshot, what: &'static str) {
    let rules = rules(snapshot);
    let default = snapshot.default_decision().as_str();
    tracing::info!(snapshot = snapshot.id(), bundles = snapshot.bundles().len(), rules, default, "{what}");
}

impl<B: Bus, R: Records> Kernel<B, R> {
    async fn subscribe(&self) -> (Subscription, Subscription) {
        loop {
            let publish = self.bus.subscribe(subjects::KERNEL_PUBLISH, Some(QUEUE)).await;
            let announced = self.bus.subscribe(subjects::KERNEL_SNAPSHOT, None).await;
            match (publish, announced) {
                (Ok(publish), Ok(announced)) => return (publish, announced),
                (Err(error), _) | (_, Err(error)) => {
                    tracing::warn!(%error, "waiting for the bus");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn listen(
        &mut self,
        config: &KernelConfig,
        mut publish: Subscription,
        mut announced: Subscription,
        server: &mut JoinSet<Result<(), ServeError>>,
        shutdown: &Shutdown,
    ) -> Result<(), KernelError> {
        let mut refresh = tokio::time::interval(config.refresh());
        refresh.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut connection = self.bus.connection();
        let mut generation = connection.borrow_and_update().generation;
        loop {
            self.announce().await;
            let event = tokio::select! {
                () = shutdown.triggered() => Event::Shutdown,
                message = publish.next() => message.map_or(Event::BusClosed, Event::Publish),
                message = announced.next() => message.map_or(Event::BusClosed, Event::Announced),
                Some(ended) = server.join_next() => Event::Served(ended.ok().and_then(Result::err)),
                Ok(now) = connection.wait_for(|now| now.connected && now.generation != generation) => {
                    generation = now.generation;
                    Event::Reconnected
                }
                _ = refresh.tick() => Event::Refresh,
            };
            match event {
                Event::Publish(message) => self.publish(message).await,
                Event::Announced(message) => self.compare(&message.payload).await,
                Event::Refresh => self.reload().await,
                Event::Reconnected => {
                    self.announcement_due = true;
                    self.reload().await;
                }
                Event::Served(None) | Event::BusClosed if shutdown.is_triggered() => return Ok(()),
                Event::Served(error) => return Err(error.map_or(KernelError::ServerEnded, KernelError::Serve)),
                Event::BusClosed => return Err(KernelError::BusClosed),
                Event::Shutdown => return Ok(()),
            }
        }
    }

    /// Answers a publication; without a reply subject it is carried out all the same.
    async fn publish(&mut self, message: Message) {
        let reply = match self.publish_bundle(message.payload).await {
            Ok(snapshot) => PublishBundleReply { snapshot, problem: None },
            Err(problem) => {
                tracing::warn!(code = problem.code, detail = problem.detail, "a bundle is refused");
                PublishBundleReply { snapshot: self.id(), problem: Some(problem) }
            }
        };
        // Who hears the answer may ask at once for jobs to be decided, elsewhere: word of the snapshot goes first.
        self.announce().await;
        let Some(subject) = message.reply else { return };
        if let Err(error) = self.bus.publish(&subject, Headers::new(), reply.encode_to_vec().into()).await {
            tracing::warn!(%error, "the answer to a publication is lost");
        }
    }

    async fn publish_bundle(&mut self, request: Bytes) -> Result<String, Problem> {
        let request = PublishBundleRequest::decode(request).map_err(|error| Problem {
            code: Code::BundleInvalid.to_string(),
            detail: format!("not a PublishBundleRequest: {error}"),
            retry_after_ms: 0,
        })?;
        let (bundle, action) = (request.bundle_id.clone(), request.action());
        perform::publish(&self.records, request).await?;
        if action == BundleAction::Check {
            return Ok(self.id());
        }
        match perform::load(&self.records, self.policy_path.as_deref()).await {
            Ok(snapshot) => {
                self.replace(snapshot);
                tracing::info!(bundle, snapshot = self.id(), action = action.as_str_name(), "the bundles are changed");
                Ok(self.id())
            }
            // Committed, but not in force here; a repetition finds it committed and loads again.
            Err(LoadError::Store(error)) => Err(perform::store_problem(&error)),
            Err(error) => Err(Problem { code: Code::Internal.to_string(), detail: error.to_string(), retry_after_ms: 0 }),
        }
    }

    /// Looks at what another kernel says that it decides by.
    async fn compare(&mut self, payload: &Bytes) {
        let theirs = SnapshotChanged::decode(payload.clone()).map(|changed| changed.snapshot);
        if theirs.is_ok_and(|theirs| theirs != self.id()) {
            self.reload().await;
        }
    }

    /// Reads everything again; when that fails, the last good snapshot stays.
    async fn reload(&mut self) {
        match perform::load(&self.records, self.policy_path.as_deref()).await {
            Ok(snapshot) => self.replace(snapshot),
            Err(error @ LoadError::Store(StoreError::Unavailable { .. })) => tracing::debug!(%error, "the policy stays as it is"),
            Err(error) => {
                self.meters.load_failures.inc();
                tracing::error!(%error, "the policy cannot be read and stays as it is");
            }
        }
    }

    fn replace(&mut self, snapshot: Snapshot) {
        if snapshot.id() == self.current.borrow().snapshot.id() {
            return;
        }
        tell(&snapshot, "deciding by a new snapshot");
        self.meters.snapshot(&snapshot);
        self.current.send_modify(|current| current.replace(snapshot));
        self.announcement_due = true;
    }

    /// Tells the present snapshot if that is still to be done. It is told only after decisions are made by it.
    async fn announce(&mut self) {
        if !self.announcement_due {
            return;
        }
        let changed = SnapshotChanged { snapshot: self.id() };
        match self.bus.publish(subjects::KERNEL_SNAPSHOT, Headers::new(), changed.encode_to_vec().into()).await {
            Ok(()) => self.announcement_due = false,
            Err(error) => tracing::debug!(%error, "the snapshot is announced later"),
        }
    }

    fn id(&self) -> String {
        self.current.borrow().snapshot.id().to_owned()
    }
}
