//! Work for those whom nobody trusts: results are checked by the pack's verifier on a trusted worker, and compared.

use std::path::PathBuf;

use busbar_api::{JobState, JobView, Judgement};
use serde_json::json;

use crate::support::{Breaker, Dev, DevOptions, Process, shipped_pack, until};

const VOLUNTEERS: &str = "job.bpsw.volunteers";
const JOBS: u64 = 8;

#[test]
fn lies_are_seen_and_what_honest_workers_say_is_believed() {
    let dev = Dev::start_with(DevOptions { workers: 1, packs: vec![shipped_pack("bpsw")], ..DevOptions::default() });
    let client = dev.client();
    let volunteer = |id: &str| {
        let args = ["--blobs", &dev.endpoints.blobs, "--id", id, "--max-parallel", "2", "--pool", "volunteers"];
        Process::join(&dev, "worker", &args)
    };
    let _honest = ["ada", "bea"].map(volunteer);
    let file: PathBuf = dev.temp().join("executions");
    let lies = ["--lies", "--pool", "volunteers", "--capability", "wasm"];
    let _liar = Breaker::start(&dev.endpoints, dev.temp(), "liar", 2, &file, &lies);
    ["ada", "bea", "liar"].iter().for_each(|id| client.until_online(id, 2));

    let input = |part: u64| {
        let (from, to) = (1 + part * 20_000, (part + 1) * 20_000);
        json!({"task_type": "main_odds", "from": from.to_string(), "to": to.to_string(), "mode": "hunt"})
    };
    let jobs = client.submit_all((0..JOBS).map(|part| (VOLUNTEERS, input(part))));
    let trusted = client.submit_all((0..JOBS).map(|part| ("job.bpsw.main_odds", input(part))));
    let mut found = 0;
    for (id, trusted) in jobs.iter().zip(&trusted) {
        let view: JobView = client.wait(id);
        assert_eq!(view.state, JobState::Succeeded, "{view:?}");
        assert_eq!(client.result(id), client.result(trusted), "{id}");
        for vote in view.votes.iter().filter(|vote| vote.worker_id.as_deref() == Some("liar") && vote.sha256.is_some()) {
            assert_eq!((vote.judgement, vote.agrees), (Some(Judgement::Wrong), false), "{view:?}");
            found += 1;
        }
    }
    assert!(found > 0, "the liar was never asked");
    until("nothing is live", || (client.live_jobs()? == 0).then_some(()));

    let workers = client.workers().items;
    let pool_of = |id: &str| workers.iter().find(|worker| worker.id == id).map(|worker| worker.pool.as_str());
    let checks = client.list("&topic=job.bpsw.check&state=SUCCEEDED");
    assert!(checks.len() >= jobs.len() * 2, "{} checks", checks.len());
    assert!(checks.iter().all(|check| check.worker_id.as_deref().and_then(pool_of) == Some("trusted")), "{checks:?}");
    assert!(client.get("/api/v1/dlq").of::<serde_json::Value>(200)["items"].as_array().is_some_and(Vec::is_empty));
}
