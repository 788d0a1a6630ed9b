//! Install, upgrade, uninstall.

use busbar_protocol::pointers::Sha256Hex;
use serde_json::{Value, json};

use super::rig::{Rig, demo, lean, small};

fn plan(reply: &Value) -> Vec<String> {
    let word = |change: &Value, member: &str| change[member].as_str().expect("a text").to_owned();
    let changes = reply["plan"].as_array().expect("a plan");
    changes.iter().map(|change| ["action", "kind", "name"].map(|member| word(change, member)).join(" ")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pack_comes_goes_and_comes_again_without_a_trace() {
    let rig = Rig::start().await;
    let gateway = rig.gateway().await;
    assert_eq!(gateway.install(&small("other"), "").await.status, 201);
    let (before, blobs, around) = (rig.dump().await, rig.blob_files(), rig.around.held().clone());

    let planned = gateway.install(&demo("1.0.0"), "?dry_run=true").await;
    assert_eq!((planned.status, &planned.json()["outcome"]), (200, &json!("planned")), "{}", planned.text());
    let all = ["module m", "topic job.demo.a", "topic job.demo.b", "policy pack-demo", "workflow demo.one", "workflow demo.two"];
    assert_eq!(plan(&planned.json()), all.map(|part| format!("create {part}")));
    assert_eq!((rig.dump().await, rig.blob_files()), (before.clone(), blobs.clone()), "a plan changes nothing");

    for _ in 0..2 {
        let installed = gateway.install(&demo("1.0.0"), "").await;
        assert_eq!((installed.status, &installed.json()["outcome"]), (201, &json!("installed")), "{}", installed.text());
        assert_eq!(plan(&installed.json()), plan(&planned.json()));
        is_installed(&rig).await;

        // What the disk lost comes back.
        let module = Sha256Hex::of(b"\0asm\x01\0\0\x001.0.0");
        assert!(rig.blobs.delete(&module).await.expect("a disk"));
        let again = gateway.install(&demo("1.0.0"), "").await;
        assert_eq!(rig.blobs.size_bytes(&module).await.expect("a disk"), Some(13));
        assert_eq!((again.status, &again.json()["outcome"]), (200, &json!("unchanged")));
        assert!(plan(&again.json()).iter().all(|change| change.starts_with("keep ")), "{}", again.text());

        let view = gateway.ask("GET", "/api/v1/packs/demo", b"").await.json();
        assert_eq!(
            (&view["state"], &view["version"], &view["installed_by"]),
            (&json!("active"), &json!("1.0.0"), &json!("acme-admin"))
        );
        assert_eq!(view["owns"].as_array().map(Vec::len), Some(6));
        let list = gateway.ask("GET", "/api/v1/packs", b"").await.json();
        assert_eq!((&list["items"][0]["id"], &list["items"][1]["id"]), (&json!("demo"), &json!("other")));

        let gone = gateway.uninstall("demo").await;
        assert_eq!((gone.status, &gone.json()["outcome"]), (200, &json!("uninstalled")), "{}", gone.text());
        assert_eq!(plan(&gone.json()), all.map(|part| format!("remove {part}")));
        assert_eq!(rig.dump().await, before);
        rig.sweep().await;
        assert_eq!((rig.blob_files(), rig.around.held().clone()), (blobs.clone(), around.clone()));
        gateway.uninstall("demo").await.refused(404, "pack_not_found");
    }
    assert_eq!(gateway.uninstall("other").await.status, 200);
    let left: Vec<String> = rig.dump().await.into_keys().collect();
    assert!(left.iter().all(|key| key.starts_with("key:")), "{left:?}");
    gateway.end().await;
}

async fn is_installed(rig: &Rig) {
    let topics = rig.topics().await;
    assert_eq!(rig.topic_names().await, ["job.demo.a", "job.demo.b", "job.other.x"]);
    let module = Sha256Hex::of(b"\0asm\x01\0\0\x001.0.0");
    assert_eq!((topics[0].module.clone(), topics[0].pack_id.as_str()), (format!("sha256:{module}"), "demo"));
    assert_eq!(rig.blobs.size_bytes(&module).await.expect("a disk"), Some(13));
    let held = rig.around.held();
    assert_eq!(held.bundles["pack-demo"].1, ["job.demo.a", "job.demo.b"]);
    assert_eq!(held.workflows["demo.one"].0, br#"{"id":"demo.one","steps":{}}"#);
    assert_eq!(held.workflows.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_drops_what_is_no_longer_there() {
    let rig = Rig::start().await;
    let gateway = rig.gateway().await;
    let nothing = rig.dump().await;
    assert_eq!(gateway.install(&demo("1.0.0"), "").await.status, 201);
    for query in ["", "?dry_run=true"] {
        let told = gateway.install(&lean("2.0.0"), query).await.refused(409, "pack_conflict");
        assert!(told.contains("version 1.0.0") && told.contains("2.0.0"), "{told}");
    }

    let upgraded = gateway.install(&lean("2.0.0"), "?upgrade=true").await.json();
    assert_eq!((&upgraded["outcome"], &upgraded["replaces"]), (&json!("upgraded"), &json!("1.0.0")), "{upgraded}");
    let expected = [
        "change module m",
        "change topic job.demo.a",
        "remove topic job.demo.b",
        "create topic job.demo.c",
        "remove policy pack-demo",
        "keep workflow demo.one",
        "remove workflow demo.two",
    ];
    assert_eq!(plan(&upgraded), expected);
    assert_eq!(rig.topic_names().await, ["job.demo.a", "job.demo.c"]);
    let held = rig.around.held().clone();
    assert_eq!((held.bundles.len(), held.workflows.len()), (0, 1));
    // Both modules and the new archive: jobs that were admitted before name the old module.
    rig.sweep().await;
    assert_eq!(rig.blob_files().len(), 3);

    assert_eq!(gateway.install(&demo("1.0.0"), "?upgrade=true").await.json()["outcome"], "upgraded");
    assert_eq!(rig.around.held().bundles.len(), 1);
    assert_eq!(gateway.uninstall("demo").await.status, 200);
    rig.sweep().await;
    assert_eq!((rig.dump().await, rig.blob_files()), (nothing, Vec::<String>::new()));
    gateway.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_several_packs_bring_stays_until_the_last_goes() {
    let rig = Rig::start().await;
    let gateway = rig.gateway().await;
    let module = br#"same"#;
    let with_module = |id: &str| {
        let text = format!(
            "apiVersion: busbar/v1\nkind: Pack\nmetadata: {{id: {id}, version: '1'}}\nmodules: [{{name: m, file: m}}]\ntopics: t\n"
        );
        let topics = format!("topics: [{{topic: job.{id}.x, pools: [default], module: m}}]");
        let wasm = [b"\0asm\x01\0\0\0", &module[..]].concat();
        let files = [("pack.yaml", text.into_bytes()), ("t", topics.into_bytes()), ("m", wasm)];
        busbar_rules::pack::archive(&files.into_iter().map(|(name, content)| (name.to_owned(), content)).collect())
    };
    for id in ["one", "two"] {
        assert_eq!(gateway.install(&with_module(id), "").await.status, 201);
    }
    let digest = Sha256Hex::of(&[b"\0asm\x01\0\0\0", &module[..]].concat());
    for (id, size) in [("one", Some(12)), ("two", None)] {
        assert_eq!(gateway.uninstall(id).await.status, 200);
        rig.sweep().await;
        assert_eq!(rig.blobs.size_bytes(&digest).await.expect("a disk"), size);
    }
    gateway.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_artifact_with_the_bytes_of_a_module_outlives_the_pack() {
    let rig = Rig::start().await;
    let gateway = rig.gateway().await;
    let wasm = b"\0asm\x01\0\0\x001.0.0";
    assert_eq!(gateway.install(&demo("1.0.0"), "").await.status, 201);
    let uploaded = gateway.ask("POST", "/api/v1/artifacts", wasm).await.json();
    assert_eq!(uploaded["sha256"], Sha256Hex::of(wasm).to_string());
    assert_eq!(gateway.uninstall("demo").await.status, 200);
    rig.sweep().await;
    let path = format!("/api/v1/artifacts/{}", uploaded["artifact_id"].as_str().expect("an id"));
    let read = gateway.ask("GET", &path, b"").await;
    assert_eq!((read.status, &read.body[..]), (200, &wasm[..]));
    assert_eq!(rig.blob_files().len(), 1, "the archive has gone");
    gateway.end().await;
}
