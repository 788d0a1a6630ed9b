//! Every write, batches of units, units that come again, and units that fail among good ones.

use std::time::Duration;

use busbar_protocol::ports::{Answer, CommitClass, IndexEntry, IndexRange, Records, StoreError, Unit, Write};
use busbar_store::{Store, StoreConfig};
use bytes::Bytes;

use crate::server::{APPLIED, Server, absent, add, append, count, put, revision, unit};

const ALL: IndexRange = IndexRange { min: i64::MIN, max: i64::MAX, newest_first: false, offset: 0, limit: 100 };

async fn members(server: &Server, range: IndexRange) -> Vec<(String, i64)> {
    let entries = server.store.index("z", range).await.expect("an index");
    entries.into_iter().map(|IndexEntry { member, score }| (member, score)).collect()
}

fn pairs(expected: &[(&str, i64)]) -> Vec<(String, i64)> {
    expected.iter().map(|(member, score)| ((*member).to_owned(), *score)).collect()
}

#[tokio::test]
async fn records_are_binary_and_expire() {
    let server = Server::start().await;
    let value = Bytes::from((0..=255).collect::<Vec<u8>>());
    let put_binary = |expire| Write::Put { key: "k".into(), revision: 1, value: value.clone(), expire };
    let first = unit([], [put_binary(Some(Duration::from_secs(1000)))]);
    let id = first.id;
    assert_eq!(server.commit(first).await, APPLIED);
    let record = server.store.read(vec!["k".into()]).await.expect("read").remove(0).expect("a record");
    assert_eq!((record.revision, record.commit, record.value), (1, id, value.clone()));
    let ttl: i64 = server.say("PTTL k").trim().trim_start_matches(':').parse().expect("a number");
    assert!((900_000..=1_000_000).contains(&ttl), "{ttl}");
    assert_eq!(server.commit(unit([], [put_binary(None)])).await, APPLIED);
    assert_eq!(server.say("PTTL k"), ":-1\r\n");
    assert_eq!(server.commit(unit([], [Write::Delete { key: "k".into() }])).await, APPLIED);
    assert_eq!(server.store.read(vec!["k".into()]).await, Ok(vec![None]));
}

#[tokio::test]
async fn indexes_add_move_remove_trim_and_page() {
    let server = Server::start().await;
    let remove = Write::IndexRemove { index: "z".into(), member: "d".into() };
    let writes = [add("z", "a", 3), add("z", "b", 1), add("z", "c", 2), add("z", "d", 9), add("z", "b", 5), remove];
    assert_eq!(server.commit(unit([], writes)).await, APPLIED);
    assert_eq!(members(&server, ALL).await, pairs(&[("c", 2), ("a", 3), ("b", 5)]));
    let newest = IndexRange { newest_first: true, min: 3, ..ALL };
    assert_eq!(members(&server, newest).await, pairs(&[("b", 5), ("a", 3)]));
    assert_eq!(members(&server, IndexRange { offset: 1, limit: 1, ..ALL }).await, pairs(&[("a", 3)]));
    assert_eq!(members(&server, IndexRange { limit: 0, ..ALL }).await, []);
    assert_eq!(server.commit(unit([], [Write::IndexTrim { index: "z".into(), below: 3 }])).await, APPLIED);
    assert_eq!(members(&server, ALL).await, pairs(&[("a", 3), ("b", 5)]));
    assert_eq!(server.store.index("nothing", ALL).await, Ok(vec![]));
    assert_eq!((server.store.index_len("z").await, server.store.index_len("nothing").await), (Ok(2), Ok(0)));
}

#[tokio::test]
async fn scores_are_exact() {
    let server = Server::start().await;
    let large = 1 << 53;
    assert_eq!(server.commit(unit([], [add("z", "a", large), add("z", "b", -large), add("z", "c", large - 1)])).await, APPLIED);
    assert_eq!(members(&server, ALL).await, pairs(&[("b", -large), ("c", large - 1), ("a", large)]));
    let refused = server.store.commit(CommitClass::Admit, vec![unit([], [add("z", "a", large + 1)])]).await;
    assert!(matches!(refused, Err(StoreError::Refused { .. })), "{refused:?}");
}

#[tokio::test]
async fn logs_are_read_from_a_cursor() {
    let server = Server::start().await;
    assert_eq!(server.store.log_end("ev").await.as_deref(), Ok("0"));
    let Answer::Applied { appended: Some(second) } = server.commit(unit([], [append("ev", "a"), append("ev", "b")])).await else {
        panic!("not applied with a cursor")
    };
    let Answer::Applied { appended: Some(third) } = server.commit(unit([], [append("ev", "c")])).await else {
        panic!("not applied with a cursor")
    };
    assert_eq!(server.store.log_end("ev").await.as_ref(), Ok(&third));
    let all = server.store.log_after("ev", "0", 10).await.expect("a log");
    let values: Vec<_> = all.iter().map(|entry| entry.value.as_ref()).collect();
    assert_eq!(values, [b"a", b"b", b"c"]);
    assert_eq!((all[1].cursor.as_str(), all[2].cursor.as_str()), (second.as_str(), third.as_str()));
    assert_eq!(server.store.log_after("ev", &second, 10).await.expect("a log"), all[2..]);
    assert_eq!(server.store.log_after("ev", "0", 1).await.expect("a log"), all[..1]);
    assert_eq!(server.store.log_after("ev", &third, 10).await, Ok(vec![]));
    assert!(matches!(server.store.log_after("ev", "no cursor", 1).await, Err(StoreError::Refused { .. })));
}

#[tokio::test]
async fn a_log_is_kept_to_about_its_length() {
    let server = Server::start().await;
    let append = || Write::Append { log: "ev".into(), value: Bytes::from_static(b"x"), keep: 100 };
    for _ in 0..10 {
        let units: Vec<Unit> = (0..200).map(|_| unit([], [append()])).collect();
        server.store.commit(CommitClass::Advance, units).await.expect("answered");
    }
    let kept = server.store.log_after("ev", "0", 10_000).await.expect("a log").len();
    assert!((100..400).contains(&kept), "{kept}");
}

#[tokio::test]
async fn a_unit_that_comes_again_is_not_applied_again() {
    let server = Server::start().await;
    let first = unit([absent("k")], [put("k", 1, "a"), count("n", 1), append("ev", "a")]);
    assert!(matches!(server.commit(first.clone()).await, Answer::Applied { .. }));
    assert_eq!(server.commit(first.clone()).await, Answer::Already);
    assert_eq!(server.commit(unit([revision("k", 1)], [put("k", 2, "b")])).await, APPLIED);
    assert_eq!(server.commit(first).await, Answer::GuardFailed { guard: 0 });
    assert_eq!(server.say("GET n"), "$1\r\n1\r\n");
    assert_eq!(server.store.log_after("ev", "0", 10).await.expect("a log").len(), 1);
}

#[tokio::test]
async fn units_of_a_batch_see_each_other_and_are_answered_alone() {
    let server = Server::start().await;
    let units: Vec<Unit> = (1..=256_u64)
        .map(|place| match place {
            1 => unit([absent("k")], [put("k", 1, "a")]),
            100 => unit([absent("k")], [put("k", 1, "a")]),
            _ if place > 100 => unit([revision("k", place - 2)], [put("k", place - 1, "a")]),
            _ => unit([revision("k", place - 1)], [put("k", place, "a")]),
        })
        .collect();
    let answers = server.store.commit(CommitClass::Admit, units).await.expect("answered");
    for (place, answer) in answers.iter().enumerate() {
        let expected = if place == 99 { Answer::GuardFailed { guard: 0 } } else { APPLIED };
        assert_eq!(*answer, expected, "unit {place}");
    }
    assert_eq!(server.store.commit(CommitClass::Admit, vec![]).await, Ok(vec![]));
}

/// Wrong types are found before the first write; only the caller of the bad unit is told.
#[tokio::test]
async fn a_unit_that_cannot_be_applied_changes_nothing_and_harms_no_other() {
    let server = Server::start().await;
    server.say("RPUSH list x");
    let bad_writes = [
        add("list", "m", 1),
        append("list", "a"),
        count("list", 1),
        put("list", 1, "a"),
        Write::Copy { from: "k1".into(), to: "list".into(), expire: None },
        Write::IndexTrim { index: "list".into(), below: 1 },
    ];
    for (place, bad) in bad_writes.into_iter().enumerate() {
        let (before, after) = (format!("before{place}"), format!("after{place}"));
        let bad_key = format!("bad{place}");
        let units = vec![
            unit([absent(&before)], [put(&before, 1, "a")]),
            unit([], [put(&bad_key, 1, "a"), count("sum", 1), bad]),
            unit([absent(&after)], [put(&after, 1, "a")]),
        ];
        let other = server.store.commit(CommitClass::Advance, vec![unit([], [put("fine", 1, "a")])]);
        let (refused, other) = tokio::join!(server.store.commit(CommitClass::Advance, units), other);
        let Err(StoreError::Refused { detail }) = refused else { panic!("not refused: {refused:?}") };
        assert!(detail.contains("unit 1") && detail.contains("WRONGTYPE"), "{detail}");
        assert_eq!(other, Ok(vec![APPLIED]));
        let there = server.store.read(vec![before, bad_key, after]).await.expect("read");
        assert_eq!(there.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true]);
    }
    assert_eq!(server.say("EXISTS sum"), ":0\r\n");
    assert_eq!(server.say("TYPE list"), "+list\r\n");
}

#[tokio::test]
async fn one_new_key_cannot_be_two_things_in_a_unit() {
    let server = Server::start().await;
    for writes in [[add("x", "m", 1), append("x", "a")], [put("x", 1, "a"), add("x", "m", 1)], [count("x", 1), append("x", "a")]]
    {
        let refused = server.store.commit(CommitClass::Advance, vec![unit([], writes)]).await;
        assert!(matches!(refused, Err(StoreError::Refused { .. })), "{refused:?}");
        assert_eq!(server.say("EXISTS x"), ":0\r\n");
    }
    // In two units it can, once it is gone.
    let remove = Write::IndexRemove { index: "x".into(), member: "m".into() };
    let units = vec![unit([], [add("x", "m", 1)]), unit([], [remove]), unit([], [append("x", "a")])];
    let answers = server.store.commit(CommitClass::Advance, units).await.expect("answered");
    assert!(matches!(answers[2], Answer::Applied { appended: Some(_) }));
}

/// Many callers at once: each gets exactly its own answers, and a caller's units stay in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grouped_callers_get_their_own_answers() {
    let server = Server::start().await;
    let callers: Vec<_> = (0..50)
        .map(|caller| {
            let store = server.store.clone();
            tokio::spawn(async move { advance_alone(&store, &format!("k{caller}")).await })
        })
        .collect();
    for caller in callers {
        caller.await.expect("the caller's own answers");
    }
}

async fn advance_alone(store: &Store, key: &str) {
    for round in 0..20_u64 {
        let good = Unit { guards: vec![], ..unit([], [put(key, 2 * round + 1, "a")]) };
        let next = unit([revision(key, 2 * round + 1)], [put(key, 2 * round + 2, "b")]);
        let bad = unit([revision(key, 99_999)], [put(key, 100_000, "b")]);
        let answers = store.commit(CommitClass::Advance, vec![good, bad, next]).await;
        assert_eq!(answers, Ok(vec![APPLIED, Answer::Conflict { guard: 0 }, APPLIED]));
        let read = store.read(vec![key.to_owned(), format!("{key}:none")]).await.expect("read");
        assert_eq!(read[0].as_ref().map(|record| record.revision), Some(2 * round + 2));
        assert_eq!(read[1], None);
    }
}

#[tokio::test]
async fn more_records_than_one_call_reads_come_in_order() {
    let server = Server::start().await;
    for batch in 0..5 {
        let units: Vec<Unit> = (0..250).map(|place| unit([], [put(&format!("k{}", batch * 250 + place), 1, "a")])).collect();
        server.store.commit(CommitClass::Admit, units).await.expect("answered");
    }
    let keys: Vec<_> = (0..2500).map(|place| format!("k{place}")).collect();
    let records = server.store.read(keys).await.expect("read");
    assert_eq!(records.iter().position(Option::is_none), Some(1250));
    assert!(records[1250..].iter().all(Option::is_none));
}

#[tokio::test]
async fn what_is_no_record_is_told_by_name() {
    let server = Server::start().await;
    server.say("SET short x");
    let corrupt = server.store.read(vec!["short".into()]).await;
    assert!(matches!(corrupt, Err(StoreError::Corrupt { ref key, .. }) if key == "short"), "{corrupt:?}");
}

#[tokio::test]
async fn a_second_store_finds_the_library_and_the_records() {
    let server = Server::start().await;
    assert_eq!(server.commit(unit([], [put("k", 1, "a")])).await, APPLIED);
    let loads = server.say("INFO commandstats").matches("function|load").count();
    let second = Store::connect(StoreConfig::new(server.redis.url())).await.expect("a second store");
    assert_eq!(server.say("INFO commandstats").matches("function|load").count(), loads);
    assert!(second.read(vec!["k".into()]).await.expect("read")[0].is_some());
}

#[tokio::test]
async fn keys_are_found_by_what_they_begin_with() {
    let server = Server::start().await;
    let record = |key: String| Write::Put { key, revision: 1, value: Bytes::new(), expire: None };
    let mut expected: Vec<String> = (0..3_000).map(|n| format!("job:meta:run:map[{n}]@1")).collect();
    for keys in expected.chunks(50) {
        assert_eq!(server.commit(unit([], keys.iter().cloned().map(record))).await, APPLIED);
    }
    assert_eq!(server.commit(unit([], [record("job:holds".into()), add("job:live", "a", 1)])).await, APPLIED);
    let mut found = with_prefix(&server.store, "job:meta:").await;
    found.sort();
    found.dedup();
    expected.sort();
    assert!(found == expected, "{} of {}", found.len(), expected.len());
    assert!(with_prefix(&server.store, "nothing:").await.is_empty());
}

async fn with_prefix(store: &Store, prefix: &str) -> Vec<String> {
    let (mut found, mut cursor) = (Vec::new(), 0);
    loop {
        let (keys, next) = store.keys_with(prefix, cursor).await.expect("a page");
        found.extend(keys);
        if next == 0 {
            return found;
        }
        cursor = next;
    }
}

#[tokio::test]
async fn thousands_of_records_and_entries_are_read_at_once() {
    const MANY: usize = 5_000;
    let server = Server::start().await;
    let key = |n: usize| format!("k{n:04}");
    let write = |n: usize| unit([], [put(&key(n), 1, "v"), add("z", &key(n), i64::try_from(n).expect("small"))]);
    // Every third one is not there.
    let units: Vec<Unit> = (0..MANY).filter(|n| n % 3 > 0).map(write).collect();
    let count = units.len();
    for units in units.chunks(busbar_protocol::ports::UNITS_MAX) {
        server.store.commit(CommitClass::Advance, units.to_vec()).await.expect("committed");
    }
    let records = server.store.read((0..MANY).map(key).collect()).await.expect("read");
    let there: Vec<bool> = records.iter().map(Option::is_some).collect();
    assert_eq!(there, (0..MANY).map(|n| n % 3 > 0).collect::<Vec<_>>());
    let entries = members(&server, IndexRange { limit: 10_000, ..ALL }).await;
    assert_eq!(entries.len(), count);
    assert_eq!(entries.last(), Some(&(key(MANY - 1), i64::try_from(MANY - 1).expect("small"))));
    assert_eq!(server.store.read(vec![]).await, Ok(vec![]));
}

/// What a client of a later version might send.
#[tokio::test]
async fn a_unit_with_an_unknown_operation_is_refused_and_harms_no_other() {
    let server = Server::start().await;
    let (strange, known) = (r#""\x00\x01\x00\x00?\x00\x01""#, r#""\x00\x02\x00\x00n\x00\x01\x00\x02""#);
    let id = "i".repeat(16);
    let answer = server.say(&format!("FCALL busbar_v2_advance 0 0 2 {strange} {id} a {known} {id} sum 3"));
    assert!(answer.starts_with("*2\r\n") && answer.contains("!ERR unknown operation"), "{answer}");
    assert_eq!(server.say("GET sum"), "$1\r\n3\r\n");
}

#[tokio::test]
async fn units_are_of_more_kinds_than_redis_keeps_plans_of() {
    let server = Server::start().await;
    let write = |kind: usize, place: usize| match kind >> place & 1 {
        0 => Write::Persist { key: format!("k{place}") },
        _ => add("z", &format!("{kind}"), i64::try_from(place).expect("small")),
    };
    for first in (0..2048).step_by(256) {
        let of_kind = |kind| unit([], (0..11).map(|place| write(kind, place)));
        let answers = server.store.commit(CommitClass::Advance, (first..first + 256).map(of_kind).collect::<Vec<_>>()).await;
        assert_eq!(answers, Ok(vec![APPLIED; 256]));
    }
    assert_eq!(server.store.index_len("z").await, Ok(2047));
}

#[tokio::test]
async fn what_is_gathered_is_written_however_much_it_is() {
    const UNITS: i64 = 256;
    const EACH: i64 = 24;
    let server = Server::start().await;
    let payload = |key: String| Write::PutPayload { value: key.clone().into(), key, expire: None };
    let adds = |n: i64| {
        let mine = move |k| format!("{n}-{k}");
        unit([], (0..EACH).flat_map(move |k| [payload(format!("p{}", mine(k))), add("z", &mine(k), n * EACH + k)]))
    };
    let removes = |n: i64| {
        let each = (0..EACH).map(move |k| Write::IndexRemove { index: "z".into(), member: format!("{n}-{k}") });
        unit([], each.chain([add("z", &format!("{n}-last"), n)]))
    };
    let added = server.store.commit(CommitClass::Advance, (0..UNITS).map(adds).collect::<Vec<_>>()).await;
    assert_eq!(added, Ok(vec![APPLIED; 256]));
    assert_eq!(server.store.index_len("z").await, Ok((UNITS * EACH).unsigned_abs()));
    for key in ["p0-0", "p128-11", "p255-23"] {
        assert_eq!(server.store.payloads(vec![key.into()]).await, Ok(vec![Some(key.into())]));
    }
    let removed = server.store.commit(CommitClass::Advance, (0..UNITS).map(removes).collect::<Vec<_>>()).await;
    assert_eq!(removed, Ok(vec![APPLIED; 256]));
    assert_eq!(server.store.index_len("z").await, Ok(UNITS.unsigned_abs()));
}

#[tokio::test]
async fn a_log_is_cut_once_a_call() {
    let server = Server::start().await;
    let append = |keep| Write::Append { log: "l".into(), value: "x".into(), keep };
    for _ in 0..20 {
        let units: Vec<Unit> = (0..100).map(|_| unit([], [append(300)])).collect();
        server.store.commit(CommitClass::Advance, units).await.expect("applied");
    }
    let kept: usize = server.say("XLEN l").trim().trim_start_matches(':').parse().expect("a number");
    // Redis cuts off whole nodes of a hundred entries, and a call appends a hundred after it has cut.
    assert!((300..600).contains(&kept), "{kept} entries");
}

/// An index that loses its last member is gone, so that its name is free, for whatever a later unit of the call makes of it.
#[tokio::test]
async fn a_record_may_stand_where_an_index_has_vanished() {
    let server = Server::start().await;
    let remove = Write::IndexRemove { index: "k".into(), member: "m".into() };
    let units = vec![
        unit([], [add("k", "m", 1)]),
        unit([], [remove]),
        unit([absent("k")], [put("k", 1, "record")]),
        unit([], [add("k", "m", 2)]),
    ];
    let refused = server.store.commit(CommitClass::Advance, units).await.expect_err("the last one is refused");
    assert!(matches!(&refused, StoreError::Refused { detail } if detail.starts_with("unit 3: WRONGTYPE")), "{refused:?}");
    let stored = server.store.read(vec!["k".into()]).await.expect("read").remove(0).expect("a record");
    assert_eq!((stored.revision, &stored.value[..]), (1, &b"record"[..]));
}
