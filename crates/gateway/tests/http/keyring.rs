//! Keys that are made, listed and taken away, and the one that the configuration brings.

use busbar_gateway::{BOOTSTRAP_KEY, GatewayConfig, NewKey, RevokeError, Role, create_key, list_keys, revoke_key};
use busbar_service::config::Secret;

use crate::support::{Fixture, request};

const FIRST: &str = "the first key that the configuration brings";

fn with_bootstrap_key(key: &str) -> GatewayConfig {
    GatewayConfig { bootstrap_key: Secret::new(key), key_cache_ms: 0, ..GatewayConfig::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_listed_and_revoked() {
    let fixture = Fixture::start_with(GatewayConfig { key_cache_ms: 0, ..GatewayConfig::default() }).await;
    let new = NewKey { name: "twin".into(), tenant_id: "acme".into(), roles: vec![Role::Viewer, Role::Submitter] };
    let twins = [create_key(&fixture.store, &new).await.expect("a key"), create_key(&fixture.store, &new).await.expect("a key")];
    let mut listed = list_keys(&fixture.store).await.expect("listed");
    // Keys of one millisecond stand in no order that we know.
    listed.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(listed.iter().map(|key| key.name.as_str()).collect::<Vec<_>>(), ["acme-admin", "twin", "twin"]);
    assert_eq!(
        (listed[1].tenant_id.as_str(), &listed[1].roles[..]),
        ("acme", &["viewer".to_owned(), "submitter".to_owned()][..])
    );

    assert!(matches!(revoke_key(&fixture.store, "nobody").await, Err(RevokeError::Unknown(_))));
    assert!(matches!(revoke_key(&fixture.store, "twin").await, Err(RevokeError::Ambiguous { count: 2, .. })));
    for key in &listed[1..] {
        assert_eq!(revoke_key(&fixture.store, &key.id[..12]).await.expect("revoked").id, key.id);
    }
    for key in twins {
        assert_eq!(request(fixture.address, "GET", "/api/v1/jobs", &[("x-api-key", &key)], b"").await.status, 401);
    }
    assert_eq!(list_keys(&fixture.store).await.expect("listed").len(), 1);
    fixture.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_of_the_configuration_replaces_the_one_before() {
    let fixture = Fixture::start_with(with_bootstrap_key(FIRST)).await;
    let status = async |key: &str| request(fixture.address, "GET", "/api/v1/status", &[("x-api-key", key)], b"").await.status;
    assert_eq!(status(FIRST).await, 200);
    let before = list_keys(&fixture.store).await.expect("listed");
    // A second replica with the same key changes nothing; one with another key replaces it.
    fixture.another(with_bootstrap_key(FIRST)).await;
    assert_eq!(list_keys(&fixture.store).await.expect("listed"), before);
    fixture.another(with_bootstrap_key("the second key that the configuration brings")).await;
    let after = list_keys(&fixture.store).await.expect("listed");
    assert_eq!(after.iter().filter(|key| key.name == BOOTSTRAP_KEY).count(), 1);
    assert_eq!((status(FIRST).await, status("the second key that the configuration brings").await), (401, 200));
    fixture.end().await;
}
