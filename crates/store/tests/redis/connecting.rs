//! What is refused at connect, and how it is said.

use std::time::{Duration, Instant};

use busbar_protocol::ports::StoreError;
use busbar_servers::Redis;
use busbar_store::{Store, StoreConfig};

use crate::server::{Server, say, start};

async fn refusal(config: StoreConfig) -> String {
    match Store::connect(config).await {
        Err(StoreError::Refused { detail }) => detail,
        other => panic!("not refused: {other:?}"),
    }
}

async fn refusal_after(redis: &Redis, command: &str) -> String {
    assert_eq!(say(redis, command), "+OK\r\n", "{command}");
    refusal(StoreConfig::new(redis.url())).await
}

#[tokio::test]
async fn a_server_that_could_lose_work_is_refused_unless_allowed() {
    let (redis, _dir) = start();
    let detail = refusal_after(&redis, "CONFIG SET maxmemory-policy allkeys-lru").await;
    assert!(detail.contains("maxmemory-policy noeviction"), "{detail}");
    let allowed = StoreConfig { allow_unsafe: true, ..StoreConfig::new(redis.url()) };
    Store::connect(allowed).await.expect("allowed");
    say(&redis, "CONFIG SET maxmemory-policy noeviction");
    let detail = refusal_after(&redis, "CONFIG SET appendonly no").await;
    assert!(detail.contains("appendonly yes"), "{detail}");
}

#[tokio::test]
async fn a_replica_is_refused() {
    let (redis, _dir) = start();
    let detail = refusal_after(&redis, "REPLICAOF 127.0.0.1 1").await;
    assert!(detail.contains("replica"), "{detail}");
}

#[tokio::test]
async fn a_wrong_password_is_refused_and_a_right_one_is_taken() {
    let (redis, _dir) = start();
    let detail = refusal_after(&redis, "CONFIG SET requirepass right").await;
    assert!(detail.contains("password"), "{detail}");
    let with = |password: &str| StoreConfig::new(redis.url().replace("redis://", &format!("redis://:{password}@")));
    let detail = refusal(with("wrong")).await;
    assert!(detail.contains("password") && !detail.contains("wrong@"), "{detail}");
    let store = Store::connect(with("right")).await.expect("connected");
    store.ping().await.expect("a round trip");
}

#[tokio::test]
async fn nobody_there_is_unavailable_in_time() {
    let (redis, _dir) = start();
    let config = StoreConfig { connect_timeout: Duration::from_millis(300), ..StoreConfig::new(redis.url()) };
    redis.kill9();
    let asked = Instant::now();
    let result = Store::connect(config).await;
    assert!(matches!(result, Err(StoreError::Unavailable { .. })), "{result:?}");
    assert!(asked.elapsed() < Duration::from_secs(30));
}

#[tokio::test]
async fn memory_is_told() {
    let server = Server::start().await;
    let memory = server.store.memory().await.expect("answered");
    assert!(memory.used_bytes > 0);
    assert_eq!(memory.max_bytes, None);
    server.say("CONFIG SET maxmemory 100mb");
    assert_eq!(server.store.memory().await.expect("answered").max_bytes, Some(100 << 20));
}
