//! Artifacts: up and down again, byte for byte.

use busbar_gateway::{GatewayConfig, Role};
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
