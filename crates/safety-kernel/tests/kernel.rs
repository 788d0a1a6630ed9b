//! The kernel's shell against real servers: publish over NATS, records in Redis, decisions over gRPC.

use std::path::PathBuf;
use std::time::Duration;

use busbar_bus::{BusConfig, NatsBus};
use busbar_protocol::busbar::{BundleAction, BundleTier, PublishBundleReply, PublishBundleRequest, SnapshotChanged};
use busbar_protocol::cap::{DecisionType, ListSnapshotsRequest, PolicyCheckRequest};
use busbar_protocol::ports::{Bus as _, Headers, Judge as _, Subscription};
use busbar_protocol::prost::Message as _;
use busbar_protocol::subjects;
use busbar_rpc::cap::safety_kernel_client::SafetyKernelClient;
use busbar_rpc::{KernelClient, KernelClientOptions, tonic};
use busbar_safety_kernel::{Asked, KernelConfig, KernelError, LoadError, run};
use busbar_servers::Stack;
use busbar_service::{Metrics, Readiness, Shutdown, Telemetry};
use busbar_store::{Store, StoreConfig};
use futures::StreamExt as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Long enough for anything that comes at all.
const DEADLINE: Duration = Duration::from_secs(60);

const ALLOW_A: &str = "rules: [{id: a-allow, match: {topics: ['job.a.*']}, decision: allow, reason: fine}]";

struct Servers {
    stack: Stack,
    bus: NatsBus,
}

impl Servers {
    async fn start() -> Self {
        let stack = tokio::task::spawn_blocking(Stack::start_temp).await.expect("no panic").expect("servers");
        let bus = NatsBus::connect(BusConfig::new(stack.nats.url(), "test")).await.expect("a bus");
        Self { stack, bus }
    }

    async fn kernel(&self, config: KernelConfig) -> Running {
        let bus = NatsBus::connect(BusConfig::new(self.stack.nats.url(), "kernel")).await.expect("a bus");
        let store = Store::connect(StoreConfig::new(self.stack.redis.url())).await.expect("a store");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let (readiness, metrics, shutdown) = (Readiness::new(), Metrics::new(), Shutdown::new());
        readiness.set("started", false);
        let telemetry = Telemetry { metrics: metrics.clone(), ..Telemetry::default() };
        let kernel = run(config, bus, store, Asked { listener, seat: None }, readiness.clone(), telemetry, shutdown.clone());
        let task = tokio::spawn(kernel);
        Running { address, readiness, metrics, shutdown, task }
    }

    async fn ask(&self, request: Vec<u8>) -> PublishBundleReply {
        let answer =
            self.bus.request(subjects::KERNEL_PUBLISH, Headers::new(), request.into(), DEADLINE).await.expect("answered");
        PublishBundleReply::decode(answer.payload).expect("a reply")
    }

    async fn publish(&self, id: &str, tier: BundleTier, content: &str, topics: &[&str]) -> PublishBundleReply {
        self.act(BundleAction::Publish, id, tier, content, topics).await
    }

    async fn act(&self, action: BundleAction, id: &str, tier: BundleTier, content: &str, topics: &[&str]) -> PublishBundleReply {
        let topics = topics.iter().map(|topic| (*topic).to_owned()).collect();
        let request = PublishBundleRequest {
            bundle_id: id.into(),
            tier: tier.into(),
            content: content.into(),
            topics,
            action: action.into(),
        };
        self.ask(request.encode_to_vec()).await
    }

    async fn announcements(&self) -> Subscription {
        self.bus.subscribe(subjects::KERNEL_SNAPSHOT, None).await.expect("subscribed")
    }
}

struct Running {
    address: String,
    readiness: Readiness,
    metrics: Metrics,
    shutdown: Shutdown,
    task: JoinHandle<Result<(), KernelError>>,
}

impl Running {
    async fn ready(self) -> Self {
        self.readiness.set("started", true);
        let both = async {
            while self.readiness.checks().len() < 3 {
                tokio::task::yield_now().await;
            }
            self.readiness.ready().await;
        };
        tokio::time::timeout(DEADLINE, both).await.expect("ready");
        self
    }

    fn client(&self) -> KernelClient {
        KernelClient::new(&self.address, KernelClientOptions::default()).expect("an address")
    }

    fn channel(&self) -> tonic::transport::Channel {
        busbar_rpc::channel(&self.address, KernelClientOptions::default()).expect("an address")
    }

    /// Decision, rule and snapshot.
    async fn decide(&self, topic: &str) -> (DecisionType, String, String) {
        let request = PolicyCheckRequest { job_id: "j".into(), topic: topic.into(), ..PolicyCheckRequest::default() };
        let response = self.client().check(vec![request.into()]).await.expect("decided");
        let answer = &response.responses[0];
        (answer.decision(), answer.rule_id.clone(), response.snapshot)
    }

    /// Asks until the kernel decides by this snapshot.
    async fn reaches(&self, snapshot: &str) {
        let reached = async { while self.decide("job.a.x").await.2 != snapshot {} };
        tokio::time::timeout(DEADLINE, reached).await.expect("the snapshot");
    }

    async fn stop(self) {
        self.shutdown.trigger();
        self.task.await.expect("no panic").expect("a clean end");
    }
}

/// Waits for word of a snapshot.
async fn announced(announcements: &mut Subscription, snapshot: &str) {
    let heard = async {
        while let Some(message) = announcements.next().await {
            if SnapshotChanged::decode(message.payload).expect("an announcement").snapshot == snapshot {
                return;
            }
        }
        panic!("the bus was closed");
    };
    tokio::time::timeout(DEADLINE, heard).await.expect("announced");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_is_decided_by_announced_and_kept() {
    let servers = Servers::start().await;
    let mut announcements = servers.announcements().await;
    let kernel = servers.kernel(KernelConfig::default()).await.ready().await;
    let (decision, _, empty) = kernel.decide("job.a.x").await;
    assert_eq!(decision, DecisionType::Deny, "nothing allows it");
    announced(&mut announcements, &empty).await;

    let reply = servers.publish("a", BundleTier::Pack, ALLOW_A, &["job.a.x"]).await;
    assert_eq!(reply.problem, None);
    assert_ne!(reply.snapshot, empty);
    announced(&mut announcements, &reply.snapshot).await;
    assert_eq!(kernel.decide("job.a.x").await, (DecisionType::Allow, "a-allow".into(), reply.snapshot.clone()));
    assert_eq!(kernel.decide("job.a.y").await.0, DecisionType::Deny, "not a topic of the pack");
    let again = servers.publish("a", BundleTier::Pack, ALLOW_A, &["job.a.x"]).await;
    assert_eq!((again.snapshot, again.problem), (reply.snapshot.clone(), None), "the same again changes nothing");

    let mut cap = SafetyKernelClient::new(kernel.channel());
    let question = PolicyCheckRequest { job_id: "j".into(), topic: "job.a.x".into(), ..PolicyCheckRequest::default() };
    let check = cap.check(question.clone()).await.expect("decided").into_inner();
    for other in [cap.evaluate(question.clone()).await, cap.simulate(question.clone()).await] {
        assert_eq!(other.expect("decided").into_inner(), check);
    }
    let explained = cap.explain(question).await.expect("explained").into_inner();
    assert_eq!(explained.reason, "fine\na/a-allow (allow): matches\ndefault: deny");
    let snapshots = cap.list_snapshots(ListSnapshotsRequest {}).await.expect("listed").into_inner().snapshots;
    assert_eq!(snapshots, [reply.snapshot.clone(), empty]);
    assert!(kernel.metrics.render().contains("busbar_kernel_decisions_total{decision=\"allow\",tier=\"pack\"}"));
    kernel.stop().await;

    let next = servers.kernel(KernelConfig::default()).await.ready().await;
    assert_eq!(next.decide("job.a.x").await.2, reply.snapshot, "the bundle outlives the kernel");
    next.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_bundle_is_refused_whole() {
    let servers = Servers::start().await;
    let kernel = servers.kernel(KernelConfig::default()).await.ready().await;
    let deny = "rules: [{id: no, match: {topics: [job.a.x]}, decision: deny}]";
    let good = servers.publish("guard", BundleTier::Core, deny, &[]).await.snapshot;

    let bad = [
        servers.publish("b", BundleTier::Core, "rules: [{id: ok, decision: allow}, {id: x, decision: maybe}]", &[]).await,
        servers.publish("b", BundleTier::Pack, "rules: [{id: x, decision: allow}]", &["job.b"]).await,
        servers.publish("b", BundleTier::Unspecified, "", &[]).await,
        servers.publish("not an id", BundleTier::Core, "", &[]).await,
        servers.publish("guard", BundleTier::Pack, "rules: []", &["job.a.x"]).await,
        servers.ask(b"\xff\xff garbage".to_vec()).await,
    ];
    for reply in bad {
        let problem = reply.problem.expect("refused");
        assert_eq!(problem.code, "bundle_invalid", "{}", problem.detail);
        assert_eq!(reply.snapshot, good);
    }
    assert_eq!(kernel.decide("job.a.x").await, (DecisionType::Deny, "no".into(), good));

    let too_many = vec![PolicyCheckRequest::default(); 257];
    let mut stub = busbar_rpc::busbar::kernel_client::KernelClient::new(kernel.channel());
    let refused = stub
        .check_batch(busbar_protocol::busbar::CheckBatchRequest { requests: too_many, traceparents: Vec::new() })
        .await
        .expect_err("refused");
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    kernel.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_is_checked_without_a_trace_and_removed_without_one() {
    let servers = Servers::start().await;
    let kernel = servers.kernel(KernelConfig::default()).await.ready().await;
    let empty = kernel.decide("job.a.x").await.2;
    let act = async |action, tier, content: &str| servers.act(action, "a", tier, content, &["job.a.x"]).await;

    let checked = act(BundleAction::Check, BundleTier::Pack, ALLOW_A).await;
    assert_eq!((checked.problem, checked.snapshot), (None, empty.clone()));
    let bad = act(BundleAction::Check, BundleTier::Pack, "rules: [{id: x, decision: maybe}]").await;
    assert_eq!(bad.problem.expect("refused").code, "bundle_invalid");
    let nothing = act(BundleAction::Remove, BundleTier::Pack, "").await;
    assert_eq!((nothing.problem, nothing.snapshot), (None, empty.clone()), "what is not there is as good as removed");

    assert_eq!(act(BundleAction::Publish, BundleTier::Pack, ALLOW_A).await.problem, None);
    assert_eq!(kernel.decide("job.a.x").await.0, DecisionType::Allow);
    let wrong_tier = act(BundleAction::Remove, BundleTier::Core, "").await;
    assert_eq!(wrong_tier.problem.expect("refused").code, "bundle_invalid");
    let removed = act(BundleAction::Remove, BundleTier::Pack, "").await;
    assert_eq!((removed.problem, removed.snapshot), (None, empty.clone()));
    assert_eq!(kernel.decide("job.a.x").await, (DecisionType::Deny, String::new(), empty));
    kernel.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_agree_and_survive_their_servers() {
    let servers = Servers::start().await;
    let (one, two) = tokio::join!(servers.kernel(KernelConfig::default()), servers.kernel(KernelConfig::default()));
    let (one, two) = (one.ready().await, two.ready().await);
    let reply = servers.publish("a", BundleTier::Pack, ALLOW_A, &["job.a.x"]).await;
    for kernel in [&one, &two] {
        kernel.reaches(&reply.snapshot).await;
    }

    servers.stack.redis.kill9();
    servers.stack.nats.kill9();
    for kernel in [&one, &two] {
        assert_eq!(kernel.decide("job.a.x").await.0, DecisionType::Allow, "decisions need neither bus nor store");
    }
    let Servers { stack, bus } = servers;
    let stack = tokio::task::spawn_blocking(move || {
        stack.redis.restart().expect("redis again");
        stack.nats.restart().expect("nats again");
        stack
    });
    let servers = Servers { stack: stack.await.expect("no panic"), bus };
    let mut connection = servers.bus.connection();
    let back = connection.wait_for(|connection| connection.connected && connection.generation > 1);
    tokio::time::timeout(DEADLINE, back).await.expect("connected again").expect("a bus");

    // The kernels reconnect in their own time: until then nobody answers, or the store is not yet back.
    let content = "rules: [{id: stop, match: {topics: ['job.a.*']}, decision: deny}]";
    let request = PublishBundleRequest {
        bundle_id: "stop".into(),
        tier: BundleTier::Core.into(),
        content: content.into(),
        ..PublishBundleRequest::default()
    };
    let published = async {
        loop {
            let request = request.encode_to_vec().into();
            let answer = servers.bus.request(subjects::KERNEL_PUBLISH, Headers::new(), request, Duration::from_secs(10)).await;
            if let Ok(message) = answer {
                let reply = PublishBundleReply::decode(message.payload).expect("a reply");
                if reply.problem.is_none() {
                    return reply.snapshot;
                }
            }
            tokio::task::yield_now().await;
        }
    };
    let snapshot = tokio::time::timeout(DEADLINE, published).await.expect("published");
    for kernel in [&one, &two] {
        kernel.reaches(&snapshot).await;
        assert_eq!(kernel.decide("job.a.x").await.1, "stop");
    }
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_file_is_read_again_and_must_be_there() {
    let servers = Servers::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("policy.yaml");
    let config = KernelConfig { policy_path: Some(path.clone()), refresh_ms: 100, ..KernelConfig::default() };

    let missing = servers.kernel(config.clone()).await;
    let error = missing.task.await.expect("no panic").expect_err("no file");
    assert!(matches!(error, KernelError::Load(LoadError::File { .. })), "{error}");

    let shipped = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../config/safety-policy.yaml");
    std::fs::copy(&shipped, &path).expect("the shipped policy");
    let kernel = servers.kernel(config).await.ready().await;
    let (decision, rule, before) = kernel.decide("job.a.x").await;
    assert_eq!((decision, rule.as_str()), (DecisionType::Deny, ""), "as shipped nothing is allowed");

    std::fs::write(&path, "rules: [{id: all, decision: allow}]").expect("written");
    let changed = async { while kernel.decide("job.a.x").await.1 != "all" {} };
    tokio::time::timeout(DEADLINE, changed).await.expect("read again");

    // A bad file changes nothing: what was good stays, until something good comes.
    std::fs::write(&path, "\n").expect("written");
    assert_eq!(kernel.decide("job.a.x").await.1, "all");
    std::fs::write(&path, "rules: [{id: all, decision: maybe}]").expect("written");
    let reply = servers.publish("a", BundleTier::Pack, ALLOW_A, &["job.a.x"]).await;
    assert_eq!(reply.problem.expect("not in force").code, "internal");
    assert_eq!(kernel.decide("job.a.x").await.1, "all");
    std::fs::copy(&shipped, &path).expect("the shipped policy");
    let restored = async { while kernel.decide("job.a.x").await.1 != "a-allow" {} };
    tokio::time::timeout(DEADLINE, restored).await.expect("read again");
    assert_ne!(kernel.decide("job.a.x").await.2, before);
    kernel.stop().await;
}
