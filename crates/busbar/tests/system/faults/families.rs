//! A parent that is cancelled with very many children.

use busbar_api::CancelReply;
use busbar_protocol::busbar::JobState;
use busbar_protocol::cap::JobRequest;
use serde_json::json;

use super::rest;
use crate::support::{Breaker, Dev, DevOptions, Executions, Truth, WORK, Wire, chaos_pack, item_of, saying, size, until};

const SLOTS: u32 = 8;
const BATCH: usize = 256;

#[test]
fn a_cancelled_parent_takes_its_children_along() {
    let dev = Dev::start_with(DevOptions { packs: vec![chaos_pack()], ..DevOptions::default() });
    let file = dev.temp().join("executions");
    let _breaker = Breaker::start(&dev.endpoints, dev.temp(), "breaker", SLOTS, &file, &[]);
    let (client, wire) = (dev.client(), Wire::connect(&dev.endpoints.nats));
    client.until_online("breaker", SLOTS);
    let truth = Truth::connect(&dev.endpoints.redis);
    let parent = client.submit(WORK, &json!({"ms": 600_000}));
    let mut children = Vec::new();
    while children.len() < size(2_000, 100_000) {
        let answers = admit(&truth, &wire, &vec![parent.clone(); BATCH]);
        children.extend(answers.into_iter().map(|answer| answer.expect("admitted")));
        truth.look();
    }
    let grandchildren = admit(&truth, &wire, &children[..10]).into_iter().map(|answer| answer.expect("admitted"));
    let acknowledged: Vec<String> = [parent.clone()].into_iter().chain(children.iter().cloned()).chain(grandchildren).collect();
    until("every slot is taken", || (Executions::read(&file).open == SLOTS).then_some(()));

    let _: CancelReply = client.post_raw(&format!("/api/v1/jobs/{parent}/cancel"), b"").of(200);
    for (id, states) in rest(&client, &truth, &acknowledged) {
        assert_eq!(states, [JobState::Cancelled], "{id}");
    }
    // Children are cancelled in pages: a few may begin meanwhile, which are told to stop as well.
    eprintln!("{} of {} jobs had begun", Executions::read(&file).count(), acknowledged.len());
    assert_eq!(admit(&truth, &wire, &[parent]), [Err("parent_cancelled".to_owned())]);
}

/// Submits a long job below each of these parents.
fn admit(truth: &Truth, wire: &Wire, parents: &[String]) -> Vec<Result<String, String>> {
    let child = |parent: &String| {
        let below = JobRequest { parent_job_id: parent.clone(), ..JobRequest::default() };
        saying(item_of(truth, WORK, &json!({"ms": 600_000})), &below)
    };
    let answers = wire.admit(parents.iter().map(child).collect());
    answers.into_iter().map(|answer| answer.map(|admitted| admitted.job_id)).collect()
}
