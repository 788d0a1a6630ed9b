//! Workers that lie where two must agree, while schedulers and workers are killed.

use std::collections::{BTreeMap, BTreeSet};

use busbar_api::{ExplainView, JobState, JobView};
use busbar_protocol::keys;
use serde_json::json;

use crate::support::{Breaker, Executions, Roles, Truth, chaos_pack, kill9, size, until};

const AGREED: &str = "job.chaos.agreed";
const SLOTS: u32 = 4;

/// Every job has its one right result, and nobody spoke twice for it.
#[test]
fn liars_are_outvoted_while_schedulers_and_workers_die() {
    let roles = Roles::start(2, 1, &[chaos_pack()]);
    let file = roles.dir().join("executions");
    let start = |id: &str, more: &[&str]| Breaker::start(&roles.at[0], roles.dir(), id, SLOTS, &file, more);
    let mut honest: Vec<Breaker> = ["one", "two", "three"].iter().map(|id| start(id, &[])).collect();
    let _liar = start("liar", &["--lies"]);
    let client = roles.client();
    ["one", "two", "three", "liar"].iter().for_each(|id| client.until_online(id, SLOTS));

    let count = size(80, 2_000);
    let jobs = client.submit_all((0..count).map(|n| (AGREED, json!({"ms": 20 + n % 50}))));
    let executed = |least: usize| {
        until("the work goes on", || (Executions::read(&file).count() as usize > least).then_some(()));
    };
    executed(count / 2);
    let active = until("an active one", || client.status().scheduler);
    kill9(roles.schedulers[roles.place_of(&active.owner)].pid());
    executed(count);
    honest[0].kill9();
    honest[0] = start("one", &[]);

    let (mut lies, mut replicas) = (0, 0);
    for (n, id) in jobs.iter().enumerate() {
        let view: JobView = client.wait(id);
        assert_eq!(view.state, JobState::Succeeded, "{view:?}");
        assert_eq!(client.result(id), json!({"slept": 20 + n % 50}), "{id}");
        assert!(view.result_ptr.as_deref().is_some_and(|at| at == format!("redis://res:{id}:1")), "{view:?}");
        let owners: Vec<&String> =
            view.votes.iter().filter(|vote| vote.sha256.is_some()).filter_map(|vote| vote.owner.as_ref()).collect();
        assert_eq!(owners.len(), owners.iter().collect::<BTreeSet<_>>().len(), "an owner spoke twice: {view:?}");
        assert!(view.votes.iter().filter(|vote| vote.agrees).count() >= 2, "{view:?}");
        let lied = |vote: &&busbar_api::VoteView| vote.worker_id.as_deref() == Some("liar") && vote.sha256.is_some();
        for vote in view.votes.iter().filter(lied) {
            assert!(!vote.agrees, "{view:?}");
            lies += 1;
        }
        replicas += view.votes.len();
    }
    assert!(lies > 0, "the liar was never asked for any of {replicas} replicas");
    at_rest(&roles.truth(), &client, &jobs);
}

/// One job more than workers that could agree: it waits, says so, and can be cancelled with all that is out of it.
#[test]
fn a_job_without_enough_owners_waits_and_says_so() {
    let roles = Roles::start(1, 1, &[chaos_pack()]);
    let file = roles.dir().join("executions");
    let _only = Breaker::start(&roles.at[0], roles.dir(), "only", SLOTS, &file, &[]);
    let client = roles.client();
    client.until_online("only", SLOTS);
    let id = client.submit(AGREED, &json!({"ms": 1}));
    let explain = |id: &str| client.get(&format!("/api/v1/jobs/{id}/explain")).of::<ExplainView>(200);
    let told = until("one replica has spoken", || Some(explain(&id)).filter(|told| told.summary.contains("said")));
    assert!(told.summary.contains("with only: said") && told.summary.contains("with nobody yet: awaited"), "{}", told.summary);
    let waiting = client.list(&format!("&topic={AGREED}&state=SCHEDULED"));
    let [waiting] = &waiting[..] else { panic!("one replica waits: {waiting:?}") };
    assert_eq!(waiting.parent_job_id.as_deref(), Some(id.as_str()));
    let told = explain(&waiting.id);
    assert!(told.summary.contains("none of 1 known workers may have it now"), "{}", told.summary);
    assert_eq!(client.post(&format!("/api/v1/jobs/{id}/cancel"), &json!({})).status, 200);
    assert_eq!(client.wait(&id).state, JobState::Cancelled);
    assert_eq!(client.wait(&waiting.id).state, JobState::Cancelled);
    assert_eq!(Executions::read(&file).count(), 1);
}

/// All is over, each end is the only one, and only the jobs themselves left dead letters, which is none.
fn at_rest(truth: &Truth, client: &crate::support::Client, jobs: &[String]) {
    until("nothing is live", || (client.live_jobs()? == 0).then_some(()));
    let ends: BTreeMap<_, _> = until("the ends", || truth.ends());
    for (id, states) in &ends {
        assert_eq!(states.len(), 1, "{id} ended as {states:?}");
    }
    for id in jobs {
        assert!(ends.contains_key(id) && truth.record(&keys::dead_letter(id)).is_none(), "{id}");
    }
}
