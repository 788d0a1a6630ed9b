//! Ready means that somebody outside has seen it: the gateway says so over HTTP, and an active
//! scheduler has heard of the workers.

use std::collections::BTreeSet;
use std::time::Duration;

use busbar_protocol::busbar::{WorkersReply, WorkersRequest};
use busbar_protocol::ports::{Bus as _, Headers};
use busbar_protocol::prost::Message as _;
use busbar_protocol::subjects;
use tokio::time::{Instant, sleep};

use super::error::DevError;
use super::workers::Workers;
use crate::probe::{ProbeUrl, probe};
use crate::roles::World;

/// How long it may take. Redis may have much to load, but it was ready before the roles were started.
const WITHIN: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);
const ONE_ANSWER: Duration = Duration::from_secs(2);

/// Waits until the gateway is ready and every worker is online.
pub(crate) async fn wait(readyz: &ProbeUrl, workers: &Workers, world: &World) -> Result<(), DevError> {
    let deadline = Instant::now() + WITHIN;
    let seconds = WITHIN.as_secs();
    while let Err(error) = probe(readyz).await {
        if Instant::now() > deadline {
            return Err(DevError::NotReady { seconds, said: error.to_string() });
        }
        sleep(PAUSE).await;
    }
    loop {
        let online = online(world).await;
        let missing = online.as_ref().map(|online| missing(workers, online));
        if missing.as_ref().is_some_and(Vec::is_empty) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(match missing {
                Some(missing) => DevError::WorkersAway { seconds, missing: missing.join(", "), logs: workers.logs().to_owned() },
                None => DevError::NotReady { seconds, said: "no scheduler answers".to_owned() },
            });
        }
        sleep(PAUSE).await;
    }
}

/// Who is online, if an active scheduler answers.
async fn online(world: &World) -> Option<BTreeSet<String>> {
    let question = WorkersRequest {}.encode_to_vec().into();
    let answer = world.bus.request(subjects::SCHEDULER_WORKERS, Headers::new(), question, ONE_ANSWER).await;
    let reply = WorkersReply::decode(answer.ok()?.payload).ok()?;
    reply.scheduler.filter(|_| reply.problem.is_none())?;
    Some(reply.workers.into_iter().filter(|worker| worker.status == "online").map(|worker| worker.worker_id).collect())
}

fn missing(workers: &Workers, online: &BTreeSet<String>) -> Vec<String> {
    workers.ids().iter().filter(|id| !online.contains(*id)).cloned().collect()
}
