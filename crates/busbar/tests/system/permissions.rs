//! The roles and a worker with the permissions on the bus that ship: nobody lacks what it needs.

use busbar_api::JobState;
use busbar_servers::Stack;
use serde_json::{Value, json};

use crate::support::{Endpoints, Executions, Guarded, Roles, SLEEP, Sleeper, until};

#[test]
fn everything_works_with_the_permissions_that_ship() {
    let guarded = Guarded::start();
    let user = |role: &str| guarded.url(if role == "safety-kernel" { "kernel" } else { role });
    let roles = Roles::start_on(Stack::start_temp().unwrap(), &user, 2, 1, &[]);
    let client = roles.client();
    let file = roles.dir().join("executions");
    let worker_at = Endpoints { nats: guarded.url("worker-1"), ..roles.at[0].clone() };
    let _worker = Sleeper::start_at(&worker_at, roles.dir(), "worker-1", 4, &file);

    let jobs = client.submit_sleeps((0..40).map(|n| n % 7));
    for job in &jobs {
        assert_eq!(client.wait(job).state, JobState::Succeeded);
    }
    assert_eq!(Executions::read(&file).count(), 40);

    let slow = client.submit(SLEEP, &json!({"ms": 10_000}));
    until("it runs", || Executions::read(&file).starts.contains_key(&slow).then_some(()));
    let cancelled: Value = client.post(&format!("/api/v1/jobs/{slow}/cancel"), &json!({})).of(200);
    assert_eq!(client.wait(&slow).state, JobState::Cancelled, "{cancelled}");
    assert_eq!(client.post("/api/v1/workers/worker-1/drain", &json!({})).status, 200);
}
