//! Servers, stand-ins, gateways that may be mortal, and packs to install.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, SystemTime};

use busbar_blobs::Blobs;
use busbar_bus::{BusConfig, NatsBus};
use busbar_gateway::{Gateway, GatewayConfig, Kit, Role, sweep};
use busbar_protocol::busbar::{TopicDocument, TopicDocuments};
use busbar_protocol::ports::{Bus, Records};
use busbar_protocol::prost::Message as _;
use busbar_protocol::{keys, subjects};
use busbar_rules::pack::{Files, archive};
use busbar_servers::Stack;
use busbar_store::{Store, StoreConfig};
use serde_json::Value;
use tokio::net::TcpListener;

use super::around::Around;
use super::dump::dump;
use super::mortal::{Life, MortalBus, MortalStore};
use crate::support::{Reply, key, request, until};

/// How long a dead gateway's lease is respected.
const LEASE_MS: u64 = 300;
const ALL: &[&str] = &[
    subjects::KERNEL_PUBLISH,
    subjects::ENGINE_DEFINE,
    subjects::ENGINE_REMOVE,
    subjects::SCHEDULER_LIST,
    subjects::SCHEDULER_WORKERS,
];

pub(super) struct Rig {
    pub(super) bus: NatsBus,
    pub(super) store: Store,
    pub(super) blobs: Blobs,
    pub(super) around: Around,
    /// An admin's key.
    pub(super) key: String,
    /// Ended last.
    stack: Stack,
}

/// A running gateway.
pub(super) struct Running {
    pub(super) address: SocketAddr,
    key: String,
    kit: Kit,
    gateway: Gateway,
}

impl Rig {
    pub(super) async fn start() -> Self {
        Self::start_with(ALL).await
    }

    /// Only some subjects are answered.
    pub(super) async fn start_with(answered: &[&'static str]) -> Self {
        let stack = Stack::start_temp().expect("real servers");
        let bus = NatsBus::connect(BusConfig::new(stack.nats.url(), "packs-test")).await.expect("a bus");
        let store = Store::connect(StoreConfig::new(stack.redis.url())).await.expect("a store");
        let blobs = Blobs::open(&busbar_blobs::url_of(&stack.temp_dir().expect("temporary").join("blobs"))).expect("blobs");
        let around = Around::start(&bus, &store, answered).await;
        let key = key(&store, "acme", Role::Admin).await;
        Self { bus, store, blobs, around, key, stack }
    }

    pub(super) async fn gateway(&self) -> Running {
        self.run(self.bus.clone(), self.store.clone()).await
    }

    /// A gateway that will die.
    pub(super) async fn mortal(&self, life: &Life) -> Running {
        self.run(MortalBus(self.bus.clone(), life.clone()), MortalStore(self.store.clone(), life.clone())).await
    }

    async fn run<B: Bus, R: Records>(&self, bus: B, records: R) -> Running {
        let config = GatewayConfig { pack_lease_ms: LEASE_MS, ..GatewayConfig::default() };
        let (kit, listener) = (Kit::default(), TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port"));
        let gateway = Gateway::start(config, bus, records, self.blobs.clone(), listener, kit.clone()).await.expect("a gateway");
        Running { address: gateway.address(), key: self.key.clone(), kit, gateway }
    }

    pub(super) async fn topics(&self) -> Vec<TopicDocument> {
        let stored = self.store.read(vec![keys::TOPICS.to_owned()]).await.expect("read").remove(0);
        stored.map_or(Vec::new(), |stored| TopicDocuments::decode(stored.value).expect("ours").topics)
    }

    pub(super) async fn topic_names(&self) -> Vec<String> {
        self.topics().await.into_iter().map(|document| document.topic).collect()
    }

    /// Everything in Redis.
    pub(super) async fn dump(&self) -> BTreeMap<String, String> {
        let url = self.stack.redis.url();
        tokio::task::spawn_blocking(move || dump(&url)).await.expect("no panic")
    }

    /// Collects what nobody names, as if all blobs had lain there for two days.
    pub(super) async fn sweep(&self) {
        const DAY: Duration = Duration::from_secs(24 * 3_600);
        for blob in self.blob_files() {
            File::open(blob).and_then(|file| file.set_modified(SystemTime::now() - 2 * DAY)).expect("aged");
        }
        sweep(&self.store, &self.blobs, DAY).await.expect("swept");
    }

    /// The files of all blobs.
    pub(super) fn blob_files(&self) -> Vec<String> {
        let shards = std::fs::read_dir(self.blobs.folder().join("sha256")).expect("blobs");
        let files = shards.flat_map(|shard| std::fs::read_dir(shard.expect("an entry").path()).expect("a folder"));
        let mut names: Vec<String> = files.map(|file| file.expect("an entry").path().display().to_string()).collect();
        names.sort();
        names
    }
}

impl Running {
    pub(super) async fn ask(&self, method: &str, path: &str, body: &[u8]) -> Reply {
        request(self.address, method, path, &[("x-api-key", &self.key)], body).await
    }

    /// Installs, with a query.
    pub(super) async fn install(&self, archive: &[u8], query: &str) -> Reply {
        self.ask("POST", &format!("/api/v1/packs{query}"), archive).await
    }

    pub(super) async fn uninstall(&self, pack: &str) -> Reply {
        self.ask("DELETE", &format!("/api/v1/packs/{pack}"), b"").await
    }

    /// State and version of a pack.
    pub(super) async fn pack(&self, pack: &str) -> Option<(String, String)> {
        let reply = self.ask("GET", &format!("/api/v1/packs/{pack}"), b"").await;
        let text = |view: &Value, member: &str| view[member].as_str().expect("a text").to_owned();
        (reply.status == 200).then(|| (text(&reply.json(), "state"), text(&reply.json(), "version")))
    }

    /// Waits until no pack is on its way.
    pub(super) async fn rest(&self) {
        until("every pack is at rest", async || {
            let list = self.ask("GET", "/api/v1/packs", b"").await.json();
            let items = list["items"].as_array().expect("a list").clone();
            items.iter().all(|pack| pack["state"] == "active").then_some(())
        })
        .await;
    }

    pub(super) async fn end(self) {
        self.kit.shutdown.trigger();
        self.gateway.join().await.expect("a clean end");
    }
}

/// The files of the pack `demo`.
pub(super) fn files(version: &str) -> Files {
    let manifest = format!(
        "apiVersion: busbar/v1\nkind: Pack\nmetadata: {{id: demo, version: {version}}}\n\
         modules: [{{name: m, file: m.wasm}}]\ntopics: topics.yaml\npolicy: policy.yaml\nworkflows: [one.yaml, two.yaml]\n"
    );
    let topics = "topics:\n  - {topic: job.demo.a, pools: [default], module: m, input_schema: in.json}\n  \
                  - {topic: job.demo.b, pools: [default]}\n";
    let files = [
        ("pack.yaml", manifest.into_bytes()),
        ("topics.yaml", topics.into()),
        ("policy.yaml", format!("# {version}\nrules: []\n").into_bytes()),
        ("m.wasm", [b"\0asm\x01\0\0\0", version.as_bytes()].concat()),
        ("in.json", br#"{"type":"object"}"#.to_vec()),
        ("one.yaml", b"id: demo.one\nsteps: {}\n".to_vec()),
        ("two.yaml", b"id: demo.two\nsteps: {}\n".to_vec()),
    ];
    files.into_iter().map(|(name, content)| (name.to_owned(), content)).collect()
}

pub(super) fn demo(version: &str) -> Vec<u8> {
    archive(&files(version))
}

/// A later release: topic b and workflow two are gone, topic c is new, and there is no policy any more.
pub(super) fn lean(version: &str) -> Vec<u8> {
    let mut files = files(version);
    let replace = |text: &[u8], from: &str, to: &str| String::from_utf8_lossy(text).replace(from, to).into_bytes();
    let manifest = replace(&files["pack.yaml"], ", two.yaml", "");
    files.insert("pack.yaml".into(), replace(&manifest, "policy: policy.yaml\n", ""));
    let topics = replace(&files["topics.yaml"], "job.demo.b", "job.demo.c");
    files.insert("topics.yaml".into(), topics);
    files.remove("two.yaml");
    files.remove("policy.yaml");
    archive(&files)
}

/// A pack of one topic and nothing else.
pub(super) fn small(id: &str) -> Vec<u8> {
    let files = [
        ("pack.yaml", format!("apiVersion: busbar/v1\nkind: Pack\nmetadata: {{id: {id}, version: '1'}}\ntopics: topics.yaml\n")),
        ("topics.yaml", format!("topics: [{{topic: job.{id}.x, pools: [default]}}]\n")),
    ];
    archive(&files.into_iter().map(|(name, content)| (name.to_owned(), content.into_bytes())).collect())
}
