//! Bad input: each mistake has its own answer, always a problem.

use busbar_gateway::Role;

use crate::support::{Fixture, Scheduler, key, request};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_and_roles() {
    let fixture = Fixture::start().await;
    let _scheduler = Scheduler::start(&fixture).await;
    let (viewer, submitter) =
        (key(&fixture.store, "acme", Role::Viewer).await, key(&fixture.store, "acme", Role::Submitter).await);
    let body = br#"{"topic":"job.echo","input":1}"#;
    let ask =
        async |method: &str, path: &str, headers: &[(&str, &str)]| request(fixture.address, method, path, headers, body).await;

    let reply = ask("POST", "/api/v1/jobs", &[]).await;
    reply.refused(401, "unauthenticated");
    assert_eq!(reply.headers["www-authenticate"], "Bearer");
    ask("POST", "/api/v1/jobs", &[("x-api-key", "bb_wrong")]).await.refused(401, "key_unknown");
    ask("GET", "/api/v1/workers", &[]).await.refused(401, "unauthenticated");
    let detail = ask("POST", "/api/v1/jobs", &[("x-api-key", &viewer)]).await.refused(403, "forbidden");
    assert!(detail.contains("submitter"), "{detail}");
    assert_eq!(ask("GET", "/api/v1/workers", &[("x-api-key", &viewer)]).await.status, 200);
    assert_eq!(ask("POST", "/api/v1/jobs", &[("x-api-key", &submitter)]).await.status, 202);
    ask("GET", "/api/v1/workers", &[("x-api-key", &submitter)]).await.refused(403, "forbidden");
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_mistake_is_a_problem() {
    let fixture = Fixture::start().await;
    let _scheduler = Scheduler::start(&fixture).await;
    let post = async |body: &str| fixture.ask("POST", "/api/v1/jobs", body).await;
    post("{").await.refused(400, "body_invalid");
    assert!(post(r#"{"topic":"job.echo","prompt":"x"}"#).await.refused(422, "field_invalid").contains("`input`"));
    assert!(post(r#"{"topic":"job.echo","input":1,"tag":1}"#).await.refused(422, "field_invalid").contains("`tag`"));
    post(r#"{"topic":"sys.job","input":1}"#).await.refused(422, "topic_invalid");
    let large = format!(r#"{{"topic":"job.echo","input":"{}"}}"#, "x".repeat(1024 * 1024));
    post(&large).await.refused(413, "payload_too_large");
    let batch = format!(r#"{{"jobs":[{}]}}"#, vec!["0"; 100_001].join(","));
    fixture.ask("POST", "/api/v1/jobs/batch", &batch).await.refused(413, "batch_too_large");
    // Announced as far too large: refused before it is sent.
    let headers = [("x-api-key", &*fixture.key), ("content-length", "999999999999")];
    let reply = request_with_length(&fixture, &headers).await;
    reply.refused(413, "payload_too_large");

    let get = async |path: &str| fixture.get(path).await;
    get("/api/v1/nothing").await.refused(404, "not_found");
    get("/").await.refused(404, "not_found");
    fixture.ask("DELETE", "/api/v1/jobs", "").await.refused(405, "method_not_allowed");
    get("/api/v1/jobs/none").await.refused(404, "job_not_found");
    get("/api/v1/jobs/%20").await.refused(404, "job_not_found");
    get("/api/v1/jobs/%ff").await.refused(404, "not_found");
    get("/api/v1/jobs/none?wait=2h").await.refused(422, "field_invalid");
    get("/api/v1/jobs?limit=0").await.refused(422, "field_invalid");
    get("/api/v1/jobs?limit=x").await.refused(422, "field_invalid");
    assert!(get("/api/v1/jobs?stat=RUNNING").await.refused(422, "field_invalid").contains("stat"));
    assert!(get("/api/v1/jobs?state=BLOCKED").await.refused(422, "field_invalid").contains("PENDING"));
    get("/api/v1/jobs?cursor=x").await.refused(400, "cursor_invalid");
    get("/api/v1/artifacts/none").await.refused(404, "artifact_not_found");
    fixture.ask("POST", "/api/v1/jobs/none/cancel", "").await.refused(404, "job_not_found");
    fixture.ask("POST", "/api/v1/jobs/none/cancel", r#"{"why":"x"}"#).await.refused(422, "field_invalid");
    fixture.end().await;
}

/// A request that announces more than it sends.
async fn request_with_length(fixture: &Fixture, headers: &[(&str, &str)]) -> crate::support::Reply {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(fixture.address).await.expect("listening");
    let mut head = "POST /api/v1/jobs HTTP/1.1\r\nhost: test\r\nconnection: close\r\n".to_owned();
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("answered");
    crate::support::parse(&answer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_do_not_see_one_another() {
    let fixture = Fixture::start().await;
    let _scheduler = Scheduler::start(&fixture).await;
    let other = key(&fixture.store, "other", Role::Admin).await;
    let reply = fixture.ask("POST", "/api/v1/jobs", r#"{"topic":"job.echo","input":1}"#).await.json();
    let path = format!("/api/v1/jobs/{}", reply["job_id"].as_str().expect("an id"));
    let ask = async |method: &str, path: &str| request(fixture.address, method, path, &[("x-api-key", &other)], b"").await;
    assert_eq!(fixture.get(&path).await.status, 200);
    ask("GET", &path).await.refused(404, "job_not_found");
    ask("GET", &format!("{path}/result")).await.refused(404, "job_not_found");
    ask("GET", &format!("{path}/logs")).await.refused(404, "job_not_found");
    ask("POST", &format!("{path}/cancel")).await.refused(404, "job_not_found");
    assert_eq!(ask("GET", "/api/v1/jobs").await.json()["items"], serde_json::json!([]));
    fixture.end().await;
}
