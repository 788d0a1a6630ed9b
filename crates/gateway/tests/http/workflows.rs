//! Workflows over HTTP: saving, looking at, listing and taking them away.

use busbar_gateway::Role;
use busbar_protocol::busbar::DefineRequest;
use serde_json::{Value, json};

use crate::engine::Engine;
use crate::support::{Fixture, key, request};

fn document(id: &str, title: &str) -> String {
    json!({"id": id, "title": title, "steps": {"split": {"type": "transform"}, "map": {"type": "for_each"}}}).to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workflow_has_versions() {
    let fixture = Fixture::start().await;
    let engine = Engine::start(&fixture).await;
    let save = async |title: &str| fixture.ask("POST", "/api/v1/workflows", &document("words", title)).await;
    let first = save("one").await;
    assert_eq!((first.status, first.json()), (201, json!({"id": "words", "version": 1})));
    let again = save("one").await;
    assert_eq!((again.status, again.json()), (200, json!({"id": "words", "version": 1})));
    assert_eq!(save("two").await.json()["version"], 2);

    let newest = fixture.get("/api/v1/workflows/words").await.json();
    assert_eq!((&newest["version"], &newest["title"], &newest["created_by"]), (&json!(2), &json!("two"), &json!("acme-admin")));
    assert_eq!(newest["document"]["title"], "two");
    let older = fixture.get("/api/v1/workflows/words?version=1").await.json();
    assert_eq!((&older["version"], &older["newest"], &older["document"]["title"]), (&json!(1), &json!(2), &json!("one")));
    fixture.get("/api/v1/workflows/words?version=3").await.refused(404, "workflow_not_found");

    // A pack's workflow is there for every tenant, and nobody can take it away over HTTP.
    let of_pack =
        DefineRequest { document: document("demo.all", "all").into(), pack_id: "demo".into(), ..DefineRequest::default() };
    engine.define(of_pack).await;
    assert_eq!(fixture.get("/api/v1/workflows/demo.all").await.json()["pack"], "demo");
    let list = fixture.get("/api/v1/workflows").await.json();
    let ids: Vec<&Value> = list["items"].as_array().expect("items").iter().map(|item| &item["id"]).collect();
    assert_eq!(ids, ["demo.all", "words"]);
    assert!(list["items"][0].get("document").is_none() && list["next_cursor"].is_null(), "{list}");
    let page = fixture.get("/api/v1/workflows?limit=1").await.json();
    let next = fixture.get(&format!("/api/v1/workflows?limit=1&cursor={}", page["next_cursor"].as_str().expect("more"))).await;
    assert_eq!((&page["items"][0]["id"], &next.json()["items"][0]["id"]), (&json!("demo.all"), &json!("words")));
    fixture.ask("DELETE", "/api/v1/workflows/demo.all", "").await.refused(404, "workflow_not_found");

    let gone = fixture.ask("DELETE", "/api/v1/workflows/words", "").await;
    assert_eq!((gone.status, gone.body.len()), (204, 0));
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_workflows_and_strangers_are_refused() {
    let fixture = Fixture::start().await;
    let _engine = Engine::start(&fixture).await;
    let post = async |body: &str| fixture.ask("POST", "/api/v1/workflows", body).await;
    post("{").await.refused(400, "body_invalid");
    post(&"[".repeat(1000)).await.refused(400, "body_invalid");
    post("{}").await.refused(422, "workflow_invalid");
    post(&format!("\"{}\"", "x".repeat(256 * 1024))).await.refused(413, "payload_too_large");
    fixture.get("/api/v1/workflows/none").await.refused(404, "workflow_not_found");
    fixture.get("/api/v1/workflows/words?version=x").await.refused(422, "field_invalid");
    fixture.get("/api/v1/workflows?cursor=x").await.refused(400, "cursor_invalid");

    // Keys are put together with colons: an identifier that has one reaches nothing.
    assert_eq!(post(&document("words", "one")).await.status, 201);
    fixture.get("/api/v1/workflows/words:1").await.refused(404, "workflow_not_found");
    fixture.ask("DELETE", "/api/v1/workflows/words:1", "").await.refused(404, "workflow_not_found");

    let (viewer, other) = (key(&fixture.store, "acme", Role::Viewer).await, key(&fixture.store, "other", Role::Admin).await);
    let ask =
        async |method: &str, path: &str, key: &str| request(fixture.address, method, path, &[("x-api-key", key)], b"{}").await;
    ask("POST", "/api/v1/workflows", &viewer).await.refused(403, "forbidden");
    ask("DELETE", "/api/v1/workflows/words", &viewer).await.refused(403, "forbidden");
    assert_eq!(ask("GET", "/api/v1/workflows/words", &viewer).await.status, 200);
    ask("GET", "/api/v1/workflows/words", &other).await.refused(404, "workflow_not_found");
    assert_eq!(ask("GET", "/api/v1/workflows", &other).await.json()["items"], json!([]));
    ask("GET", "/api/v1/workflows", "bb_wrong").await.refused(401, "key_unknown");
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_engine_it_is_told() {
    let fixture = Fixture::start().await;
    fixture.ask("POST", "/api/v1/workflows", &document("words", "one")).await.refused(503, "engine_unavailable");
    fixture.end().await;
}
