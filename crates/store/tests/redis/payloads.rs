//! Payloads: written, grown, copied, kept and expired.

use std::time::Duration;

use busbar_protocol::ports::{CommitClass, Records, StoreError, Write};
use bytes::Bytes;
use tokio::task::JoinSet;

use crate::server::{APPLIED, Server, put, unit};

const LONG: Duration = Duration::from_secs(1000);

async fn payload(server: &Server, key: &str) -> Option<Bytes> {
    server.store.payloads(vec![key.into()]).await.expect("read").remove(0)
}

fn ttl(server: &Server, key: &str) -> i64 {
    server.say(&format!("PTTL {key}")).trim().trim_start_matches(':').parse().expect("a number")
}

#[tokio::test]
async fn a_payload_is_kept_by_the_unit_that_needs_it() {
    let server = Server::start().await;
    let value = Bytes::from(vec![7; 1 << 20]);
    server.store.put_payload("ctx:1", value.clone(), Some(LONG)).await.expect("written");
    assert!(ttl(&server, "ctx:1") > 0);
    assert_eq!(server.commit(unit([], [put("k", 1, "a"), Write::Persist { key: "ctx:1".into() }])).await, APPLIED);
    assert_eq!(ttl(&server, "ctx:1"), -1);
    assert_eq!(payload(&server, "ctx:1").await, Some(value));
    assert_eq!(server.commit(unit([], [Write::Expire { key: "ctx:1".into(), after: LONG }])).await, APPLIED);
    assert!(ttl(&server, "ctx:1") > 0);
    assert_eq!(server.commit(unit([], [Write::Persist { key: "none".into() }])).await, APPLIED);
    server.store.put_payload("ctx:1", Bytes::new(), None).await.expect("written");
    assert_eq!(payload(&server, "ctx:1").await, Some(Bytes::new()));
    assert_eq!(ttl(&server, "ctx:1"), -1);
}

#[tokio::test]
async fn records_and_payloads_are_read_together() {
    let server = Server::start().await;
    let beside = async |key: &str, payload: &str| server.store.read_beside(vec![key.into()], vec![payload.into()]).await;
    assert_eq!(server.commit(unit([], [put("k", 3, "a")])).await, APPLIED);
    server.store.put_payload("res:1", Bytes::from_static(b"done"), Some(LONG)).await.expect("written");
    let (record, payload) = beside("k", "res:1").await.expect("both");
    let record = record[0].as_ref().expect("a record");
    assert_eq!((record.revision, &record.value[..], payload), (3, &b"a"[..], vec![Some(Bytes::from_static(b"done"))]));
    assert_eq!(beside("none", "none").await, Ok((vec![None], vec![None])));
    // As many as one call takes, and more than that.
    for others in [0, 10, 40] {
        let with_others = |name: &str| (0..others).map(|_| "none".to_owned()).chain([name.to_owned()]).collect::<Vec<_>>();
        let (records, payloads) = server.store.read_beside(with_others("k"), with_others("res:1")).await.expect("both");
        let found = |missing: usize, last: bool| missing == others && last;
        assert!(found(records.iter().filter(|record| record.is_none()).count(), records[others].is_some()), "{others}");
        assert!(found(payloads.iter().filter(|payload| payload.is_none()).count(), payloads[others].is_some()), "{others}");
        let none: (Vec<_>, Vec<_>) = server.store.read_beside(vec![], with_others("res:1")).await.expect("payloads alone");
        assert_eq!((none.0.len(), none.1.len()), (0, others + 1));
    }
    assert_eq!(server.store.read_beside(vec![], vec![]).await, Ok((vec![], vec![])));
    // A payload is no record.
    assert!(matches!(beside("res:1", "res:1").await, Err(StoreError::Corrupt { .. })));
}

#[tokio::test]
async fn a_unit_writes_payloads_over_whatever_stands_there() {
    let server = Server::start().await;
    let write = |key: &str, bytes: &'static [u8], expire| Write::PutPayload { key: key.into(), value: bytes.into(), expire };
    let index = |key: &str| Write::IndexAdd { index: key.into(), member: "m".into(), score: 1 };
    server.say("RPUSH ctx:2 x");
    let writes =
        [put("k", 1, "a"), write("ctx:1", b"\0\xff", None), write("ctx:2", b"two", Some(LONG)), write("ctx:3", b"", None)];
    assert_eq!(server.commit(unit([], writes)).await, APPLIED);
    for (key, value) in [("ctx:1", b"\0\xff".as_slice()), ("ctx:2", b"two"), ("ctx:3", b"")] {
        assert_eq!(payload(&server, key).await.as_deref(), Some(value), "{key}");
    }
    assert_eq!(ttl(&server, "ctx:1"), -1);
    assert!(ttl(&server, "ctx:2") > 0);
    assert_eq!(server.commit(unit([], [write("ctx:2", b"2", None)])).await, APPLIED);
    assert_eq!(ttl(&server, "ctx:2"), -1);
    // What a unit has written is a payload for the rest of it, and for those after it.
    let refused = server.store.commit(CommitClass::Advance, vec![unit([], [write("ctx:4", b"4", None), index("ctx:4")])]).await;
    assert!(matches!(refused, Err(StoreError::Refused { .. })), "{refused:?}");
    assert_eq!(payload(&server, "ctx:4").await, None);
    let (first, then) = (unit([], [index("i"), write("i", b"i", None)]), unit([], [index("i")]));
    let refused = server.store.commit(CommitClass::Advance, vec![first, then]).await;
    assert!(matches!(refused, Err(StoreError::Refused { .. })), "{refused:?}");
    assert_eq!(payload(&server, "i").await.as_deref(), Some(b"i".as_slice()));
}

/// Those that come while a call is under way go together with the next one, small and large, short-lived and for ever.
#[tokio::test]
async fn many_payloads_at_once_are_each_what_was_written() {
    let server = Server::start().await;
    let value =
        |n: usize| Bytes::from(vec![u8::try_from(n % 251).expect("a byte"); if n.is_multiple_of(50) { 1 << 20 } else { n }]);
    let mut writing = JoinSet::new();
    for n in 0..600 {
        let (store, key, value) = (server.store.clone(), format!("p{n}"), value(n));
        writing.spawn(async move {
            match n % 3 {
                0 => store.put_payload(&key, value, None).await,
                1 => store.put_payload(&key, value, Some(LONG)).await,
                _ => store.put_result(&key, value, LONG).await,
            }
        });
    }
    assert!(writing.join_all().await.iter().all(Result::is_ok));
    let mut reading = JoinSet::new();
    for n in 0..600 {
        let store = server.store.clone();
        reading.spawn(async move { (n, store.payloads(vec![format!("p{n}")]).await.expect("read").remove(0)) });
    }
    for (n, read) in reading.join_all().await {
        assert_eq!(read, Some(value(n)), "p{n}");
    }
    for (key, lives) in [("p0", false), ("p1", true), ("p2", true)] {
        assert_eq!(ttl(&server, key) > 0, lives, "{key}");
    }
}

#[tokio::test]
async fn a_copy_replaces_and_has_its_own_time() {
    let server = Server::start().await;
    let copy = |from: &str, expire| Write::Copy { from: from.into(), to: "to".into(), expire };
    server.store.put_payload("from", Bytes::from_static(b"new"), Some(LONG)).await.expect("written");
    server.store.put_payload("to", Bytes::from_static(b"old"), Some(LONG)).await.expect("written");
    assert_eq!(server.commit(unit([], [copy("gone", None)])).await, APPLIED);
    assert_eq!(payload(&server, "to").await.as_deref(), Some(b"old".as_slice()));
    assert!(ttl(&server, "to") > 0, "a copy of nothing changes nothing");
    assert_eq!(server.commit(unit([], [copy("from", None)])).await, APPLIED);
    assert_eq!(payload(&server, "to").await.as_deref(), Some(b"new".as_slice()));
    assert_eq!(ttl(&server, "to"), -1);
    assert_eq!(server.commit(unit([], [copy("to", Some(LONG))])).await, APPLIED);
    assert!(ttl(&server, "to") > 0, "a copy onto itself changes its time alone");
    server.say("RPUSH list x");
    assert_eq!(server.commit(unit([], [copy("list", None)])).await, APPLIED);
    assert_eq!(payload(&server, "to").await.as_deref(), Some(b"new".as_slice()));
}

#[tokio::test]
async fn a_payload_grows_up_to_its_bound() {
    let server = Server::start().await;
    for part in ["abc", "", "def", "ghi"] {
        server.store.append_payload("log", part.into(), 7, LONG).await.expect("appended");
    }
    assert_eq!(payload(&server, "log").await.as_deref(), Some(b"abcdefg".as_slice()));
    assert!(ttl(&server, "log") > 0);
}

#[tokio::test]
async fn many_payloads_come_in_order() {
    let server = Server::start().await;
    for place in (0..100).step_by(2) {
        server.store.put_payload(&format!("p{place}"), Bytes::from(format!("{place}")), None).await.expect("written");
    }
    let payloads = server.store.payloads((0..100).map(|place| format!("p{place}")).collect()).await.expect("read");
    for (place, payload) in payloads.into_iter().enumerate() {
        assert_eq!(payload, (place % 2 == 0).then(|| Bytes::from(place.to_string())));
    }
}
