//! Bounds of tenants and topics: set whole and row by row, and never lost.

use busbar_gateway::Role;
use busbar_protocol::busbar::{ConfigChanged, LimitsDocument};
use busbar_protocol::keys;
use busbar_protocol::ports::{Bus as _, Records as _};
use busbar_protocol::prost::Message as _;
use busbar_protocol::subjects;
use futures::StreamExt as _;
use futures::future::join_all;
use serde_json::json;

use crate::support::{DEADLINE, Fixture, key, request};

async fn stored(fixture: &Fixture) -> LimitsDocument {
    let stored = fixture.store.read(vec![keys::LIMITS.to_owned()]).await.expect("read").remove(0).expect("set");
    LimitsDocument::decode(stored.value).expect("ours")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_set_whole_and_row_by_row() {
    let fixture = Fixture::start().await;
    let mut changes = fixture.bus.subscribe(subjects::CONFIG_CHANGED, None).await.expect("subscribed");
    assert_eq!(fixture.get("/api/v1/limits").await.json(), json!({"revision": 0, "tenants": [], "topics": []}));
    let put = async |path: &str, body: &str| fixture.ask("PUT", &format!("/api/v1/limits{path}"), body).await;
    let whole =
        json!({"revision": 0, "tenants": [{"tenant_id": "acme", "weight": 3}], "topics": [{"topic": "job.>", "backlog_max": 9}]});
    let set = put("", &whole.to_string()).await;
    assert_eq!((set.status, &*set.headers["etag"], &set.json()["revision"]), (200, "\"1\"", &json!(1)), "{}", set.text());
    let told = tokio::time::timeout(DEADLINE, changes.next()).await.expect("in time").expect("a message");
    assert_eq!(ConfigChanged::decode(told.payload).expect("ours").key, keys::LIMITS);

    assert_eq!(put("/tenants/*", r#"{"starts":{"count":5}}"#).await.json(), json!({"revision": 2}));
    assert_eq!(put("/topics/job.a.%3E", r#"{"key":{"strategy":"reject"}}"#).await.json(), json!({"revision": 3}));
    assert_eq!(put("/tenants/acme", r#"{"weight":4}"#).await.json(), json!({"revision": 4}));
    assert_eq!(put("/tenants/acme", r#"{"weight":4}"#).await.json(), json!({"revision": 4}), "no change, no revision");
    let view = fixture.get("/api/v1/limits").await.json();
    let tenants = json!([{"tenant_id": "*", "starts": {"count": 5}}, {"tenant_id": "acme", "weight": 4}]);
    let topics = json!([{"topic": "job.>", "backlog_max": 9}, {"topic": "job.a.>", "key": {"strategy": "reject"}}]);
    assert_eq!(view, json!({"revision": 4, "tenants": tenants, "topics": topics}));
    assert_eq!(stored(&fixture).await.tenants.len(), 2);

    // From an old revision nothing changes.
    put("", &whole.to_string()).await.refused(412, "revision_changed");
    let headers = [("x-api-key", &*fixture.key), ("if-match", "\"3\"")];
    let row = "/api/v1/limits/tenants/acme";
    request(fixture.address, "PUT", row, &headers, b"{}").await.refused(412, "revision_changed");
    request(fixture.address, "DELETE", row, &headers, b"").await.refused(412, "revision_changed");
    let headers = [("x-api-key", &*fixture.key), ("if-match", "\"4\"")];
    assert_eq!(request(fixture.address, "DELETE", row, &headers, b"").await.json(), json!({"revision": 5}));
    assert_eq!(fixture.ask("DELETE", row, "").await.json(), json!({"revision": 5}));
    assert_eq!(fixture.ask("DELETE", "/api/v1/limits/topics/job.a.%3E", "").await.json(), json!({"revision": 6}));

    for (path, body, code) in [
        ("", r#"{"tenants":[]}"#, "field_invalid"),
        ("", r#"{"revision":6,"tenant":[]}"#, "field_invalid"),
        ("/tenants/a%20b", "{}", "field_invalid"),
        ("/tenants/a", r#"{"tenant_id":"b"}"#, "field_invalid"),
        ("/tenants/a", r#"{"weight":10001}"#, "field_invalid"),
        ("/tenants/a", r#"{"starts":{"count":0}}"#, "field_invalid"),
        ("/topics/jobs", "{}", "topic_invalid"),
        ("/topics/job.a", r#"{"key":{"strategy":"drop"}}"#, "field_invalid"),
    ] {
        put(path, body).await.refused(422, code);
    }
    // What is emptied keeps its revision: an old document can never come back unseen.
    assert_eq!(put("", r#"{"revision":6}"#).await.json(), json!({"revision": 7, "tenants": [], "topics": []}));
    put("", &whole.to_string()).await.refused(412, "revision_changed");
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_change_of_many_writers_is_lost() {
    let fixture = Fixture::start().await;
    let paths: Vec<String> = (0..40).map(|n| format!("/api/v1/limits/tenants/t{n}")).collect();
    let replies = join_all(paths.iter().map(|path| fixture.ask("PUT", path, r#"{"weight":2}"#))).await;
    assert!(replies.iter().all(|reply| reply.status == 200), "{replies:?}");
    let view = fixture.get("/api/v1/limits").await.json();
    assert_eq!((&view["revision"], view["tenants"].as_array().map(Vec::len)), (&json!(40), Some(40)));

    // Of many that replace the same revision, exactly one gets through.
    let body = r#"{"revision":40,"tenants":[{"tenant_id":"acme"}]}"#;
    let replies = join_all((0..20).map(|_| fixture.ask("PUT", "/api/v1/limits", body))).await;
    let mut statuses: Vec<u16> = replies.iter().map(|reply| reply.status).collect();
    statuses.sort_unstable();
    assert_eq!((statuses[0], &statuses[1..]), (200, &[412; 19][..]));
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_operators_set_limits() {
    let fixture = Fixture::start().await;
    for (role, may_look) in [(Role::Viewer, 200), (Role::Submitter, 403)] {
        let key = key(&fixture.store, "acme", role).await;
        let ask = async |method: &str, path: &str| request(fixture.address, method, path, &[("x-api-key", &key)], b"").await;
        assert_eq!(ask("GET", "/api/v1/limits").await.status, may_look);
        for (method, path) in [
            ("PUT", "/api/v1/limits"),
            ("PUT", "/api/v1/limits/tenants/a"),
            ("DELETE", "/api/v1/limits/tenants/a"),
            ("PUT", "/api/v1/limits/topics/job.a"),
            ("DELETE", "/api/v1/limits/topics/job.a"),
        ] {
            ask(method, path).await.refused(403, "forbidden");
        }
    }
    fixture.end().await;
}
