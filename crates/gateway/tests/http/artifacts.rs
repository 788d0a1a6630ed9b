//! Artifacts: up and down again, byte for byte; and what becomes of content that nobody names any more.

use std::fs::File;
use std::time::{Duration, SystemTime};

use busbar_blobs::Blobs;
use busbar_gateway::{GatewayConfig, Role, sweep};
use busbar_protocol::busbar::{Ended, JobRecord, JobState, job_record};
use busbar_protocol::keys;
use busbar_protocol::pointers::{Pointer, Sha256Hex};
use busbar_protocol::ports::{CommitClass, CommitId, Records, Unit, Write};
use busbar_protocol::prost::Message as _;
use serde_json::json;

use crate::support::{Fixture, key, request};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_artifact_comes_back_as_it_was() {
    let fixture = Fixture::start().await;
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let headers = [("x-api-key", &*fixture.key), ("content-type", "text/plain")];
    let reply = request(fixture.address, "POST", "/api/v1/artifacts?name=a%20b.txt", &headers, &content).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    let view = reply.json();
    assert_eq!((&view["size_bytes"], &view["name"]), (&json!(content.len()), &json!("a b.txt")));
    let path = format!("/api/v1/artifacts/{}", view["artifact_id"].as_str().expect("an id"));
    let reply = fixture.get(&path).await;
    assert_eq!(reply.status, 200);
    assert!(reply.body == content, "the content is another");
    assert_eq!((&*reply.headers["content-type"], &*reply.headers["x-content-type-options"]), ("text/plain", "nosniff"));

    let other = key(&fixture.store, "other", Role::Admin).await;
    request(fixture.address, "GET", &path, &[("x-api-key", &other)], b"").await.refused(404, "artifact_not_found");
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_too_large_is_refused() {
    let fixture = Fixture::start_with(GatewayConfig { artifact_bytes_max: 1000, ..GatewayConfig::default() }).await;
    assert_eq!(fixture.ask("POST", "/api/v1/artifacts", &"x".repeat(1000)).await.status, 201);
    fixture.ask("POST", "/api/v1/artifacts", &"x".repeat(1001)).await.refused(413, "payload_too_large");
    fixture.end().await;
}

const DAY: Duration = Duration::from_secs(24 * 3_600);

/// Makes a blob two days old.
async fn age(blobs: &Blobs, sha256: &Sha256Hex) {
    let path = blobs.verified_path(sha256).await.expect("a blob");
    File::open(path).and_then(|file| file.set_modified(SystemTime::now() - 2 * DAY)).expect("aged");
}

async fn write(fixture: &Fixture, write: Write) {
    let unit = Unit { id: CommitId::generate(), guards: Vec::new(), writes: vec![write] };
    fixture.store.commit(CommitClass::Advance, vec![unit]).await.expect("committed");
}

async fn upload(fixture: &Fixture, content: &str) -> (String, Sha256Hex) {
    let headers = [("x-api-key", &*fixture.key)];
    let reply = request(fixture.address, "POST", "/api/v1/artifacts", &headers, content.as_bytes()).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    let view = reply.json();
    let text = |name: &str| view[name].as_str().expect("text").to_owned();
    (text("artifact_id"), Sha256Hex::parse(&text("sha256")).expect("a digest"))
}

/// The job's record names the blob as its result.
fn done(job_id: &str, result: &Sha256Hex, result_until_ms: u64) -> Write {
    let result_ptr = Pointer::Blob(result.clone()).to_string();
    let ended = Ended { state: JobState::Succeeded.into(), result_ptr, result_until_ms, ..Ended::default() };
    let state = Some(job_record::State::Ended(ended));
    let (job_id, tenant_id) = (job_id.to_owned(), "acme".to_owned());
    let key = keys::job(&job_id);
    let value = JobRecord { job_id, tenant_id, state, ..JobRecord::default() }.encode_to_vec().into();
    Write::Put { key, revision: 1, value, expire: None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_goes_when_the_last_that_names_it_has_gone() {
    let fixture = Fixture::start().await;
    let blobs = fixture.blobs();
    let (first, digest) = upload(&fixture, "named three times").await;
    let (second, same) = upload(&fixture, "named three times").await;
    assert_eq!(digest, same);
    write(&fixture, done("j", &digest, 0)).await;
    for name in [keys::artifact(&first), keys::job("j"), keys::artifact(&second)] {
        age(&blobs, &digest).await;
        assert_eq!(sweep(&fixture.store, &blobs, DAY).await.expect("swept"), 0, "{name} still names it");
        write(&fixture, Write::Delete { key: name }).await;
    }
    assert_eq!(sweep(&fixture.store, &blobs, 3 * DAY).await.expect("swept"), 0, "it may be about to be named");
    assert_eq!(sweep(&fixture.store, &blobs, DAY).await.expect("swept"), 1);
    assert_eq!(blobs.size_bytes(&digest).await.expect("looked"), None);
    fixture.end().await;
}

/// A large result goes when a small one would have expired, though the job can still be looked at; whoever wants it is told the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_result_goes_before_its_job() {
    let fixture = Fixture::start().await;
    let blobs = fixture.blobs();
    let now = fixture.store.time().await.expect("a time").millis();
    let mut kept = Vec::new();
    for (job_id, result_until_ms) in [("over", now - 1), ("kept", now + 3_600_000)] {
        let digest = blobs.put_bytes(job_id.into()).await.expect("stored").sha256;
        age(&blobs, &digest).await;
        write(&fixture, done(job_id, &digest, result_until_ms)).await;
        kept.push(digest);
    }
    assert_eq!(sweep(&fixture.store, &blobs, DAY).await.expect("swept"), 1);
    let result = async |job_id: &str| fixture.get(&format!("/api/v1/jobs/{job_id}/result")).await;
    result("over").await.refused(410, "payload_missing");
    assert_eq!(result("kept").await.text(), "kept");
    assert_eq!(fixture.get("/api/v1/jobs/over").await.status, 200);
    fixture.end().await;
}

/// What is uploaded is there, though the same bytes lay around unnamed and are collected at that moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_same_bytes_are_uploaded_while_they_are_collected() {
    let fixture = Fixture::start().await;
    let blobs = fixture.blobs();
    let digest = blobs.put_bytes("the same bytes".into()).await.expect("stored").sha256;
    for _ in 0..25 {
        age(&blobs, &digest).await;
        let sweeping = async {
            for _ in 0..4 {
                sweep(&fixture.store, &blobs, DAY).await.expect("swept");
            }
        };
        let uploads = futures::future::join_all((0..4).map(|_| upload(&fixture, "the same bytes")));
        let ((), uploads) = tokio::join!(sweeping, uploads);
        age(&blobs, &digest).await;
        sweep(&fixture.store, &blobs, DAY).await.expect("swept");
        for (artifact_id, _) in uploads {
            let reply = fixture.get(&format!("/api/v1/artifacts/{artifact_id}")).await;
            assert_eq!((reply.status, reply.text()), (200, "the same bytes".into()));
            write(&fixture, Write::Delete { key: keys::artifact(&artifact_id) }).await;
        }
    }
    fixture.end().await;
}
