//! Runs that outlive their engine, and large ones.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;

use busbar_protocol::busbar::{EngineStatus, EngineStatusRequest, Items, StepState};
use busbar_protocol::ports::{IndexRange, Records as _};
use busbar_protocol::{keys, subjects};
use serde_json::json;

use crate::rig::{Rig, map_reduce, until};

#[tokio::test(flavor = "multi_thread")]
async fn another_replica_goes_on_between_map_and_reduce() {
    let rig = Rig::start().await;
    let first = rig.engine("first").await;
    let before = rig.active("first").await.epoch;
    rig.define(&map_reduce()).await;
    rig.desk.hold("job.sum");
    let run = rig.start_run("doubled", &json!({"numbers": [1, 2, 3, 4]})).await;
    until("the sum is out", async || (rig.desk.held().len() == 1).then_some(())).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    // Nobody hears of this end.
    rig.desk.release(false).await;

    let _second = rig.engine("second").await;
    assert_eq!(rig.output(&run).await, json!(20));
    assert!(rig.active("second").await.epoch > before);
    let asked: Vec<String> = rig.desk.asked().into_iter().map(|request| request.job_id).collect();
    assert_eq!(asked.iter().collect::<BTreeSet<_>>().len(), 5, "no job but the five: {asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_replica_submits_what_was_committed_and_never_sent() {
    let rig = Rig::start().await;
    let mut replicas = [rig.engine("first").await, rig.engine("second").await];
    rig.define(&map_reduce()).await;
    rig.desk.hold("job.double");
    let run = rig.start_run("doubled", &json!({"numbers": (0..100).collect::<Vec<i64>>()})).await;
    until("jobs are out", async || (!rig.desk.held().is_empty()).then_some(())).await;
    let status: EngineStatus = rig.ask(subjects::ENGINE_STATUS, &EngineStatusRequest {}).await;
    let (active, standby) = if status.owner == "first" { (0, "second") } else { (1, "first") };
    replicas[active].abort();
    assert!((&mut replicas[active]).await.unwrap_err().is_cancelled());
    rig.desk.release(false).await;
    assert_eq!(rig.output(&run).await, json!(9_900));
    until("it knows of no live run", async || (rig.active(standby).await.live_runs == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_of_a_thousand_items_ends_and_expires_as_a_whole() {
    let rig = Rig::start().await;
    let _engine = rig.engine("a").await;
    rig.define(&map_reduce()).await;
    let run = rig.start_run("doubled", &json!({"numbers": (0..1_000).collect::<Vec<i64>>()})).await;
    assert_eq!(rig.output(&run).await, json!(999_000));
    let map = rig.step(&run, "map").await.unwrap();
    assert_eq!(map.state(), StepState::Succeeded);
    assert_eq!(map.items, Some(Items { total: 1_000, next: 1_000, succeeded: 1_000, failed: 0 }));

    let all = IndexRange { min: i64::MIN, max: i64::MAX, newest_first: false, offset: 0, limit: 10 };
    let retired = async || rig.store.index(keys::INDEX_RETIRING, all.clone()).await.unwrap().is_empty().then_some(());
    until("its items are made to expire", retired).await;
    let of_run = [keys::run(&run), keys::run_input(&run), keys::run_output(&run), keys::run_timeline(&run)];
    let of_map = [keys::step(&run, "map"), keys::step_items(&run, "map"), keys::step_output(&run, "reduce")];
    let of_items = (0..1_000).flat_map(|item| [keys::step_item(&run, "map", item), keys::item_output(&run, "map", item)]);
    for key in of_run.into_iter().chain(of_map).chain(of_items) {
        let left = rig.expires_in(&key);
        assert!(left > 6 * 24 * 3600, "{key} has {left} s");
    }
}
