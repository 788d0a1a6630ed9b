//! Packs as a whole.

use super::*;

const PACK: &str = "
apiVersion: busbar/v1
kind: Pack
metadata: {id: demo, version: 0.1.0, title: t, description: d}
compatibility: {minBusbar: 0.1.0}
modules: [{name: guest, file: guest.wasm}]
topics: topics.yaml
policy: policy.yaml
workflows: [workflows/a.yaml]
schemas: [schemas/extra.json]
";
const TOPICS: &str = "
topics:
  - {topic: job.demo.*, pools: [p], module: guest, input_schema: in.json, limits: {cpu_ms: 5}, retries: {max_attempts: 2}}
";

fn files() -> Files {
    let files = [
        (MANIFEST, PACK.as_bytes()),
        ("topics.yaml", TOPICS.as_bytes()),
        ("policy.yaml", b"rules: []"),
        ("workflows/a.yaml", b"id: demo.a\nsteps: {one: {type: job}}\n"),
        ("schemas/extra.json", b"{}"),
        ("in.json", br#"{"type":"object"}"#),
        ("guest.wasm", b"\0asm\x01\0\0\0 and more"),
        (README, b"# demo"),
    ];
    files.into_iter().map(|(name, content)| (name.to_owned(), content.to_vec())).collect()
}

fn with(file: &str, from: &str, to: &str) -> Files {
    let mut files = files();
    let text = String::from_utf8(files[file].clone()).expect("text");
    assert!(text.contains(from), "{from} in {text}");
    files.insert(file.to_owned(), text.replacen(from, to, 1).into_bytes());
    files
}

fn refused(files: Files) -> String {
    Pack::open(files).expect_err("a bad pack").to_string()
}

#[test]
fn a_pack_has_everything_resolved() {
    let pack = Pack::open(files()).expect("good");
    let digest = Sha256Hex::of(b"\0asm\x01\0\0\0 and more");
    assert_eq!((pack.id(), &pack.modules[0].sha256), ("demo", &digest));
    assert_eq!(pack.module(&pack.modules[0]), b"\0asm\x01\0\0\0 and more");
    let topic = &pack.topics[0];
    assert_eq!((topic.topic.as_str(), topic.pack_id.as_str(), topic.max_attempts), ("job.demo.*", "demo", 2));
    assert_eq!((topic.module.as_str(), topic.limits.as_str()), (format!("sha256:{digest}").as_str(), r#"{"cpu_ms":5}"#));
    assert_eq!(topic.input_schema, r#"{"type":"object"}"#);
    assert_eq!(pack.policy.as_deref(), Some("rules: []"));
    let Workflow { id, document } = &pack.workflows[0];
    assert_eq!((id.as_str(), document.as_slice()), ("demo.a", &br#"{"id":"demo.a","steps":{"one":{"type":"job"}}}"#[..]));
}

#[test]
fn the_digest_is_that_of_the_content() {
    let pack = Pack::open(files()).expect("good");
    let again = Pack::open(unpack(&archive(pack.files())).expect("an archive")).expect("good");
    assert_eq!(again, pack);
    let other = Pack::open(with(README, "demo", "Demo")).expect("good");
    assert_ne!(other.digest, pack.digest);
}

#[test]
fn gathering_takes_what_belongs_to_the_pack() {
    let mut folder = files();
    folder.insert("guest/src/main.rs".to_owned(), b"fn main() {}".to_vec());
    let read = |folder: &Files, file: &str| Ok::<_, ()>(folder.get(file).cloned());
    let pack = gather(|file| read(&folder, file)).expect("good");
    assert_eq!(pack, Pack::open(files()).expect("good"));
    folder.remove("guest.wasm");
    let error = gather(|file| read(&folder, file)).expect_err("incomplete");
    assert_eq!(error, Broken::new("guest.wasm", "the file is missing").into());
    let topics = TOPICS.replace("in.json", "../in.json");
    folder.insert("topics.yaml".to_owned(), topics.into_bytes());
    let mut asked = Vec::new();
    gather(|file| {
        asked.push(file.to_owned());
        read(&folder, file)
    })
    .expect_err("outside");
    assert_eq!(asked, [MANIFEST, "topics.yaml"], "nothing outside of the folder is read");
    let unreadable = gather(|_| Err::<Option<Vec<u8>>, _>("a disk error"));
    assert!(matches!(unreadable, Err(GatherError::Unreadable { source: "a disk error", .. })));
}

#[test]
fn a_manifest_is_closed_and_checked() {
    let cases = [
        ("kind: Pack", "kind: Bag", "pack.yaml: kind: must be Pack"),
        ("busbar/v1", "busbar/v2", "apiVersion"),
        ("id: demo", "id: ../x", "metadata.id"),
        ("version: 0.1.0", "version: ''", "metadata.version"),
        ("file: guest.wasm", "file: ../guest.wasm", "modules: guest: it must be a file in the pack"),
        ("topics: topics.yaml", "topics: /etc/passwd", "topics: it must be a file"),
        ("policy: policy.yaml", "polity: policy.yaml", "polity"),
        ("minBusbar: 0.1.0", "minBusbar: new", "compatibility.minBusbar"),
        ("minBusbar: 0.1.0", "maxBusbar: 0.1.0", "maxBusbar"),
        ("[workflows/a.yaml]", "[workflows/a.yaml, workflows/a.yaml]", "each file is there once"),
        ("[{name: guest, file: guest.wasm}]", "[{name: guest, file: guest.wasm}, {name: guest, file: x}]", "a name of its own"),
        ("title: t", "title: t, title: u", "pack.yaml"),
    ];
    for (from, to, told) in cases {
        let error = refused(with(MANIFEST, from, to));
        assert!(error.contains(told), "{to}: {error}");
    }
}

#[test]
fn what_is_missing_or_too_much_is_named() {
    for file in files().keys().filter(|file| *file != README) {
        let mut files = files();
        files.remove(file);
        assert_eq!(refused(files), format!("{file}: the file is missing"));
    }
    let mut more = files();
    more.insert("evil.sh".to_owned(), Vec::new());
    assert_eq!(refused(more), "evil.sh: neither pack.yaml nor a topic names this file");
}

#[test]
fn what_the_files_say_is_checked() {
    let cases = [
        (
            "topics.yaml",
            "job.demo.*",
            "job.other.x",
            "topics.yaml: job.other.x: topic: a topic of this pack begins with `job.demo.`",
        ),
        ("topics.yaml", "job.demo.*", "sys.demo", "topics.yaml: sys.demo: topic"),
        ("topics.yaml", "[p]", "[]", "topics.yaml: job.demo.*: pools"),
        ("topics.yaml", "module: guest", "module: host", "topics.yaml: job.demo.*: module"),
        ("topics.yaml", "limits", "limit", "topics.yaml: "),
        ("in.json", "object", "nothing", "topics.yaml: job.demo.*: input_schema"),
        ("schemas/extra.json", "{}", "{", "schemas/extra.json: "),
        ("workflows/a.yaml", "demo.a", "demon.a", "workflows/a.yaml: id: the id of a pack's workflow begins with \"demo.\""),
        ("workflows/a.yaml", "demo.a", "demo.", "workflows/a.yaml: id"),
        ("workflows/a.yaml", "id: demo.a", "name: x", "workflows/a.yaml: id"),
    ];
    for (file, from, to, told) in cases {
        let error = refused(with(file, from, to));
        assert!(error.starts_with(told), "{to}: {error}");
    }
    let mut no_module = files();
    no_module.insert("guest.wasm".to_owned(), b"#!/bin/sh".to_vec());
    assert!(refused(no_module).starts_with("guest.wasm: it does not begin"));
    let twice = with("topics.yaml", "topics:", "topics:\n  - {topic: job.demo.*, pools: [p]}");
    assert_eq!(refused(twice), "topics.yaml: job.demo.*: the topic is there twice");
}

#[test]
fn a_verifier_is_a_plain_topic_of_the_pack_that_is_believed() {
    let topics = |own: &str, verifier: &str| {
        let topics = format!(
            "topics:\n  - {{topic: job.demo.fold, pools: [p], {own} replication: {{quorum: 1, verifier: job.demo.check}}}}\n  - {{topic: {verifier}}}\n"
        );
        let mut files = files();
        files.insert("topics.yaml".to_owned(), topics.into_bytes());
        files
    };
    let schema = "input_schema: in.json,";
    let pack = Pack::open(topics(schema, "job.demo.check, pools: [trusted]")).expect("good");
    let replication = pack.topics.iter().find_map(|topic| topic.replication.as_ref()).expect("replicas");
    assert_eq!((replication.verifier.as_str(), replication.replicas_max), ("job.demo.check", 3));
    for (own, verifier, told) in [
        (schema, "job.demo.other, pools: [p]", "must be a topic of the same pack"),
        (schema, "job.demo.check, pools: [p], replication: {quorum: 2}", "must be a plain topic without replication"),
        (schema, "job.demo.check, pools: [p], queue_only: true", "must be a plain topic without replication"),
        ("", "job.demo.check, pools: [p], input_schema: in.json", "needs an input_schema beside it"),
    ] {
        let error = refused(topics(own, verifier));
        assert!(error.starts_with(&format!("topics.yaml: job.demo.fold: replication: verifier: {told}")), "{verifier}: {error}");
    }
}

#[test]
fn a_pack_brings_something() {
    let manifest = |more: &str| format!("apiVersion: busbar/v1\nkind: Pack\nmetadata: {{id: demo, version: '1'}}\n{more}");
    let open = |more: &str, kept: &[&str]| {
        let mut files: Files = files().into_iter().filter(|(file, _)| kept.contains(&file.as_str())).collect();
        files.insert(MANIFEST.to_owned(), manifest(more).into_bytes());
        Pack::open(files).map_err(|broken| broken.to_string())
    };
    assert!(open("", &[]).expect_err("nothing").contains("at least one topic or workflow"));
    assert!(open("workflows: [workflows/a.yaml]", &["workflows/a.yaml"]).is_ok());
    let policy_alone = open("workflows: [workflows/a.yaml]\npolicy: policy.yaml", &["workflows/a.yaml", "policy.yaml"]);
    assert!(policy_alone.expect_err("of whom").contains("own topics"));
}

#[test]
fn a_pack_for_a_newer_busbar_waits_for_it() {
    let of = |version: &str| Pack::open(with(MANIFEST, "minBusbar: 0.1.0", &format!("minBusbar: {version}"))).expect("good");
    let fits = |needed: &str, present: &str| of(needed).manifest.check_compatible(present).is_ok();
    assert!(fits("0.1.0", "0.1.0") && fits("0.1.0", "0.2.0") && fits("0.9.9", "1.0.0"));
    assert!(!fits("0.1.1", "0.1.0") && !fits("0.10.0", "0.9.0") && !fits("1.0.0", "0.99.99"));
}
