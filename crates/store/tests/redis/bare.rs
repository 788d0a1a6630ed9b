//! The bare connection: calls as they are given, answers as they come.

use busbar_protocol::ports::StoreError;
use busbar_store::{Bare, StoreConfig};
use bytes::Bytes;

use crate::server::start;

fn args(words: &[&'static str]) -> Vec<Bytes> {
    words.iter().map(|word| Bytes::from_static(word.as_bytes())).collect()
}

#[tokio::test]
async fn calls_are_answered_by_their_elements() {
    let (redis, _dir) = start();
    let bare = Bare::connect(&StoreConfig::new(redis.url())).await.expect("connected");
    assert_eq!(bare.call("SET", args(&["a", "1"])).await, Ok(vec![Some("OK".into())]));
    assert_eq!(bare.call("MGET", args(&["a", "b"])).await, Ok(vec![Some("1".into()), None]));
    assert_eq!(bare.call("INCR", args(&["a"])).await, Ok(vec![Some("2".into())]));
    let refused = bare.call("HGET", args(&["a", "field"])).await;
    assert!(matches!(refused, Err(StoreError::Refused { ref detail }) if detail.starts_with("WRONGTYPE")), "{refused:?}");
}

#[tokio::test]
async fn a_call_without_a_server_says_so() {
    let (redis, _dir) = start();
    let bare = Bare::connect(&StoreConfig::new(redis.url())).await.expect("connected");
    redis.kill9();
    let lost = bare.call("PING", vec![]).await;
    assert!(matches!(lost, Err(StoreError::Unavailable { .. })), "{lost:?}");
}
