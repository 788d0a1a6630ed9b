//! Packs that are loaded at the start.

use std::fs;
use std::path::Path;

use busbar_blobs::Blobs;
use busbar_gateway::{GatewayConfig, PackError, load_packs};
use busbar_protocol::busbar::{BundleTier, Problem, PublishBundleReply, PublishBundleRequest, TopicDocuments};
use busbar_protocol::pointers::Sha256Hex;
use busbar_protocol::ports::{Bus as _, Headers, Records as _};
use busbar_protocol::prost::Message as _;
use busbar_protocol::{keys, subjects};
use futures::StreamExt as _;

use crate::support::{DEADLINE, Fixture};

fn pack(dir: &Path, id: &str, topic: &str) {
    let folder = dir.join(id);
    fs::create_dir_all(folder.join("schemas")).expect("made");
    let manifest = format!(
        "apiVersion: busbar/v1\nkind: Pack\nmetadata: {{id: {id}, version: 0.1.0}}\nmodules: [{{name: m, file: m.wasm}}]\n\
         topics: topics.yaml\npolicy: policy.yaml\n"
    );
    let topics = format!(
        "topics:\n  - topic: {topic}\n    pools: [default]\n    module: m\n    input_schema: schemas/in.json\n    limits: {{cpu_ms: 5}}\n"
    );
    let files = [
        ("pack.yaml", manifest.as_str()),
        ("topics.yaml", &topics),
        ("policy.yaml", "version: \"1\"\nrules: []\n"),
        ("m.wasm", "not looked into here"),
        ("schemas/in.json", r#"{"type":"object"}"#),
    ];
    for (name, content) in files {
        fs::write(folder.join(name), content).expect("written");
    }
}

async fn topics(fixture: &Fixture) -> Option<TopicDocuments> {
    let stored = fixture.store.read(vec![keys::TOPICS.to_owned()]).await.expect("read");
    stored.into_iter().next().flatten().map(|stored| TopicDocuments::decode(stored.value).expect("ours"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pack_brings_topics_modules_and_a_policy() {
    let dir = tempfile::tempdir().expect("a folder");
    pack(dir.path(), "one", "job.one.*");
    let config = GatewayConfig { packs_dir: Some(dir.path().to_owned()), ..GatewayConfig::default() };
    let fixture = Fixture::start_with(config).await;
    let documents = topics(&fixture).await.expect("written");
    let document = &documents.topics[0];
    assert_eq!((document.topic.as_str(), document.pack_id.as_str()), ("job.one.*", "one"));
    assert_eq!(document.module, format!("sha256:{}", Sha256Hex::of(b"not looked into here")));
    assert_eq!((document.input_schema.as_str(), document.limits.as_str()), (r#"{"type":"object"}"#, r#"{"cpu_ms":5}"#));

    // The kernel comes late, and is away a moment longer: the gateway goes on asking.
    assert!(!fixture.kit.readiness.is_ready());
    let mut asked = fixture.bus.subscribe(subjects::KERNEL_PUBLISH, None).await.expect("subscribed");
    let away = Problem { code: "store_unavailable".into(), detail: "a moment".into(), retry_after_ms: 0 };
    for problem in [Some(away), None] {
        let message = tokio::time::timeout(DEADLINE, asked.next()).await.expect("in time").expect("a request");
        let request = PublishBundleRequest::decode(message.payload).expect("ours");
        assert_eq!((request.bundle_id.as_str(), request.tier()), ("pack-one", BundleTier::Pack));
        assert_eq!(request.topics, ["job.one.*"]);
        let reply = PublishBundleReply { snapshot: "sha256:1".into(), problem };
        fixture
            .bus
            .publish(&message.reply.expect("a request"), Headers::new(), reply.encode_to_vec().into())
            .await
            .expect("published");
    }
    tokio::time::timeout(DEADLINE, fixture.kit.readiness.ready()).await.expect("ready");
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_pack_changes_nothing_and_is_named() {
    let fixture = Fixture::start().await;
    let dir = tempfile::tempdir().expect("a folder");
    let blobs = Blobs::open(&busbar_blobs::url_of(&dir.path().join("blobs"))).expect("blobs");
    let load = async |dir: &Path| load_packs(dir, &fixture.bus, &fixture.store, &blobs).await;
    let told = async |dir: &Path| match load(dir).await {
        Err(error @ PackError::Invalid { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };

    let twice = dir.path().join("twice");
    pack(&twice, "one", "job.same");
    pack(&twice, "two", "job.same");
    assert_eq!(
        told(&twice).await,
        "pack_invalid: all packs: pack two: topics.yaml: job.same: the topic belongs to the pack one already"
    );

    let bad = dir.path().join("bad");
    pack(&bad, "one", "job.one");
    fs::write(bad.join("one/schemas/in.json"), r#"{"type":"nothing"}"#).expect("written");
    assert!(told(&bad).await.starts_with("pack_invalid: one: topics.yaml: job.one: input_schema: "));
    fs::write(bad.join("one/topics.yaml"), "topics:\n  - topic: job.one\n    pool: [default]\n").expect("written");
    let error = told(&bad).await;
    assert!(error.starts_with("pack_invalid: one: topics.yaml: ") && error.contains("pool"), "{error}");
    fs::remove_file(bad.join("one/topics.yaml")).expect("removed");
    assert!(matches!(load(&bad).await, Err(PackError::Unreadable { path, .. }) if path.ends_with("topics.yaml")));
    assert_eq!(topics(&fixture).await, None);

    // The same packs a second time change nothing.
    let good = dir.path().join("good");
    pack(&good, "one", "job.one");
    let first = load(&good).await.expect("loaded");
    let revision =
        async || fixture.store.read(vec![keys::TOPICS.to_owned()]).await.expect("read")[0].as_ref().map(|s| s.revision);
    let before = revision().await;
    assert_eq!(load(&good).await.expect("loaded"), first);
    assert_eq!(revision().await, before);
    fixture.end().await;
}
