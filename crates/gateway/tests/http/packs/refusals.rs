//! What is refused, and that nothing is changed by it.

use busbar_gateway::Role;
use busbar_protocol::subjects;
use busbar_rules::pack::{Files, archive};
use serde_json::json;

use super::rig::{Rig, demo, files, lean, small};
use crate::support::{key, request};

fn with(file: &str, from: &str, to: &str) -> Vec<u8> {
    let mut files: Files = files("1.0.0");
    let text = String::from_utf8_lossy(&files[file]).replace(from, to);
    files.insert(file.to_owned(), text.into_bytes());
    archive(&files)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_pack_changes_nothing_and_is_named() {
    let rig = Rig::start().await;
    let gateway = rig.gateway().await;
    let before = rig.dump().await;
    let good = demo("1.0.0");
    let cases = [
        (b"no archive".to_vec(), "pack_invalid", "the archive: "),
        (good[..good.len() - 5].to_vec(), "pack_invalid", "the archive: it is damaged"),
        (with("pack.yaml", "kind: Pack", "kind: Pack\nsurprise: 1"), "pack_invalid", "pack.yaml: "),
        (with("topics.yaml", "job.demo.a", "job.other.a"), "pack_invalid", "topics.yaml: job.other.a"),
        (with("one.yaml", "demo.one", "other.one"), "pack_invalid", "one.yaml: id"),
        (with("pack.yaml", "kind: Pack", "kind: Pack\ncompatibility: {minBusbar: 99.0.0}"), "pack_invalid", "pack.yaml: compat"),
        (with("policy.yaml", "[]", "[maybe]"), "bundle_invalid", "maybe is no decision"),
        (with("two.yaml", "steps", "stop"), "workflow_invalid", "steps: there must be some"),
    ];
    for (archive, code, told) in cases {
        for query in ["", "?dry_run=true"] {
            let detail = gateway.install(&archive, query).await.refused(422, code);
            assert!(detail.starts_with(told), "{told}: {detail}");
        }
    }
    gateway.install(&good, "?force=true").await.refused(422, "field_invalid");
    gateway.ask("GET", "/api/v1/packs/demo", b"").await.refused(404, "pack_not_found");
    gateway.ask("GET", "/api/v1/packs/No..Such", b"").await.refused(404, "pack_not_found");
    assert_eq!((rig.dump().await, rig.blob_files()), (before, Vec::<String>::new()));
    gateway.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_are_asked_for() {
    let rig = Rig::start().await;
    let gateway = rig.gateway().await;
    for (role, looks, changes) in [(Role::Operator, 404, 422), (Role::Viewer, 404, 403), (Role::Submitter, 403, 403)] {
        let key = key(&rig.store, "acme", role).await;
        let headers = [("x-api-key", key.as_str())];
        let ask = async |method: &str, path: &str| request(gateway.address, method, path, &headers, b"").await.status;
        assert_eq!(ask("GET", "/api/v1/packs/demo").await, looks, "{role}");
        assert_eq!(ask("POST", "/api/v1/packs").await, changes, "{role}");
    }
    gateway.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_use_stays() {
    let rig = Rig::start().await;
    let gateway = rig.gateway().await;
    assert_eq!(gateway.install(&demo("1.0.0"), "").await.status, 201);
    let before = (rig.dump().await, rig.blob_files());
    rig.around.held().running.insert("demo.two".to_owned());
    gateway.uninstall("demo").await.refused(409, "workflow_in_use");
    gateway.install(&lean("2.0.0"), "?upgrade=true").await.refused(409, "workflow_in_use");
    rig.around.held().running.clear();

    rig.around.held().busy.insert("job.demo.b".to_owned());
    let told = gateway.uninstall("demo").await.refused(409, "pack_in_use");
    assert!(told.contains("j1 of job.demo.b"), "{told}");
    gateway.install(&lean("2.0.0"), "?upgrade=true").await.refused(409, "pack_in_use");
    assert_eq!((rig.dump().await, rig.blob_files()), before);

    // A live job of a topic that stays is no reason.
    rig.around.held().busy = ["job.demo.a".to_owned()].into();
    assert_eq!(gateway.install(&lean("2.0.0"), "?upgrade=true").await.status, 200);
    gateway.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_turns_out_to_be_impossible_is_taken_back() {
    let rig = Rig::start().await;
    let gateway = rig.gateway().await;
    let nothing = (rig.dump().await, rig.blob_files());
    rig.around.held().false_friend = Some("demo.two".to_owned());
    let told = gateway.install(&demo("1.0.0"), "").await.refused(422, "workflow_invalid");
    assert_eq!(told, "changed my mind");
    rig.sweep().await;
    assert_eq!((rig.dump().await, rig.blob_files()), nothing);
    assert!(rig.around.held().workflows.is_empty());

    assert_eq!(gateway.install(&lean("1.0.0"), "").await.status, 201);
    let (before, around) = (rig.dump().await, rig.around.held().clone());
    gateway.install(&demo("2.0.0"), "?upgrade=true").await.refused(422, "workflow_invalid");
    assert_eq!(
        (gateway.pack("demo").await, rig.topic_names().await),
        (Some(("active".to_owned(), "1.0.0".to_owned())), vec!["job.demo.a".to_owned(), "job.demo.c".to_owned()])
    );
    assert_eq!(rig.around.held().clone(), around);
    // What differs is the module of the release that did not come to be, which is remembered until the pack goes.
    assert_eq!(rig.dump().await.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    assert_eq!(gateway.uninstall("demo").await.status, 200);
    rig.sweep().await;
    assert_eq!((rig.dump().await, rig.blob_files()), nothing);
    gateway.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_needed_may_be_away() {
    let rig = Rig::start_with(&[subjects::KERNEL_PUBLISH]).await;
    let gateway = rig.gateway().await;
    assert_eq!(gateway.install(&small("a"), "").await.json()["outcome"], json!("installed"));
    let before = rig.dump().await;
    gateway.install(&demo("1.0.0"), "").await.refused(503, "engine_unavailable");
    gateway.uninstall("a").await.refused(503, "scheduler_unavailable");
    assert_eq!(rig.dump().await, before);
    gateway.end().await;
}
