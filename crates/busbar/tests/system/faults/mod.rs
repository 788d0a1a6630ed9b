//! Faults on real servers, each with its promise: docs/testing.md lists them all, also those that are proved elsewhere.
//!
//! What is counted is asserted; times are printed at most. `tools/chaos NAME` runs a test at its full size.

mod bus;
mod cancels;
mod disk;
mod drains;
mod families;
mod herd;
mod in_doubt;
mod poison;
mod queue;
mod quorum;
mod random;
mod scheduler;
mod servers;
mod submissions;
mod tenants;
mod workers;

use std::path::Path;

use busbar_protocol::busbar::JobState;
use busbar_protocol::keys;

use crate::support::{Client, Ends, Executions, Truth, until};

/// Waits until every acknowledged job has ended and nothing is under way, and holds the cell to its promises: each job has one
/// end, nothing ended that nobody submitted, every slot is free, and all of the log was told. Gives the ends.
fn rest(client: &Client, truth: &Truth, acknowledged: &[String]) -> Ends {
    until("the scheduler has no live job", || {
        truth.look()?;
        (client.live_jobs()? == 0).then_some(())
    });
    let ends = until("every acknowledged job has ended", || {
        let ends = truth.ends()?;
        acknowledged.iter().all(|id| ends.contains_key(id)).then_some(ends)
    });
    until("every slot is free", || {
        let workers = client.try_get("/api/v1/workers").ok().filter(|answer| answer.status == 200)?;
        let workers: busbar_api::WorkerList = workers.of(200);
        workers.items.iter().all(|worker| worker.in_flight == 0).then_some(())
    });
    until("all of the log is told", || (truth.record(keys::LOG_JOBS_RELAYED)? == truth.end()?).then_some(()));
    assert_eq!(truth.ends().expect("the store is there"), ends, "something ended after its end");
    for (id, states) in &ends {
        assert_eq!(states.len(), 1, "{id} ended as {states:?}");
    }
    assert_eq!(ends.len(), acknowledged.len(), "there are jobs that nobody submitted");
    ends
}

/// As [`rest`], where nothing but success will do.
fn rest_with_success(client: &Client, truth: &Truth, acknowledged: &[String]) {
    for (id, states) in rest(client, truth, acknowledged) {
        assert_eq!(states, [JobState::Succeeded], "{id}");
    }
}

/// How many executions there were beyond the first of each job; every job was executed.
fn extra_executions(file: &Path, jobs: &[String]) -> u32 {
    let executions = Executions::read(file);
    for id in jobs {
        assert!(executions.starts.contains_key(id), "{id} succeeded and was never executed");
    }
    executions.count() - u32::try_from(jobs.len()).unwrap()
}
